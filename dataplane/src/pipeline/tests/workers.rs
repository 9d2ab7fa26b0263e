//! Two workers and the rings between them; workers in threads of their own, and what an acknowledged snapshot means.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use afxdp_driver::memory::{MemoryPort, MemoryWire};
use afxdp_driver::{FramePool, HugePages, PoolLedger};

use crossbeam::channel::{Receiver, Sender};

use super::cluster::*;
use super::fixture::{Bench, SIZES, Sizes, assert_conserved, flow_tables, ledger};
use super::packets::*;
use super::seen::inside;
use crate::counters::WorkerCounters;
use crate::crossing;
use crate::drops::DropReason::{self, *};
use crate::messages::{Command, Event};
use crate::publish::{Publication, Publisher};
use crate::snapshot::PortIndex;
use crate::wire::build::Spec;
use crate::worker::Now;

const FAMILIES: [bool; 2] = [false, true];
const LIMIT: Duration = Duration::from_secs(20);

/// Two workers: the second has the ports of P2 and the uplink, the first the rest.
struct Pair {
    benches: [Bench; 2],
    wires: Vec<MemoryWire>,
    cluster: Cluster,
    publisher: Publisher,
    now: Now,
}

impl Pair {
    /// `ring`: packets that a ring between them holds.
    fn new(ring: usize, sizes: [Sizes; 2]) -> Self {
        let cluster = Cluster { workers: [0, 1, 0, 1, 0, 0], ..Cluster::new() };
        let publication = Publication::new(cluster.snapshot(), 2);
        let flows = flow_tables(1024);
        let mut links = crossing::links(2, ring).unwrap().into_iter();
        let benches = [0, 1].map(|number| {
            let links = links.next().unwrap();
            Bench::new(number, sizes[number], &flows, publication.reader(number), links)
        });
        let attach =
            |port: usize| benches[cluster.workers[port] as usize].attach(port as PortIndex, SIZES.ring);
        let wires = (0..PORTS).map(attach).collect();
        let publisher = Publisher::new(publication);
        Pair { benches, wires, cluster, publisher, now: Now { seconds: 100, nanos: 100_000_000_000 } }
    }

    fn turn(&mut self, worker: usize) -> usize {
        let taken = self.benches[worker].worker.turn(self.now);
        assert_conserved(&self.benches[worker].counters);
        let chunks = ledger(&self.benches[worker].counters);
        assert_eq!(chunks.free + chunks.out, chunks.total);
        taken
    }

    /// Both in turn, until neither has anything to do.
    fn run(&mut self) {
        // A frame comes home one turn after its packet was taken.
        while self.turn(0) + self.turn(1) > 0 {}
        self.turn(0);
    }

    fn drops(&self, worker: usize, reason: DropReason) -> u64 {
        self.benches[worker].counters.drops[reason as usize].read()
    }

    /// All frames at home.
    fn finish(self) {
        for bench in self.benches {
            let pool = bench.worker.into_pool();
            let total = pool.ledger().total;
            assert_eq!(pool.ledger(), PoolLedger { free: total, out: 0, kernel: 0, total });
            assert_conserved(&bench.counters);
        }
    }
}

fn numbered(v6: bool, number: u16) -> Spec {
    Spec { payload: number.to_be_bytes().into(), ..udp((P1.at(v6), 40_000), (P2.at(v6), 53)) }
}

#[test]
fn packets_for_the_other_workers_ports_arrive() {
    for v6 in FAMILIES {
        let mut pair = Pair::new(256, [SIZES; 2]);
        for number in 0..200 {
            pair.wires[POD1 as usize].inject(numbered(v6, number).entering(POD1));
        }
        pair.run();
        let expected: Vec<_> = (0..200).map(|number| numbered(v6, number).hop().out_of(POD2)).collect();
        assert_eq!(pair.wires[POD2 as usize].drain(), expected, "all, in order");
        // What the other worker sends back, and what it tunnels for the first.
        let back = udp((P2.at(v6), 53), (P1.at(v6), 40_000));
        let far = udp((P1.at(v6), 1), (R1.at(v6), 2));
        pair.wires[POD2 as usize].inject(back.entering(POD2));
        pair.wires[POD1 as usize].inject(far.entering(POD1));
        pair.run();
        assert_eq!(pair.wires[POD1 as usize].drain(), [back.hop().out_of(POD1)]);
        let out = pair.wires[UPLINK as usize].drain();
        assert_eq!(out.len(), 1);
        assert_eq!(inside(&out[0], NODE_B), far.hop().framed(INNER_DST, INNER_SRC));
        // The law of both together: what crossed was sent by one and received by the other.
        let [first, second] = [0, 1].map(|worker| Arc::clone(&pair.benches[worker].counters));
        assert_eq!((first.rx.read(), first.tx.read()), (202, 202));
        assert_eq!((second.rx.read(), second.tx.read()), (202, 202));
        assert_eq!(first.dropped() + second.dropped(), 0);
        pair.finish();
    }
}

#[test]
fn a_full_ring_between_workers_is_a_named_drop() {
    for v6 in FAMILIES {
        let mut pair = Pair::new(16, [SIZES; 2]);
        let send = |pair: &mut Pair, numbers: std::ops::Range<u16>| {
            for number in numbers {
                pair.wires[POD1 as usize].inject(numbered(v6, number).entering(POD1));
            }
            pair.turn(0);
        };
        send(&mut pair, 0..20);
        assert_eq!(pair.drops(0, WorkerRingFull), 4);
        // While the frames are not home, the ring counts as full: nothing is lost on the way back.
        pair.turn(1);
        pair.turn(1);
        pair.turn(0);
        send(&mut pair, 20..36);
        assert_eq!(pair.drops(0, WorkerRingFull), 4, "room for as many again");
        pair.run();
        let numbers = (0..16).chain(20..36);
        let expected: Vec<_> = numbers.map(|number| numbered(v6, number).hop().out_of(POD2)).collect();
        assert_eq!(pair.wires[POD2 as usize].drain(), expected);
        assert_eq!(ledger(&pair.benches[0].counters).out, 0);
        pair.finish();
    }
}

#[test]
fn a_frame_under_way_keeps_its_place_in_the_ring_until_it_is_home() {
    let mut links = crossing::links(2, 4).unwrap();
    let (mut second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
    let mut pool = FramePool::anonymous(8, HugePages::Never).unwrap();
    for port in 0..4 {
        first.send(1, port, pool.alloc().unwrap()).unwrap();
    }
    for expected in 0..4 {
        let (ring, port, frame) = second.next().unwrap();
        assert_eq!(port, expected);
        second.home(ring, frame);
    }
    // The way there is free, the way back is not: a fifth could not come home.
    let fifth = first.send(1, 4, pool.alloc().unwrap()).unwrap_err();
    while let Some(frame) = first.returned() {
        pool.free(frame);
    }
    first.send(1, 4, fifth).unwrap();
    let (ring, _, frame) = second.next().unwrap();
    second.home(ring, frame);
    pool.free(first.returned().unwrap());
    assert_eq!(pool.ledger(), PoolLedger { free: 8, out: 0, kernel: 0, total: 8 });
    // There is no third worker, and nobody sends to itself.
    for nobody in [0, 2] {
        let back = first.send(nobody, 0, pool.alloc().unwrap()).unwrap_err();
        pool.free(back);
    }
}

#[test]
fn a_worker_without_memory_cannot_take_what_crosses() {
    // Two chunks: both wait for a neighbour.
    let small = Sizes { chunks: 2, ..SIZES };
    let mut pair = Pair::new(16, [SIZES, small]);
    for port in [1, 2] {
        pair.wires[POD2 as usize].inject(udp((P2.at(false), port), (R3.at(false), 53)).entering(POD2));
    }
    pair.turn(1);
    assert_eq!(pair.benches[1].counters.held.read(), 2);
    for number in 0..5 {
        pair.wires[POD1 as usize].inject(numbered(false, number).entering(POD1));
    }
    pair.run();
    assert_eq!(pair.drops(1, NoMemory), 5);
    assert_eq!(ledger(&pair.benches[0].counters).out, 0, "the sender's frames come home all the same");
    assert_eq!(pair.wires[POD2 as usize].drain(), Vec::<Vec<u8>>::new());
    // With its memory back it takes them again.
    pair.now.seconds += 1;
    pair.now.nanos += 1_000_000_000;
    pair.run();
    assert_eq!(pair.drops(1, NeighbourUnresolved), 2);
    pair.wires[POD1 as usize].inject(numbered(false, 9).entering(POD1));
    pair.run();
    assert_eq!(pair.wires[POD2 as usize].drain(), [numbered(false, 9).hop().out_of(POD2)]);
    pair.finish();
}

#[test]
fn a_port_that_leaves_the_other_worker_ends_what_crosses() {
    let mut pair = Pair::new(16, [SIZES; 2]);
    pair.benches[1].commands.send(Command::Detach { port: POD2 }).unwrap();
    pair.wires[POD1 as usize].inject(numbered(false, 0).entering(POD1));
    pair.run();
    assert_eq!(pair.drops(1, PortGone), 1);
    assert!(matches!(pair.benches[1].events.try_recv(), Ok(Event::Detached { port: POD2, .. })));
    pair.finish();
}

#[test]
fn a_revoked_policy_holds_on_both_workers() {
    for v6 in FAMILIES {
        let mut pair = Pair::new(16, [SIZES; 2]);
        let back = udp((P2.at(v6), 53), (P1.at(v6), 40_000));
        pair.wires[POD1 as usize].inject(numbered(v6, 0).entering(POD1));
        pair.wires[POD2 as usize].inject(back.entering(POD2));
        pair.run();
        assert_eq!(pair.wires[POD2 as usize].drain().len() + pair.wires[POD1 as usize].drain().len(), 2);
        pair.cluster.isolate(SERVER);
        pair.publisher.publish(pair.cluster.snapshot());
        pair.wires[POD1 as usize].inject(numbered(v6, 1).entering(POD1));
        pair.wires[POD2 as usize].inject(back.entering(POD2));
        pair.run();
        assert_eq!((pair.drops(0, PolicyIngress), pair.drops(1, PolicyIngress)), (1, 1));
        pair.finish();
    }
}

// --------------------------------------------------------------------------------------------------- threads

/// Waits until something holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::yield_now();
    }
}

/// The workers of a pair, each in its thread.
struct Running {
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<WorkerCounters>>,
    commands: Vec<Sender<Command<MemoryPort>>>,
    /// Kept: a worker whose events nobody can take counts them as lost.
    _events: Vec<Receiver<Event<MemoryPort>>>,
}

impl Running {
    fn start(benches: [Bench; 2]) -> Self {
        let mut running = Running { threads: vec![], counters: vec![], commands: vec![], _events: vec![] };
        for Bench { worker, counters, commands, events } in benches {
            running.threads.push(std::thread::spawn(move || worker.run()));
            running.counters.push(counters);
            running.commands.push(commands);
            running._events.push(events);
        }
        running
    }

    /// Stops both; the frames that were between them may be with the other when a worker closes.
    fn stop(self) -> Vec<Arc<WorkerCounters>> {
        until("all frames come home", || self.counters.iter().all(|counters| ledger(counters).out == 0));
        self.commands.iter().for_each(|commands| commands.send(Command::Stop).unwrap());
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        for counters in &self.counters {
            assert_conserved(counters);
            assert_eq!((ledger(counters).out, ledger(counters).free), (0, SIZES.chunks));
        }
        self.counters
    }
}

#[test]
fn two_threads_lose_nothing_below_the_rings_capacity() {
    const PACKETS: u16 = 20_000;
    const WINDOW: usize = 100;
    let pair = Pair::new(256, [SIZES; 2]);
    let wires = pair.wires.clone();
    let running = Running::start(pair.benches);
    let mut arrived = vec![];
    for number in 0..PACKETS {
        until("a packet arrives", || {
            arrived.extend(wires[POD2 as usize].drain());
            number as usize - arrived.len() < WINDOW
        });
        wires[POD1 as usize].inject(numbered(number % 2 == 0, number).entering(POD1));
    }
    until("all packets arrive", || {
        arrived.extend(wires[POD2 as usize].drain());
        arrived.len() == PACKETS as usize
    });
    for (frame, number) in arrived.into_iter().zip(0..) {
        assert_eq!(frame, numbered(number % 2 == 0, number).hop().out_of(POD2));
    }
    let counters = running.stop();
    assert_eq!(counters[0].drops[WorkerRingFull as usize].read(), 0);
    assert_eq!(counters[1].dropped(), 0);
}

#[test]
fn after_its_acknowledgement_no_packet_is_treated_the_old_way() {
    for v6 in FAMILIES {
        let mut pair = Pair::new(256, [SIZES; 2]);
        let wires = pair.wires.clone();
        let running = Running::start(std::mem::replace(&mut pair.benches, spare()));
        let mut number = 0u16;
        for round in 0..150 {
            // Traffic while the change is made, sometimes after a sleep.
            for _ in 0..40 {
                wires[POD1 as usize].inject(numbered(v6, number).entering(POD1));
                number = number.wrapping_add(1);
            }
            if round % 10 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            let revoked = round % 2 == 0;
            if revoked {
                pair.cluster.isolate(SERVER);
            } else {
                pair.cluster.release();
            }
            let epoch = pair.publisher.publish(pair.cluster.snapshot());
            pair.publisher.wait(epoch, LIMIT).unwrap();
            // What was judged before has left that worker, and may still be in the ring to the other: it has been
            // treated. It is told by its number from what comes now.
            let first = number;
            for _ in 0..20 {
                wires[POD1 as usize].inject(numbered(v6, number).entering(POD1));
                number = number.wrapping_add(1);
            }
            until("the port is empty", || wires[POD1 as usize].waiting() == 0);
            // A turn more of each, so that what was taken has come out.
            let settled = |wires: &[MemoryWire]| {
                let marker = segment((P3.at(v6), 10_250), (NODE_A.at(v6), 1)).entering(POD3);
                let back = segment((P2.at(v6), 10_250), (NODE_A.at(v6), 1)).entering(POD2);
                wires[POD3 as usize].inject(marker);
                until("a turn of the first", || wires[HOST as usize].take().is_some());
                // Behind all that has crossed, as the second takes what crosses before its ports.
                wires[POD2 as usize].inject(back);
                until("a turn of both", || wires[HOST as usize].take().is_some());
            };
            settled(&wires);
            settled(&wires);
            let arrived: Vec<u16> = wires[POD2 as usize]
                .drain()
                .iter()
                .map(|frame| u16::from_be_bytes([frame[frame.len() - 2], frame[frame.len() - 1]]))
                .filter(|arrived| arrived.wrapping_sub(first) < 20)
                .collect();
            let expected: Vec<u16> =
                if revoked { vec![] } else { (0..20).map(|step| first.wrapping_add(step)).collect() };
            assert_eq!(arrived, expected, "round {round}, revoked: {revoked}");
        }
        running.stop();
    }
}

/// Two workers that nobody starts.
fn spare() -> [Bench; 2] {
    let publication = Publication::new(Cluster::new().snapshot(), 2);
    let flows = flow_tables(16);
    let mut links = crossing::links(2, 1).unwrap().into_iter();
    [0, 1].map(|number| {
        let links = links.next().unwrap();
        Bench::new(number, Sizes { chunks: 1, ..SIZES }, &flows, publication.reader(number), links)
    })
}
