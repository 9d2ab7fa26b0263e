//! Packets for tests, made by `etherparse` and not by what is tested.

use afxdp_driver::{Frame, FramePool, HugePages};
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
    TcpHeader,
};
use proptest::prelude::*;

use super::parse::{DONT_FRAGMENT, FRAGMENT, FRAGMENT_LATER, L4Kind, Parsed};
use super::{ETHERNET_LEN, ICMP, ICMPV6, Mac, SCTP, TCP, UDP};

pub(crate) const SRC_MAC: Mac = [2, 0, 0, 0, 0, 0x0a];
pub(crate) const DST_MAC: Mac = [2, 0, 0, 0, 0, 0x01];

/// A frame with these bytes, and the pool that it is of (keep it: the frame lives in it).
pub(crate) fn frame_of(bytes: &[u8]) -> (FramePool, Frame) {
    let mut pool = FramePool::anonymous(1, HugePages::Never).unwrap();
    let mut frame = pool.alloc().unwrap();
    assert!(frame.fill(bytes));
    (pool, frame)
}

/// What the transport of a packet is to be.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Tcp {
        ports: [u16; 2],
        flags: u8,
        options: Vec<u8>,
    },
    Udp {
        ports: [u16; 2],
    },
    /// ICMP or ICMPv6 by the family: type, code, and the four bytes behind the checksum.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    Other {
        protocol: u8,
    },
}

/// What a packet is to be.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) ttl: u8,
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
    /// 32-bit words of IPv4 options (0–10), or 8-byte units of IPv6 destination options (0: no such header).
    pub(crate) options: u8,
    pub(crate) fragment: Piece,
    /// Bytes behind the IP packet.
    pub(crate) padding: usize,
}

/// Which part of the packet the frame carries: the cut is behind 64 bytes of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Whole,
    First,
    Later,
}

/// Identification of the fragments made here.
pub(crate) const IDENTIFICATION: u16 = 0x1d1d;
const CUT: usize = 64;

impl Spec {
    pub(crate) fn v4(src: [u8; 4], dst: [u8; 4], transport: Transport, payload: &[u8]) -> Self {
        let wide = |address: [u8; 4]| std::array::from_fn(|i| address.get(i).copied().unwrap_or(0));
        Spec { v6: false, ..Spec::v6(wide(src), wide(dst), transport, payload) }
    }

    pub(crate) fn v6(src: [u8; 16], dst: [u8; 16], transport: Transport, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Spec {
            v6: true,
            src,
            dst,
            ttl: 64,
            transport,
            payload,
            options: 0,
            fragment: Piece::Whole,
            padding: 0,
        }
    }

    /// The frame, with every checksum right, and what `parse` must say of it.
    pub(crate) fn frame(&self) -> (Vec<u8>, Parsed) {
        let whole = self.transport_bytes();
        let (part, offset, more) = match self.fragment {
            Piece::Whole => (&whole[..], 0, false),
            Piece::First => (&whole[..CUT], 0, true),
            Piece::Later => (&whole[CUT..], CUT / 8, false),
        };
        let ip =
            if self.v6 { self.ipv6(part, offset as u16, more) } else { self.ipv4(part, offset as u16, more) };
        let mut frame = [&DST_MAC[..], &SRC_MAC[..]].concat();
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame.extend(&ip);
        let parsed = self.parsed(ip.len(), ETHERNET_LEN + ip.len() - part.len());
        frame.extend(vec![0xa5; self.padding]);
        (frame, parsed)
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => TCP,
            Transport::Udp { .. } => UDP,
            Transport::Icmp { .. } if self.v6 => ICMPV6,
            Transport::Icmp { .. } => ICMP,
            Transport::Other { protocol } => protocol,
        }
    }

    fn parsed(&self, ip_len: usize, l4: usize) -> Parsed {
        let later = self.fragment == Piece::Later;
        let (kind, [src_port, dst_port], tcp_flags) = match &self.transport {
            _ if later => (L4Kind::Other, [0, 0], 0),
            Transport::Tcp { ports, flags, .. } => (L4Kind::Tcp, *ports, *flags),
            Transport::Udp { ports } => (L4Kind::Udp, *ports, 0),
            Transport::Icmp { kind, rest, .. } => {
                let identifier = u16::from_be_bytes([rest[0], rest[1]]);
                match (self.v6, kind) {
                    (false, 0 | 8) | (true, 128 | 129) => (L4Kind::Echo, [identifier; 2], 0),
                    (false, 3 | 11 | 12) | (true, 1..=4) => (L4Kind::IcmpError, [0, 0], 0),
                    _ => (L4Kind::Icmp, [0, 0], 0),
                }
            }
            Transport::Other { protocol: SCTP } => {
                let port = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
                (L4Kind::Other, [port(0), port(2)], 0)
            }
            Transport::Other { .. } => (L4Kind::Other, [0, 0], 0),
        };
        let fragment = match self.fragment {
            Piece::Whole => DONT_FRAGMENT,
            Piece::First => FRAGMENT | if self.v6 { DONT_FRAGMENT } else { 0 },
            Piece::Later => FRAGMENT | FRAGMENT_LATER | if self.v6 { DONT_FRAGMENT } else { 0 },
        };
        Parsed {
            addresses: self.addresses(),
            src_port,
            dst_port,
            ip_len: ip_len as u16,
            l3: ETHERNET_LEN as u8,
            l4: l4 as u8,
            protocol: self.protocol(),
            kind,
            v6: self.v6,
            ttl: self.ttl,
            tcp_flags,
            fragment,
        }
    }

    fn addresses(&self) -> [u64; 4] {
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
        if self.v6 {
            [word(&self.src[..8]), word(&self.src[8..]), word(&self.dst[..8]), word(&self.dst[8..])]
        } else {
            [word(&[&self.src[..4], &self.dst[..4]].concat()), 0, 0, 0]
        }
    }

    /// Transport header and payload of the whole packet.
    fn transport_bytes(&self) -> Vec<u8> {
        let narrow = |address: &[u8; 16]| [address[0], address[1], address[2], address[3]];
        let builder = if self.v6 {
            PacketBuilder::ipv6(self.src, self.dst, self.ttl)
        } else {
            PacketBuilder::ipv4(narrow(&self.src), narrow(&self.dst), self.ttl)
        };
        let (mut bytes, payload) = (Vec::new(), &self.payload);
        match &self.transport {
            Transport::Tcp { ports, flags, options } => {
                let mut header = TcpHeader::new(ports[0], ports[1], 0x0102_0304, 4096);
                header.acknowledgment_number = 0x0a0b_0c0d;
                header.set_options_raw(options).unwrap();
                let has = |bit: u8| flags & bit != 0;
                (header.fin, header.syn, header.rst, header.psh) = (has(1), has(2), has(4), has(8));
                (header.ack, header.urg, header.ece, header.cwr) = (has(16), has(32), has(64), has(128));
                builder.tcp_header(header).write(&mut bytes, payload).unwrap();
            }
            Transport::Udp { ports } => builder.udp(ports[0], ports[1]).write(&mut bytes, payload).unwrap(),
            Transport::Icmp { kind, code, rest } if self.v6 => {
                builder.icmpv6_raw(*kind, *code, *rest).write(&mut bytes, payload).unwrap();
            }
            Transport::Icmp { kind, code, rest } => {
                builder.icmpv4_raw(*kind, *code, *rest).write(&mut bytes, payload).unwrap();
            }
            Transport::Other { .. } => return payload.clone(),
        }
        bytes.split_off(if self.v6 { 40 } else { 20 })
    }

    fn ipv4(&self, part: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let narrow = |address: &[u8; 16]| [address[0], address[1], address[2], address[3]];
        let (src, dst) = (narrow(&self.src), narrow(&self.dst));
        let mut header = Ipv4Header::new(0, self.ttl, IpNumber(self.protocol()), src, dst).unwrap();
        header.options = vec![1; self.options as usize * 4].as_slice().try_into().unwrap();
        header.set_payload_len(part.len()).unwrap();
        header.identification = IDENTIFICATION;
        header.dont_fragment = self.fragment == Piece::Whole;
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], part].concat()
    }

    fn ipv6(&self, part: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let mut next = IpNumber(self.protocol());
        let mut extensions = Vec::new();
        if self.fragment != Piece::Whole {
            let offset = IpFragOffset::try_new(offset).unwrap();
            let header = Ipv6FragmentHeader::new(next, offset, more, IDENTIFICATION as u32);
            extensions = header.to_bytes().to_vec();
            next = IpNumber(44);
        }
        if self.options > 0 {
            // PadN over all of it.
            let mut body = vec![0; self.options as usize * 8 - 2];
            (body[0], body[1]) = (1, body.len() as u8 - 2);
            let header = Ipv6RawExtHeader::new_raw(next, &body).unwrap();
            extensions = [&header.to_bytes()[..], &extensions].concat();
            next = IpNumber(60);
        }
        let header = Ipv6Header {
            payload_length: (extensions.len() + part.len()) as u16,
            next_header: next,
            hop_limit: self.ttl,
            source: self.src,
            destination: self.dst,
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], &extensions, part].concat()
    }
}

pub(crate) const V4: ([u8; 4], [u8; 4]) = ([10, 0, 0, 10], [10, 1, 0, 20]);
pub(crate) const V6: ([u8; 16], [u8; 16]) = (
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
    [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20],
);

/// A packet of either family between the two ends above.
pub(crate) fn between(v6: bool, transport: Transport, payload: &[u8]) -> Spec {
    if v6 { Spec::v6(V6.0, V6.1, transport, payload) } else { Spec::v4(V4.0, V4.1, transport, payload) }
}

pub(crate) fn tcp(flags: u8) -> Transport {
    Transport::Tcp { ports: [40_000, 80], flags, options: vec![] }
}

pub(crate) fn udp() -> Transport {
    Transport::Udp { ports: [40_000, 53] }
}

/// A packet of each transport with a checksum, in both families, with an odd number of bytes.
pub(crate) fn one_of_each() -> Vec<Vec<u8>> {
    let icmp = |kind| Transport::Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 1] };
    let mut frames = Vec::new();
    for (v6, [echo, error, other]) in [(false, [8, 3, 9]), (true, [128, 1, 133])] {
        for transport in [tcp(16), udp(), icmp(echo), icmp(error), icmp(other)] {
            frames.push(between(v6, transport, b"an odd number of bytes!").frame().0);
        }
    }
    frames
}

/// Any packet that is right in every way.
pub(crate) fn any_packet() -> impl Strategy<Value = (Vec<u8>, Parsed)> {
    any_spec().prop_map(|spec| spec.frame())
}

pub(crate) fn any_spec() -> impl Strategy<Value = Spec> {
    let family = any::<bool>();
    let ends = (any::<[u8; 16]>(), any::<[u8; 16]>());
    let payload = proptest::collection::vec(any::<u8>(), 0..300);
    let rest = (0u8..=3, 0u8..8, 0usize..20, any::<u8>());
    (family, ends, payload, rest).prop_flat_map(
        |(v6, (mut src, mut dst), mut payload, (options, piece, padding, ttl))| {
            // Unicast, of two hosts, whatever else.
            src[0] = if v6 { 0x20 | src[0] & 0x1f } else { 1 + src[0] % 100 };
            dst[0] = if v6 { 0x20 | dst[0] & 0x1f } else { 101 + dst[0] % 20 };
            dst[15] = !src[15];
            let fragment = match piece {
                0 => Piece::First,
                1 => Piece::Later,
                _ => Piece::Whole,
            };
            if fragment != Piece::Whole {
                payload.resize(payload.len() + 100, 0x77);
            }
            any_transport(v6).prop_map(move |transport| {
                let mut payload = payload.clone();
                if let Transport::Other { .. } = transport {
                    payload.resize(payload.len().max(16), 0);
                }
                Spec { v6, src, dst, ttl, transport, payload, options, fragment, padding }
            })
        },
    )
}

fn any_transport(v6: bool) -> impl Strategy<Value = Transport> {
    let flags = any::<u8>().prop_map(|flags| if flags & 2 != 0 { flags & !5 } else { flags | 16 });
    let words = proptest::collection::vec(any::<[u8; 4]>(), 0..=10);
    let kinds =
        if v6 { vec![1, 2, 3, 4, 128, 129, 130, 133, 135, 143] } else { vec![0, 3, 4, 5, 8, 9, 11, 12] };
    prop_oneof![
        (any::<[u16; 2]>(), flags, words).prop_map(|(ports, flags, options)| Transport::Tcp {
            ports,
            flags,
            options: options.concat()
        }),
        any::<[u16; 2]>().prop_map(|ports| Transport::Udp { ports }),
        (prop::sample::select(kinds), any::<u8>(), any::<[u8; 4]>())
            .prop_map(|(kind, code, rest)| Transport::Icmp { kind, code, rest }),
        prop::sample::select(vec![47, 50, 89, SCTP]).prop_map(|protocol| Transport::Other { protocol }),
    ]
}

pub(crate) fn is_later_fragment(parsed: &Parsed) -> bool {
    parsed.fragment & FRAGMENT_LATER != 0
}

/// `parsed` with the addresses that now stand in the frame.
pub(crate) fn with_addresses_of(frame: &[u8], parsed: &Parsed) -> Parsed {
    let l3 = parsed.l3 as usize;
    let word = |at: usize| u64::from_ne_bytes(frame[at..at + 8].try_into().unwrap());
    let addresses = if parsed.v6 {
        [word(l3 + 8), word(l3 + 16), word(l3 + 24), word(l3 + 32)]
    } else {
        [word(l3 + 12), 0, 0, 0]
    };
    Parsed { addresses, ..*parsed }
}
