//! [`MemoryPort`]: a port without a kernel, for tests and benchmarks. Frames move by value between the port and its
//! [`MemoryWire`] end; nothing is hard-coded, the very same pipeline runs over it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Batch, Frame, FramePool, PacketIo, PortCounters, PortError};

/// What waits on both directions of the wire, as bytes.
#[derive(Debug, Default)]
struct Queues {
    to_port: VecDeque<Vec<u8>>,
    from_port: VecDeque<Vec<u8>>,
}

/// The outer end of a [`MemoryPort`]: put packets in, take packets out.
#[derive(Debug, Clone)]
pub struct MemoryWire {
    queues: Arc<Mutex<Queues>>,
}

impl MemoryWire {
    /// Puts a packet where the port will receive it.
    pub fn inject(&self, packet: impl Into<Vec<u8>>) {
        self.lock().to_port.push_back(packet.into());
    }

    /// Takes the oldest packet that the port has sent.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.lock().from_port.pop_front()
    }

    /// Takes everything that the port has sent, oldest first.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        self.lock().from_port.drain(..).collect()
    }

    /// Packets injected and not received yet.
    pub fn waiting(&self) -> usize {
        self.lock().to_port.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port whose other end is a [`MemoryWire`] in the same process. Sent frames are "in flight" until the next
/// flush, as with a real port.
#[derive(Debug)]
pub struct MemoryPort {
    wire: MemoryWire,
    sending: VecDeque<Frame>,
    capacity: usize,
    counters: PortCounters,
}

impl MemoryPort {
    /// A port with a transmit ring of `capacity` frames, and its wire.
    pub fn new(capacity: usize) -> (Self, MemoryWire) {
        let wire = MemoryWire { queues: Arc::default() };
        let port = MemoryPort {
            wire: wire.clone(),
            sending: VecDeque::with_capacity(capacity),
            capacity,
            counters: PortCounters::default(),
        };
        (port, wire)
    }
}

impl PacketIo for MemoryPort {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        let mut received = 0;
        let mut queues = self.wire.lock();
        while received < most && !batch.is_full() {
            let Some(packet) = queues.to_port.pop_front() else { break };
            let Some(mut frame) = pool.alloc() else {
                queues.to_port.push_front(packet);
                break;
            };
            if !frame.fill(&packet) {
                self.counters.rx_oversize += 1;
                pool.free(frame);
                continue;
            }
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += packet.len() as u64;
            received += 1;
            batch.push(frame);
        }
        received
    }

    fn send(&mut self, _pool: &mut FramePool, batch: &mut Batch) -> usize {
        let room = (self.capacity - self.sending.len()).min(batch.len());
        for frame in batch.drain(..room) {
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += frame.len() as u64;
            self.sending.push_back(frame);
        }
        room
    }

    fn flush(&mut self, pool: &mut FramePool) -> Result<(), PortError> {
        let mut queues = self.wire.lock();
        for frame in self.sending.drain(..) {
            queues.from_port.push_back(frame.to_vec());
            pool.free(frame);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.sending.len()
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn close(mut self, pool: &mut FramePool) {
        for frame in self.sending.drain(..) {
            self.counters.tx_discarded += 1;
            pool.free(frame);
        }
    }
}
