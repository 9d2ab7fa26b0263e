//! [`Template`]: one kind of packet, built once with `etherparse`; each packet sent is the template with its flow
//! and its stamp written in and the checksums brought up to date from sums prepared beforehand.
//!
//! [`compose`] builds the same packet from nothing, all checksums computed by `etherparse`: it makes the templates
//! and, in the tests, judges them.

use std::net::IpAddr;

use etherparse::PacketBuilder;

use crate::checksum::{complement, complement_udp, fold, sum};
use crate::flow::{Flow, MacAddr};
use crate::mix::Protocol;
use crate::rate::FCS;
use crate::stamp::{STAMP_LEN, Stamp};

/// UDP port of VXLAN (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

const ETHERNET: usize = 14;
const UDP: usize = 8;
const VXLAN: usize = 8;

/// A packet that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The frame has no room for the headers and the stamp.
    #[error(
        "a frame of {size} bytes is too small: {protocol} with these headers and the stamp needs {minimum} (FCS included)"
    )]
    TooSmall {
        /// What was asked for, frame check sequence included.
        size: usize,
        /// The protocol.
        protocol: Protocol,
        /// The smallest frame that will do, frame check sequence included.
        minimum: usize,
    },
    /// `etherparse` refused.
    #[error("building a {protocol} packet of {size} bytes: {reason}")]
    Build {
        /// The size, frame check sequence included.
        size: usize,
        /// The protocol.
        protocol: Protocol,
        /// What it said.
        reason: String,
    },
}

/// The VXLAN envelope around every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address, of the same family.
    pub destination: IpAddr,
    /// Outer UDP destination port.
    pub port: u16,
    /// MAC addresses of the inner frame: source, destination.
    pub inner_macs: (MacAddr, MacAddr),
}

/// What the headers of all packets of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Source MAC address of the frame on the wire.
    pub source_mac: MacAddr,
    /// Destination MAC address of the frame on the wire.
    pub destination_mac: MacAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Where packets travel in VXLAN.
    pub envelope: Option<Envelope>,
}

impl Headers {
    /// The smallest frame for `protocol`, frame check sequence included: headers and stamp, and never below the 64
    /// bytes of Ethernet. `v6` says whether the packets (inner, where there is an envelope) are IPv6.
    pub fn minimum(&self, protocol: Protocol, v6: bool) -> usize {
        (self.payload_at(protocol, v6) + STAMP_LEN + FCS).max(64)
    }

    /// Where the payload begins.
    fn payload_at(&self, protocol: Protocol, v6: bool) -> usize {
        let transport = match protocol {
            Protocol::Tcp | Protocol::TcpSyn | Protocol::TcpStream => 20,
            Protocol::Udp | Protocol::Icmp => 8,
        };
        self.ip_at() + ip_header(v6) + transport
    }

    /// Where the (inner) IP header begins.
    fn ip_at(&self) -> usize {
        let envelope =
            self.envelope.map_or(0, |envelope| ETHERNET + ip_header(envelope.source.is_ipv6()) + UDP + VXLAN);
        envelope + ETHERNET
    }
}

/// One kind of packet, ready to be sent for any flow.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    protocol: Protocol,
    v6: bool,
    ip_at: usize,
    transport_at: usize,
    payload_at: usize,
    checksum_at: usize,
    /// Sum of the IPv4 header with addresses and checksum zero.
    ip_sum: u64,
    /// Sum of pseudo-header and transport with addresses, ports, stamp and checksum zero.
    transport_sum: u64,
    /// Where the outer source port of the envelope is.
    entropy_at: Option<usize>,
}

impl Template {
    /// A template for frames of `size` bytes, frame check sequence included, of IPv6 where `v6`.
    ///
    /// # Errors
    /// [`PacketError`] where the size does not hold the headers and the stamp.
    pub fn new(headers: &Headers, protocol: Protocol, v6: bool, size: usize) -> Result<Self, PacketError> {
        let nowhere: IpAddr = if v6 { [0u16; 8].into() } else { [0u8; 4].into() };
        let flow = Flow { source: nowhere, destination: nowhere, source_port: 0, destination_port: 0 };
        let bytes = compose(headers, protocol, &flow, &[0; STAMP_LEN], 0, size)?;
        let ip_at = headers.ip_at();
        let transport_at = ip_at + ip_header(v6);
        let checksum_at = transport_at + checksum_offset(protocol);
        let field = |at: usize| bytes.get(at..at + 2).map_or(0, sum);
        // The complement of a checksum is the sum of everything else.
        Ok(Template {
            ip_sum: if v6 { 0 } else { u64::from(!fold(field(ip_at + 10))) },
            transport_sum: u64::from(!fold(field(checksum_at))),
            entropy_at: headers.envelope.map(|envelope| ETHERNET + ip_header(envelope.source.is_ipv6())),
            payload_at: headers.payload_at(protocol, v6),
            bytes,
            protocol,
            v6,
            ip_at,
            transport_at,
            checksum_at,
        })
    }

    /// Bytes of the frame, frame check sequence not included.
    #[allow(clippy::len_without_is_empty)] // a frame is never empty
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the transport's payload, the stamp among them.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - self.payload_at
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Writes the packet of `flow` with `stamp`, and in TCP that sequence number, into `out`, which must be [`len`](Self::len) bytes long; false, and
    /// nothing of use written, where it is not, or where the flow's family is not the template's.
    #[inline]
    #[must_use]
    pub fn write(&self, flow: &PreparedFlow, stamp: &Stamp, sequence: u32, out: &mut [u8]) -> bool {
        if out.len() != self.bytes.len() || flow.v6 != self.v6 {
            return false;
        }
        out.copy_from_slice(&self.bytes);
        self.patch(flow, stamp, sequence, out).is_some()
    }

    /// As [`write`](Self::write), for an engine that changes ports and stamp later on: the UDP checksum says "none".
    /// Returns where the stamp is; `None` also where the packet is not plain UDP over IPv4, which alone may go
    /// without.
    pub fn write_unsummed(&self, flow: &PreparedFlow, stamp: &Stamp, out: &mut [u8]) -> Option<usize> {
        let plain = self.protocol == Protocol::Udp && !self.v6 && self.entropy_at.is_none();
        if !plain || !self.write(flow, stamp, 0, out) {
            return None;
        }
        out.get_mut(self.checksum_at..self.checksum_at + 2)?.fill(0);
        Some(self.payload_at)
    }

    /// Writes what differs from packet to packet. Every offset lies within the template; `None` cannot happen, and
    /// costs less to state than to argue.
    #[inline]
    fn patch(&self, flow: &PreparedFlow, stamp: &Stamp, sequence: u32, out: &mut [u8]) -> Option<()> {
        let stamp = stamp.to_bytes();
        let mut transport_sum = self.transport_sum + sum(&stamp);
        if self.v6 {
            out.get_mut(self.ip_at + 8..self.ip_at + 40)?.copy_from_slice(&flow.addresses);
            transport_sum += flow.addresses_sum;
        } else {
            out.get_mut(self.ip_at + 12..self.ip_at + 20)?.copy_from_slice(flow.addresses.get(..8)?);
            let checksum = complement(self.ip_sum + flow.addresses_sum);
            out.get_mut(self.ip_at + 10..self.ip_at + 12)?.copy_from_slice(&checksum.to_be_bytes());
            if self.protocol != Protocol::Icmp {
                transport_sum += flow.addresses_sum;
            }
        }
        let checksum = match self.protocol {
            Protocol::Icmp => {
                out.get_mut(self.transport_at + 4..self.transport_at + 6)?
                    .copy_from_slice(flow.ports.get(..2)?);
                complement(transport_sum + flow.source_port_sum)
            }
            Protocol::Tcp | Protocol::TcpSyn | Protocol::TcpStream => {
                out.get_mut(self.transport_at..self.transport_at + 4)?.copy_from_slice(&flow.ports);
                let sequence = sequence.to_be_bytes();
                out.get_mut(self.transport_at + 4..self.transport_at + 8)?.copy_from_slice(&sequence);
                complement(transport_sum + flow.ports_sum + sum(&sequence))
            }
            Protocol::Udp => {
                out.get_mut(self.transport_at..self.transport_at + 4)?.copy_from_slice(&flow.ports);
                complement_udp(transport_sum + flow.ports_sum)
            }
        };
        out.get_mut(self.checksum_at..self.checksum_at + 2)?.copy_from_slice(&checksum.to_be_bytes());
        out.get_mut(self.payload_at..self.payload_at + STAMP_LEN)?.copy_from_slice(&stamp);
        if let Some(at) = self.entropy_at {
            out.get_mut(at..at + 2)?.copy_from_slice(&flow.entropy.to_be_bytes());
        }
        Some(())
    }
}

/// A flow with its words summed and its bytes in network order.
#[derive(Debug, Clone)]
pub struct PreparedFlow {
    addresses: [u8; 32],
    ports: [u8; 4],
    addresses_sum: u64,
    ports_sum: u64,
    source_port_sum: u64,
    entropy: u16,
    v6: bool,
}

impl From<&Flow> for PreparedFlow {
    fn from(flow: &Flow) -> Self {
        let mut addresses = [0; 32];
        match (flow.source, flow.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                addresses[..4].copy_from_slice(&source.octets());
                addresses[4..8].copy_from_slice(&destination.octets());
            }
            (source, destination) => {
                addresses[..16].copy_from_slice(&as_v6(source));
                addresses[16..].copy_from_slice(&as_v6(destination));
            }
        }
        let mut ports = [0; 4];
        ports[..2].copy_from_slice(&flow.source_port.to_be_bytes());
        ports[2..].copy_from_slice(&flow.destination_port.to_be_bytes());
        PreparedFlow {
            addresses_sum: sum(&addresses),
            ports_sum: sum(&ports),
            source_port_sum: u64::from(flow.source_port),
            entropy: entropy(flow),
            addresses,
            ports,
            v6: flow.source.is_ipv6(),
        }
    }
}

/// Builds one frame from nothing: `stamp` at the front of the payload, zeros behind it up to `size` bytes, frame
/// check sequence included in the count and not in the result. A TCP segment has that sequence number.
///
/// # Errors
/// [`PacketError`] where the size does not hold the headers and the stamp.
pub fn compose(
    headers: &Headers,
    protocol: Protocol,
    flow: &Flow,
    stamp: &[u8; STAMP_LEN],
    sequence: u32,
    size: usize,
) -> Result<Vec<u8>, PacketError> {
    let v6 = flow.source.is_ipv6();
    let minimum = headers.minimum(protocol, v6);
    if size < minimum {
        return Err(PacketError::TooSmall { size, protocol, minimum });
    }
    let mut payload = vec![0; size - FCS - headers.payload_at(protocol, v6)];
    payload[..STAMP_LEN].copy_from_slice(stamp);
    let failed = |reason: String| PacketError::Build { size, protocol, reason };
    let Some(envelope) = headers.envelope else {
        let macs = (headers.source_mac, headers.destination_mac);
        return packet(macs, headers.ttl, protocol, flow, sequence, &payload).map_err(failed);
    };
    let inner =
        packet(envelope.inner_macs, headers.ttl, protocol, flow, sequence, &payload).map_err(failed)?;
    let mut outer_payload = vec![0x08, 0, 0, 0];
    outer_payload.extend_from_slice(&(envelope.vni << 8).to_be_bytes());
    outer_payload.extend_from_slice(&inner);
    let outer = Flow {
        source: envelope.source,
        destination: envelope.destination,
        source_port: entropy(flow),
        destination_port: envelope.port,
    };
    let macs = (headers.source_mac, headers.destination_mac);
    let mut bytes = packet(macs, headers.ttl, Protocol::Udp, &outer, 0, &outer_payload).map_err(failed)?;
    // RFC 7348 asks for a zero UDP checksum on IPv4, RFC 6936 allows it for tunnels on IPv6.
    let at = ETHERNET + ip_header(envelope.source.is_ipv6()) + 6;
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.fill(0);
    }
    Ok(bytes)
}

fn packet(
    (source_mac, destination_mac): (MacAddr, MacAddr),
    ttl: u8,
    protocol: Protocol,
    flow: &Flow,
    sequence: u32,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let link = PacketBuilder::ethernet2(source_mac.0, destination_mac.0);
    let network = match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            link.ipv4(source.octets(), destination.octets(), ttl)
        }
        (source, destination) => link.ipv6(as_v6(source), as_v6(destination), ttl),
    };
    let mut bytes = Vec::new();
    let (from, to) = (flow.source_port, flow.destination_port);
    match protocol {
        Protocol::Udp => network.udp(from, to).write(&mut bytes, payload),
        Protocol::Tcp | Protocol::TcpStream => {
            network.tcp(from, to, sequence, u16::MAX).ack(1).psh().write(&mut bytes, payload)
        }
        Protocol::TcpSyn => network.tcp(from, to, sequence, u16::MAX).syn().write(&mut bytes, payload),
        Protocol::Icmp if flow.source.is_ipv6() => {
            network.icmpv6_echo_request(from, 0).write(&mut bytes, payload)
        }
        Protocol::Icmp => network.icmpv4_echo_request(from, 0).write(&mut bytes, payload),
    }
    .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The outer source port of VXLAN: a hash of the inner flow into the dynamic ports, as RFC 7348 recommends.
fn entropy(flow: &Flow) -> u16 {
    let ports = [flow.source_port.to_be_bytes(), flow.destination_port.to_be_bytes()].concat();
    let bytes = as_v6(flow.source).into_iter().chain(as_v6(flow.destination)).chain(ports);
    // FNV-1a.
    let hash = bytes.fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    49_152 + (hash % 16_384) as u16
}

fn as_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn ip_header(v6: bool) -> usize {
    if v6 { 40 } else { 20 }
}

fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Udp => 6,
        Protocol::Tcp | Protocol::TcpSyn | Protocol::TcpStream => 16,
        Protocol::Icmp => 2,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const HEADERS: Headers = Headers {
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        ttl: 64,
        envelope: None,
    };

    pub(crate) fn protocols() -> impl Strategy<Value = Protocol> {
        let tcp = prop_oneof![Just(Protocol::Tcp), Just(Protocol::TcpSyn), Just(Protocol::TcpStream)];
        prop_oneof![Just(Protocol::Udp), tcp, Just(Protocol::Icmp)]
    }

    pub(crate) fn flows() -> impl Strategy<Value = Flow> {
        let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(from, to)| (IpAddr::from(from), IpAddr::from(to)));
        let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(from, to)| (IpAddr::from(from), IpAddr::from(to)));
        (prop_oneof![v4, v6], any::<(u16, u16)>()).prop_map(|((source, destination), ports)| Flow {
            source,
            destination,
            source_port: ports.0,
            destination_port: ports.1,
        })
    }

    pub(crate) fn headers() -> impl Strategy<Value = Headers> {
        let envelope = (0u32..1 << 24, any::<bool>()).prop_map(|(vni, v6)| {
            let outer = |last: u8| {
                if v6 {
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
                } else {
                    IpAddr::from([192, 0, 2, last])
                }
            };
            let inner_macs = (MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]));
            Envelope { vni, source: outer(1), destination: outer(2), port: VXLAN_PORT, inner_macs }
        });
        proptest::option::of(envelope).prop_map(|envelope| Headers { envelope, ..HEADERS })
    }

    pub(crate) fn stamps() -> impl Strategy<Value = Stamp> {
        any::<(u16, bool, u64, u64)>().prop_map(|(run, warmup, sequence, sent)| Stamp {
            run,
            stream: run & 0x3ff,
            warmup,
            sequence: sequence & 0xffff_ffff_ffff,
            sent: sent & 0xffff_ffff_ffff,
        })
    }

    proptest! {
        #[test]
        fn a_patched_template_is_the_packet_built_from_nothing(
            headers in headers(), protocol in protocols(), flow in flows(), stamp in stamps(),
            extra in 0usize..1400, sequence in any::<u32>(),
        ) {
            let v6 = flow.source.is_ipv6();
            let size = headers.minimum(protocol, v6) + extra;
            let template = Template::new(&headers, protocol, v6, size).unwrap();
            let mut fast = vec![0xee; template.len()];
            prop_assert!(template.write(&PreparedFlow::from(&flow), &stamp, sequence, &mut fast));
            prop_assert_eq!(fast, compose(&headers, protocol, &flow, &stamp.to_bytes(), sequence, size).unwrap());
        }
    }

    #[test]
    fn minimum_sizes_are_what_the_headers_need() {
        let vxlan = Headers {
            envelope: Some(Envelope {
                vni: 42,
                source: [192, 0, 2, 1].into(),
                destination: [192, 0, 2, 2].into(),
                port: VXLAN_PORT,
                inner_macs: (HEADERS.source_mac, HEADERS.destination_mac),
            }),
            ..HEADERS
        };
        let rows = [
            (HEADERS, Protocol::Udp, false, 64),
            (HEADERS, Protocol::Icmp, false, 64),
            (HEADERS, Protocol::Tcp, false, 76),
            (HEADERS, Protocol::Udp, true, 84),
            (HEADERS, Protocol::Tcp, true, 96),
            (vxlan, Protocol::Udp, false, 114),
        ];
        for (headers, protocol, v6, minimum) in rows {
            assert_eq!(headers.minimum(protocol, v6), minimum, "{protocol} v6={v6}");
            assert!(Template::new(&headers, protocol, v6, minimum).is_ok());
            let error = Template::new(&headers, protocol, v6, minimum - 1).unwrap_err();
            assert_eq!(error, PacketError::TooSmall { size: minimum - 1, protocol, minimum });
        }
    }

    #[test]
    fn the_smallest_udp_frame_is_sixty_bytes_and_nothing_is_written_past_it() {
        let template = Template::new(&HEADERS, Protocol::Udp, false, 64).unwrap();
        assert_eq!((template.len(), template.payload_len()), (60, STAMP_LEN));
        let flow = Flow {
            source: [1, 2, 3, 4].into(),
            destination: [5, 6, 7, 8].into(),
            source_port: 1,
            destination_port: 2,
        };
        let stamp = Stamp { run: 0, stream: 0, warmup: false, sequence: 0, sent: 0 };
        for len in [0, 59, 61] {
            assert!(!template.write(&PreparedFlow::from(&flow), &stamp, 0, &mut vec![0; len]));
        }
    }
}
