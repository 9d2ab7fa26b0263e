//! TCP (RFC 9293): answering for a closed port, and keeping segments below what the overlay takes.

use afxdp_driver::Frame;

use super::checksum::{adjust, delta16};
use super::header::Header;
use super::icmp;
use super::parse::{FRAGMENT, L4Kind, Parsed};
use super::{ETHERNET_LEN, OUR_TTL, TCP, be16, be32, put, swap_macs};

/// TCP flag FIN.
pub const FIN: u8 = 1;
/// TCP flag SYN.
pub const SYN: u8 = 2;
/// TCP flag RST.
pub const RST: u8 = 4;
/// TCP flag ACK.
pub const ACK: u8 = 16;

/// Turns a segment into the reset that a host without such a connection sends back (RFC 9293, section 3.10.7.1): with
/// the acknowledged number as its own where there is one, acknowledging all of the segment where there is none.
/// MAC addresses are exchanged, extension headers and options left out. False, and nothing changed, for a reset, a
/// fragment, another protocol, and whatever must not be answered ([`icmp::may_answer`]).
#[must_use]
pub fn reset_in_place(frame: &mut Frame, parsed: &Parsed) -> bool {
    let refused =
        parsed.kind != L4Kind::Tcp || parsed.tcp_flags & RST != 0 || parsed.fragment & FRAGMENT != 0;
    if refused || !icmp::may_answer(parsed, frame) {
        return false;
    }
    let Some(header) = reset_header(frame, parsed) else { return false };
    let ip = Header { src: parsed.dst(), dst: parsed.src(), protocol: TCP, ttl: OUR_TTL, class: 0 };
    write_segment(frame, &ip, &header) && swap_macs(frame)
}

/// Turns a segment into the reset by which its sender gives the connection up (RFC 9293, section 3.10.5), to go the segment's way: with
/// the segment's sequence number, which is what the receiver expects where none before it is missing. Extension headers, options
/// and data are left out; the MAC addresses stay. False, and nothing changed, for a reset, a fragment and another protocol.
#[must_use]
pub fn abort_in_place(frame: &mut Frame, parsed: &Parsed) -> bool {
    if parsed.kind != L4Kind::Tcp || parsed.tcp_flags & RST != 0 || parsed.fragment & FRAGMENT != 0 {
        return false;
    }
    let numbers = parsed.l4 as usize..parsed.l4 as usize + 12;
    let Some(Ok(numbers)) = frame.get(numbers).map(<[u8; 12]>::try_from) else { return false };
    let mut header = [0; 20];
    header[..12].copy_from_slice(&numbers);
    header[12] = 5 << 4;
    header[13] = RST | parsed.tcp_flags & ACK;
    let ip = Header { src: parsed.src(), dst: parsed.dst(), protocol: TCP, ttl: parsed.ttl, class: 0 };
    write_segment(frame, &ip, &header)
}

/// Replaces all of a packet but the MAC addresses by a TCP header under `ip`.
fn write_segment(frame: &mut Frame, ip: &Header, header: &[u8; 20]) -> bool {
    let Some(l4) = ip.len().map(|length| ETHERNET_LEN + length) else { return false };
    let check = ip.transport_check(header);
    frame.resize(l4 + header.len())
        && ip.write(frame, header.len())
        && put(frame, l4, header)
        && put(frame, l4 + 16, &check.to_be_bytes())
}

/// The reset's TCP header, without a check yet.
fn reset_header(frame: &[u8], parsed: &Parsed) -> Option<[u8; 20]> {
    let l4 = parsed.l4 as usize;
    let (sequence, acknowledgment) = (be32(frame, l4 + 4)?, be32(frame, l4 + 8)?);
    let data_offset = (frame.get(l4 + 12)? >> 4) as usize * 4;
    let (sequence, acknowledgment, flags) = if parsed.tcp_flags & ACK != 0 {
        (acknowledgment, 0, RST)
    } else {
        let payload = parsed.end().checked_sub(l4 + data_offset)? as u32;
        let controls = (parsed.tcp_flags & SYN != 0) as u32 + (parsed.tcp_flags & FIN != 0) as u32;
        (0, sequence.wrapping_add(payload).wrapping_add(controls), RST | ACK)
    };
    let mut header = [0; 20];
    header[..2].copy_from_slice(&parsed.dst_port.to_be_bytes());
    header[2..4].copy_from_slice(&parsed.src_port.to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    Some(header)
}

/// Lowers the maximum segment size that a SYN offers (RFC 9293, section 3.7.1) to `max_mss`; never raises it and inserts
/// nothing: without the option a sender keeps to 536 or 1,220 bytes by itself. The checksum is adjusted. True where
/// something was lowered. A malformed option list is left alone from the malformed option on.
#[must_use]
pub fn clamp_mss(frame: &mut [u8], parsed: &Parsed, max_mss: u16) -> bool {
    if parsed.kind != L4Kind::Tcp || parsed.tcp_flags & SYN == 0 {
        return false;
    }
    let l4 = parsed.l4 as usize;
    let Some(at) = mss_offset(frame, parsed) else { return false };
    let (Some(old), Some(check)) = (be16(frame, at), be16(frame, l4 + 16)) else { return false };
    if old <= max_mss {
        return false;
    }
    let delta = delta16(old, max_mss);
    // The option may stand at an odd offset of the summed bytes: then its halves are in two words, the other way around
    // (RFC 1071, section 2(B)).
    let delta = if (at - l4).is_multiple_of(2) { delta } else { delta.swap_bytes() };
    put(frame, at, &max_mss.to_be_bytes()) && put(frame, l4 + 16, &adjust(check, delta).to_be_bytes())
}

/// Offset in the frame of the first MSS option's value.
fn mss_offset(frame: &[u8], parsed: &Parsed) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    let l4 = parsed.l4 as usize;
    let end = l4 + (frame.get(l4 + 12)? >> 4) as usize * 4;
    let mut at = l4 + 20;
    while at < end.min(frame.len()) {
        match *frame.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = *frame.get(at + 1)? as usize;
                if length < 2 || at + length > end {
                    return None;
                }
                if kind == MAXIMUM_SEGMENT_SIZE {
                    return (length == 4).then_some(at + 2);
                }
                at += length;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
