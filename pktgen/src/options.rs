//! What can be asked for: the options of every command, with their limits and what may not stand together.
//!
//! A value that cannot be understood is refused by clap with the flag's name; what two flags make impossible
//! together is an [`OptionsError`] that names both. Either way nothing has been opened yet, and the exit code is 2.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::flow::{AddressRange, Flow, FlowError, MacAddr, PortRange, draw};
use crate::mix::{ProtocolMix, SizeMix};
use crate::packet::{Envelope, Headers, VXLAN_PORT};
use crate::rate::{Rate, RateError};
use crate::traffic::{Traffic, TrafficError, TrafficSpec};

/// Flags that cannot be kept together, or one that another makes necessary.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A flag is missing.
    #[error("{flag} is needed {why}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// What makes it necessary.
        why: &'static str,
    },
    /// A flag says what cannot be done.
    #[error("{flag}: {why}")]
    Impossible {
        /// The flag.
        flag: &'static str,
        /// Why not.
        why: String,
    },
}

/// How frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TxEngine {
    /// AF_XDP socket on the device; no XDP program is attached to it.
    Xdp,
    /// XDP live frames (BPF_F_TEST_XDP_LIVE_FRAMES): loads beyond AF_XDP; IPv4 UDP of one size, no UDP checksum.
    Live,
    /// The kernel's own UDP sockets and sendmmsg.
    Socket,
}

/// How frames are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RxEngine {
    /// AF_XDP sockets on the device: while it runs, an XDP program takes all its IP unicast; ARP stays.
    Xdp,
    /// The kernel's own UDP socket and recvmmsg; nothing is attached anywhere.
    Socket,
}

/// An engine for both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// AF_XDP at both ends.
    Xdp,
    /// XDP live frames for sending, AF_XDP for receiving.
    Live,
    /// UDP sockets at both ends.
    Socket,
}

/// How an AF_XDP socket is attached to its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// Native where the driver has it, else generic; copy mode.
    Auto,
    /// In the driver.
    Native,
    /// In the network stack: any device, slower.
    Generic,
}

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
    /// Streams to number packets in: each has its own loss, order and latency [default: flows, at most 64]
    #[arg(long, value_name = "N")]
    pub streams: Option<usize>,
    /// Protocols by weight: udp, tcp, icmp, or udp=70,tcp=20,icmp=10
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
            streams: self.streams.unwrap_or_else(|| self.flows.min(64)),
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

    /// The flows from the given source addresses.
    ///
    /// # Errors
    /// [`OptionsError`] naming the flag that cannot be kept.
    pub fn draw(&self, source: AddressRange) -> Result<Vec<Flow>, OptionsError> {
        draw(self.flows, (source, self.src_port), (self.dst_ip, self.dst_port)).map_err(|error| {
            let flag =
                if matches!(error, FlowError::Families(..)) { "--src-ip and --dst-ip" } else { "--flows" };
            OptionsError::Impossible { flag, why: error.to_string() }
        })
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

/// How much is sent, how fast and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadOptions {
    /// Rate: max, 100kpps, 1.5Mpps, 250Mbps (whole frames with FCS), 50% of --link-speed (gaps counted too)
    #[arg(long, value_name = "RATE", default_value = "10kpps")]
    pub rate: Rate,
    /// Speed of the link that a rate in percent is taken of: 10Gbps
    #[arg(long, value_name = "RATE")]
    pub link_speed: Option<LinkSpeed>,
    /// How long to send: 10s, 500ms, 2m [default: 10s without --count]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// How many packets to send
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Send this long first without measuring
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub warmup: Duration,
}

impl LoadOptions {
    /// How long to send: as asked, or ten seconds where no count is given either.
    pub fn limit(&self) -> Option<Duration> {
        self.duration.or_else(|| self.count.is_none().then_some(Duration::from_secs(10)))
    }

    /// The rate in packets a second for frames of that mean length; `None` is unlimited.
    ///
    /// # Errors
    /// [`OptionsError`] where a percentage has no link speed, or the rate is too small.
    pub fn packets_per_second(&self, mean_frame: f64) -> Result<Option<f64>, OptionsError> {
        self.rate
            .packets_per_second(mean_frame, self.link_speed.map(|speed| speed.0))
            .map_err(OptionsError::from)
    }
}

impl From<RateError> for OptionsError {
    fn from(error: RateError) -> Self {
        match error {
            RateError::NoLinkSpeed => {
                OptionsError::Missing { flag: "--link-speed", why: "where --rate is in percent" }
            }
            error => OptionsError::Impossible { flag: "--rate", why: error.to_string() },
        }
    }
}

/// Bits a second of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpeed(pub f64);

impl FromStr for LinkSpeed {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        match text.parse()? {
            Rate::Bits(speed) => Ok(LinkSpeed(speed)),
            _ => Err(RateError::Form(text.to_owned())),
        }
    }
}

/// The sending end.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sender")]
pub struct TxOptions {
    /// How to send [default: xdp]
    #[arg(long, value_name = "ENGINE")]
    pub tx_engine: Option<TxEngine>,
    /// Device to send on (xdp, live)
    #[arg(long, value_name = "NAME")]
    pub tx_device: Option<String>,
    /// Network namespace of the sender: a name under /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    pub tx_netns: Option<String>,
    /// Queue of the device (xdp)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub tx_queue: u32,
    /// Core of the sending thread, or none [default: the last, with four cores or more]
    #[arg(long, value_name = "N|none")]
    pub tx_core: Option<Core>,
}

/// The receiving end.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Receiver")]
pub struct RxOptions {
    /// How to receive [default: xdp]
    #[arg(long, value_name = "ENGINE")]
    pub rx_engine: Option<RxEngine>,
    /// Device to receive on (xdp): all its queues
    #[arg(long, value_name = "NAME")]
    pub rx_device: Option<String>,
    /// Network namespace of the receiver: a name under /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    pub rx_netns: Option<String>,
    /// How to attach to the device (xdp)
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub rx_mode: XdpMode,
    /// Local port or range to receive on (socket) [run: --dst-port]
    #[arg(long, value_name = "PORT[-PORT]")]
    pub rx_port: Option<PortRange>,
    /// Core of the receiving thread, or none [default: the last but one, with four cores or more]
    #[arg(long, value_name = "N|none")]
    pub rx_core: Option<Core>,
    /// Do not verify checksums of received packets (xdp)
    #[arg(long)]
    pub no_verify: bool,
    /// UDP port by which VXLAN is known and looked into (xdp)
    #[arg(long, value_name = "PORT", default_value_t = VXLAN_PORT)]
    pub vxlan_port: u16,
}

/// A core to pin a thread to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// Not pinned.
    Any,
    /// Pinned to the core of that number.
    Number(usize),
}

impl FromStr for Core {
    type Err = CoreError;

    fn from_str(text: &str) -> Result<Self, CoreError> {
        match text {
            "none" => Ok(Core::Any),
            _ => text.parse().map(Core::Number).map_err(|_| CoreError(text.to_owned())),
        }
    }
}

/// Not a core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a core: write its number, or none")]
pub struct CoreError(String);

/// What is told, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Form of the report on standard output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
    /// A line a second on standard error while it runs [default: where that is a terminal]
    #[arg(long)]
    pub progress: bool,
    /// Exit with 3 where more than this share of the packets is lost
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub max_loss: Option<f64>,
}

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// One JSON object.
    Json,
    /// A header line, one line a stream, one line for all.
    Csv,
}

/// Options of `pktgen send`.
#[derive(Debug, Clone, Args)]
pub struct SendOptions {
    /// What to send.
    #[command(flatten)]
    pub traffic: TrafficOptions,
    /// How much.
    #[command(flatten)]
    pub load: LoadOptions,
    /// From where.
    #[command(flatten)]
    pub tx: TxOptions,
    /// What to tell.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Options of `pktgen receive`.
#[derive(Debug, Clone, Args)]
pub struct ReceiveOptions {
    /// Where.
    #[command(flatten)]
    pub rx: RxOptions,
    /// How long to receive [default: until interrupted, or as --idle and --count say]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Stop after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop when nothing has come for so long after the first packet
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub idle: Option<Duration>,
    /// Number of the run to measure [default: the first that is seen]
    #[arg(long, value_name = "N")]
    pub run_id: Option<u16>,
    /// What to tell.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Options of `pktgen run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// How to send and receive, where --tx-engine or --rx-engine does not say otherwise [default: xdp]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// What to send.
    #[command(flatten)]
    pub traffic: TrafficOptions,
    /// How much.
    #[command(flatten)]
    pub load: LoadOptions,
    /// How long to wait for what is still on its way; ends early when everything has come
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub drain: Duration,
    /// From where.
    #[command(flatten)]
    pub tx: TxOptions,
    /// To where.
    #[command(flatten)]
    pub rx: RxOptions,
    /// What to tell.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Options of `pktgen replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayOptions {
    /// Capture to send (pcap, Ethernet)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Rate instead of the capture's own timing; max is as fast as possible
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// Speed of the link that a rate in percent is taken of: 10Gbps
    #[arg(long, value_name = "RATE")]
    pub link_speed: Option<LinkSpeed>,
    /// How often to send the capture; 0 is until interrupted
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub loops: u64,
    /// Source MAC address to write into every frame
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<MacAddr>,
    /// Destination MAC address to write into every frame
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<MacAddr>,
    /// From where.
    #[command(flatten)]
    pub tx: TxOptions,
    /// What to tell.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Options of `pktgen build`.
#[derive(Debug, Clone, Args)]
pub struct BuildOptions {
    /// Capture to write (pcap, nanoseconds, Ethernet)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to write.
    #[command(flatten)]
    pub traffic: TrafficOptions,
    /// How many packets
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Rate by which the packets' times are set, beginning at 0
    #[arg(long, value_name = "RATE", default_value = "10kpps")]
    pub rate: Rate,
    /// Speed of the link that a rate in percent is taken of: 10Gbps
    #[arg(long, value_name = "RATE")]
    pub link_speed: Option<LinkSpeed>,
}

/// A time that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time: write 10s, 500ms, 250us or 2m, up to 30 days")]
pub struct DurationError(String);

/// Reads a time: a number with `us`, `ms`, `s`, `m` or `h`; a bare number is seconds. Up to 30 days.
///
/// # Errors
/// [`DurationError`] for anything else.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let bad = || DurationError(text.to_owned());
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(bad()),
    };
    if seconds > 30.0 * 86_400.0 {
        Err(bad())
    } else {
        Duration::try_from_secs_f64(seconds).map_err(|_| bad())
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is not a share: write a number of percent from 0 to 100")),
    }
}

impl fmt::Display for TxEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TxEngine::Xdp => "xdp",
            TxEngine::Live => "live",
            TxEngine::Socket => "socket",
        })
    }
}

impl fmt::Display for RxEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RxEngine::Xdp => "xdp",
            RxEngine::Socket => "socket",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let rows = [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("3", 3000), ("1.5s", 1500), ("0s", 0)];
        for (text, milliseconds) in rows {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1 s", "1d", "99999999h", "NaN", "1.2.3s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

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
