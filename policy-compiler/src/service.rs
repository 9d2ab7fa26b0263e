//! [`ServiceTable`]: Services and their backends, compiled for one node.

use std::net::{IpAddr, SocketAddr};

use crate::intent::{Intent, ObjectName};
use crate::tables::CompileError;

/// Number of a Service port within one [`ServiceTable`]; what a flow entry carries. Not stable across generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// What is asked of the table: the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceQuery {
    /// The client.
    pub src: IpAddr,
    /// The client's port.
    pub src_port: u16,
    /// What the client connects to.
    pub dst: IpAddr,
    /// The port of it.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The destination is no Service.
    NotAService,
    /// Translate the destination to `backend`; where `masquerade`, the source to an address of this node, too.
    Forward {
        /// The Service port.
        service: ServiceId,
        /// The chosen backend.
        backend: SocketAddr,
        /// True where replies would otherwise miss us: traffic from outside under the Cluster policy, and a client
        /// that is its own backend (hairpin).
        masquerade: bool,
    },
    /// No endpoint at all: answer with TCP RST or ICMP port unreachable.
    Reject {
        /// The Service port.
        service: ServiceId,
    },
    /// Endpoints, but none that may be used here (Local policy without a local one, source ranges): silence.
    Drop {
        /// The Service port.
        service: ServiceId,
    },
}

/// Services of one node.
#[derive(Debug, Default)]
pub struct ServiceTable {}

impl ServiceTable {
    /// Compiles the Services of `intent` for its node.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] for a port 0, a backend of the wrong family or two Services at one address and port.
    pub fn compile(_intent: &Intent) -> Result<Self, CompileError> {
        Ok(ServiceTable {})
    }

    /// What to do with the first packet of a flow.
    pub fn resolve(&self, _query: &ServiceQuery) -> Resolution {
        Resolution::NotAService
    }

    /// Whether `backend` is still one to which `service`'s live flows may go (ready, or serving while it terminates).
    pub fn still_serves(&self, _query: &ServiceQuery, _backend: SocketAddr) -> bool {
        false
    }

    /// The Service object and port name behind a number.
    pub fn name(&self, _service: ServiceId) -> Option<(&ObjectName, &str)> {
        None
    }
}
