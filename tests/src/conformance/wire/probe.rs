//! All flows of a step at once: a socket each, in its client's namespace.
//!
//! Nothing here is judged by a short time: an allowed flow may take as long as retransmissions do on a machine under
//! load; a denied one is believed once penstockd has named its drop and silence has lasted a moment beyond that.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt,
};
use policy_compiler::evaluate::ProbeProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::drops::{Drops, Key, Reason};
use super::echo;
use super::fabric::Fabric;
use crate::conformance::case::{Flow, Place};
use crate::traffic::{Outcome, fill};

/// Flows under way at once: a socket at each end, of the 1024 descriptors that a process has by default.
const AT_ONCE: usize = 240;
/// How long an allowed flow may take: TCP's first three retransmissions, after 1, 3 and 7 s.
const PATIENCE: Duration = Duration::from_secs(9);
/// How long a denied flow waits for the drop's event: three retransmissions as well.
const DENIAL: Duration = Duration::from_secs(8);
/// How long silence lasts at least, from the flow's beginning, and from the event on.
const SILENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(100));
/// After how long a datagram is sent again; TCP does so by itself.
const AGAIN: Duration = Duration::from_millis(400);
/// How often events are looked for.
const TICK: Duration = Duration::from_millis(10);
/// Bytes of a nonce.
const NONCE: usize = 32;
/// ICMP's header (RFC 792; RFC 4443).
const ICMP_HEADER: usize = 8;

/// Asks all flows; what met something else than it should is told in words.
///
/// # Errors
/// Where sockets cannot be made.
pub(super) fn ask(runtime: &Runtime, fabric: &Fabric, drops: &Drops, flows: &[&Flow]) -> Result<Vec<String>> {
    drops.forget();
    let mut failures = Vec::new();
    for flows in flows.chunks(AT_ONCE) {
        let asked = open(fabric, flows)?;
        let asked = runtime.block_on(async {
            let all = asked.into_iter().zip(flows).map(|(opened, flow)| judge(opened, flow, drops));
            futures::future::join_all(all).await
        });
        failures.extend(
            asked.into_iter().zip(flows).filter_map(|(said, flow)| Some(format!("{flow}: {}", said?))),
        );
    }
    Ok(failures)
}

/// A socket that has been connected, or is about to be.
struct Opened {
    socket: Result<Socket, Error>,
    key: Key,
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
    Icmp(UdpSocket),
}

/// Opens a socket for each flow, in their order, a namespace at a time.
fn open(fabric: &Fabric, flows: &[&Flow]) -> Result<Vec<Opened>> {
    let mut places = BTreeMap::<&Place, Vec<usize>>::new();
    for (index, flow) in flows.iter().enumerate() {
        places.entry(&flow.from.place).or_default().push(index);
    }
    let mut opened: Vec<Option<Opened>> = flows.iter().map(|_| None).collect();
    for (place, indices) in places {
        let wanted: Vec<(SocketAddr, SocketAddr, ProbeProtocol, u8)> = indices
            .iter()
            .map(|&index| {
                let flow = flows[index];
                ((flow.src, 0).into(), (flow.dst, flow.port).into(), flow.protocol, flow.number())
            })
            .collect();
        let sockets = fabric.namespace(place)?.run(move || {
            wanted
                .into_iter()
                .map(|(src, dst, protocol, number)| open_one(src, dst, protocol, number))
                .collect::<Vec<_>>()
        })?;
        for (index, socket) in indices.into_iter().zip(sockets) {
            opened[index] = Some(socket);
        }
    }
    opened.into_iter().collect::<Option<_>>().context("a flow without a socket")
}

fn open_one(src: SocketAddr, dst: SocketAddr, protocol: ProbeProtocol, number: u8) -> Opened {
    let mut key = Key { src: (src.ip(), 0), dst: (dst.ip(), dst.port()), protocol: number };
    let socket = connected(src, dst, protocol).and_then(|socket| {
        match &socket {
            Socket::Tcp(socket) => key.src.1 = socket.local_addr()?.port(),
            Socket::Udp(socket) => key.src.1 = socket.local_addr()?.port(),
            // icmp(7): a ping socket's port is its identifier.
            Socket::Icmp(socket) => {
                let identifier = socket.local_addr()?.port();
                (key.src.1, key.dst.1) = (identifier, identifier);
            }
        }
        Ok(socket)
    });
    Opened { socket, key }
}

/// From exactly that address, which a node with several would not choose by itself.
fn connected(src: SocketAddr, dst: SocketAddr, protocol: ProbeProtocol) -> Result<Socket, Error> {
    let v4 = dst.is_ipv4();
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (kind, named) = match (protocol, v4) {
        (ProbeProtocol::Tcp, _) => (SockType::Stream, None),
        (ProbeProtocol::Icmp, true) => (SockType::Datagram, Some(SockProtocol::Icmp)),
        (ProbeProtocol::Icmp, false) => (SockType::Datagram, Some(SockProtocol::IcmpV6)),
        (ProbeProtocol::Udp, _) => (SockType::Datagram, None),
        (ProbeProtocol::Sctp, _) => return Err(Error::from(ErrorKind::Unsupported)),
    };
    let fd: OwnedFd = socket(family, kind, flags, named)?;
    // Every ICMP error that quotes us is wanted, also those the kernel takes for passing.
    if v4 {
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
    }
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    bind(raw, &SockaddrStorage::from(src))?;
    match connect(raw, &SockaddrStorage::from(dst)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(match protocol {
        ProbeProtocol::Tcp => Socket::Tcp(fd.into()),
        ProbeProtocol::Icmp => Socket::Icmp(fd.into()),
        _ => Socket::Udp(fd.into()),
    })
}

/// What is wrong with what a flow has met; `None` where nothing is.
async fn judge(opened: Opened, flow: &Flow, drops: &Drops) -> Option<String> {
    let key = opened.key;
    let socket = match opened.socket {
        Ok(socket) => socket,
        Err(error) => return Some(format!("no socket: {error}")),
    };
    let exchange = exchange(socket, flow);
    tokio::pin!(exchange);
    if flow.allowed {
        tokio::select! {
            met = &mut exchange => match met {
                Ok(()) => None,
                Err(error) => Some(format!("wanted allow, {}", told(&error, drops.reason(&key)))),
            },
            reason = denied(drops, &key, PATIENCE) => Some(match reason {
                Some(reason) if reason.is_policy() => format!("wanted allow, dropped as {}", words(&reason)),
                reason => format!("wanted allow, no answer within {} s{}", PATIENCE.as_secs(), but(reason)),
            }),
        }
    } else {
        tokio::select! {
            met = &mut exchange => Some(match met {
                Ok(()) => "wanted deny, answered".to_owned(),
                Err(error) => format!("wanted deny, which is silence; {}", told(&error, drops.reason(&key))),
            }),
            reason = denied(drops, &key, DENIAL) => match reason {
                Some(reason) if reason.is_policy() => None,
                reason => Some(format!("wanted deny, and silence it was, but not by policy{}", but(reason))),
            },
        }
    }
}

/// Waits until the flow has been dropped by policy and nothing has come for a moment; or for as long as `patience`
/// lasts, and then for whatever reason it was.
async fn denied(drops: &Drops, key: &Key, patience: Duration) -> Option<Reason> {
    let begin = Instant::now();
    loop {
        let reason = drops.reason(key);
        if reason.as_ref().is_some_and(Reason::is_policy) {
            let rest = SILENCE.0.saturating_sub(begin.elapsed()).max(SILENCE.1);
            tokio::time::sleep(rest).await;
            return reason;
        }
        if begin.elapsed() >= patience {
            return reason;
        }
        tokio::time::sleep(TICK).await;
    }
}

fn told(error: &Error, reason: Option<Reason>) -> String {
    let outcome = match Outcome::of(error) {
        Outcome::Silent => "no answer".to_owned(),
        Outcome::Refused => "refused (TCP RST or ICMP port unreachable)".to_owned(),
        Outcome::Unreachable => format!("an ICMP error: {error}"),
        other => other.to_string(),
    };
    outcome + &but(reason)
}

fn but(reason: Option<Reason>) -> String {
    reason.map_or_else(
        || "; penstockd names no drop".to_owned(),
        |reason| format!("; dropped as {}", words(&reason)),
    )
}

fn words(reason: &Reason) -> String {
    if reason.rule.is_empty() { reason.name.clone() } else { format!("{} ({})", reason.name, reason.rule) }
}

/// A nonce there and back.
async fn exchange(socket: Socket, flow: &Flow) -> Result<(), Error> {
    let mut nonce = [0_u8; NONCE];
    fill(&mut seed(flow), &mut nonce);
    let wanted = echo::answer(&flow.to.place.to_string(), &nonce);
    match socket {
        Socket::Tcp(stream) => tcp(stream, &nonce, &wanted).await,
        Socket::Udp(socket) => datagrams(socket, &nonce, |reply| reply == wanted).await,
        Socket::Icmp(socket) => {
            let (request, reply) = if flow.dst.is_ipv4() { (8, 0) } else { (128, 129) };
            // The kernel fills in checksum and identifier.
            let mut message = [0_u8; ICMP_HEADER + NONCE];
            message[0] = request;
            message[ICMP_HEADER..].copy_from_slice(&nonce);
            let is_reply =
                |got: &[u8]| got.first() == Some(&reply) && got.get(ICMP_HEADER..) == Some(&nonce[..]);
            datagrams(socket, &message, is_reply).await
        }
    }
}

async fn tcp(stream: TcpStream, nonce: &[u8], wanted: &[u8]) -> Result<(), Error> {
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.write_all(nonce).await?;
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).await?;
    if got == wanted { Ok(()) } else { Err(stranger(&got)) }
}

/// Sends a datagram, again and again, until the reply to it comes.
async fn datagrams(socket: UdpSocket, message: &[u8], is_reply: impl Fn(&[u8]) -> bool) -> Result<(), Error> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = [0_u8; 2 * 1024];
    loop {
        socket.send(message).await?;
        if let Ok(length) = tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            let reply = &buffer[..length?];
            return if is_reply(reply) { Ok(()) } else { Err(stranger(reply)) };
        }
    }
}

fn stranger(got: &[u8]) -> Error {
    let begin = got.get(..40).unwrap_or(got);
    Error::new(ErrorKind::InvalidData, format!("another answer: {:?}", String::from_utf8_lossy(begin)))
}

/// Another nonce for each flow.
fn seed(flow: &Flow) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (flow.src, flow.dst, flow.number(), flow.port).hash(&mut hasher);
    hasher.finish() | 1
}
