//! What crosses the wire, over a Unix socket and over loopback TCP.

use std::time::{Duration, Instant};

use agent_api::client::ClientError;
use agent_api::contract::{ExplainQuery, Refusal, RefusalKind, State};
use agent_api::server::{GRACE, ServerError, serve_listener, serve_tcp};
use agent_api::status::to_refusal;
use agent_api::{address::Address, proto};
use futures::StreamExt;
use policy_compiler::intent::{Endpoint, Identity, Intent, Node, ObjectName};
use proto::penstock_client::PenstockClient;
use tokio::time::timeout;
use tonic::Code;

use super::double::{self, Call, Double, dropped, port_request, refusal, until};
use super::stage::{SOON, Served, TRANSPORTS, Transport, intent};

fn query(dst_port: u16) -> ExplainQuery {
    let address = |text: &str| text.parse().unwrap();
    ExplainQuery {
        src: address("10.244.1.10"),
        src_port: 40000,
        dst: address("10.244.1.20"),
        dst_port,
        protocol: 6,
    }
}

#[tokio::test]
async fn every_question_arrives_and_every_answer_comes_back() {
    for transport in TRANSPORTS {
        let served = Served::over(transport).await;
        let client = served.client().await;
        let intent = intent();

        let applied = client.apply(intent.clone(), None).await.unwrap();
        assert_eq!((applied.generation, applied.microseconds), (1, 1234), "{transport:?}");
        let applied = client.apply(intent.clone(), Some(1)).await.unwrap();
        assert_eq!(applied.generation, 2);
        let state = State { generation: 2, workers: vec![2, 2], intent: intent.clone() };
        assert_eq!(client.state().await.unwrap(), state);
        let stats = client.stats().await.unwrap();
        assert_eq!((stats.generation, stats.uptime_seconds), (2, 12.5));
        assert_eq!((stats.workers, stats.ports, stats.flows), {
            let wanted = double::stats();
            (wanted.workers, wanted.ports, wanted.flows)
        });

        assert_eq!(client.explain(query(27017)).await.unwrap(), double::explanation(true));
        assert_eq!(client.explain(query(23)).await.unwrap(), double::explanation(false));
        let port = client.add_port(port_request("veth0")).await.unwrap();
        assert_eq!(port.peer_mac, port_request("veth0").peer_mac);
        assert_eq!(client.ports().await.unwrap(), [port]);
        client.remove_port("veth0".into()).await.unwrap();
        assert_eq!(client.ports().await.unwrap(), []);
        assert_eq!(client.flows(1).await.unwrap(), double::flows()[..1]);
        assert_eq!(client.flows(usize::MAX).await.unwrap(), double::flows());

        let calls = [
            Call::Apply { intent: intent.clone(), expected: None },
            Call::Apply { intent, expected: Some(1) },
            Call::Explain(query(27017)),
            Call::Explain(query(23)),
            Call::AddPort(port_request("veth0")),
            Call::RemovePort("veth0".into()),
            Call::Flows(1),
            Call::Flows(usize::MAX),
        ];
        assert_eq!(served.double.calls(), calls);
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Refusal {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refusal_travels_whole() {
    let kinds = [
        RefusalKind::Invalid,
        RefusalKind::NotFound,
        RefusalKind::Exists,
        RefusalKind::Capacity,
        RefusalKind::CheckFailed,
        RefusalKind::Conflict,
        RefusalKind::System,
    ];
    for transport in TRANSPORTS {
        let served = Served::over(transport).await;
        let client = served.client().await;
        client.apply(intent(), None).await.unwrap();
        for kind in kinds {
            // As long as parts may be, and not ASCII.
            let wanted = refusal("Service shop/größe", "backends[2].port", &"zu groß … ".repeat(120), kind);
            served.double.refuse(Some(wanted.clone()));
            assert_eq!(refused(client.apply(Intent::default(), None).await), wanted, "{transport:?}");
            assert_eq!(refused(client.explain(query(80)).await), wanted);
            assert_eq!(refused(client.add_port(port_request("veth0")).await), wanted);
            assert_eq!(refused(client.remove_port("veth0".into()).await), wanted);
        }
        served.double.refuse(None);
        let state = client.state().await.unwrap();
        assert_eq!((state.generation, state.intent), (1, intent()), "what was running goes on");
    }
}

#[tokio::test]
async fn a_wrong_expectation_is_a_conflict() {
    let served = Served::unix().await;
    let client = served.client().await;
    let refusal = refused(client.apply(intent(), Some(7)).await);
    assert_eq!((refusal.field.as_str(), refusal.kind), ("expected_generation", RefusalKind::Conflict));
    assert_eq!(served.double.generation(), 0);
}

#[tokio::test]
async fn a_message_that_cannot_be_is_refused_before_the_dataplane_sees_it() {
    let served = Served::unix().await;
    let channel = tonic::transport::Endpoint::from_shared(served.address.to_string()).unwrap();
    let mut client = PenstockClient::new(channel.connect().await.unwrap());
    let name = proto::ObjectName { namespace: "shop".into(), name: "web".into() };
    let backend = proto::Backend { address: vec![10, 0, 0, 1], port: 70000, ..Default::default() };
    let service = proto::Service { name: Some(name), backends: vec![backend], ..Default::default() };
    let bad = proto::Intent { services: vec![service], ..Default::default() };

    let named = |status: tonic::Status| {
        assert_eq!(status.code(), Code::InvalidArgument);
        let Refusal { object, field, problem, kind } = to_refusal(&status).unwrap();
        assert_eq!(kind, RefusalKind::Invalid);
        (object, field, problem)
    };
    let row = |object: &str, field: &str, problem: &str| (object.into(), field.into(), problem.into());
    let apply = proto::ApplyRequest { intent: Some(bad), expected_generation: None };
    let problem = "a port is at most 65535, this is 70000";
    assert_eq!(
        named(client.apply(apply).await.unwrap_err()),
        row("Service shop/web", "backends[0].port", problem)
    );
    let apply = proto::ApplyRequest::default();
    assert_eq!(named(client.apply(apply).await.unwrap_err()), row("Intent", "intent", "is missing"));
    let explain = proto::ExplainRequest::default();
    let problem = "an address has 4 or 16 bytes, this has 0";
    assert_eq!(named(client.explain(explain).await.unwrap_err()), row("ExplainRequest", "src", problem));
    let add = proto::AddPortRequest { device: "veth0".into(), ..Default::default() };
    assert_eq!(named(client.add_port(add).await.unwrap_err()), row("port veth0", "role", "is missing"));
    let add = proto::AddPortRequest::default();
    assert_eq!(named(client.add_port(add).await.unwrap_err()), row("AddPortRequest", "device", "is empty"));
    assert_eq!(served.double.calls(), []);
}

#[tokio::test]
async fn drops_are_seen_as_they_happen_until_the_server_stops() {
    for transport in TRANSPORTS {
        let mut served = Served::over(transport).await;
        let client = served.client().await;
        let mut events = client.watch_drops().await.unwrap();
        for reason in ["policy-denied", "ttl-expired"] {
            served.double.drop_packet(dropped(reason)).await;
            let event = timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(event, dropped(reason), "{transport:?}");
        }
        served.stop();
        let end = timeout(SOON, events.next()).await.unwrap();
        assert!(end.is_none(), "{transport:?}: the stream ends and does not break: {end:?}");
        served.ended().await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_abort_its_change() {
    for transport in TRANSPORTS {
        let served = Served::over(transport).await;
        served.double.hold(true);
        let client = served.client().await;
        let call = tokio::spawn(async move { client.apply(intent(), None).await });
        until("the call", || served.double.calls().len() == 1).await;
        call.abort();
        // Its connection has gone with it.
        assert!(call.await.unwrap_err().is_cancelled());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(served.double.generation(), 0);
        served.double.hold(false);
        until("the end of the change", || served.double.generation() == 1).await;
    }
}

#[tokio::test]
async fn a_change_that_panics_is_a_refusal_and_the_server_goes_on() {
    let served = Served::unix().await;
    let client = served.client().await;
    served.double.panic();
    let refusal = refused(client.apply(intent(), None).await);
    assert_eq!((refusal.object.as_str(), refusal.kind), ("penstockd", RefusalKind::System));
    assert_eq!(client.stats().await.unwrap().generation, 0);
}

#[tokio::test]
async fn a_stopping_server_waits_for_open_calls_but_not_for_ever() {
    let mut served = Served::unix().await;
    served.double.hold(true);
    let client = served.client().await;
    let call = tokio::spawn(async move { client.apply(intent(), None).await });
    until("the call", || served.double.calls().len() == 1).await;
    served.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    served.double.hold(false);
    assert_eq!(call.await.unwrap().unwrap().generation, 1, "a call that ends within the grace is answered");
    served.ended().await.unwrap();

    let mut served = Served::unix().await;
    served.double.hold(true);
    let client = served.client().await;
    let _call = tokio::spawn(async move { client.apply(intent(), None).await });
    until("the call", || served.double.calls().len() == 1).await;
    let begun = Instant::now();
    served.stop();
    served.ended().await.unwrap();
    assert!((GRACE..GRACE + Duration::from_secs(2)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

/// A node of a large cluster: more than the transport's own limit of 4 MiB.
fn large() -> Intent {
    let endpoint = |number: u32| Endpoint {
        name: ObjectName::new(
            format!("tenant-{}", number % 500),
            format!("deployment-7f9c6d5b4-{number:05}"),
        ),
        node: "node-a".into(),
        addresses: vec![std::net::Ipv4Addr::from(0x0a00_0000 + number).into()],
        host_network: false,
        identity: number % 1000,
    };
    Intent {
        node: "node-a".into(),
        vni: 4096,
        nodes: vec![Node { name: "node-a".into(), ..Node::default() }],
        identities: vec![Identity::default(); 1000],
        endpoints: (0..50_000).map(endpoint).collect(),
        ..Intent::default()
    }
}

#[tokio::test]
async fn a_state_of_fifty_thousand_endpoints_crosses_both_ways() {
    for transport in TRANSPORTS {
        let served = Served::over(transport).await;
        let client = served.client().await;
        let large = large();
        assert_eq!(client.apply(large.clone(), None).await.unwrap().generation, 1);
        assert_eq!(client.state().await.unwrap().intent, large, "{transport:?}");
    }
}

#[tokio::test]
async fn plaintext_is_for_loopback_alone() {
    let stopped = || std::future::ready(());
    let error = serve_tcp("0.0.0.0:0".parse().unwrap(), Double::new(), stopped()).await.unwrap_err();
    assert!(matches!(error, ServerError::NotLoopback { .. }), "{error}");
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = serve_listener(listener, Double::new(), stopped()).await.unwrap_err();
    assert!(error.to_string().starts_with("0.0.0.0:"), "{error}");

    let served = Served::over(Transport::Tcp).await;
    let Address::Tcp(address) = served.address else { panic!("not TCP") };
    let error = serve_tcp(address, Double::new(), stopped()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("listen on {address}: ")), "{error}");
    serve_tcp("127.0.0.1:0".parse().unwrap(), Double::new(), stopped()).await.unwrap();
}
