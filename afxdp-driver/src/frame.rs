//! [`Frame`]: one packet in one chunk of packet memory, owned by exactly one holder.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use arrayvec::ArrayVec;

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
    chunk: u32,
    head: u16,
    len: u16,
}

// SAFETY: a `Frame` is the unique owner of its chunk (see the invariants), so moving it to another thread moves
// the only access with it. The pool does not unmap the memory while frames are out, on whichever thread they are.
unsafe impl Send for Frame {}

impl Frame {
    /// Makes the owner of chunk number `chunk` at `base`.
    ///
    /// # Safety
    /// `base` must point at [`CHUNK_SIZE`] initialised, mapped bytes that no one else reads or writes until this
    /// frame is given back, and `head + len <= CHUNK_SIZE` must hold.
    pub(crate) unsafe fn from_chunk(base: NonNull<u8>, chunk: u32, head: usize, len: usize) -> Self {
        debug_assert!(head + len <= CHUNK_SIZE);
        Frame { base, chunk, head: head as u16, len: len as u16 }
    }

    /// The number of this frame's chunk within its pool.
    pub(crate) fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Address of the chunk's first byte, for the pool to check that the frame is its own.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Free bytes in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head as usize
    }

    /// Free bytes behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        CHUNK_SIZE - self.head as usize - self.len as usize
    }

    /// Grows the packet by `count` bytes at its front (for an encapsulation). The new bytes hold whatever the
    /// chunk held. False, and nothing changed, where there is not enough headroom.
    #[inline]
    #[must_use]
    pub fn push_front(&mut self, count: usize) -> bool {
        if count > self.head as usize {
            return false;
        }
        self.head -= count as u16;
        self.len += count as u16;
        true
    }

    /// Removes `count` bytes from the packet's front (decapsulation). False, and nothing changed, where the packet
    /// is shorter.
    #[inline]
    #[must_use]
    pub fn pull_front(&mut self, count: usize) -> bool {
        if count > self.len as usize {
            return false;
        }
        self.head += count as u16;
        self.len -= count as u16;
        true
    }

    /// Cuts or grows the packet at its end to `len` bytes. False, and nothing changed, where the chunk ends
    /// before that.
    #[inline]
    #[must_use]
    pub fn resize(&mut self, len: usize) -> bool {
        if self.head as usize + len > CHUNK_SIZE {
            return false;
        }
        self.len = len as u16;
        true
    }

    /// Makes the frame hold `packet`, with [`HEADROOM`] in front. False, and nothing changed, where it does not fit.
    #[must_use]
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        if HEADROOM + packet.len() > CHUNK_SIZE {
            return false;
        }
        self.head = HEADROOM as u16;
        self.len = packet.len() as u16;
        self.copy_from_slice(packet);
        true
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: by the invariants the range lies in the chunk, which is mapped, initialised and ours alone.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.head as usize), self.len as usize) }
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only view.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr().add(self.head as usize), self.len as usize)
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("chunk", &self.chunk)
            .field("head", &self.head)
            .field("len", &self.len)
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
