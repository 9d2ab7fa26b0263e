//! Ports: devices made ready and attached (memifs opened), kept while a worker serves them, closed and left as found.
//!
//! ```text
//!   reserve a number ─► attach (blocking, off the control thread) ─► the worker serves it
//!   leave the snapshot ─► every worker has passed ─► Detach ─► Detached ─► close (blocking) ─► TakeHome ─► free
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use afxdp_driver::device::{DeviceFacts, DeviceSetup, SetupPlan};
use afxdp_driver::memif::{MemifConfig, MemifHub, MemifStatus};
use afxdp_driver::xdp::{self, DeviceProgram, StatsReader, Steering, XdpMode};
use afxdp_driver::{AfXdpPort, AnyPort, AttachConfig, SteeringTable, UmemHandle};
use agent_api::contract::{AddPort, PortInfo, PortRole, PortStats, Refusal, RefusalKind};

use super::build::PortFacts;
use super::refusal::refuse;
use super::request::Answer;
use crate::messages::PortCells;
use crate::snapshot::{Mac, PortIndex, Snapshot};

/// Largest MTU that a chunk of packet memory holds.
pub(super) const MAX_MTU: u32 = 1700;

/// How devices are attached.
#[derive(Debug, Clone)]
pub(super) struct PortSettings {
    /// Entries of all rings, and chunks with the kernel.
    pub(super) ring: u32,
    /// For the uplink.
    pub(super) mode: XdpMode,
    /// For the uplink.
    pub(super) zero_copy: xdp::ZeroCopy,
    /// How devices are made ready.
    pub(super) setup: SetupPlan,
}

/// What a port is to be made of.
#[derive(Debug, Clone)]
pub(super) enum PortKind {
    /// The device that the request names.
    Device,
    /// A memif, of which the request's device is but the name.
    Memif(Arc<MemifPlan>),
}

/// A memif that is to be opened.
#[derive(Debug)]
pub(super) struct MemifPlan {
    pub(super) hub: Arc<MemifHub>,
    pub(super) config: MemifConfig,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
}

impl PortKind {
    /// Chunks of packet memory that the port keeps, with rings of `ring` entries.
    pub(super) fn chunks(&self, ring: u32) -> usize {
        match self {
            PortKind::Device => ring as usize,
            // It copies: nothing of ours lies in its rings.
            PortKind::Memif(_) => 0,
        }
    }
}

/// A number that is taken, and the memory of the worker that will serve the port.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) port: PortIndex,
    pub(super) request: AddPort,
    pub(super) kind: PortKind,
    pub(super) umem: UmemHandle,
    pub(super) settings: PortSettings,
}

/// What is known of an attached port's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The device's; a memif has none.
    pub(super) ifindex: Option<u32>,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
}

/// A port that is attached and has no worker yet.
pub(super) struct Attached {
    pub(super) io: AnyPort,
    /// How, in words.
    pub(super) mode: String,
    pub(super) facts: Facts,
    /// What has been changed on the device, to be undone.
    pub(super) setup: Option<DeviceSetup>,
    pub(super) gauges: Option<Gauges>,
    pub(super) steering: Option<SteeringTable>,
}

/// What can be read of a port that is with its worker.
#[derive(Debug)]
pub(super) enum Gauges {
    /// Counters of the kernel. They hold the queue: to be dropped before the port is closed.
    Xdp { socket: StatsReader, program: DeviceProgram },
    /// The connection.
    Memif(MemifStatus),
}

/// Where a port stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Being attached.
    Reserved,
    /// With its worker.
    Serving,
    /// On its way out; who waits for its end.
    Leaving(Vec<Answer<Result<(), Refusal>>>),
}

/// A port, as the control thread keeps it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) request: AddPort,
    pub(super) worker: usize,
    /// Chunks of packet memory that it keeps.
    pub(super) chunks: usize,
    pub(super) phase: Phase,
    pub(super) facts: Option<Facts>,
    pub(super) mode: String,
    pub(super) peer_mac: Option<Mac>,
    /// When the MAC address was learned; a port whose sender changes it all the time does not make us publish as often.
    pub(super) learned: Option<Instant>,
    pub(super) cells: Arc<PortCells>,
    pub(super) gauges: Option<Gauges>,
    pub(super) steering: Option<SteeringTable>,
    /// Undone when it is dropped, last.
    pub(super) setup: Option<DeviceSetup>,
}

impl Port {
    pub(super) fn reserved(request: AddPort, worker: usize, chunks: usize) -> Self {
        Port {
            worker,
            chunks,
            phase: Phase::Reserved,
            facts: None,
            mode: String::new(),
            peer_mac: request.peer_mac,
            learned: None,
            cells: Arc::default(),
            gauges: None,
            steering: None,
            setup: None,
            request,
        }
    }

    /// What the snapshot says of it; nothing unless it is served.
    pub(super) fn view(&self) -> Option<PortFacts> {
        let facts = self.facts.as_ref().filter(|_| matches!(self.phase, Phase::Serving))?;
        Some(PortFacts {
            role: self.request.role.clone(),
            mac: facts.mac,
            mtu: facts.mtu.min(MAX_MTU) as u16,
            worker: self.worker as u16,
            peer_mac: self.peer_mac,
        })
    }

    /// What callers see of it; nothing unless it is served.
    pub(super) fn info(&self, port: PortIndex, snapshot: &Snapshot) -> Option<PortInfo> {
        let facts = self.facts.as_ref().filter(|_| matches!(self.phase, Phase::Serving))?;
        let addresses = snapshot.port(port).map(|view| view.addresses.to_vec()).unwrap_or_default();
        Some(PortInfo {
            device: self.request.device.clone(),
            role: self.request.role.clone(),
            addresses,
            mac: facts.mac,
            peer_mac: self.peer_mac,
            mtu: facts.mtu.min(MAX_MTU),
            worker: self.worker as u32,
            mode: self.mode.clone(),
        })
    }

    /// Its counters.
    pub(super) fn stats(&self) -> PortStats {
        let cells = &self.cells;
        let mut kernel = BTreeMap::from([
            ("rx_oversize".to_owned(), cells.rx_oversize.read()),
            ("rx_invalid".to_owned(), cells.rx_invalid.read()),
            ("tx_lost".to_owned(), cells.tx_lost.read()),
            ("tx_discarded".to_owned(), cells.tx_discarded.read()),
            ("tx_kernel_cycles".to_owned(), cells.kernel_cycles.read()),
        ]);
        kernel.extend(self.gauges.iter().flat_map(Gauges::read));
        let pod = if let PortRole::Pod(pod) = &self.request.role { pod.clone() } else { String::new() };
        PortStats {
            device: self.request.device.clone(),
            pod,
            rx_packets: cells.rx_packets.read(),
            rx_bytes: cells.rx_bytes.read(),
            tx_packets: cells.tx_packets.read(),
            tx_bytes: cells.tx_bytes.read(),
            kernel,
        }
    }
}

impl Gauges {
    fn of(io: &AfXdpPort) -> Option<Self> {
        let socket = io.stats_reader().ok()?;
        Some(Gauges::Xdp { socket, program: io.program().clone() })
    }

    /// What can be read; nothing of a device that is gone.
    fn read(&self) -> Vec<(String, u64)> {
        let rows = match self {
            Gauges::Xdp { socket, program } => kernel_counters(socket, program),
            Gauges::Memif(status) => vec![("link_up", status.is_up().into()), ("link_ups", status.ups())],
        };
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn kernel_counters(socket: &StatsReader, program: &DeviceProgram) -> Vec<(&'static str, u64)> {
    let mut rows = Vec::new();
    if let Ok(stats) = socket.read() {
        rows.extend([
            ("rx_dropped", stats.rx_dropped),
            ("rx_invalid_descs", stats.rx_invalid_descs),
            ("tx_invalid_descs", stats.tx_invalid_descs),
            ("rx_ring_full", stats.rx_ring_full),
            ("rx_fill_ring_empty_descs", stats.rx_fill_ring_empty_descs),
            ("tx_ring_empty_descs", stats.tx_ring_empty_descs),
        ]);
    }
    if let Ok(verdicts) = program.verdicts() {
        rows.extend([
            ("xdp_redirected", verdicts.redirected),
            ("xdp_passed", verdicts.passed),
            ("xdp_no_socket", verdicts.no_socket),
        ]);
    }
    rows
}

/// Makes what is reserved ready and attaches it. Blocks for up to seconds. What was changed before an error is changed
/// back.
pub(super) fn attach(reservation: &Reservation) -> Result<Attached, Refusal> {
    match &reservation.kind {
        PortKind::Device => attach_device(reservation),
        PortKind::Memif(plan) => open_memif(plan),
    }
}

/// Opens a memif with one queue. Its peer may come when it likes.
fn open_memif(plan: &MemifPlan) -> Result<Attached, Refusal> {
    let MemifPlan { hub, config, mac, mtu } = plan;
    let object = format!("port {}", config.name);
    let failed = |problem: String| refuse(RefusalKind::System, &object, "memif", problem);
    let (mut ports, status) = hub.open(config.clone()).map_err(|error| failed(error.to_string()))?;
    let io = ports.pop().ok_or_else(|| failed("has no queue".into()))?;
    Ok(Attached {
        io: AnyPort::Memif(io),
        mode: format!("memif {}, id {} of {}", config.role, config.id, config.socket),
        facts: Facts { ifindex: None, mac: *mac, mtu: *mtu },
        setup: None,
        gauges: Some(Gauges::Memif(status)),
        steering: None,
    })
}

fn attach_device(reservation: &Reservation) -> Result<Attached, Refusal> {
    let Reservation { request, umem, settings, .. } = reservation;
    let device = request.device.as_str();
    let object = format!("port {device}");
    let facts = DeviceFacts::of(device)
        .map_err(|error| refuse(RefusalKind::NotFound, &object, "device", error.to_string()))?;
    usable(&facts)?;
    let setup = DeviceSetup::apply(device, &settings.setup)
        .map_err(|error| refuse(RefusalKind::System, &object, "device", error.to_string()))?;
    let report = setup.report();
    tracing::info!(device, setup = %report, "device set up");
    report.omitted.iter().for_each(|omitted| tracing::warn!("{omitted}"));
    let uplink = request.role == PortRole::Uplink;
    let config = AttachConfig {
        rx_ring: settings.ring,
        tx_ring: settings.ring,
        fill: settings.ring,
        mode: if uplink { settings.mode } else { XdpMode::Auto },
        zero_copy: if uplink { settings.zero_copy } else { xdp::ZeroCopy::Never },
        steering: if uplink { Steering::Uplink } else { Steering::All },
        holds_up: setup.holds_up(),
        ..AttachConfig::new(device)
    };
    let io = AfXdpPort::attach(&config, umem)
        .map_err(|error| refuse(RefusalKind::System, &object, "device", error.to_string()))?;
    if facts.mtu > MAX_MTU {
        tracing::warn!(device, mtu = facts.mtu, "packets longer than {MAX_MTU} bytes are lost at this port");
    }
    Ok(Attached {
        mode: io.mode().to_string(),
        facts: Facts { ifindex: Some(facts.ifindex), mac: facts.mac, mtu: facts.mtu },
        setup: Some(setup),
        gauges: Gauges::of(&io),
        steering: io.steering(),
        io: AnyPort::Xdp(io),
    })
}

/// Up, and with one queue.
fn usable(facts: &DeviceFacts) -> Result<(), Refusal> {
    let device = &facts.name;
    let invalid = |problem| Err(refuse(RefusalKind::Invalid, format!("port {device}"), "device", problem));
    if !facts.is_up {
        return invalid(format!("is down. Run: ip link set dev {device} up"));
    }
    if facts.queues != 1 {
        let command = if facts.driver == "veth" {
            format!("ethtool -L {device} rx 1 tx 1")
        } else {
            format!("ethtool -L {device} combined 1")
        };
        return invalid(format!("has {} receive queues and a port serves one. Run: {command}", facts.queues));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_served_is_refused_with_the_command_to_run() {
        let facts = DeviceFacts {
            name: "veth0".into(),
            ifindex: 1,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            queues: 1,
            driver: "veth".into(),
            is_up: true,
            has_carrier: true,
        };
        assert_eq!(usable(&facts), Ok(()));
        let down = usable(&DeviceFacts { is_up: false, ..facts.clone() }).unwrap_err();
        assert!(down.problem.contains("ip link set dev veth0 up"), "{down}");
        let wide = usable(&DeviceFacts { queues: 2, ..facts.clone() }).unwrap_err();
        assert!(wide.problem.contains("ethtool -L veth0 rx 1 tx 1"), "{wide}");
        let nic = usable(&DeviceFacts { queues: 8, driver: "ice".into(), ..facts }).unwrap_err();
        assert!(nic.problem.contains("ethtool -L veth0 combined 1"), "{nic}");
    }
}
