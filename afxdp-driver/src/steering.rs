//! [`SteeringTable`]: what of a shared device goes to userspace. The rules are those of `bpf/penstock.bpf.c`.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use crate::bpf::{self, os_error};

/// Protocols with ports, in the order of their words in the `ports` map; ICMP's (and ICMPv6's) are identifiers of echoes.
const PROTOCOLS: [u8; 4] = [6, 17, 132, 1];
/// 64-bit words of one protocol's port bitmap.
const PORT_WORDS: usize = 1024;
/// What `bpf/penstock.bpf.c` holds at most.
const MAX_PREFIXES: usize = 65536;
const MAX_LOCAL: usize = 1024;

/// A steering table was refused, or the kernel would not take it.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// More bits than the address has.
    #[error("prefix {0}/{1}: an address of its family has fewer bits")]
    PrefixLength(IpAddr, u8),
    /// Only TCP (6), UDP (17) and SCTP (132) have ports, and ICMP (1) identifiers.
    #[error("protocol {0} has no ports: TCP is 6, UDP 17, SCTP 132, ICMP with its identifiers 1")]
    Protocol(u8),
    /// The map is too small.
    #[error("{count} entries are too many for the map {map}: at most {limit}")]
    Capacity {
        /// The map's name in `bpf/penstock.bpf.c`.
        map: &'static str,
        /// Entries asked for.
        count: usize,
        /// Entries it holds.
        limit: usize,
    },
    /// The kernel refused a change; the table is between old and new, and setting it again completes it.
    #[error("steering map {map}: {source}")]
    Map {
        /// The map's name in `bpf/penstock.bpf.c`.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The maps of one device's [`Steering::Uplink`](crate::xdp::Steering) program. Cheap to clone, usable on any
/// thread; changes take effect with the next packet. An entry that stands both before and after a change is never
/// away in between.
#[derive(Debug, Clone)]
pub struct SteeringTable {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    ours: Keys,
    local: Keys,
    ports: MapHandle,
    /// What the `ports` map holds.
    words: Vec<u64>,
}

/// A map used as a set, and what it holds.
#[derive(Debug)]
struct Keys {
    name: &'static str,
    map: MapHandle,
    present: BTreeSet<Vec<u8>>,
}

impl SteeringTable {
    pub(crate) fn of(object: &Object) -> io::Result<Self> {
        let keys =
            |name| Ok::<_, io::Error>(Keys { name, map: bpf::map(object, name)?, present: BTreeSet::new() });
        let state = State {
            ours: keys("ours")?,
            local: keys("local")?,
            ports: bpf::map(object, "ports")?,
            words: vec![0; PROTOCOLS.len() * PORT_WORDS],
        };
        Ok(SteeringTable { state: Arc::new(Mutex::new(state)) })
    }

    /// Destinations all of whose packets go to userspace: pod networks and service addresses, as (address, length).
    /// Bits behind the length are ignored.
    ///
    /// # Errors
    /// [`SteeringError::PrefixLength`] and [`SteeringError::Capacity`] before anything has changed;
    /// [`SteeringError::Map`] where the kernel refuses.
    pub fn set_prefixes(&self, prefixes: &[(IpAddr, u8)]) -> Result<(), SteeringError> {
        let keys = prefixes.iter().map(|&(address, length)| prefix_key(address, length));
        let keys = keys.collect::<Result<BTreeSet<_>, _>>()?;
        self.state().ours.set(keys, MAX_PREFIXES)
    }

    /// The node's own addresses, and the (protocol, destination ports) of them that are ours: VXLAN, node ports, the
    /// source ports of NAT. ICMP (1, which stands for ICMPv6 as well) has identifiers of echoes for ports.
    ///
    /// # Errors
    /// [`SteeringError::Protocol`] and [`SteeringError::Capacity`] before anything has changed;
    /// [`SteeringError::Map`] where the kernel refuses.
    pub fn set_local(
        &self,
        addresses: &[IpAddr],
        ports: &[(u8, RangeInclusive<u16>)],
    ) -> Result<(), SteeringError> {
        let words = port_words(ports)?;
        let keys = addresses.iter().map(|&address| mapped(address).to_vec()).collect::<BTreeSet<_>>();
        let mut state = self.state();
        state.local.set(keys, MAX_LOCAL)?;
        state.set_ports(words)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set_ports(&mut self, words: Vec<u64>) -> Result<(), SteeringError> {
        for (index, (old, new)) in self.words.iter_mut().zip(words).enumerate() {
            if *old != new {
                let key = (index as u32).to_ne_bytes();
                let updated = self.ports.update(&key, &new.to_ne_bytes(), MapFlags::ANY);
                updated.map_err(|error| SteeringError::Map { map: "ports", source: os_error(error) })?;
                *old = new;
            }
        }
        Ok(())
    }
}

impl Keys {
    /// Adds what is missing first, then removes what is too much.
    fn set(&mut self, wanted: BTreeSet<Vec<u8>>, limit: usize) -> Result<(), SteeringError> {
        let union = wanted.union(&self.present).count();
        if union > limit {
            return Err(SteeringError::Capacity { map: self.name, count: union, limit });
        }
        let failed = |error| SteeringError::Map { map: self.name, source: os_error(error) };
        for key in &wanted {
            if !self.present.contains(key) {
                self.map.update(key, &1u32.to_ne_bytes(), MapFlags::ANY).map_err(failed)?;
                self.present.insert(key.clone());
            }
        }
        let surplus: Vec<_> = self.present.difference(&wanted).cloned().collect();
        for key in surplus {
            self.map.delete(&key).map_err(failed)?;
            self.present.remove(&key);
        }
        Ok(())
    }
}

/// IPv4 as `::ffff:a.b.c.d`.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// `struct prefix` of the program: the length in host order, then the address, clean behind its prefix.
fn prefix_key(address: IpAddr, length: u8) -> Result<Vec<u8>, SteeringError> {
    let (bits, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
    if length > bits {
        return Err(SteeringError::PrefixLength(address, length));
    }
    let length = u32::from(length) + offset;
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    let address = u128::from_be_bytes(mapped(address)) & mask;
    Ok([&length.to_ne_bytes()[..], &address.to_be_bytes()[..]].concat())
}

fn port_words(ports: &[(u8, RangeInclusive<u16>)]) -> Result<Vec<u64>, SteeringError> {
    let mut words = vec![0u64; PROTOCOLS.len() * PORT_WORDS];
    for (protocol, range) in ports {
        let slot = PROTOCOLS.iter().position(|known| known == protocol);
        let first_word = slot.ok_or(SteeringError::Protocol(*protocol))? * PORT_WORDS;
        for port in range.clone() {
            if let Some(word) = words.get_mut(first_word + usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_keys_are_clean_and_mapped() {
        let key = prefix_key("10.1.2.3".parse().unwrap(), 16).unwrap();
        assert_eq!(key[..4], 112u32.to_ne_bytes());
        assert_eq!(key[4..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 0, 0]);
        let everything = prefix_key("fe80::1".parse().unwrap(), 0).unwrap();
        assert_eq!(everything, [0; 20]);
        let host = prefix_key("fe80::1".parse().unwrap(), 128).unwrap();
        assert_eq!(host[4], 0xfe);
        assert_eq!(host[19], 1);
        assert!(matches!(
            prefix_key("10.0.0.0".parse().unwrap(), 33),
            Err(SteeringError::PrefixLength(_, 33))
        ));
    }

    #[test]
    fn port_words_hold_exactly_the_ranges() {
        let ports = [(17u8, 4789..=4789), (6, 30000..=32767), (6, 65535..=65535), (6, 0..=0)];
        let words = port_words(&ports).unwrap();
        for (slot, protocol) in PROTOCOLS.into_iter().enumerate() {
            for port in 0..=u16::MAX {
                let set = words[slot * PORT_WORDS + usize::from(port >> 6)] >> (port & 63) & 1 == 1;
                let wanted = ports.iter().any(|(p, range)| *p == protocol && range.contains(&port));
                assert_eq!(set, wanted, "protocol {protocol} port {port}");
            }
        }
        assert!(matches!(port_words(&[(58, 0..=0)]), Err(SteeringError::Protocol(58))));
    }
}
