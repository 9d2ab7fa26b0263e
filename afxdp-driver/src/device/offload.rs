//! [`Offloads`].

use std::fs::File;
use std::{fmt, io};

use super::ethtool::{self, Feature};
use super::{DeviceError, link_of, namespace, netlink};

/// The offloads that were switched off, to be switched on again when this is dropped, or before by
/// [`restore`](Self::restore).
#[derive(Debug)]
#[must_use = "dropping it switches the offloads on again"]
pub struct Offloads {
    ends: Vec<End>,
}

/// What [`Offloads::disable`] did; printed as "veth0: gso tso tx off; veth1: nothing to do".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffloadReport {
    /// Each end's name, and the words of `ethtool -K` that were switched off there.
    pub ends: Vec<(String, Vec<&'static str>)>,
}

/// One end of a veth, or a NIC.
#[derive(Debug)]
struct End {
    device: String,
    /// Where it is, unless in the namespace of the thread that came for it.
    namespace: Option<File>,
    switched: Vec<Feature>,
}

impl Offloads {
    /// Switches tx-checksumming, TSO and GSO off on a device and, for a veth, on its peer, wherever that is.
    /// What was switched before an error is switched back.
    ///
    /// # Errors
    /// [`DeviceError::Missing`], [`DeviceError::Query`]; [`DeviceError::Offload`] or [`DeviceError::Peer`] with the
    /// command to run where it cannot be done.
    pub fn disable(device: &str) -> Result<Self, DeviceError> {
        let link = link_of(device)?;
        // Kept here while it grows: dropped on an error, it undoes what was done.
        let mut offloads = Offloads { ends: Vec::new() };
        // The namespace is noted for later: `restore` may come from another thread.
        let own = File::open("/proc/thread-self/ns/net").ok();
        offloads.silence(device.into(), own)?;
        if link.kind == "veth"
            && let Some(peer) = link.peer
        {
            let (name, namespace) = reach_peer(device, peer, link.peer_namespace)?;
            offloads.silence(name, namespace)?;
        }
        Ok(offloads)
    }

    /// What was done, to be said in the log.
    pub fn report(&self) -> OffloadReport {
        let words = |end: &End| end.switched.iter().map(|feature| feature.word()).collect();
        OffloadReport { ends: self.ends.iter().map(|end| (end.device.clone(), words(end))).collect() }
    }

    /// Switches on again what was switched off. A device that is gone needs nothing.
    ///
    /// # Errors
    /// The first [`DeviceError::Query`]; the other ends are restored all the same.
    pub fn restore(mut self) -> Result<(), DeviceError> {
        self.undo()
    }

    fn silence(&mut self, device: String, namespace: Option<File>) -> Result<(), DeviceError> {
        self.ends.push(End { device, namespace, switched: Vec::new() });
        let Some(end) = self.ends.last_mut() else { return Ok(()) };
        for feature in Feature::ALL {
            let name = end.device.clone();
            let before = end.run(|| ethtool::feature(&name, feature));
            match before {
                Ok(false) => continue,
                Ok(true) => {}
                // A device without ethtool has no such offload.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
                Err(source) => return Err(end.failed("reading an offload", source)),
            }
            let set = end.run(|| ethtool::set_feature(&name, feature, false));
            let still_on = end.run(|| ethtool::feature(&name, feature)).unwrap_or(true);
            if still_on {
                return Err(end.refused(feature, set.err()));
            }
            end.switched.push(feature);
        }
        Ok(())
    }

    fn undo(&mut self) -> Result<(), DeviceError> {
        let mut result = Ok(());
        for end in self.ends.drain(..).rev() {
            for &feature in end.switched.iter().rev() {
                match end.run(|| ethtool::set_feature(&end.device, feature, true)) {
                    Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                        let error = end.failed("switching an offload on again", error);
                        result = result.and(Err(error));
                    }
                    _ => {}
                }
            }
        }
        result
    }
}

impl Drop for Offloads {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(%error, "an offload stays off");
        }
    }
}

impl End {
    fn run<T: Send>(&self, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace::within(namespace, action),
            None => action(),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Query { device: self.device.clone(), operation, source }
    }

    fn refused(&self, feature: Feature, error: Option<io::Error>) -> DeviceError {
        DeviceError::Offload {
            device: self.device.clone(),
            offload: feature.word(),
            reason: error.map_or_else(|| "the driver keeps it on".into(), |error| error.to_string()),
            command: command(&self.device),
        }
    }
}

impl fmt::Display for OffloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (device, words)) in self.ends.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            if words.is_empty() {
                write!(f, "{separator}{device}: nothing to do")?;
            } else {
                write!(f, "{separator}{device}: {} off", words.join(" "))?;
            }
        }
        Ok(())
    }
}

/// Name and namespace of the peer.
fn reach_peer(
    device: &str,
    peer: u32,
    namespace: Option<i32>,
) -> Result<(String, Option<File>), DeviceError> {
    let unreachable =
        |reason: String| DeviceError::Peer { device: device.into(), peer, reason, command: command("PEER") };
    let Some(id) = namespace else {
        let own = File::open("/proc/thread-self/ns/net").ok();
        let link = netlink::link(peer).map_err(|error| unreachable(error.to_string()))?;
        return Ok((link.name, own));
    };
    let file = namespace::find(id).ok_or_else(|| unreachable("no process and no name leads there".into()))?;
    let link =
        namespace::within(&file, || netlink::link(peer)).map_err(|error| unreachable(error.to_string()))?;
    Ok((link.name, Some(file)))
}

fn command(device: &str) -> String {
    format!("ethtool -K {device} tx off tso off gso off")
}
