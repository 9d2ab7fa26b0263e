//! What `make demo` shows: two nodes, pods, policy, a Service and the overlay, on real packets, from nothing to nothing.
//!
//! ```text
//!   setup ─► pods ─► network ─► services ─► policy ─► ports ─► load ─► ending
//!      namespaces, daemons,        the kernel's own TCP and UDP        pktgen  books, SIGTERM,
//!      agents, ports                                                           nothing is left
//! ```
//!
//! Every chapter enters what it has seen into [`Checks`]: one line a check. The exit code is 0 only where each held.
//! What it was is written to `target/demo/report.json`. SIGINT and SIGTERM remove everything (see [`interrupt`]); what
//! a `kill -9` leaves, the next run removes first.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::cluster::{Cluster, Node};
use crate::daemon::checkout;
use crate::stage::Stage;
use crate::{interrupt, lab, netns};

pub mod checks;
pub mod load;
pub mod network;
pub mod pods;
pub mod policy;
pub mod ports;
pub mod services;

pub use checks::Checks;

/// What tells the demo's namespaces from those of tests.
const TAG: &str = "demo";

/// Options of `demo`.
#[derive(Debug, Parser)]
#[command(
    name = "demo",
    about = "Two nodes, pods, policy, a Service and the overlay on real packets; needs root"
)]
pub struct Options {
    /// How long each load lasts, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Where to write the report [default: target/demo/report.json of the checkout]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Runs the demo. Exit codes: 0 each check held, 1 one did not, 2 wrong arguments, 130 or 143 after a signal.
pub fn main() -> ExitCode {
    let options = Options::parse();
    let begin = Instant::now();
    let mut checks = Checks::aloud();
    let mut traffic = serde_json::Value::Null;
    if let Err(error) = interrupt::watch(TAG).and_then(|()| play(&options, &mut checks, &mut traffic)) {
        interrupt::point();
        checks.failed("the demo goes on to its end", &error);
    }
    interrupt::point();
    let path = options.report.unwrap_or_else(|| checkout().join("target/demo/report.json"));
    let written = checks.write(&path, &traffic);
    if let Err(error) = &written {
        crate::say(&format!("the report could not be written: {error:#}"));
    }
    let (held, all) = checks.count();
    let seconds = begin.elapsed().as_secs_f64();
    let path = path.canonicalize().unwrap_or(path);
    crate::say(&format!("\n{held} of {all} checks held in {seconds:.0} s; {}", path.display()));
    ExitCode::from(u8::from(held != all || written.is_err()))
}

fn play(options: &Options, checks: &mut Checks, traffic: &mut serde_json::Value) -> Result<()> {
    let mut stage = setup(checks)?;
    pods::show(&stage, checks);
    network::show(&stage, checks);
    services::show(&stage, checks);
    policy::show(&mut stage, checks);
    ports::show(&stage, checks);
    *traffic = load::show(&stage, checks, options.seconds);
    ending(stage, checks);
    Ok(())
}

/// From nothing to a cluster whose pods have their ports.
fn setup(checks: &mut Checks) -> Result<Stage> {
    let mut cluster = Cluster::make(TAG, false)?;
    checks.check("two nodes, three pods, a plain host", || {
        Ok("namespaces penstock-demo-…, an underlay switch between the nodes".to_owned())
    });
    let begin = Instant::now();
    cluster.start_daemons()?;
    let up = begin.elapsed();
    checks.check("penstockd runs on both nodes", || {
        Ok(format!("CPUs {} and {}, up in {} ms", cluster.node_a.core, cluster.node_b.core, up.as_millis()))
    });
    cluster.start_agents()?;
    checks.check("the agents' first generation is on every worker", || {
        Ok(format!("{}; {}", running(&cluster.node_a)?, running(&cluster.node_b)?))
    });
    let said = cluster.node_a.agent().map(|agent| agent.tail(200)).unwrap_or_default();
    checks.check("a kind that is not used is named in a warning", || {
        let warning = said.lines().find(|line| line.contains("WARN") && line.contains("ConfigMap"));
        let words = warning.context("no warning names the ConfigMap")?;
        Ok(words.split_once("WARN").map_or(words, |(_, words)| words).trim().to_owned())
    });
    let stage = Stage::set(cluster)?;
    let cluster = &stage.cluster;
    checks.check("nothing passes before there are ports", || ports::nothing_passes(cluster));
    cluster.add_ports()?;
    checks.check("ports are added at run time", || {
        let mut ports = cluster.node_a.ports()?;
        ports.extend(cluster.node_b.ports()?);
        ensure!(ports.len() == 5, "{} ports, not two uplinks and three pods'", ports.len());
        Ok(ports.iter().map(|port| format!("{} ({})", port.device, port.mode)).collect::<Vec<_>>().join(", "))
    });
    Ok(stage)
}

/// From there to nothing again.
fn ending(mut stage: Stage, checks: &mut Checks) {
    checks.check("SIGTERM ends penstockd and agent with exit code 0", || {
        let cluster = &mut stage.cluster;
        cluster.node_a.stop()?;
        cluster.node_b.stop()?;
        let sockets = [cluster.node_a.socket(), cluster.node_b.socket()];
        ensure!(sockets.iter().all(|socket| !socket.exists()), "a socket is left: {sockets:?}");
        for (node, device) in
            [(&cluster.node_a, "uplink"), (&cluster.node_a, "pod-web-a"), (&cluster.node_b, "uplink")]
        {
            let link = ports::link(node, device)?;
            ensure!(!link.contains("xdp"), "{device} of {} still has a program: {link}", node.site.name);
        }
        Ok("sockets gone, XDP programs detached".to_owned())
    });
    drop(stage);
    checks.check("everything is removed", || {
        let left = netns::existing(&lab::prefix(TAG))?;
        ensure!(left.is_empty(), "namespaces are left: {left:?}");
        ensure!(!lab::folder(TAG).exists(), "{} is left", lab::folder(TAG).display());
        Ok("no namespace, no device, no socket is left".to_owned())
    });
}

fn running(node: &Node) -> Result<String> {
    let state = node.state()?;
    ensure!(state.generation > 0, "{} runs nothing", node.site.name);
    ensure!(
        state.workers.iter().all(|passed| *passed == state.generation),
        "{}: generation {}, workers have passed {:?}",
        node.site.name,
        state.generation,
        state.workers
    );
    let intent = &state.intent;
    Ok(format!(
        "{}: generation {}, {} endpoints, {} services, {} policies",
        node.site.name,
        state.generation,
        intent.endpoints.len(),
        intent.services.len(),
        intent.policies.len()
    ))
}
