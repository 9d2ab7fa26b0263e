//! `penstock-agent`: reads Kubernetes objects from a folder and keeps a penstockd running them. Needs no privilege but
//! the right to connect to penstockd's socket.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agent_api::address::{Address, DEFAULT_SOCKET};
use agent_api::client::ClientError;
use agent_api::tools::agent::{self, AgentError, AgentOptions};
use clap::Parser;
use policy_compiler::objects::{DEFAULT_VNI, IntentOptions};
use tokio::signal::unix::{SignalKind, signal};

/// Keeps a penstockd running what a folder of Kubernetes manifests says.
///
/// Reads every *.yaml, *.yml and *.json of the folder and its folders, applies them as one transaction, and again
/// within 50 ms of every change. A bad manifest is said with file, object and field, and what is running goes on. A
/// penstockd that was restarted is brought up to date.
#[derive(Debug, Parser)]
#[command(name = "penstock-agent", version, after_help = EXIT_CODES)]
struct Cli {
    /// The folder of manifests.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Name of this node's Node object.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: String,
    /// Where penstockd is: a path, unix:///path, or http:// with a loopback address.
    #[arg(long, visible_alias = "dataplane", value_name = "ADDRESS", env = "PENSTOCK_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: Address,
    /// VXLAN network identifier of the pod network.
    #[arg(long, default_value_t = DEFAULT_VNI, value_parser = clap::value_parser!(u32).range(..1 << 24))]
    vni: u32,
    /// The API server's --service-cluster-ip-range: an address in it that is no Service is unreachable. May be repeated.
    #[arg(long = "service-range", value_name = "CIDR")]
    service_ranges: Vec<ipnet::IpNet>,
    /// Apply once and end.
    #[arg(long)]
    once: bool,
    /// With --once: how long to try to connect.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "once")]
    wait: u64,
    /// Write how the agent stands to this file, as JSON: node, applied, in_sync, problem.
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  ended by SIGTERM or SIGINT; with --once: applied
  1  with --once: bad manifests, or refused by penstockd
  2  wrong arguments, or the folder is not there at the start
  3  with --once: penstockd is not reachable

The environment variable RUST_LOG chooses what is logged (info by default).";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    if let Err(error) = std::fs::metadata(&cli.manifests) {
        tracing::error!("--manifests {}: {error}", cli.manifests.display());
        return ExitCode::from(2);
    }
    let options = AgentOptions {
        manifests: cli.manifests,
        node: cli.node,
        address: cli.socket,
        intent: IntentOptions { vni: cli.vni, service_ranges: cli.service_ranges },
        status_file: cli.status_file,
    };
    if cli.once {
        return match agent::once(&options, Duration::from_secs(cli.wait)).await {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::from(code(&error))
            }
        };
    }
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!("signal handlers: {error}");
                return ExitCode::FAILURE;
            }
        };
    tracing::info!(node = options.node, dataplane = %options.address, folder = %options.manifests.display(), "watching");
    agent::run(options, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await;
    ExitCode::SUCCESS
}

fn code(error: &AgentError) -> u8 {
    match error {
        AgentError::Client(ClientError::Unreachable { .. }) => 3,
        AgentError::Client(ClientError::Address(_)) => 2,
        _ => 1,
    }
}
