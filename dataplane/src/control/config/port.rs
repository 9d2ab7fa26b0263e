//! `[[port]]`: a port that is no device, and so has to be written down: a memif.

use std::fmt;

use afxdp_driver::memif::{MemifConfig, MemifRole};
use serde::{Deserialize, Deserializer};

use super::mac;
use crate::snapshot::Mac;

/// A port that is no device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredPort {
    /// What it is called wherever a device's name is said.
    pub name: String,
    /// The pod behind it, as `NAMESPACE/NAME`.
    pub pod: String,
    /// Its own MAC address, which the pod sees as its gateway's; made from the name where left out.
    #[serde(default, deserialize_with = "some_mac")]
    pub mac: Option<Mac>,
    /// The pod's MAC address; learned where left out.
    #[serde(default, deserialize_with = "some_mac")]
    pub peer_mac: Option<Mac>,
    /// The largest IP packet.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// The memif.
    pub memif: Memif,
}

/// `memif` of a `[[port]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memif {
    /// The control socket: an absolute path, or `@` and a name.
    pub socket: String,
    /// Which end penstockd is.
    #[serde(deserialize_with = "role")]
    pub role: MemifRole,
    /// Number of the interface on its socket.
    #[serde(default)]
    pub id: u32,
    /// What a client must know.
    #[serde(default)]
    pub secret: Secret,
    /// Descriptors of a ring; the client's to say.
    #[serde(default = "default_ring")]
    pub ring: u32,
    /// Bytes of a buffer; the client's to say.
    #[serde(default = "default_buffer")]
    pub buffer: u32,
}

/// A text that is not to be seen in a log.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(not shown)" })
    }
}

impl ConfiguredPort {
    /// Its own MAC address: as configured, else locally administered and the same for a name each time (FNV-1a).
    pub fn own_mac(&self) -> Mac {
        self.mac.unwrap_or_else(|| {
            let hash = self.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let [a, b, c, d, ..] = hash.to_be_bytes();
            [0x02, 0x50, a, b, c, d]
        })
    }

    /// What the driver opens: one queue, since a port is one worker's.
    pub fn memif_config(&self) -> MemifConfig {
        let Memif { socket, role, id, secret, ring, buffer } = &self.memif;
        MemifConfig {
            secret: secret.0.clone(),
            // Of what is no power of two the check has said so.
            log2_ring: ring.checked_ilog2().map_or(0, |log2| log2 as u8),
            buffer: *buffer,
            name: self.name.clone(),
            ..MemifConfig::new(socket.clone(), *role, *id)
        }
    }
}

fn default_mtu() -> u32 {
    1500
}

fn default_ring() -> u32 {
    1024
}

fn default_buffer() -> u32 {
    2048
}

fn some_mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
    mac(deserializer).map(Some)
}

fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemifRole, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "client" => Ok(MemifRole::Client),
        "server" => Ok(MemifRole::Server),
        other => Err(serde::de::Error::unknown_variant(other, &["client", "server"])),
    }
}
