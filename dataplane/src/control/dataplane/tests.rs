use std::net::Ipv4Addr;

use afxdp_driver::device::SetupPlan;
use afxdp_driver::{HugePages, xdp};
use agent_api::contract::RefusalKind;
use policy_compiler::compiler::Prepared;
use policy_compiler::intent::{Endpoint, Identity, Node, ObjectName, Policy, Protocol, Service};
use policy_compiler::policy::PolicyTable;
use policy_compiler::tables::Capacity;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::build::Settings;
use super::super::checks::{Checking, Checks};
use super::super::neighbours::Ask;
use super::super::ports::PortSettings;
use super::super::thread::{Control, ControlParts};
use super::*;
use crate::publish::Publisher;
use crate::snapshot::Snapshot;

/// A control thread without workers.
pub(in super::super) fn start() -> (Handle, std::thread::JoinHandle<()>, UnboundedReceiver<Ask>) {
    start_checking(Checking::ORACLE)
}

/// The same, checking tables so.
fn start_checking(checking: Checking) -> (Handle, std::thread::JoinHandle<()>, UnboundedReceiver<Ask>) {
    let start = Instant::now();
    let publication = Publication::new(Snapshot::empty(), 0);
    let flows = Arc::new(FlowTables::new(256, 256, HugePages::Never, 1).unwrap());
    let history = Arc::new(History::default());
    let hits = Arc::new(Hits::new(0));
    let (own_requests, requests) = crossbeam::channel::unbounded();
    let (_, events) = crossbeam::channel::bounded(1);
    let (asks, asked) = tokio::sync::mpsc::unbounded_channel();
    let handle = Handle::new(Shared {
        requests: own_requests.clone(),
        publication: Arc::clone(&publication),
        flows: Arc::clone(&flows),
        history: Arc::clone(&history),
        hits: Arc::clone(&hits),
        workers: Vec::new(),
        start,
        applying: Mutex::default(),
        compiler: std::sync::Mutex::default(),
        checks: Arc::new(Checks::new(Some(checking))),
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
        hits,
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

/// A pod that nobody may reach.
fn isolated() -> Update {
    Update {
        endpoints: vec![Endpoint {
            name: ObjectName::new("shop", "db"),
            node: "a".into(),
            addresses: vec!["10.1.0.9".parse().unwrap()],
            host_network: false,
            identity: 0,
        }],
        policies: vec![Policy {
            name: ObjectName::new("shop", "closed"),
            subjects: vec![0],
            ingress: Some(vec![]),
            ..Policy::default()
        }],
        ..Update::default()
    }
}

#[tokio::test]
async fn tables_that_differ_from_the_policies_are_refused_and_what_ran_goes_on() {
    let empty = || Intent { identities: vec![Identity::default()], ..intent() };
    let whole = || {
        let mut intent = empty();
        isolated().apply_to(&mut intent);
        intent
    };
    // As if the policy had been lost in compiling.
    let wrong = |compiler: &mut Compiler| compiler.check_table(&PolicyTable::default(), 2);
    let wrong_update = |compiler: &mut Compiler, prepared: &Prepared| {
        let mut next = Compiler::new(compiler.intent(), 2, &Capacity::default(), None).unwrap();
        let update = next.prepare(isolated(), prepared.tables().generation).unwrap();
        next.commit(update);
        next.check_table(&compiler.tables().policy, prepared.tables().generation)
    };
    let checking = Checking { whole: wrong, prepared: wrong_update };
    let (handle, thread, _asked) = start_checking(checking);
    let refused = handle.apply(whole(), None).await.unwrap_err();
    assert_eq!((refused.kind, refused.field.as_str()), (RefusalKind::CheckFailed, "policy"));
    assert_eq!(handle.state().await, State { generation: 0, workers: vec![], intent: Intent::default() });
    let report = handle.stats().await.checks.report.unwrap();
    assert_eq!((report.checked.generation, handle.stats().await.checks.refused), (2, 1));
    let about = |text: &String| text.contains("Pod shop/db (10.1.0.9)") && text.contains("denied by no-rule");
    assert!(report.mismatches.iter().any(about), "{:?}", report.mismatches);
    handle.stop();
    thread.join().unwrap();

    let (handle, thread, _asked) = start_checking(Checking { prepared: wrong_update, ..Checking::ORACLE });
    assert_eq!(handle.apply(empty(), None).await.unwrap().generation, 1);
    let refused = handle.update(isolated(), 1).await.unwrap_err();
    assert_eq!((refused.kind, refused.object.as_str()), (RefusalKind::CheckFailed, "generation 2"));
    let state = handle.state().await;
    assert_eq!((state.generation, state.intent), (1, empty()));
    let checks = handle.stats().await.checks;
    assert_eq!((checks.passed, checks.refused, checks.last.generation), (1, 1, 1));
    // The whole state, compiled rightly, is taken.
    assert_eq!(handle.apply(whole(), Some(1)).await.unwrap().generation, 2);
    let checks = handle.stats().await.checks;
    assert_eq!((checks.passed, checks.refused, checks.last.generation), (2, 1, 2));
    assert!(checks.last.witnesses > 0 && checks.last.left_out == 0 && checks.report.is_some());
    handle.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn what_is_right_passes_the_check_and_none_is_made_where_it_is_switched_off() {
    let (handle, thread, _asked) = start();
    handle.apply(Intent { identities: vec![Identity::default()], ..intent() }, None).await.unwrap();
    handle.update(isolated(), 1).await.unwrap();
    let checks = handle.stats().await.checks;
    assert_eq!((checks.passed, checks.refused, checks.report), (2, 0, None));
    assert_eq!(checks.last.generation, 2);
    assert!(checks.last.witnesses > 0);
    handle.stop();
    thread.join().unwrap();
    let checks = Checks::new(None);
    checks.compiled(intent(), 1, None).unwrap();
    assert_eq!(checks.stats(), Default::default());
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
