//! Arbitrary plain values: everything the types can hold, whether or not a compiler would take it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_compiler::check::Checked;
use policy_compiler::intent::{
    Action, Backend, Endpoint, Frontend, FrontendKind, Identity, Intent, IpBlock, MAX_PRIORITY, Node,
    ObjectName, Peers, Policy, PolicyKind, PortMatch, PortSelector, Protocol, Revocation, Rule, Service,
    Tier, TrafficPolicy,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::contract::{
    AddPort, Applied, Basis, CheckReport, CheckStats, DecidedBy, Direction, DropEvent, ExplainQuery,
    Explanation, FlowInfo, FlowTableStats, PolicyDecision, PolicyHits, PortInfo, PortRole, PortStats,
    Refusal, RefusalKind, RuleHits, RuleRef, ShadowDifference, ShadowRow, ShadowStatus, State, Stats,
    WorkerStats,
};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z0-9./=-]{0,10}", 1 => any::<String>()]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    vec(address(), 0..3)
}

/// Bits behind the length are kept as they are.
fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128_u8).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(most)).unwrap()
    })
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    vec(prefix(), 0..3)
}

fn object_name() -> impl Strategy<Value = ObjectName> {
    (text(), "[a-z]{1,8}").prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

pub(super) fn intent() -> impl Strategy<Value = Intent> {
    let parts = (
        text(),
        any::<u32>(),
        vec(node(), 0..3),
        vec(identity(), 0..3),
        vec(endpoint(), 0..4),
        vec(policy(), 0..3),
        vec(service(), 0..3),
        prefixes(),
    );
    parts.prop_map(|(node, vni, nodes, identities, endpoints, policies, services, service_ranges)| Intent {
        node,
        vni,
        nodes,
        identities,
        endpoints,
        policies,
        services,
        service_ranges,
    })
}

fn node() -> impl Strategy<Value = Node> {
    (text(), addresses(), prefixes(), text()).prop_map(|(name, addresses, pod_cidrs, zone)| Node {
        name,
        addresses,
        pod_cidrs,
        zone,
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (text(), vec(text(), 0..3), vec((text(), protocol(), any::<u16>()), 0..3))
        .prop_map(|(namespace, labels, named_ports)| Identity { namespace, labels, named_ports })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (object_name(), text(), addresses(), any::<bool>(), any::<u32>()).prop_map(
        |(name, node, addresses, host_network, identity)| Endpoint {
            name,
            node,
            addresses,
            host_network,
            identity,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let rules = |cluster: bool| option::of(vec(rule(cluster), 0..3));
    let tier = prop_oneof![
        Just(Tier::NetworkPolicy),
        (0..=MAX_PRIORITY).prop_map(Tier::Admin),
        (0..=MAX_PRIORITY).prop_map(Tier::Baseline),
    ];
    let revocation = select(vec![Revocation::Keep, Revocation::Drop, Revocation::Reset]);
    let parts = move |tier: Tier| {
        let rules = || rules(tier != Tier::NetworkPolicy);
        (object_name(), text(), revocation.clone(), vec(any::<u32>(), 0..4), rules(), rules()).prop_map(
            move |(name, resource_version, revocation, subjects, ingress, egress)| Policy {
                tier,
                name,
                resource_version,
                revocation,
                subjects,
                ingress,
                egress,
            },
        )
    };
    tier.prop_flat_map(parts)
}

fn rule(cluster: bool) -> impl Strategy<Value = Rule> {
    let actions =
        if cluster { vec![Action::Accept, Action::Deny, Action::Pass] } else { vec![Action::Accept] };
    let ports = option::of(vec(port_match(), 0..3));
    (any::<u32>(), text(), any::<bool>(), select(actions), option::of(peers()), ports).prop_map(
        |(index, name, selects_pods, action, peers, ports)| Rule {
            index,
            name,
            selects_pods,
            action,
            peers,
            ports,
        },
    )
}

fn peers() -> impl Strategy<Value = Peers> {
    let block = (prefix(), prefixes()).prop_map(|(cidr, except)| IpBlock { cidr, except });
    (vec(any::<u32>(), 0..4), vec(block, 0..3)).prop_map(|(identities, blocks)| Peers { identities, blocks })
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let port = prop_oneof![
        Just(PortSelector::Any),
        any::<(u16, u16)>().prop_map(|(first, last)| PortSelector::Range(first, last)),
        text().prop_map(PortSelector::Named),
    ];
    (protocol(), port).prop_map(|(protocol, port)| PortMatch { protocol, port })
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn service() -> impl Strategy<Value = Service> {
    let parts = (
        object_name(),
        text(),
        option::of(protocol()),
        vec(frontend(), 0..3),
        traffic_policy(),
        traffic_policy(),
        any::<Option<u32>>(),
        prefixes(),
        vec(backend(), 0..3),
    );
    parts.prop_map(
        |(name, port_name, protocol, frontends, internal, external, affinity, ranges, backends)| Service {
            name,
            port_name,
            protocol,
            frontends,
            internal_policy: internal,
            external_policy: external,
            affinity_seconds: affinity,
            source_ranges: ranges,
            backends,
        },
    )
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let kind = prop_oneof![
        Just(FrontendKind::ClusterIp),
        Just(FrontendKind::NodePort),
        Just(FrontendKind::ExternalIp),
        Just(FrontendKind::LoadBalancer),
    ];
    (kind, option::of(address()), any::<u16>(), any::<bool>())
        .prop_map(|(kind, address, port, ipv6)| Frontend { kind, address, port, ipv6 })
}

fn backend() -> impl Strategy<Value = Backend> {
    let hints = (vec(text(), 0..2), vec(text(), 0..2));
    (address(), any::<u16>(), text(), any::<[bool; 3]>(), hints, any::<u32>()).prop_map(
        |(address, port, node, [ready, serving, terminating], (zone_hints, node_hints), weight)| Backend {
            address,
            port,
            node,
            ready,
            serving,
            terminating,
            zone_hints,
            node_hints,
            weight,
        },
    )
}

pub(super) fn state() -> impl Strategy<Value = State> {
    (any::<u64>(), vec(any::<u64>(), 0..4), intent()).prop_map(|(generation, workers, intent)| State {
        generation,
        workers,
        intent,
    })
}

pub(super) fn applied() -> impl Strategy<Value = Applied> {
    any::<(u64, u64)>().prop_map(|(generation, microseconds)| Applied { generation, microseconds })
}

pub(super) fn refusal() -> impl Strategy<Value = Refusal> {
    let kind = prop_oneof![
        Just(RefusalKind::Invalid),
        Just(RefusalKind::NotFound),
        Just(RefusalKind::Exists),
        Just(RefusalKind::Capacity),
        Just(RefusalKind::Conflict),
        Just(RefusalKind::System),
        Just(RefusalKind::CheckFailed),
    ];
    (text(), text(), text(), kind).prop_map(|(object, field, problem, kind)| Refusal {
        object,
        field,
        problem,
        kind,
    })
}

fn counts() -> impl Strategy<Value = BTreeMap<String, u64>> {
    btree_map(text(), any::<u64>(), 0..3)
}

pub(super) fn stats() -> impl Strategy<Value = Stats> {
    let flows = btree_map(text(), flow_table(), 0..3);
    let uptime = any::<f64>().prop_filter("equal to itself", |seconds| !seconds.is_nan());
    (uptime, any::<u64>(), vec(worker(), 0..3), vec(port_stats(), 0..3), flows, checks()).prop_map(
        |(uptime_seconds, generation, workers, ports, flows, checks)| Stats {
            uptime_seconds,
            generation,
            workers,
            ports,
            flows,
            checks,
        },
    )
}

fn checks() -> impl Strategy<Value = CheckStats> {
    let checked = || {
        any::<[u64; 5]>().prop_map(|[generation, subjects, classes, witnesses, left_out]| Checked {
            generation,
            subjects,
            classes,
            witnesses,
            left_out,
        })
    };
    let report = (checked(), any::<u64>(), vec(text(), 0..3))
        .prop_map(|(checked, total, mismatches)| CheckReport { checked, total, mismatches });
    (any::<[u64; 3]>(), checked(), option::of(report)).prop_map(
        |([passed, refused, microseconds], last, report)| CheckStats {
            passed,
            refused,
            microseconds,
            last,
            report,
        },
    )
}

fn worker() -> impl Strategy<Value = WorkerStats> {
    (any::<u32>(), any::<Option<u32>>(), any::<[u64; 10]>(), counts(), any::<[u64; 4]>()).prop_map(
        |(worker, core, numbers, drops, chunks)| {
            let [
                rx,
                generated,
                tx,
                held,
                flow_hits,
                flow_misses,
                busy_turns,
                busy_cycles,
                kernel_cycles,
                sleeps,
            ] = numbers;
            WorkerStats {
                worker,
                core,
                rx,
                generated,
                tx,
                drops,
                held,
                flow_hits,
                flow_misses,
                busy_turns,
                busy_cycles,
                kernel_cycles,
                sleeps,
                chunks,
            }
        },
    )
}

fn port_stats() -> impl Strategy<Value = PortStats> {
    (text(), text(), any::<[u64; 4]>(), counts()).prop_map(|(device, pod, numbers, kernel)| {
        let [rx_packets, rx_bytes, tx_packets, tx_bytes] = numbers;
        PortStats { device, pod, rx_packets, rx_bytes, tx_packets, tx_bytes, kernel }
    })
}

fn flow_table() -> impl Strategy<Value = FlowTableStats> {
    (any::<[u64; 2]>(), counts(), text()).prop_map(|([entries, capacity], evicted, backing)| FlowTableStats {
        entries,
        capacity,
        evicted,
        backing,
    })
}

pub(super) fn drop_event() -> impl Strategy<Value = DropEvent> {
    let end = || (option::of(address()), any::<u16>());
    let texts = (text(), text(), text());
    (any::<[u64; 3]>(), texts, end(), end(), any::<u8>(), option::of(decided_by())).prop_map(
        |(
            [time_ns, generation, missed],
            (reason, device, rule),
            (src, src_port),
            (dst, dst_port),
            protocol,
            decided_by,
        )| {
            DropEvent {
                time_ns,
                reason,
                device,
                src,
                src_port,
                dst,
                dst_port,
                protocol,
                rule,
                decided_by,
                generation,
                missed,
            }
        },
    )
}

pub(super) fn query() -> impl Strategy<Value = ExplainQuery> {
    (address(), any::<u16>(), address(), any::<u16>(), any::<u8>()).prop_map(
        |(src, src_port, dst, dst_port, protocol)| ExplainQuery { src, src_port, dst, dst_port, protocol },
    )
}

pub(super) fn explanation() -> impl Strategy<Value = Explanation> {
    let optional = || option::of(text());
    let decisions = vec(
        (any::<bool>(), decided_by())
            .prop_map(|(allowed, decided_by)| PolicyDecision { allowed, decided_by }),
        0..3,
    );
    (text(), optional(), vec(text(), 0..4), any::<u64>(), text(), text(), optional(), decisions).prop_map(
        |(verdict, reason, steps, generation, egress, ingress, backend, decisions)| Explanation {
            verdict,
            reason,
            steps,
            generation,
            egress,
            ingress,
            decisions,
            backend,
        },
    )
}

fn rule_ref() -> impl Strategy<Value = RuleRef> {
    let kinds = select(vec![PolicyKind::NetworkPolicy, PolicyKind::ClusterNetworkPolicy]);
    (kinds, object_name(), text(), any::<u32>(), text()).prop_map(
        |(kind, object, resource_version, index, rule_name)| RuleRef {
            kind,
            namespace: object.namespace,
            name: object.name,
            resource_version,
            index,
            rule_name,
        },
    )
}

fn decided_by() -> impl Strategy<Value = DecidedBy> {
    let basis = prop_oneof![rule_ref().prop_map(Basis::Rule), Just(Basis::NoRule), Just(Basis::DefaultAllow)];
    (any::<bool>(), basis).prop_map(|(ingress, basis)| DecidedBy { direction: Direction::of(ingress), basis })
}

pub(super) fn policy_hits() -> impl Strategy<Value = PolicyHits> {
    let actions = select(vec![Action::Accept, Action::Deny, Action::Pass]);
    let hits = (decided_by(), actions, any::<[u64; 3]>()).prop_map(|(decided_by, action, counts)| {
        let [flows_allowed, flows_denied, packets_denied] = counts;
        RuleHits { decided_by, action, flows_allowed, flows_denied, packets_denied }
    });
    (any::<u64>(), vec(hits, 0..4)).prop_map(|(generation, hits)| PolicyHits { generation, hits })
}

fn role() -> impl Strategy<Value = PortRole> {
    prop_oneof![text().prop_map(PortRole::Pod), Just(PortRole::Uplink), Just(PortRole::Host)]
}

pub(super) fn add_port() -> impl Strategy<Value = AddPort> {
    ("[a-z0-9]{1,15}", role(), any::<Option<[u8; 6]>>()).prop_map(|(device, role, peer_mac)| AddPort {
        device,
        role,
        peer_mac,
    })
}

pub(super) fn port_info() -> impl Strategy<Value = PortInfo> {
    let macs = any::<([u8; 6], Option<[u8; 6]>)>();
    (text(), role(), addresses(), macs, any::<u32>(), any::<u32>(), text()).prop_map(
        |(device, role, addresses, (mac, peer_mac), mtu, worker, mode)| PortInfo {
            device,
            role,
            addresses,
            mac,
            peer_mac,
            mtu,
            worker,
            mode,
        },
    )
}

pub(super) fn flow_info() -> impl Strategy<Value = FlowInfo> {
    let texts = (text(), text(), text());
    let translated = (option::of(text()), option::of(text()));
    let numbers = (any::<bool>(), any::<u32>(), any::<u64>());
    (query(), texts, translated, numbers, option::of(decided_by())).prop_map(
        |(ends, (verdict, state, rule), translated, (reply, idle_seconds, packets), decided_by)| {
            let (translated_src, translated_dst) = translated;
            FlowInfo {
                src: ends.src,
                src_port: ends.src_port,
                dst: ends.dst,
                dst_port: ends.dst_port,
                protocol: ends.protocol,
                verdict,
                reply,
                state,
                translated_src,
                translated_dst,
                rule,
                decided_by,
                idle_seconds,
                packets,
            }
        },
    )
}

pub(super) fn shadow_status() -> impl Strategy<Value = ShadowStatus> {
    let row = (any::<bool>(), any::<bool>(), text(), text(), any::<u64>()).prop_map(
        |(allowed, ingress, active, candidate, flows)| ShadowRow {
            allowed,
            ingress,
            active,
            candidate,
            flows,
        },
    );
    (any::<[u64; 10]>(), any::<u32>(), vec(row, 0..4)).prop_map(|(numbers, sample, rows)| {
        let [number, base_generation, generation, since_ns, judged, sampled, allowed, denied, unplaced, lost] =
            numbers;
        ShadowStatus {
            number,
            base_generation,
            generation,
            since_ns,
            sample,
            judged,
            sampled,
            newly_allowed: allowed,
            newly_denied: denied,
            unplaced,
            lost,
            rows,
        }
    })
}

pub(super) fn shadow_difference() -> impl Strategy<Value = ShadowDifference> {
    let ends = (address(), any::<u16>(), text(), address(), any::<u16>(), text());
    let rest = (any::<u8>(), option::of(text()), text(), text());
    (any::<[u64; 4]>(), ends, rest, any::<[bool; 4]>()).prop_map(|(numbers, ends, rest, facts)| {
        let [time_ns, shadow, generation, missed] = numbers;
        let (src, src_port, src_name, dst, dst_port, dst_name) = ends;
        let (protocol, backend, active, candidate) = rest;
        let [established, allowed, ingress, stale] = facts;
        ShadowDifference {
            time_ns,
            shadow,
            src,
            src_port,
            src_name,
            dst,
            dst_port,
            protocol,
            backend,
            dst_name,
            established,
            allowed,
            ingress,
            active,
            candidate,
            generation,
            stale,
            missed,
        }
    })
}
