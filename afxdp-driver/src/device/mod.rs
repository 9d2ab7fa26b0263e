//! Network devices: facts, and what is changed on them while a port is attached.
//!
//! A veth hands packets over with half-done checksums and several segments in one ("tx offload"), which a NIC would
//! finish on the wire. XDP sees them before any wire: TCP over such a port is dead. So checksums and segmentation are
//! done before the packet leaves the sender, at both ends where both can be reached, in whatever network namespace the
//! far end is.
//!
//! And a veth loses what its receiver has no room for, and does the receiver's work in the sender's time. So the sending
//! end gets a queueing discipline, and the receiving one threads, where there are CPUs for them.
//!
//! * [`DeviceSetup`]: all of that done, and undone; [`restore_left`]: what killed runs have left.
//! * [`DeviceFacts`]: what a device is.

mod change;
mod end;
mod ethtool;
mod namespace;
mod napi;
mod netlink;
mod note;
mod queueing;
mod setup;

use std::io;
use std::path::PathBuf;

pub use setup::{DeviceSetup, Omitted, SetupPlan, SetupReport, restore_left};

/// Something about a device could not be learnt or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No such device in this network namespace.
    #[error("no device {device} in this network namespace: {source}")]
    Missing {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error("device {device}: {operation}: {source}")]
    Query {
        /// The device's name.
        device: String,
        /// What was asked.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An offload stays on, and TCP through the port would be dead.
    #[error("device {device}: {offload} cannot be switched off: {reason}. Run: {command}")]
    Offload {
        /// The device's name.
        device: String,
        /// The feature's word in `ethtool -K`: "tx", "tso", "gso".
        offload: &'static str,
        /// Why not.
        reason: String,
        /// The command for a person to run.
        command: String,
    },
    /// The far end of the veth cannot be reached from here.
    #[error(
        "device {device}: its peer (index {peer}) is in a network namespace that cannot be reached from here ({reason}), \
         and sends half-done checksums unless told otherwise. Run there: {command}"
    )]
    Peer {
        /// The near device's name.
        device: String,
        /// The peer's index in its own namespace.
        peer: u32,
        /// Why it cannot be reached.
        reason: String,
        /// The command for a person to run, in the peer's namespace.
        command: String,
    },
    /// Another process has set the device up for itself.
    #[error("device {device}: is in use by {holder}")]
    Taken {
        /// The device's name.
        device: String,
        /// Who it is: "process 4711".
        holder: String,
    },
    /// What is changed on a device could not be written down for a later run.
    #[error("{}: {source}", path.display())]
    Note {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// Its index, unique within its network namespace only.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU: bytes behind the Ethernet header.
    pub mtu: u32,
    /// Receive queues in use: as many ports does it take to see every packet.
    pub queues: u32,
    /// Its driver: "veth", "virtio_net", …; empty where it does not say.
    pub driver: String,
    /// Set up by the administrator (`IFF_UP`).
    pub is_up: bool,
    /// Has a carrier (`IFF_RUNNING`).
    pub has_carrier: bool,
}

impl DeviceFacts {
    /// Reads the facts of a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`DeviceError::Missing`], [`DeviceError::Query`].
    pub fn of(device: &str) -> Result<Self, DeviceError> {
        let link = link_of(device)?;
        Ok(DeviceFacts {
            ifindex: link.ifindex,
            mac: link.mac,
            mtu: link.mtu,
            queues: ethtool::receive_queues(device).unwrap_or(1),
            driver: ethtool::driver(device).unwrap_or(link.kind),
            is_up: link.flags & libc::IFF_UP as u32 != 0,
            has_carrier: link.flags & libc::IFF_RUNNING as u32 != 0,
            name: link.name,
        })
    }
}

fn link_of(device: &str) -> Result<netlink::Link, DeviceError> {
    let ifindex = nix::net::if_::if_nametoindex(device)
        .map_err(|errno| DeviceError::Missing { device: device.into(), source: errno.into() })?;
    let failed = |source| DeviceError::Query { device: device.into(), operation: "RTM_GETLINK", source };
    netlink::link(ifindex).map_err(failed)
}
