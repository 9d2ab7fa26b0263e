//! Updates under live flows: those that an update does not touch are not judged again, and all are treated as if they were.

use policy_compiler::compiler::{Compiler, Touched};
use policy_compiler::intent::update::{PolicyName, Update};
use policy_compiler::intent::{Endpoint, Identity, ObjectName, PolicyKind, Service};
use policy_compiler::tables::Capacity;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::cluster::*;
use super::fixture::Rig;
use super::packets::*;
use super::properties::any_traffic;
use crate::drops::DropReason::*;
use crate::snapshot::PortIndex;

/// Two workers that see the same packets by the same tables: one keeps what an update does not touch, the other judges every flow
/// again.
struct Twins {
    compiler: Compiler,
    keeps: Rig,
    judges: Rig,
}

impl Twins {
    fn new() -> Self {
        let compiler = Compiler::new(Cluster::new().intent, 1, &Capacity::default(), None).unwrap();
        let mut twins = Twins { compiler, keeps: Rig::new(), judges: Rig::new() };
        let tables = twins.compiler.tables().clone();
        twins.keeps.publish_touching(tables.clone(), &Touched::Everything);
        twins.judges.publish_touching(tables, &Touched::Everything);
        twins
    }

    /// Nothing happens where the update cannot be made.
    fn update(&mut self, update: Update) {
        let Ok(prepared) = self.compiler.prepare(update, 1) else { return };
        let tables = prepared.tables().clone();
        self.keeps.publish_touching(tables.clone(), prepared.touched());
        self.judges.publish_touching(tables, &Touched::Everything);
        self.compiler.commit(prepared);
    }

    fn send(&mut self, port: PortIndex, packet: &[u8]) {
        assert_eq!(self.keeps.send(port, packet), self.judges.send(port, packet));
    }

    fn misses(&self) -> [u64; 2] {
        [&self.keeps, &self.judges].map(|rig| rig.counters.flow_misses.read())
    }

    fn service(&self, name: &str, change: impl Fn(&mut Service)) -> Update {
        let mut services = self.compiler.intent().services;
        services.retain(|service| service.name.name == name);
        services.iter_mut().for_each(change);
        Update { services, ..Update::default() }
    }

    fn endpoint(&self, name: &str, change: impl Fn(&mut Endpoint)) -> Update {
        let mut endpoints = self.compiler.intent().endpoints;
        endpoints.retain(|endpoint| endpoint.name.name == name);
        endpoints.iter_mut().for_each(change);
        Update { endpoints, ..Update::default() }
    }
}

#[test]
fn a_flow_that_an_update_does_not_touch_is_not_judged_again() {
    for v6 in [false, true] {
        let mut twins = Twins::new();
        let solo = segment((P1.at(v6), 40_000), (SOLO.at(v6), 80)).entering(POD1);
        let plain = segment((P1.at(v6), 40_001), (R1.at(v6), 80)).entering(POD1);
        for round in 1..=20 {
            for _ in 0..12 {
                twins.send(POD1, &solo);
                twins.send(POD1, &plain);
            }
            assert_eq!(twins.misses(), [2, 2 * round]);
            twins.update(twins.service("afar", |service| service.backends.clear()));
            twins.update(twins.endpoint("r2", |endpoint| endpoint.identity = SERVER));
        }
        // One of them, by its backend.
        twins.update(twins.endpoint("p2", |endpoint| endpoint.identity = DB));
        twins.send(POD1, &plain);
        assert_eq!(twins.misses()[0], 2);
        twins.keeps.send(POD1, &solo).ended(PolicyIngress);
        assert_eq!(twins.misses()[0], 3);
    }
}

/// Found while this was built: a denied packet's entry named the Service that was asked, not the backend that policy was asked of, so
/// that a pod which was allowed to be reached again stayed denied for as long as somebody tried.
#[test]
fn a_denial_behind_a_service_ends_when_its_backend_changes() {
    for v6 in [false, true] {
        let mut twins = Twins::new();
        let solo = segment((P1.at(v6), 40_000), (SOLO.at(v6), 80)).entering(POD1);
        twins.update(twins.endpoint("p2", |endpoint| endpoint.identity = DB));
        twins.keeps.send(POD1, &solo).ended(PolicyIngress);
        twins.update(twins.endpoint("p2", |endpoint| endpoint.identity = SERVER));
        twins.keeps.send(POD1, &solo).one(POD2);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Packet(PortIndex, Vec<u8>),
    /// The packet of that number once more.
    Again(prop::sample::Index),
    Update(Update),
    Second,
}

fn any_update() -> impl Strategy<Value = Update> {
    let services = (select(vec!["web", "dns", "self", "solo", "afar"]), any::<bool>(), 0..4usize, 0..3u8);
    let services = services.prop_map(|(name, v6, backends, change)| {
        let mut services = Cluster::new().intent.services;
        services.retain(|service| service.name.name == name && service.frontends[0].ipv6 == v6);
        let object = ObjectName::new("test", name);
        for service in &mut services {
            let hosts = [P2, R1, P3].into_iter().take(backends);
            service.backends = hosts.map(|host| backend(host.at(v6), 8080)).collect();
            if let Some(first) = service.backends.first_mut() {
                (first.ready, first.terminating) = (change != 1, change == 1);
            }
        }
        match change {
            2 => Update { removed_services: vec![object], ..Update::default() },
            _ => Update { services, ..Update::default() },
        }
    });
    let pods =
        (select(vec!["p1", "p2", "p3", "r1", "r2"]), 0..4u32, 0..4u8).prop_map(|(name, identity, change)| {
            let mut endpoints = Cluster::new().intent.endpoints;
            endpoints.retain(|endpoint| endpoint.name.name == name);
            for endpoint in &mut endpoints {
                endpoint.identity = identity;
                if change == 1 {
                    endpoint.addresses.pop();
                }
            }
            match change {
                2 => Update { removed_endpoints: vec![ObjectName::new("test", name)], ..Update::default() },
                _ => Update { endpoints, ..Update::default() },
            }
        });
    let policies =
        subsequence(vec![CLIENT, SERVER, DB, OTHER], 0..=1).prop_map(|subjects| match subjects[..] {
            [subject] => Update {
                policies: vec![policy("isolated", subject, Some(vec![]), None)],
                ..Update::default()
            },
            _ => {
                let name =
                    PolicyName { kind: PolicyKind::NetworkPolicy, name: ObjectName::new("test", "isolated") };
                Update { removed_policies: vec![name], ..Update::default() }
            }
        });
    let identities = Just(Update { identities: vec![Identity::default()], ..Update::default() });
    prop_oneof![5 => services, 5 => pods, 1 => policies, 1 => identities]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Whatever is updated in between, each packet ends as it does where every flow is judged again.
    #[test]
    fn what_is_kept_is_what_would_be_judged(events in prop::collection::vec(prop_oneof![
        6 => any_traffic().prop_map(|(port, packet)| Event::Packet(port, packet)),
        10 => any::<prop::sample::Index>().prop_map(Event::Again),
        4 => any_update().prop_map(Event::Update),
        1 => Just(Event::Second),
    ], 1..120)) {
        let mut twins = Twins::new();
        let mut packets = Vec::new();
        for event in events {
            match event {
                Event::Packet(port, packet) => {
                    twins.send(port, &packet);
                    packets.push((port, packet));
                }
                Event::Again(index) if !packets.is_empty() => {
                    let (port, packet) = index.get(&packets);
                    twins.send(*port, packet);
                }
                Event::Again(_) => {}
                Event::Update(update) => twins.update(update),
                Event::Second => {
                    twins.keeps.wait(1);
                    twins.judges.wait(1);
                }
            }
        }
        let [keeps, judges] = twins.misses();
        prop_assert!(keeps <= judges, "{keeps} {judges}");
    }
}
