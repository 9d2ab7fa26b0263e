//! [`ReplayPort`]: receives prepared packets over and over, sends into nothing.
//!
//! Its cost is the copy of one cache line into a chunk (a NIC's DMA, done by the CPU), and taking and freeing the chunk. It can be measured
//! without a worker, and be subtracted.

use std::sync::Arc;

use afxdp_driver::{Batch, FramePool, PacketIo, PortCounters, PortError};

/// Bytes of a packet, without FCS: a cache line.
pub const PACKET_LEN: usize = 64;

/// A prepared packet in a line of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Packet(pub [u8; PACKET_LEN]);

/// A port without a kernel and without a queue.
#[derive(Debug)]
pub struct ReplayPort {
    packets: Arc<[Packet]>,
    next: usize,
    counters: PortCounters,
}

impl ReplayPort {
    /// Receives `packets` in their order, and again from the first. Without packets it only sends.
    pub fn new(packets: Arc<[Packet]>) -> Self {
        ReplayPort { packets, next: 0, counters: PortCounters::default() }
    }
}

impl PacketIo for ReplayPort {
    #[inline]
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        let waiting = self.packets.get(self.next..).unwrap_or_default();
        let room = most.min(batch.remaining_capacity());
        let mut received = 0;
        for packet in waiting.iter().take(room) {
            let Some(mut frame) = pool.alloc() else { break };
            if !frame.fill(&packet.0) || batch.try_push(frame).is_err() {
                break;
            }
            received += 1;
        }
        self.next += received;
        if self.next == self.packets.len() {
            self.next = 0;
        }
        self.counters.rx_packets += received as u64;
        self.counters.rx_bytes += (received * PACKET_LEN) as u64;
        received
    }

    #[inline]
    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        let sent = batch.len();
        for frame in batch.drain(..) {
            self.counters.tx_bytes += frame.len() as u64;
            pool.free(frame);
        }
        self.counters.tx_packets += sent as u64;
        sent
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
