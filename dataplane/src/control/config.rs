//! [`Config`]: penstockd's configuration file, TOML. All of it is checked before any device is touched.
//!
//! A key that does not exist is an error, and each error names its field. Everything but `[uplink]` has a default that
//! works; `docs/configuration.md` is the manual.

mod check;
mod port;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use afxdp_driver::HugePages;
use afxdp_driver::xdp;
use agent_api::address::DEFAULT_SOCKET;
use agent_api::server::SOCKET_MODE;
use serde::{Deserialize, Deserializer};

use crate::snapshot::Mac;
use crate::wire::vxlan;

pub use check::ConfigError;
pub use port::{ConfiguredPort, Memif, Secret};

/// penstockd's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The Unix socket to serve on.
    pub socket: PathBuf,
    /// Its permissions, in octal.
    #[serde(deserialize_with = "octal")]
    pub socket_mode: u32,
    /// A loopback address to serve on besides, in plaintext.
    pub listen: Option<SocketAddr>,
    /// The threads that carry packets.
    pub workers: Workers,
    /// Packet memory.
    pub memory: Memory,
    /// How devices are made ready.
    pub devices: Devices,
    /// The flow tables.
    pub flows: Flows,
    /// The device towards the other nodes and the world.
    pub uplink: Option<Uplink>,
    /// The device towards this node's own network stack.
    pub host: Option<Host>,
    /// `[[port]]`: ports that are no devices.
    #[serde(rename = "port")]
    pub ports: Vec<ConfiguredPort>,
    /// What pods have as their default gateway.
    pub gateway: Gateway,
    /// Masquerading.
    pub snat: Snat,
    /// The tunnels between nodes.
    pub overlay: Overlay,
    /// What is checked while it runs.
    pub check: Check,
}

/// `[check]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// The tables of each generation are held to the policies before they are put in force.
    pub tables: bool,
}

/// `[workers]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// The CPUs, a worker each.
    pub cores: Vec<usize>,
    /// Packets a turn takes at most.
    pub batch: usize,
    /// When a worker without packets rests.
    pub idle: Idle,
}

/// `[workers.idle]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idle {
    /// Empty turns that only spin.
    pub spin: u32,
    /// Empty turns after those that yield the CPU.
    pub yields: u32,
    /// Longest sleep after those, in milliseconds; 0: never sleep.
    pub sleep_ms: u64,
}

/// `[memory]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Chunks of packet memory (2 KiB each) a worker has.
    pub chunks: usize,
    /// Entries of a port's rings, and chunks it keeps with the kernel to receive into.
    pub ring: u32,
    /// Whether packet memory and flow tables lie in huge pages.
    #[serde(deserialize_with = "huge_pages")]
    pub huge_pages: HugePages,
}

/// `[devices]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Devices {
    /// A veth without a queueing discipline gets one, and its port a send buffer for a whole ring: a receiver that is full
    /// holds its sender up instead of losing packets.
    pub queueing: bool,
    /// The receive work at a veth's far end gets threads of its own on the CPUs that have no worker, where there are such. For
    /// nodes where those CPUs have time: only the operator knows.
    pub threaded_napi: bool,
}

/// `[flows]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flows {
    /// Entries for IPv4, two a flow.
    pub ipv4: usize,
    /// Entries for IPv6.
    pub ipv6: usize,
}

/// `[uplink]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Its name.
    pub device: String,
    /// Next hop for what is not on the link; the kernel's default route where left out.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The same, IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Where the XDP program runs.
    #[serde(default)]
    pub mode: Mode,
    /// Whether the NIC reads and writes packet memory itself.
    #[serde(default)]
    pub zero_copy: ZeroCopy,
}

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver where it can, else in the stack.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// Whether the NIC reads and writes packet memory itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroCopy {
    /// Where it is hardware and there is a worker for it alone.
    #[default]
    Auto,
    /// No.
    Never,
    /// Yes, or penstockd does not start.
    Require,
}

/// `[host]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name: one end of a veth, the other of which has the kernel's routes to the pods.
    pub device: String,
}

/// `[gateway]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
}

/// `[snat]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snat {
    /// First source port of masqueraded flows. Above the kernel's own (`net.ipv4.ip_local_port_range`).
    pub first: u16,
    /// Last source port of masqueraded flows.
    pub last: u16,
}

/// `[overlay]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overlay {
    /// UDP port of VXLAN; 4789 alone for now.
    pub port: u16,
    /// Destination address of the inner Ethernet headers. Penstock does not look at it; a kernel peer's vxlan device
    /// must have it for its own.
    #[serde(deserialize_with = "mac")]
    pub mac: Mac,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socket: DEFAULT_SOCKET.into(),
            socket_mode: SOCKET_MODE,
            listen: None,
            workers: Workers::default(),
            memory: Memory::default(),
            devices: Devices::default(),
            flows: Flows::default(),
            uplink: None,
            host: None,
            ports: Vec::new(),
            gateway: Gateway::default(),
            snat: Snat::default(),
            overlay: Overlay::default(),
            check: Check::default(),
        }
    }
}

impl Default for Check {
    fn default() -> Self {
        Check { tables: true }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Workers { cores: vec![0], batch: 64, idle: Idle::default() }
    }
}

impl Default for Idle {
    fn default() -> Self {
        Idle { spin: 64, yields: 64, sleep_ms: 50 }
    }
}

impl Idle {
    /// The longest sleep.
    pub fn sleep(&self) -> Duration {
        Duration::from_millis(self.sleep_ms)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory { chunks: 32768, ring: 2048, huge_pages: HugePages::Prefer }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Devices { queueing: true, threaded_napi: false }
    }
}

impl Default for Flows {
    fn default() -> Self {
        Flows { ipv4: 262_144, ipv6: 65_536 }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway { ipv4: Ipv4Addr::new(169, 254, 1, 1), ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1) }
    }
}

impl Default for Snat {
    fn default() -> Self {
        Snat { first: 61000, last: 65535 }
    }
}

impl Default for Overlay {
    fn default() -> Self {
        Overlay { port: vxlan::PORT, mac: [0x02, 0x50, 0x53, 0, 0, 2] }
    }
}

impl From<Mode> for xdp::XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => xdp::XdpMode::Auto,
            Mode::Native => xdp::XdpMode::Native,
            Mode::Generic => xdp::XdpMode::Generic,
        }
    }
}

fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| serde::de::Error::custom(format!("{text:?} are no permissions such as \"0660\"")))
}

fn huge_pages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HugePages, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "prefer" => Ok(HugePages::Prefer),
        "never" => Ok(HugePages::Never),
        "require" => Ok(HugePages::Require),
        other => Err(serde::de::Error::unknown_variant(other, &["prefer", "never", "require"])),
    }
}

fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
    let text = String::deserialize(deserializer)?;
    let octets: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac = octets.and_then(|octets| Mac::try_from(octets).ok());
    mac.ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} are not six octets such as 02:00:00:00:00:01"))
    })
}

#[cfg(test)]
mod tests;
