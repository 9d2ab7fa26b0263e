//! memif with DPDK's `net_memif` (`dpdk-testpmd`) as the other end, in both roles. Needs root and `deploy/deps.sh dpdk`.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use afxdp_driver::PacketIo;
use afxdp_driver::memif::{MemifConfig, MemifRole};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::cluster::{Cluster, MONGODB};
use tests::lab::{self, Lab};
use tests::law;
use tests::memif::{End, Forwarding, Testpmd};
use tests::netns::Namespace;
use tests::traffic::{Outcome, tcp};
use tests::wait_for;

/// One testpmd at a time: each keeps a CPU busy.
const TAG: &str = "memif";
/// testpmd takes seconds to start, more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Packets of a round.
const PACKETS: usize = 500;

/// A testpmd that can be killed and started again, and our end.
struct Pair {
    end: End,
    testpmd: Option<Testpmd>,
    forwarding: Forwarding,
    namespace: Namespace,
    lab: Lab,
}

impl Pair {
    fn start(role: MemifRole, buffer: u32) -> Self {
        let lab = Lab::open(TAG, true).unwrap();
        let namespace = Namespace::create(&format!("{}testpmd", lab::prefix(TAG))).unwrap();
        let theirs = if role == MemifRole::Client { MemifRole::Server } else { MemifRole::Client };
        let cores = std::thread::available_parallelism().unwrap().get();
        let forwarding =
            Forwarding { role: theirs, queues: 2, secret: "psst".into(), core: 0, main_core: cores - 1 };
        let socket = lab.folder().join("memif.sock");
        let config = MemifConfig::new(socket.to_str().unwrap(), role, 0);
        let end = End::open(MemifConfig { queues: 2, secret: "psst".into(), buffer, ..config }).unwrap();
        let mut pair = Pair { end, testpmd: None, forwarding, namespace, lab };
        pair.start_testpmd();
        pair
    }

    fn socket(&self) -> PathBuf {
        self.lab.folder().join("memif.sock")
    }

    fn start_testpmd(&mut self) {
        let log = tests::daemon::checkout().join(format!("target/logs/testpmd-{}.log", self.forwarding.role));
        if self.forwarding.role == MemifRole::Server {
            // A killed server leaves its socket, and DPDK does not take it over.
            let _ = std::fs::remove_file(self.socket());
        }
        let testpmd = Testpmd::start(&self.namespace, &self.socket(), &self.forwarding, log).unwrap();
        self.testpmd = Some(testpmd);
        if let Err(error) = self.end.wait_link(true, PATIENCE) {
            self.testpmd.as_mut().unwrap().check().unwrap();
            panic!("{error:#}");
        }
    }

    fn kill_testpmd(&mut self) {
        self.testpmd.take().unwrap().kill().unwrap();
    }

    /// Sends numbered packets of many lengths by a queue; all come back with their MAC addresses swapped, in order.
    fn round_trip(&mut self, queue: usize) {
        let packets: Vec<Vec<u8>> = (0..PACKETS).map(|number| packet(queue, number)).collect();
        let (mut sent, mut back) = (0, Vec::new());
        let deadline = Instant::now() + PATIENCE;
        while back.len() < packets.len() {
            assert!(Instant::now() < deadline, "{sent} sent, {} back", back.len());
            // No more than half a ring on its way: testpmd throws away what finds no room on its way back.
            let most = (back.len() + 100).min(packets.len());
            sent += self.end.send(queue, &packets[sent..most]).unwrap();
            back.extend(self.end.receive(queue).unwrap());
        }
        for (number, (packet, back)) in packets.iter().zip(&back).enumerate() {
            assert_eq!(*back, swapped(packet), "packet {number} of queue {queue}");
        }
        self.end.check_books().unwrap();
    }
}

fn packet(queue: usize, number: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..60 + number * 29 % 1700).map(|at| (at + number) as u8).collect();
    packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet[6..12].copy_from_slice(&[2, 0, 0, 0, 1, queue as u8]);
    packet
}

fn swapped(packet: &[u8]) -> Vec<u8> {
    [&packet[6..12], &packet[..6], &packet[12..]].concat()
}

/// What holds in both roles: both queues, interrupts, a kill in the middle of traffic, and again.
fn converses(role: MemifRole) {
    let mut pair = Pair::start(role, 2048);
    pair.round_trip(0);
    pair.round_trip(1);
    sleeps_until_a_packet_comes(&mut pair);

    // Killed while packets are on their way.
    assert!(pair.end.send(0, &[packet(0, 1), packet(0, 2)]).unwrap() == 2);
    pair.kill_testpmd();
    pair.end.wait_link(false, PATIENCE).unwrap();
    assert_eq!(pair.end.send(1, &[packet(1, 1), packet(1, 2), packet(1, 3)]).unwrap(), 3);
    assert_eq!(pair.end.queue(1).unwrap().0.counters().tx_lost, 3, "there was nobody to take them");
    pair.end.check_books().unwrap();

    pair.start_testpmd();
    assert_eq!(pair.end.status().ups(), 2);
    pair.round_trip(1);
    pair.round_trip(0);
    for queue in 0..2 {
        let counters = pair.end.queue(queue).unwrap().0.counters();
        assert_eq!((counters.rx_invalid, counters.rx_oversize), (0, 0));
    }
}

/// Interrupt mode: what testpmd sends wakes whoever polls the descriptor.
fn sleeps_until_a_packet_comes(pair: &mut Pair) {
    for number in 0..20 {
        let packet = packet(0, number);
        assert_eq!(pair.end.send(0, std::slice::from_ref(&packet)).unwrap(), 1);
        let mut back = Vec::new();
        while back.is_empty() {
            let (port, _) = pair.end.queue(0).unwrap();
            let fd = port.poll_fd().unwrap();
            let timeout = PollTimeout::try_from(PATIENCE).unwrap();
            assert_eq!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout), Ok(1), "nobody woke it");
            back = pair.end.receive(0).unwrap();
        }
        assert_eq!(back, [swapped(&packet)]);
    }
}

#[test]
fn a_client_of_testpmd() {
    converses(MemifRole::Client);
}

#[test]
fn a_server_of_testpmd() {
    converses(MemifRole::Server);
}

/// A pod behind a memif of penstockd, as others are behind a veth.
struct MemifPod {
    end: End,
    mac: [u8; 6],
    v4: Ipv4Addr,
    gateway: [u8; 6],
}

impl MemifPod {
    /// Comes up and asks for its gateway, as every pod does.
    fn start(config: MemifConfig, v4: Ipv4Addr) -> Self {
        let mut end = End::open(config).unwrap();
        end.wait_link(true, PATIENCE).unwrap();
        let mut pod = MemifPod { end, mac: [2, 0, 0, 0, 0, 0x10], v4, gateway: [0xff; 6] };
        let builder = |sender: Ipv4Addr, target: Ipv4Addr| {
            let header = [&[0xff; 6], &pod.mac[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
            [&header[..], &pod.mac, &sender.octets(), &[0; 6], &target.octets(), &[0; 18]].concat()
        };
        let ask = builder(v4, lab::GATEWAY_V4);
        let answer =
            pod.ask(&ask, |packet| packet.get(12..14) == Some(&[8, 6]) && packet.get(21) == Some(&2));
        pod.gateway.copy_from_slice(&answer[22..28]);
        pod
    }

    /// Sends a packet until one comes that answers it.
    fn ask(&mut self, packet: &[u8], answers: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no answer");
            assert_eq!(self.end.send(0, &[packet.to_vec()]).unwrap(), 1);
            let next = Instant::now() + Duration::from_millis(200);
            while Instant::now() < next {
                for packet in self.end.receive(0).unwrap() {
                    if answers(&packet) {
                        self.end.check_books().unwrap();
                        return packet;
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Opens a TCP connection to where nobody listens: by what is the answer, and is it a reset?
    fn knock(&mut self, to: IpAddr, port: u16, from: u16) -> (Ipv4Addr, bool) {
        let IpAddr::V4(to) = to else { panic!("{to}") };
        let builder = PacketBuilder::ethernet2(self.mac, self.gateway)
            .ipv4(self.v4.octets(), to.octets(), 64)
            .tcp(from, port, 1, 1024)
            .syn();
        let mut packet = Vec::new();
        builder.write(&mut packet, &[]).unwrap();
        let answer = self.ask(&packet, |packet| {
            SlicedPacket::from_ethernet(packet).is_ok_and(|packet| match packet.transport {
                Some(TransportSlice::Tcp(tcp)) => tcp.destination_port() == from,
                _ => false,
            })
        });
        assert_eq!((&answer[..6], &answer[6..12]), (&self.mac[..], &self.gateway[..]));
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (sliced.net, sliced.transport)
        else {
            panic!("{answer:?}")
        };
        (ip.header().source_addr(), tcp.rst())
    }
}

/// A pod's memif by configuration: the gateway answers, policy and Service hold, and the pod may die and come again.
#[test]
fn a_pod_behind_a_memif_of_penstockd() {
    let mut cluster = Cluster::make("it", true).unwrap();
    let socket = cluster.lab.folder().join("memif.sock");
    let node = &mut cluster.node_a;
    node.more_config = format!(
        "[[port]]\nname = \"memif-web-a\"\npod = \"poc/web-a\"\nmac = \"02:00:00:00:00:77\"\n\
         memif = {{ socket = \"{}\", role = \"server\", id = 4, secret = \"psst\" }}\n",
        socket.display()
    );
    node.start_penstockd().unwrap();
    let manifests = cluster.manifests.clone();
    node.start_agent(&manifests).unwrap();
    node.add_port(&cluster.mongodb).unwrap();
    let pod = |v4| {
        let config = MemifConfig::new(socket.to_str().unwrap(), MemifRole::Client, 4);
        MemifPod::start(MemifConfig { secret: "psst".into(), ..config }, v4)
    };
    let (web_a, database) = (cluster.web_a.v4, cluster.mongodb.v4);
    for round in 1..=2 {
        let mut pod = pod(web_a);
        assert_eq!(pod.gateway, [2, 0, 0, 0, 0, 0x77]);
        // What the policy lets through, by its address and by its Service's; the kernel of the other pod answers.
        let from = 40_000 + round * 10;
        assert_eq!(pod.knock(database.into(), 27017, from), (database, true));
        let [IpAddr::V4(service), _] = MONGODB else { panic!("{MONGODB:?}") };
        assert_eq!(pod.knock(service.into(), 27017, from + 1), (service, true));
        let stats = law::at_rest(node).unwrap();
        let port = stats.ports.iter().find(|port| port.device == "memif-web-a").unwrap();
        assert_eq!((port.kernel["link_up"], port.kernel["link_ups"]), (1, u64::from(round)));
        assert!(port.rx_packets >= 3 && port.tx_packets >= 3 && port.kernel["rx_invalid"] == 0);
        // It dies; what is sent to it meanwhile is lost and counted, and the books balance.
        drop(pod);
        wait_for("link down", PATIENCE, || {
            let port = node.stats()?.ports.into_iter().find(|port| port.device == "memif-web-a");
            Ok(port.filter(|port| port.kernel["link_up"] == 0).map(drop))
        })
        .unwrap();
        let from = &cluster.mongodb.namespace;
        assert_ne!(tcp::probe(from, (web_a, 80).into(), Duration::from_millis(500)), Outcome::Answered);
        let stats = law::at_rest(node).unwrap();
        let port = stats.ports.iter().find(|port| port.device == "memif-web-a").unwrap();
        assert!(port.kernel["tx_lost"] >= u64::from(round), "{port:?}");
    }
    let ports = node.ports().unwrap();
    let port = ports.iter().find(|port| port.device == "memif-web-a").unwrap();
    assert_eq!(port.mode, format!("memif server, id 4 of {}", socket.display()));
    node.ctl_ok(&["ports", "remove", "--device", "memif-web-a"]).unwrap();
    assert!(!socket.exists(), "its socket goes with it");
    law::at_rest(node).unwrap();
    node.stop().unwrap();
}

#[test]
fn packets_in_several_buffers_come_back_whole() {
    let mut pair = Pair::start(MemifRole::Client, 256);
    pair.round_trip(0);
    pair.round_trip(1);
}
