//! penstockd: carries packets by tables. The privileged process; see `dataplane::control`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dataplane::control::config::Config;
use dataplane::control::daemon;
use dataplane::simulate::{self, SimulateArguments};
use tracing_subscriber::EnvFilter;

/// Carries packets between pods, nodes and the world by the tables that it is given over gRPC.
#[derive(Debug, Parser)]
#[command(name = "penstockd", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    /// The configuration, TOML.
    #[arg(short, long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Check the configuration, and that its CPUs and devices are there; change nothing.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a capture through the pipeline, offline and without root (see `penstockctl simulate`).
    Simulate(SimulateArguments),
}

const EXIT_CODES: &str = "\
Signals:
  SIGTERM, SIGINT  stop: workers end, devices become what they were, the socket is removed

Exit codes:
  0  stopped by a signal; with --check: the configuration can be used
  1  it could not start, or failed while it ran
  2  wrong arguments, or a configuration that cannot be used

The log goes to standard error; RUST_LOG says how much of it (default: info).";

const FAILED: u8 = 1;
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    match (cli.command, cli.config) {
        (Some(Command::Simulate(arguments)), _) => simulate(&arguments),
        (None, Some(path)) => run(&path, cli.check),
        // clap does not let this pass.
        (None, None) => ExitCode::from(UNUSABLE),
    }
}

fn run(path: &std::path::Path, check: bool) -> ExitCode {
    let checked = Config::load(path).and_then(|config| config.check_machine().map(|()| config));
    let config = match checked {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(UNUSABLE);
        }
    };
    if check {
        return ExitCode::SUCCESS;
    }
    // Packets are the workers': two threads are plenty for gRPC and the kernel's news.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let served =
        runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(daemon::serve(config)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn simulate(arguments: &SimulateArguments) -> ExitCode {
    match simulate::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}
