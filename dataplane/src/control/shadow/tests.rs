use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use agent_api::contract::Dataplane;
use policy_compiler::intent::update::Update;
use policy_compiler::intent::{Endpoint, Identity, ObjectName, Policy, Rule};
use policy_compiler::tables::Capacity;

use super::super::dataplane::tests::{intent, start};
use super::*;
use crate::flow::{Entry, Key};
use crate::messages::DifferenceRecord;
use crate::shadow::Difference;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 3));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 4));

/// Two pods of this node and one of the other; where `isolated`, nobody reaches the server.
fn state(isolated: bool) -> Intent {
    let endpoint = |name: &str, address, node: &str, identity| Endpoint {
        name: ObjectName::new("ns", name),
        node: node.into(),
        addresses: vec![address],
        host_network: false,
        identity,
    };
    let policy = Policy {
        name: ObjectName::new("ns", "closed"),
        subjects: vec![1],
        ingress: Some(Vec::new()),
        ..Policy::default()
    };
    Intent {
        identities: vec![Identity::default(); 2],
        endpoints: vec![
            endpoint("client", CLIENT, "a", 0),
            endpoint("server", SERVER, "a", 1),
            endpoint("far", FAR, "b", 0),
        ],
        policies: if isolated { vec![policy] } else { Vec::new() },
        ..intent()
    }
}

fn kind_and_field(refusal: &Refusal) -> (RefusalKind, &str) {
    (refusal.kind, refusal.field.as_str())
}

#[tokio::test]
async fn a_candidate_is_set_promoted_and_discarded() {
    let (handle, thread, _asked) = start();
    handle.apply(state(false), None).await.unwrap();
    assert_eq!(handle.shadow().await, None);
    for none in [handle.discard_shadow().await, handle.promote_shadow(true).await.map(drop)] {
        assert_eq!(kind_and_field(&none.unwrap_err()), (RefusalKind::NotFound, "candidate"));
    }
    let set = handle.set_shadow(state(true), 8).await.unwrap();
    assert_eq!((set.number, set.base_generation, set.generation, set.sample), (1, 1, 1, 8));
    assert!(set.since_ns > 0 && set.rows.is_empty());
    // It is beside the state, not in its place.
    let snapshot = handle.shared().publication.load();
    assert!(snapshot.tables.policy.judge(CLIENT, SERVER, 6, 80).allowed());
    assert!(!snapshot.shadow.as_ref().unwrap().policy().judge(CLIENT, SERVER, 6, 80).allowed());
    handle.discard_shadow().await.unwrap();
    assert!(handle.shared().publication.load().shadow.is_none());
    assert_eq!((handle.shadow().await, handle.state().await.intent), (None, state(false)));
    // Another takes the next number, and the place of the one before.
    handle.set_shadow(state(false), 1).await.unwrap();
    assert_eq!(handle.set_shadow(state(true), 1).await.unwrap().number, 3);
    let promoted = handle.promote_shadow(false).await.unwrap();
    let running = handle.state().await;
    assert_eq!((promoted.generation, running.generation, running.intent), (2, 2, state(true)));
    let snapshot = handle.shared().publication.load();
    assert!(!snapshot.tables.policy.judge(CLIENT, SERVER, 6, 80).allowed());
    assert!(snapshot.shadow.is_none());
    // The state is changed on top of it as of any other.
    let removed = Update { removed_endpoints: vec![ObjectName::new("ns", "far")], ..Update::default() };
    assert_eq!(handle.update(removed, 2).await.unwrap().generation, 3);
    handle.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_what_was_set_stays() {
    let (handle, thread, _asked) = start();
    handle.apply(state(false), None).await.unwrap();
    handle.set_shadow(state(true), 16).await.unwrap();
    for sample in [0, 3, 12, 1 << 17, u32::MAX] {
        let refusal = handle.set_shadow(state(false), sample).await.unwrap_err();
        assert_eq!(kind_and_field(&refusal), (RefusalKind::Invalid, "sample"));
    }
    let mut wrong = state(true);
    wrong.policies[0].subjects = vec![7];
    let refusal = handle.set_shadow(wrong, 16).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(refusal.object, "NetworkPolicy ns/closed");
    let wrong = Intent { node: "nobody".into(), ..state(true) };
    assert_eq!(handle.set_shadow(wrong, 16).await.unwrap_err().field, "node");
    let status = handle.shadow().await.unwrap();
    assert_eq!((status.number, status.generation), (1, 1));
    assert_eq!(handle.promote_shadow(false).await.unwrap().generation, 2);
    handle.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_state_that_has_moved_on_is_a_conflict_unless_forced() {
    let (handle, thread, _asked) = start();
    handle.apply(state(false), None).await.unwrap();
    handle.set_shadow(state(true), 16).await.unwrap();
    // Pods come and go beside it; it stays and goes on.
    let removed = Update { removed_endpoints: vec![ObjectName::new("ns", "far")], ..Update::default() };
    handle.update(removed, 1).await.unwrap();
    let status = handle.shadow().await.unwrap();
    assert_eq!((status.number, status.base_generation, status.generation), (1, 1, 2));
    assert!(handle.shared().publication.load().shadow.is_some());
    for _ in 0..2 {
        let refusal = handle.promote_shadow(false).await.unwrap_err();
        assert_eq!(kind_and_field(&refusal), (RefusalKind::Conflict, "base_generation"));
        assert_eq!(refusal.problem, "expected 1, but 2 is running");
    }
    assert_eq!(handle.state().await.generation, 2);
    assert_eq!(handle.promote_shadow(true).await.unwrap().generation, 3);
    let running = handle.state().await;
    assert_eq!((running.generation, running.intent), (3, state(true)));
    assert_eq!(handle.shadow().await, None);
    handle.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn no_judgement_is_over_for_a_shadow() {
    let (handle, thread, _asked) = start();
    handle.apply(state(false), None).await.unwrap();
    let publication = || handle.shared().publication.load();
    let key = Key::new(CLIENT, 1, SERVER, 80, 6);
    let entry = Entry { key, rewritten: key, epoch: publication().epoch(), ..Entry::default() };
    handle.set_shadow(state(true), 16).await.unwrap();
    assert!(publication().epoch() != entry.epoch && publication().upholds(false, &entry));
    handle.discard_shadow().await.unwrap();
    assert!(publication().upholds(false, &entry));
    handle.set_shadow(state(true), 16).await.unwrap();
    handle.promote_shadow(false).await.unwrap();
    assert!(!publication().upholds(false, &entry), "promoted, it is judged by the candidate");
    handle.stop();
    thread.join().unwrap();
}

// ------------------------------------------------------------------------------------------------- counts and the feed

fn tables(isolated: bool) -> Tables {
    Tables::compile(&state(isolated), 4, &Capacity::default()).unwrap()
}

const DENIED: Difference =
    Difference { allowed: false, ingress: true, active: RuleId::DEFAULT_ALLOW, candidate: RuleId::NO_RULE };

#[test]
fn counts_are_by_names_and_outlive_the_rules_that_they_were_counted_under() {
    let (running, candidate) = (tables(false), tables(true));
    let shadow = Shadow::new(1, Arc::clone(&candidate.policy), 16, 64, 2);
    let mut counted = Counted::new(shadow, &running);
    let count = |counted: &mut Counted, tables: &Tables, worker: usize| {
        let shadow = counted.beside(tables);
        let tally = &shadow.tallies()[worker];
        tally.judged.add(2);
        tally.lost.add(1);
        tally.count(&DENIED, 7, (CLIENT, SERVER));
        shadow
    };
    let first = count(&mut counted, &running, 0);
    counted.published(5);
    // The same rules: the same counts; others: from zero, beside them.
    assert!(Arc::ptr_eq(&first, &count(&mut counted, &running, 1)));
    let mut compiler = Compiler::new(state(false), 4, &Capacity::default(), None).unwrap();
    let other = compiler.tables().clone();
    let second = count(&mut counted, &other, 0);
    assert!(!Arc::ptr_eq(&first, &second));
    counted.published(6);
    let check = |counted: &Counted| {
        let status = counted.status(&candidate.policy, &other);
        assert_eq!((status.judged, status.newly_denied, status.lost), (6, 3, 3));
        let [row] = &status.rows[..] else { panic!("one row: {:?}", status.rows) };
        assert_eq!((row.active.as_str(), row.flows), ("default-allow", 3));
        assert_eq!(row.candidate, "no-rule of NetworkPolicy ns/closed");
        assert_eq!(counted.lost(), 3);
    };
    check(&counted);
    // A worker may still count by the first.
    counted.fold(&candidate.policy, &other, |_| false);
    assert_eq!(Arc::strong_count(&first), 2);
    counted.fold(&candidate.policy, &other, |epoch| epoch <= 6);
    assert_eq!(Arc::strong_count(&first), 1, "it is put away");
    check(&counted);
    // A policy more: the rules before keep their numbers, and their counts.
    let policies = vec![Policy { ingress: Some(vec![Rule::default()]), ..state(true).policies.remove(0) }];
    let more = Update { policies, ..Update::default() };
    let continued = compiler.prepare(more, 5).unwrap().tables().clone();
    assert!(!continued.policy.origins().is(&other.policy.origins()));
    assert!(Arc::ptr_eq(&second, &counted.beside(&continued)));
}

fn record(src: IpAddr, dst: IpAddr) -> DifferenceRecord {
    DifferenceRecord {
        shadow: 3,
        difference: DENIED,
        addresses: (src, dst),
        src_port: 40_000,
        dst_port: 80,
        protocol: 6,
        judged_dst: SocketAddr::new(SERVER, 8080),
        established: true,
        epoch: 9,
        time_ns: 5,
    }
}

fn shadows(candidate: &Intent, running: &Tables) -> (Shadows, History) {
    let (mut shadows, history) = (Shadows::new(Instant::now()), History::default());
    history.record(9, running);
    let policy = Arc::new(PolicyTable::compile(candidate).unwrap());
    let shadow = Shadow::new(3, Arc::clone(&policy), 16, 64, 1);
    let counted = Counted::new(shadow, running);
    let names = names_of(candidate);
    let since = SystemTime::now();
    let candidate = Candidate { number: 3, base: 4, since, sample: 16, policy, names };
    shadows.current = Some(Current { candidate, counted });
    (shadows, history)
}

#[test]
fn a_difference_is_told_by_names_also_to_those_who_come_later() {
    let running = tables(false);
    let mut candidate = state(true);
    candidate.endpoints.remove(0);
    let (mut shadows, history) = shadows(&candidate, &running);
    let mut early = shadows.feed.watch().stream();
    let service = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
    for src in [CLIENT, FAR, "10.2.0.99".parse().unwrap(), "192.0.2.2".parse().unwrap()] {
        shadows.hear(&record(src, service), &running, &history);
    }
    let late = shadows.feed.watch().stream();
    let told: Vec<ShadowDifference> = futures::executor::block_on((&mut early).take(4).collect());
    assert_eq!(futures::executor::block_on(late.take(4).collect::<Vec<_>>()), told);
    let names: Vec<_> = told.iter().map(|told| (told.src_name.as_str(), told.stale)).collect();
    // One that the candidate does not know, one that it does, one of another node's range that is nobody's there, the other node.
    assert_eq!(names, [("ns/client", true), ("ns/far", false), ("", true), ("b", false)]);
    let ShadowDifference { backend, dst_name, active, candidate, generation, missed, .. } = &told[0];
    assert_eq!((backend.as_deref(), dst_name.as_str()), (Some("10.1.0.3:8080"), "ns/server"));
    assert_eq!(
        (active.as_str(), candidate.as_str()),
        ("default-allow", "no-rule of NetworkPolicy ns/closed")
    );
    assert_eq!((*generation, *missed), (4, 0));
    // What is of a candidate before is told to nobody.
    shadows.hear(&DifferenceRecord { shadow: 2, ..record(CLIENT, SERVER) }, &running, &history);
    shadows.current.as_mut().unwrap().counted.beside(&running).tallies()[0].lost.add(6);
    shadows.hear(&record(FAR, SERVER), &running, &history);
    let next = futures::executor::block_on(early.next()).unwrap();
    assert_eq!((next.dst, next.missed), (SERVER, 6));
    shadows.feed.begin();
    let mut after = shadows.feed.watch().stream();
    assert!(
        futures::FutureExt::now_or_never(after.next()).is_none(),
        "of another candidate nothing is known"
    );
}
