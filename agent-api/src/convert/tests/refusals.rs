//! One row for each check: a good message, one thing wrong with it, and the object, field and problem that are named.

use policy_compiler::intent::Intent;

use super::super::FieldError;
use super::super::calls::{added_port, applied_intent, flow_list, port_list};
use super::super::shadow::{candidate, set_shadow};
use crate::contract::{
    AddPort, DropEvent, ExplainQuery, Explanation, PolicyHits, PortInfo, Refusal, RefusalKind,
    ShadowDifference, State,
};
use crate::proto;

const NO_ADDRESS: &str = "an address has 4 or 16 bytes, this has 3";
const NO_PORT: &str = "a port is at most 65535, this is 65536";

fn name(name: &str) -> Option<proto::ObjectName> {
    Some(proto::ObjectName { namespace: "shop".into(), name: name.into() })
}

fn prefix(address: &[u8], length: u32) -> proto::Prefix {
    proto::Prefix { address: address.to_vec(), length }
}

fn tcp() -> i32 {
    proto::Protocol::Tcp.into()
}

/// One of everything.
fn good() -> proto::Intent {
    let range = proto::port_match::Port::Range(proto::PortRange { first: 80, last: 90 });
    let rule = || proto::Rule {
        index: 0,
        peers: Some(proto::Peers {
            identities: vec![0],
            blocks: vec![proto::IpBlock {
                cidr: Some(prefix(&[10, 0, 0, 0], 8)),
                except: vec![prefix(&[10, 1, 0, 0], 16)],
            }],
        }),
        ports: Some(proto::PortMatches {
            matches: vec![proto::PortMatch { protocol: tcp(), port: Some(range.clone()) }],
        }),
        ..Default::default()
    };
    let policy = proto::Policy {
        kind: proto::PolicyKind::NetworkPolicy.into(),
        name: name("db"),
        subjects: vec![0],
        ingress: Some(proto::Rules { rules: vec![rule()] }),
        egress: Some(proto::Rules { rules: vec![rule(), rule()] }),
        ..Default::default()
    };
    let service = proto::Service {
        name: name("web"),
        protocol: tcp(),
        frontends: vec![proto::Frontend {
            kind: proto::FrontendKind::ClusterIp.into(),
            address: vec![10, 96, 0, 10],
            port: 80,
            ipv6: false,
        }],
        source_ranges: vec![prefix(&[0xfd; 16], 64)],
        backends: vec![proto::Backend {
            address: vec![10, 244, 0, 2],
            port: 8080,
            weight: 1,
            ..Default::default()
        }],
        ..Default::default()
    };
    proto::Intent {
        node: "a".into(),
        vni: 4096,
        nodes: vec![proto::Node {
            name: "a".into(),
            addresses: vec![vec![192, 0, 2, 1]],
            pod_cidrs: vec![prefix(&[10, 244, 0, 0], 24)],
            ..Default::default()
        }],
        identities: vec![proto::Identity {
            named_ports: vec![proto::NamedPort { name: "http".into(), protocol: tcp(), port: 8080 }],
            ..Default::default()
        }],
        endpoints: vec![proto::Endpoint {
            name: name("web-0"),
            addresses: vec![vec![10, 244, 0, 2]],
            ..Default::default()
        }],
        policies: vec![policy],
        services: vec![service],
        service_ranges: vec![prefix(&[10, 96, 0, 0], 16)],
    }
}

/// What is done to the good intent, and the object, field and problem that the refusal names.
type Row = (fn(&mut proto::Intent), &'static str, &'static str, &'static str);

fn check(rows: &[Row]) {
    for (spoil, object, field, problem) in rows {
        let mut message = good();
        spoil(&mut message);
        let refusal = applied_intent(Some(message)).unwrap_err().refusal("Intent");
        let found = (refusal.object.as_str(), refusal.field.as_str(), refusal.problem.as_str());
        assert_eq!(found, (*object, *field, *problem));
        assert_eq!(refusal.kind, RefusalKind::Invalid);
    }
}

fn rule(intent: &mut proto::Intent) -> &mut proto::Rule {
    &mut intent.policies[0].ingress.as_mut().unwrap().rules[0]
}

fn block(intent: &mut proto::Intent) -> &mut proto::IpBlock {
    &mut rule(intent).peers.as_mut().unwrap().blocks[0]
}

fn ports(intent: &mut proto::Intent) -> &mut proto::PortMatch {
    &mut rule(intent).ports.as_mut().unwrap().matches[0]
}

fn range(first: u32, last: u32) -> Option<proto::port_match::Port> {
    Some(proto::port_match::Port::Range(proto::PortRange { first, last }))
}

#[test]
fn a_good_intent_is_taken() {
    assert!(Intent::try_from(good()).is_ok());
}

#[test]
fn an_intent_that_is_not_there() {
    let refusal = applied_intent(None).unwrap_err().refusal("Intent");
    assert_eq!((refusal.object.as_str(), refusal.field.as_str()), ("Intent", "intent"));
    assert_eq!(refusal.problem, "is missing");
}

#[test]
fn nodes_and_ranges() {
    check(&[
        (|i| i.nodes[0].addresses[0] = vec![1, 2, 3], "Node a", "addresses[0]", NO_ADDRESS),
        (
            |i| i.nodes[0].addresses.push(Vec::new()),
            "Node a",
            "addresses[1]",
            "an address has 4 or 16 bytes, this has 0",
        ),
        (
            |i| i.nodes[0].pod_cidrs[0].length = 33,
            "Node a",
            "pod_cidrs[0].length",
            "is at most 32 here, this is 33",
        ),
        (
            |i| i.nodes[0].pod_cidrs[0] = prefix(&[0xfd; 16], 129),
            "Node a",
            "pod_cidrs[0].length",
            "is at most 128 here, this is 129",
        ),
        // 256 + 24 must not be taken for 24.
        (
            |i| i.nodes[0].pod_cidrs[0].length = 280,
            "Node a",
            "pod_cidrs[0].length",
            "is at most 32 here, this is 280",
        ),
        (|i| i.nodes[0].pod_cidrs[0].address.truncate(3), "Node a", "pod_cidrs[0].address", NO_ADDRESS),
        (
            |i| i.service_ranges[0].length = 40,
            "Intent",
            "service_ranges[0].length",
            "is at most 32 here, this is 40",
        ),
    ]);
}

#[test]
fn identities_and_endpoints() {
    check(&[
        (
            |i| i.identities[0].named_ports[0].protocol = 0,
            "Intent",
            "identities[0].named_ports[0].protocol",
            "is unspecified",
        ),
        (
            |i| i.identities[0].named_ports[0].protocol = 9,
            "Intent",
            "identities[0].named_ports[0].protocol",
            "9 is no value that is known",
        ),
        (
            |i| i.identities[0].named_ports[0].port = 65536,
            "Intent",
            "identities[0].named_ports[0].port",
            NO_PORT,
        ),
        (|i| i.endpoints[0].name = None, "Intent", "endpoints[0].name", "is missing"),
        (|i| i.endpoints[0].name = name(""), "Intent", "endpoints[0].name.name", "is empty"),
        (|i| i.endpoints[0].addresses[0] = vec![0; 3], "Pod shop/web-0", "addresses[0]", NO_ADDRESS),
    ]);
}

#[test]
fn policies() {
    let db = "NetworkPolicy shop/db";
    check(&[
        (|i| i.policies[0].name = None, "Intent", "policies[0].name", "is missing"),
        (|i| i.policies[0].kind = 0, "Policy shop/db", "kind", "is unspecified"),
        (|i| i.policies[0].kind = -7, "Policy shop/db", "kind", "-7 is no value that is known"),
        (|i| block(i).cidr = None, db, "ingress[0].peers.blocks[0].cidr", "is missing"),
        (
            |i| block(i).cidr = Some(prefix(&[0; 4], u32::MAX)),
            db,
            "ingress[0].peers.blocks[0].cidr.length",
            "is at most 32 here, this is 4294967295",
        ),
        (
            |i| block(i).except[0].address.truncate(3),
            db,
            "ingress[0].peers.blocks[0].except[0].address",
            NO_ADDRESS,
        ),
        (|i| ports(i).protocol = 0, db, "ingress[0].ports[0].protocol", "is unspecified"),
        (|i| ports(i).protocol = 4, db, "ingress[0].ports[0].protocol", "4 is no value that is known"),
        (|i| ports(i).port = None, db, "ingress[0].ports[0].port", "is missing"),
        (|i| ports(i).port = range(65536, 65536), db, "ingress[0].ports[0].range.first", NO_PORT),
        (|i| ports(i).port = range(1, 65536), db, "ingress[0].ports[0].range.last", NO_PORT),
        (
            |i| {
                i.policies[0].egress.as_mut().unwrap().rules[1].ports.as_mut().unwrap().matches[0].port = None
            },
            db,
            "egress[1].ports[0].port",
            "is missing",
        ),
        (|i| i.policies[0].revocation = 4, db, "revocation", "4 is no value that is known"),
        (|i| i.policies[0].tier = 1, db, "tier", "a NetworkPolicy has none"),
        (|i| i.policies[0].priority = 1, db, "priority", "a NetworkPolicy has none"),
        (|i| rule(i).action = 9, db, "ingress[0].action", "9 is no value that is known"),
    ]);
}

#[test]
fn cluster_policies() {
    let db = "ClusterNetworkPolicy shop/db";
    check(&[
        (|i| make_cluster(i, 0, 0), db, "tier", "is unspecified"),
        (|i| make_cluster(i, 3, 0), db, "tier", "3 is no value that is known"),
        (|i| make_cluster(i, 1, 1001), db, "priority", "is at most 1000, this is 1001"),
        (|i| make_cluster(i, 2, u32::MAX), db, "priority", "is at most 1000, this is 4294967295"),
        (|i| make_cluster(i, 2, 1000), db, "ingress[0].action", "is unspecified"),
    ]);
}

fn make_cluster(intent: &mut proto::Intent, tier: i32, priority: u32) {
    let policy = &mut intent.policies[0];
    policy.kind = proto::PolicyKind::ClusterNetworkPolicy.into();
    (policy.tier, policy.priority) = (tier, priority);
}

#[test]
fn services() {
    let web = "Service shop/web";
    check(&[
        (|i| i.services[0].name = None, "Intent", "services[0].name", "is missing"),
        (|i| i.services[0].protocol = 5, web, "protocol", "5 is no value that is known"),
        (|i| i.services[0].frontends[0].kind = 0, web, "frontends[0].kind", "is unspecified"),
        (|i| i.services[0].frontends[0].kind = 5, web, "frontends[0].kind", "5 is no value that is known"),
        (|i| i.services[0].frontends[0].address = vec![0; 3], web, "frontends[0].address", NO_ADDRESS),
        (|i| i.services[0].frontends[0].port = 65536, web, "frontends[0].port", NO_PORT),
        (|i| i.services[0].internal_policy = 3, web, "internal_policy", "3 is no value that is known"),
        (|i| i.services[0].external_policy = 3, web, "external_policy", "3 is no value that is known"),
        (
            |i| i.services[0].source_ranges[0].length = 129,
            web,
            "source_ranges[0].length",
            "is at most 128 here, this is 129",
        ),
        (|i| i.services[0].backends[0].address.truncate(3), web, "backends[0].address", NO_ADDRESS),
        (|i| i.services[0].backends[0].port = 65536, web, "backends[0].port", NO_PORT),
    ]);
}

fn named<T: std::fmt::Debug>(result: Result<T, FieldError>) -> (String, String, String) {
    let Refusal { object, field, problem, .. } = result.unwrap_err().refusal("Message");
    (object, field, problem)
}

fn row(object: &str, field: &str, problem: &str) -> (String, String, String) {
    (object.into(), field.into(), problem.into())
}

#[test]
fn questions() {
    let good = || proto::ExplainRequest {
        src: vec![10, 0, 0, 1],
        src_port: 1,
        dst: vec![0; 16],
        dst_port: 2,
        protocol: 6,
    };
    assert!(ExplainQuery::try_from(good()).is_ok());
    type Spoil = fn(&mut proto::ExplainRequest);
    let rows: [(Spoil, &str, &str); 5] = [
        (|q| q.src = vec![0; 3], "src", NO_ADDRESS),
        (|q| q.dst = vec![0; 3], "dst", NO_ADDRESS),
        (|q| q.src_port = 65536, "src_port", NO_PORT),
        (|q| q.dst_port = 65536, "dst_port", NO_PORT),
        (|q| q.protocol = 256, "protocol", "an IP protocol number is at most 255, this is 256"),
    ];
    for (spoil, field, problem) in rows {
        let mut message = good();
        spoil(&mut message);
        assert_eq!(named(ExplainQuery::try_from(message)), row("Message", field, problem));
    }
}

#[test]
fn ports_to_add() {
    let role = proto::port_role::Role::Pod("shop/web".into());
    let good = proto::AddPortRequest {
        device: "veth0".into(),
        role: Some(proto::PortRole { role: Some(role) }),
        peer_mac: vec![2, 0, 0, 0, 0, 1],
    };
    assert!(AddPort::try_from(good.clone()).is_ok());
    let refused = |spoil: fn(&mut proto::AddPortRequest)| {
        let mut message = good.clone();
        spoil(&mut message);
        named(AddPort::try_from(message))
    };
    assert_eq!(refused(|m| m.device.clear()), row("Message", "device", "is empty"));
    assert_eq!(refused(|m| m.role = None), row("port veth0", "role", "is missing"));
    let without = |m: &mut proto::AddPortRequest| m.role = Some(proto::PortRole { role: None });
    assert_eq!(refused(without), row("port veth0", "role", "is missing"));
    let problem = "a MAC address has 6 bytes, this has 5";
    assert_eq!(refused(|m| m.peer_mac.truncate(5)), row("port veth0", "peer_mac", problem));
}

#[test]
fn answers() {
    let port = || proto::Port {
        role: Some(proto::PortRole { role: Some(proto::port_role::Role::Host(proto::Host {})) }),
        mac: vec![2, 0, 0, 0, 0, 1],
        ..Default::default()
    };
    assert!(PortInfo::try_from(port()).is_ok());
    let no_mac = "a MAC address has 6 bytes, this has 0";
    let bad = proto::Port { mac: Vec::new(), ..port() };
    assert_eq!(named(PortInfo::try_from(bad.clone())), row("Message", "mac", no_mac));
    let list = proto::ListPortsResponse { ports: vec![port(), bad] };
    assert_eq!(named(port_list(list)), row("Message", "ports[1].mac", no_mac));
    let bad = proto::Port { addresses: vec![vec![0; 4], vec![0; 3]], ..port() };
    assert_eq!(named(PortInfo::try_from(bad)), row("Message", "addresses[1]", NO_ADDRESS));
    assert_eq!(
        named(added_port(proto::AddPortResponse { port: None })),
        row("Message", "port", "is missing")
    );

    let flow = proto::Flow { src: vec![0; 4], dst: vec![0; 3], ..Default::default() };
    let list = proto::ListFlowsResponse { flows: vec![flow] };
    assert_eq!(named(flow_list(list)), row("Message", "flows[0].dst", NO_ADDRESS));

    let event = proto::DropEvent { src_port: 65536, ..Default::default() };
    assert_eq!(named(DropEvent::try_from(event)), row("Message", "src_port", NO_PORT));
    let event = proto::DropEvent { dst: vec![0; 3], ..Default::default() };
    assert_eq!(named(DropEvent::try_from(event)), row("Message", "dst", NO_ADDRESS));
    let difference = || proto::ShadowDifference { src: vec![0; 4], dst: vec![0; 4], ..Default::default() };
    let rows = [
        (proto::ShadowDifference { src: vec![0; 3], ..difference() }, "src", NO_ADDRESS),
        (proto::ShadowDifference { dst: vec![0; 3], ..difference() }, "dst", NO_ADDRESS),
        (proto::ShadowDifference { src_port: 65536, ..difference() }, "src_port", NO_PORT),
        (proto::ShadowDifference { dst_port: 65536, ..difference() }, "dst_port", NO_PORT),
    ];
    for (message, field, problem) in rows {
        assert_eq!(named(ShadowDifference::try_from(message)), row("Message", field, problem));
    }
    let empty = proto::SetShadowRequest::default();
    assert_eq!(named(candidate(empty)), row("Message", "intent", "is missing"));
    assert_eq!(named(set_shadow(Default::default())), row("Message", "shadow", "is missing"));

    let state = proto::GetStateResponse::default();
    assert_eq!(named(State::try_from(state)), row("Message", "intent", "is missing"));

    for (kind, problem) in [(0, "is unspecified"), (8, "8 is no value that is known")] {
        let refusal = proto::Refusal { kind, ..Default::default() };
        assert_eq!(named(Refusal::try_from(refusal)), row("Message", "kind", problem));
    }
}

#[test]
fn what_decides() {
    let rule = proto::RuleOrigin {
        kind: 1,
        name: Some(proto::ObjectName { namespace: String::new(), name: "x".into() }),
        ..Default::default()
    };
    let by = |direction, basis| Some(proto::DecidedBy { direction, basis });
    let by_rule = |rule| by(1, Some(proto::decided_by::Basis::Rule(rule)));
    let rows = [
        (by(0, None), "direction", "is unspecified"),
        (by(3, None), "direction", "3 is no value that is known"),
        (by(2, None), "basis", "is missing"),
        (by_rule(proto::RuleOrigin { kind: 0, ..rule.clone() }), "rule.kind", "is unspecified"),
        (by_rule(proto::RuleOrigin { name: None, ..rule.clone() }), "rule.name", "is missing"),
    ];
    for (decided_by, field, problem) in rows {
        let event = proto::DropEvent { decided_by: decided_by.clone(), ..Default::default() };
        assert_eq!(
            named(DropEvent::try_from(event)),
            row("Message", &format!("decided_by.{field}"), problem)
        );
        let decisions = vec![proto::PolicyDecision { allowed: true, decided_by }];
        let answer = proto::ExplainResponse { decisions, ..Default::default() };
        let field = format!("decisions[0].decided_by.{field}");
        assert_eq!(named(Explanation::try_from(answer)), row("Message", &field, problem));
    }
    let hits = |decided_by, action| proto::ListRuleHitsResponse {
        hits: vec![proto::RuleHits { decided_by, action, ..Default::default() }],
        ..Default::default()
    };
    assert!(PolicyHits::try_from(hits(by_rule(rule.clone()), 3)).is_ok());
    let unknown = named(PolicyHits::try_from(hits(by_rule(rule), 4)));
    assert_eq!(unknown, row("Message", "hits[0].action", "4 is no value that is known"));
    let missing = named(PolicyHits::try_from(hits(None, 1)));
    assert_eq!(missing, row("Message", "hits[0].decided_by", "is missing"));
}
