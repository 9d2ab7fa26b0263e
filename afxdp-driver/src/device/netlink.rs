//! Netlink messages, and the few route requests that device facts need (`include/uapi/linux/netlink.h`, `rtnetlink.h`,
//! `if_link.h`, `net_namespace.h`). Not sysfs: that shows the namespace it was mounted in, not the thread's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::sockopt;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

/// `include/uapi/asm-generic/socket.h`
const SO_NETNS_COOKIE: libc::c_int = 71;

const MESSAGE_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const LINK_HEADER: usize = 16;
const NSID_HEADER: usize = 4;

/// What the kernel says of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    pub(crate) flags: u32,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    /// "veth", "vxlan", …; empty for hardware.
    pub(crate) kind: String,
    /// The queueing discipline at its root: "noqueue", "pfifo", …
    pub(crate) queueing: String,
    /// The peer's or parent's index, in the namespace that `peer_namespace` names, else in this one.
    pub(crate) peer: Option<u32>,
    /// The id that the peer's namespace has here, where it is another.
    pub(crate) peer_namespace: Option<i32>,
}

/// The link of an index in the calling thread's namespace.
pub(crate) fn link(ifindex: u32) -> io::Result<Link> {
    let mut body = [0u8; LINK_HEADER];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let answers = request(libc::NETLINK_ROUTE, RTM_GETLINK, 0, &body)?;
    let answer = answers.first().filter(|answer| answer.kind == RTM_NEWLINK);
    answer.and_then(|answer| parse_link(&answer.body)).ok_or_else(malformed)
}

/// The id that the namespace behind a descriptor has in the calling thread's; `None` where it has none.
pub(crate) fn namespace_id(namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut body = vec![0u8; NSID_HEADER];
    body.extend(attribute(NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes()));
    let answers = request(libc::NETLINK_ROUTE, RTM_GETNSID, 0, &body)?;
    let answer = answers.first().filter(|answer| answer.kind == RTM_NEWNSID).ok_or_else(malformed)?;
    let attributes = answer.body.get(NSID_HEADER..).unwrap_or_default();
    let id = Attributes(attributes).find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, value)| word(value));
    Ok(id.map(|id| id as i32).filter(|&id| id >= 0))
}

/// The number that the calling thread's network namespace has to itself until the machine restarts.
pub(crate) fn namespace_cookie() -> io::Result<u64> {
    sockopt::read(open(libc::NETLINK_ROUTE)?.as_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE)
}

/// One message of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends a request of a netlink protocol to the kernel and returns all messages of its answer. An acknowledgement asked
/// for by `NLM_F_ACK` is waited for and is no message.
pub(crate) fn request(
    protocol: libc::c_int,
    kind: u16,
    flags: libc::c_int,
    body: &[u8],
) -> io::Result<Vec<Message>> {
    let socket = open(protocol)?;
    let mut request = Vec::with_capacity(MESSAGE_HEADER + body.len());
    request.extend(((MESSAGE_HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    request.extend([0; 8]); // sequence and port: the socket serves this one request
    request.extend(body);
    nix::unistd::write(&socket, &request)?;
    let (mut messages, mut buffer) = (Vec::new(), vec![0; 65536]);
    loop {
        let len = nix::unistd::read(&socket, &mut buffer)?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let (message, of_several, after) = split_message(rest).ok_or_else(malformed)?;
            rest = after;
            match message.kind {
                NLMSG_ERROR => match word(&message.body).ok_or_else(malformed)? as i32 {
                    0 => return Ok(messages),
                    code => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                },
                NLMSG_DONE => return Ok(messages),
                _ => messages.push(message),
            }
            if !of_several && flags & libc::NLM_F_ACK == 0 {
                return Ok(messages);
            }
        }
    }
}

/// An attribute with its padding.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = ATTRIBUTE_HEADER + value.len();
    let mut bytes = Vec::with_capacity(len.next_multiple_of(4));
    bytes.extend((len as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}

fn malformed() -> io::Error {
    io::Error::other("a netlink answer that makes no sense")
}

fn open(protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; its result is checked.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first message, whether more are to come (`NLM_F_MULTI`), and what stands behind it.
fn split_message(bytes: &[u8]) -> Option<(Message, bool, &[u8])> {
    let len = word(bytes)? as usize;
    let (kind, flags) = (short(bytes.get(4..)?)?, short(bytes.get(6..)?)?);
    let body = bytes.get(MESSAGE_HEADER..len)?.to_vec();
    let rest = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((Message { kind, body }, i32::from(flags) & libc::NLM_F_MULTI != 0, rest))
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { ifindex: word(body.get(4..)?)?, flags: word(body.get(8..)?)?, ..Link::default() };
    for (kind, value) in Attributes(body.get(LINK_HEADER..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.first_chunk().copied().unwrap_or_default(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = word(value)?,
            IFLA_QDISC => link.queueing = text(value),
            IFLA_LINK => link.peer = word(value).filter(|&peer| peer != 0),
            IFLA_LINK_NETNSID => link.peer_namespace = word(value).map(|id| id as i32),
            IFLA_LINKINFO => {
                let kind = Attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// Attributes in a row: length (its own four bytes included), type, value, padding to four bytes.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(short(self.0)?);
        // The two upper bits of the type are flags.
        let kind = short(self.0.get(2..)?)? & 0x3fff;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(crate) fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

pub(crate) fn short(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// A string that ends at its first zero.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_device_is_what_it_is() {
        let link = link(1).unwrap();
        assert_eq!((link.ifindex, &link.name[..], link.mac), (1, "lo", [0; 6]));
        assert_eq!((link.peer, link.peer_namespace), (None, None));
    }

    #[test]
    fn a_namespace_has_one_number() {
        assert_eq!(namespace_cookie().unwrap(), namespace_cookie().unwrap());
    }

    #[test]
    fn an_index_without_a_device_is_an_error() {
        assert_eq!(link(i32::MAX as u32).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut rest = &bytes[..];
            while let Some((_, _, after)) = split_message(rest) {
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
            let _ = parse_link(&bytes);
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4 + 1);
        }

        #[test]
        fn attributes_are_read_as_they_were_written(
            all in proptest::collection::vec((0u16..0x4000, proptest::collection::vec(any::<u8>(), 0..40)), 0..5),
        ) {
            let bytes: Vec<u8> = all.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
            let read: Vec<_> = Attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, all);
        }
    }
}
