//! [`UmemHandle`]: the kernel's view of a pool's memory, by which ports are attached on a control thread while the
//! pool itself lives on a worker.
//!
//! The first socket of a UMEM is special twice over: it lends its mode (copy or zero-copy) to every socket that
//! shares the memory later, and `libxdp` keeps it bound until the UMEM goes. Were it a pod's port, that pod's queue
//! would stay taken after the port's removal, and no further port could join once the device had gone. So a pool is
//! anchored, before any port, to the loopback device of a network namespace made for that purpose, which nothing
//! else uses and which vanishes with the pool. Only zero-copy needs the real device first: [`Anchor::FirstPort`].

use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io, thread};

use nix::sched::{CloneFlags, unshare};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::frame::CHUNK_SIZE;
use crate::region::HugePages;

/// Entries of the fill and of the completion ring of every port, and the most that any ring may have.
pub const MAX_RING: u32 = 4096;

/// Chunks of 2 KiB in a huge page of 2 MiB: `munmap` of huge pages wants whole ones.
const CHUNKS_IN_HUGE_PAGE: usize = 1024;

/// Which socket binds the UMEM first and so decides how all of its ports move packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// A private loopback device. Copy mode; ports come and go freely.
    Private,
    /// The first port attached. Needed for zero-copy. That port's queue stays bound until the pool and all its
    /// ports are gone, and the device must not be removed before.
    FirstPort,
}

/// The UMEM could not be made.
#[derive(Debug, thiserror::Error)]
#[error("UMEM of {chunks} chunks: {operation}: {source}{hint}")]
pub struct UmemError {
    chunks: usize,
    operation: &'static str,
    source: io::Error,
    hint: &'static str,
}

/// A pool's UMEM, to attach ports to. Cheap to clone, usable on any thread; the memory lives as long as any
/// handle, port or frame of it.
#[derive(Clone)]
pub struct UmemHandle {
    shared: Arc<Shared>,
}

struct Shared {
    // Declared first, dropped first: the anchoring socket goes before the UMEM it belongs to.
    _anchor_queues: Option<Queues>,
    umem: Umem,
    /// One descriptor for each chunk: `xsk-rs` lets no one else make them.
    descriptors: Box<[FrameDesc]>,
    base: NonNull<u8>,
    anchor: Anchor,
    backing: &'static str,
    /// Free chunks that a port may take while it is attached, on a thread that does not have the pool: so the kernel has
    /// memory to receive into before it has a program that makes it receive.
    reserve: Mutex<Vec<u32>>,
}

/// The four rings of one socket on its own (device, queue).
pub(crate) struct Queues {
    pub(crate) tx: TxQueue,
    pub(crate) rx: RxQueue,
    pub(crate) fill: FillQueue,
    pub(crate) completion: CompQueue,
}

// SAFETY: `base` is a bare address that `Shared` itself never reads or writes; frames are made from it only by the
// pool, for chunks that it owns. Every other field is `Send`.
unsafe impl Send for Shared {}
// SAFETY: through `&Shared` one reaches `Umem` (whose methods lock), plain descriptors and an address. The anchor's
// queues are never touched after construction but by drop.
unsafe impl Sync for Shared {}

impl fmt::Debug for UmemHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UmemHandle")
            .field("chunks", &self.chunks())
            .field("anchor", &self.shared.anchor)
            .finish()
    }
}

impl UmemHandle {
    pub(crate) fn new(chunks: usize, huge_pages: HugePages, anchor: Anchor) -> Result<Self, UmemError> {
        let mut backing = "ordinary pages (4 KiB)";
        if huge_pages != HugePages::Never {
            match register(chunks, true, anchor) {
                Ok(made) => {
                    return UmemHandle::from_parts(made, chunks, anchor, "huge pages (2 MiB, reserved)");
                }
                Err(error) if huge_pages == HugePages::Require => return Err(error),
                Err(_) => backing = "ordinary pages (4 KiB; no huge pages reserved, see vm.nr_hugepages)",
            }
        }
        UmemHandle::from_parts(register(chunks, false, anchor)?, chunks, anchor, backing)
    }

    fn from_parts(
        made: Registered,
        chunks: usize,
        anchor: Anchor,
        backing: &'static str,
    ) -> Result<Self, UmemError> {
        let (umem, mut descriptors, anchor_queues) = made;
        descriptors.truncate(chunks);
        let first = descriptors.first().map(FrameDesc::addr).zip(descriptors.first());
        let base = first.and_then(|(offset, descriptor)| {
            // SAFETY: the descriptor is of this UMEM and its length zero: no byte is read, only the address used.
            let data = unsafe { umem.data(descriptor) };
            let address = data.as_ptr().expose_provenance() - offset;
            NonNull::new(std::ptr::with_exposed_provenance_mut(address))
        });
        let Some(base) = base else {
            let source = io::Error::other("the region has no chunk");
            return Err(UmemError { chunks, operation: "mapping", source, hint: "" });
        };
        let descriptors = descriptors.into_boxed_slice();
        let reserve = Mutex::default();
        let shared =
            Shared { _anchor_queues: anchor_queues, umem, descriptors, base, anchor, backing, reserve };
        Ok(UmemHandle { shared: Arc::new(shared) })
    }

    /// Chunks of the UMEM.
    pub fn chunks(&self) -> usize {
        self.shared.descriptors.len()
    }

    /// Which socket binds the UMEM first.
    pub fn anchor(&self) -> Anchor {
        self.shared.anchor
    }

    pub(crate) fn backing(&self) -> &'static str {
        self.shared.backing
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.shared.base
    }

    pub(crate) fn is(&self, other: &UmemHandle) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Free chunks that are kept for ports to come.
    pub(crate) fn reserved(&self) -> usize {
        self.reserve().len()
    }

    /// Puts free chunks into the reserve: they are nobody else's from here on.
    pub(crate) fn deposit(&self, chunks: impl IntoIterator<Item = u32>) {
        self.reserve().extend(chunks);
    }

    /// Takes at most `most` chunks out of the reserve: they are the caller's.
    pub(crate) fn withdraw(&self, most: usize) -> Vec<u32> {
        let mut reserve = self.reserve();
        let rest = reserve.len().saturating_sub(most);
        reserve.split_off(rest)
    }

    fn reserve(&self) -> MutexGuard<'_, Vec<u32>> {
        // Nothing that is done under the lock can leave half a change behind.
        self.shared.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor of a chunk, for the fill ring.
    #[inline]
    pub(crate) fn descriptor(&self, chunk: u32) -> FrameDesc {
        self.shared.descriptors[chunk as usize]
    }

    /// The number of the chunk that a descriptor's address lies in, if it is of this UMEM.
    #[inline]
    pub(crate) fn chunk_at(&self, address: usize) -> Option<u32> {
        let chunk = address / CHUNK_SIZE;
        (chunk < self.chunks()).then_some(chunk as u32)
    }

    /// Creates a socket on (device, queue) of the calling thread's network namespace and binds it.
    pub(crate) fn bind(&self, device: &str, queue: u32, config: SocketConfig) -> io::Result<Queues> {
        open(&self.shared.umem, device, queue, config)
    }
}

type Registered = (Umem, Vec<FrameDesc>, Option<Queues>);

fn register(chunks: usize, huge: bool, anchor: Anchor) -> Result<Registered, UmemError> {
    match anchor {
        Anchor::FirstPort => create(chunks, huge).map(|(umem, descriptors)| (umem, descriptors, None)),
        // The UMEM's own socket belongs to the namespace it was made in, hence on a thread that has gone there.
        Anchor::Private => thread::scope(|scope| {
            let made = scope.spawn(|| register_privately(chunks, huge)).join();
            made.unwrap_or_else(|_| {
                let source = io::Error::other("the thread making it panicked");
                Err(UmemError { chunks, operation: "anchoring", source, hint: "" })
            })
        }),
    }
}

fn register_privately(chunks: usize, huge: bool) -> Result<Registered, UmemError> {
    let failed = |operation, source, hint| UmemError { chunks, operation, source, hint };
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
        failed("making the anchor's network namespace", errno.into(), " (needs CAP_SYS_ADMIN)")
    })?;
    let (umem, descriptors) = create(chunks, huge)?;
    let config =
        socket_config(64, 64, BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
            .map_err(|source| failed("anchoring", source, ""))?;
    let queues =
        open(&umem, "lo", 0, config).map_err(|source| failed("binding to the anchor", source, ""))?;
    Ok((umem, descriptors, Some(queues)))
}

fn create(chunks: usize, huge: bool) -> Result<(Umem, Vec<FrameDesc>), UmemError> {
    let failed = |source: io::Error| {
        let hint = match source.raw_os_error() {
            Some(libc::EPERM) => " (needs CAP_NET_RAW)",
            Some(libc::ENOBUFS) => " (locked memory: raise RLIMIT_MEMLOCK or grant CAP_IPC_LOCK)",
            Some(libc::ENOMEM) if huge => " (huge pages: reserve more with vm.nr_hugepages)",
            _ => "",
        };
        UmemError { chunks, operation: "registering", source, hint }
    };
    let mapped = if huge { chunks.next_multiple_of(CHUNKS_IN_HUGE_PAGE) } else { chunks };
    let invalid = || failed(io::Error::from(io::ErrorKind::InvalidInput));
    let count = u32::try_from(mapped).ok().and_then(NonZeroU32::new).ok_or_else(invalid)?;
    let ring = QueueSize::new(MAX_RING).map_err(|_| invalid())?;
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(CHUNK_SIZE as u32).map_err(|_| invalid())?)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .map_err(|_| invalid())?;
    Umem::new(config, count, huge).map_err(|error| failed(os_error(&error)))
}

/// A configuration with our own XDP program: `libxdp` is kept from loading its.
pub(crate) fn socket_config(rx: u32, tx: u32, flags: BindFlags) -> io::Result<SocketConfig> {
    let size = |entries| QueueSize::new(entries).map_err(|error| io::Error::other(error.to_string()));
    Ok(SocketConfig::builder()
        .rx_queue_size(size(rx)?)
        .tx_queue_size(size(tx)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build())
}

fn open(umem: &Umem, device: &str, queue: u32, config: SocketConfig) -> io::Result<Queues> {
    let interface: Interface = device.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the contract is about libxdp's program, whose loading every `socket_config` inhibits.
    let made = unsafe { Socket::new(config, umem, &interface, queue) };
    match made.map_err(|error| os_error(&error))? {
        (tx, rx, Some((fill, completion))) => Ok(Queues { tx, rx, fill, completion }),
        // Two sockets of one UMEM on one queue would share a fill ring: not ours to offer.
        (_, _, None) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
}

/// The system's error below one of `xsk-rs`.
fn os_error(error: &dyn std::error::Error) -> io::Error {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
