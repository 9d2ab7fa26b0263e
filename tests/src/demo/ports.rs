//! Ports come and go at run time; the others go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Checks;
use crate::cluster::{Cluster, Node, PATIENCE};
use crate::stage::{HTTP, SILENCE, Stage, wait_answer};
use crate::traffic::stream::{Pace, Stream};
use crate::traffic::{Outcome, tcp};

/// TCP port of the transfer that must not notice.
const STREAM: u16 = 9100;

/// Shows it.
pub fn show(stage: &Stage, checks: &mut Checks) {
    let cluster = &stage.cluster;
    checks.check("a port is removed and added again; the others go on", || {
        let (from, to) = (&cluster.mongodb, &cluster.web_a);
        let pace = Pace::Every(Duration::from_millis(1));
        let stream =
            Stream::start(&from.namespace, &to.namespace, STREAM, (to.v4, STREAM).into(), pace, PATIENCE)?;
        stream.wait_flow(PATIENCE)?;
        let told = come_and_go(cluster);
        let flows = stream.wait_flow(PATIENCE);
        let records = stream.finish()?;
        flows?;
        Ok(format!("{}; meanwhile {records} records between two other pods", told?))
    });
}

/// Removes the port of `web-b` and adds it again.
fn come_and_go(cluster: &Cluster) -> Result<String> {
    let from = &cluster.web_a.namespace;
    let to = (cluster.web_b.v4, HTTP).into();
    let node = &cluster.node_b;
    let begin = Instant::now();
    node.remove_port(&cluster.web_b)?;
    let removed = begin.elapsed();
    let left = node.ports()?;
    ensure!(left.iter().all(|port| port.device != cluster.web_b.device), "it is still listed");
    let link = link(node, &cluster.web_b.device)?;
    ensure!(!link.contains("xdp"), "its device still has a program: {link}");
    let outcome = tcp::probe(from, to, SILENCE);
    ensure!(outcome != Outcome::Answered, "web-b answers without a port");
    let begin = Instant::now();
    node.add_port(&cluster.web_b)?;
    let added = begin.elapsed();
    let talks = wait_answer(from, to, "web-b", PATIENCE)?;
    Ok(format!(
        "removed in {} ms, added in {} ms, talks {} ms later",
        removed.as_millis(),
        added.as_millis(),
        talks.as_millis()
    ))
}

/// No pod reaches any other.
///
/// # Errors
/// When one does, or there are ports already.
pub fn nothing_passes(cluster: &Cluster) -> Result<String> {
    for node in [&cluster.node_a, &cluster.node_b] {
        let ports = node.ports()?;
        ensure!(ports.iter().all(|port| port.device == "uplink"), "{} has ports: {ports:?}", node.site.name);
    }
    for (from, to) in [(&cluster.mongodb, &cluster.web_a), (&cluster.web_a, &cluster.web_b)] {
        let outcome = tcp::probe(&from.namespace, (to.v4, HTTP).into(), SILENCE);
        ensure!(outcome != Outcome::Answered, "{} answers {}", to.name, from.name);
    }
    Ok("on one node, and between two".to_owned())
}

/// What `ip` says of a device of a node, counters left out.
///
/// # Errors
/// When there is no such device.
pub fn link(node: &Node, device: &str) -> Result<String> {
    node.site.namespace.ip(&format!("-d -o link show dev {device}"))
}
