//! Pods talk: on one node, and on two over VXLAN; both families, TCP and UDP.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Checks;
use crate::cluster::VNI;
use crate::lab::Pod;
use crate::stage::{DATABASE, ECHO, HTTP, PATIENCE, Stage, pinged, tcp_answers, udp_answers};
use crate::traffic::{raw, tcp};

/// Bytes of a bulk transfer.
const BULK: u64 = 8 << 20;
/// TCP port of bulk transfers.
const BULK_PORT: u16 = 9000;

/// Shows it.
pub fn show(stage: &Stage, checks: &mut Checks) {
    let cluster = &stage.cluster;
    checks.check("pods on one node talk", || {
        talk(&cluster.mongodb, &cluster.web_a, "web-a")?;
        for address in cluster.mongodb.addresses() {
            let seen = address_like(&cluster.web_a, address);
            tcp_answers(&cluster.web_a.namespace, (address, DATABASE).into(), "mongodb", seen)?;
        }
        Ok("web-a and the database, TCP and UDP, IPv4 and IPv6".to_owned())
    });
    checks.check("pods on two nodes talk over VXLAN", || {
        talk(&cluster.web_a, &cluster.web_b, "web-b")?;
        talk(&cluster.web_b, &cluster.web_a, "web-a")?;
        talk(&cluster.mongodb, &cluster.web_b, "web-b")?;
        Ok("web-a, the database and web-b, TCP and UDP, IPv4 and IPv6".to_owned())
    });
    checks.check("between the nodes there is VXLAN and nothing else", || on_the_wire(stage));
    checks.check("bulk data arrives whole", || {
        let mut rates = Vec::new();
        for (from, to) in [
            (&cluster.mongodb, &cluster.web_a),
            (&cluster.web_a, &cluster.web_b),
            (&cluster.web_b, &cluster.web_a),
        ] {
            for address in to.addresses() {
                let to_port = (address, BULK_PORT).into();
                let rate = tcp::bulk(&from.namespace, &to.namespace, to_port, BULK, 4 * PATIENCE)?;
                rates.push(format!("{:.0}", rate / 1e6));
            }
        }
        let mib = BULK >> 20;
        Ok(format!(
            "{mib} MiB each on one node, there and back over VXLAN, IPv4 and IPv6: {} MB/s",
            rates.join(", ")
        ))
    });
    checks.check("ping", || {
        let mut times = Vec::new();
        for address in cluster.web_b.addresses().into_iter().chain(cluster.web_a.addresses()) {
            times.push(micros(pinged(&cluster.mongodb.namespace, address, 56)?));
        }
        Ok(format!("the database to web-b {}, to web-a {}", times[..2].join(", "), times[2..].join(", ")))
    });
}

/// `from` talks to `to`, whose servers are called `name`, in both families by TCP and UDP.
fn talk(from: &Pod, to: &Pod, name: &str) -> Result<()> {
    for address in to.addresses() {
        let seen = address_like(from, address);
        tcp_answers(&from.namespace, (address, HTTP).into(), name, seen)?;
        udp_answers(&from.namespace, (address, ECHO).into(), 64, name)?;
    }
    Ok(())
}

/// The pod's address of the same family.
fn address_like(pod: &Pod, like: std::net::IpAddr) -> std::net::IpAddr {
    if like.is_ipv4() { pod.v4.into() } else { pod.v6.into() }
}

/// What crosses the underlay while two pods talk is UDP to 4789 with our VNI; their own packets are never seen bare.
fn on_the_wire(stage: &Stage) -> Result<String> {
    let cluster = &stage.cluster;
    let mut overhead = Vec::new();
    for address in cluster.web_b.addresses() {
        let ask = || pinged(&cluster.web_a.namespace, address, 56).map(drop);
        let frame =
            raw::expect(cluster.lab.underlay(), PATIENCE, ask, |frame| is_ours(frame, address.is_ipv4()))?;
        let frame = frame.ok_or_else(|| anyhow::anyhow!("no VXLAN packet for {address} was seen"))?;
        // Ethernet, IP, ICMP and 56 bytes of data are what the pod has sent.
        let inner = 14 + if address.is_ipv4() { 20 } else { 40 } + 8 + 56;
        overhead.push(frame.len() - inner);
        let ask = || pinged(&cluster.web_a.namespace, address, 57).map(drop);
        let bare = raw::expect(cluster.lab.underlay(), Duration::from_millis(200), ask, |frame| {
            frame.len() == inner + 1 && frame.get(12..14) != Some(&[0x08, 0x06])
        })?;
        ensure!(bare.is_none(), "a pod's packet crossed the underlay without a tunnel");
    }
    Ok(format!(
        "UDP port 4789, VNI {VNI}, {} bytes more for IPv4 inside, {} for IPv6",
        overhead[0], overhead[1]
    ))
}

/// Whether this is VXLAN over IPv4 with our VNI and an IP packet of that family inside.
fn is_ours(frame: &[u8], inner_is_v4: bool) -> bool {
    let [_, a, b, c] = VNI.to_be_bytes();
    let ethertype: &[u8] = if inner_is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] };
    frame.get(12..14) == Some(&[0x08, 0x00])
        && frame.get(23) == Some(&17)
        && frame.get(36..38) == Some(&4789_u16.to_be_bytes())
        && frame.get(46..49) == Some(&[a, b, c])
        && frame.get(50 + 12..50 + 14) == Some(ethertype)
}

fn micros(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}
