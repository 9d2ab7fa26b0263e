//! Where a thread works: its network namespace, its core, and what the wire there looks like.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

use crate::flow::MacAddr;
use crate::netlink::{Link, NetlinkError, link, neighbour, route};
use crate::options::Core;

/// How long a neighbour is given to answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The UDP port that packets are sent to which nobody is to answer (RFC 863).
const DISCARD: u16 = 9;

/// Why a thread cannot work there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The network namespace cannot be entered.
    #[error("network namespace {path}: {source}")]
    Netns {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused to pin the thread.
    #[error("core {0}: the thread cannot be pinned to it; these are there: {1}")]
    Core(usize, String),
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The device has no Ethernet address.
    #[error("device {0} has no Ethernet address: give --src-mac")]
    NoMac(String),
    /// The next hop does not answer.
    #[error("{device}: no MAC address is known for the next hop {hop} after {} s of asking: give --dst-mac", RESOLVE_TIMEOUT.as_secs())]
    NoNeighbour {
        /// The device.
        device: String,
        /// Whom was asked for.
        hop: IpAddr,
    },
}

/// Moves the calling thread into a network namespace: a name under `/run/netns`, or a path. Everything it opens
/// from here on belongs there; other threads stay where they are.
///
/// # Errors
/// [`PlaceError::Netns`] where there is none, or the right to enter is missing.
pub fn enter(netns: Option<&str>) -> Result<(), PlaceError> {
    let Some(name) = netns else { return Ok(()) };
    let path = if name.contains('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) };
    let enter = || -> io::Result<()> { Ok(setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?) };
    enter().map_err(|source| PlaceError::Netns { path, source })
}

/// Which core a thread gets by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The last, where there are at least four.
    Sender,
    /// The last but one, where there are at least four.
    Receiver,
}

/// Numbers of the cores that this process may use.
pub fn cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread as asked. Where nothing is asked and there are fewer than four cores, it is left to the
/// scheduler: what is measured needs the cores too.
///
/// # Errors
/// [`PlaceError::Core`] where the kernel refuses.
pub fn pin(core: Option<Core>, role: Role) -> Result<(), PlaceError> {
    let cores = cores();
    let back = if role == Role::Sender { 1 } else { 2 };
    let id = match core {
        Some(Core::Any) => return Ok(()),
        Some(Core::Number(id)) => id,
        None => match cores.len().checked_sub(back).filter(|_| cores.len() >= 4).and_then(|at| cores.get(at))
        {
            Some(core) => *core,
            None => return Ok(()),
        },
    };
    if cores.contains(&id) && core_affinity::set_for_current(core_affinity::CoreId { id }) {
        return Ok(());
    }
    Err(PlaceError::Core(id, format!("{cores:?}")))
}

/// What a sender needs to know of its wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The device.
    pub link: Link,
    /// Source MAC address.
    pub source_mac: MacAddr,
    /// Destination MAC address.
    pub destination_mac: MacAddr,
    /// The address that the kernel would send from.
    pub source: Option<IpAddr>,
}

/// Finds the addresses for sending from `device` towards `destination`, in the calling thread's network namespace.
/// What is given is taken as given; the next hop is what the kernel's routes say, and is asked for (by a UDP packet
/// to its discard port, which makes the kernel resolve it) where the kernel does not know it yet.
///
/// # Errors
/// [`PlaceError`] naming what could not be found, and the flag that would give it.
pub fn wire(
    device: &str,
    destination: IpAddr,
    source_mac: Option<MacAddr>,
    destination_mac: Option<MacAddr>,
    next_hop: Option<IpAddr>,
) -> Result<Wire, PlaceError> {
    let link = link(device)?;
    let source_mac = source_mac.or(link.mac).ok_or_else(|| PlaceError::NoMac(device.to_owned()))?;
    let route = route(destination, link.index);
    let source = route.as_ref().ok().and_then(|route| route.source);
    let destination_mac = match (destination_mac, next_hop) {
        (Some(mac), _) => mac,
        (None, Some(hop)) => resolve(device, &link, hop)?,
        (None, None) => resolve(device, &link, route?.gateway.unwrap_or(destination))?,
    };
    Ok(Wire { link, source_mac, destination_mac, source })
}

/// Packets that the device has dropped instead of sending them since `before` was asked for.
pub fn dropped_since(device: &str, before: &Link) -> u64 {
    link(device).map_or(0, |now| now.tx_dropped.saturating_sub(before.tx_dropped))
}

/// The address that the kernel would send from towards `destination`, if there is a way there.
pub fn source_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if destination.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, DISCARD)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn resolve(device: &str, link: &Link, hop: IpAddr) -> Result<MacAddr, PlaceError> {
    let deadline = Instant::now() + RESOLVE_TIMEOUT;
    let mut tries = 0u32;
    loop {
        if let Some(mac) = neighbour(hop, link.index)? {
            return Ok(mac);
        }
        if Instant::now() >= deadline {
            return Err(PlaceError::NoNeighbour { device: device.to_owned(), hop });
        }
        if tries.is_multiple_of(25) {
            probe(device, link, hop);
        }
        tries += 1;
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the kernel look for `hop` on `device`. Whether the packet itself can be sent does not matter: the deadline
/// speaks.
fn probe(device: &str, link: &Link, hop: IpAddr) {
    let any: IpAddr = if hop.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    let target = match hop {
        IpAddr::V4(hop) => SocketAddr::from((hop, DISCARD)),
        // A link-local gateway is one of its link.
        IpAddr::V6(hop) => SocketAddrV6::new(hop, DISCARD, 0, link.index).into(),
    };
    let _ = UdpSocket::bind((any, 0)).and_then(|socket| {
        setsockopt(&socket, BindToDevice, &device.into())?;
        socket.send_to(&[0], target)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_an_error_that_names_its_file() {
        let error = enter(Some("penstock-gen-nowhere")).unwrap_err().to_string();
        assert!(error.contains("/run/netns/penstock-gen-nowhere"), "{error}");
    }

    #[test]
    fn a_missing_core_is_an_error_that_names_those_there_are() {
        let error = pin(Some(Core::Number(9999)), Role::Sender).unwrap_err().to_string();
        assert!(error.starts_with("core 9999:") && error.contains("0"), "{error}");
        assert!(pin(Some(Core::Any), Role::Receiver).is_ok());
    }

    #[test]
    fn the_source_towards_the_loopback_is_the_loopback() {
        assert_eq!(source_towards([127, 0, 0, 1].into()), Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn what_is_given_is_taken_as_given() {
        let (from, to) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let wire = wire("lo", [127, 0, 0, 9].into(), Some(from), Some(to), None).unwrap();
        assert_eq!(
            (wire.source_mac, wire.destination_mac, wire.source),
            (from, to, Some([127, 0, 0, 1].into()))
        );
    }
}
