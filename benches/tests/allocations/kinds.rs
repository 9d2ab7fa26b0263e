//! Packets by what becomes of them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use benches::cluster::{
    self, BACKEND_PORT, CLIENT, CLIENT_PORT, CLIENT_V6, NEIGHBOUR, NEIGHBOUR_PORT, NEIGHBOUR_V6,
    SERVICE_PORT, UPLINK_PORT,
};
use dataplane::counters::WorkerCounters;
use dataplane::drops::DropReason;
use dataplane::snapshot::PortIndex;
use dataplane::wire::vxlan;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber,
    Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep,
};

use crate::lab::{
    EMPTY, ENTRIES, GATEWAY, GATEWAY_V6, INNER_MAC, NOBODY, NODE, OTHER_NODE, PEER_MAC, PORT_MAC, SILENT, VNI,
};

/// Packets of one kind.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) port: PortIndex,
    pub(crate) frames: Arc<[Vec<u8>]>,
    /// Whether the worker has to have forgotten all flows.
    pub(crate) strangers: bool,
    /// By what they are seen to be of that kind: as many more at least, each time.
    pub(crate) seen: fn(&WorkerCounters) -> u64,
}

/// Packets of a kind.
const PACKETS: u16 = 128;

/// Those of the client.
fn kind(name: &'static str, seen: fn(&WorkerCounters) -> u64, frame: impl Fn(u16) -> Vec<u8>) -> Kind {
    let frames = (0..PACKETS).map(frame).collect();
    Kind { name, port: CLIENT_PORT, frames, strangers: false, seen }
}

impl Kind {
    fn of_strangers(self) -> Kind {
        Kind { strangers: true, ..self }
    }

    fn by(self, port: PortIndex) -> Kind {
        Kind { port, ..self }
    }
}

/// Every kind.
pub(crate) fn all() -> Vec<Kind> {
    [flows(), denials(), answers(), tunnels(), oddities()].into_iter().flatten().collect()
}

fn hits(counters: &WorkerCounters) -> u64 {
    counters.flow_hits.read()
}

fn misses(counters: &WorkerCounters) -> u64 {
    counters.flow_misses.read()
}

fn generated(counters: &WorkerCounters) -> u64 {
    counters.generated.read()
}

fn drops(counters: &WorkerCounters, reason: DropReason) -> u64 {
    counters.drops[reason as usize].read()
}

// ---------------------------------------------------------------------------------------------------- kinds

fn flows() -> Vec<Kind> {
    let service =
        |number: u16| client_to(cluster::service_address(number % 8)).tcp_from(1000 + number, SERVICE_PORT);
    let service_v6 =
        |number: u16| client_to_v6(cluster::service_address_v6(1)).tcp_from(1000 + number, SERVICE_PORT);
    let forward = |number: u16| client_to(NEIGHBOUR).tcp_from(3000 + number, BACKEND_PORT);
    let forward_v6 = |number: u16| client_to_v6(NEIGHBOUR_V6).tcp_from(3000 + number, BACKEND_PORT);
    vec![
        kind("new flows to a Service", misses, service).of_strangers(),
        kind("known flows to a Service, by VXLAN", hits, service),
        kind("new flows to a Service, IPv6", misses, service_v6).of_strangers(),
        kind("known flows to a Service, IPv6, by VXLAN", hits, service_v6),
        kind("new flows to a neighbour", misses, forward).of_strangers(),
        kind("known flows to a neighbour", hits, forward),
        kind("new flows to a neighbour, IPv6", misses, forward_v6).of_strangers(),
        kind("known flows to a neighbour, IPv6", hits, forward_v6),
        flood(),
    ]
}

/// More new flows than the table holds.
fn flood() -> Kind {
    let frame = |number| client_to(cluster::service_address(2)).tcp_from(number, SERVICE_PORT);
    let frames = (1..=2 * ENTRIES as u16).map(frame).collect();
    Kind { frames, ..kind("a flood of new flows", misses, |_| Vec::new()).of_strangers() }
}

fn denials() -> Vec<Kind> {
    let denied: fn(&WorkerCounters) -> u64 = |counters| drops(counters, DropReason::PolicyEgress);
    let refused: fn(&WorkerCounters) -> u64 = |counters| drops(counters, DropReason::ServiceReject);
    let neighbour = |number: u16| client_to(NEIGHBOUR).tcp_from(5000 + number, 22);
    let neighbour_v6 = |number: u16| client_to_v6(NEIGHBOUR_V6).tcp_from(5000 + number, 22);
    let empty = |number: u16| client_to(EMPTY).tcp_from(7000 + number, SERVICE_PORT);
    vec![
        kind("denied for the first time", denied, neighbour).of_strangers(),
        kind("denied again", denied, neighbour),
        kind("denied for the first time, IPv6", denied, neighbour_v6).of_strangers(),
        kind("denied again, IPv6", denied, neighbour_v6),
        kind("refused by a Service without backends", refused, empty),
        kind(
            "another's address",
            |counters| drops(counters, DropReason::SpoofedSource),
            |number| v4(Ipv4Addr::new(10, 1, 0, 200), NEIGHBOUR, 64).tcp_from(1 + number, BACKEND_PORT),
        ),
    ]
}

/// What the worker itself answers.
fn answers() -> Vec<Kind> {
    let used_up: fn(&WorkerCounters) -> u64 =
        |counters| drops(counters, DropReason::TtlExceeded).min(counters.generated.read());
    let too_big: fn(&WorkerCounters) -> u64 =
        |counters| drops(counters, DropReason::TooBig).min(counters.generated.read());
    let service = cluster::service_address(1);
    vec![
        kind("a used-up TTL", used_up, |number| v4(CLIENT, service, 1).tcp_from(9000 + number, SERVICE_PORT)),
        kind("a used-up hop limit", used_up, |number| {
            v6(CLIENT_V6, cluster::service_address_v6(1), 1).tcp_from(9000 + number, SERVICE_PORT)
        }),
        kind("longer than the tunnel takes", too_big, |number| {
            client_to(service).tcp_with(1000 + number, SERVICE_PORT, &[0; 1440])
        }),
        kind("longer than the tunnel takes, IPv6", too_big, |number| {
            client_to_v6(cluster::service_address_v6(1)).tcp_with(1000 + number, SERVICE_PORT, &[0; 1420])
        }),
        kind(
            "to an address that nobody has",
            |counters| drops(counters, DropReason::NoRoute),
            |number| v4(NEIGHBOUR, NOBODY, 64).tcp_from(11_000 + number, BACKEND_PORT),
        )
        .by(NEIGHBOUR_PORT),
        kind("echo to the gateway", generated, |number| {
            client_to(GATEWAY)
                .written(|packet, frame| packet.icmpv4_echo_request(number, 1).write(frame, b"ping"))
        }),
        kind("echo to the gateway, IPv6", generated, |number| {
            client_to_v6(GATEWAY_V6)
                .written(|packet, frame| packet.icmpv6_echo_request(number, 1).write(frame, b"ping"))
        }),
        kind("who has the gateway's address", generated, |_| who_has(GATEWAY)),
        kind("who has the gateway's address, IPv6", generated, |_| solicitation(GATEWAY_V6)),
    ]
}

fn tunnels() -> Vec<Kind> {
    let unknown: fn(&WorkerCounters) -> u64 = |counters| drops(counters, DropReason::UnknownTunnelPeer);
    let inner = |number: u16| {
        let (server, _) = cluster::backend_address(0, 0);
        v4(server, NEIGHBOUR, 63).tcp_from(30_000 + number, BACKEND_PORT)
    };
    let inner_v6 = |number: u16| {
        v6(cluster::backend_address_v6(0, 0), NEIGHBOUR_V6, 63).tcp_from(30_000 + number, BACKEND_PORT)
    };
    vec![
        kind("new flows out of a tunnel", misses, |number| tunnelled(OTHER_NODE, &inner(number)))
            .of_strangers(),
        kind("known flows out of a tunnel", hits, |number| tunnelled(OTHER_NODE, &inner(number))),
        kind("new flows out of a tunnel, IPv6", misses, |number| tunnelled(OTHER_NODE, &inner_v6(number)))
            .of_strangers(),
        kind("known flows out of a tunnel, IPv6", hits, |number| tunnelled(OTHER_NODE, &inner_v6(number))),
        kind("out of a tunnel of nobody", unknown, |number| tunnelled(SILENT, &inner(number))),
    ]
    .into_iter()
    .map(|kind| kind.by(UPLINK_PORT))
    .collect()
}

/// What comes seldom, and what should not come.
fn oddities() -> Vec<Kind> {
    let whole = client_to(NEIGHBOUR).tcp_from(1000, BACKEND_PORT);
    let whole_v6 = client_to_v6(NEIGHBOUR_V6).tcp_from(1000, BACKEND_PORT);
    vec![
        // At least an Ethernet header, less than a TCP header.
        kind("cut off", WorkerCounters::dropped, |number| whole[..14 + usize::from(number) % 40].to_vec()),
        kind("cut off, IPv6", WorkerCounters::dropped, |number| {
            whole_v6[..14 + usize::from(number) % 60].to_vec()
        }),
        kind(
            "fragments, each first one first",
            |counters| hits(counters) + misses(counters),
            |number| fragment(number / 2, number % 2 == 0),
        )
        .by(NEIGHBOUR_PORT),
        kind(
            "fragments without a first one",
            |counters| drops(counters, DropReason::FragmentUnknown),
            |number| fragment(30_000 + number, false),
        )
        .by(NEIGHBOUR_PORT),
        kind("to one on the link who never answers", misses, |number| {
            v4(NEIGHBOUR, SILENT, 64).tcp_from(20_000 + number, BACKEND_PORT)
        })
        .by(NEIGHBOUR_PORT)
        .of_strangers(),
    ]
}

// -------------------------------------------------------------------------------------------------- packets

/// An IP packet to be.
struct Ip(PacketBuilderStep<IpHeaders>);

fn client_to(dst: Ipv4Addr) -> Ip {
    v4(CLIENT, dst, 64)
}

fn client_to_v6(dst: Ipv6Addr) -> Ip {
    v6(CLIENT_V6, dst, 64)
}

fn v4(src: Ipv4Addr, dst: Ipv4Addr, ttl: u8) -> Ip {
    // Don't Fragment is set.
    let header = Ipv4Header::new(0, ttl, IpNumber::TCP, src.octets(), dst.octets()).unwrap();
    Ip(PacketBuilder::ethernet2(PEER_MAC, PORT_MAC).ip(IpHeaders::Ipv4(header, Default::default())))
}

fn v6(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8) -> Ip {
    let header =
        Ipv6Header { hop_limit, source: src.octets(), destination: dst.octets(), ..Ipv6Header::default() };
    Ip(PacketBuilder::ethernet2(PEER_MAC, PORT_MAC).ip(IpHeaders::Ipv6(header, Default::default())))
}

impl Ip {
    fn tcp_from(self, src_port: u16, dst_port: u16) -> Vec<u8> {
        self.tcp_with(src_port, dst_port, b"ten bytes!")
    }

    fn tcp_with(self, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
        self.written(|packet, frame| packet.tcp(src_port, dst_port, 1, 1024).ack(1).write(frame, payload))
    }

    fn written<E: std::fmt::Debug>(
        self,
        write: impl FnOnce(PacketBuilderStep<IpHeaders>, &mut Vec<u8>) -> Result<(), E>,
    ) -> Vec<u8> {
        let mut frame = Vec::new();
        write(self.0, &mut frame).unwrap();
        frame
    }
}

/// A half of a UDP datagram: the first 16 bytes or the rest.
fn fragment(identification: u16, first: bool) -> Vec<u8> {
    let header = Ipv4Header {
        identification,
        dont_fragment: false,
        more_fragments: first,
        fragment_offset: IpFragOffset::try_new(if first { 0 } else { 2 }).unwrap(),
        ..Ipv4Header::new(16, 64, IpNumber::UDP, NEIGHBOUR.octets(), CLIENT.octets()).unwrap()
    };
    let mut frame = ethernet(0x0800);
    header.write(&mut frame).unwrap();
    let [a, b] = (40_000 + identification % 128).to_be_bytes();
    // Without a checksum, which is allowed over IPv4.
    frame.extend([a, b, 0, 53, 0, 32, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame
}

fn who_has(address: Ipv4Addr) -> Vec<u8> {
    let request = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &PEER_MAC,
        &CLIENT.octets(),
        &[0; 6],
        &address.octets(),
    );
    let mut frame = ethernet(0x0806);
    frame.extend_from_slice(&request.unwrap().to_bytes());
    frame
}

/// Neighbour solicitation (RFC 4861, section 4.3) with the source's link-layer address.
fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    let mut body = target.octets().to_vec();
    body.extend([1, 1]);
    body.extend(PEER_MAC);
    let kind = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    v6(CLIENT_V6, target, 255).written(|packet, frame| packet.icmpv6(kind).write(frame, &body))
}

/// A frame as it comes in a tunnel from `node`.
fn tunnelled(node: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::to_be_bytes(VNI);
    let payload = [&[8, 0, 0, 0, a, b, c, 0], &INNER_MAC[..], &PEER_MAC, &inner[12..]].concat();
    v4(node, NODE, 64).written(|packet, frame| packet.udp(50_000, vxlan::PORT).write(frame, &payload))
}

fn ethernet(ethertype: u16) -> Vec<u8> {
    [&PORT_MAC[..], &PEER_MAC, &ethertype.to_be_bytes()].concat()
}
