//! The simulated node: a port for every pod, the uplink and the host; everything on the link is known.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use agent_api::contract::PortRole;
use ipnet::IpNet;
use policy_compiler::intent::Intent;
use policy_compiler::tables::{Capacity, Tables};

use super::StageError;
use crate::control::build::{self, PortFacts, Settings, Surroundings, World};
use crate::judge;
use crate::snapshot::{Mac, PortIndex, Role, Snapshot};
use crate::validity::Validity;
use crate::wire::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16};

/// The gateway of the pods, IPv4: penstockd's default.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same, IPv6.
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The next hop to everything that is no node, IPv4: a dummy (RFC 7600).
const NEXT_HOP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
/// The same, IPv6: of the discard prefix (RFC 6666).
const NEXT_HOP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));

/// Second half of the MAC addresses' prefix: whose they are.
const OF_PORT: u8 = 1;
const BEHIND_PORT: u8 = 2;
const OF_NODE: u8 = 3;
const NEXT_HOP: u8 = 4;

/// A port by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedPort {
    /// `NAMESPACE/NAME`, `uplink` or `host`.
    pub name: String,
    /// Its own MAC address.
    pub mac: Mac,
}

impl SimulatedPort {
    /// Name of the capture of what leaves by it: no part of a pod's name has an underscore, so no two are the same.
    pub fn file(&self) -> String {
        format!("{}.pcap", self.name.replace('/', "_"))
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.replace('/', "-") == name || self.name.replace('/', "_") == name
    }
}

/// `[CIDR=]PORT`: packets from these addresses come in by this port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressRule {
    /// From which addresses; `None` for every packet.
    pub sources: Option<IpNet>,
    /// The port's name.
    pub port: String,
}

impl FromStr for IngressRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((sources, port)) = text.split_once('=') else {
            return Ok(IngressRule { sources: None, port: text.to_owned() });
        };
        let address = sources.parse::<IpAddr>().map(IpNet::from);
        let sources = address.or_else(|_| sources.parse()).map_err(|_| format!("{sources} is no CIDR"))?;
        Ok(IngressRule { sources: Some(sources), port: port.to_owned() })
    }
}

/// The simulated node.
#[derive(Debug)]
pub struct Topology {
    ports: Vec<SimulatedPort>,
    snapshot: Snapshot,
}

impl Topology {
    /// The node of an intent, with ports of this MTU.
    ///
    /// # Errors
    /// [`StageError::Intent`] where the intent is refused, [`StageError::Ports`] where it has more pods than there are port numbers.
    pub fn new(intent: &Intent, mtu: u16) -> Result<Self, StageError> {
        let tables = Tables::compile(intent, 1, &Capacity::default())?;
        let pods = tables.routes.endpoints().iter().map(|pod| pod.name.to_string());
        let roles: Vec<PortRole> =
            pods.map(PortRole::Pod).chain([PortRole::Uplink, PortRole::Host]).collect();
        PortIndex::try_from(roles.len()).map_err(|_| StageError::Ports(roles.len()))?;
        let names = roles.iter().map(|role| match role {
            PortRole::Pod(pod) => pod.clone(),
            PortRole::Uplink => "uplink".to_owned(),
            PortRole::Host => "host".to_owned(),
        });
        let ports =
            names.zip(0..).map(|(name, number)| SimulatedPort { name, mac: mac(OF_PORT, number) }).collect();
        let facts: Vec<_> = roles
            .into_iter()
            .zip(0..)
            .map(|(role, number)| {
                let (mac, peer_mac) = (mac(OF_PORT, number), Some(mac(BEHIND_PORT, number)));
                Some(PortFacts { role, mac, mtu, worker: 0, peer_mac })
            })
            .collect();
        let settings = Settings {
            gateway_v4: GATEWAY_V4,
            gateway_v6: GATEWAY_V6,
            snat_ports: (61_000, 65_535),
            inner_mac: mac(OF_NODE, 0),
        };
        let world = World {
            tables: &tables,
            ports: &facts,
            surroundings: &surroundings(&tables),
            settings: &settings,
            watch_drops: false,
        };
        Ok(Topology { ports, snapshot: Snapshot { validity: Validity::only(1), ..build::snapshot(&world) } })
    }

    /// The ports by number.
    pub fn ports(&self) -> &[SimulatedPort] {
        &self.ports
    }

    /// What the node judges by.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The name of a port.
    pub fn name(&self, port: PortIndex) -> &str {
        self.ports.get(port as usize).map_or("?", |port| port.name.as_str())
    }

    /// Rules with their ports by number.
    ///
    /// # Errors
    /// [`StageError::UnknownPort`].
    pub fn ingress(&self, rules: &[IngressRule]) -> Result<Ingress, StageError> {
        let numbered = |rule: &IngressRule| {
            let found = (0..).zip(&self.ports).find(|(_, port)| port.is_called(&rule.port));
            let known = || self.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
            match found {
                Some((number, _)) => Ok((rule.sources, number)),
                None => Err(StageError::UnknownPort { name: rule.port.clone(), known: known() }),
            }
        };
        Ok(Ingress { rules: rules.iter().map(numbered).collect::<Result<_, _>>()? })
    }
}

/// By which port a packet comes in, where the user has an opinion.
#[derive(Debug, Clone, Default)]
pub struct Ingress {
    rules: Vec<(Option<IpNet>, PortIndex)>,
}

impl Ingress {
    /// By the first rule that fits, else by the source's own port, else by the uplink.
    pub fn port(&self, snapshot: &Snapshot, frame: &[u8]) -> PortIndex {
        let source = source_of(frame);
        let fits = |sources: &Option<IpNet>| match (sources, source) {
            (None, _) => true,
            (Some(sources), Some(source)) => sources.contains(&source),
            (Some(_), None) => false,
        };
        let chosen = self.rules.iter().find(|(sources, _)| fits(sources)).map(|(_, port)| *port);
        let own = || source.and_then(|source| judge::origin_of(snapshot, source)).map(judge::Origin::port);
        let uplink = || judge::port_of(snapshot, Role::Uplink).unwrap_or_default();
        chosen.or_else(own).unwrap_or_else(uplink)
    }
}

/// Who a frame says it is from: whatever else is wrong with it.
fn source_of(frame: &[u8]) -> Option<IpAddr> {
    let v4 = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<4>()?));
    match be16(frame, 12)? {
        ETHERTYPE_IPV4 => v4(26),
        ETHERTYPE_ARP => v4(28),
        ETHERTYPE_IPV6 => Some(IpAddr::from(*frame.get(22..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// Nodes are on the link, everything else is behind one next hop.
fn surroundings(tables: &Tables) -> Surroundings {
    let nodes = (0..).zip(tables.routes.nodes()).filter(|(_, node)| !node.this);
    let on_link: BTreeMap<IpAddr, Mac> = nodes
        .flat_map(|(number, node)| node.addresses.iter().map(move |peer| (*peer, mac(OF_NODE, number))))
        .collect();
    let next_hops = [NEXT_HOP_V4, NEXT_HOP_V6].map(|address| (address, mac(NEXT_HOP, 0)));
    Surroundings {
        on_link: on_link.keys().copied().map(IpNet::from).collect(),
        gateway_v4: Some(NEXT_HOP_V4),
        gateway_v6: Some(NEXT_HOP_V6),
        macs: on_link.into_iter().chain(next_hops).collect(),
    }
}

/// Locally administered.
fn mac(whose: u8, number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    [0x02, 0x50, 0x53, whose, high, low]
}
