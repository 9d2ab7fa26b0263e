//! What can be asked for: the options of every command, with their limits and what may not stand together.
//!
//! A value that cannot be understood is refused by clap with the flag's name; what two flags make impossible
//! together is an [`OptionsError`] that names both. Either way nothing has been opened yet, and the exit code is 2.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::flow::{MacAddr, PortRange};
use crate::packet::VXLAN_PORT;
use crate::rate::{Rate, RateError};

mod bench;
mod traffic;
mod value;

pub use bench::{
    BenchOptions, BenchOutput, CertifyOptions, CompareOptions, Rfc2544Options, SearchOptions, Test, Trials,
};
pub use traffic::{TrafficOptions, VxlanError, VxlanOption};
pub use value::{Core, CoreError, DurationError, LinkSpeed, duration, percent, share};

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
    /// How far the sender may fall behind its rate and catch up by a burst; what is older is given up
    /// [default: 2ms; live 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub catch_up: Option<Duration>,
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
    /// Profile to take options from (TOML); what is given on the command line goes first
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
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
    /// Profile to take options from (TOML); what is given on the command line goes first
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
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
    /// Profile to take options from (TOML); what is given on the command line goes first
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
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
    /// Measure the instrument's own latency first, in memory and over a bare veth pair, and report it beside
    #[arg(long, help_heading = "Output")]
    pub floor: bool,
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
