//! What a network owes its hosts beside delivery: TTL, path MTU, the way out, and leaving the kernel what is its own.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};

use super::Checks;
use crate::lab::{GATEWAY_V4, Pod};
use crate::stage::{ECHO, HTTP, PATIENCE, SILENCE, Stage, pinged, tcp_answers, udp_answers};
use crate::traffic::udp::{self, Ask};
use crate::traffic::{Outcome, icmp};

/// Payloads of datagrams that fit the pods' links and not the tunnel, or neither.
const LARGE: [usize; 3] = [1440, 1460, 4000];
/// Some of the ICMP identifiers that masqueraded pings have: the first, one in between, the last.
const SNAT_IDS: [u16; 3] = [61_000, 63_210, 65_535];
/// How often such a datagram is tried: each ICMP error teaches the sender's kernel, and costs one.
const TRIES: usize = 4;

/// Shows it.
pub fn show(stage: &Stage, checks: &mut Checks) {
    let cluster = &stage.cluster;
    checks.check("a used-up TTL is answered", || {
        for address in cluster.web_b.addresses() {
            let last = Ask { ttl: Some(1), patience: PATIENCE, ..Ask::default() };
            let outcome = udp::ask(&cluster.web_a.namespace, (address, ECHO).into(), last);
            ensure!(outcome == Err(Outcome::Unreachable), "UDP with TTL 1 to {address}: {outcome:?}");
            let reply = icmp::ping(&cluster.web_a.namespace, address, 56, Some(1), PATIENCE);
            ensure!(reply == Err(Outcome::Unreachable), "echo with TTL 1 to {address}: {reply:?}");
        }
        Ok("time exceeded, IPv4 and IPv6, quoting UDP and echo".to_owned())
    });
    checks.check("datagrams larger than the tunnel find their size", || {
        let mut tries = Vec::new();
        for address in cluster.web_b.addresses() {
            for size in LARGE {
                tries.push(large(&cluster.web_a, address, size, "web-b")?.to_string());
            }
        }
        Ok(format!("{LARGE:?} bytes, IPv4 and IPv6, after {} tries", tries.join(", ")))
    });
    checks.check("the gateway answers pods", || {
        for pod in [&cluster.web_a, &cluster.mongodb, &cluster.web_b] {
            pinged(&pod.namespace, GATEWAY_V4.into(), 56)?;
        }
        Ok(format!("echo to {GATEWAY_V4}"))
    });
    checks.check("a pod to the plain host goes out masqueraded", || {
        for (pod, node) in [(&cluster.web_a, &cluster.node_a), (&cluster.web_b, &cluster.node_b)] {
            for (to, seen) in cluster.host.addresses().into_iter().zip(node.site.addresses()) {
                tcp_answers(&pod.namespace, (to, HTTP).into(), "host", seen)?;
                udp_answers(&pod.namespace, (to, ECHO).into(), 64, "host")?;
                pinged(&pod.namespace, to, 56)?;
            }
        }
        Ok("seen as its node; TCP, UDP and echo, IPv4 and IPv6".to_owned())
    });
    checks.check("what is the node's own stays with its kernel", || {
        for node in [&cluster.node_a, &cluster.node_b] {
            for address in node.site.addresses() {
                pinged(&cluster.host.namespace, address, 56)?;
            }
        }
        for address in cluster.node_b.site.addresses() {
            pinged(&cluster.node_a.site.namespace, address, 1400)?;
        }
        // The kernel takes any identifier, those of masqueraded pings as well.
        for address in cluster.host.addresses().into_iter().chain(cluster.node_b.site.addresses()) {
            for id in SNAT_IDS {
                let reply = icmp::ping_as(&cluster.node_a.site.namespace, id, address, 1400, None, PATIENCE);
                ensure!(reply.is_ok(), "ping {address} from node-a with identifier {id}: {reply:?}");
            }
            pinged(&cluster.web_a.namespace, address, 56)?;
        }
        Ok("the plain host and the nodes' kernels reach each other past penstockd".to_owned())
    });
}

/// Sends a large datagram until the path has taught its sender enough; returns the number of tries.
fn large(from: &Pod, to: IpAddr, size: usize, name: &str) -> Result<usize> {
    let ask = Ask { size, patience: SILENCE, ..Ask::default() };
    let mut last = Outcome::Silent;
    for number in 1..=TRIES {
        match udp::ask(&from.namespace, (to, ECHO).into(), ask) {
            Ok(answer) => {
                ensure!(answer == name, "{answer} answers for {to}");
                return Ok(number);
            }
            // "Message too long": the kernel has learned the path's MTU and cuts the next one itself.
            Err(outcome @ (Outcome::Failed(_) | Outcome::Silent)) => last = outcome,
            Err(outcome) => bail!("UDP with {size} bytes to {to}: {outcome}"),
        }
    }
    bail!("UDP with {size} bytes to {to}: {last} after {TRIES} tries")
}
