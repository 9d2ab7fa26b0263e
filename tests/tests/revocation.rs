//! What becomes of live connections that a policy's edit revokes, as both ends' kernels see it. Needs root.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

use tests::cluster::MONGODB;
use tests::lab::Pod;
use tests::stage::{DATABASE, Stage, tcp_silent};
use tests::traffic::live::Live;

const POLICY: &str = "networkpolicy.yaml";
const NAME: &str = "  name: mongodb-vm\n";
const PEERS: &str = "              app: kubevirt-networking-poc\n";

/// The example's policy with that annotation, which lets nobody in.
fn closed(policy: &str, revocation: &str) -> String {
    assert!(policy.contains(NAME) && policy.contains(PEERS), "{policy}");
    let annotated = format!("{NAME}  annotations: {{penstock.io/revocation: {revocation}}}\n");
    policy
        .replace(NAME, &annotated)
        .replace(PEERS, &PEERS.replace("kubevirt-networking-poc", "nobody-at-all"))
}

/// The example's policy, which lets the pods of both nodes in.
fn open_to_both(policy: &str) -> String {
    let other = PEERS.replace("kubevirt-networking-poc", "another-application");
    policy.replace(PEERS, &format!("{PEERS}        - podSelector:\n            matchLabels:\n{other}"))
}

fn write(stage: &Stage, policy: &str) {
    stage.cluster.edit(|manifests| manifests.write(POLICY, policy)).unwrap();
}

/// The end of a connection as its owner sees it.
#[track_caller]
fn assert_reset(end: &mut TcpStream, whose: &str) {
    let error = end.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{whose}: {error}");
}

fn listener(stage: &mut Stage) -> TcpListener {
    stage.close_database();
    let namespace = &stage.cluster.mongodb.namespace;
    namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, DATABASE))).unwrap().unwrap()
}

#[test]
fn reset_ends_a_connection_at_both_ends_and_keep_lets_it_go_on() {
    let mut stage = Stage::up("rv", true).unwrap();
    let listener = listener(&mut stage);
    let was = stage.cluster.manifests.read(POLICY).unwrap();
    let addresses: Vec<_> = stage.cluster.mongodb.addresses().into_iter().chain(MONGODB).collect();
    let open = |pod: &Pod| -> Vec<Live> {
        addresses.iter().map(|to| Live::open(&listener, pod, (*to, DATABASE).into()).unwrap()).collect()
    };
    for client_speaks in [true, false] {
        write(&stage, &open_to_both(&was));
        let mut lives = open(&stage.cluster.web_a);
        // Over VXLAN both nodes revoke it, each by itself.
        lives.append(&mut open(&stage.cluster.web_b));
        write(&stage, &closed(&was, "reset"));
        for Live { client, server } in &mut lives {
            let (speaker, other) = if client_speaks { (client, server) } else { (server, client) };
            // One segment of one end is enough for both.
            speaker.write_all(b"x").unwrap();
            assert_reset(speaker, "who spoke");
            assert_reset(other, "who did not");
        }
    }
    write(&stage, &was);
    let mut lives = open(&stage.cluster.web_a);
    write(&stage, &closed(&was, "keep"));
    lives.iter_mut().for_each(|live| live.talk().unwrap());
    tcp_silent(&stage.cluster.web_a.namespace, (addresses[0], DATABASE).into()).unwrap();
    lives.iter_mut().for_each(|live| live.talk().unwrap());
}
