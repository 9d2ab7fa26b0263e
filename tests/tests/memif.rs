//! memif with DPDK's `net_memif` (`dpdk-testpmd`) as the other end, in both roles. Needs root and `deploy/deps.sh dpdk`.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use afxdp_driver::PacketIo;
use afxdp_driver::memif::{MemifConfig, MemifRole};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::lab::{self, Lab};
use tests::memif::{End, Forwarding, Testpmd};
use tests::netns::Namespace;

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

#[test]
fn packets_in_several_buffers_come_back_whole() {
    let mut pair = Pair::start(MemifRole::Client, 256);
    pair.round_trip(0);
    pair.round_trip(1);
}
