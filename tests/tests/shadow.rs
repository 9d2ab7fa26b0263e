//! A shadow generation over live connections of kernels: what the candidate would cut is told of and goes on; promoted, it is cut.
//! Needs root.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use agent_api::client::Client;
use agent_api::client::ClientError;
use agent_api::contract::{RefusalKind, ShadowDifference, ShadowStatus};
use futures::StreamExt;
use tests::cluster::MONGODB;
use tests::manifests::Manifests;
use tests::stage::{DATABASE, ECHO, PATIENCE, SILENCE, Stage, udp_answers};
use tests::traffic::live::Live;
use tests::traffic::udp::{self, Ask};
use tests::wait_for;
use tokio::runtime::Runtime;
use tokio::time::timeout;

const POLICY: &str = "networkpolicy.yaml";
const PEERS: &str = "              app: kubevirt-networking-poc\n";
const WEB: &str = "poc/web-a";
const DATABASE_POD: &str = "poc/virt-launcher-mongodb-vm";

/// Nothing arrives any more, and nothing says why.
fn assert_cut(live: &mut Live) {
    live.server.set_read_timeout(Some(SILENCE)).unwrap();
    live.client.write_all(b"?").unwrap();
    let error = live.server.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
}

/// penstockd on node-a, asked from here.
struct Node {
    runtime: Runtime,
    client: Client,
}

impl Node {
    fn of(stage: &Stage) -> Self {
        let runtime = Runtime::new().unwrap();
        let address = stage.cluster.node_a.socket().display().to_string();
        let client = runtime.block_on(Client::connect(&address)).unwrap();
        Node { runtime, client }
    }

    fn status(&self) -> Option<ShadowStatus> {
        self.runtime.block_on(self.client.shadow()).unwrap()
    }

    /// The next differences that a new watcher is told of.
    fn watched(&self, count: usize) -> Vec<ShadowDifference> {
        self.runtime.block_on(async {
            let events = self.client.watch_shadow().await.unwrap();
            let told = events.take(count).map(Result::unwrap).collect();
            timeout(PATIENCE, told).await.unwrap()
        })
    }
}

/// The example, whose database lets nobody in but anybody to its echo.
fn candidate(stage: &Stage) -> Manifests {
    let manifests = Manifests::copy("two-nodes", &stage.cluster.lab.folder().join("candidate")).unwrap();
    let policy = manifests.read(POLICY).unwrap();
    assert!(policy.contains(PEERS) && policy.ends_with("port: 27017}\n"), "{policy}");
    let closed = policy.replace(PEERS, &PEERS.replace("kubevirt-networking-poc", "nobody-at-all"));
    let echo = format!("    - ports:\n        - {{protocol: UDP, port: {ECHO}}}\n");
    manifests.write(POLICY, &(closed + &echo)).unwrap();
    manifests
}

#[test]
fn what_a_candidate_would_cut_is_told_of_and_goes_on_until_it_is_promoted() {
    let mut stage = Stage::up("sh", true).unwrap();
    stage.close_database();
    let database = &stage.cluster.mongodb;
    let listener = database.namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, DATABASE)));
    let listener = listener.unwrap().unwrap();
    let node = Node::of(&stage);
    let folder = candidate(&stage).folder().display().to_string();
    let ctl = |arguments: &[&str]| stage.cluster.node_a.ctl_ok(arguments).unwrap();

    // 1. Connections that are there before the candidate, to the pod and to its Service.
    let addresses: Vec<IpAddr> = database.addresses().into_iter().chain(MONGODB).collect();
    let mut lives: Vec<Live> = addresses
        .iter()
        .map(|to| Live::open(&listener, &stage.cluster.web_a, (*to, DATABASE).into()).unwrap())
        .collect();
    let set = ctl(&["shadow", "set", &folder, "--sample", "1"]);
    assert!(set.contains("shadow 1 is set beside generation"), "{set}");

    // 2. They go on, and each is told of once.
    for _ in 0..10 {
        lives.iter_mut().for_each(|live| live.talk().unwrap());
    }
    let mut told = node.watched(lives.len());
    told.sort_by_key(|difference| addresses.iter().position(|address| *address == difference.dst));
    for (difference, address) in told.iter().zip(&addresses) {
        assert_eq!((difference.dst, difference.dst_port, difference.protocol), (*address, DATABASE, 6));
        assert_eq!((difference.src_name.as_str(), difference.dst_name.as_str()), (WEB, DATABASE_POD));
        assert_eq!(difference.backend.is_some(), MONGODB.contains(address), "{difference:?}");
        assert_eq!(difference.active, "NetworkPolicy poc/mongodb-vm ingress[0]");
        assert_eq!(difference.candidate, "no-rule of NetworkPolicy poc/mongodb-vm");
        assert!(difference.established && !difference.allowed && difference.ingress);
        assert_eq!((difference.missed, difference.stale), (0, false));
    }
    let status = node.status().unwrap();
    assert_eq!((status.newly_denied, status.newly_allowed), (lives.len() as u64, 0));
    assert!(status.sampled >= lives.len() as u64);
    let [row] = &status.rows[..] else { panic!("{:?}", status.rows) };
    assert_eq!((row.flows, row.candidate.as_str()), (4, "no-rule of NetworkPolicy poc/mongodb-vm"));

    // 3. Discarded, it is as if it had never been.
    assert_eq!(ctl(&["shadow", "discard"]), "discarded\n");
    assert_eq!(node.status(), None);
    lives.iter_mut().for_each(|live| live.talk().unwrap());

    // 4. Beside a state that moves on it stays; to promote it takes force then.
    ctl(&["shadow", "set", &folder, "--sample", "1"]);
    let web = &stage.cluster.web_a.namespace;
    let echo = SocketAddr::new(database.addresses()[0], ECHO);
    let silent = udp::ask(web, echo, Ask { patience: SILENCE, ..Ask::default() });
    assert!(silent.is_err(), "denied by what runs: {silent:?}");
    lives.iter_mut().for_each(|live| live.talk().unwrap());
    wait_for("the differences of both kinds", PATIENCE, || {
        let status = node.status().unwrap();
        Ok((status.newly_allowed == 1 && status.newly_denied == 4).then_some(()))
    })
    .unwrap();
    stage
        .cluster
        .edit(|manifests| manifests.edit("services.yaml", "name: empty\n", "name: renamed\n").map(drop))
        .unwrap();
    let ClientError::Refused(refusal) = node.runtime.block_on(node.client.promote_shadow(false)).unwrap_err()
    else {
        panic!("not refused")
    };
    assert_eq!((refusal.kind, refusal.field.as_str()), (RefusalKind::Conflict, "base_generation"));
    lives.iter_mut().for_each(|live| live.talk().unwrap());

    // 5. Set again beside what runs now and promoted, it holds from the next packet on.
    ctl(&["shadow", "set", &folder]);
    let promoted = ctl(&["shadow", "promote"]);
    assert!(promoted.starts_with("promoted as generation "), "{promoted}");
    lives.iter_mut().for_each(assert_cut);
    udp_answers(web, echo, 100, "mongodb").unwrap();
    assert_eq!(node.status(), None);
    // The agent leaves it so: its manifests have not changed.
    std::thread::sleep(Duration::from_secs(1));
    udp_answers(web, echo, 100, "mongodb").unwrap();
}
