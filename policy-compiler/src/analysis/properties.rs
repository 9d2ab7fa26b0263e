//! What analysis says of arbitrary small clusters is what the oracle says of every pair, port by port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::diff::{Change, Difference, Parties, PolicyDiff, diff};
use super::explain::{End, explain};
use super::reach::{Access, who_can_reach};
use super::{Packet, Party, PortRange};
use crate::intent::{Action, Intent, Tier};
use crate::objects::Objects;
use crate::oracle::Oracle;
use crate::policy::PolicyTable;
use crate::policy::inspect::Sort;
use crate::policy::properties::{addresses, cluster};

/// Every border that the clusters' rules have, and what is beside it.
const PORTS: [u16; 12] = [1, 2, 52, 53, 54, 79, 80, 81, 442, 443, 444, 65535];

fn probes(ipv6: bool) -> impl Iterator<Item = (u8, u16)> {
    let with_ports = [6_u8, 17, 132].into_iter().flat_map(|protocol| PORTS.map(|port| (protocol, port)));
    with_ports.chain([(if ipv6 { 58 } else { 1 }, 0), (47, 0)])
}

/// Whether a range has the port.
fn has(range: &PortRange, protocol: u8, port: u16) -> bool {
    match range.protocol {
        Some(known) => known as u8 == protocol && (range.first..=range.last).contains(&port),
        None => ![6, 17, 132].contains(&protocol),
    }
}

/// Whether `address` is one of the party; `sort` is what it is, `intent` names it.
fn is_of(party: &Party, address: IpAddr, sort: Sort, intent: &Intent) -> bool {
    let nodes = intent.nodes.iter().filter(|node| node.addresses.contains(&address));
    match (party, sort) {
        (Party::Pods { names, count, .. }, Sort::Endpoint) => {
            assert_eq!(names.len(), *count, "few pods are all named");
            let mut pods = intent.endpoints.iter().filter(|pod| pod.addresses.contains(&address));
            pods.any(|pod| !pod.host_network && names.contains(&pod.name.to_string()))
        }
        (Party::Nodes { names, .. }, Sort::Host) => {
            names.contains(&address.to_string()) || nodes.into_iter().any(|node| names.contains(&node.name))
        }
        (Party::Outside { blocks }, Sort::Outside) => blocks.iter().any(|block| block.contains(&address)),
        _ => false,
    }
}

/// Two clusters: the same with other policies, the same with a policy less, with pods moved, or two that have nothing to do
/// with each other.
fn changes() -> impl Strategy<Value = (Objects, Objects)> {
    (cluster(), cluster(), 0..4_u8).prop_map(|(old, other, how)| {
        let mut new = old.clone();
        match how {
            0 => new.network_policies = other.network_policies,
            1 => drop(new.network_policies.pop_first()),
            2 => {
                for pod in new.pods.values_mut() {
                    let spec = pod.spec.get_or_insert_default();
                    let moved = if spec.node_name.as_deref() == Some("a") { "b" } else { "a" };
                    spec.node_name = Some(moved.to_owned());
                }
            }
            _ => new = other,
        }
        (old, new)
    })
}

struct State {
    intent: Intent,
    table: PolicyTable,
}

impl State {
    fn of(objects: &Objects) -> Self {
        let (intent, _) = objects.intent("a").unwrap();
        let table = PolicyTable::compile(&intent).unwrap();
        State { intent, table }
    }
}

/// The differences that speak of the packet.
fn about<'a>(
    found: &'a PolicyDiff,
    old: &State,
    new: &State,
    (src, dst): (IpAddr, IpAddr),
    (protocol, port): (u8, u16),
) -> Vec<&'a Difference> {
    let sorts = [src, dst].map(|address| new.table.look(address).sort);
    let own_node = old.table.is_exempt(src, dst) || new.table.is_exempt(src, dst);
    let family = if src.is_ipv4() { 4 } else { 6 };
    let speaks = |row: &&Difference| {
        let of = |parties: &Parties, address, sort| {
            let named = parties.parties.iter().any(|party| is_of(party, address, sort, &new.intent));
            if parties.all_but { !named && sort != Sort::Outside } else { named }
        };
        row.own_node == own_node
            && row.families.contains(&family)
            && row.ports.iter().any(|range| has(range, protocol, port))
            && of(&row.from, src, sorts[0])
            && of(&row.to, dst, sorts[1])
    };
    found.differences.iter().filter(speaks).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_diff_is_what_the_oracle_finds_different((before, after) in changes()) {
        let (old, new) = (State::of(&before), State::of(&after));
        let found = diff(&old.intent, &new.intent).unwrap();
        let oracles = [Oracle::new(&before), Oracle::new(&after)];
        let all: BTreeSet<IpAddr> = addresses(&before).into_iter().chain(addresses(&after)).collect();
        let same_sort = |address: &&IpAddr| old.table.look(**address).sort == new.table.look(**address).sort;
        let compared: Vec<IpAddr> = all.iter().filter(same_sort).copied().collect();
        for (src, dst) in compared.iter().flat_map(|src| compared.iter().map(move |dst| (*src, *dst))) {
            if src.is_ipv4() != dst.is_ipv4() || src == dst {
                continue;
            }
            for (protocol, port) in probes(src.is_ipv6()) {
                let [was, is] = oracles.map(|oracle| {
                    let (egress, ingress) = oracle.judge(src, dst, protocol, port);
                    egress && ingress
                });
                let wanted = match (was, is) {
                    (false, true) => vec![Change::Allowed],
                    (true, false) => vec![Change::Denied],
                    _ => vec![],
                };
                let rows = about(&found, &old, &new, (src, dst), (protocol, port));
                let changes: Vec<Change> = rows.iter().map(|row| row.change).collect();
                prop_assert_eq!(changes, wanted, "{} > {}, protocol {}, port {}: {:?}", src, dst, protocol, port, found);
            }
        }
        for row in &found.differences {
            let Packet { src, dst, protocol, dst_port, .. } = row.witness;
            let judged = oracles.map(|oracle| oracle.judge(src, dst, protocol, dst_port));
            prop_assert_eq!((row.old.egress.allowed, row.old.ingress.allowed), judged[0], "{:?}", row);
            prop_assert_eq!((row.new.egress.allowed, row.new.ingress.allowed), judged[1], "{:?}", row);
            prop_assert_eq!(row.new.allowed, row.change == Change::Allowed, "{:?}", row);
            prop_assert_eq!(row.old.allowed, row.change == Change::Denied, "{:?}", row);
            let among = about(&found, &old, &new, (src, dst), (protocol, dst_port));
            prop_assert!(among.contains(&row), "the witness is one of its row: {:?}", row);
        }
        let gone = all.iter().filter(|address| !same_sort(address)).count();
        let listed = found.only_old.addresses.max(found.only_new.addresses);
        prop_assert!(listed <= gone && gone <= found.only_old.addresses + found.only_new.addresses);
        let nothing = diff(&old.intent, &old.intent).unwrap();
        prop_assert_eq!(nothing.differences, vec![], "a state and itself");
    }

    #[test]
    fn who_can_reach_is_what_the_oracle_finds(objects in cluster(), chosen in any::<prop::sample::Index>(), port in prop::sample::select(vec![(6, 80), (6, 443), (17, 53), (132, 9), (1, 0)])) {
        let State { intent, table } = State::of(&objects);
        prop_assume!(!intent.endpoints.is_empty());
        let target = chosen.get(&intent.endpoints);
        let (protocol, port) = port;
        let reach = who_can_reach(&intent, &table, &target.name, protocol, port).unwrap();
        prop_assert_eq!(&reach.addresses, &target.addresses);
        let oracle = Oracle::new(&objects);
        for dst in &target.addresses {
            for src in addresses(&objects) {
                if src.is_ipv4() != dst.is_ipv4() || src == *dst {
                    continue;
                }
                let (egress, ingress) = oracle.judge(src, *dst, protocol, port);
                let family = if src.is_ipv4() { 4 } else { 6 };
                let sort = table.look(src).sort;
                let speaks = |access: &&Access| {
                    access.families.contains(&family) && access.who.iter().any(|party| is_of(party, src, sort, &intent))
                };
                let allowed: Vec<&Access> = reach.allowed.iter().filter(speaks).collect();
                let denied: Vec<&Access> = reach.denied.iter().filter(speaks).collect();
                prop_assert_eq!((allowed.len(), denied.len()), if egress && ingress { (1, 0) } else { (0, 1) }, "{} > {}: {:?}", src, dst, reach);
                for access in allowed.into_iter().chain(denied) {
                    prop_assert_eq!((access.verdict.egress.allowed, access.verdict.ingress.allowed), (egress, ingress));
                    prop_assert_eq!(access.own_node, table.is_exempt(src, *dst));
                }
            }
        }
    }

    /// Going through the rules as they are told, tier by tier, gives what the table says, rule by rule.
    #[test]
    fn an_explanation_tells_what_the_table_decides(objects in cluster()) {
        let State { intent, table } = State::of(&objects);
        let addresses = addresses(&objects);
        for (src, dst) in addresses.iter().flat_map(|src| addresses.iter().map(move |dst| (*src, *dst))) {
            if src.is_ipv4() != dst.is_ipv4() {
                continue;
            }
            for (protocol, port) in [(6, 80), (6, 443), (17, 53), (132, 9), (1, 0)] {
                let packet = Packet::new(src, dst, protocol, port);
                for translated in [false, true] {
                    let told = explain(&intent, &table, &packet, translated);
                    for (end, ruling) in [(&told.source, &told.verdict.egress), (&told.destination, &told.verdict.ingress)] {
                        prop_assert_eq!((ruling.allowed, ruling.rule.clone()), read_off(end), "{:?}", told);
                    }
                }
            }
        }
    }
}

/// What the told rules of an end come to: whether they allow, and the rule.
fn read_off(end: &End) -> (bool, String) {
    let matching = |wanted: fn(Tier) -> bool| {
        end.policies.iter().filter(move |policy| wanted(policy.tier)).find_map(|policy| {
            let rule = policy.rules.iter().find(|rule| rule.mismatch.is_none())?;
            Some((rule.action, format!("{} {}", policy.policy, rule.rule)))
        })
    };
    let decided = |rule: Option<(Action, String)>| match rule? {
        (Action::Pass, _) => None,
        (action, rule) => Some((action == Action::Accept, rule)),
    };
    if let Some(admin) = decided(matching(|tier| matches!(tier, Tier::Admin(_)))) {
        return admin;
    }
    if end.policies.iter().any(|policy| policy.tier == Tier::NetworkPolicy) {
        let rule = matching(|tier| tier == Tier::NetworkPolicy);
        let none = match end.exempt {
            Some(_) => (true, "default-allow".to_owned()),
            None => (false, "no-rule".to_owned()),
        };
        return rule.map_or(none, |(_, rule)| (true, rule));
    }
    let baseline = decided(matching(|tier| matches!(tier, Tier::Baseline(_))));
    baseline.unwrap_or((true, "default-allow".to_owned()))
}
