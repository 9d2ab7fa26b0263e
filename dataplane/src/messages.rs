//! What control and workers say to each other: bounded queues, never waited on by a worker.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use afxdp_driver::PortCounters;
use afxdp_driver::xdp::ClosedPort;
use policy_compiler::policy::RuleId;

use crate::counters::Counter;
use crate::drops::DropReason;
use crate::shadow::Difference;
use crate::snapshot::{Mac, PortIndex};

/// From the control thread to a worker.
#[derive(Debug)]
pub enum Command<P> {
    /// Serve this port from the next turn on. Its number must be free.
    Attach {
        /// Its number.
        port: PortIndex,
        /// The port itself.
        io: Box<P>,
        /// Where the worker publishes the port's counters.
        cells: Arc<PortCells>,
    },
    /// Serve it no more: send what is on its way, then hand the port back by [`Event::Detached`]. Closing it takes tens of
    /// milliseconds, so that is the control thread's to do.
    Detach {
        /// Its number.
        port: PortIndex,
    },
    /// Chunks of a detached port that the control thread has closed: they go home to this worker's pool.
    TakeHome(ClosedPort),
    /// Close all ports and end.
    Stop,
}

/// From a worker to the control thread. Where the queue is full the event is lost and counted.
#[derive(Debug)]
pub enum Event<P> {
    /// The worker serves the port no more. To be closed, and what it leaves sent back by [`Command::TakeHome`].
    Detached {
        /// Its number.
        port: PortIndex,
        /// The port itself.
        io: Box<P>,
    },
    /// A packet came from a MAC address that the snapshot does not have for the port.
    PeerMac {
        /// The endpoint's or host's port.
        port: PortIndex,
        /// The sender's MAC address.
        mac: Mac,
    },
    /// A packet wanted to go to this next hop on the underlay, whose MAC address is not known.
    Unresolved {
        /// The next hop.
        address: IpAddr,
    },
    /// A packet wanted to go to the endpoint behind this port, whose MAC address is not known. The worker has asked it.
    UnresolvedPort {
        /// The port.
        port: PortIndex,
    },
    /// The port's device is gone or down.
    PortGone {
        /// Its number.
        port: PortIndex,
        /// What the driver said.
        error: String,
    },
    /// A dropped packet; only while someone watches.
    Drop(DropRecord),
    /// A flow of which the shadow's policies say something else.
    Difference(DifferenceRecord),
}

/// A flow of which the shadow's policies say something else, as the worker reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DifferenceRecord {
    /// Which candidate.
    pub shadow: u64,
    /// How it differs. The active rule is of the tables of `epoch`.
    pub difference: Difference,
    /// Source and destination as its first direction's packets come in.
    pub addresses: (IpAddr, IpAddr),
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination that policy was asked of: after the translation of a Service.
    pub judged_dst: SocketAddr,
    /// It was found in the midst of its life, else when it was judged.
    pub established: bool,
    /// The epoch of the snapshot it was compared under.
    pub epoch: u32,
    /// Nanoseconds of the worker's clock.
    pub time_ns: u64,
}

/// A dropped packet, as the worker reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropRecord {
    /// Why.
    pub reason: DropReason,
    /// The port it came in by.
    pub port: PortIndex,
    /// Source and destination, where they could be parsed.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The rule that decided, of the tables of `epoch`.
    pub rule: RuleId,
    /// The epoch of the snapshot it was judged under.
    pub epoch: u32,
    /// Nanoseconds of the worker's clock.
    pub time_ns: u64,
}

/// A port's counters, written by its worker, read by anyone.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCells {
    /// Packets and bytes received, thrown away as oversize.
    pub rx_packets: Counter,
    /// Bytes of those.
    pub rx_bytes: Counter,
    /// Received packets longer than a chunk.
    pub rx_oversize: Counter,
    /// Received descriptors that cannot be.
    pub rx_invalid: Counter,
    /// Packets sent.
    pub tx_packets: Counter,
    /// Bytes of those.
    pub tx_bytes: Counter,
    /// Packets consumed and lost.
    pub tx_lost: Counter,
    /// Packets in the ring when the port was closed.
    pub tx_discarded: Counter,
    /// TSC cycles inside the system calls that make the port send.
    pub kernel_cycles: Counter,
}

impl PortCells {
    /// Copies what the port says. Only for its worker.
    pub fn store(&self, counters: &PortCounters) {
        self.rx_packets.set(counters.rx_packets);
        self.rx_bytes.set(counters.rx_bytes);
        self.rx_oversize.set(counters.rx_oversize);
        self.rx_invalid.set(counters.rx_invalid);
        self.tx_packets.set(counters.tx_packets);
        self.tx_bytes.set(counters.tx_bytes);
        self.tx_lost.set(counters.tx_lost);
        self.tx_discarded.set(counters.tx_discarded);
        self.kernel_cycles.set(counters.kernel_cycles);
    }
}
