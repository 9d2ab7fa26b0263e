//! `penstockd simulate`: a capture through the very pipeline, packet by packet, offline and without privileges.
//!
//! ```text
//!   intent ─► tables ─► snapshot (every port attached, every neighbour known)
//!                          │
//!   capture ─► ingress ─► Worker<MemoryPort>, a turn a packet ─► DIR/<port>.pcap      what leaves
//!                                              └──────────────► standard output       what happened, and why
//! ```
//!
//! * [`topology`]: the ports and MAC addresses of the simulated node; by which port a packet comes in.
//! * [`stage`]: the worker, and what one packet did to it.   * [`report`]: lines, table, summary.
//!
//! Time is the capture's; where that steps back, it stands still. Secrets of hashes are constants: two runs are the same.
//! It is not for: the kernel's part (ARP of neighbours, routes), several workers, speed.

pub mod report;
pub mod stage;
pub mod topology;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use afxdp_driver::pcap::{ETHERNET, PcapError, PcapReader, PcapWriter};
use clap::{Args, ValueEnum};
use policy_compiler::intent::Intent;

pub use stage::{Simulation, StageError, Step, Totals};
pub use topology::{IngressRule, Topology};

/// Exit codes, and what else a user should know.
const AFTER_HELP: &str = "\
Ports are those of the node's pods (NAMESPACE/NAME), `uplink` and `host`. A packet comes in by the port that its source
address belongs to: a pod's, the host's, else the uplink, which takes VXLAN, too. What leaves a port is written to
DIR/NAMESPACE_NAME.pcap, DIR/uplink.pcap and DIR/host.pcap.

MAC addresses: port number N (pods first, then uplink, host) has 02:50:53:01:N:N, what is behind it 02:50:53:02:N:N; node
number N 02:50:53:03:N:N; the next hop to everything else 02:50:53:04:00:00.

Exit codes:
  0  the capture was run to its end
  1  it could not be read to its end, or something could not be written
  2  wrong arguments, or a file that they name cannot be used";

/// Options of `penstockd simulate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SimulateArguments {
    /// The state of the node, JSON (`penstockctl simulate` makes it from manifests).
    #[arg(long, value_name = "FILE")]
    pub intent: PathBuf,
    /// The capture (classic pcap, Ethernet).
    #[arg(long, value_name = "FILE")]
    pub pcap: PathBuf,
    /// Folder for the packets that leave each port; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The port by which packets come in, or only those from some addresses; the first that fits counts.
    #[arg(long = "ingress-port", value_name = "[CIDR=]PORT")]
    pub ingress_ports: Vec<IngressRule>,
    /// Leave destination MAC addresses as they are. Otherwise they become the port's, unless they are of a group.
    #[arg(long)]
    pub strict_mac: bool,
    /// Largest IP packet of every port.
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(576..=1700))]
    pub mtu: u16,
    /// What standard output is: a table, or a JSON object a packet and line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What standard output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// A JSON object a packet, one a line.
    Json,
}

/// Why a simulation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A file that the arguments name cannot be used.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The intent or the ports that the arguments name are not right.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The capture breaks off.
    #[error("{}: {source}", path.display())]
    Capture {
        /// The capture.
        path: PathBuf,
        /// Where and why.
        source: PcapError,
    },
    /// A result could not be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file, or standard output.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SimulateError {
    /// What the process ends with; see the help.
    pub fn exit_code(&self) -> u8 {
        match self {
            SimulateError::Unusable { .. } => 2,
            SimulateError::Stage(error) if !error.is_ours() => 2,
            SimulateError::Stage(_) | SimulateError::Capture { .. } | SimulateError::Write { .. } => 1,
        }
    }
}

/// Runs a capture. Lines go to standard output, the summary to standard error.
///
/// # Errors
/// [`SimulateError`]; what was written until then stays.
pub fn run(arguments: &SimulateArguments) -> Result<(), SimulateError> {
    let stdout = io::stdout().lock();
    let totals = run_to(arguments, &mut BufWriter::new(stdout))?;
    report::summary(&mut io::stderr().lock(), &totals).map_err(|source| written("standard error", source))
}

/// As [`run`], with the lines to `lines`.
///
/// # Errors
/// As [`run`].
pub fn run_to(arguments: &SimulateArguments, lines: &mut impl Write) -> Result<Totals, SimulateError> {
    // 1. Everything is looked at before anything is written.
    let intent = read_intent(&arguments.intent)?;
    let capture = open_capture(&arguments.pcap)?;
    let topology = Topology::new(&intent, arguments.mtu)?;
    let ingress = topology.ingress(&arguments.ingress_ports)?;
    let mut simulation = Simulation::new(topology, ingress, arguments.strict_mac)?;
    // 2. A file a port, whether anything leaves by it or not: a run leaves nothing of one before it.
    std::fs::create_dir_all(&arguments.out).map_err(|error| unusable(&arguments.out, error))?;
    let mut sinks = simulation
        .topology()
        .ports()
        .iter()
        .map(|port| Sink::create(arguments.out.join(port.file())))
        .collect::<Result<Vec<_>, _>>()?;
    // 3. Packet by packet.
    let said = |result: io::Result<()>| result.map_err(|source| written("standard output", source));
    if arguments.output == Output::Table {
        said(report::head(lines))?;
    }
    for record in capture {
        let record =
            record.map_err(|source| SimulateError::Capture { path: arguments.pcap.clone(), source })?;
        let step = simulation.pass(record.time_ns, &record.data);
        said(match arguments.output {
            Output::Table => report::row(lines, &step),
            Output::Json => report::json(lines, &step),
        })?;
        for (port, packet) in &step.sent {
            if let Some(sink) = sinks.get_mut(*port as usize) {
                sink.write(record.time_ns, packet)?;
            }
        }
    }
    // 4. Nothing may be missing.
    for sink in sinks {
        sink.finish()?;
    }
    said(lines.flush())?;
    Ok(simulation.finish()?)
}

fn read_intent(path: &Path) -> Result<Intent, SimulateError> {
    let file = File::open(path).map_err(|error| unusable(path, error))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| unusable(path, error))
}

fn open_capture(path: &Path) -> Result<PcapReader<BufReader<File>>, SimulateError> {
    let file = File::open(path).map_err(|error| unusable(path, error))?;
    let reader = PcapReader::new(BufReader::new(file)).map_err(|error| unusable(path, error))?;
    match reader.link_type() {
        ETHERNET => Ok(reader),
        other => Err(unusable(path, PcapError::LinkType(other))),
    }
}

fn unusable(path: &Path, problem: impl ToString) -> SimulateError {
    SimulateError::Unusable { path: path.to_owned(), problem: problem.to_string() }
}

fn written(path: impl Into<PathBuf>, source: io::Error) -> SimulateError {
    SimulateError::Write { path: path.into(), source }
}

/// The packets that leave one port.
struct Sink {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

impl Sink {
    fn create(path: PathBuf) -> Result<Self, SimulateError> {
        let file = File::create(&path).map_err(|error| unusable(&path, error))?;
        match PcapWriter::new(BufWriter::new(file)) {
            Ok(writer) => Ok(Sink { path, writer }),
            Err(error) => Err(written(path, io::Error::other(error))),
        }
    }

    fn write(&mut self, time_ns: u64, packet: &[u8]) -> Result<(), SimulateError> {
        let result = self.writer.write(time_ns, packet);
        result.map_err(|error| written(&self.path, io::Error::other(error)))
    }

    fn finish(self) -> Result<(), SimulateError> {
        self.writer.finish().map(drop).map_err(|error| written(self.path, io::Error::other(error)))
    }
}
