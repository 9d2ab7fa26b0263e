//! The worker: one thread, one loop, one screen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::{Batch, FramePool, PacketIo, cpu};
use crossbeam::channel::{Receiver, Sender};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::counters::WorkerCounters;
use crate::crossing::{Doorbell, Links};
use crate::drops::DropReason;
use crate::flow::FlowTables;
use crate::messages::{Command, Event, PortCells};
use crate::pipeline::{Notice, Outputs, Pipeline, Turn};
use crate::publish::Reader;
use crate::shadow::Shadow;
use crate::snapshot::PortIndex;

pub use crate::pipeline::Now;

/// When a worker with nothing to do rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Empty turns that only spin.
    pub spin: u32,
    /// Empty turns after those that yield the CPU.
    pub yields: u32,
    /// Longest sleep in `poll(2)` after those; zero: never sleep.
    pub sleep: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        IdlePolicy { spin: 64, yields: 64, sleep: Duration::from_millis(50) }
    }
}

/// How a worker works.
#[derive(Debug, Clone, Copy)]
pub struct WorkerConfig {
    /// Its number, from 0.
    pub number: usize,
    /// Packets taken from a port at a time, 1 to 64.
    pub batch: usize,
    /// When it rests.
    pub idle: IdlePolicy,
    /// Secret of the fragments' hash.
    pub seed: u64,
    /// What its clock counts from; the same for all workers.
    pub start: Instant,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts<P> {
    /// How it works.
    pub config: WorkerConfig,
    /// Packet memory, its own.
    pub pool: FramePool,
    /// The flow tables, shared by all workers.
    pub flows: Arc<FlowTables>,
    /// Where it counts.
    pub counters: Arc<WorkerCounters>,
    /// Its view of the publication.
    pub reader: Reader,
    /// What the control thread wants.
    pub commands: Receiver<Command<P>>,
    /// What it tells the control thread. Bounded; what finds no room is lost and counted.
    pub events: Sender<Event<P>>,
    /// Rings to and from the other workers.
    pub links: Links,
}

/// A port that a worker serves.
#[derive(Debug)]
struct Served<P> {
    io: P,
    cells: Arc<PortCells>,
    /// Packets have passed that `cells` does not know of.
    moved: bool,
    /// Said to be gone once.
    gone: bool,
}

impl<P: PacketIo> Served<P> {
    /// Makes the port's counters known.
    fn publish(&mut self) {
        self.cells.store(&self.io.counters());
        self.moved = self.io.in_flight() > 0;
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker<P> {
    config: WorkerConfig,
    pool: FramePool,
    counters: Arc<WorkerCounters>,
    reader: Reader,
    commands: Receiver<Command<P>>,
    events: Sender<Event<P>>,
    doorbell: Arc<Doorbell>,
    pipeline: Pipeline,
    out: Outputs,
    /// By port number.
    ports: Vec<Option<Box<Served<P>>>>,
    batch: Batch,
    stopping: bool,
}

impl<P: PacketIo> Worker<P> {
    /// A worker without ports.
    pub fn new(parts: Parts<P>) -> Self {
        let Parts { config, pool, flows, counters, reader, commands, events, links } = parts;
        let doorbell = links.doorbell();
        Worker {
            pipeline: Pipeline::new(flows, Arc::clone(&counters), config.seed),
            out: Outputs::new(config.number as u16, links),
            config,
            pool,
            counters,
            reader,
            commands,
            events,
            doorbell,
            ports: Vec::new(),
            batch: Batch::new(),
            stopping: false,
        }
    }

    /// Works until [`Command::Stop`]; then closes its ports. To be run in a thread of its own, pinned to its core.
    pub fn run(mut self) {
        let mut empty = 0;
        while !self.stopping {
            match self.turn(Now::since(self.config.start)) {
                0 => empty = self.rest(empty + 1),
                _ => empty = 0,
            }
        }
        self.close();
    }

    /// One turn: everything that waits at this moment, at most a batch from each port. Answers with the packets taken.
    pub fn turn(&mut self, now: Now) -> usize {
        let began = cpu::cycles();
        self.obey();
        let renewed = self.reader.refresh();
        let mut taken = self.cross();
        self.retry(now, renewed);
        for port in 0..self.ports.len() {
            taken += self.serve(port as PortIndex, now, renewed);
        }
        let in_kernel = self.flush();
        self.close_turn(taken, began, in_kernel);
        taken
    }

    /// Takes a batch from a port and sees it through.
    fn serve(&mut self, port: PortIndex, now: Now, renewed: bool) -> usize {
        let Worker { pool, reader, pipeline, out, ports, batch, config, .. } = self;
        let Some(Some(served)) = ports.get_mut(port as usize) else { return 0 };
        let snapshot = reader.snapshot();
        // Not in the tables yet: what waits there, waits.
        let Some(view) = snapshot.port(port) else { return 0 };
        let received = served.io.receive(pool, batch, config.batch);
        if received == 0 && !renewed {
            return 0;
        }
        served.moved = true;
        let mut turn = Turn { snapshot, port, view, pool, out, now };
        if renewed {
            pipeline.ask_unknown(&mut turn);
        }
        pipeline.process(&mut turn, batch);
        self.emit();
        received
    }

    /// Tries the packets once more that wait for a neighbour.
    fn retry(&mut self, now: Now, renewed: bool) {
        let Worker { pool, reader, pipeline, out, .. } = self;
        if pipeline.held() > 0 && (renewed || pipeline.is_held_too_long(now.nanos)) {
            pipeline.retry(reader.snapshot(), pool, out, now);
            self.emit();
        }
    }

    /// Hands what was put out to the ports. A full ring is kicked once; what finds no room then is lost.
    fn emit(&mut self) {
        let Worker { pool, pipeline, out, ports, .. } = self;
        out.drain(|port, queue| {
            let served = ports.get_mut(port as usize).and_then(Option::as_mut);
            let mut reason = DropReason::PortGone;
            if let Some(served) = served {
                let mut sent = served.io.send(pool, queue);
                if !queue.is_empty() && served.io.flush(pool).is_ok() {
                    sent += served.io.send(pool, queue);
                }
                pipeline.count_sent(sent);
                served.moved = true;
                reason = DropReason::TxRingFull;
            }
            for frame in queue.drain(..) {
                pipeline.lose(pool, frame, reason);
            }
        });
    }

    /// Takes home own frames from other workers, and sends what they want sent by ports of this one.
    fn cross(&mut self) -> usize {
        let Worker { pool, pipeline, out, config, .. } = self;
        while let Some(frame) = out.links().returned() {
            pool.free(frame);
        }
        let mut taken = 0;
        while taken < config.batch
            && let Some((ring, port, frame)) = out.links().next()
        {
            pipeline.cross(pool, out, port, &frame);
            out.links().home(ring, frame);
            taken += 1;
        }
        if taken > 0 {
            self.emit();
        }
        taken
    }

    /// Makes the kernel send, and takes completed frames home. Answers with the cycles that ports have spent in the kernel
    /// since the last flush.
    fn flush(&mut self) -> u64 {
        let mut in_kernel = 0;
        for (port, served) in self.ports.iter_mut().enumerate() {
            let Some(served) = served.as_mut().filter(|served| served.io.in_flight() > 0) else { continue };
            let flushed = served.io.flush(&mut self.pool);
            let cycles = served.io.counters().kernel_cycles;
            in_kernel += cycles.wrapping_sub(served.cells.kernel_cycles.read());
            served.cells.kernel_cycles.set(cycles);
            if let Err(error) = flushed
                && !std::mem::replace(&mut served.gone, true)
            {
                let event = Event::PortGone { port: port as PortIndex, error: error.to_string() };
                tell(&self.events, &self.counters, event);
            }
        }
        in_kernel
    }

    /// Counters, notices: once a turn.
    fn close_turn(&mut self, taken: usize, began: u64, in_kernel: u64) {
        for notice in self.pipeline.notices() {
            let is_difference = matches!(notice, Notice::Difference(_));
            let event = match notice {
                Notice::PeerMac(port, mac) => Event::PeerMac { port, mac },
                Notice::Unresolved(address) => Event::Unresolved { address },
                Notice::UnresolvedPort(port) => Event::UnresolvedPort { port },
                Notice::Drop(record) => Event::Drop(record),
                Notice::Difference(record) => Event::Difference(record),
            };
            let is_told = tell(&self.events, &self.counters, event);
            if is_difference && !is_told {
                self.lose_difference();
            }
        }
        self.pipeline.close();
        // Frames come home in turns that take nothing, too.
        self.store_ledger();
        if taken == 0 {
            return;
        }
        self.counters.busy_turns.add(1);
        self.counters.kernel_cycles.add(in_kernel);
        // A port that threw away all that it received took no packet: now and then all are looked at.
        let all = self.counters.busy_turns.read().is_multiple_of(256);
        for served in self.ports.iter_mut().flatten().filter(|served| served.moved || all) {
            served.publish();
        }
        self.counters.busy_cycles.add(cpu::cycles().wrapping_sub(began));
    }

    /// Counts a difference that found the queue full.
    #[cold]
    fn lose_difference(&self) {
        let tallies = self.reader.snapshot().shadow.as_deref().map(Shadow::tallies);
        if let Some(tally) = tallies.and_then(|tallies| tallies.get(self.config.number)) {
            tally.lost.add(1);
        }
    }

    fn store_ledger(&self) {
        let ledger = self.pool.ledger();
        for (cell, chunks) in
            self.counters.chunks.iter().zip([ledger.free, ledger.out, ledger.kernel, ledger.total])
        {
            cell.set(chunks as u64);
        }
    }

    // -------------------------------------------------------------------------------------- ports and rest

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { port, io, cells } => {
                    let index = port as usize;
                    if self.ports.len() <= index {
                        self.ports.resize_with(index + 1, || None);
                    }
                    self.out.open(port);
                    self.ports[index] = Some(Box::new(Served { io: *io, cells, moved: true, gone: false }));
                }
                Command::Detach { port } => self.detach(port),
                Command::TakeHome(closed) => self.pool.take_home(closed),
                Command::Stop => self.stopping = true,
            }
        }
    }

    fn detach(&mut self, port: PortIndex) {
        let Some(mut served) = self.ports.get_mut(port as usize).and_then(Option::take) else { return };
        // What it refuses now it will refuse when it is closed as well.
        let _ = served.io.flush(&mut self.pool);
        served.publish();
        let event = Event::Detached { port, io: Box::new(served.io) };
        // The port must not be lost: wait for room; nobody but the control thread is needed to make it.
        if let Err(error) = self.events.send(event)
            && let Event::Detached { io, .. } = error.0
        {
            io.close(&mut self.pool);
        }
    }

    /// Spins, yields, sleeps. Answers with the empty turns so far.
    fn rest(&mut self, empty: u32) -> u32 {
        let idle = &self.config.idle;
        if empty <= idle.spin {
            std::hint::spin_loop();
            return empty;
        }
        let busy = self.out.links().has_under_way()
            || self.ports.iter().flatten().any(|port| port.io.in_flight() > 0);
        if empty - idle.spin <= idle.yields || idle.sleep.is_zero() || busy {
            std::thread::yield_now();
            return empty.min(idle.spin + idle.yields);
        }
        self.sleep();
        // One packet seldom comes alone: spin again before the next sleep.
        0
    }

    fn sleep(&mut self) {
        self.doorbell.fall_asleep();
        if !self.reader.fall_asleep() {
            return self.doorbell.wake_up();
        }
        if self.commands.is_empty() && !self.out.links().is_waiting() {
            self.counters.sleeps.add(1);
            self.ports.iter_mut().flatten().for_each(|served| served.publish());
            let ports = self.ports.iter().flatten().filter_map(|port| port.io.poll_fd());
            let mut fds: Vec<_> = ports.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            fds.push(PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN));
            let limit = PollTimeout::try_from(self.config.idle.sleep).unwrap_or(PollTimeout::ZERO);
            // An interrupted sleep is a short one.
            let _ = poll(&mut fds, limit);
        }
        self.reader.wake_up();
        self.doorbell.wake_up();
    }

    /// Closes the ports; what they hold comes home.
    fn close(&mut self) {
        self.pipeline.abandon(&mut self.pool);
        self.pipeline.close();
        self.flush();
        for mut served in self.ports.drain(..).flatten() {
            let _ = served.io.flush(&mut self.pool);
            served.publish();
            served.io.close(&mut self.pool);
        }
        self.store_ledger();
    }

    /// Ends the worker and answers with its packet memory.
    pub fn into_pool(mut self) -> FramePool {
        self.close();
        self.pool
    }

    #[cfg(test)]
    pub(crate) fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    /// A port that this worker serves.
    pub fn port_mut(&mut self, port: PortIndex) -> Option<&mut P> {
        self.ports.get_mut(port as usize)?.as_mut().map(|served| &mut served.io)
    }
}

/// False where the event is lost, and counted.
fn tell<P>(events: &Sender<Event<P>>, counters: &WorkerCounters, event: Event<P>) -> bool {
    let told = events.try_send(event).is_ok();
    counters.events_lost.add(u64::from(!told));
    told
}
