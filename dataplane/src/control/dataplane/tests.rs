use std::net::Ipv4Addr;

use afxdp_driver::device::SetupPlan;
use afxdp_driver::{HugePages, xdp};
use agent_api::contract::RefusalKind;
use policy_compiler::intent::{Node, ObjectName, Protocol, Service};
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::build::Settings;
use super::super::neighbours::Ask;
use super::super::ports::PortSettings;
use super::super::thread::{Control, ControlParts};
use super::*;
use crate::publish::Publisher;
use crate::snapshot::Snapshot;

/// A control thread without workers.
pub(in super::super) fn start() -> (Handle, std::thread::JoinHandle<()>, UnboundedReceiver<Ask>) {
    let start = Instant::now();
    let publication = Publication::new(Snapshot::empty(), 0);
    let flows = Arc::new(FlowTables::new(256, 256, HugePages::Never, 1).unwrap());
    let history = Arc::new(History::default());
    let (own_requests, requests) = crossbeam::channel::unbounded();
    let (_, events) = crossbeam::channel::bounded(1);
    let (asks, asked) = tokio::sync::mpsc::unbounded_channel();
    let handle = Handle::new(Shared {
        requests: own_requests.clone(),
        publication: Arc::clone(&publication),
        flows: Arc::clone(&flows),
        history: Arc::clone(&history),
        workers: Vec::new(),
        start,
        applying: Mutex::default(),
        compiler: std::sync::Mutex::default(),
        candidate: std::sync::Mutex::default(),
    });
    let control = Control::new(ControlParts {
        settings: Settings {
            gateway_v4: Ipv4Addr::new(169, 254, 1, 1),
            gateway_v6: "fe80::1".parse().unwrap(),
            snat_ports: (61000, 65535),
            inner_mac: [2, 0, 0, 0, 0, 1],
        },
        port_settings: PortSettings {
            ring: 64,
            mode: xdp::XdpMode::Auto,
            zero_copy: xdp::ZeroCopy::Never,
            setup: SetupPlan::default(),
        },
        publisher: Publisher::new(publication),
        flows,
        history,
        workers: Vec::new(),
        requests,
        own_requests,
        events,
        asks,
        start,
    });
    (handle, std::thread::spawn(move || control.run()), asked)
}

pub(in super::super) fn intent() -> Intent {
    let node = |name: &str, last: u8| Node {
        name: name.into(),
        addresses: vec![Ipv4Addr::new(192, 0, 2, last).into()],
        pod_cidrs: vec![format!("10.{last}.0.0/16").parse().unwrap()],
        zone: String::new(),
    };
    Intent { node: "a".into(), nodes: vec![node("a", 1), node("b", 2)], ..Intent::default() }
}

#[tokio::test]
async fn a_transaction_takes_effect_as_a_whole_or_not_at_all() {
    let (handle, thread, mut asked) = start();
    assert_eq!(handle.apply(intent(), Some(0)).await.unwrap().generation, 1);
    assert_eq!(asked.recv().await, Some(Ask::Peers(vec!["192.0.2.2".parse().unwrap()])));
    let stale = handle.apply(intent(), Some(0)).await.unwrap_err();
    assert_eq!((stale.kind, stale.field.as_str()), (RefusalKind::Conflict, "expected_generation"));
    let wrong = handle.apply(Intent { node: "nobody".into(), ..intent() }, None).await.unwrap_err();
    assert_eq!((wrong.kind, wrong.field.as_str()), (RefusalKind::Invalid, "node"));
    let state = handle.state().await;
    assert_eq!((state.generation, state.intent), (1, intent()));
    assert_eq!(handle.stats().await.generation, 1);
    let update = || Update { removed_services: vec![ObjectName::new("ns", "web")], ..Update::default() };
    let stale = handle.update(Update::default(), 0).await.unwrap_err();
    assert_eq!((stale.kind, stale.field.as_str()), (RefusalKind::Conflict, "base_generation"));
    let missing = handle.update(update(), 1).await.unwrap_err();
    assert_eq!((missing.kind, missing.object.as_str()), (RefusalKind::NotFound, "Service ns/web"));
    let service =
        Service { name: ObjectName::new("ns", "web"), protocol: Some(Protocol::Tcp), ..Service::default() };
    let added = Update { services: vec![service.clone()], ..Update::default() };
    assert_eq!(handle.update(added, 1).await.unwrap().generation, 2);
    let state = handle.state().await;
    assert_eq!((state.generation, state.intent.services), (2, vec![service]));
    assert_eq!(handle.update(update(), 2).await.unwrap().generation, 3);
    assert_eq!(handle.state().await.intent, intent());
    assert!(asked.try_recv().is_err(), "nodes that stay are not asked for again");
    handle.stop();
    thread.join().unwrap();
    assert_eq!(handle.apply(intent(), None).await.unwrap_err().kind, RefusalKind::System);
}

#[tokio::test]
async fn ports_are_refused_with_their_field() {
    let (handle, thread, _asked) = start();
    let request = |device: &str, pod: &str| AddPort {
        device: device.into(),
        role: PortRole::Pod(pod.into()),
        peer_mac: None,
    };
    let rows = [
        (request("", "a/b"), "device"),
        (request("veth0", "a"), "role"),
        (request("veth0", "a/b"), "memory.chunks"),
    ];
    for (request, field) in rows {
        assert_eq!(handle.add_port(request).await.unwrap_err().field, field);
    }
    assert_eq!(handle.remove_port("veth0".into()).await.unwrap_err().kind, RefusalKind::NotFound);
    handle.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_packet_is_explained() {
    let (handle, thread, _asked) = start();
    handle.apply(intent(), None).await.unwrap();
    let query = |src: &str, dst: &str| ExplainQuery {
        src: src.parse().unwrap(),
        src_port: 1,
        dst: dst.parse().unwrap(),
        dst_port: 2,
        protocol: 6,
    };
    let answer = handle.explain(query("10.2.0.1", "10.1.0.1")).await.unwrap();
    assert_eq!((answer.verdict.as_str(), answer.reason.as_deref()), ("drop", Some("no_port")));
    assert_eq!((answer.egress.as_str(), answer.generation), ("default-allow", 1));
    let mixed = handle.explain(query("10.2.0.1", "fd00::1")).await.unwrap_err();
    assert_eq!(mixed.field, "dst");
    handle.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn watching_is_switched_on_with_the_first_watcher() {
    let (handle, thread, _asked) = start();
    let watcher = handle.watch_drops().await;
    // Answered in order: what came before has happened.
    handle.ports().await;
    assert!(handle.shared.publication.load().watch_drops);
    drop(watcher);
    handle.stop();
    thread.join().unwrap();
}
