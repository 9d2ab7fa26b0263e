//! [`Generator`]: one thread that fills the way in and empties the way out.

use std::fmt;
use std::time::{Duration, Instant};

use afxdp_driver::memif::{MemifConfig, MemifHub, MemifPort, MemifRole, MemifStatus};
use afxdp_driver::{BATCH_SIZE, Batch, FramePool, HugePages, PacketIo};
use anyhow::{Context, Result, bail, ensure};

use crate::replay::{PACKET_LEN, Packet};

/// Chunks of packet memory.
const CHUNKS: usize = 512;
/// How long both connections may take to come up, and a packet to pass.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before it is counted: flows are set up, caches are warm.
const WARM_UP: Duration = Duration::from_millis(500);
/// Turns between two looks at the clock.
const TURNS: usize = 64;

/// Both clients' ends.
pub(super) struct Generator {
    way_in: MemifPort,
    way_out: MemifPort,
    status: [MemifStatus; 2],
    pool: FramePool,
    next: usize,
    _hub: MemifHub,
}

/// What has come out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    packets: u64,
    seconds: f64,
    offered: u64,
    /// Turns that found the way in full, of all.
    full: f64,
}

impl Passed {
    pub(super) fn pps(&self) -> f64 {
        self.packets as f64 / self.seconds
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pps, offered) = (self.pps() / 1e6, self.offered as f64 / self.seconds / 1e6);
        write!(
            f,
            "{pps:.2} Mpps (offered {offered:.2}, way in full in {:.0} % of turns)",
            self.full * 100.0
        )?;
        if self.full < 0.5 { f.write_str(" (the generator is the limit)") } else { Ok(()) }
    }
}

impl Generator {
    /// Connects to both sockets and pins this thread to `core`.
    pub(super) fn open(sockets: &[String; 2], core: usize) -> Result<Self> {
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
        let hub = MemifHub::start()?;
        let open = |number: usize| -> Result<(MemifPort, MemifStatus)> {
            let config = MemifConfig::new(sockets[number].clone(), MemifRole::Client, 0);
            let (mut ports, status) = hub.open(config)?;
            Ok((ports.pop().context("an interface without queues")?, status))
        };
        let ((way_in, first), (way_out, second)) = (open(0)?, open(1)?);
        let pool = FramePool::anonymous(CHUNKS, HugePages::Prefer)?;
        let mut generator = Generator { way_in, way_out, status: [first, second], pool, next: 0, _hub: hub };
        generator.wait_up()?;
        Ok(generator)
    }

    fn wait_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut batch = Batch::new();
        loop {
            self.way_in.receive(&mut self.pool, &mut batch, BATCH_SIZE);
            self.way_out.receive(&mut self.pool, &mut batch, BATCH_SIZE);
            batch.drain(..).for_each(|frame| self.pool.free(frame));
            if self.way_in.is_up() && self.way_out.is_up() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no connection: {}; {}", self.status[0].text(), self.status[1].text());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// That what comes out is what went in, in a tunnel to another node.
    pub(super) fn check_tunnelled(&mut self, packets: &[Packet]) -> Result<()> {
        // Ethernet, IPv4, UDP to VXLAN's port, VXLAN, and the packet without its own Ethernet addresses.
        let tunnelled =
            |out: &[u8]| out.get(36..38) == Some(&4789u16.to_be_bytes()) && out.len() == PACKET_LEN + 50;
        self.check(packets, "a VXLAN packet", tunnelled)
    }

    /// That what comes out is what went in with its MAC addresses swapped.
    pub(super) fn check_swapped(&mut self, packets: &[Packet]) -> Result<()> {
        let swapped = |out: &[u8]| {
            packets.iter().any(|Packet(packet)| {
                out.get(12..) == Some(&packet[12..]) && out[..6] == packet[6..12] && out[6..12] == packet[..6]
            })
        };
        self.check(packets, "a packet with its MAC addresses swapped", swapped)
    }

    fn check(&mut self, packets: &[Packet], wanted: &str, is_wanted: impl Fn(&[u8]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < deadline, "{wanted} did not come out");
            self.offer(packets.get(..1).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(10));
            let mut batch = Batch::new();
            self.way_out.receive(&mut self.pool, &mut batch, BATCH_SIZE);
            let (mut came, mut right) = (0, 0);
            for frame in batch.drain(..) {
                came += 1;
                right += usize::from(is_wanted(&frame));
                self.pool.free(frame);
            }
            ensure!(came == right, "what came out is not {wanted}");
            if came > 0 {
                return Ok(());
            }
        }
    }

    /// Runs for a while, and counts for `lasts`.
    pub(super) fn run(&mut self, packets: &[Packet], lasts: Duration) -> Result<Passed> {
        self.turns(packets, WARM_UP);
        let (offered, came) = (self.way_in.counters().tx_packets, self.way_out.counters().rx_packets);
        let began = Instant::now();
        let full = self.turns(packets, lasts);
        let seconds = began.elapsed().as_secs_f64();
        let passed = Passed {
            packets: self.way_out.counters().rx_packets - came,
            seconds,
            offered: self.way_in.counters().tx_packets - offered,
            full,
        };
        ensure!(passed.packets > 0, "nothing came out");
        ensure!(self.way_in.is_up() && self.way_out.is_up(), "a connection has ended");
        Ok(passed)
    }

    /// Answers with the share of turns that found the way in full.
    fn turns(&mut self, packets: &[Packet], lasts: Duration) -> f64 {
        let began = Instant::now();
        let (mut turns, mut full) = (0u64, 0u64);
        while began.elapsed() < lasts {
            for _ in 0..TURNS {
                turns += 1;
                full += u64::from(self.offer(packets) < BATCH_SIZE);
                self.drain();
            }
        }
        full as f64 / turns.max(1) as f64
    }

    /// Offers a batch of packets, the next in turn; answers with how many found room.
    fn offer(&mut self, packets: &[Packet]) -> usize {
        let mut batch = Batch::new();
        let mut next = self.next;
        while batch.len() < BATCH_SIZE.min(packets.len()) {
            let (Some(mut frame), Some(packet)) = (self.pool.alloc(), packets.get(next).or(packets.first()))
            else {
                break;
            };
            next = if next + 1 < packets.len() { next + 1 } else { 0 };
            if frame.resize(PACKET_LEN)
                && let Some(place) = frame.first_chunk_mut::<PACKET_LEN>()
            {
                *place = packet.0;
            }
            batch.push(frame);
        }
        let taken = self.way_in.send(&mut self.pool, &mut batch);
        // A link that is down is said by the statistics; there is no other error.
        let _ = self.way_in.flush(&mut self.pool);
        batch.drain(..).for_each(|frame| self.pool.free(frame));
        self.next = (self.next + taken) % packets.len().max(1);
        taken
    }

    /// Takes everything that has come out.
    fn drain(&mut self) {
        let mut batch = Batch::new();
        while self.way_out.receive(&mut self.pool, &mut batch, BATCH_SIZE) > 0 {
            let was_full = batch.is_full();
            batch.drain(..).for_each(|frame| self.pool.free(frame));
            if !was_full {
                break;
            }
        }
    }
}
