//! [`Frame`]: one packet in one chunk of packet memory, owned by exactly one holder.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::cpu;

/// Bytes in a chunk of packet memory: the kernel's smallest UMEM chunk, and half a page, so that a chunk never
/// straddles one. With [`HEADROOM`] in front it holds every frame up to an MTU of 1,700 bytes.
pub const CHUNK_SIZE: usize = 2048;

/// Bytes in front of a received packet: what the kernel reserves for XDP (`XDP_PACKET_HEADROOM`). An encapsulation
/// of 50 (IPv4) or 70 (IPv6) bytes fits many times.
pub const HEADROOM: usize = 256;

/// Frames a batch holds at most.
pub const BATCH_SIZE: usize = 64;

/// Frames that travel together through one turn of a worker.
pub type Batch = ArrayVec<Frame, BATCH_SIZE>;

/// One packet: a window of bytes in one chunk. Move-only; whoever holds the `Frame` is the only one who can touch
/// the chunk. It goes home by [`FramePool::free`](crate::FramePool::free) or by being sent. A `Frame` that is
/// dropped instead leaks its chunk (the pool's ledger shows it) but never becomes unsound.
///
/// Invariants, upheld by the constructor and by every method, in release builds too:
/// `base` points at a whole chunk of [`CHUNK_SIZE`] bytes that stays mapped while any `Frame` of its pool lives,
/// and `head + len <= CHUNK_SIZE`.
#[must_use = "a dropped frame leaks its chunk: free it to its pool or send it"]
pub struct Frame {
    base: NonNull<u8>,
    /// Chunk number, head and length in one word, from the top: 32, 16, 16 bits. So a frame is two words that stay in
    /// registers while it is passed on; as fields they were written apart and read together, which stalls.
    window: u64,
}

// SAFETY: a `Frame` is the unique owner of its chunk (see the invariants), so moving it to another thread moves
// the only access with it. The pool does not unmap the memory while frames are out, on whichever thread they are.
unsafe impl Send for Frame {}

/// One byte of head in [`Frame::window`].
const HEAD: u64 = 1 << 16;

impl Frame {
    /// Makes the owner of chunk number `chunk` at `base`.
    ///
    /// # Safety
    /// `base` must point at [`CHUNK_SIZE`] initialised, mapped bytes that no one else reads or writes until this
    /// frame is given back, and `head + len <= CHUNK_SIZE` must hold.
    #[inline(always)]
    pub(crate) unsafe fn from_chunk(base: NonNull<u8>, chunk: u32, head: usize, len: usize) -> Self {
        debug_assert!(head + len <= CHUNK_SIZE);
        Frame { base, window: u64::from(chunk) << 32 | (head as u64) << 16 | len as u64 }
    }

    /// The number of this frame's chunk within its pool.
    #[inline(always)]
    pub(crate) fn chunk(&self) -> u32 {
        (self.window >> 32) as u32
    }

    /// Address of the chunk's first byte, for the pool to check that the frame is its own.
    #[inline(always)]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Free bytes in front of the packet.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        (self.window >> 16) as u16 as usize
    }

    /// Free bytes behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        CHUNK_SIZE - self.headroom() - self.bytes()
    }

    /// Bytes of the packet: what `len()` says, without making the slice.
    #[inline(always)]
    fn bytes(&self) -> usize {
        self.window as u16 as usize
    }

    /// Asks the CPU to bring the packet's first cache line near.
    #[inline(always)]
    pub fn prefetch(&self) {
        cpu::prefetch(self.base.as_ptr().wrapping_add(self.headroom()));
    }

    /// Grows the packet by `count` bytes at its front (for an encapsulation). The new bytes hold whatever the
    /// chunk held. False, and nothing changed, where there is not enough headroom.
    #[inline(always)]
    #[must_use]
    pub fn push_front(&mut self, count: usize) -> bool {
        if count > self.headroom() {
            return false;
        }
        // No borrow and no carry between the fields: the head is not smaller, and the sum of both stays what it is.
        self.window = self.window - count as u64 * HEAD + count as u64;
        true
    }

    /// Removes `count` bytes from the packet's front (decapsulation). False, and nothing changed, where the packet
    /// is shorter.
    #[inline(always)]
    #[must_use]
    pub fn pull_front(&mut self, count: usize) -> bool {
        if count > self.bytes() {
            return false;
        }
        self.window = self.window + count as u64 * HEAD - count as u64;
        true
    }

    /// Cuts or grows the packet at its end to `len` bytes. False, and nothing changed, where the chunk ends
    /// before that.
    #[inline(always)]
    #[must_use]
    pub fn resize(&mut self, len: usize) -> bool {
        if len > CHUNK_SIZE || self.headroom() + len > CHUNK_SIZE {
            return false;
        }
        self.window = self.window & !0xffff | len as u64;
        true
    }

    /// Makes the frame hold `packet`, with [`HEADROOM`] in front. False, and nothing changed, where it does not fit.
    #[inline]
    #[must_use]
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        if HEADROOM + packet.len() > CHUNK_SIZE {
            return false;
        }
        self.window = (u64::from(self.chunk()) << 32) | (HEADROOM as u64 * HEAD) | packet.len() as u64;
        self.copy_from_slice(packet);
        true
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: by the invariants the range lies in the chunk, which is mapped, initialised and ours alone.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.headroom()), self.bytes()) }
    }
}

impl DerefMut for Frame {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(self.headroom()), self.bytes()) }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("chunk", &self.chunk())
            .field("head", &self.headroom())
            .field("len", &self.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_sixteen_bytes() {
        assert_eq!(size_of::<Frame>(), 16);
        assert_eq!(size_of::<Option<Frame>>(), 16);
    }
}
