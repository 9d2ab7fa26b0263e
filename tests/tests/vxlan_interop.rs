//! The kernel's own vxlan device as the peer of penstockd, in both directions. Needs root.
//!
//! `node-a` is penstockd's, with its pods. On `node-b` there is no Penstock: its kernel has the address of `web-b` on a
//! vxlan device, with the forwarding entries that penstockd's agent would have known.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use tests::cluster::{Cluster, VNI, WEB};
use tests::law;
use tests::netns::Namespace;
use tests::stage::{HTTP, PATIENCE, pinged, tcp_answers, udp_answers, wait_answer};
use tests::traffic::{Outcome, icmp, tcp, udp};

const TAG: &str = "it";
/// Inner destination address of what penstockd sends: `overlay.mac`'s default, which the device must have for its own.
const KERNEL_MAC: &str = "02:50:53:00:00:02";
/// Inner destination address of what the kernel sends. penstockd does not look at it.
const PENSTOCK_MAC: &str = "02:50:53:00:00:01";
/// Two servers' worth of data each.
const BULK: u64 = 4 << 20;

/// `node-a` with penstockd, agent and ports; `node-b` with a vxlan device of the kernel.
fn up() -> Cluster {
    let mut cluster = Cluster::make(TAG, true).unwrap();
    let manifests = cluster.manifests.clone();
    cluster.node_a.start_penstockd().unwrap();
    cluster.node_a.start_agent(&manifests).unwrap();
    cluster.node_a.add_port(&cluster.web_a).unwrap();
    cluster.node_a.add_port(&cluster.mongodb).unwrap();
    tunnel(&cluster, "vxlan0", VNI);
    let kernel = &cluster.node_b.site.namespace;
    let (web_a, database, web_b) = (&cluster.web_a, &cluster.mongodb, &cluster.web_b);
    kernel.ip(&format!("addr add {}/32 dev vxlan0", web_b.v4)).unwrap();
    kernel.ip(&format!("-6 addr add {}/128 dev vxlan0 nodad", web_b.v6)).unwrap();
    kernel.ip(&format!("route add 10.244.1.0/24 dev vxlan0 src {}", web_b.v4)).unwrap();
    kernel.ip(&format!("-6 route add fd00:10:244:1::/64 dev vxlan0 src {}", web_b.v6)).unwrap();
    for address in web_a.addresses().into_iter().chain(database.addresses()) {
        kernel.ip(&format!("neigh add {address} lladdr {PENSTOCK_MAC} dev vxlan0 nud permanent")).unwrap();
    }
    cluster
}

fn tunnel(cluster: &Cluster, device: &str, vni: u32) {
    let kernel = &cluster.node_b.site.namespace;
    let (local, remote) = (cluster.node_b.site.v4, cluster.node_a.site.v4);
    kernel
        .ip(&format!(
            "link add {device} address {KERNEL_MAC} mtu 1450 type vxlan id {vni} local {local} dstport 4789 \
             nolearning dev uplink"
        ))
        .unwrap();
    kernel.sysctl(&format!("ipv6/conf/{device}/accept_dad"), "0").unwrap();
    kernel.ip(&format!("link set dev {device} up")).unwrap();
    kernel
        .command("bridge", &["fdb", "add", PENSTOCK_MAC, "dev", device, "dst", &remote.to_string()])
        .unwrap();
}

#[test]
fn the_kernels_vxlan_and_ours_carry_each_others_traffic() {
    let cluster = up();
    let (pod, kernel) = (&cluster.web_a, &cluster.node_b.site.namespace);
    let _there = tcp::NameServer::start(kernel, HTTP, "kernel").unwrap();
    let _echo = udp::EchoServer::start(kernel, 7007, "kernel").unwrap();
    let _here = tcp::NameServer::start(&pod.namespace, HTTP, "web-a").unwrap();
    let _echo_here = udp::EchoServer::start(&pod.namespace, 7007, "web-a").unwrap();
    let ends = pod.addresses().into_iter().zip(cluster.web_b.addresses());
    for (here, there) in ends {
        wait_answer(&pod.namespace, (there, HTTP).into(), "kernel", PATIENCE).unwrap();
        both_ways(&pod.namespace, (there, "kernel"), here);
        both_ways(kernel, (here, "web-a"), there);
        tcp::bulk(&pod.namespace, kernel, (there, 9000).into(), BULK, 4 * PATIENCE).unwrap();
        tcp::bulk(kernel, &pod.namespace, (here, 9001).into(), BULK, 4 * PATIENCE).unwrap();
    }
    // A Service, one of whose backends is the kernel.
    for address in WEB {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..32 {
            let answers = tcp::who(&cluster.mongodb.namespace, (address, 80).into(), 2, PATIENCE).unwrap();
            names.extend(answers.into_iter().map(|answer| answer.name));
        }
        assert!(names.iter().eq(["kernel", "web-a"]), "{names:?}");
    }
    law::at_rest(&cluster.node_a).unwrap();
}

fn both_ways(from: &Namespace, (to, name): (std::net::IpAddr, &str), seen: std::net::IpAddr) {
    tcp_answers(from, (to, HTTP).into(), name, seen).unwrap();
    udp_answers(from, (to, 7007).into(), 64, name).unwrap();
    udp_answers(from, (to, 7007).into(), 1300, name).unwrap();
    pinged(from, to, 56).unwrap();
}

#[test]
fn another_network_and_a_stranger_are_dropped_by_name() {
    let cluster = up();
    let (pod, kernel) = (&cluster.web_a, &cluster.node_b.site.namespace);
    pinged(kernel, pod.v4.into(), 56).unwrap();
    let silent = |wanted: &str| {
        let before = cluster.node_a.dropped(wanted).unwrap();
        let reply = icmp::ping(kernel, pod.v4.into(), 56, None, Duration::from_millis(300));
        assert_eq!(reply, Err(Outcome::Silent), "{wanted}");
        assert!(cluster.node_a.dropped(wanted).unwrap() > before, "nothing was dropped as {wanted}");
    };
    // The same addresses in another network.
    tunnel(&cluster, "vxlan7", 7);
    kernel.ip(&format!("route replace {}/32 dev vxlan7 src {}", pod.v4, cluster.web_b.v4)).unwrap();
    kernel.ip(&format!("neigh add {} lladdr {PENSTOCK_MAC} dev vxlan7 nud permanent", pod.v4)).unwrap();
    silent("foreign_vni");
    // The right network, from an address that is no node's.
    kernel.ip("link del dev vxlan7").unwrap();
    kernel.ip("addr add 172.30.0.77/24 dev uplink").unwrap();
    kernel.ip("link set dev vxlan0 down").unwrap();
    kernel.ip("link del dev vxlan0").unwrap();
    stranger(&cluster);
    silent("unknown_tunnel_peer");
    law::at_rest(&cluster.node_a).unwrap();
}

/// `node-b`'s device again, with an outer source address that no Node object has.
fn stranger(cluster: &Cluster) {
    let kernel = &cluster.node_b.site.namespace;
    let remote = cluster.node_a.site.v4.to_string();
    kernel
        .ip(&format!(
            "link add vxlan0 address {KERNEL_MAC} mtu 1450 type vxlan id {VNI} local 172.30.0.77 dstport 4789 \
             nolearning dev uplink"
        ))
        .unwrap();
    kernel.ip("link set dev vxlan0 up").unwrap();
    kernel.command("bridge", &["fdb", "add", PENSTOCK_MAC, "dev", "vxlan0", "dst", &remote]).unwrap();
    kernel.ip(&format!("addr add {}/32 dev vxlan0", cluster.web_b.v4)).unwrap();
    kernel.ip(&format!("route add 10.244.1.0/24 dev vxlan0 src {}", cluster.web_b.v4)).unwrap();
    let pod = cluster.web_a.v4;
    kernel.ip(&format!("neigh add {pod} lladdr {PENSTOCK_MAC} dev vxlan0 nud permanent")).unwrap();
}
