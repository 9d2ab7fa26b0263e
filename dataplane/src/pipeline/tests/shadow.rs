//! A candidate beside the tables: what is said to differ is what both tables say differently, and no packet is treated otherwise.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use policy_compiler::compiler::Touched;
use policy_compiler::intent::{Intent, Policy, Protocol, Rule};
use policy_compiler::policy::PolicyTable;
use policy_compiler::tables::{Capacity, Tables};
use proptest::prelude::*;
use proptest::sample::select;

use super::cluster::*;
use super::fixture::{Rig, SIZES, Sizes};
use super::packets::*;
use super::properties::{self, any_event, any_midstream, any_traffic, apply};
use crate::drops::DropReason::*;
use crate::flow::{Flags, FlowView, Key};
use crate::messages::{DifferenceRecord, Event as Told};
use crate::shadow::{Difference, Outcome, Shadow};
use crate::snapshot::PortIndex;

const NOTHING: Touched = Touched::Addresses(Vec::new());

fn table(intent: &Intent) -> Arc<PolicyTable> {
    Arc::new(PolicyTable::compile(intent).unwrap())
}

fn shadow(candidate: &Intent, sample: u32) -> Arc<Shadow> {
    Arc::new(Shadow::new(1, table(candidate), sample, 1 << 16, 1))
}

impl Rig {
    /// Publishes the tables that there are with the cluster's shadow, as the control thread does.
    fn set_shadow(&mut self, shadow: Option<Arc<Shadow>>) {
        self.cluster.shadow = shadow;
        let tables = Tables::compile(&self.cluster.intent, 1, &Capacity::default()).unwrap();
        self.publish_touching(tables, &NOTHING);
    }

    /// What the worker has told of differences.
    fn differences(&mut self) -> Vec<DifferenceRecord> {
        let records = std::mem::take(&mut self.told).into_iter();
        records
            .filter_map(|event| if let Told::Difference(record) = event { Some(record) } else { None })
            .collect()
    }
}

/// The cluster whose servers let nobody in.
fn isolated() -> Intent {
    let mut cluster = Cluster::new();
    cluster.isolate(SERVER);
    cluster.intent
}

#[test]
fn an_established_flow_that_the_candidate_denies_is_told_of_once_and_goes_on() {
    for v6 in [false, true] {
        let mut rig = Rig::new();
        let there = segment((P1.at(v6), 40_000), (P2.at(v6), 80)).entering(POD1);
        let back = segment((P2.at(v6), 80), (P1.at(v6), 40_000)).entering(POD2);
        rig.send(POD1, &there).one(POD2);
        rig.send(POD2, &back).one(POD1);
        let misses = rig.counters.flow_misses.read();
        let shadow = shadow(&isolated(), 1);
        rig.set_shadow(Some(Arc::clone(&shadow)));
        // A reply is not judged, so it is its flow's first direction that tells.
        rig.send(POD2, &back).one(POD1);
        assert_eq!(rig.differences(), []);
        for _ in 0..20 {
            rig.send(POD1, &there).one(POD2);
            rig.send(POD2, &back).one(POD1);
        }
        let [told] = rig.differences()[..] else { panic!("once") };
        assert_eq!(told.addresses, (P1.at(v6), P2.at(v6)));
        assert_eq!((told.src_port, told.dst_port, told.protocol), (40_000, 80, 6));
        assert_eq!(told.judged_dst, SocketAddr::new(P2.at(v6), 80));
        assert!(told.established && !told.difference.allowed && told.difference.ingress);
        let tally = &shadow.tallies()[0];
        let counted = [&tally.judged, &tally.sampled, &tally.allowed, &tally.denied].map(|it| it.read());
        assert_eq!(counted, [0, 1, 0, 1]);
        assert_eq!(rig.counters.flow_misses.read(), misses, "no flow is judged again for a shadow");
        // Promoted: the same tables, as everybody's.
        rig.cluster.intent = isolated();
        rig.cluster.shadow = None;
        rig.publish();
        rig.send(POD1, &there).ended(PolicyIngress);
        assert_eq!(rig.differences(), []);
    }
}

#[test]
fn new_flows_are_compared_all_and_established_ones_by_their_sample() {
    let mut rig = Rig::new();
    let packet = |port: u16| segment((P1.at(false), port), (P2.at(false), 80)).entering(POD1);
    (0..100).for_each(|flow| drop(rig.send(POD1, packet(40_000 + flow)).one(POD2)));
    let rare = shadow(&isolated(), 4);
    rig.set_shadow(Some(Arc::clone(&rare)));
    for _ in 0..3 {
        (0..100).for_each(|flow| drop(rig.send(POD1, packet(40_000 + flow)).one(POD2)));
    }
    let sampled: Vec<u16> = rig.differences().iter().map(|record| record.src_port).collect();
    let key = |port| Key::new(P1.at(false), port, P2.at(false), 80, 6);
    let in_sample =
        (0..100).map(|flow| 40_000 + flow).filter(|port| rare.samples(rig.flows.v4.hash(&key(*port))));
    assert_eq!(sampled, in_sample.collect::<Vec<_>>());
    assert!((10..40).contains(&sampled.len()), "{sampled:?}");
    (0..100).for_each(|flow| drop(rig.send(POD1, packet(50_000 + flow)).one(POD2)));
    assert_eq!(rig.differences().len(), 100);
    let tally = &rare.tallies()[0];
    assert_eq!((tally.judged.read(), tally.sampled.read()), (100, sampled.len() as u64));
    // One rule decides for all of them.
    let [row] = tally.rows()[..] else { panic!("one row") };
    assert_eq!((row.flows, row.ends.1), (100 + sampled.len() as u64, P2.at(false)));
}

#[test]
fn denials_for_want_of_a_rule_are_counted_by_who_isolates() {
    let mut candidate = isolated();
    candidate.policies.push(policy("others", OTHER, Some(vec![]), None));
    let shadow = shadow(&candidate, 1);
    let mut rig = Rig::new();
    rig.set_shadow(Some(Arc::clone(&shadow)));
    for port in 0..3 {
        rig.send(POD1, segment((P1.at(false), 40_000 + port), (R1.at(false), 80)).entering(POD1)).one(UPLINK);
        rig.send(POD1, segment((P1.at(false), 40_000 + port), (R2.at(false), 80)).entering(POD1)).one(UPLINK);
    }
    let mut rows: Vec<_> =
        shadow.tallies()[0].rows().into_iter().map(|row| (row.ends.1, row.flows)).collect();
    rows.sort_unstable();
    assert_eq!(rows, [(R1.at(false), 3), (R2.at(false), 3)]);
}

#[test]
fn more_than_the_queue_and_the_second_hold_is_counted_as_lost() {
    let shadow = shadow(&isolated(), 1);
    let mut rig = Rig::with(Cluster::new(), Sizes { flows: 1 << 14, ..SIZES });
    rig.set_shadow(Some(Arc::clone(&shadow)));
    let mut told = 0;
    for port in 0..1100 {
        rig.send(POD1, udp((P1.at(false), 10_000 + port), (P2.at(false), 53)).entering(POD1)).one(POD2);
        told += rig.differences().len() as u64;
    }
    let tally = &shadow.tallies()[0];
    assert_eq!((told, tally.denied.read(), tally.lost.read()), (1000, 1100, 100));
    rig.wait(1);
    rig.send(POD1, udp((P1.at(false), 9_999), (P2.at(false), 53)).entering(POD1)).one(POD2);
    assert_eq!(rig.differences().len(), 1);
}

// ------------------------------------------------------------------------------------------------------------ the twin

#[derive(Debug, Clone)]
enum Event {
    Packet(PortIndex, Vec<u8>),
    /// The packet of that number once more.
    Again(prop::sample::Index),
    /// The active policies become these.
    Policies(Vec<Policy>),
    /// A publication that touches nothing.
    Publish,
    Second,
}

fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
    let one = || {
        let ports = select(vec![80_u16, 53, 8080, 5353, 27017, 0]);
        let rule = (prop::option::of(0..4_u32), any::<bool>(), ports).prop_map(|(identity, tcp, port)| {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            match port {
                // All that the peer sends.
                0 => Rule { ports: None, ..rule(identity, protocol, 1) },
                port => rule(identity, protocol, port),
            }
        });
        let rules = || prop::option::of(prop::collection::vec(rule.clone(), 0..3));
        (0..4_u32, rules(), rules())
    };
    prop::collection::vec(one(), 0..4).prop_map(|policies| {
        let numbered = policies.into_iter().enumerate();
        numbered
            .map(|(number, (subject, ingress, egress))| {
                policy(&format!("policy-{number}"), subject, ingress, egress)
            })
            .collect()
    })
}

/// Policies, and who is of which identity.
fn any_candidate() -> impl Strategy<Value = Intent> {
    let identities = prop::option::of((0..8_usize, 0..4_u32));
    let gone = prop::option::weighted(0.2, 0..8_usize);
    (any_policies(), identities, gone).prop_map(|(policies, changed, gone)| {
        let mut intent = Intent { policies, ..Cluster::new().intent };
        if let Some((endpoint, identity)) = changed {
            intent.endpoints[endpoint].identity = identity;
        }
        if let Some(endpoint) = gone {
            intent.endpoints.remove(endpoint);
        }
        intent
    })
}

/// Which way a flow differs, by the answers of both tables to its entry of the first direction: the slow way, from scratch for each.
fn differs(view: &FlowView, active: &PolicyTable, candidate: &PolicyTable) -> Option<Difference> {
    let (entry, v6) = (&view.entry, view.v6);
    let (src, dst) = (entry.key.src(v6), entry.rewritten.dst(v6));
    let port = match entry.key.protocol() {
        6 | 17 | 132 => entry.rewritten.dst_port(),
        _ => 0,
    };
    let translated = entry.flags.has(Flags::SERVICE) || dst != entry.key.dst(v6);
    let ask = |table: &PolicyTable| {
        if translated {
            table.judge_translated(src, dst, entry.key.protocol(), port)
        } else {
            table.judge(src, dst, entry.key.protocol(), port)
        }
    };
    let (was, is) = (ask(active), ask(candidate));
    let (was_allowed, is_allowed) =
        (was.egress.allowed && was.ingress.allowed, is.egress.allowed && is.ingress.allowed);
    if was_allowed == is_allowed {
        return None;
    }
    let egress_denies = !was.egress.allowed || !is.egress.allowed;
    let (active, candidate) =
        if egress_denies { (was.egress.rule, is.egress.rule) } else { (was.ingress.rule, is.ingress.rule) };
    Some(Difference { allowed: is_allowed, ingress: !egress_denies, active, candidate })
}

type Told5 = (IpAddr, u16, IpAddr, u16, u8, Difference);

fn told_of(record: &DifferenceRecord) -> Told5 {
    let (src, dst) = record.addresses;
    (src, record.src_port, dst, record.dst_port, record.protocol, record.difference)
}

/// What the twin remembers of every flow.
#[derive(Default)]
struct Twin {
    outcomes: HashMap<(bool, Key), Outcome>,
}

impl Twin {
    /// The flows that are compared with the packet that was just sent: those that differ, and of them those that must be told of.
    fn compared(
        &mut self,
        rig: &Rig,
        before: &HashMap<(bool, Key), FlowView>,
        was_judged: bool,
        tables: [&PolicyTable; 2],
    ) -> (HashSet<Told5>, HashSet<Told5>) {
        let shadow = rig.cluster.shadow.as_ref().unwrap();
        let (mut differing, mut due) = (HashSet::new(), HashSet::new());
        for view in rig.flows.list(usize::MAX) {
            let (entry, v6) = (&view.entry, view.v6);
            let hash = if v6 { rig.flows.v6.hash(&entry.key) } else { rig.flows.v4.hash(&entry.key) };
            let was = before.get(&(v6, entry.key));
            let judged = was_judged && was.is_none_or(|was| was.entry.epoch != entry.epoch);
            let passed = was.is_none_or(|was| was.activity.packets != view.activity.packets);
            let by_policy = matches!(entry.flags.drop_reason(), None | Some(PolicyEgress | PolicyIngress));
            if entry.flags.has(Flags::REPLY) || !by_policy || !(judged || passed && shadow.samples(hash)) {
                continue;
            }
            let difference = differs(&view, tables[0], tables[1]);
            let outcome = Outcome::of(difference.as_ref());
            let before = self.outcomes.insert((v6, entry.key), outcome);
            if let Some(difference) = difference {
                let key = &entry.key;
                let (src, dst) = (key.src(v6), key.dst(v6));
                let told = (src, key.src_port(), dst, key.dst_port(), key.protocol(), difference);
                differing.insert(told);
                if before != Some(outcome) {
                    due.insert(told);
                }
            }
        }
        (differing, due)
    }
}

fn views(rig: &Rig) -> HashMap<(bool, Key), FlowView> {
    rig.flows.list(usize::MAX).into_iter().map(|view| ((view.v6, view.entry.key), view)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Whatever both states say and whatever comes: a flow is told of where the twin, which asks both tables about every flow, says that
    /// it differs, and once for each way in which it does (or again, where it has been forgotten). No packet is treated otherwise than
    /// by a worker without a shadow.
    #[test]
    fn what_is_told_is_what_differs(
        active in any_policies(),
        candidate in any_candidate(),
        sample in select(vec![1_u32, 1, 4]),
        set_at in 0..20_usize,
        events in prop::collection::vec(prop_oneof![
            8 => any_traffic().prop_map(|(port, packet)| Event::Packet(port, packet)),
            12 => any::<prop::sample::Index>().prop_map(Event::Again),
            1 => any_policies().prop_map(Event::Policies),
            1 => Just(Event::Publish),
            1 => Just(Event::Second),
        ], 1..120),
    ) {
        let mut cluster = Cluster::new();
        cluster.known = vec![NODE_C, L];
        cluster.intent.policies = active;
        let mut rig = Rig::with(cluster.clone(), SIZES);
        let mut plain = Rig::with(cluster, SIZES);
        let shadow = shadow(&candidate, sample);
        let (mut twin, mut packets) = (Twin::default(), Vec::new());
        for (number, event) in events.into_iter().enumerate() {
            if number == set_at {
                rig.set_shadow(Some(Arc::clone(&shadow)));
                // The same number of publications: entries bear their epochs.
                plain.set_shadow(None);
            }
            let (port, packet) = match event {
                Event::Packet(port, packet) => {
                    packets.push((port, packet.clone()));
                    (port, packet)
                }
                Event::Again(index) if !packets.is_empty() => index.get(&packets).clone(),
                Event::Again(_) => continue,
                Event::Policies(policies) => {
                    for rig in [&mut rig, &mut plain] {
                        rig.cluster.intent.policies = policies.clone();
                        rig.publish();
                    }
                    continue;
                }
                Event::Publish => {
                    for rig in [&mut rig, &mut plain] {
                        let shadow = rig.cluster.shadow.clone();
                        rig.set_shadow(shadow);
                    }
                    continue;
                }
                Event::Second => {
                    rig.wait(1);
                    plain.wait(1);
                    continue;
                }
            };
            let (before, misses) = (views(&rig), rig.counters.flow_misses.read());
            prop_assert_eq!(rig.send(port, &packet), plain.send(port, &packet));
            if rig.cluster.shadow.is_none() {
                prop_assert_eq!(rig.differences(), []);
                continue;
            }
            let was_judged = rig.counters.flow_misses.read() > misses;
            let running = table(&rig.cluster.intent);
            let (differing, due) = twin.compared(&rig, &before, was_judged, [&running, &table(&candidate)]);
            let told: HashSet<Told5> = rig.differences().iter().map(told_of).collect();
            prop_assert!(told.is_subset(&differing), "{:?} are told, {:?} differ", told, differing);
            prop_assert!(due.is_subset(&told), "{:?} are due, {:?} are told", due, told);
        }
        let hits = |rig: &Rig| (rig.counters.flow_hits.read(), rig.counters.flow_misses.read());
        prop_assert_eq!(hits(&rig), hits(&plain));
        let tally = &shadow.tallies()[0];
        let compared = tally.judged.read() + tally.sampled.read();
        prop_assert!(compared >= twin.outcomes.len() as u64);
        let rows: u64 = tally.rows().iter().map(|row| row.flows).sum();
        prop_assert_eq!(rows, tally.allowed.read() + tally.denied.read());
        prop_assert_eq!((tally.lost.read(), tally.unplaced.read()), (0, 0));
    }

    /// In whole batches, hurt packets, ports that come and go: with a shadow each packet, counter and flow is what it is without.
    #[test]
    fn a_shadow_changes_nothing(
        candidate in any_candidate(),
        sample in select(vec![1_u32, 2, 16]),
        batch in select(vec![1_usize, 5, 64]),
        events in prop::collection::vec(prop_oneof![3 => any_event(), 6 => any_midstream()], 1..200),
    ) {
        let sizes = Sizes { batch, ..SIZES };
        let mut cluster = Cluster::new();
        let mut plain = Rig::with(cluster.clone(), sizes);
        cluster.shadow = Some(shadow(&candidate, sample));
        let mut shadowed = Rig::with(cluster, sizes);
        for event in events.iter().chain([&properties::Event::Turn]) {
            prop_assert_eq!(apply(&mut shadowed, event), apply(&mut plain, event));
        }
        let counters = |rig: &Rig| (rig.counters.flow_hits.read(), rig.counters.flow_misses.read());
        prop_assert_eq!(counters(&shadowed), counters(&plain));
        let listed = |rig: &Rig| {
            let views = rig.flows.list(usize::MAX).into_iter();
            views.map(|view| (view.entry, view.activity, view.state)).collect::<Vec<_>>()
        };
        prop_assert_eq!(listed(&shadowed), listed(&plain));
    }
}
