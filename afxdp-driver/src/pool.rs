//! [`FramePool`]: packet memory and its free chunks. One a worker, shared by all the worker's ports.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::frame::{BATCH_SIZE, CHUNK_SIZE, Frame, HEADROOM};
use crate::region::{HugePages, Region, RegionError};
use crate::umem::{Anchor, UmemError, UmemHandle};
use crate::xdp::ClosedPort;

/// Packet memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The memory could not be mapped.
    #[error("packet memory: {0}")]
    Memory(#[from] RegionError),
    /// The memory could not be registered with the kernel as a UMEM.
    #[error("packet memory: {0}")]
    Umem(#[from] UmemError),
    /// The count was zero or too large.
    #[error("packet memory of {0} chunks: the count must be between 1 and {MAX_CHUNKS}")]
    Count(usize),
}

/// Chunks a pool holds at most: 8 GiB of packet memory.
pub const MAX_CHUNKS: usize = 1 << 22;

/// Chunks set aside for ports to come, at most: what arrives between attaching a port and its worker's first look at it.
const RESERVE: usize = 1024;
/// Of the whole pool, no more than this part is set aside.
const RESERVED_PART: usize = 8;

/// Where every chunk is: the pool law is `free + out + kernel = total`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PoolLedger {
    /// Chunks in the pool's free list, and those set aside for ports to come.
    pub free: usize,
    /// Chunks that live `Frame`s own (in batches, in rings between workers, or leaked).
    pub out: usize,
    /// Chunks that ports have given to the kernel (fill, rx, tx and completion rings).
    pub kernel: usize,
    /// All chunks.
    pub total: usize,
}

/// Packet memory cut into chunks of [`CHUNK_SIZE`] bytes, and the free list.
///
/// Owned by one worker. Memory is not unmapped while a frame of it lives: a pool dropped too early leaks its
/// memory rather than leave a dangling frame.
pub struct FramePool {
    base: NonNull<u8>,
    total: usize,
    free: Vec<u32>,
    /// Chunks that ports have given to the kernel. What is neither free nor set aside nor there, live `Frame`s own: so
    /// taking a frame and freeing it count nothing.
    kernel: usize,
    /// Chunks put into the UMEM's reserve, until they are drawn from it again or booked for a port that took them.
    aside: usize,
    memory: ManuallyDrop<Memory>,
}

/// What a pool's chunks lie in.
enum Memory {
    Anonymous(Region),
    Umem(UmemHandle),
}

// SAFETY: the pool owns its memory region and its free chunks alone; moving it moves all access.
unsafe impl Send for FramePool {}

impl FramePool {
    /// A pool of `chunks` chunks in anonymous memory, usable without privileges by in-memory and pcap ports.
    ///
    /// # Errors
    /// [`PoolError::Count`] for zero or more than [`MAX_CHUNKS`]; [`PoolError::Memory`] where mapping fails.
    pub fn anonymous(chunks: usize, huge_pages: HugePages) -> Result<Self, PoolError> {
        check_count(chunks)?;
        let region = Region::new(chunks * CHUNK_SIZE, huge_pages)?;
        Ok(FramePool::over(region.base(), chunks, Memory::Anonymous(region)))
    }

    /// A pool of `chunks` chunks registered with the kernel, which AF_XDP ports in copy mode can be attached to by
    /// its [`umem_handle`](Self::umem_handle). Needs `CAP_NET_RAW` and `CAP_SYS_ADMIN` (see [`crate::umem`]).
    ///
    /// # Errors
    /// [`PoolError::Count`] for zero or more than [`MAX_CHUNKS`]; [`PoolError::Umem`] where the kernel refuses.
    pub fn umem(chunks: usize, huge_pages: HugePages) -> Result<Self, PoolError> {
        FramePool::umem_anchored(chunks, huge_pages, Anchor::Private)
    }

    /// As [`umem`](Self::umem), with a choice of [`Anchor`]: [`Anchor::FirstPort`] where ports may be zero-copy.
    ///
    /// # Errors
    /// As [`umem`](Self::umem).
    pub fn umem_anchored(chunks: usize, huge_pages: HugePages, anchor: Anchor) -> Result<Self, PoolError> {
        check_count(chunks)?;
        let handle = UmemHandle::new(chunks, huge_pages, anchor)?;
        Ok(FramePool::over(handle.base(), chunks, Memory::Umem(handle)))
    }

    fn over(base: NonNull<u8>, chunks: usize, memory: Memory) -> Self {
        let free = (0..chunks as u32).rev().collect();
        let memory = ManuallyDrop::new(memory);
        let mut pool = FramePool { base, total: chunks, free, kernel: 0, aside: 0, memory };
        pool.restock();
        pool
    }

    /// What AF_XDP ports of this pool are attached to; `None` for a pool in anonymous memory.
    pub fn umem_handle(&self) -> Option<UmemHandle> {
        match &*self.memory {
            Memory::Anonymous(_) => None,
            Memory::Umem(handle) => Some(handle.clone()),
        }
    }

    /// Takes a free chunk as an empty frame with [`HEADROOM`] in front; `None` where all are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.take_free()?;
        Some(self.owner(chunk, HEADROOM, 0))
    }

    /// Takes a frame home. A frame of another pool is a bug of the caller: it is leaked, never mixed in.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        if self.is_own(&frame) {
            self.free.push(frame.chunk());
        }
    }

    /// Whether the frame is of this pool.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        let chunk = frame.chunk() as usize;
        chunk < self.total
            && frame.base().as_ptr() as usize == self.base.as_ptr() as usize + chunk * CHUNK_SIZE
    }

    /// Takes home what a closed port leaves. What another pool's port leaves is lost, never mixed in.
    pub fn take_home(&mut self, closed: ClosedPort) {
        if !self.is_of(&closed.umem) {
            debug_assert!(false, "a closed port came to a pool that is not its own");
            return;
        }
        self.book(closed.unbooked);
        self.kernel -= closed.chunks.len();
        self.free.extend(closed.chunks);
        self.restock();
    }

    /// Where every chunk is.
    pub fn ledger(&self) -> PoolLedger {
        PoolLedger {
            free: self.free.len() + self.aside,
            out: self.out(),
            kernel: self.kernel,
            total: self.total,
        }
    }

    /// What backs the memory, for the operator: "huge pages (2 MiB)", or why not.
    pub fn backing(&self) -> &str {
        match &*self.memory {
            Memory::Anonymous(region) => region.backing(),
            Memory::Umem(handle) => handle.backing(),
        }
    }

    /// Whether the pool's memory is this UMEM: no port may exchange chunks with another's pool.
    #[inline]
    pub(crate) fn is_of(&self, umem: &UmemHandle) -> bool {
        matches!(&*self.memory, Memory::Umem(handle) if handle.is(umem))
    }

    /// Turns a frame into its bare chunk number, about to be given to the kernel: the chunk counts as `kernel`
    /// from here on. `None` for a frame of another pool.
    #[inline]
    pub(crate) fn reclaim(&mut self, frame: Frame) -> Option<u32> {
        if !self.is_own(&frame) {
            return None;
        }
        self.kernel += 1;
        Some(frame.chunk())
    }

    /// Takes a free chunk to give to the kernel (fill ring).
    #[inline]
    pub(crate) fn take_chunk(&mut self) -> Option<u32> {
        let chunk = self.take_free()?;
        self.kernel += 1;
        Some(chunk)
    }

    /// Notes that a port has taken chunks out of the reserve and given them to the kernel.
    pub(crate) fn book(&mut self, chunks: u32) {
        self.aside -= chunks as usize;
        self.kernel += chunks as usize;
    }

    /// Sets chunks aside for the next port, which takes them while it is attached. Locks: not for every packet.
    pub(crate) fn restock(&mut self) {
        if let Memory::Umem(handle) = &*self.memory {
            let wanted = RESERVE.min(self.total / RESERVED_PART).saturating_sub(handle.reserved());
            let from = self.free.len().saturating_sub(wanted);
            self.aside += self.free.len() - from;
            handle.deposit(self.free.drain(from..));
        }
    }

    #[inline(always)]
    fn take_free(&mut self) -> Option<u32> {
        match self.free.pop() {
            None => self.draw_reserve(),
            taken => taken,
        }
    }

    /// Need goes before the next port.
    #[cold]
    fn draw_reserve(&mut self) -> Option<u32> {
        if self.aside > 0
            && let Memory::Umem(handle) = &*self.memory
        {
            let drawn = handle.withdraw(BATCH_SIZE);
            self.aside -= drawn.len();
            self.free.extend(drawn);
        }
        self.free.pop()
    }

    /// Takes back a chunk that the kernel has given back (completion ring, closed port).
    #[inline]
    pub(crate) fn return_chunk(&mut self, chunk: u32) {
        debug_assert!((chunk as usize) < self.total);
        self.kernel -= 1;
        self.free.push(chunk);
    }

    /// The frame for a chunk that the kernel has just given up (receive ring), which nobody else holds.
    #[inline]
    pub(crate) fn frame(&mut self, chunk: u32, head: usize, len: usize) -> Frame {
        self.kernel -= 1;
        self.owner(chunk, head, len)
    }

    /// Makes the owner of a chunk that nobody owns.
    #[inline(always)]
    fn owner(&self, chunk: u32, head: usize, len: usize) -> Frame {
        assert!((chunk as usize) < self.total && head + len <= CHUNK_SIZE);
        // SAFETY: the chunk is in range (asserted), its memory is mapped as long as frames are out (see `drop`),
        // initialised (anonymous and UMEM memory are mapped zeroed), and the callers took it from the free list or a ring, where
        // each chunk stands once.
        unsafe {
            let base = self.base.add(chunk as usize * CHUNK_SIZE);
            Frame::from_chunk(base, chunk, head, len)
        }
    }

    #[inline(always)]
    fn is_own(&self, frame: &Frame) -> bool {
        let is_own = self.owns(frame);
        debug_assert!(is_own, "a frame came to a pool that is not its own");
        is_own
    }

    /// Chunks owned by live `Frame`s.
    fn out(&self) -> usize {
        self.total - self.free.len() - self.aside - self.kernel
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool").field("ledger", &self.ledger()).field("backing", &self.backing()).finish()
    }
}

fn check_count(chunks: usize) -> Result<(), PoolError> {
    if chunks == 0 || chunks > MAX_CHUNKS { Err(PoolError::Count(chunks)) } else { Ok(()) }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        if self.out() == 0 {
            // SAFETY: dropped once, here; no frame points into the memory. Chunks in the kernel's rings are in a
            // UMEM, which the ports' sockets keep alive besides.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_conserved() {
        let mut pool = FramePool::anonymous(4, HugePages::Never).unwrap();
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(frames.len(), 4);
        assert_eq!(pool.ledger(), PoolLedger { free: 0, out: 4, kernel: 0, total: 4 });
        frames.into_iter().for_each(|frame| pool.free(frame));
        assert_eq!(pool.ledger(), PoolLedger { free: 4, out: 0, kernel: 0, total: 4 });
    }

    #[test]
    fn a_frame_outlives_its_pool() {
        let mut pool = FramePool::anonymous(1, HugePages::Never).unwrap();
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(b"still here"));
        drop(pool);
        assert_eq!(&*frame, b"still here");
    }
}
