//! How a port is attached, and why it could not be.

use std::time::Duration;
use std::{fmt, io};

use crate::umem::MAX_RING;

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, else generic.
    Auto,
    /// In the driver (`XDP_FLAGS_DRV_MODE`), or an error.
    Native,
    /// In the stack (`XDP_FLAGS_SKB_MODE`): works on every device, at the price of an skb a packet.
    Generic,
}

/// Whether the NIC reads and writes packet memory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the driver can and the pool is anchored at its first port; else copy.
    Auto,
    /// Copy mode.
    Never,
    /// Zero-copy or an error. Needs a pool with [`Anchor::FirstPort`](crate::umem::Anchor).
    Require,
}

/// Which packets go to userspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// All of them: a pod's port.
    All,
    /// Those that the [`SteeringTable`](crate::SteeringTable) names; the rest stays with the kernel.
    Uplink,
}

/// How to attach one queue of one device.
#[derive(Debug, Clone)]
pub struct AttachConfig {
    /// Name of the device, in the calling thread's network namespace.
    pub device: String,
    /// The receive (and transmit) queue.
    pub queue: u32,
    /// Entries of the receive ring: a power of two, at most 4096.
    pub rx_ring: u32,
    /// Entries of the transmit ring: a power of two of at least 32, at most 4096.
    pub tx_ring: u32,
    /// Chunks kept with the kernel to receive into, at most 4096; what each port costs the pool.
    pub fill: u32,
    /// Where the program runs.
    pub mode: XdpMode,
    /// Whether the NIC reads and writes packet memory itself.
    pub zero_copy: ZeroCopy,
    /// Which packets go to userspace.
    pub steering: Steering,
    /// The device stops its sender where its receiver is full (see
    /// [`DeviceSetup::holds_up`](crate::device::DeviceSetup::holds_up)): the whole transmit ring may be on its way at a
    /// time. Otherwise the socket's default send buffer is the limit: some 256 short frames, 93 long ones.
    pub holds_up: bool,
    /// How long a device or queue that is busy is tried again.
    pub busy_retry: Duration,
}

impl AttachConfig {
    /// Queue 0 of a device, all packets, native mode where possible, rings of 2048, busy retried for 2 s.
    pub fn new(device: impl Into<String>) -> Self {
        AttachConfig {
            device: device.into(),
            queue: 0,
            rx_ring: 2048,
            tx_ring: 2048,
            fill: 2048,
            mode: XdpMode::Auto,
            zero_copy: ZeroCopy::Auto,
            steering: Steering::All,
            holds_up: false,
            busy_retry: Duration::from_secs(2),
        }
    }

    pub(crate) fn check(&self) -> Result<(), AttachError> {
        let refuse =
            |field, value, rule| Err(AttachError::Config { device: self.device.clone(), field, value, rule });
        if !self.rx_ring.is_power_of_two() || self.rx_ring > MAX_RING {
            return refuse("rx_ring", self.rx_ring, "a power of two, at most 4096");
        }
        if !self.tx_ring.is_power_of_two() || !(32..=MAX_RING).contains(&self.tx_ring) {
            return refuse("tx_ring", self.tx_ring, "a power of two from 32 to 4096");
        }
        if self.fill == 0 || self.fill > MAX_RING {
            return refuse("fill", self.fill, "from 1 to 4096");
        }
        Ok(())
    }
}

/// How a port came to be attached; printed as "native, copy".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachMode {
    /// The program runs in the driver.
    pub native: bool,
    /// The NIC reads and writes packet memory itself.
    pub zero_copy: bool,
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let native = if self.native { "native" } else { "generic" };
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{native}, {copy}")
    }
}

/// A port could not be attached. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A field of the configuration is out of its range.
    #[error("port {device}: {field} = {value}: must be {rule}")]
    Config {
        /// The device's name.
        device: String,
        /// The field of [`AttachConfig`].
        field: &'static str,
        /// Its value.
        value: u32,
        /// What it must be.
        rule: &'static str,
    },
    /// No such device in this network namespace.
    #[error("port {device}: no such device in this network namespace: {source}")]
    Device {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not take the XDP program.
    #[error("port {device}: loading the XDP program: {source}")]
    Load {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The XDP program could not be attached to the device.
    #[error("port {device}: attaching the XDP program in {mode} mode: {source}{hint}")]
    Program {
        /// The device's name.
        device: String,
        /// "native" or "generic".
        mode: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// Another socket holds the queue, after the retries.
    #[error(
        "port {device}: queue {queue} was still busy after {waited:?}: {holder}; \
         a queue has one AF_XDP socket, and stays busy while anyone has its rings mapped"
    )]
    Busy {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u32,
        /// How long it was tried.
        waited: Duration,
        /// Who holds it, as far as it can be known.
        holder: String,
    },
    /// Zero-copy was required and cannot be had.
    #[error("port {device}: zero-copy: {reason}")]
    ZeroCopy {
        /// The device's name.
        device: String,
        /// Why not.
        reason: String,
    },
    /// Any other failure of a socket's setup.
    #[error("port {device}: queue {queue}: {operation}: {source}")]
    Socket {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u32,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
