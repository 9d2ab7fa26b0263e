//! [`ReplayPort`]: receives prepared packets over and over, sends into nothing.
//!
//! Its cost is the copy of one cache line into a chunk (a NIC's DMA, done by the CPU), and taking and freeing the chunk. It can be measured
//! without a worker, and be subtracted.

use std::sync::Arc;

use afxdp_driver::{Batch, FramePool, PacketIo, PortCounters, PortError};

/// Bytes of a packet, without FCS: a cache line.
pub const PACKET_LEN: usize = 64;

/// Bytes of a packet of IPv6 and TCP, which is longer than [`PACKET_LEN`], without FCS.
pub const LONG_LEN: usize = 80;

/// A prepared packet in a line of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Packet(pub [u8; PACKET_LEN]);

/// A prepared packet in two lines of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct LongPacket(pub [u8; LONG_LEN]);

/// What a port replays.
#[derive(Debug, Clone)]
pub enum Packets {
    /// IPv4.
    Short(Arc<[Packet]>),
    /// IPv6.
    Long(Arc<[LongPacket]>),
}

impl Packets {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Packets::Short(packets) => packets.len(),
            Packets::Long(packets) => packets.len(),
        }
    }
}

impl From<&Arc<[Packet]>> for Packets {
    fn from(packets: &Arc<[Packet]>) -> Self {
        Packets::Short(Arc::clone(packets))
    }
}

impl From<&Packets> for Packets {
    fn from(packets: &Packets) -> Self {
        packets.clone()
    }
}

/// A port without a kernel and without a queue.
#[derive(Debug)]
pub struct ReplayPort {
    packets: Packets,
    next: usize,
    counters: PortCounters,
}

impl ReplayPort {
    /// Receives `packets` in their order, and again from the first. Without packets it only sends.
    pub fn new(packets: Packets) -> Self {
        ReplayPort { packets, next: 0, counters: PortCounters::default() }
    }
}

/// Copies packets from `next` on into chunks. Answers with their number.
#[inline(always)]
fn receive<T, const LEN: usize>(
    packets: &[T],
    bytes: impl Fn(&T) -> &[u8; LEN],
    next: usize,
    pool: &mut FramePool,
    batch: &mut Batch,
    most: usize,
) -> usize {
    let waiting = packets.get(next..).unwrap_or_default();
    let room = most.min(batch.remaining_capacity()).min(waiting.len());
    let mut received = 0;
    for packet in &waiting[..room] {
        let Some(mut frame) = pool.alloc() else { break };
        // A chunk has room for it, and the batch for the frame.
        let filled = frame.fill(bytes(packet));
        debug_assert!(filled);
        batch.push(frame);
        received += 1;
    }
    received
}

/// Takes all of a batch and frees it: what sending into nothing is. Answers with how many frames it was.
#[inline(always)]
pub fn swallow(counters: &mut PortCounters, pool: &mut FramePool, batch: &mut Batch) -> usize {
    let sent = batch.len();
    for frame in batch.drain(..) {
        counters.tx_bytes += frame.len() as u64;
        pool.free(frame);
    }
    counters.tx_packets += sent as u64;
    sent
}

impl PacketIo for ReplayPort {
    #[inline]
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        let next = self.next;
        let (received, len) = match &self.packets {
            Packets::Short(all) => (receive(all, |packet| &packet.0, next, pool, batch, most), PACKET_LEN),
            Packets::Long(all) => (receive(all, |packet| &packet.0, next, pool, batch, most), LONG_LEN),
        };
        self.next = if next + received == self.packets.count() { 0 } else { next + received };
        self.counters.rx_packets += received as u64;
        self.counters.rx_bytes += (received * len) as u64;
        received
    }

    #[inline]
    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        swallow(&mut self.counters, pool, batch)
    }

    fn flush(&mut self, _pool: &mut FramePool) -> Result<(), PortError> {
        Ok(())
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn close(self, _pool: &mut FramePool) {}
}
