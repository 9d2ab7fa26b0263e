//! [`Receiver`], [`Sender`]: one end of a ring each. Nothing that they read of the ring is believed.
//!
//! ```text
//!   client to server: the sender moves `head` past packets, the receiver `tail` past what it has copied
//!   server to client: the receiver moves `head` past empty buffers, the sender `tail` past packets in them
//! ```
//!
//! So in both directions the receiver reads between a place of its own and where the sender has come, and gives back
//! what it has read; the sender writes from a place of its own as far as the receiver has given. The client owns the
//! descriptors and buffers of both.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;

use super::message::Direction;
use super::shm::{COOKIE, Descriptor, FLAG_MASK_INTERRUPT, FLAG_NEXT, Memory, RingView};
use crate::frame::{CHUNK_SIZE, HEADROOM};
use crate::{Batch, Frame, FramePool, PortCounters};

/// Buffers of one packet at most; one of more is no packet that fits a chunk.
const MAX_CHAIN: usize = 64;
/// Some microseconds: much longer than a store takes to become visible.
const STORE_BUFFER_SPINS: u32 = 200;
/// How many descriptors further ahead these are asked for: four cache lines of them.
const DESCRIPTORS_AHEAD: u16 = 16;
/// How many packets ahead buffers are asked for.
const AHEAD: u16 = 8;

/// The peer has moved an index where it cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{direction} ring: the peer moved its {index} to {to}, {distance} from {from}: a ring has {size} descriptors"
)]
pub(crate) struct RingError {
    /// Which ring.
    pub(crate) direction: Direction,
    /// "head" or "tail".
    pub(crate) index: &'static str,
    /// Where it is.
    pub(crate) to: u16,
    /// From where it is counted.
    pub(crate) from: u16,
    /// How far that is, at least half a turn of 16 bits counting as backwards.
    pub(crate) distance: u16,
    /// How far it may be.
    pub(crate) size: u16,
}

/// The regions of a connection.
pub(crate) type Regions = Arc<[Arc<Memory>]>;

/// Where the buffers of a client's ring lie, in its own memory; a server reads that from the descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffers {
    /// In region 0.
    pub(crate) first: u32,
    /// Bytes each.
    pub(crate) size: u32,
}

impl Buffers {
    /// The descriptor of an empty buffer.
    #[inline]
    fn descriptor(&self, index: u16, size: u16) -> Descriptor {
        let slot = u32::from(index & (size - 1));
        let offset = self.first + slot * self.size;
        Descriptor { flags: 0, region: 0, len: self.size, offset, metadata: 0 }
    }
}

/// Prepares the ring of a client: cookie, indices, descriptors.
pub(crate) fn prepare(ring: &RingView, buffers: Buffers) {
    for index in 0..ring.size() {
        ring.set_descriptor(index, buffers.descriptor(index, ring.size()));
    }
    ring.flags().store(FLAG_MASK_INTERRUPT, Ordering::Relaxed);
    ring.head().store(0, Ordering::Relaxed);
    ring.tail().store(0, Ordering::Relaxed);
    ring.cookie().store(COOKIE, Ordering::Release);
}

/// The receiving end of a ring.
#[derive(Debug)]
pub(crate) struct Receiver {
    ring: RingView,
    regions: Regions,
    direction: Direction,
    /// A client's own buffers, which it offers again and again.
    own: Option<Buffers>,
    /// The next descriptor to read.
    next: u16,
    /// As far as the sender has come.
    limit: u16,
}

/// What became of the packet at hand.
enum Taken {
    Packet(Frame),
    Dropped,
    /// There is no chunk for it, or its end has not come.
    Waits,
}

impl Receiver {
    /// The end of a ring in which nothing has passed yet. A client gives its buffers, and so offers all of them.
    pub(crate) fn new(ring: RingView, regions: Regions, own: Option<Buffers>) -> Self {
        let direction = if own.is_some() { Direction::ServerToClient } else { Direction::ClientToServer };
        // A server begins where its client's ring stands.
        let next = if own.is_some() { 0 } else { ring.tail().load(Ordering::Acquire) };
        let receiver = Receiver { ring, regions, direction, own, next, limit: next };
        receiver.ring.flags().store(FLAG_MASK_INTERRUPT, Ordering::Relaxed);
        receiver.give_back();
        receiver
    }

    /// Appends at most `most` packets to `batch`.
    ///
    /// # Errors
    /// [`RingError`] where the sender is where it cannot be; the ring is of no use any more.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        pool: &mut FramePool,
        batch: &mut Batch,
        most: usize,
        counters: &mut PortCounters,
    ) -> Result<usize, RingError> {
        let room = most.min(batch.remaining_capacity());
        self.look()?;
        if self.waiting() == 0 {
            return Ok(0);
        }
        for ahead in 0..self.waiting().min(AHEAD) {
            self.prefetch(ahead);
        }
        let (began, mut received, mut bytes) = (self.next, 0, 0);
        while received < room && self.waiting() > 0 {
            if self.waiting() > AHEAD {
                self.prefetch(AHEAD);
            }
            match self.take(pool, counters) {
                Taken::Packet(frame) => {
                    received += 1;
                    bytes += frame.len() as u64;
                    batch.push(frame);
                }
                Taken::Dropped => {}
                Taken::Waits => break,
            }
        }
        counters.rx_packets += received as u64;
        counters.rx_bytes += bytes;
        if self.next != began {
            self.offer(began);
            self.give_back();
        }
        Ok(received)
    }

    /// Wants to be woken by an interrupt from here on. Whether something waits already.
    pub(crate) fn unmask(&self) -> bool {
        self.ring.flags().store(0, Ordering::Relaxed);
        // Either the sender sees the flag, or its packets are seen here: at once where it has a fence of its own between
        // the two, as `publish` has. DPDK's has none: its packets may lie in a store buffer while it reads the flag. So
        // they are looked for as long as that can last.
        fence(Ordering::SeqCst);
        (0..STORE_BUFFER_SPINS).any(|_| {
            std::hint::spin_loop();
            self.sender_at() != self.next
        })
    }

    /// Wants no interrupt: it polls.
    pub(crate) fn mask(&self) {
        self.ring.flags().store(FLAG_MASK_INTERRUPT, Ordering::Relaxed);
    }

    #[inline]
    fn waiting(&self) -> u16 {
        self.limit.wrapping_sub(self.next)
    }

    #[inline]
    fn sender_at(&self) -> u16 {
        match self.direction {
            Direction::ClientToServer => self.ring.head().load(Ordering::Acquire),
            Direction::ServerToClient => self.ring.tail().load(Ordering::Acquire),
        }
    }

    /// Reads how far the sender has come.
    #[inline]
    fn look(&mut self) -> Result<(), RingError> {
        let to = self.sender_at();
        let (distance, size) = (to.wrapping_sub(self.next), self.ring.size());
        // Not beyond the ring, and not back behind what it had said before.
        if distance > size || distance < self.waiting() {
            let index = if self.direction == Direction::ClientToServer { "head" } else { "tail" };
            return Err(RingError { direction: self.direction, index, to, from: self.next, distance, size });
        }
        self.limit = to;
        Ok(())
    }

    /// Asks for a packet's bytes, and for a descriptor far behind it.
    #[inline]
    fn prefetch(&self, ahead: u16) {
        self.ring.prefetch(self.next.wrapping_add(ahead + DESCRIPTORS_AHEAD));
        let descriptor = self.ring.descriptor(self.next.wrapping_add(ahead));
        if let Some(region) = self.regions.get(descriptor.region as usize) {
            region.prefetch(descriptor.offset);
        }
    }

    /// Takes the next packet, whatever becomes of it.
    #[inline]
    fn take(&mut self, pool: &mut FramePool, counters: &mut PortCounters) -> Taken {
        let descriptor = self.ring.descriptor(self.next);
        if descriptor.flags & FLAG_NEXT != 0 {
            return self.take_chain(pool, counters);
        }
        let Some(frame) = pool.alloc() else { return Taken::Waits };
        self.next = self.next.wrapping_add(1);
        self.copy(&[descriptor], frame, pool, counters)
    }

    /// Takes a packet of several buffers.
    #[cold]
    fn take_chain(&mut self, pool: &mut FramePool, counters: &mut PortCounters) -> Taken {
        let mut chain = ArrayVec::<Descriptor, MAX_CHAIN>::new();
        let (mut length, mut ended) = (0, false);
        while !ended && length < self.waiting() {
            let descriptor = self.ring.descriptor(self.next.wrapping_add(length));
            ended = descriptor.flags & FLAG_NEXT == 0;
            length += 1;
            // Longer than a chain can be: only its end is looked for.
            let _ = chain.try_push(descriptor);
        }
        if !ended && length < self.ring.size() {
            // Its end may still come, unless it fills the ring.
            return Taken::Waits;
        }
        let is_whole = ended && chain.len() == length as usize;
        let frame = if is_whole { pool.alloc() } else { None };
        if is_whole && frame.is_none() {
            return Taken::Waits;
        }
        self.next = self.next.wrapping_add(length);
        match frame {
            Some(frame) => self.copy(&chain, frame, pool, counters),
            None => {
                counters.rx_invalid += u64::from(!ended);
                counters.rx_oversize += u64::from(ended);
                Taken::Dropped
            }
        }
    }

    /// Copies a packet into a frame, or counts why not.
    #[inline]
    fn copy(
        &self,
        chain: &[Descriptor],
        mut frame: Frame,
        pool: &mut FramePool,
        counters: &mut PortCounters,
    ) -> Taken {
        let mut len = 0u64;
        for part in chain {
            let region = self.regions.get(part.region as usize);
            if !region.is_some_and(|region| region.contains(part.offset, part.len as usize)) {
                counters.rx_invalid += 1;
                pool.free(frame);
                return Taken::Dropped;
            }
            len += u64::from(part.len);
        }
        if len == 0 || len > (CHUNK_SIZE - HEADROOM) as u64 || !frame.resize(len as usize) {
            counters.rx_invalid += u64::from(len == 0);
            counters.rx_oversize += u64::from(len != 0);
            pool.free(frame);
            return Taken::Dropped;
        }
        let (mut at, mut sound) = (0, true);
        for part in chain {
            let end = at + part.len as usize;
            let region = self.regions.get(part.region as usize);
            sound &= region.is_some_and(|region| region.read(part.offset, &mut frame[at..end]));
            at = end;
        }
        if !sound {
            counters.rx_invalid += 1;
            pool.free(frame);
            return Taken::Dropped;
        }
        Taken::Packet(frame)
    }

    /// Makes read buffers of one's own empty again, whatever their descriptors say now.
    #[inline]
    fn offer(&self, began: u16) {
        let Some(own) = &self.own else { return };
        let size = self.ring.size();
        let mut index = began;
        while index != self.next {
            self.ring.set_descriptor(index, own.descriptor(index, size));
            index = index.wrapping_add(1);
        }
    }

    /// Tells the sender how far this end has come.
    #[inline]
    fn give_back(&self) {
        match self.direction {
            Direction::ClientToServer => self.ring.tail().store(self.next, Ordering::Release),
            Direction::ServerToClient => {
                self.ring.head().store(self.next.wrapping_add(self.ring.size()), Ordering::Release);
            }
        }
    }
}

/// What became of a packet that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It leaves at the next publication.
    Taken,
    /// There is no room for it now.
    Full,
    /// There can be no room for it, or the buffer offered for it is not one.
    Lost,
}

/// The sending end of a ring.
#[derive(Debug)]
pub(crate) struct Sender {
    ring: RingView,
    regions: Regions,
    direction: Direction,
    /// A client's own buffers.
    own: Option<Buffers>,
    /// The next descriptor to write.
    next: u16,
    /// As far as the receiver lets it.
    limit: u16,
}

impl Sender {
    /// The end of a ring in which nothing has passed yet; of a client with its buffers.
    pub(crate) fn new(ring: RingView, regions: Regions, own: Option<Buffers>) -> Self {
        let direction = if own.is_some() { Direction::ClientToServer } else { Direction::ServerToClient };
        let next = if own.is_some() { 0 } else { ring.tail().load(Ordering::Acquire) };
        Sender { ring, regions, direction, own, next, limit: next }
    }

    /// Copies a packet into the ring.
    ///
    /// # Errors
    /// [`RingError`] where the receiver is where it cannot be; the ring is of no use any more.
    #[inline]
    pub(crate) fn push(&mut self, packet: &[u8]) -> Result<Pushed, RingError> {
        if self.next == self.limit {
            self.look()?;
            if self.next == self.limit {
                return Ok(Pushed::Full);
            }
        }
        self.prefetch();
        let mut descriptor = self.buffer(self.next);
        if packet.len() > descriptor.len as usize {
            return self.push_chain(packet);
        }
        descriptor.flags = 0;
        descriptor.len = packet.len() as u32;
        if !self.fill(&descriptor, packet) {
            return Ok(self.pass_over(descriptor));
        }
        self.put(self.next, descriptor);
        self.next = self.next.wrapping_add(1);
        Ok(Pushed::Taken)
    }

    /// Shows everything pushed to the receiver. Whether it wants an interrupt.
    #[inline]
    pub(crate) fn publish(&self) -> bool {
        match self.direction {
            Direction::ClientToServer => self.ring.head().store(self.next, Ordering::Release),
            Direction::ServerToClient => self.ring.tail().store(self.next, Ordering::Release),
        }
        // Either the receiver sees the packets before it sleeps, or its flag is seen here.
        fence(Ordering::SeqCst);
        self.ring.flags().load(Ordering::Relaxed) & FLAG_MASK_INTERRUPT == 0
    }

    /// Reads how far the receiver has come.
    #[inline]
    fn look(&mut self) -> Result<(), RingError> {
        let size = self.ring.size();
        let (index, to, limit) = match self.direction {
            Direction::ClientToServer => {
                let tail = self.ring.tail().load(Ordering::Acquire);
                ("tail", tail, tail.wrapping_add(size))
            }
            Direction::ServerToClient => {
                let head = self.ring.head().load(Ordering::Acquire);
                ("head", head, head)
            }
        };
        let free = limit.wrapping_sub(self.next);
        if free > size {
            let distance = to.wrapping_sub(self.next);
            return Err(RingError { direction: self.direction, index, to, from: self.next, distance, size });
        }
        self.limit = limit;
        Ok(())
    }

    /// Asks for the buffer of a packet some way behind, which the receiver has read last, and for a descriptor further on.
    #[inline]
    fn prefetch(&self) {
        self.ring.prefetch(self.next.wrapping_add(AHEAD + DESCRIPTORS_AHEAD));
        let descriptor = self.buffer(self.next.wrapping_add(AHEAD));
        if let Some(region) = self.regions.get(descriptor.region as usize) {
            region.prefetch_for_writing(descriptor.offset);
        }
    }

    /// The buffer that is free there: one's own, or what the client's descriptor says.
    #[inline]
    fn buffer(&self, index: u16) -> Descriptor {
        match &self.own {
            Some(own) => own.descriptor(index, self.ring.size()),
            None => self.ring.descriptor(index),
        }
    }

    #[inline]
    fn fill(&self, descriptor: &Descriptor, bytes: &[u8]) -> bool {
        let region = self.regions.get(descriptor.region as usize);
        region.is_some_and(|region| region.write(descriptor.offset, bytes))
    }

    #[inline]
    fn put(&self, index: u16, descriptor: Descriptor) {
        match &self.own {
            Some(_) => self.ring.set_descriptor(index, descriptor),
            // Where the buffer lies is the client's to say.
            None => self.ring.set_filled(index, descriptor),
        }
    }

    /// Gives a descriptor back empty that offers no memory of its region.
    #[cold]
    fn pass_over(&mut self, descriptor: Descriptor) -> Pushed {
        self.put(self.next, Descriptor { flags: 0, len: 0, ..descriptor });
        self.next = self.next.wrapping_add(1);
        Pushed::Lost
    }

    /// Spreads a packet over several buffers.
    #[cold]
    fn push_chain(&mut self, packet: &[u8]) -> Result<Pushed, RingError> {
        self.look()?;
        let free = self.limit.wrapping_sub(self.next);
        let (mut rest, mut used) = (packet, 0);
        while !rest.is_empty() {
            if used == free {
                // Nothing has been published: what was written so far is written again later.
                let never = free == self.ring.size();
                return Ok(if never { Pushed::Lost } else { Pushed::Full });
            }
            let index = self.next.wrapping_add(used);
            let mut descriptor = self.buffer(index);
            let (part, behind) = rest.split_at(rest.len().min(descriptor.len as usize));
            descriptor.flags = if behind.is_empty() { 0 } else { FLAG_NEXT };
            descriptor.len = part.len() as u32;
            if part.is_empty() || !self.fill(&descriptor, part) {
                return Ok(self.pass_over_chain(used));
            }
            self.put(index, descriptor);
            used += 1;
            rest = behind;
        }
        self.next = self.next.wrapping_add(used);
        Ok(Pushed::Taken)
    }

    /// Gives back empty what was begun, and the descriptor it came to grief at.
    fn pass_over_chain(&mut self, used: u16) -> Pushed {
        for _ in 0..=used {
            self.pass_over(self.buffer(self.next));
        }
        Pushed::Lost
    }
}

#[cfg(test)]
mod tests;
