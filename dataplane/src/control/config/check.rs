//! Reading a [`Config`], and what must hold of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use afxdp_driver::device::DeviceFacts;
use afxdp_driver::memif::MemifRole;
use afxdp_driver::pool::MAX_CHUNKS;

use super::{Config, ConfiguredPort, Gateway, ZeroCopy};
use crate::control::ports::MAX_MTU;
use crate::wire::vxlan;

/// Smallest MTU: what IPv6 needs (RFC 8200, section 5).
const MIN_MTU: u32 = 1280;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no TOML, or has a key that does not exist or a value of the wrong type.
    #[error("{}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        problem: String,
    },
    /// A field's value cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// The field, as `table.key`.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Config {
    /// Reads and checks a file. Looks at no device yet.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// Reads and checks a text; `path` is for the errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parsed = toml::from_str::<Config>(text);
        let failed = |error: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        };
        let config = parsed.map_err(failed)?;
        config.check()?;
        Ok(config)
    }

    /// Checks the values against each other.
    fn check(&self) -> Result<(), ConfigError> {
        if !self.socket.is_absolute() {
            return wrong("socket", format!("{} is not an absolute path", self.socket.display()));
        }
        if let Some(address) = self.listen.filter(|address| !address.ip().is_loopback()) {
            return wrong("listen", format!("{address} is not a loopback address"));
        }
        self.check_workers()?;
        if !(1024..=MAX_CHUNKS).contains(&self.memory.chunks) {
            return wrong(
                "memory.chunks",
                format!("{} is not from 1024 to {MAX_CHUNKS}", self.memory.chunks),
            );
        }
        let ring = self.memory.ring;
        if !ring.is_power_of_two() || !(64..=4096).contains(&ring) || ring as usize > self.memory.chunks / 2 {
            return wrong(
                "memory.ring",
                format!("{ring} is no power of two from 64 to 4096 within half of memory.chunks"),
            );
        }
        for (field, entries) in [("flows.ipv4", self.flows.ipv4), ("flows.ipv6", self.flows.ipv6)] {
            if !(256..=1 << 26).contains(&entries) {
                return wrong(field, format!("{entries} is not from 256 to {}", 1 << 26));
            }
        }
        if self.snat.first < 1024 || self.snat.first > self.snat.last {
            return wrong(
                "snat.first",
                format!("{} is not from 1024 to snat.last = {}", self.snat.first, self.snat.last),
            );
        }
        if self.overlay.port != vxlan::PORT {
            return wrong(
                "overlay.port",
                format!("{} is not {}, the only one for now", self.overlay.port, vxlan::PORT),
            );
        }
        self.check_addresses()
    }

    fn check_workers(&self) -> Result<(), ConfigError> {
        let cores = &self.workers.cores;
        if cores.is_empty() || cores.len() > 256 {
            return wrong("workers.cores", format!("{} workers: must be from 1 to 256", cores.len()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = cores.iter().find(|core| !seen.insert(**core)) {
            return wrong("workers.cores", format!("CPU {twice} stands there twice"));
        }
        if !(1..=64).contains(&self.workers.batch) {
            return wrong("workers.batch", format!("{} is not from 1 to 64", self.workers.batch));
        }
        let alone = self.uplink.as_ref().is_some_and(|uplink| uplink.zero_copy == ZeroCopy::Require);
        if alone && cores.len() < 2 {
            let problem =
                "\"require\" takes the first worker for the uplink alone: give at least two in workers.cores";
            return wrong("uplink.zero_copy", problem.into());
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let Gateway { ipv4, ipv6 } = self.gateway;
        if ipv4.is_unspecified() || ipv4.is_multicast() || ipv4.is_broadcast() || ipv4.is_loopback() {
            return wrong("gateway.ipv4", format!("{ipv4} is no host's address"));
        }
        if ipv6.is_unspecified() || ipv6.is_multicast() || ipv6.is_loopback() {
            return wrong("gateway.ipv6", format!("{ipv6} is no host's address"));
        }
        if self.overlay.mac[0] & 1 != 0 || self.overlay.mac == [0; 6] {
            return wrong("overlay.mac", "is no single device's address".into());
        }
        match (&self.uplink, &self.host) {
            (Some(uplink), Some(host)) if uplink.device == host.device => {
                wrong("host.device", format!("{} is the uplink already", host.device))
            }
            _ => self.check_ports(),
        }
    }

    fn check_ports(&self) -> Result<(), ConfigError> {
        let uplink = self.uplink.as_ref().map(|uplink| uplink.device.as_str());
        let host = self.host.as_ref().map(|host| host.device.as_str());
        let mut names: BTreeSet<&str> = uplink.into_iter().chain(host).collect();
        let mut pods = BTreeSet::new();
        let mut ends = BTreeSet::new();
        for port in &self.ports {
            let ConfiguredPort { name, pod, mtu, memif, .. } = port;
            let of_port = |problem: String| format!("port {name:?}: {problem}");
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
                let problem = "is not from 1 to 15 bytes without / and blanks".to_owned();
                return wrong("port.name", of_port(problem));
            }
            if !names.insert(name) {
                return wrong("port.name", of_port("another port has that name".into()));
            }
            let is_pod =
                pod.split_once('/').is_some_and(|(space, name)| !space.is_empty() && !name.is_empty());
            if !is_pod || !pods.insert(pod) {
                let problem = format!("{pod:?} is not NAMESPACE/NAME, or has a port already");
                return wrong("port.pod", of_port(problem));
            }
            for (field, mac) in [("port.mac", port.mac), ("port.peer_mac", port.peer_mac)] {
                if mac.is_some_and(|mac| mac[0] & 1 != 0 || mac == [0; 6]) {
                    return wrong(field, of_port("is no single device's address".into()));
                }
            }
            if !(MIN_MTU..=MAX_MTU).contains(mtu) {
                return wrong("port.mtu", of_port(format!("{mtu} is not from {MIN_MTU} to {MAX_MTU}")));
            }
            if !memif.ring.is_power_of_two() {
                return wrong("port.memif.ring", of_port(format!("{} is no power of two", memif.ring)));
            }
            if let Err(error) = port.memif_config().check() {
                return wrong("port.memif", of_port(error.to_string()));
            }
            if !ends.insert((&memif.socket, memif.role == MemifRole::Server, memif.id)) {
                let problem = format!("{} has been given for this socket and role already", memif.id);
                return wrong("port.memif.id", of_port(problem));
            }
        }
        Ok(())
    }

    /// Checks that the CPUs and devices are there.
    ///
    /// # Errors
    /// [`ConfigError::Field`].
    pub fn check_machine(&self) -> Result<(), ConfigError> {
        let usable: BTreeSet<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        if let Some(missing) = self.workers.cores.iter().find(|core| !usable.contains(core)) {
            return wrong(
                "workers.cores",
                format!("CPU {missing} is not among those that penstockd may use: {usable:?}"),
            );
        }
        let uplink = self.uplink.as_ref().map(|uplink| ("uplink.device", &uplink.device));
        let host = self.host.as_ref().map(|host| ("host.device", &host.device));
        for (field, device) in uplink.into_iter().chain(host) {
            if let Err(error) = DeviceFacts::of(device) {
                return wrong(field, error.to_string());
            }
        }
        Ok(())
    }
}

fn wrong(field: &'static str, problem: String) -> Result<(), ConfigError> {
    Err(ConfigError::Field { field, problem })
}
