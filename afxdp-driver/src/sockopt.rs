//! Options of sockets: those of AF_XDP (`SOL_XDP`, `include/uapi/linux/if_xdp.h`) and of any (`SOL_SOCKET`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): descriptors that one `sendto` takes in copy mode.
pub(crate) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Plain old data of the kernel's, any bytes of which are a value.
///
/// # Safety
/// Only for `repr(C)` structs and integers of which every bit pattern is valid.
pub(crate) unsafe trait OptionValue: Copy {}
// SAFETY: integers only.
unsafe impl OptionValue for u32 {}
// SAFETY: an integer.
unsafe impl OptionValue for u64 {}
// SAFETY: `repr(C)` structs of `u64`s only.
unsafe impl OptionValue for libc::xdp_mmap_offsets {}
// SAFETY: a `repr(C)` struct of `u64`s only.
unsafe impl OptionValue for libc::xdp_statistics {}

/// Reads an option. A kernel that knows fewer fields than ours is refused.
pub(crate) fn read<T: OptionValue>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has as many.
    let code = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut len)
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < size_of::<T>() {
        return Err(io::Error::other("this kernel's AF_XDP is older than Linux 5.9"));
    }
    // SAFETY: zeroed before and filled by the kernel; every bit pattern of an `OptionValue` is valid.
    Ok(unsafe { value.assume_init() })
}

/// Sets an option.
pub(crate) fn write<T: OptionValue>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which has as many.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if code != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
