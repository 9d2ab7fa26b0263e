//! Questions to the kernel of the calling thread's network namespace, over rtnetlink: a link by its name, the
//! route to an address, a neighbour's MAC address. Only asks, never changes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::flow::MacAddr;

/// The kernel could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
#[error("asking the kernel for {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Receive queues that it was made with; fewer may be in use.
    pub rx_queues: u32,
    /// Packets that it has dropped instead of sending them: on a veth, those that the other end had no room for.
    pub tx_dropped: u64,
}

/// How an address is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The next hop where it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would take.
    pub source: Option<IpAddr>,
}

/// The device `name`.
///
/// # Errors
/// [`NetlinkError`] where there is none of that name, or the kernel cannot be asked.
pub fn link(name: &str) -> Result<Link, NetlinkError> {
    let what = || format!("the device {name}");
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let mut request = Request::new(RTM_GETLINK, NLM_F_REQUEST, &[0; 16]);
    request.attribute(IFLA_IFNAME, &text);
    let replies = request.ask().map_err(|source| NetlinkError { what: what(), source })?;
    let found = replies.iter().filter(|reply| reply.kind == RTM_NEWLINK).find_map(|reply| {
        let index = u32::from_ne_bytes(*reply.body.get(4..)?.first_chunk()?);
        let attributes = reply.body.get(16..)?;
        let mac = attribute(attributes, IFLA_ADDRESS).and_then(|bytes| Some(MacAddr(bytes.try_into().ok()?)));
        let number = |kind| Some(u32::from_ne_bytes(attribute(attributes, kind)?.try_into().ok()?));
        let dropped =
            attribute(attributes, IFLA_STATS64).and_then(|stats| stats.get(TX_DROPPED..)?.first_chunk());
        Some(Link {
            index,
            mac,
            mtu: number(IFLA_MTU)?,
            rx_queues: number(IFLA_NUM_RX_QUEUES).unwrap_or(1),
            tx_dropped: dropped.map_or(0, |bytes| u64::from_ne_bytes(*bytes)),
        })
    });
    found.ok_or_else(|| NetlinkError { what: what(), source: io::ErrorKind::NotFound.into() })
}

/// The route to `destination` through the device of index `device`.
///
/// # Errors
/// [`NetlinkError`] where there is none, or the kernel cannot be asked.
pub fn route(destination: IpAddr, device: u32) -> Result<Route, NetlinkError> {
    let mut header = [0; 12];
    header[0] = family(destination);
    header[1] = if destination.is_ipv6() { 128 } else { 32 };
    let mut request = Request::new(RTM_GETROUTE, NLM_F_REQUEST, &header);
    request.attribute(RTA_DST, &octets(destination));
    request.attribute(RTA_OIF, &device.to_ne_bytes());
    let failed =
        |source| NetlinkError { what: format!("the route to {destination} through device {device}"), source };
    let replies = request.ask().map_err(failed)?;
    let found = replies.iter().filter(|reply| reply.kind == RTM_NEWROUTE).find_map(|reply| {
        let attributes = reply.body.get(12..)?;
        let via = attribute(attributes, RTA_VIA).and_then(|bytes| address(bytes.get(2..)?));
        Some(Route {
            gateway: attribute(attributes, RTA_GATEWAY).and_then(address).or(via),
            source: attribute(attributes, RTA_PREFSRC).and_then(address),
        })
    });
    found.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// The MAC address of the neighbour `ip` on the device of index `device`, if the kernel knows it now.
///
/// # Errors
/// [`NetlinkError`] where the kernel cannot be asked.
pub fn neighbour(ip: IpAddr, device: u32) -> Result<Option<MacAddr>, NetlinkError> {
    let mut header = [0; 12];
    header[0] = family(ip);
    let replies = Request::new(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, &header)
        .ask()
        .map_err(|source| NetlinkError { what: format!("the neighbour {ip} on device {device}"), source })?;
    Ok(replies.iter().filter(|reply| reply.kind == RTM_NEWNEIGH).find_map(|reply| {
        let index = u32::from_ne_bytes(*reply.body.get(4..)?.first_chunk()?);
        let state = u16::from_ne_bytes(*reply.body.get(8..)?.first_chunk()?);
        let attributes = reply.body.get(12..)?;
        if index != device || state & (NUD_INCOMPLETE | NUD_FAILED) != 0 {
            return None;
        }
        let known = attribute(attributes, NDA_DST).and_then(address)? == ip;
        let mac = attribute(attributes, NDA_LLADDR)?.try_into().ok()?;
        known.then_some(MacAddr(mac))
    }))
}

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/neighbour.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_STATS64: u16 = 23;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;

/// Where `tx_dropped` is in `struct rtnl_link_stats64`: behind packets, bytes, errors and `rx_dropped`.
const TX_DROPPED: usize = 7 * 8;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// One message to the kernel.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1u32.to_ne_bytes());
        bytes.extend_from_slice(header);
        Request { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn ask(mut self) -> io::Result<Vec<Reply>> {
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        let protocol = SockProtocol::NetlinkRoute;
        let fd: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        send(fd.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        let (mut replies, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if read_replies(buffer.get(..len).unwrap_or_default(), &mut replies)? {
                return Ok(replies);
            }
        }
    }
}

/// One message from the kernel, its header taken off.
#[derive(Debug)]
struct Reply {
    kind: u16,
    body: Vec<u8>,
}

/// Reads one datagram of messages; true where the answer is complete.
fn read_replies(mut bytes: &[u8], replies: &mut Vec<Reply>) -> io::Result<bool> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut short");
    let mut complete = true;
    while !bytes.is_empty() {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or_else(cut)?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let body = bytes.get(HEADER..len).ok_or_else(cut)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = i32::from_ne_bytes(*body.first_chunk().ok_or_else(cut)?);
                return if code == 0 {
                    Ok(true)
                } else {
                    Err(io::Error::from_raw_os_error(code.saturating_neg()))
                };
            }
            _ => replies.push(Reply { kind, body: body.to_vec() }),
        }
        complete = flags & NLM_F_MULTI == 0;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(complete)
}

/// The value of the first attribute `kind`; `None` where there is none, or the attributes lie about their lengths
/// before it.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..len)?;
        // The two high bits are flags (nested, network order).
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == kind {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    family as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_is_known_and_reaches_itself() {
        let lo = link("lo").unwrap();
        assert_eq!((lo.index, lo.mac), (1, Some(MacAddr([0; 6]))));
        let route = route([127, 0, 0, 1].into(), lo.index).unwrap();
        assert_eq!(route, Route { gateway: None, source: Some([127, 0, 0, 1].into()) });
        assert_eq!(neighbour([192, 0, 2, 77].into(), lo.index).unwrap(), None);
    }

    #[test]
    fn a_missing_device_is_an_error_that_names_it() {
        assert!(link("no-such-device").unwrap_err().to_string().contains("no-such-device"));
    }

    #[test]
    fn an_error_message_is_the_error() {
        let mut bytes = vec![0; 20];
        bytes[0] = 20;
        bytes[4] = NLMSG_ERROR as u8;
        bytes[16..20].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(read_replies(&bytes, &mut Vec::new()).unwrap_err().raw_os_error(), Some(19));
        assert!(read_replies(&bytes[..18], &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_replies(&bytes, &mut Vec::new());
            for kind in 0..20 {
                let _ = attribute(&bytes, kind).and_then(address);
            }
        }

        #[test]
        fn attributes_are_found_among_others(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..8)) {
            let mut request = Request { bytes: Vec::new() };
            for (kind, value) in values.iter().enumerate() {
                request.attribute(kind as u16, value);
            }
            for (kind, value) in values.iter().enumerate() {
                prop_assert_eq!(attribute(&request.bytes, kind as u16), Some(&value[..]));
            }
            prop_assert_eq!(attribute(&request.bytes, values.len() as u16), None);
        }
    }
}
