//! Sending and receiving through the kernel's own UDP: nothing is attached to any device. The kernel makes the
//! headers, so that only UDP without an envelope can be sent; each flow has a socket of its own.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{Ipv4Ttl, Ipv6Ttl, RcvBuf, RcvBufForce, SndBuf, SndBufForce};
use nix::sys::socket::{MsgFlags, MultiHeaders, SetSockOpt, recvmmsg, sendmmsg, setsockopt};

use super::{EngineError, Receiver, Sender, Taken};
use crate::clock::monotonic_ns;
use crate::flow::Flow;
use crate::locate::Found;
use crate::meter::Meter;
use crate::mix::MAX_FRAME;
use crate::stamp::Stamp;
use crate::traffic::Traffic;

/// Flows, and so sockets, at most: below the usual limit of open files.
pub const MAX_SOCKETS: usize = 512;

/// Messages in one system call.
const BATCH: usize = 64;

/// Socket buffer asked for, in bytes: a quarter of a second of a million small packets.
const BUFFER: usize = 256 << 20;

/// Times that one packet is tried again after an error that an earlier packet has caused (an ICMP message).
const RETRIES: usize = 3;

/// Sends UDP payloads.
#[derive(Debug)]
pub struct SocketSender {
    sockets: Vec<UdpSocket>,
    buffers: Vec<Vec<u8>>,
    /// Flow, buffer and length of each packet of the batch.
    batch: Vec<(usize, usize, usize)>,
    lost: u64,
}

impl SocketSender {
    /// Opens a socket for each flow, bound to its source and connected to its destination.
    ///
    /// # Errors
    /// [`EngineError::Socket`] where an address is not this host's, a port is taken, or there is no route.
    pub fn open(flows: &[Flow], ttl: u8) -> Result<Self, EngineError> {
        Ok(SocketSender {
            sockets: flows.iter().map(|flow| connect(flow, ttl)).collect::<Result<_, _>>()?,
            buffers: vec![vec![0; MAX_FRAME]; BATCH],
            batch: Vec::with_capacity(BATCH),
            lost: 0,
        })
    }

    /// Sends one flow's part of the batch.
    fn send_run(&mut self, run: &[(usize, usize, usize)]) {
        let Some(socket) = run.first().and_then(|(flow, ..)| self.sockets.get(*flow)) else { return };
        let payloads: Vec<[IoSlice<'_>; 1]> = run
            .iter()
            .map(|(_, buffer, len)| {
                self.buffers.get(*buffer).and_then(|buffer| buffer.get(..*len)).unwrap_or_default()
            })
            .map(|payload| [IoSlice::new(payload)])
            .collect();
        let nowhere = [None::<()>; BATCH];
        let (mut done, mut tries) = (0, 0);
        while let Some(rest) = payloads.get(done..).filter(|rest| !rest.is_empty()) {
            // Headers for one call: `sendmmsg` ties their borrow to the payloads'.
            let headers = &mut MultiHeaders::preallocate(rest.len(), None);
            match sendmmsg(socket.as_raw_fd(), headers, rest, nowhere, [], MsgFlags::empty()) {
                Ok(sent) => (done, tries) = (done + sent.count().max(1), 0),
                Err(_) if tries < RETRIES => tries += 1,
                Err(_) => {
                    self.lost += 1;
                    (done, tries) = (done + 1, 0);
                }
            }
        }
    }
}

impl Sender for SocketSender {
    fn send(&mut self, traffic: &mut Traffic, count: u64) -> Result<Taken, EngineError> {
        let mut taken = Taken::default();
        let mut batch = std::mem::take(&mut self.batch);
        let now = monotonic_ns();
        for (index, buffer) in
            self.buffers.iter_mut().enumerate().take(usize::try_from(count).unwrap_or(BATCH))
        {
            let Some(plan) = traffic.plan() else { break };
            batch.push((plan.flow, index, traffic.write_payload(&plan, now, buffer)));
            taken.packets += 1;
            taken.bytes += traffic.frame_len(&plan) as u64;
        }
        // Stable: packets of one flow keep their order.
        batch.sort_by_key(|(flow, ..)| *flow);
        batch.chunk_by(|(a, ..), (b, ..)| a == b).for_each(|run| self.send_run(run));
        batch.clear();
        self.batch = batch;
        Ok(taken)
    }

    fn settle(&mut self) -> Result<usize, EngineError> {
        Ok(0)
    }

    fn lost(&self) -> u64 {
        self.lost
    }

    fn close(self: Box<Self>) -> u64 {
        self.lost
    }
}

/// Receives on UDP sockets.
#[derive(Debug)]
pub struct SocketReceiver {
    sockets: Vec<UdpSocket>,
    buffers: Vec<Vec<u8>>,
}

impl SocketReceiver {
    /// Opens a socket on each port, on all addresses of this host: of `family`'s family where one is given, else of
    /// both.
    ///
    /// # Errors
    /// [`EngineError::Socket`] where a port is taken.
    pub fn open(ports: impl Iterator<Item = u16>, family: Option<IpAddr>) -> Result<Self, EngineError> {
        let v4 = IpAddr::from([0u8; 4]);
        let v6 = IpAddr::from([0u16; 8]);
        let mut sockets = Vec::new();
        for port in ports {
            sockets.push(match family {
                Some(IpAddr::V4(_)) => listen((v4, port).into())?,
                Some(IpAddr::V6(_)) => listen((v6, port).into())?,
                // Dual-stack; where IPv6 is switched off, IPv4 alone.
                None => listen((v6, port).into()).or_else(|_| listen((v4, port).into()))?,
            });
        }
        Ok(SocketReceiver { sockets, buffers: vec![vec![0; 2048]; BATCH] })
    }

    fn drain(socket: &UdpSocket, buffers: &mut [Vec<u8>], meter: &mut Meter) -> Result<usize, EngineError> {
        let lens: Vec<usize> = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
            match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
            {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                // A refused connection is news of a packet sent from here: nothing to receive.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(0),
                Err(errno) => return Err(failed(socket.local_addr().ok(), "recvmmsg")(errno.into())),
            }
        };
        let now = monotonic_ns();
        for (buffer, len) in buffers.iter().zip(&lens) {
            let found =
                buffer.get(..*len).and_then(Stamp::from_payload).map_or(Found::Foreign, Found::Stamped);
            meter.observe(found, now, *len);
        }
        Ok(lens.len())
    }
}

impl Receiver for SocketReceiver {
    fn receive(&mut self, meter: &mut Meter, patience: Duration) -> Result<usize, EngineError> {
        let mut received = 0;
        for socket in &self.sockets {
            received += Self::drain(socket, &mut self.buffers, meter)?;
        }
        if received == 0 && !patience.is_zero() {
            let mut fds: Vec<_> =
                self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(EngineError::Poll(errno.into())),
            }
        }
        Ok(received)
    }

    fn overflow(&self) -> u64 {
        let tables: Vec<_> = ["udp", "udp6"]
            .into_iter()
            .filter_map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok())
            .collect();
        self.sockets
            .iter()
            .filter_map(inode)
            .map(|inode| tables.iter().map(|table| drops(table, inode)).sum::<u64>())
            .sum()
    }

    fn close(self: Box<Self>) {}
}

fn connect(flow: &Flow, ttl: u8) -> Result<UdpSocket, EngineError> {
    let local = SocketAddr::new(flow.source, flow.source_port);
    let remote = SocketAddr::new(flow.destination, flow.destination_port);
    let socket = UdpSocket::bind(local).map_err(failed(Some(local), "bind"))?;
    // Each socket a share of the whole buffer, and never less than the kernel's usual one.
    enlarge(&socket, SndBufForce, SndBuf, 4 << 20, local)?;
    let hops = i32::from(ttl);
    let set = match flow.source {
        IpAddr::V4(_) => setsockopt(&socket, Ipv4Ttl, &hops),
        IpAddr::V6(_) => setsockopt(&socket, Ipv6Ttl, &hops),
    };
    set.map_err(|errno| failed(Some(local), "setting the time to live")(errno.into()))?;
    socket.connect(remote).map_err(failed(Some(local), "connect"))?;
    Ok(socket)
}

fn listen(local: SocketAddr) -> Result<UdpSocket, EngineError> {
    let socket = UdpSocket::bind(local).map_err(failed(Some(local), "bind"))?;
    enlarge(&socket, RcvBufForce, RcvBuf, BUFFER, local)?;
    Ok(socket)
}

/// Asks for a buffer of `bytes`; without the privilege, for as much as the system's limit allows.
fn enlarge<F, P>(
    socket: &UdpSocket,
    force: F,
    plain: P,
    bytes: usize,
    local: SocketAddr,
) -> Result<(), EngineError>
where
    F: SetSockOpt<Val = usize>,
    P: SetSockOpt<Val = usize>,
{
    setsockopt(socket, force, &bytes)
        .or_else(|_| setsockopt(socket, plain, &bytes))
        .map_err(|errno| failed(Some(local), "enlarging its buffer")(errno.into()))
}

fn failed(local: Option<SocketAddr>, operation: &'static str) -> impl Fn(std::io::Error) -> EngineError {
    let local = local.map_or("?".into(), |local| local.to_string());
    move |source| EngineError::Socket { local: local.clone(), operation, source }
}

fn inode(socket: &UdpSocket) -> Option<u64> {
    fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok().map(|metadata| metadata.ino())
}

/// The `drops` of the socket `inode` in a table of `/proc/net/udp`'s form; 0 where it is not there.
fn drops(table: &str, inode: u64) -> u64 {
    let inode = inode.to_string();
    let line = table.lines().skip(1).find(|line| line.split_whitespace().nth(9) == Some(&inode));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     84: 00000000:2328 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0000000000000000 17\n\
                     85: 00000000:2329 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4243 2 0000000000000000 3\n\
                     torn";
        assert_eq!((drops(table, 4242), drops(table, 4243), drops(table, 1), drops("", 1)), (17, 3, 0, 0));
    }

    #[test]
    fn what_the_socket_had_no_room_for_is_counted_as_overflow() {
        let mut receiver = SocketReceiver::open(std::iter::once(0), Some([127, 0, 0, 1].into())).unwrap();
        setsockopt(&receiver.sockets[0], RcvBuf, &4096).unwrap();
        let port = receiver.sockets[0].local_addr().unwrap().port();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            socket.send_to(&[0; 1000], ("127.0.0.1", port)).unwrap();
        }
        let mut meter = Meter::new(None);
        while receiver.receive(&mut meter, Duration::from_millis(20)).unwrap() > 0 {}
        assert!(receiver.overflow() > 0);
        assert_eq!(meter.apart.foreign + receiver.overflow(), 100);
    }
}
