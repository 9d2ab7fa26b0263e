//! ICMP echo by the kernel's ping sockets (icmp(7)): no raw socket, no packet of our own making.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket,
    sockopt,
};

use super::{Outcome, fill};
use crate::netns::Namespace;

/// ICMP header: type, code, checksum, identifier, sequence (RFC 792; RFC 4443 for IPv6).
const HEADER: usize = 8;

/// Sends one echo request with `size` bytes of data and waits for its reply; the round trip's time is returned.
/// Above the MTU the kernel sends it in fragments.
///
/// # Errors
/// With the outcome; ICMP errors that quote the request come as their outcome.
pub fn ping(
    namespace: &Namespace,
    to: IpAddr,
    size: usize,
    ttl: Option<u32>,
    patience: Duration,
) -> Result<Duration, Outcome> {
    ping_as(namespace, 0, to, size, ttl, patience)
}

/// The same with this identifier; zero leaves it to the kernel.
///
/// # Errors
/// With the outcome, which is [`Outcome::Failed`] where another socket has the identifier.
pub fn ping_as(
    namespace: &Namespace,
    id: u16,
    to: IpAddr,
    size: usize,
    ttl: Option<u32>,
    patience: Duration,
) -> Result<Duration, Outcome> {
    match namespace.run(move || exchange(id, to, size, ttl, patience)) {
        Ok(Ok(time)) => Ok(time),
        Ok(Err(error)) => Err(Outcome::of(&error)),
        Err(error) => Err(Outcome::Failed(error.to_string())),
    }
}

fn exchange(
    id: u16,
    to: IpAddr,
    size: usize,
    ttl: Option<u32>,
    patience: Duration,
) -> std::io::Result<Duration> {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8_u8, 0_u8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let socket = UdpSocket::from(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?);
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    match (ttl, to.is_ipv4()) {
        (Some(ttl), true) => socket.set_ttl(ttl)?,
        (Some(ttl), false) => setsockopt(&socket, sockopt::Ipv6Ttl, &i32::try_from(ttl).unwrap_or(64))?,
        (None, _) => {}
    }
    // A ping socket's port is the identifier.
    match to {
        IpAddr::V4(_) => {
            bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, id)))?
        }
        IpAddr::V6(_) => {
            bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, id, 0, 0)))?;
        }
    }
    socket.connect((to, 0))?;
    socket.set_read_timeout(Some(patience))?;
    let mut message = vec![0_u8; HEADER + size];
    fill(&mut (size as u64 | 1), &mut message[HEADER..]);
    // The kernel fills in identifier and checksum.
    message[0] = request;
    message[7] = 1;
    let begin = Instant::now();
    socket.send(&message)?;
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let length = socket.recv(&mut buffer)?;
        let answer = &buffer[..length];
        if answer.first() == Some(&reply) && answer.get(HEADER..) == Some(&message[HEADER..]) {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > patience {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
}
