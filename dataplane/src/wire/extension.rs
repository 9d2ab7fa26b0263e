//! The chain of IPv6 extension headers (RFC 8200, section 4): walked with a bound, each length checked.

use crate::drops::DropReason;

/// Extension headers in a packet at most: each kind that is passed, once, and one more (destination options may stand
/// twice, RFC 8200, section 4.1).
pub const MAX_EXTENSIONS: usize = 5;

/// Where the chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of the transport; behind the header of a later fragment: what that header says.
    pub protocol: u8,
    /// Offset of the transport header; of the payload for a later fragment.
    pub l4: usize,
    /// The Fragment header, if there is one that means something: an atomic fragment (offset 0, no more) is an
    /// ordinary packet (RFC 6946).
    pub fragment: Option<FragmentHeader>,
}

/// What an IPv6 Fragment header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Place of the fragment.
    pub field: FragmentField,
    /// Identification.
    pub identification: u32,
    /// Offset of the first byte behind the header: the fragment's part of the payload.
    pub payload: usize,
}

/// The place of a fragment in its packet, of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentField {
    /// Bytes of the payload before it: a multiple of 8, at most 65,528.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
}

/// Walks from the header of number `next` at offset `at` to the transport. `packet` ends where the IP packet does.
///
/// # Errors
/// [`DropReason::Ipv6Extension`] for too many headers, hop-by-hop options that are not first, or a routing header that
/// has segments left (the destination would not be the last: RFC 5095; policy could be walked around).
/// [`DropReason::BadLength`] for a header that reaches over the packet's end; [`DropReason::BadFragment`] for that in
/// a first fragment (RFC 7112) and for a fragment in a fragment.
pub fn walk(packet: &[u8], next: u8, at: usize) -> Result<Chain, DropReason> {
    let mut chain = Chain { protocol: next, l4: at, fragment: None };
    let mut fragmented = false;
    for index in 0..=MAX_EXTENSIONS {
        if !matches!(chain.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            return Ok(chain);
        }
        let end_reason =
            if chain.fragment.is_some() { DropReason::BadFragment } else { DropReason::BadLength };
        let header: &[u8; 8] =
            packet.get(chain.l4..).and_then(|rest| rest.first_chunk()).ok_or(end_reason)?;
        let mut length = 8 * (1 + header[1] as usize);
        match chain.protocol {
            HOP_BY_HOP if index > 0 => return Err(DropReason::Ipv6Extension),
            ROUTING if header[3] > 0 => return Err(DropReason::Ipv6Extension),
            FRAGMENT if fragmented => return Err(DropReason::BadFragment),
            FRAGMENT => {
                length = 8;
                fragmented = true;
                chain.fragment = read_fragment(header, chain.l4 + 8);
            }
            _ => {}
        }
        if chain.l4 + length > packet.len() {
            return Err(end_reason);
        }
        chain.protocol = header[0];
        chain.l4 += length;
        if chain.fragment.is_some_and(|fragment| fragment.field.offset > 0) {
            return Ok(chain);
        }
    }
    Err(DropReason::Ipv6Extension)
}

fn read_fragment(header: &[u8; 8], payload: usize) -> Option<FragmentHeader> {
    let word = u16::from_be_bytes([header[2], header[3]]);
    let field = FragmentField { offset: word & 0xfff8, more: word & 1 != 0 };
    let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    (field.offset > 0 || field.more).then_some(FragmentHeader { field, identification, payload })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

    /// A header of eight bytes: next, length, and two more that matter for routing and fragments.
    fn header(next: u8, length: u8, third: u8, fourth: u8) -> [u8; 8] {
        [next, length, third, fourth, 0, 0, 0, 7]
    }

    #[test]
    fn chains_as_rows() {
        let fragment = |offset, more| FragmentHeader {
            field: FragmentField { offset, more },
            identification: 7,
            payload: 8,
        };
        type Row = (&'static str, u8, Vec<[u8; 8]>, Result<Chain, DropReason>);
        let rows: Vec<Row> = vec![
            ("no extension", TCP, vec![], Ok(Chain { protocol: TCP, l4: 0, fragment: None })),
            (
                "options",
                HOP_BY_HOP,
                vec![header(TCP, 0, 1, 4)],
                Ok(Chain { protocol: TCP, l4: 8, fragment: None }),
            ),
            (
                "long options",
                DESTINATION,
                vec![header(TCP, 1, 1, 12), [0; 8]],
                Ok(Chain { protocol: TCP, l4: 16, fragment: None }),
            ),
            (
                "a used-up routing header",
                ROUTING,
                vec![header(TCP, 0, 2, 0)],
                Ok(Chain { protocol: TCP, l4: 8, fragment: None }),
            ),
            (
                "a first fragment",
                FRAGMENT,
                vec![header(DESTINATION, 0, 0, 1), header(TCP, 0, 1, 4)],
                Ok(Chain { protocol: TCP, l4: 16, fragment: Some(fragment(0, true)) }),
            ),
            (
                "a later fragment: what follows is payload",
                FRAGMENT,
                vec![header(DESTINATION, 0, 0x05, 0xc8), [0xff; 8]],
                Ok(Chain { protocol: DESTINATION, l4: 8, fragment: Some(fragment(1480, false)) }),
            ),
            (
                "an atomic fragment is an ordinary packet",
                FRAGMENT,
                vec![header(TCP, 0, 0, 0)],
                Ok(Chain { protocol: TCP, l4: 8, fragment: None }),
            ),
            (
                "hop-by-hop second",
                DESTINATION,
                vec![header(HOP_BY_HOP, 0, 1, 4), header(TCP, 0, 1, 4)],
                Err(DropReason::Ipv6Extension),
            ),
            ("segments left", ROUTING, vec![header(TCP, 0, 0, 1)], Err(DropReason::Ipv6Extension)),
            ("over the end", DESTINATION, vec![header(TCP, 1, 1, 4)], Err(DropReason::BadLength)),
            ("cut off", DESTINATION, vec![], Err(DropReason::BadLength)),
            (
                "cut off in a first fragment",
                FRAGMENT,
                vec![header(DESTINATION, 0, 0, 1)],
                Err(DropReason::BadFragment),
            ),
            (
                "a fragment in a fragment",
                FRAGMENT,
                vec![header(FRAGMENT, 0, 0, 1), header(TCP, 0, 0, 1)],
                Err(DropReason::BadFragment),
            ),
            (
                "five",
                DESTINATION,
                [vec![header(DESTINATION, 0, 1, 4); 4], vec![header(TCP, 0, 1, 4)]].concat(),
                Ok(Chain { protocol: TCP, l4: 40, fragment: None }),
            ),
            (
                "six",
                DESTINATION,
                [vec![header(DESTINATION, 0, 1, 4); 5], vec![header(TCP, 0, 1, 4)]].concat(),
                Err(DropReason::Ipv6Extension),
            ),
        ];
        for (name, next, headers, expected) in rows {
            assert_eq!(walk(&headers.concat(), next, 0), expected, "{name}");
        }
    }
}
