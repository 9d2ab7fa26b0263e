//! Memory that a stranger writes to at the same time: [`Memory`], and [`RingView`] over a part of it. All `unsafe` of
//! memif is here.
//!
//! The argument, once for all blocks:
//! * **Mapped.** A mapping is made of a file whose size was looked at and that can no longer shrink (`F_SEAL_SHRINK`)
//!   nor loses pages for want of huge ones (no hugetlbfs): an access cannot raise SIGBUS. It is unmapped when the last
//!   owner of the [`Memory`] goes.
//! * **In bounds.** Every access is checked against the mapping's length, in release builds too; a ring once, when the
//!   view is made.
//! * **Foreign.** No reference to bytes of it is ever made. Indices, flags and descriptors are read and written
//!   atomically and used only as the copies they then are. Packets are copied as raw bytes between it and memory of
//!   ours: what the peer writes meanwhile makes some other bytes, which nobody trusts. The compiler is told after a
//!   copy that memory may have changed ([`forget_what_was_read`]), so it cannot read the source again in place of the
//!   copy.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate, memfd_create,
};

use super::layout::{DESCRIPTOR_LEN, Layout, RING_HEADER};

const _: () = assert!(cfg!(target_endian = "little"), "descriptors are put together from words");

/// `MEMIF_COOKIE`: first word of every ring.
pub(crate) const COOKIE: u32 = 0x3E3_1F20;
/// `MEMIF_RING_FLAG_MASK_INT`: the receiver polls and wants no interrupt.
pub(crate) const FLAG_MASK_INTERRUPT: u16 = 1;
/// `MEMIF_DESC_FLAG_NEXT`: the packet goes on in the next buffer.
pub(crate) const FLAG_NEXT: u16 = 1;
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// `HUGETLBFS_MAGIC`.
const HUGETLBFS: i64 = 0x9584_58f6;

/// Shared memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is shorter than was said, or empty.
    #[error("{said} bytes were announced and the file has {has}")]
    Short {
        /// As announced.
        said: u64,
        /// As it is.
        has: u64,
    },
    /// The file can be cut short while it is mapped, which would kill whoever reads it.
    #[error(
        "the file can shrink (no F_SEAL_SHRINK, and it cannot be set): a zero-copy client cannot be served"
    )]
    Shrinks,
    /// The file is in huge pages.
    #[error("the file is in hugetlbfs, whose pages can be taken away: a zero-copy client cannot be served")]
    HugePages,
    /// A ring that does not lie in its region, or not on eight bytes.
    #[error(
        "a ring of {len} bytes at {offset} does not lie in a region of {region} bytes, on a multiple of 8"
    )]
    Ring {
        /// Where it was to begin.
        offset: usize,
        /// Its length.
        len: usize,
        /// The region's length.
        region: usize,
    },
}

/// A mapped region, readable and writable by both ends.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory, reached by atomics and by copies of raw bytes only (see the module's argument), of which any
// thread may do as many as it likes, as the peer does.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes a region of `len` zeroed bytes, and the descriptor by which a peer maps it.
    pub(crate) fn create(len: usize) -> Result<(Self, OwnedFd), MemoryError> {
        let failed = |operation| move |source: rustix::io::Errno| system(operation, source.into());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("penstock-memif", flags).map_err(failed("memfd_create"))?;
        ftruncate(&file, len as u64).map_err(failed("ftruncate"))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).map_err(failed("sealing"))?;
        let memory = Memory::map(file.as_fd(), len, libc::MAP_POPULATE)?;
        Ok((memory, file))
    }

    /// Maps a region that a peer has announced with `size` bytes.
    pub(crate) fn open(file: BorrowedFd<'_>, size: u64) -> Result<Self, MemoryError> {
        let failed = |operation| move |source: rustix::io::Errno| system(operation, source.into());
        if fstatfs(file).map_err(failed("fstatfs"))?.f_type as i64 == HUGETLBFS {
            return Err(MemoryError::HugePages);
        }
        // Sealing first: the size that is then looked at stays.
        let _ = fcntl_add_seals(file, SealFlags::SHRINK);
        if !fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            return Err(MemoryError::Shrinks);
        }
        let has = u64::try_from(fstat(file).map_err(failed("fstat"))?.st_size).unwrap_or(0);
        let len = usize::try_from(size).ok().filter(|&len| len > 0 && size <= has);
        let len = len.ok_or(MemoryError::Short { said: size, has })?;
        Memory::map(file, len, 0)
    }

    fn map(file: BorrowedFd<'_>, len: usize, flags: libc::c_int) -> Result<Self, MemoryError> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | flags,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(system("mmap", io::Error::last_os_error()));
        }
        let base = NonNull::new(base.cast::<u8>());
        let base = base.ok_or_else(|| system("mmap", io::Error::other("address zero")))?;
        Ok(Memory { base, len })
    }

    /// Bytes mapped.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether `len` bytes at `offset` lie in it.
    #[inline]
    pub(crate) fn contains(&self, offset: u32, len: usize) -> bool {
        offset as usize <= self.len && len <= self.len - offset as usize
    }

    /// Copies bytes at `offset` to memory of ours. False, and nothing copied, where they do not lie in it.
    #[inline]
    #[must_use]
    pub(crate) fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        if !self.contains(offset, into.len()) {
            return false;
        }
        // SAFETY: the source lies in the mapping (checked), the destination is ours alone, and they cannot overlap:
        // nothing of ours lies in the mapping. See "foreign" for the peer's writing meanwhile.
        unsafe {
            let from = self.base.as_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(from.cast_const(), into.as_mut_ptr(), into.len());
        }
        forget_what_was_read();
        true
    }

    /// Copies bytes of ours to `offset`. False, and nothing copied, where there is no room for them.
    #[inline]
    #[must_use]
    pub(crate) fn write(&self, offset: u32, from: &[u8]) -> bool {
        if !self.contains(offset, from.len()) {
            return false;
        }
        // SAFETY: the destination lies in the mapping (checked), to which no reference exists; the source is a slice
        // of ours, outside of it.
        unsafe {
            let to = self.base.as_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
        }
        true
    }

    /// Asks for the cache line at `offset`, soon to be read. Without effect beyond the region.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u32) {
        if (offset as usize) < self.len {
            // SAFETY: the address lies in the mapping (checked).
            unsafe { prefetch(self.base.as_ptr().add(offset as usize)) }
        }
    }
}

impl Memory {
    /// Asks for two cache lines from `offset` on, soon to be written: what most packets are written to. Without effect
    /// beyond the region.
    #[inline]
    pub(crate) fn prefetch_for_writing(&self, offset: u32) {
        if self.contains(offset, 2 * CACHE_LINE) {
            // SAFETY: both addresses lie in the mapping (checked).
            unsafe {
                let at = self.base.as_ptr().add(offset as usize).cast_const();
                prefetch_for_writing(at);
                prefetch_for_writing(at.add(CACHE_LINE));
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` mapped, unmapped once; views keep the value alive.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.len);
        }
    }
}

/// One descriptor, copied out of a ring: nothing in it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) flags: u16,
    pub(crate) region: u16,
    pub(crate) len: u32,
    pub(crate) offset: u32,
    pub(crate) metadata: u32,
}

/// A ring in a region: `memif_ring_t` of `memif.h`.
///
/// ```text
///   0  cookie u32, flags u16 (the receiver's), head u16     64  tail u16     128  descriptors, 16 bytes each
/// ```
#[derive(Debug, Clone)]
pub(crate) struct RingView {
    /// Keeps it mapped.
    _memory: Arc<Memory>,
    base: NonNull<u8>,
    mask: u16,
}

// SAFETY: a pointer into memory that the view itself keeps mapped and reaches by atomics alone.
unsafe impl Send for RingView {}

impl RingView {
    /// The ring of `1 << log2_size` descriptors at `offset`.
    pub(crate) fn new(memory: &Arc<Memory>, offset: u32, log2_size: u8) -> Result<Self, MemoryError> {
        let (offset, region) = (offset as usize, memory.len);
        let len = if log2_size <= 15 { Layout::ring_len(log2_size) } else { usize::MAX };
        if !offset.is_multiple_of(8) || offset > region || len > region - offset {
            return Err(MemoryError::Ring { offset, len, region });
        }
        // SAFETY: the offset lies in the mapping (checked).
        let base = unsafe { memory.base.add(offset) };
        Ok(RingView { _memory: Arc::clone(memory), base, mask: ((1u32 << log2_size) - 1) as u16 })
    }

    /// Descriptors in it.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.mask + 1
    }

    /// The first word, [`COOKIE`] in a sound ring.
    pub(crate) fn cookie(&self) -> &AtomicU32 {
        // SAFETY: the first four bytes of the ring, which lies in the mapping on a multiple of 8 (checked in `new`) and
        // is mapped as long as `self`.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().cast()) }
    }

    /// [`FLAG_MASK_INTERRUPT`], the receiver's to say.
    #[inline]
    pub(crate) fn flags(&self) -> &AtomicU16 {
        self.word(4)
    }

    /// Free-running, of whoever offers: packets in a ring from client to server, buffers in the other.
    #[inline]
    pub(crate) fn head(&self) -> &AtomicU16 {
        self.word(6)
    }

    /// Free-running, of whoever uses what is offered.
    #[inline]
    pub(crate) fn tail(&self) -> &AtomicU16 {
        self.word(64)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU16 {
        debug_assert!(at.is_multiple_of(2) && at < RING_HEADER);
        // SAFETY: `at` is one of the three numbers above, even and within the header of the ring (see `cookie`).
        unsafe { AtomicU16::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// Copies a descriptor out; `index` is free-running.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        let (low, high) = self.halves(index);
        let low = low.load(Ordering::Relaxed);
        let high = high.load(Ordering::Relaxed);
        Descriptor {
            flags: low as u16,
            region: (low >> 16) as u16,
            len: (low >> 32) as u32,
            offset: high as u32,
            metadata: (high >> 32) as u32,
        }
    }

    /// Asks for the cache line of a descriptor, soon to be read; `index` is free-running.
    #[inline]
    pub(crate) fn prefetch(&self, index: u16) {
        // SAFETY: the address is that of a reference.
        unsafe { prefetch(self.halves(index).0.as_ptr().cast_const().cast()) }
    }

    /// Writes a descriptor; `index` is free-running.
    #[inline]
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let Descriptor { offset, metadata, .. } = descriptor;
        self.set_filled(index, descriptor);
        self.halves(index).1.store(u64::from(offset) | u64::from(metadata) << 32, Ordering::Relaxed);
    }

    /// Writes flags, region and length of a descriptor, and leaves the rest as it is.
    #[inline]
    pub(crate) fn set_filled(&self, index: u16, descriptor: Descriptor) {
        let Descriptor { flags, region, len, .. } = descriptor;
        let low = u64::from(flags) | u64::from(region) << 16 | u64::from(len) << 32;
        self.halves(index).0.store(low, Ordering::Relaxed);
    }

    #[inline]
    fn halves(&self, index: u16) -> (&AtomicU64, &AtomicU64) {
        let at = RING_HEADER + DESCRIPTOR_LEN * (index & self.mask) as usize;
        // SAFETY: the index is below the ring's size, all of which lies in the mapping on a multiple of 8 (checked in
        // `new`), as 128 and 16 are.
        unsafe {
            let low = self.base.as_ptr().add(at).cast::<u64>();
            (AtomicU64::from_ptr(low), AtomicU64::from_ptr(low.add(1)))
        }
    }
}

fn system(operation: &'static str, source: io::Error) -> MemoryError {
    MemoryError::System { operation, source }
}

/// Tells the compiler that any memory may have changed. No instruction.
#[inline(always)]
fn forget_what_was_read() {
    // SAFETY: an empty piece of assembly; that it may touch memory, which is its default, is the point.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) }
}

/// # Safety
/// The address must be mapped.
#[inline(always)]
unsafe fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; the address is mapped (the caller's word).
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// # Safety
/// The address must be mapped.
#[inline(always)]
unsafe fn prefetch_for_writing(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, and nothing at all on processors that do not know it; the address is mapped (the caller's word).
    // By hand, since the intrinsic asks for reading unless the target is said to know better.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_see_the_same_bytes_and_nothing_beyond() {
        let (ours, file) = Memory::create(8192).unwrap();
        let theirs = Memory::open(file.as_fd(), 8192).unwrap();
        assert!(ours.write(8190, b"ab") && !ours.write(8191, b"ab") && !ours.write(u32::MAX, b"a"));
        let mut two = [0; 2];
        assert!(theirs.read(8190, &mut two) && !theirs.read(8191, &mut two));
        assert_eq!(&two, b"ab");
        assert!(theirs.read(8192, &mut []) && !theirs.read(8193, &mut []));
        theirs.prefetch(0);
        theirs.prefetch(u32::MAX);
    }

    #[test]
    fn a_region_that_could_kill_us_is_refused() {
        let (_, file) = Memory::create(4096).unwrap();
        assert!(matches!(
            Memory::open(file.as_fd(), 4097),
            Err(MemoryError::Short { said: 4097, has: 4096 })
        ));
        assert!(matches!(Memory::open(file.as_fd(), 0), Err(MemoryError::Short { .. })));
        assert!(matches!(Memory::open(file.as_fd(), u64::MAX), Err(MemoryError::Short { .. })));
        let unsealable = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&unsealable, 4096).unwrap();
        assert!(matches!(Memory::open(unsealable.as_fd(), 4096), Err(MemoryError::Shrinks)));
        let huge = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB).unwrap();
        assert!(matches!(Memory::open(huge.as_fd(), 4096), Err(MemoryError::HugePages)));
        let sealable = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&sealable, 4096).unwrap();
        assert!(Memory::open(sealable.as_fd(), 4096).is_ok());
        assert!(ftruncate(&sealable, 0).is_err(), "sealed by the one who maps it");
        let pipe = std::io::pipe().unwrap();
        assert!(Memory::open(pipe.0.as_fd(), 4096).is_err());
    }

    #[test]
    fn a_ring_lies_in_its_region_or_is_refused() {
        let (memory, _file) = Memory::create(4096).unwrap();
        let memory = Arc::new(memory);
        for (offset, log2_size) in [(4, 1), (3976, 1), (4096, 1), (u32::MAX, 1), (0, 8), (0, 255), (8, 16)] {
            let refused = RingView::new(&memory, offset, log2_size);
            assert!(matches!(refused, Err(MemoryError::Ring { .. })), "{offset} {log2_size}");
        }
        let ring = RingView::new(&memory, 4096 - 160, 1).unwrap();
        assert_eq!(ring.size(), 2);
        let descriptor = Descriptor { flags: 1, region: 2, len: 3, offset: 4, metadata: 5 };
        ring.set_descriptor(65535, descriptor);
        assert_eq!(ring.descriptor(1), descriptor);
        // As memif.h lays it out.
        let mut bytes = [0; 16];
        assert!(memory.read(4096 - 16, &mut bytes));
        assert_eq!(bytes, [1, 0, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0]);
    }
}
