//! [`Region`]: mapped memory, in huge pages where there are any; for packet memory and for the flow table.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Bytes of a huge page on x86-64 and on aarch64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// Whether to use huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Only ordinary pages.
    Never,
    /// Reserved huge pages, else transparent ones by `madvise`, else ordinary pages; [`Region::backing`] says which.
    Prefer,
    /// Reserved huge pages or an error.
    Require,
}

/// Memory could not be mapped.
#[derive(Debug, thiserror::Error)]
#[error("mapping {bytes} bytes{}: {source}", if *.huge { " of huge pages" } else { "" })]
pub struct RegionError {
    bytes: usize,
    huge: bool,
    source: io::Error,
}

/// A private anonymous mapping, zeroed, page-aligned, unmapped on drop.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    backing: &'static str,
}

// SAFETY: the region is plain memory owned by this value; the only shared view it gives out is of atomics.
unsafe impl Send for Region {}
// SAFETY: as above: `&Region` gives only `&[AtomicU64]` and the bare address.
unsafe impl Sync for Region {}

impl Region {
    /// Maps at least `bytes` bytes (rounded up to whole pages of the kind used).
    ///
    /// # Errors
    /// [`RegionError`] where the kernel refuses; with [`HugePages::Require`] also where no huge page is reserved.
    pub fn new(bytes: usize, huge_pages: HugePages) -> Result<Self, RegionError> {
        if huge_pages != HugePages::Never {
            let len = bytes.next_multiple_of(HUGE_PAGE);
            match map(len, libc::MAP_HUGETLB | libc::MAP_POPULATE) {
                Ok(base) => return Ok(Region { base, len, backing: "huge pages (2 MiB, reserved)" }),
                Err(source) if huge_pages == HugePages::Require => {
                    return Err(RegionError { bytes, huge: true, source });
                }
                Err(_) => {}
            }
        }
        let len = bytes.max(1).next_multiple_of(4096);
        let base = map(len, 0).map_err(|source| RegionError { bytes, huge: false, source })?;
        let mut backing = "ordinary pages (4 KiB)";
        if huge_pages == HugePages::Prefer {
            // SAFETY: advice about our own fresh mapping; it changes no contents.
            let advised = unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
            if advised == 0 {
                backing = "ordinary pages, transparent huge pages advised (no huge pages reserved)";
            } else {
                backing = "ordinary pages (no huge pages reserved, no transparent ones)";
            }
        }
        Ok(Region { base, len, backing })
    }

    /// What backs the region, in words.
    pub fn backing(&self) -> &'static str {
        self.backing
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The whole region as words that any thread may read and write. Borrowed from the region; aligned to a page.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, initialised (zeroed), `len / 8` whole words long and lives as long
        // as `self`; atomics allow shared writing.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len / 8) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, unmapped once.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.len);
        }
    }
}

fn map(len: usize, flags: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address zero"))
}
