//! [`FramePool`]: packet memory and its free chunks. One a worker, shared by all the worker's ports.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::frame::{CHUNK_SIZE, Frame, HEADROOM};
use crate::region::{HugePages, Region, RegionError};

/// Packet memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The memory could not be mapped.
    #[error("packet memory: {0}")]
    Memory(#[from] RegionError),
    /// The count was zero or too large.
    #[error("packet memory of {0} chunks: the count must be between 1 and {MAX_CHUNKS}")]
    Count(usize),
}

/// Chunks a pool holds at most: 8 GiB of packet memory.
pub const MAX_CHUNKS: usize = 1 << 22;

/// Where every chunk is: the pool law is `free + out + kernel = total`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PoolLedger {
    /// Chunks in the pool's free list.
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
    /// Chunks owned by live `Frame`s.
    out: usize,
    memory: ManuallyDrop<Region>,
}

// SAFETY: the pool owns its memory region and its free chunks alone; moving it moves all access.
unsafe impl Send for FramePool {}

impl FramePool {
    /// A pool of `chunks` chunks in anonymous memory, usable without privileges by in-memory and pcap ports.
    ///
    /// # Errors
    /// [`PoolError::Count`] for zero or more than [`MAX_CHUNKS`]; [`PoolError::Memory`] where mapping fails.
    pub fn anonymous(chunks: usize, huge_pages: HugePages) -> Result<Self, PoolError> {
        if chunks == 0 || chunks > MAX_CHUNKS {
            return Err(PoolError::Count(chunks));
        }
        let memory = Region::new(chunks * CHUNK_SIZE, huge_pages)?;
        let free = (0..chunks as u32).rev().collect();
        Ok(FramePool { base: memory.base(), total: chunks, free, out: 0, memory: ManuallyDrop::new(memory) })
    }

    /// Takes a free chunk as an empty frame with [`HEADROOM`] in front; `None` where all are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        Some(self.frame(chunk, HEADROOM, 0))
    }

    /// Takes a frame home. A frame of another pool is a bug of the caller: it is leaked, never mixed in.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        if let Some(chunk) = self.reclaim(frame) {
            self.free.push(chunk);
        }
    }

    /// Whether the frame is of this pool.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        let chunk = frame.chunk() as usize;
        chunk < self.total && frame.base().as_ptr() as usize == self.base.as_ptr() as usize + chunk * CHUNK_SIZE
    }

    /// Where every chunk is.
    pub fn ledger(&self) -> PoolLedger {
        let kernel = self.total - self.free.len() - self.out;
        PoolLedger { free: self.free.len(), out: self.out, kernel, total: self.total }
    }

    /// What backs the memory, for the operator: "huge pages (2 MiB)", or why not.
    pub fn backing(&self) -> &str {
        self.memory.backing()
    }

    /// Turns a frame into its bare chunk number, about to be given to the kernel: the chunk counts as `kernel`
    /// from here on. `None` for a frame of another pool.
    #[inline]
    pub(crate) fn reclaim(&mut self, frame: Frame) -> Option<u32> {
        if !self.owns(&frame) {
            debug_assert!(false, "a frame came to a pool that is not its own");
            return None;
        }
        self.out -= 1;
        Some(frame.chunk())
    }

    /// Takes a free chunk to give to the kernel (fill ring).
    #[inline]
    pub(crate) fn take_chunk(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Takes back a chunk that the kernel has given back (completion ring, closed port).
    #[inline]
    pub(crate) fn return_chunk(&mut self, chunk: u32) {
        debug_assert!((chunk as usize) < self.total);
        self.free.push(chunk);
    }

    /// The frame for a chunk that this pool or the kernel just gave up, which nobody else holds.
    #[inline]
    pub(crate) fn frame(&mut self, chunk: u32, head: usize, len: usize) -> Frame {
        assert!((chunk as usize) < self.total && head + len <= CHUNK_SIZE);
        self.out += 1;
        // SAFETY: the chunk is in range (asserted), its memory is mapped as long as frames are out (see `drop`),
        // initialised (anonymous memory is zeroed), and the caller took it from the free list or a ring, where
        // each chunk stands once.
        unsafe {
            let base = self.base.add(chunk as usize * CHUNK_SIZE);
            Frame::from_chunk(base, chunk, head, len)
        }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        if self.out == 0 {
            // SAFETY: dropped once, here; no frame points into the region.
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
