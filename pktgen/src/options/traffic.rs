//! What the packets are: [`TrafficOptions`] and the VXLAN envelope.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;

use super::OptionsError;
use crate::flow::{AddressRange, Flow, FlowError, MAX_FLOWS, MacAddr, PortRange, draw};
use crate::mix::{Protocol, ProtocolMix, SizeMix};
use crate::packet::{Envelope, Headers, VXLAN_PORT};
use crate::popularity::Popularity;
use crate::traffic::{Traffic, TrafficError, TrafficSpec};

/// Its brackets are none of rustdoc's.
const VXLAN_HELP: &str =
    "Wrap packets in VXLAN: vni=N,src=ADDR,dst=ADDR[,port=N][,inner-src-mac=MAC][,inner-dst-mac=MAC]";

/// What the packets are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficOptions {
    /// Destination address or range (10.0.0.1-10.0.0.9); the inner one under --vxlan
    #[arg(long, value_name = "ADDR[-ADDR]")]
    pub dst_ip: AddressRange,
    /// Destination port or range
    #[arg(long, value_name = "PORT[-PORT]", default_value = "9000")]
    pub dst_port: PortRange,
    /// Source address or range [default: what the kernel would take]
    #[arg(long, value_name = "ADDR[-ADDR]")]
    pub src_ip: Option<AddressRange>,
    /// Source port or range; ICMP takes it as identifier
    #[arg(long, value_name = "PORT[-PORT]", default_value = "10000-65535")]
    pub src_port: PortRange,
    /// Flows, of each protocol: source ports vary first, then source addresses, destination ports and addresses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub flows: usize,
    /// Streams to number packets in: each has its own loss, order and latency; --syn-flows have
    /// the last [default: flows, at most 64]
    #[arg(long, value_name = "N")]
    pub streams: Option<usize>,
    /// How often each flow is sent: in-turn, uniform (drawn), zipf or zipf=EXPONENT (drawn, the first the most popular)
    #[arg(long, value_name = "KIND", default_value = "in-turn")]
    pub popularity: Popularity,
    /// What flows are drawn by: the same number draws the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Flows of TCP SYNs (tcp-syn) alone, behind the others in the ranges [default: SYNs share the flows]
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub syn_flows: usize,
    /// Protocols by weight: udp, icmp, tcp (ACK and PSH), tcp-syn (a flood), tcp-stream (SYN, then ACK and PSH, numbers
    /// going on), or a mix such as udp=70,tcp=20,icmp=10
    #[arg(long, value_name = "MIX", default_value = "udp")]
    pub protocol: ProtocolMix,
    /// Ethernet frame size, FCS included (64 is 60 bytes handed over): one, a weighted list 64=7,594=4, or imix
    /// [default: the smallest that holds the headers and the stamp]
    #[arg(long, value_name = "MIX")]
    pub size: Option<SizeMix>,
    /// Time to live, or hop limit
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..))]
    pub ttl: u8,
    /// Source MAC address [default: the device's]
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<MacAddr>,
    /// Destination MAC address [default: the next hop's, from the kernel's neighbour table]
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<MacAddr>,
    /// Next hop whose MAC address to use [default: what the kernel's routes say]
    #[arg(long, value_name = "ADDR", conflicts_with = "dst_mac")]
    pub next_hop: Option<IpAddr>,
    /// The VXLAN envelope of every packet.
    #[arg(long, value_name = "SPEC", help = VXLAN_HELP)]
    pub vxlan: Option<VxlanOption>,
    /// Number that marks this run's packets [default: drawn from the clock]
    #[arg(long, value_name = "N")]
    pub run_id: Option<u16>,
}

impl TrafficOptions {
    /// The traffic, once the addresses of the wire are known. `source` stands in where no `--src-ip` is given.
    ///
    /// # Errors
    /// [`OptionsError`] naming the flag that cannot be kept.
    pub fn traffic(&self, source: Option<IpAddr>, macs: (MacAddr, MacAddr)) -> Result<Traffic, OptionsError> {
        let missing =
            OptionsError::Missing { flag: "--src-ip", why: "where there is no device to take it from" };
        let source = self.src_ip.or(source.map(AddressRange::from)).ok_or(missing)?;
        let headers = Headers {
            source_mac: macs.0,
            destination_mac: macs.1,
            ttl: self.ttl,
            envelope: self.vxlan.as_ref().map(|vxlan| vxlan.0),
        };
        let spec = TrafficSpec {
            flows: self.draw(source)?,
            syn_flows: self.syn_flows,
            popularity: (self.popularity, self.seed),
            streams: self.stream_count(),
            protocols: self.protocol.clone(),
            sizes: self.size.clone().unwrap_or_default(),
            headers,
        };
        Traffic::new(&spec, self.run()).map_err(|error| {
            let flag = match &error {
                TrafficError::Packet(_) => "--size",
                TrafficError::Mix(_) => "--protocol and --size",
                TrafficError::Flow(_) => "--flows",
                TrafficError::Streams { .. } => "--streams",
            };
            OptionsError::Impossible { flag, why: error.to_string() }
        })
    }

    /// The flows from the given source addresses; those of SYNs alone behind the others.
    ///
    /// # Errors
    /// [`OptionsError`] naming the flag that cannot be kept.
    pub fn draw(&self, source: AddressRange) -> Result<Vec<Flow>, OptionsError> {
        let floods = self.protocol.entries().iter().any(|(protocol, _)| *protocol == Protocol::TcpSyn);
        if self.syn_flows > 0 && !floods {
            let why = "there are no SYNs in --protocol: add tcp-syn".into();
            return Err(OptionsError::Impossible { flag: "--syn-flows", why });
        }
        if self.syn_flows > MAX_FLOWS {
            let why = format!("{} flows: at most {MAX_FLOWS}", self.syn_flows);
            return Err(OptionsError::Impossible { flag: "--syn-flows", why });
        }
        if self.flows == 0 {
            let why = FlowError::Count(0).to_string();
            return Err(OptionsError::Impossible { flag: "--flows", why });
        }
        let flows = self.flows.saturating_add(self.syn_flows);
        draw(flows, (source, self.src_port), (self.dst_ip, self.dst_port)).map_err(|error| {
            let flag =
                if matches!(error, FlowError::Families(..)) { "--src-ip and --dst-ip" } else { "--flows" };
            OptionsError::Impossible { flag, why: error.to_string() }
        })
    }

    /// Streams: as asked, or one a flow up to 64, and one for SYNs with flows of their own.
    pub fn stream_count(&self) -> usize {
        self.streams.unwrap_or_else(|| self.flows.min(64) + usize::from(self.syn_flows > 0))
    }

    /// The number that marks this run's packets; the same at every call only where `--run-id` is given.
    pub fn run(&self) -> u16 {
        self.run_id.unwrap_or_else(|| (crate::clock::monotonic_ns() >> 10) as u16)
    }
}

/// The VXLAN envelope as given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanOption(pub Envelope);

/// A VXLAN envelope that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: write vni=N,src=ADDR,dst=ADDR[,port=N][,inner-src-mac=MAC][,inner-dst-mac=MAC]")]
pub struct VxlanError(String);

impl FromStr for VxlanOption {
    type Err = VxlanError;

    fn from_str(text: &str) -> Result<Self, VxlanError> {
        let (mut vni, mut source, mut destination, mut port) = (None, None, None, VXLAN_PORT);
        let mut macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        for entry in text.split(',') {
            let bad = || VxlanError(format!("`{entry}` cannot be understood"));
            let (key, value) = entry.split_once('=').ok_or_else(bad)?;
            match key {
                "vni" => vni = Some(value.parse().ok().filter(|vni: &u32| *vni < 1 << 24).ok_or_else(bad)?),
                "src" => source = Some(value.parse::<IpAddr>().map_err(|_| bad())?),
                "dst" => destination = Some(value.parse::<IpAddr>().map_err(|_| bad())?),
                "port" => port = value.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
                "inner-src-mac" => macs.0 = value.parse().map_err(|_| bad())?,
                "inner-dst-mac" => macs.1 = value.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        let lacks = |name: &str| VxlanError(format!("{name} is missing"));
        let (source, destination) =
            (source.ok_or_else(|| lacks("src"))?, destination.ok_or_else(|| lacks("dst"))?);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(VxlanError(format!("{source} and {destination} are of different families")));
        }
        Ok(VxlanOption(Envelope {
            vni: vni.ok_or_else(|| lacks("vni"))?,
            source,
            destination,
            port,
            inner_macs: macs,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_is_read_or_refused_by_name() {
        let VxlanOption(envelope) = "vni=42,src=192.0.2.1,dst=192.0.2.2,port=8472".parse().unwrap();
        assert_eq!((envelope.vni, envelope.port), (42, 8472));
        let rows = [
            ("vni=42,src=192.0.2.1", "dst is missing"),
            ("src=192.0.2.1,dst=192.0.2.2", "vni is missing"),
            ("vni=16777216,src=192.0.2.1,dst=192.0.2.2", "`vni=16777216`"),
            ("vni=1,src=192.0.2.1,dst=fd00::1", "different families"),
            ("vni=1,src=192.0.2.1,dst=192.0.2.2,port=0", "`port=0`"),
            ("color=red", "`color=red`"),
            ("", "``"),
        ];
        for (text, says) in rows {
            let error = text.parse::<VxlanOption>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
