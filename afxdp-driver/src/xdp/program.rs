//! [`DeviceProgram`]: our XDP program on one device, and its map of sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, MapHandle, libbpf_sys};

use super::config::{AttachError, Steering, XdpMode};
use crate::bpf;
use crate::steering::SteeringTable;

/// Pause between attempts while a device or queue is busy.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(10);

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Our XDP program on a device: detached when the last clone, and the last port that uses it, is gone. Attached by
/// a BPF link, which the kernel undoes also when the process is killed.
#[derive(Debug, Clone)]
pub struct DeviceProgram {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: String,
    ifindex: u32,
    /// Set once attached; closing it detaches. Dropped before the program.
    link: OnceLock<Link>,
    program: OwnedFd,
    /// Of an uplink: what notes the kernel's own echoes where the device sends.
    asked: Option<OwnedFd>,
    sockets: MapHandle,
    verdicts: MapHandle,
    steering: Option<SteeringTable>,
}

#[derive(Debug)]
struct Link {
    _ingress: OwnedFd,
    /// That of `asked`.
    _egress: Option<OwnedFd>,
    native: bool,
}

/// What the program has done with packets, all CPUs together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdicts {
    /// Given to a socket of ours (which may yet have had no room: see [`XdpStats`](super::XdpStats)).
    pub redirected: u64,
    /// Left to the kernel.
    pub passed: u64,
    /// Dropped because their queue has no socket.
    pub no_socket: u64,
}

impl DeviceProgram {
    /// Loads the program for a device and attaches it; ports come by [`AfXdpPort::join`](super::AfXdpPort::join).
    /// Packets for userspace are dropped until then. A device that is busy (a program of a process that is just
    /// dying) is tried again for `busy_retry`.
    ///
    /// # Errors
    /// [`AttachError::Device`], [`AttachError::Load`], [`AttachError::Program`].
    pub fn attach(
        device: &str,
        steering: Steering,
        mode: XdpMode,
        busy_retry: Duration,
    ) -> Result<Self, AttachError> {
        let program = DeviceProgram::load(device, steering)?;
        program.link(mode, busy_retry)?;
        Ok(program)
    }

    /// The maps that steer, of a program with [`Steering::Uplink`].
    pub fn steering(&self) -> Option<SteeringTable> {
        self.inner.steering.clone()
    }

    /// Whether the program runs in the driver.
    pub fn is_native(&self) -> bool {
        self.inner.link.get().is_some_and(|link| link.native)
    }

    /// What the program has done with packets.
    ///
    /// # Errors
    /// Where the kernel does not let the map be read.
    pub fn verdicts(&self) -> io::Result<Verdicts> {
        let total = |index: u32| -> io::Result<u64> {
            let read = self.inner.verdicts.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY);
            let values = read.map_err(bpf::os_error)?.unwrap_or_default();
            Ok(values
                .iter()
                .filter_map(|value| value.first_chunk())
                .map(|bytes| u64::from_ne_bytes(*bytes))
                .sum())
        };
        Ok(Verdicts { redirected: total(0)?, passed: total(1)?, no_socket: total(2)? })
    }

    /// Loads the program without attaching it.
    pub(super) fn load(device: &str, steering: Steering) -> Result<Self, AttachError> {
        let ifindex = nix::net::if_::if_nametoindex(device)
            .map_err(|errno| AttachError::Device { device: device.into(), source: errno.into() })?;
        let failed = |source| AttachError::Load { device: device.into(), source };
        let (programs, maps): (&[&str], &[&str]) = match steering {
            Steering::All => (&["penstock_all"], &["xsks", "verdicts"]),
            Steering::Uplink => (
                &["penstock_uplink", "penstock_asked"],
                &["xsks", "verdicts", "ours", "local", "ports", "fragments", "asked"],
            ),
        };
        let object = bpf::load(bpf::penstock(), programs, maps).map_err(failed)?;
        let mut programs = programs.iter().map(|name| bpf::program(&object, name).map_err(failed));
        let program = programs.next().unwrap_or_else(|| Err(failed(io::ErrorKind::NotFound.into())))?;
        let asked = programs.next().transpose()?;
        let steering = match steering {
            Steering::All => None,
            Steering::Uplink => Some(SteeringTable::of(&object).map_err(failed)?),
        };
        let inner = Inner {
            device: device.into(),
            ifindex,
            link: OnceLock::new(),
            program,
            asked,
            sockets: bpf::map(&object, "xsks").map_err(failed)?,
            verdicts: bpf::map(&object, "verdicts").map_err(failed)?,
            steering,
        };
        Ok(DeviceProgram { inner: Arc::new(inner) })
    }

    /// Attaches the loaded program.
    pub(super) fn link(&self, mode: XdpMode, busy_retry: Duration) -> Result<(), AttachError> {
        let mut native = mode != XdpMode::Generic;
        // First: no reply may come to us whose request left before that could be noted.
        let egress = self.inner.asked.as_ref().and_then(|program| self.link_egress(program));
        let ingress = match self.link_in(native, busy_retry) {
            Ok(link) => link,
            Err(source) if mode == XdpMode::Auto && !means_occupied(&source) => {
                tracing::warn!(device = self.inner.device, error = %source, "no native XDP here: using generic mode");
                native = false;
                self.link_in(false, busy_retry).map_err(|source| self.refused(false, source))?
            }
            Err(source) => return Err(self.refused(native, source)),
        };
        let link = Link { _ingress: ingress, _egress: egress, native };
        // Linking twice is a bug of this crate alone; the second link would fail as busy before this.
        let _ = self.inner.link.set(link);
        Ok(())
    }

    fn link_in(&self, native: bool, busy_retry: Duration) -> io::Result<OwnedFd> {
        let started = Instant::now();
        loop {
            match self.try_link(native) {
                Err(error) if means_occupied(&error) && started.elapsed() < busy_retry => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    fn try_link(&self, native: bool) -> io::Result<OwnedFd> {
        let flags = if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
        self.create_link(&self.inner.program, libbpf_sys::BPF_XDP, flags)
    }

    /// Attaches the program that notes the kernel's echoes. Without it the device works.
    fn link_egress(&self, program: &OwnedFd) -> Option<OwnedFd> {
        self.create_link(program, libbpf_sys::BPF_TCX_EGRESS, 0)
            .inspect_err(|error| {
                tracing::warn!(
                    device = self.inner.device,
                    %error,
                    "no program where the device sends (needs Linux 6.6): the node's own pings whose identifier is \
                     in the range of [snat] get no reply"
                );
            })
            .ok()
    }

    fn create_link(
        &self,
        program: &OwnedFd,
        kind: libbpf_sys::bpf_attach_type,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            flags,
            ..Default::default()
        };
        let ifindex = self.inner.ifindex as libc::c_int;
        // SAFETY: `options` is initialised, says its own size, and outlives the call; the descriptors are open.
        let fd = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, kind, &options) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: the call just made this descriptor, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn refused(&self, native: bool, source: io::Error) -> AttachError {
        let hint = match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                " (another XDP program is attached: see `ip link show`, remove it with `ip link set dev … xdp off`)"
            }
            Some(libc::EPERM) => " (needs CAP_NET_ADMIN and CAP_BPF)",
            Some(libc::EOPNOTSUPP) if native => " (the driver has no native XDP)",
            _ => "",
        };
        let mode = if native { "native" } else { "generic" };
        AttachError::Program { device: self.inner.device.clone(), mode, source, hint }
    }

    /// Gives the packets of a queue to a socket, until the slot is dropped.
    pub(super) fn insert(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<Slot> {
        let value = (socket.as_raw_fd() as u32).to_ne_bytes();
        self.inner.sockets.update(&queue.to_ne_bytes(), &value, MapFlags::NO_EXIST).map_err(bpf::os_error)?;
        Ok(Slot { program: self.clone(), queue })
    }
}

/// A socket's entry in the program's map. Dropped before the socket closes; with the last one the program detaches.
#[derive(Debug)]
pub(super) struct Slot {
    program: DeviceProgram,
    queue: u32,
}

impl Slot {
    pub(super) fn program(&self) -> &DeviceProgram {
        &self.program
    }

    pub(super) fn queue(&self) -> u32 {
        self.queue
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Err(error) = self.program.inner.sockets.delete(&self.queue.to_ne_bytes()) {
            tracing::warn!(device = self.program.inner.device, queue = self.queue, %error, "clearing the socket map");
        }
    }
}

fn means_occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
