//! The few route netlink requests that device facts need (`include/uapi/linux/rtnetlink.h`, `if_link.h`,
//! `net_namespace.h`). Not sysfs: that shows the namespace it was mounted in, not the thread's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NLMSG_ERROR: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

const MESSAGE_HEADER: usize = 16;
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
    /// The peer's or parent's index, in the namespace that `peer_namespace` names, else in this one.
    pub(crate) peer: Option<u32>,
    /// The id that the peer's namespace has here, where it is another.
    pub(crate) peer_namespace: Option<i32>,
}

/// The link of an index in the calling thread's namespace.
pub(crate) fn link(ifindex: u32) -> io::Result<Link> {
    let mut body = [0u8; LINK_HEADER];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let answer = ask(RTM_GETLINK, &body, RTM_NEWLINK)?;
    parse_link(&answer).ok_or_else(|| io::Error::other("a link message that makes no sense"))
}

/// The id that the namespace behind a descriptor has in the calling thread's; `None` where it has none.
pub(crate) fn namespace_id(namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut body = vec![0u8; NSID_HEADER];
    body.extend(8u16.to_ne_bytes());
    body.extend(NETNSA_FD.to_ne_bytes());
    body.extend(namespace.as_raw_fd().to_ne_bytes());
    let answer = ask(RTM_GETNSID, &body, RTM_NEWNSID)?;
    let attributes = answer.get(NSID_HEADER..).unwrap_or_default();
    let id = Attributes(attributes).find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, value)| word(value));
    Ok(id.map(|id| id as i32).filter(|&id| id >= 0))
}

/// Sends a request and returns the body of its one answer.
fn ask(kind: u16, body: &[u8], answer_kind: u16) -> io::Result<Vec<u8>> {
    let socket = open()?;
    let mut request = Vec::with_capacity(MESSAGE_HEADER + body.len());
    request.extend(((MESSAGE_HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 8]); // sequence and port: the socket serves this one request
    request.extend(body);
    nix::unistd::write(&socket, &request)?;
    let mut answer = vec![0; 65536];
    let len = nix::unistd::read(&socket, &mut answer)?;
    answer.truncate(len);
    let malformed = || io::Error::other("a netlink answer that makes no sense");
    let message = message(&answer).ok_or_else(malformed)?;
    match message {
        (NLMSG_ERROR, body) => Err(io::Error::from_raw_os_error(-(word(body).ok_or_else(malformed)? as i32))),
        (kind, body) if kind == answer_kind => Ok(body.to_vec()),
        _ => Err(malformed()),
    }
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; its result is checked.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Type and body of the first message.
fn message(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let len = word(bytes)? as usize;
    Some((short(bytes.get(4..)?)?, bytes.get(MESSAGE_HEADER..len)?))
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { ifindex: word(body.get(4..)?)?, flags: word(body.get(8..)?)?, ..Link::default() };
    for (kind, value) in Attributes(body.get(LINK_HEADER..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.first_chunk().copied().unwrap_or_default(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = word(value)?,
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
struct Attributes<'a>(&'a [u8]);

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

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn short(bytes: &[u8]) -> Option<u16> {
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
    fn an_index_without_a_device_is_an_error() {
        assert_eq!(link(i32::MAX as u32).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = message(&bytes);
            let _ = parse_link(&bytes);
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
