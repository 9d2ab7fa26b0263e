//! [`TxRing`]: our own producer over a socket's transmit ring.
//!
//! `xsk-rs` sends a frame only from the address that the kernel received it at, since its descriptors' address is
//! private. A packet that lost or gained an outer header starts elsewhere in its chunk; so this one ring is driven
//! here, over a mapping of our own (see `docs/decisions/0007-tx-ring.md`). The layout is that of
//! `include/uapi/linux/if_xdp.h`; `XDP_MMAP_OFFSETS` says where its parts lie.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_void, xdp_desc, xdp_mmap_offsets};

/// The producer's side of a mapped transmit ring. Unmapped on drop, which must come before the socket closes: the
/// kernel keeps a queue bound as long as anyone has its rings mapped.
pub(crate) struct TxRing {
    map: NonNull<u8>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    descriptors: NonNull<xdp_desc>,
    size: u32,
    /// Where the next descriptor goes: ahead of `producer` until [`publish`](Self::publish).
    head: u32,
    /// The consumer as last read.
    tail: u32,
}

// SAFETY: the ring has one producer, this value; moving it to another thread moves that role. The kernel's side is
// reached through atomics alone.
unsafe impl Send for TxRing {}

impl TxRing {
    /// Maps the transmit ring of `entries` (a power of two, as given to the socket) of a bound AF_XDP socket.
    pub(crate) fn map(socket: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        let offsets = mmap_offsets(socket)?.tx;
        let (producer, consumer) = (offsets.producer as usize, offsets.consumer as usize);
        let (flags, descriptors) = (offsets.flags as usize, offsets.desc as usize);
        let len = descriptors + entries as usize * size_of::<xdp_desc>();
        let aligned = |offset: usize, align: usize| offset.is_multiple_of(align) && offset + align <= len;
        let sound =
            [producer, consumer, flags].into_iter().all(|offset| aligned(offset, align_of::<AtomicU32>()))
                && aligned(descriptors, align_of::<xdp_desc>())
                && entries.is_power_of_two();
        if !sound {
            return Err(io::Error::other("XDP_MMAP_OFFSETS of a layout that cannot be"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                libc::XDP_PGOFF_TX_RING,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map =
            NonNull::new(map.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned address zero"))?;
        // SAFETY: each offset lies within the `len` bytes just mapped and is aligned for its type (checked above).
        let mut ring = unsafe {
            TxRing {
                map,
                len,
                producer: map.add(producer).cast(),
                consumer: map.add(consumer).cast(),
                flags: map.add(flags).cast(),
                descriptors: map.add(descriptors).cast(),
                size: entries,
                head: 0,
                tail: 0,
            }
        };
        ring.head = ring.word(ring.producer).load(Ordering::Relaxed);
        ring.tail = ring.consumer();
        Ok(ring)
    }

    /// Free entries, at least `wanted` if the kernel has consumed that many.
    #[inline]
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        let room = self.size.saturating_sub(self.head.wrapping_sub(self.tail));
        if room >= wanted {
            return room;
        }
        self.tail = self.consumer();
        self.size.saturating_sub(self.head.wrapping_sub(self.tail))
    }

    /// Writes a descriptor into the next entry. The caller has made sure of [`room`](Self::room).
    #[inline]
    pub(crate) fn push(&mut self, address: u64, len: u32) {
        let index = (self.head & (self.size - 1)) as usize;
        // SAFETY: `index < size`, and `size` descriptors are mapped. The kernel reads an entry only between
        // `consumer` and `producer`, and this one lies beyond `producer` until `publish`.
        unsafe { self.descriptors.add(index).write(xdp_desc { addr: address, len, options: 0 }) };
        self.head = self.head.wrapping_add(1);
    }

    /// Shows everything pushed to the kernel.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.word(self.producer).store(self.head, Ordering::Release);
    }

    /// Descriptors that the kernel has not consumed.
    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        self.head.wrapping_sub(self.consumer())
    }

    /// The kernel's consumer index: it moves as descriptors are taken.
    #[inline]
    pub(crate) fn consumer(&self) -> u32 {
        self.word(self.consumer).load(Ordering::Acquire)
    }

    /// Whether the kernel waits for a kick (`XDP_RING_NEED_WAKEUP`).
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// The length in the entry of a free-running index that was pushed not longer than a ring's size ago.
    pub(crate) fn len_at(&self, index: u32) -> u32 {
        let index = (index & (self.size - 1)) as usize;
        // SAFETY: in the mapped range as in `push`; only this side ever writes descriptors, and `&self` excludes it.
        unsafe { self.descriptors.add(index).read().len }
    }

    #[inline]
    fn word(&self, at: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: `at` is one of the three words of the mapping, aligned, and mapped as long as `self` lives; both
        // sides access it atomically.
        unsafe { at.as_ref() }
    }
}

impl Drop for TxRing {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` mapped, unmapped once; nothing borrows from it any more.
        unsafe {
            libc::munmap(self.map.as_ptr().cast::<c_void>(), self.len);
        }
    }
}

fn mmap_offsets(socket: BorrowedFd<'_>) -> io::Result<xdp_mmap_offsets> {
    crate::sockopt::read(socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)
}
