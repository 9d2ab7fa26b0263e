//! Packets for the cluster, all of whose checksums `etherparse` has made.

use std::net::IpAddr;

use super::cluster::{Host, INNER_DST, INNER_SRC, NODE_A, ROUTER_MAC, UPLINK, VNI, mac, node_mac, peer_mac};
use crate::snapshot::{Mac, PortIndex};
use crate::wire::build::{Spec, Transport};
use crate::wire::tcp::{ACK, SYN};

/// An address and a port.
pub(super) type End = (IpAddr, u16);

pub(super) const DATA: &[u8] = b"an odd number of bytes!";

pub(super) fn spec(src: IpAddr, dst: IpAddr, transport: Transport, payload: &[u8]) -> Spec {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Spec::v4(src.octets(), dst.octets(), transport, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Spec::v6(src.octets(), dst.octets(), transport, payload),
        ends => panic!("two families: {ends:?}"),
    }
}

pub(super) fn tcp(src: End, dst: End, flags: u8) -> Spec {
    spec(src.0, dst.0, Transport::Tcp { ports: [src.1, dst.1], flags, options: vec![] }, DATA)
}

/// A segment in the middle of a connection.
pub(super) fn segment(src: End, dst: End) -> Spec {
    tcp(src, dst, ACK)
}

pub(super) fn syn(src: End, dst: End) -> Spec {
    Spec { payload: vec![], ..tcp(src, dst, SYN) }
}

pub(super) fn udp(src: End, dst: End) -> Spec {
    spec(src.0, dst.0, Transport::Udp { ports: [src.1, dst.1] }, DATA)
}

/// Echo request or reply.
pub(super) fn echo(src: IpAddr, dst: IpAddr, identifier: u16, reply: bool) -> Spec {
    let kind = match (src.is_ipv6(), reply) {
        (false, false) => 8,
        (false, true) => 0,
        (true, false) => 128,
        (true, true) => 129,
    };
    let [a, b] = identifier.to_be_bytes();
    spec(src, dst, Transport::Icmp { kind, code: 0, rest: [a, b, 0, 7] }, DATA)
}

/// An ICMP error that quotes an IP packet: type and code by family.
pub(super) fn error(src: IpAddr, dst: IpAddr, kinds: [(u8, u8); 2], quoted: &[u8]) -> Spec {
    let (kind, code) = kinds[usize::from(src.is_ipv6())];
    spec(src, dst, Transport::Icmp { kind, code, rest: [0; 4] }, quoted)
}

/// "Time exceeded", IPv4 and IPv6.
pub(super) const TIME_EXCEEDED: [(u8, u8); 2] = [(11, 0), (3, 0)];
/// "Port unreachable", IPv4 and IPv6.
pub(super) const PORT_UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];

impl Spec {
    /// The same after a router.
    pub(super) fn hop(&self) -> Spec {
        Spec { ttl: self.ttl - 1, ..self.clone() }
    }

    /// The same between other ends (for an echo, the source's port is the identifier).
    pub(super) fn between(&self, src: End, dst: End) -> Spec {
        let transport = match &self.transport {
            Transport::Tcp { flags, options, .. } => {
                Transport::Tcp { ports: [src.1, dst.1], flags: *flags, options: options.clone() }
            }
            Transport::Udp { .. } => Transport::Udp { ports: [src.1, dst.1] },
            Transport::Icmp { kind, code, rest } => {
                let [a, b] = src.1.to_be_bytes();
                Transport::Icmp { kind: *kind, code: *code, rest: [a, b, rest[2], rest[3]] }
            }
            other => other.clone(),
        };
        let ends = spec(src.0, dst.0, transport.clone(), &[]);
        Spec { src: ends.src, dst: ends.dst, transport, ..self.clone() }
    }

    /// The frame with these MAC addresses.
    pub(super) fn framed(&self, dst: Mac, src: Mac) -> Vec<u8> {
        let (mut frame, _) = self.frame();
        frame[..6].copy_from_slice(&dst);
        frame[6..12].copy_from_slice(&src);
        frame
    }

    /// As it comes in by a port: from whoever is behind it.
    pub(super) fn entering(&self, port: PortIndex) -> Vec<u8> {
        self.framed(mac(port), if port == UPLINK { ROUTER_MAC } else { peer_mac(port) })
    }

    /// As it must leave by a port, towards whoever is behind it.
    pub(super) fn out_of(&self, port: PortIndex) -> Vec<u8> {
        self.framed(if port == UPLINK { ROUTER_MAC } else { peer_mac(port) }, mac(port))
    }

    /// The IP packet alone.
    pub(super) fn packet(&self) -> Vec<u8> {
        self.frame().0.split_off(14)
    }

    /// As it comes in by the uplink, in the tunnel of a node.
    pub(super) fn tunnelled_by(&self, node: Host) -> Vec<u8> {
        tunnelled(node, node.at(false), VNI, &self.framed(INNER_DST, INNER_SRC))
    }
}

/// An inner frame in a tunnel from `src` to this node.
pub(super) fn tunnelled(node: Host, src: IpAddr, vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0], inner].concat();
    let transport = Transport::Udp { ports: [50_000, 4789] };
    spec(src, NODE_A.at(src.is_ipv6()), transport, &payload).framed(mac(UPLINK), node_mac(node))
}
