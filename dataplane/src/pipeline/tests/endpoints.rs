//! TCP between `smoltcp` stacks that know nothing of us: their windows, their checksums, their neighbours.

use std::collections::VecDeque;
use std::sync::Arc;

use afxdp_driver::memory::MemoryWire;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv6Address};

use super::cluster::*;
use super::fixture::{Bench, SIZES, assert_conserved, flow_tables};
use crate::counters::WorkerCounters;
use crate::crossing;
use crate::publish::Publication;
use crate::snapshot::{Mac, PortIndex};
use crate::worker::Now;

const FAMILIES: [bool; 2] = [false, true];
/// Bytes of a transfer.
const LENGTH: usize = 1 << 20;
const BUFFER: usize = 1 << 16;

/// The outer end of a port as a network device.
struct Link(MemoryWire);

struct Received(Vec<u8>);

struct Sending(MemoryWire);

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending)> {
        Some((Received(self.0.take()?), Sending(self.0.clone())))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending> {
        Some(Sending(self.0.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.inject(packet);
        result
    }
}

/// A pod's network stack, with one socket.
struct Stack {
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Stack {
    fn new(wire: MemoryWire, mac: Mac, pod: Host) -> Self {
        let mut link = Link(wire);
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        // IPv6 as a pod is set up: its own address alone, everything else by the gateway. On IPv4 the stack believes no
        // ARP from outside of its network, so all the world is in it: answered by proxy.
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(pod.at(false).into(), 0)).unwrap();
            addresses.push(IpCidr::new(pod.at(true).into(), 128)).unwrap();
        });
        interface.routes_mut().add_default_ipv6_route(Ipv6Address::from(GATEWAY.packed_v6())).unwrap();
        let mut sockets = SocketSet::new(vec![]);
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let socket = sockets.add(Socket::new(buffer(), buffer()));
        Stack { link, interface, sockets, socket }
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.link, &mut self.sockets);
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn connect(&mut self, server: Host, port: u16, v6: bool) {
        let remote = IpEndpoint::new(server.at(v6).into(), port);
        let context = self.interface.context();
        self.sockets.get_mut::<Socket<'_>>(self.socket).connect(context, remote, 40_000).unwrap();
    }
}

/// A node: one worker between memory ports.
struct Node {
    bench: Bench,
    counters: Arc<WorkerCounters>,
    wires: Vec<MemoryWire>,
}

impl Node {
    fn new(cluster: &Cluster) -> Self {
        let publication = Publication::new(cluster.snapshot(), 1);
        let links = crossing::links(1, 1).unwrap().remove(0);
        let bench = Bench::new(0, SIZES, &flow_tables(SIZES.flows), publication.reader(0), links);
        let wires = (0..PORTS as PortIndex).map(|port| bench.attach(port, SIZES.ring)).collect();
        let counters = Arc::clone(&bench.counters);
        Node { bench, counters, wires }
    }

    fn turn(&mut self, millis: i64) {
        let now = Now { seconds: millis as u32 / 1000, nanos: millis as u64 * 1_000_000 };
        while self.bench.worker.turn(now) > 0 {
            assert_conserved(&self.counters);
        }
    }
}

/// The bytes of a transfer: no period that a mixed-up segment could hide in.
fn byte(at: usize) -> u8 {
    (at as u32).wrapping_mul(0x9e37_79b9).rotate_left(9) as u8
}

/// Moves `LENGTH` bytes from client to server and a receipt back; answers with whom the server saw.
fn transfer(node: &mut Node, client: &mut Stack, server: &mut Stack) -> IpEndpoint {
    let (mut sent, mut received, mut receipt) = (0, 0, VecDeque::new());
    let mut peer = None;
    for millis in 0..60_000 {
        let now = Instant::from_millis(millis);
        client.poll(now);
        node.turn(millis);
        server.poll(now);
        node.turn(millis);
        while sent < LENGTH && client.socket().can_send() {
            let chunk: Vec<u8> = (sent..LENGTH.min(sent + 4096)).map(byte).collect();
            sent += client.socket().send_slice(&chunk).unwrap();
        }
        while server.socket().can_recv() {
            peer = server.socket().remote_endpoint().or(peer);
            let start = received;
            received += server
                .socket()
                .recv(|bytes| {
                    for (byte_in, at) in bytes.iter().zip(start..) {
                        assert_eq!(*byte_in, byte(at), "byte {at}");
                    }
                    (bytes.len(), bytes.len())
                })
                .unwrap();
            if received == LENGTH {
                server.socket().send_slice(b"all of it").unwrap();
                server.socket().close();
            }
        }
        if client.socket().can_recv() {
            client.socket().recv(|bytes| (bytes.len(), receipt.extend(bytes.iter().copied()))).unwrap();
        }
        if receipt.len() == 9 {
            client.socket().close();
        }
        // The server has ended it first.
        if server.socket().state() == State::TimeWait && client.socket().state() == State::Closed {
            assert_eq!((sent, received, Vec::from(receipt)), (LENGTH, LENGTH, b"all of it".to_vec()));
            return peer.unwrap();
        }
    }
    panic!("{sent} bytes sent, {received} received: {:?}", node.counters);
}

/// What the worker counted for a transfer in which nothing went wrong.
fn assert_clean(node: &Node) {
    let counters = &node.counters;
    let answered = counters.drops[crate::drops::DropReason::Answered as usize].read();
    assert_eq!(counters.dropped(), answered, "nothing but neighbours' questions ends here: {counters:?}");
    // At 1,460 bytes a segment.
    assert!(counters.flow_hits.read() as usize > LENGTH / 1460, "by the fast path: {counters:?}");
    assert!(counters.flow_misses.read() <= 2, "{counters:?}");
}

fn stacks(node: &Node) -> (Stack, Stack) {
    let stack = |port: PortIndex, pod| Stack::new(node.wires[port as usize].clone(), peer_mac(port), pod);
    let (client, mut server) = (stack(POD1, P1), stack(POD2, P2));
    server.socket().listen(8080).unwrap();
    (client, server)
}

#[test]
fn a_megabyte_from_pod_to_pod() {
    for v6 in FAMILIES {
        let mut node = Node::new(&Cluster::new());
        let (mut client, mut server) = stacks(&node);
        client.connect(P2, 8080, v6);
        let peer = transfer(&mut node, &mut client, &mut server);
        assert_eq!(peer, IpEndpoint::new(P1.at(v6).into(), 40_000));
        assert_clean(&node);
    }
}

#[test]
fn a_megabyte_to_a_service() {
    for v6 in FAMILIES {
        let mut node = Node::new(&Cluster::new());
        let (mut client, mut server) = stacks(&node);
        client.connect(SOLO, 80, v6);
        let peer = transfer(&mut node, &mut client, &mut server);
        assert_eq!(peer, IpEndpoint::new(P1.at(v6).into(), 40_000), "the client's own address");
        assert_clean(&node);
    }
}

#[test]
fn a_megabyte_to_a_node_port() {
    for v6 in FAMILIES {
        let mut node = Node::new(&Cluster::new());
        let (mut client, mut server) = stacks(&node);
        client.connect(NODE_A, NODE_PORT, v6);
        let peer = transfer(&mut node, &mut client, &mut server);
        assert_eq!(peer.addr, IpAddress::from(NODE_A.at(v6)), "masqueraded");
        assert!(peer.port >= 61_000);
        assert_clean(&node);
    }
}

#[test]
fn a_megabyte_through_a_transmit_ring_that_is_too_small() {
    for v6 in FAMILIES {
        let publication = Publication::new(Cluster::new().snapshot(), 1);
        let links = crossing::links(1, 1).unwrap().remove(0);
        let bench = Bench::new(0, SIZES, &flow_tables(SIZES.flows), publication.reader(0), links);
        let wires = (0..PORTS as PortIndex).map(|port| bench.attach(port, 16)).collect();
        let counters = Arc::clone(&bench.counters);
        let mut node = Node { bench, counters, wires };
        let (mut client, mut server) = stacks(&node);
        client.connect(SOLO, 80, v6);
        transfer(&mut node, &mut client, &mut server);
        let lost = node.counters.drops[crate::drops::DropReason::TxRingFull as usize].read();
        assert!(lost > 0, "TCP has made good for what was lost: {:?}", node.counters);
    }
}

#[test]
fn a_refused_connection_is_reset_at_once() {
    for v6 in FAMILIES {
        let mut node = Node::new(&Cluster::new());
        let (mut client, _) = stacks(&node);
        client.connect(EMPTY, 80, v6);
        for millis in 0..20 {
            client.poll(Instant::from_millis(millis));
            node.turn(millis);
        }
        assert_eq!(client.socket().state(), State::Closed);
    }
}
