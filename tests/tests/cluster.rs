//! The cluster of the example on real packets. Needs root. What the demo shows is held here chapter by chapter, and
//! what would be too much for a demo besides.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::cluster::{Cluster, Node, PATIENCE};
use tests::daemon::binary;
use tests::demo::{Checks, network, pods, policy, ports, services};
use tests::generator::Generator;
use tests::law;
use tests::stage::{DATABASE, HTTP, Stage, tcp_answers};

const TAG: &str = "it";

/// Everything is well, and the books balance.
fn assert_all(checks: &Checks, cluster: &Cluster) {
    assert!(checks.failures().is_empty(), "{:#?}", checks.failures());
    for node in [&cluster.node_a, &cluster.node_b] {
        for worker in law::at_rest(node).unwrap().workers {
            law::balance(&worker).unwrap();
        }
    }
}

#[test]
fn pods_talk_on_one_node_and_over_the_overlay() {
    let stage = Stage::up(TAG, true).unwrap();
    let mut checks = Checks::silent();
    pods::show(&stage, &mut checks);
    network::show(&stage, &mut checks);
    assert_all(&checks, &stage.cluster);
}

#[test]
fn services_spread_and_policies_hold_from_one_packet_to_the_next() {
    let mut stage = Stage::up(TAG, true).unwrap();
    let mut checks = Checks::silent();
    services::show(&stage, &mut checks);
    policy::show(&mut stage, &mut checks);
    assert_all(&checks, &stage.cluster);
}

#[test]
fn ports_come_and_go_while_traffic_on_the_others_loses_nothing() {
    let stage = Stage::up(TAG, true).unwrap();
    let cluster = &stage.cluster;
    let (from, to) = (&cluster.mongodb, &cluster.web_a);
    // The kernel's own sockets at both ends: a datagram that does not come was lost in between.
    let words = format!(
        "run --engine socket --tx-netns {} --rx-netns {} --dst-ip {} --dst-port 9000 --rate 5kpps --duration 4s",
        from.namespace.name(),
        to.namespace.name(),
        to.v4
    );
    let log = cluster.node_a.logs().join("pktgen-ports.json");
    let generator = Generator::start(&from.namespace, log, &words).unwrap();
    let mut checks = Checks::silent();
    ports::show(&stage, &mut checks);
    // On the very node and worker of the load, too: a pod that is there in name only.
    for _ in 0..3 {
        cluster.node_a.ctl_ok(&["ports", "remove", "--device", "spare0"]).unwrap_err();
        spare(&cluster.node_a);
        cluster.node_a.ctl_ok(&["ports", "add", "--device", "spare0", "--pod", "poc/spare"]).unwrap();
        cluster.node_a.ctl_ok(&["ports", "remove", "--device", "spare0"]).unwrap();
        cluster.node_a.site.namespace.ip("link del dev spare0").unwrap();
    }
    let report = generator.finish(Duration::from_secs(60)).unwrap();
    let (sent, received, lost) = (report.tx.unwrap().sent, report.rx.unwrap(), report.loss.unwrap().lost);
    assert!(sent > 10_000, "{sent}");
    assert_eq!(lost - received.receiver_overflow.min(lost), 0, "of {sent} {lost} lost, {received:?}");
    assert_all(&checks, cluster);
}

/// A device that can be a port.
fn spare(node: &Node) {
    let link =
        "link add spare0 numrxqueues 1 numtxqueues 1 type veth peer name spare1 numrxqueues 1 numtxqueues 1";
    node.site.namespace.ip(link).unwrap();
    node.site.namespace.ip("link set dev spare0 up").unwrap();
    node.site.namespace.ip("link set dev spare1 up").unwrap();
}

/// All that a user can see of the devices of node-a, at both ends.
fn surroundings(cluster: &Cluster) -> Vec<String> {
    let node = &cluster.node_a.site.namespace;
    let devices = [
        (node, "uplink"),
        (cluster.lab.underlay(), "node-a"),
        (node, "pod-web-a"),
        (&cluster.web_a.namespace, "eth0"),
    ];
    let mut seen = Vec::new();
    for (namespace, device) in devices {
        seen.push(namespace.ip(&format!("-d -o link show dev {device}")).unwrap());
        // Whether an address is still being probed for is nobody's doing.
        let addresses = namespace.ip(&format!("-o addr show dev {device} permanent")).unwrap();
        seen.push(addresses.replace(" tentative", ""));
        seen.push(namespace.command("ethtool", &["-k", device]).unwrap());
    }
    seen
}

#[test]
fn sigterm_leaves_the_machine_as_it_was_found() {
    let mut cluster = Cluster::make(TAG, true).unwrap();
    let before = surroundings(&cluster);
    let manifests = cluster.manifests.clone();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        cluster.node_a.start_penstockd().unwrap();
        cluster.node_a.start_agent(&manifests).unwrap();
        cluster.node_a.add_port(&cluster.web_a).unwrap();
        cluster.node_a.add_port(&cluster.mongodb).unwrap();
        assert_ne!(surroundings(&cluster), before, "a program and offloads are to be seen while it runs");
        let penstockd = cluster.node_a.penstockd().unwrap();
        penstockd.signal(signal).unwrap();
        let status = penstockd.wait_end(PATIENCE).unwrap();
        assert!(status.success(), "{signal}: {status}");
        assert!(!cluster.node_a.socket().exists());
        assert_eq!(surroundings(&cluster), before, "after {signal}");
        cluster.node_a.agent().unwrap().signal(signal).unwrap();
        assert!(cluster.node_a.agent().unwrap().wait_end(PATIENCE).unwrap().success());
    }
}

#[test]
fn the_next_start_restores_what_a_killed_one_has_left() {
    let mut cluster = Cluster::make(TAG, true).unwrap();
    let before = surroundings(&cluster);
    let manifests = cluster.manifests.clone();
    cluster.node_a.start_penstockd().unwrap();
    cluster.node_a.start_agent(&manifests).unwrap();
    cluster.node_a.add_port(&cluster.web_a).unwrap();
    cluster.node_a.kill_penstockd(Signal::SIGKILL).unwrap();
    assert_ne!(surroundings(&cluster), before, "a kill leaves the devices as they are");
    // Without the pod's port: what is restored is not only what it attaches itself.
    cluster.node_a.start_penstockd().unwrap();
    cluster.node_a.stop().unwrap();
    assert_eq!(surroundings(&cluster), before);
}

#[test]
fn what_is_bad_is_refused_by_name_and_what_runs_goes_on() {
    let stage = Stage::up(TAG, true).unwrap();
    let cluster = &stage.cluster;
    bad_configurations(cluster);
    bad_manifests(cluster);
    bad_calls(cluster);
    for (to, seen) in cluster.mongodb.addresses().into_iter().zip(cluster.web_a.addresses()) {
        tcp_answers(&cluster.web_a.namespace, (to, DATABASE).into(), "mongodb", seen).unwrap();
    }
}

/// Runs a second penstockd on the node of the first and returns what it said.
fn second(cluster: &Cluster, configuration: &str) -> String {
    let path = cluster.lab.folder().join("bad.toml");
    std::fs::write(&path, configuration).unwrap();
    let program = binary("penstockd").unwrap();
    let arguments = ["--config", path.to_str().unwrap()];
    let error = cluster.node_a.site.namespace.command(program.to_str().unwrap(), &arguments).unwrap_err();
    error.to_string()
}

fn bad_configurations(cluster: &Cluster) {
    let node = &cluster.node_a;
    let good = std::fs::read_to_string(node.config()).unwrap();
    let generation = node.generation().unwrap();
    let rows = [
        (good.replace("cores =", "cpus ="), "exit status: 2", "cpus"),
        (good.replace("\"uplink\"", "\"nothere\""), "exit status: 2", "nothere"),
        (good.replace("cores = [0]", "cores = [4096]"), "exit status: 2", "workers.cores"),
        (good.replace("socket = \"/", "socket = \""), "exit status: 2", "socket"),
        (good.clone() + "\n[flows]\nipv4 = -1\n", "exit status: 2", "ipv4"),
        // Nothing is wrong with it, but the first one is there.
        (good.clone(), "exit status: 1", node.socket().to_str().unwrap()),
    ];
    for (configuration, status, says) in rows {
        let said = second(cluster, &configuration);
        assert!(said.contains(status) && said.contains(says), "{configuration}\nis answered by: {said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(node.generation().unwrap(), generation, "the first one goes on");
        tcp_answers(
            &cluster.web_a.namespace,
            (cluster.web_b.v4, HTTP).into(),
            "web-b",
            cluster.web_a.v4.into(),
        )
        .unwrap();
    }
}

fn bad_manifests(cluster: &Cluster) {
    let (node, manifests) = (&cluster.node_a, &cluster.manifests);
    let generation = node.generation().unwrap();
    let rows = [
        ("networkpolicy.yaml", "kubevirt.io/domain: mongodb-vm", "\"-kubevirt\": mongodb-vm", "mongodb-vm"),
        (
            "networkpolicy.yaml",
            "        - podSelector:\n            matchLabels:\n              app: kubevirt-networking-poc",
            "        - ipBlock: {cidr: 10.244.0.0/99}",
            "10.244.0.0/99",
        ),
        ("nodes.yaml", "podCIDR: 10.244.2.0/24", "podCIDR: [", "nodes.yaml"),
    ];
    for (file, old, new, says) in rows {
        let was = manifests.edit(file, old, new).unwrap();
        let folder = manifests.folder().to_str().unwrap();
        let ended = node.ctl(&["apply", "--manifests", folder, "--node", "node-a"]).unwrap();
        assert_eq!(ended.code, Some(1), "{file}: {new}: {}{}", ended.out, ended.err);
        assert!(ended.err.contains(says), "{file}: {new}: {}", ended.err);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(node.generation().unwrap(), generation, "{file}: {new}: the running generation goes on");
        manifests.write(file, &was).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    // And a good edit after the bad ones is taken.
    let was = manifests.edit("networkpolicy.yaml", "port: 27017", "port: 27016").unwrap();
    node.wait_generation(generation + 1, PATIENCE).unwrap();
    manifests.write("networkpolicy.yaml", &was).unwrap();
    node.wait_generation(generation + 2, PATIENCE).unwrap();
}

fn bad_calls(cluster: &Cluster) {
    let node = &cluster.node_a;
    let ports = node.ports().unwrap();
    let rows: [(&[&str], &str); 5] = [
        (&["ports", "add", "--device", "nothere", "--pod", "poc/web-b"], "nothere"),
        (&["ports", "add", "--device", "pod-web-a", "--pod", "poc/web-b"], "pod-web-a"),
        (&["ports", "add", "--device", "lo", "--pod", "poc/web-a"], "poc/web-a"),
        (&["ports", "remove", "--device", "nothere"], "nothere"),
        (&["explain", "tcp", "poc/nobody", "poc/web-a:80"], "poc/nobody"),
    ];
    for (arguments, says) in rows {
        let ended = node.ctl(arguments).unwrap();
        assert!(matches!(ended.code, Some(1 | 2)), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(says), "{arguments:?}: {}", ended.err);
    }
    assert_eq!(node.ports().unwrap(), ports);
}
