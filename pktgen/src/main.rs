//! `pktgen`: the command line of the packet generator and measuring instrument.
//!
//! ```text
//!   profile ─┐
//!   arguments ─► options, check ─► run | send | receive | replay | build            ─► report on standard output
//!       │                          rfc2544 | search | certify | compare             ─► and in files
//!       └─ exit 2, the flag named      └─ progress on standard error, exit 1        └─ exit 0, 3 or 130
//! ```
//!
//! Everything that is done is in the library; here are the commands, the signals and the exit codes. SIGINT or
//! SIGTERM ends a measurement early, with a report of what was done until then; a second one ends the process.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use pktgen::commands::{self, Asked, Ended};
use pktgen::drive::Shared;
use pktgen::options::{
    BenchOutput, BuildOptions, CertifyOptions, CompareOptions, OutputOptions, ReceiveOptions, ReplayOptions,
    Rfc2544Options, RunOptions, SearchOptions, SendOptions,
};
use pktgen::report::Report;
use pktgen::run::Failure;
use pktgen::{capture, compare, profile, run};
use tracing_subscriber::EnvFilter;

/// An end or a file failed, the report could not be written, or its sums do not hold.
const FAILED: u8 = 1;
/// An argument or a profile is wrong, or two reports cannot be compared.
const WRONG: u8 = 2;
/// More was lost than `--max-loss` allows.
const TOO_MUCH_LOSS: u8 = 3;
/// As shells say of a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Where `certify` writes its report, if it is not told.
const CERTIFIED: &str = "pktgen-certify";

/// Generates packets and measures what becomes of them: rate, loss, duplicates, reordering, latency.
///
/// Every packet carries a run, a stream, a sequence number and its send time; the receiver needs nothing else.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Both ends in one process: what is sent is measured where it arrives, losses are exact
    Run(Box<RunOptions>),
    /// The sending end alone
    Send(Box<SendOptions>),
    /// The receiving end alone: what was sent is inferred from the sequence numbers
    Receive(Box<ReceiveOptions>),
    /// Send a capture, by its own times or at a rate
    Replay(Box<ReplayOptions>),
    /// Write what would be sent to a capture; needs neither root nor a device
    Build(Box<BuildOptions>),
    /// Throughput, latency, frame loss rate and back-to-back frames, as RFC 2544 has them
    Rfc2544(Box<Rfc2544Options>),
    /// NDR, PDR and other goals by multiple loss ratio search (MLRsearch, RFC 9971)
    Search(Box<SearchOptions>),
    /// All of it against a running node, for one report to be handed on
    Certify(Box<CertifyOptions>),
    /// What differs between two reports beyond noise
    Compare(CompareOptions),
}

const AFTER_HELP: &str = "\
Examples (pods are network namespaces with `eth0`; 10.96.0.10:80 is a Service, whose backends listen on 8080):
  Pod to Service to pod, whole frames by AF_XDP, received by the kernel's UDP; no XDP program in any pod:
    pktgen run --tx-netns POD-A --tx-device eth0 --dst-ip 10.96.0.10 --dst-port 80 \\
               --rx-netns POD-B --rx-engine socket --rx-port 8080 --flows 64 --rate 50kpps --duration 10s -o json
  The same by two processes, each inside its pod; the receiver first, which says on standard error when it is ready:
    ip netns exec POD-B pktgen receive --rx-engine socket --rx-port 8080 --idle 2s --duration 60s -o json
    ip netns exec POD-A pktgen send --tx-device eth0 --dst-ip 10.96.0.10 --dst-port 80 --flows 64 \\
               --rate 50kpps --duration 10s -o json
  More than AF_XDP can send on a veth, by XDP live frames (the other end of eth0 is a Penstock port):
    pktgen run --tx-engine live --tx-netns POD-A --tx-device eth0 --dst-ip 10.96.0.10 --dst-port 80 \\
               --rx-netns POD-B --rx-engine socket --rx-port 8080 --flows 1000 --rate max --duration 10s
  A device under test between two devices, AF_XDP at both:
    pktgen run --tx-device p0 --rx-device p1 --src-ip 198.51.100.1 --dst-ip 198.51.100.2 \\
               --dst-mac 02:00:00:00:00:02 --size imix --protocol udp=70,tcp=20,icmp=10 --rate 1Mpps --max-loss 0
  A capture made without a device, and sent:
    pktgen build mix.pcap --src-ip 10.0.0.1 --dst-ip 10.0.0.2 --flows 100 --size imix --count 100000
    pktgen replay mix.pcap --tx-device p0 --dst-mac 02:00:00:00:00:02 --rate 200kpps --loops 10
  NDR and PDR of what is between two pods, for imix over a thousand flows, a few of them far more popular:
    pktgen search --tx-netns POD-A --tx-device eth0 --rx-netns POD-B --rx-device eth0 --dst-ip 10.96.0.10 \\
               --size imix --flows 1000 --popularity zipf=1.1 --repeats 5 --report before/
  The same from a profile, and whether it has become worse:
    pktgen search --profile examples/pktgen/search.toml --tx-netns POD-A --rx-netns POD-B --report after/
    pktgen compare before/report.json after/report.json
  The whole set, in one file to be handed on (after/report.html):
    pktgen certify --profile examples/pktgen/certify.toml --node \"penstockd on eth0\" --report after/

Both ends must be on one machine for latencies to mean something (CLOCK_MONOTONIC).
RUST_LOG=info says on standard error how devices are attached.

Exit codes:
  0    done; for `receive` also when a signal ended it; for `compare` nothing is worse beyond noise
  1    an end or a file failed, or the report's sums do not hold; for `compare` something is worse
  2    an argument or a profile's key is wrong, or two cannot be kept together: it is named, nothing was sent; for
       `compare` the reports cannot be read or compared
  3    more was lost than --max-loss allows; where nothing came, all is lost
  130  a signal ended it early; the report says what was done until then";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let expanded = match profile::expand(&Cli::command(), words.clone()) {
        Ok(expanded) => expanded,
        Err(error) => {
            eprintln!("pktgen: {error}");
            return ExitCode::from(WRONG);
        }
    };
    let matches = Cli::command().get_matches_from(expanded);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let shared = Arc::new(Shared::default());
    if let Err(error) = stop_on_signals(&shared) {
        eprintln!("pktgen: waiting for signals: {error}");
        return ExitCode::from(FAILED);
    }
    let code = done(cli.command, asked(&words, &matches), &shared);
    ExitCode::from(code.unwrap_or_else(|failure| {
        eprintln!("pktgen: {failure}");
        failure.exit_code()
    }))
}

/// Does the command, tells its report, and says with which code to end.
fn done(command: Command, asked: Asked, shared: &Arc<Shared>) -> Result<u8, Failure> {
    match command {
        Command::Run(mut options) => {
            watched(&mut options.output.progress);
            run::run(&options, shared).map(|report| told(&report, &options.output))
        }
        Command::Send(mut options) => {
            watched(&mut options.output.progress);
            run::send(&options, shared).map(|report| told(&report, &options.output))
        }
        Command::Receive(mut options) => {
            watched(&mut options.output.progress);
            run::receive(&options, shared).map(|report| match told(&report, &options.output) {
                INTERRUPTED => 0, // how it usually ends
                code => code,
            })
        }
        Command::Replay(mut options) => {
            watched(&mut options.output.progress);
            capture::replay(&options, shared).map(|report| told(&report, &options.output))
        }
        Command::Build(options) => capture::build(&options).map(|packets| {
            eprintln!("{packets} packets in {}", options.file.display());
            0
        }),
        Command::Rfc2544(mut options) => {
            watched(&mut options.bench.output.progress);
            told_all(commands::rfc2544(&options, asked, shared)?, &options.bench.output)
        }
        Command::Search(mut options) => {
            watched(&mut options.bench.output.progress);
            told_all(commands::search(&options, asked, shared)?, &options.bench.output)
        }
        Command::Certify(mut options) => {
            watched(&mut options.bench.output.progress);
            let directory = options.bench.output.report.get_or_insert_with(|| CERTIFIED.into()).clone();
            let code = told_all(commands::certify(&options, asked, shared)?, &options.bench.output)?;
            eprintln!("{}", directory.join("report.html").display());
            Ok(code)
        }
        Command::Compare(options) => Ok(compared(&options)),
    }
}

/// What the reports of many trials say of how they came about.
fn asked(words: &[OsString], matches: &ArgMatches) -> Asked {
    let program = Cli::command();
    let settings = matches
        .subcommand()
        .and_then(|(name, matches)| Some(profile::settings(program.find_subcommand(name)?, matches)));
    let words = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Asked { words, settings: settings.unwrap_or_default() }
}

/// Writes the report of many trials, with its files where they are asked for.
fn told_all(ended: Ended, output: &BenchOutput) -> Result<u8, Failure> {
    let Ended { report, failure } = ended;
    let told = written(&mut io::stdout().lock(), |out| report.write(output.output, out));
    if let Some(directory) = &output.report {
        report.write_all(Path::new(directory))?;
    }
    failure.map_or(Ok(if told { 0 } else { FAILED }), Err)
}

fn compared(options: &CompareOptions) -> u8 {
    let comparison = match compare::run(options) {
        Ok(comparison) => comparison,
        Err(error) => {
            eprintln!("pktgen: {error}");
            return WRONG;
        }
    };
    let text = comparison.to_text(options.output).map_err(io::Error::from);
    let told = written(&mut io::stdout().lock(), |out| out.write_all(text?.as_bytes()));
    if told { comparison.exit_code() } else { WRONG }
}

/// Progress is shown to whoever sits at the terminal, without being asked for.
fn watched(progress: &mut bool) {
    *progress |= io::stderr().is_terminal();
}

/// Writes the report, and says with which code to end.
fn told(report: &Report, output: &OutputOptions) -> u8 {
    if !written(&mut io::stdout().lock(), |out| report.write(output.output, out)) {
        return FAILED;
    }
    if report.conservation.as_ref().is_some_and(|conservation| !conservation.holds) {
        return FAILED;
    }
    match output.max_loss {
        Some(most) if report.lost_percent() > most => TOO_MUCH_LOSS,
        _ if report.interrupted => INTERRUPTED,
        _ => 0,
    }
}

/// Whether the report could be written.
fn written<W: Write>(out: &mut W, write: impl FnOnce(&mut W) -> io::Result<()>) -> bool {
    match write(out).and_then(|()| out.flush()) {
        Ok(()) => true,
        // Whoever asked for the report has gone; what was measured is no less so.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => true,
        Err(error) => {
            eprintln!("pktgen: writing the report: {error}");
            false
        }
    }
}

/// Waits for SIGINT and SIGTERM on a thread of their own: the first ends the measurement, the second the process.
/// To be called before any other thread is started, since threads inherit what is blocked.
fn stop_on_signals(shared: &Arc<Shared>) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let shared = Arc::clone(shared);
    thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            if shared.is_interrupted() {
                std::process::exit(INTERRUPTED.into());
            }
            shared.interrupt();
        }
    })?;
    Ok(())
}
