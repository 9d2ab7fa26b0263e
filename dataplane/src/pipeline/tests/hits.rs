//! What is counted of rules: row by row, and against a twin that judges every packet and counts by name.

use std::collections::HashMap;
use std::sync::Arc;

use policy_compiler::compiler::{Compiler, Touched};
use policy_compiler::intent::update::{PolicyName, Update};
use policy_compiler::intent::{
    Action, ObjectName, Peers, Policy, PortMatch, PortSelector, Protocol, Revocation, Rule, Tier,
};
use policy_compiler::policy::{Decision, Origins, RuleId};
use policy_compiler::tables::Capacity;
use proptest::prelude::*;
use proptest::sample::select;

use super::cluster::*;
use super::fixture::{Rig, SIZES, Sizes};
use super::packets::*;
use crate::drops::DropReason::*;
use crate::rule_hits::{Counts, HitTable};
use crate::snapshot::PortIndex;
use crate::wire::{TCP, UDP};

/// A worker that counts, and every table that it has counted into.
struct Counting {
    rig: Rig,
    compiler: Compiler,
    tables: Vec<(Origins, Arc<HitTable>)>,
}

impl Counting {
    fn new() -> Self {
        let rig = Rig::with(Cluster::new(), Sizes { flows: 8192, ..SIZES });
        let compiler = Compiler::new(Cluster::new().intent, 1, &Capacity::default(), None).unwrap();
        let mut counting = Counting { rig, compiler, tables: Vec::new() };
        counting.publish(&Touched::Everything);
        counting
    }

    /// Publishes what the compiler has, with the table that goes with its rules.
    fn publish(&mut self, touched: &Touched) {
        let tables = self.compiler.tables().clone();
        let rules = tables.policy.origins();
        let last = self.tables.pop_if(|(last, _)| rules.continues(last));
        let table = match last {
            Some((_, table)) => table.grown(&rules),
            None => HitTable::new(self.rig.next_epoch(), 1, &rules),
        };
        self.rig.cluster.rule_hits = Arc::new(table);
        self.tables.push((rules, Arc::clone(&self.rig.cluster.rule_hits)));
        self.rig.publish_touching(tables, touched);
    }

    /// A whole state: other policies.
    fn apply(&mut self, policies: Vec<Policy>) {
        let mut intent = self.compiler.intent();
        intent.policies = policies;
        self.compiler = Compiler::new(intent, 1, &Capacity::default(), None).unwrap();
        self.publish(&Touched::Everything);
    }

    /// A pod becomes another's like, under the same rules.
    fn become_like(&mut self, name: &str, identity: u32) {
        let mut endpoints = self.compiler.intent().endpoints;
        endpoints.retain(|endpoint| endpoint.name.name == name);
        endpoints.iter_mut().for_each(|endpoint| endpoint.identity = identity);
        self.update(Update { endpoints, ..Update::default() });
    }

    /// A policy comes, goes or is another, beside the others.
    fn change(&mut self, policy: Policy, goes: bool) {
        let name = PolicyName { kind: policy.kind(), name: policy.name.clone() };
        let is_there = self.compiler.policies().any(|one| (one.kind(), &one.name) == (name.kind, &name.name));
        match (goes, is_there) {
            (true, true) => self.update(Update { removed_policies: vec![name], ..Update::default() }),
            (true, false) => {}
            (false, _) => self.update(Update { policies: vec![policy], ..Update::default() }),
        }
    }

    fn update(&mut self, update: Update) {
        let prepared = self.compiler.prepare(update, 1).unwrap();
        let touched = prepared.touched().clone();
        self.compiler.commit(prepared);
        self.publish(&touched);
    }

    /// Everything that has been counted, by name and direction.
    fn counts(&self) -> HashMap<Name, Counts> {
        let mut counts = HashMap::<Name, Counts>::new();
        for (rules, table) in &self.tables {
            for number in 0..rules.numbers() {
                for ingress in [false, true] {
                    let counted = table.read(RuleId(number), ingress);
                    if rules.of(RuleId(number)).is_none_or(|origin| origin.ingress == ingress) {
                        let sum = counts.entry((rules.text(RuleId(number)), ingress)).or_default();
                        *sum = sum.with(counted);
                    }
                }
            }
        }
        counts.retain(|_, counts| !counts.is_zero());
        counts
    }

    #[track_caller]
    fn assert(&self, expected: &[(&str, bool, [u64; 3])]) {
        let row =
            |(name, ingress, [flows_allowed, flows_denied, packets_denied]): &(&str, bool, [u64; 3])| {
                (((*name).to_owned(), *ingress), counts(*flows_allowed, *flows_denied, *packets_denied))
            };
        assert_eq!(self.counts(), expected.iter().map(row).collect());
    }
}

/// A rule's text, and whether it is about ingress.
type Name = (String, bool);

fn counts(flows_allowed: u64, flows_denied: u64, packets_denied: u64) -> Counts {
    Counts { flows_allowed, flows_denied, packets_denied }
}

const INGRESS: &str = "NetworkPolicy test/db ingress[0]";
const EGRESS: &str = "NetworkPolicy test/db egress[0]";

#[test]
fn an_allowed_flow_counts_at_both_ends_once_and_a_denied_one_with_each_packet() {
    for v6 in [false, true] {
        let mut counting = Counting::new();
        let (client, db) = ((P1.at(v6), 40_000), (P3.at(v6), 27017));
        for _ in 0..5 {
            counting.rig.send(POD1, segment(client, db).entering(POD1)).one(POD3);
            counting.rig.send(POD3, segment(db, client).entering(POD3)).one(POD1);
        }
        counting.assert(&[(INGRESS, true, [1, 0, 0]), ("default-allow", false, [1, 0, 0])]);
        let refused = segment(client, (P3.at(v6), 80)).entering(POD1);
        for _ in 0..4 {
            counting.rig.send(POD1, &refused).ended(PolicyIngress);
        }
        counting.rig.send(POD3, udp((P3.at(v6), 9), (P2.at(v6), 53)).entering(POD3)).one(POD2);
        counting.rig.send(POD3, udp((P3.at(v6), 9), (P2.at(v6), 54)).entering(POD3)).ended(PolicyEgress);
        counting.assert(&[
            (INGRESS, true, [1, 0, 0]),
            (EGRESS, false, [1, 0, 0]),
            ("default-allow", false, [1, 0, 0]),
            ("default-allow", true, [1, 0, 0]),
            ("no-rule", true, [0, 1, 4]),
            ("no-rule", false, [0, 1, 1]),
        ]);
    }
}

#[test]
fn a_flow_counts_again_where_another_rule_decides() {
    let mut counting = Counting::new();
    let packet = segment((P1.at(false), 40_000), (P3.at(false), 27017)).entering(POD1);
    counting.rig.send(POD1, &packet).one(POD3);
    let first = [(INGRESS, true, [1, 0, 0]), ("default-allow", false, [1, 0, 0])];
    // Judged again, and nothing new is said: by the same rules, and by others of the same names.
    counting.become_like("p1", CLIENT);
    counting.rig.send(POD1, &packet).one(POD3);
    counting.apply(counting.compiler.intent().policies);
    counting.rig.send(POD1, &packet).one(POD3);
    counting.assert(&first);
    // Revoked, for as long as that lasts.
    counting.become_like("p1", OTHER);
    for _ in 0..3 {
        counting.rig.send(POD1, &packet).ended(PolicyIngress);
    }
    counting.apply(counting.compiler.intent().policies);
    counting.rig.send(POD1, &packet).ended(PolicyIngress);
    counting.assert(&[first[0], first[1], ("no-rule", true, [0, 1, 4])]);
    counting.become_like("p1", CLIENT);
    counting.rig.send(POD1, &packet).one(POD3);
    // Let in by nobody's leave, it still goes out by the same.
    counting.become_like("p3", OTHER);
    counting.rig.send(POD1, &packet).one(POD3);
    counting.assert(&[
        (INGRESS, true, [2, 0, 0]),
        ("default-allow", false, [2, 0, 0]),
        ("default-allow", true, [1, 0, 0]),
        ("no-rule", true, [0, 1, 4]),
    ]);
}

/// An editor has saved the policy, and its rules have other numbers, but they are what they were.
#[test]
fn a_flow_counts_no_more_where_its_policy_is_replaced() {
    let mut counting = Counting::new();
    let packet = segment((P1.at(false), 40_000), (P3.at(false), 27017)).entering(POD1);
    let refused = segment((P1.at(false), 40_000), (P3.at(false), 80)).entering(POD1);
    for version in ["1", "2", "3"] {
        let mut db = counting.compiler.policies().next().unwrap().clone();
        let numbers = counting.compiler.tables().policy.origins().numbers();
        db.resource_version = version.into();
        counting.change(db, false);
        assert!(counting.compiler.tables().policy.origins().numbers() > numbers);
        counting.rig.send(POD1, &packet).one(POD3);
        counting.rig.send(POD1, &refused).ended(PolicyIngress);
    }
    assert_eq!(counting.tables.len(), 1, "one lineage");
    let rows =
        [(INGRESS, true, [1, 0, 0]), ("default-allow", false, [1, 0, 0]), ("no-rule", true, [0, 1, 3])];
    counting.assert(&rows);
}

#[test]
fn a_flow_that_a_policy_keeps_is_neither_allowed_nor_denied_by_it() {
    let mut counting = Counting::new();
    let packet = segment((P1.at(false), 40_000), (P2.at(false), 80)).entering(POD1);
    counting.rig.send(POD1, &packet).one(POD2);
    let before = counting.counts();
    let mut isolated = policy("isolated", SERVER, Some(vec![]), None);
    isolated.revocation = Revocation::Keep;
    counting.apply(vec![isolated]);
    counting.rig.send(POD1, &packet).one(POD2);
    assert_eq!(counting.counts(), before);
}

#[test]
fn judgements_hold_only_while_numbers_of_rules_stand_for_the_same() {
    let mut counting = Counting::new();
    let refused = segment((P1.at(false), 40_000), (P3.at(false), 80)).entering(POD1);
    counting.rig.send(POD1, &refused).ended(PolicyIngress);
    let misses = |counting: &Counting| counting.rig.counters.flow_misses.read();
    let nothing = Touched::Addresses(Vec::new());
    counting.publish(&nothing);
    counting.rig.send(POD1, &refused).ended(PolicyIngress);
    assert_eq!(misses(&counting), 1);
    // Whatever is said to be touched: these are other rules.
    let intent = counting.compiler.intent();
    counting.compiler = Compiler::new(intent, 1, &Capacity::default(), None).unwrap();
    counting.publish(&nothing);
    counting.rig.send(POD1, &refused).ended(PolicyIngress);
    assert_eq!((misses(&counting), counting.tables.len()), (2, 2));
    let [(_, old), (_, new)] = &counting.tables[..] else { panic!() };
    assert_eq!(old.read(RuleId::NO_RULE, true), counts(0, 1, 2));
    assert_eq!(new.read(RuleId::NO_RULE, true), counts(0, 0, 1));
}

// ---------------------------------------------------------------------------------------------------- against the twin

/// A flow as the twin remembers it.
#[derive(Debug, Clone)]
struct Known {
    passes: bool,
    /// Has been let pass: packets of the other direction are its own.
    paired: bool,
    /// How many tables there had been when it was judged last.
    lineage: usize,
    /// What decided: for ingress and for egress.
    decided: [(String, bool); 2],
}

/// Counts by name, from a judgement of every packet.
#[derive(Debug, Default)]
struct Twin {
    flows: HashMap<(End, End, u8), Known>,
    counts: HashMap<Name, Counts>,
}

impl Twin {
    fn see(&mut self, counting: &Counting, (src, dst, protocol): (End, End, u8)) {
        let reversed = (dst, src, protocol);
        let key = match self.flows.get(&reversed) {
            Some(flow) if flow.paired => reversed,
            _ => (src, dst, protocol),
        };
        let policy = &counting.compiler.tables().policy;
        let judgement = policy.judge(key.0.0, key.1.0, protocol, key.1.1);
        let name = |ruling: Decision| (policy.origins().text(ruling.rule), ruling.allowed);
        let decided = [name(judgement.ingress), name(judgement.egress)];
        let before = self.flows.get(&key).cloned();
        let kept = before.as_ref().is_some_and(|flow| flow.passes)
            && policy.revocation(key.0.0, key.1.0, &judgement) == Revocation::Keep;
        let passes = judgement.allowed() || kept;
        let lineage = counting.tables.len();
        let differs =
            |flow: &Known, end: usize| flow.lineage == lineage && flow.decided[end].0 != decided[end].0;
        if passes {
            for (end, ingress) in [(0, true), (1, false)] {
                let is_new = before.as_ref().is_none_or(|flow| !flow.passes || differs(flow, end));
                if decided[end].1 && is_new {
                    self.at(&decided[end].0, ingress).flows_allowed += 1;
                }
            }
            if before.as_ref().is_none_or(|flow| !flow.paired) {
                self.flows.remove(&reversed);
            }
        } else {
            let end = usize::from(!decided[1].1);
            let denied = |flow: &Known| usize::from(!flow.decided[1].1);
            let is_new = before.as_ref().is_none_or(|flow| {
                flow.passes || flow.lineage == lineage && denied(flow) != end || differs(flow, end)
            });
            let counts = self.at(&decided[end].0, end == 0);
            counts.flows_denied += u64::from(is_new);
            counts.packets_denied += 1;
        }
        let paired = passes || before.is_some_and(|flow| flow.paired);
        self.flows.insert(key, Known { passes, paired, lineage, decided });
    }

    fn at(&mut self, name: &str, ingress: bool) -> &mut Counts {
        self.counts.entry((name.to_owned(), ingress)).or_default()
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// Between two of them, by the ports' numbers.
    Packet {
        v6: bool,
        from: usize,
        to: usize,
        client: u16,
        udp: bool,
        answer: bool,
    },
    Apply(Vec<Policy>),
    Change(Policy, bool),
    BecomeLike(&'static str, u32),
}

/// Who sends, and by which port.
const ENDS: [(Host, PortIndex); 4] = [(P1, POD1), (P2, POD2), (P3, POD3), (R1, UPLINK)];

fn any_rule(cluster: bool) -> impl Strategy<Value = Rule> {
    let actions =
        if cluster { vec![Action::Accept, Action::Deny, Action::Pass] } else { vec![Action::Accept] };
    (select(actions), prop::option::of(0..4u32), prop::option::of(any::<bool>())).prop_map(
        |(action, identity, udp)| {
            let peers = identity.map(|identity| Peers { identities: vec![identity], blocks: vec![] });
            let protocol = |udp| if udp { Protocol::Udp } else { Protocol::Tcp };
            let ports = udp.map(|udp| vec![PortMatch { protocol: protocol(udp), port: PortSelector::Any }]);
            Rule { action, peers, ports, selects_pods: identity.is_some(), ..Rule::default() }
        },
    )
}

fn any_policy(name: &'static str, tier: Tier) -> impl Strategy<Value = Policy> {
    let cluster = tier != Tier::NetworkPolicy;
    let rules = move || {
        let rules = prop::collection::vec(any_rule(cluster), 0..3);
        prop::option::of(rules.prop_map(|mut rules| {
            rules.iter_mut().zip(0..).for_each(|(rule, index)| rule.index = index);
            rules
        }))
    };
    let modes = select(vec![Revocation::Drop, Revocation::Keep, Revocation::Reset]);
    (0..4u32, rules(), rules(), modes).prop_map(move |(subject, ingress, egress, revocation)| Policy {
        tier,
        name: ObjectName::new(if cluster { "" } else { "test" }, name),
        revocation,
        ..policy(name, subject, ingress, egress)
    })
}

fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
    let all = (
        any_policy("strict", Tier::Admin(3)),
        any_policy("a", Tier::NetworkPolicy),
        any_policy("b", Tier::NetworkPolicy),
        any_policy("base", Tier::Baseline(3)),
    );
    (all, any::<u8>()).prop_map(|((strict, a, b, base), which)| {
        let numbered = [strict, a, b, base].into_iter().enumerate();
        numbered.filter(|(number, _)| which & 1 << number != 0).map(|(_, policy)| policy).collect()
    })
}

fn any_change() -> impl Strategy<Value = Policy> {
    prop_oneof![
        any_policy("strict", Tier::Admin(3)),
        any_policy("a", Tier::NetworkPolicy),
        any_policy("base", Tier::Baseline(3)),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let packet = (any::<bool>(), 0..4usize, 1..4usize, 0..2u16, any::<bool>(), any::<bool>()).prop_map(
        |(v6, from, to, client, udp, answer)| Event::Packet {
            v6,
            from,
            to: (from + to) % ENDS.len(),
            client: 40_000 + client,
            udp,
            answer,
        },
    );
    let pods = (select(vec!["p1", "p2", "p3", "r1"]), 0..4u32);
    prop_oneof![
        12 => packet,
        1 => any_policies().prop_map(Event::Apply),
        2 => (any_change(), any::<bool>()).prop_map(|(policy, goes)| Event::Change(policy, goes)),
        2 => pods.prop_map(|(pod, identity)| Event::BecomeLike(pod, identity)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever passes, is denied and changes in between.
    #[test]
    fn counts_are_what_a_judgement_of_every_packet_says(
        policies in any_policies(),
        events in prop::collection::vec(any_event(), 1..160),
    ) {
        let (mut counting, mut twin) = (Counting::new(), Twin::default());
        counting.apply(policies);
        for event in events {
            match event {
                Event::Packet { v6, from, to, client, udp: is_udp, answer } => {
                    let ends = [(ENDS[from].0.at(v6), client), (ENDS[to].0.at(v6), 80)];
                    let (src, dst, by) =
                        if answer { (ends[1], ends[0], to) } else { (ends[0], ends[1], from) };
                    let packet = if is_udp { udp(src, dst) } else { segment(src, dst) };
                    let port = ENDS[by].1;
                    let packet =
                        if port == UPLINK { packet.tunnelled_by(NODE_B) } else { packet.entering(port) };
                    twin.see(&counting, (src, dst, if is_udp { UDP } else { TCP }));
                    counting.rig.send(port, packet);
                }
                Event::Apply(policies) => counting.apply(policies),
                Event::Change(policy, goes) => counting.change(policy, goes),
                Event::BecomeLike(pod, identity) => counting.become_like(pod, identity),
            }
        }
        prop_assert_eq!(counting.counts(), twin.counts);
    }
}
