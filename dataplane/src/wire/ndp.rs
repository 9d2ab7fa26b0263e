//! Neighbour discovery (RFC 4861): solicitations and advertisements, read under all of the RFC's rules, made and answered.
//!
//! Router solicitations are not answered: a pod's addresses and routes are given to it, not discovered.

use std::net::{IpAddr, Ipv6Addr};

use afxdp_driver::Frame;

use super::checksum;
use super::header::Header;
use super::parse::{FRAGMENT, L4Kind, Parsed};
use super::{ETHERNET_LEN, ICMPV6, IPV6_LEN, Mac, put};
use crate::drops::DropReason;

/// A valid message of neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Who has the target's address?
    Solicitation(Solicitation),
    /// The target's address is here.
    Advertisement(Advertisement),
}

/// A neighbour solicitation (section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// The address asked for.
    pub target: Ipv6Addr,
    /// Who asks; unspecified when the asker wants the target for itself ([`is_probe`](Self::is_probe)).
    pub src: Ipv6Addr,
    /// The asker's MAC address, where it says so.
    pub source_link: Option<Mac>,
}

impl Solicitation {
    /// Duplicate address detection (RFC 4862, section 5.4.2): does anyone use the target? It teaches nobody anything.
    pub fn is_probe(&self) -> bool {
        self.src.is_unspecified()
    }
}

/// A neighbour advertisement (section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// The address spoken of.
    pub target: Ipv6Addr,
    /// Its MAC address, where said.
    pub target_link: Option<Mac>,
    /// The sender is a router.
    pub router: bool,
    /// An answer to a solicitation.
    pub solicited: bool,
    /// What was known of the target before is to be forgotten.
    pub replace: bool,
}

/// Reads the message of a packet that `wire::parse` took for ICMPv6. `None` for ICMPv6 that is no solicitation or
/// advertisement of a neighbour.
///
/// # Errors
/// [`DropReason::NeighbourDiscovery`] where a rule of RFC 4861, sections 7.1.1 and 7.1.2, is broken: hop limit 255, code 0,
/// no fragment (RFC 6980), length, option lengths, a target that is no group's, what a probe and what an answer may say;
/// [`DropReason::BadL4Checksum`] for the checksum.
pub fn parse(frame: &[u8], parsed: &Parsed) -> Result<Option<Message>, DropReason> {
    let l4 = parsed.l4 as usize;
    if parsed.kind != L4Kind::Icmp || !parsed.v6 {
        return Ok(None);
    }
    let bytes = frame.get(l4..parsed.end()).ok_or(DropReason::Truncated)?;
    let Some(&kind) = bytes.first().filter(|&&kind| matches!(kind, SOLICITATION | ADVERTISEMENT)) else {
        return Ok(None);
    };
    let fixed: &[u8; FIXED_LEN] = bytes.first_chunk().ok_or(DropReason::NeighbourDiscovery)?;
    if parsed.ttl != 255 || fixed[1] != 0 || parsed.fragment & FRAGMENT != 0 {
        return Err(DropReason::NeighbourDiscovery);
    }
    if !checksum::transport_ok(frame, parsed) {
        return Err(DropReason::BadL4Checksum);
    }
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (parsed.src(), parsed.dst()) else { return Ok(None) };
    let target = Ipv6Addr::from(std::array::from_fn(|i| fixed[8 + i]));
    let links = read_options(bytes.get(FIXED_LEN..).unwrap_or_default())?;
    let message = if kind == SOLICITATION {
        let probe_ok = solicited_node(target) == dst && links.source.is_none();
        if src.is_unspecified() && !probe_ok {
            return Err(DropReason::NeighbourDiscovery);
        }
        Message::Solicitation(Solicitation { target, src, source_link: links.source })
    } else {
        let (router, solicited, replace) =
            (fixed[4] & ROUTER != 0, fixed[4] & SOLICITED != 0, fixed[4] & OVERRIDE != 0);
        if dst.is_multicast() && solicited || src.is_unspecified() {
            return Err(DropReason::NeighbourDiscovery);
        }
        Message::Advertisement(Advertisement {
            target,
            target_link: links.target,
            router,
            solicited,
            replace,
        })
    };
    if target.is_multicast() || target.is_unspecified() {
        Err(DropReason::NeighbourDiscovery)
    } else {
        Ok(Some(message))
    }
}

/// Turns a valid solicitation into the answer of the owner of its target: to the asker, or to all nodes where it is a
/// probe (section 7.2.4). `router`: the target is a gateway. False, and nothing changed, for what is no solicitation.
#[must_use]
pub fn advertise_in_place(frame: &mut Frame, parsed: &Parsed, our_mac: Mac, router: bool) -> bool {
    let Ok(Some(Message::Solicitation(question))) = parse(frame, parsed) else { return false };
    let Some(asker) = frame.get(6..12).and_then(|mac| mac.first_chunk::<6>()).copied() else { return false };
    let (dst, dst_mac, solicited) = if question.is_probe() {
        (ALL_NODES, group_mac(ALL_NODES), 0)
    } else {
        (question.src, question.source_link.unwrap_or(asker), SOLICITED)
    };
    let flags = solicited | OVERRIDE | if router { ROUTER } else { 0 };
    let ends = Ends { src_mac: our_mac, dst_mac, src: question.target, dst };
    frame.fill(&message(ends, [ADVERTISEMENT, flags], question.target, Some(TARGET_LINK)))
}

/// Fills the frame with the question for `target`, to its solicited-node group (section 7.2.2). With an unspecified
/// `src` it is a probe. False where the frame's chunk is too small, which it never is.
#[must_use]
pub fn solicit(frame: &mut Frame, src_mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> bool {
    let dst = solicited_node(target);
    let ends = Ends { src_mac, dst_mac: group_mac(dst), src, dst };
    let option = (!src.is_unspecified()).then_some(SOURCE_LINK);
    frame.fill(&message(ends, [SOLICITATION, 0], target, option))
}

/// As [`solicit`], straight to the MAC address that was known last: is it still right (section 7.3.1)?
#[must_use]
pub fn confirm(frame: &mut Frame, src_mac: Mac, src: Ipv6Addr, target: Ipv6Addr, target_mac: Mac) -> bool {
    let ends = Ends { src_mac, dst_mac: target_mac, src, dst: target };
    frame.fill(&message(ends, [SOLICITATION, 0], target, Some(SOURCE_LINK)))
}

/// Fills the frame with an unsolicited advertisement (section 7.2.6): `ip` is at `mac`, all nodes take note.
#[must_use]
pub fn announcement(frame: &mut Frame, mac: Mac, ip: Ipv6Addr, router: bool) -> bool {
    let ends = Ends { src_mac: mac, dst_mac: group_mac(ALL_NODES), src: ip, dst: ALL_NODES };
    let flags = OVERRIDE | if router { ROUTER } else { 0 };
    frame.fill(&message(ends, [ADVERTISEMENT, flags], ip, Some(TARGET_LINK)))
}

/// The group in which the owner of an address listens for solicitations (RFC 4291, section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The MAC address of an IPv6 group (RFC 2464, section 7).
pub fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Both messages: type, code, checksum, four bytes, target.
const FIXED_LEN: usize = 24;

/// The link-layer address options of a message.
#[derive(Default)]
struct Links {
    source: Option<Mac>,
    target: Option<Mac>,
}

/// Every option's length must be right, known or not (section 4.6).
fn read_options(mut options: &[u8]) -> Result<Links, DropReason> {
    let mut links = Links::default();
    while let Some((&kind, _)) = options.split_first() {
        let length = options.get(1).map_or(0, |&units| units as usize * 8);
        if length == 0 || length > options.len() {
            return Err(DropReason::NeighbourDiscovery);
        }
        let (option, rest) = options.split_at(length);
        let mac = option.get(2..).and_then(|value| value.first_chunk::<6>()).copied();
        // An Ethernet address takes one unit; no host's is a group's.
        let mac = mac.filter(|mac| length == 8 && mac[0] & 1 == 0);
        match kind {
            SOURCE_LINK => links.source = links.source.or(mac),
            TARGET_LINK => links.target = links.target.or(mac),
            _ => {}
        }
        options = rest;
    }
    Ok(links)
}

#[derive(Clone, Copy)]
struct Ends {
    src_mac: Mac,
    dst_mac: Mac,
    src: Ipv6Addr,
    dst: Ipv6Addr,
}

/// A frame with one message: `[type, flags]`, target, and our MAC address as an option of the kind given.
fn message(
    ends: Ends,
    [kind, flags]: [u8; 2],
    target: Ipv6Addr,
    option: Option<u8>,
) -> arrayvec::ArrayVec<u8, FRAME_LEN> {
    let mut frame = [0; FRAME_LEN];
    let length = FIXED_LEN + if option.is_some() { 8 } else { 0 };
    let l4 = ETHERNET_LEN + IPV6_LEN;
    let ip = Header { src: ends.src.into(), dst: ends.dst.into(), protocol: ICMPV6, ttl: 255, class: 0 };
    frame[..6].copy_from_slice(&ends.dst_mac);
    frame[6..12].copy_from_slice(&ends.src_mac);
    frame[l4] = kind;
    frame[l4 + 4] = flags;
    frame[l4 + 8..l4 + 24].copy_from_slice(&target.octets());
    if let Some(option) = option {
        frame[l4 + 24..l4 + 26].copy_from_slice(&[option, 1]);
        frame[l4 + 26..].copy_from_slice(&ends.src_mac);
    }
    let check = ip.transport_check(&frame[l4..l4 + length]);
    let written = put(&mut frame, l4 + 2, &check.to_be_bytes()) && ip.write(&mut frame, length);
    debug_assert!(written);
    let mut sized = arrayvec::ArrayVec::from(frame);
    sized.truncate(l4 + length);
    sized
}

const FRAME_LEN: usize = ETHERNET_LEN + IPV6_LEN + FIXED_LEN + 8;

#[cfg(test)]
mod tests;
