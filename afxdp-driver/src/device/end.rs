//! [`End`]: one end of a veth, or a NIC, in whatever network namespace it is.

use std::fs::File;
use std::io;

use super::{DeviceError, namespace, netlink};

/// One end of a veth, or a NIC.
#[derive(Debug)]
pub(super) struct End {
    pub(super) device: String,
    pub(super) ifindex: u32,
    /// Where it is, unless in the namespace of the thread that came for it.
    namespace: Option<File>,
}

impl End {
    /// A device of the calling thread's namespace. The namespace is noted: other threads may come for it later.
    pub(super) fn here(link: &netlink::Link) -> Self {
        let namespace = File::open("/proc/thread-self/ns/net").ok();
        End { device: link.name.clone(), ifindex: link.ifindex, namespace }
    }

    /// The other end of a veth of the calling thread's namespace; `None` for other devices.
    pub(super) fn beyond(link: &netlink::Link) -> Result<Option<Self>, DeviceError> {
        let Some(peer) = link.peer.filter(|_| link.kind == "veth") else { return Ok(None) };
        let unreachable = |reason: String| DeviceError::Peer {
            device: link.name.clone(),
            peer,
            reason,
            command: offload_command("PEER"),
        };
        let Some(id) = link.peer_namespace else {
            let near = netlink::link(peer).map_err(|error| unreachable(error.to_string()))?;
            return Ok(Some(End::here(&near)));
        };
        let file =
            namespace::find(id).ok_or_else(|| unreachable("no process and no name leads there".into()))?;
        let far = namespace::within(&file, || netlink::link(peer));
        let far = far.map_err(|error| unreachable(error.to_string()))?;
        Ok(Some(End { device: far.name, ifindex: far.ifindex, namespace: Some(file) }))
    }

    /// Does something in the end's namespace.
    pub(super) fn run<T: Send>(&self, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace::within(namespace, action),
            None => action(),
        }
    }

    pub(super) fn failed(&self, operation: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Query { device: self.device.clone(), operation, source }
    }
}

/// What a person would run in place of switching the offloads off.
pub(super) fn offload_command(device: &str) -> String {
    format!("ethtool -K {device} tx off tso off gso off")
}
