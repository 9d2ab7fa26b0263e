use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use afxdp_driver::HugePages;
use proptest::prelude::*;

use super::*;
use crate::drops::DropReason;
use crate::flow::state::{FIN, SYN};

const TCP: u8 = 6;

fn table(capacity: usize) -> Table<8> {
    Table::new(capacity, HugePages::Never, 0x5eed).unwrap()
}

fn key(number: u32) -> Key {
    let src = IpAddr::from((0x0a00_0000 | number >> 8).to_be_bytes());
    Key::new(src, 1000 + (number & 0xff) as u16, "10.9.9.9".parse().unwrap(), 80, TCP)
}

fn flow(number: u32) -> (Entry, Entry) {
    let key = key(number);
    let forward = Entry { key, rewritten: key, epoch: 1, ..Entry::default() };
    let reply = Entry { key: key.reversed(false), rewritten: key.reversed(false), ..forward };
    (forward, Entry { flags: Flags::REPLY, ..reply })
}

fn find(table: &Table<8>, key: &Key) -> Option<Found> {
    table.lookup(key, table.hash(key))
}

/// Both directions have carried a packet.
fn establish(table: &Table<8>, number: u32, now: u32) -> bool {
    let (forward, reply) = flow(number);
    let Some((one, other)) = table.insert_pair(forward, reply, now) else { return false };
    table.touch(one, now, SYN);
    table.touch(other, now, SYN);
    true
}

#[test]
fn partners_know_each_other_and_go_together() {
    let table = table(64);
    let (forward, reply) = flow(1);
    let (one, other) = table.insert_pair(forward, reply, 5).unwrap();
    let found = find(&table, &forward.key).unwrap();
    assert_eq!((found.slot, found.entry.partner), (one, other));
    assert_eq!(table.partner(one, &found.entry).unwrap().slot, other);
    assert_eq!(find(&table, &reply.key).unwrap().entry.partner, one);
    assert_eq!(table.usage().entries, 2);
    table.remove(other);
    assert!(find(&table, &forward.key).is_none() && find(&table, &reply.key).is_none());
    assert_eq!(table.usage().entries, 0);
}

#[test]
fn a_flood_of_unanswered_flows_pushes_out_no_established_one() {
    let table = table(1024);
    let established: Vec<u32> = (0..200).filter(|&number| establish(&table, number, 1)).collect();
    assert_eq!(established.len(), 200);
    let mut refused = 0;
    for number in 1000..50_000 {
        let (forward, reply) = flow(number);
        match table.insert_pair(forward, reply, 2) {
            Some((slot, _)) => table.touch(slot, 2, SYN),
            None => refused += 1,
        }
    }
    for number in established {
        assert!(find(&table, &key(number)).is_some(), "flow {number} was pushed out");
    }
    let usage = table.usage();
    assert!(usage.entries <= usage.capacity);
    assert_eq!(usage.evicted[Standing::Established as usize], 0);
    assert!(usage.evicted[Standing::Unreplied as usize] > 40_000, "{usage:?}");
    assert!(refused < 1000, "{refused} new flows found no place");
}

#[test]
fn denied_and_closed_flows_go_first() {
    let table = table(16);
    let mut number = 0;
    while table.usage().entries < 14 {
        assert!(establish(&table, number, 1));
        number += 1;
    }
    let denied = Entry { flags: Flags::drop(DropReason::PolicyIngress), partner: NO_PARTNER, ..flow(500).0 };
    let first = table.insert(&denied, 1).unwrap();
    assert!(table.insert(&Entry { key: key(501), ..denied }, 1).is_some());
    // Full. A new denial takes the place of an old one; a flow of two entries takes both.
    assert!(table.insert(&Entry { key: key(502), ..denied }, 2).is_some());
    assert!(find(&table, &key(500)).is_none() || find(&table, &key(501)).is_none());
    assert!(establish(&table, 503, 3), "{first}");
    assert!((0..number).all(|number| find(&table, &key(number)).is_some()));
    // Nothing but established flows: a new one is refused and leaves nothing behind.
    let (forward, reply) = flow(504);
    assert!(table.insert_pair(forward, reply, 4).is_none());
    assert!(find(&table, &forward.key).is_none());
    assert_eq!(table.usage().entries, 16);
}

#[test]
fn a_sweep_forgets_what_was_idle_for_too_long() {
    let table = table(256);
    assert!(establish(&table, 1, 100));
    let (forward, reply) = flow(2);
    let (slot, _) = table.insert_pair(forward, reply, 100).unwrap();
    table.touch(slot, 100, SYN);
    let (forward, reply) = flow(3);
    let (one, other) = table.insert_pair(forward, reply, 100).unwrap();
    table.touch(one, 100, SYN | FIN);
    table.touch(other, 100, SYN | FIN);
    let all = |now| (0..SWEEPS).for_each(|_| table.sweep(now));
    all(200);
    assert_eq!(table.usage().entries, 6);
    all(221);
    assert_eq!(table.usage().entries, 2, "the unanswered and the closed one are gone after 120 s");
    all(100 + 432_001);
    assert_eq!(table.usage().entries, 0);
}

#[test]
fn a_reader_never_sees_half_of_a_change() {
    let table = Arc::new(table(16));
    let (forward, _) = flow(7);
    let slot = table.insert(&forward, 0).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (table, stop) = (Arc::clone(&table), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut number = 0u32;
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let (low, half) = (number as u16, number as u16);
                table.update(
                    slot,
                    &Entry {
                        epoch: number,
                        rule: number,
                        egress: low,
                        l3_delta: half,
                        l4_delta: half,
                        ..forward
                    },
                );
            }
            number
        })
    };
    let (mut last, mut changes) = (0, 0);
    // On one busy core the two may hardly meet: as long as it takes, for a while.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while changes < 1000 && std::time::Instant::now() < deadline {
        let entry = find(&table, &forward.key).unwrap().entry;
        if entry.epoch > 1 {
            assert_eq!((entry.rule, entry.egress), (entry.epoch, entry.epoch as u16));
            assert_eq!((entry.l3_delta, entry.l4_delta), (entry.epoch as u16, entry.epoch as u16));
        }
        changes += u32::from(entry.epoch != last);
        last = entry.epoch;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 0 && changes > 1, "{changes} changes seen");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The table against a map: while there is room, each finds what the other finds.
    #[test]
    fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u32..60), 1..300)) {
        let table = table(4096);
        let mut twin: HashMap<Key, Key> = HashMap::new();
        for (insert, number) in steps {
            let (forward, reply) = flow(number);
            if insert && !twin.contains_key(&forward.key) {
                prop_assert!(table.insert_pair(forward, reply, 1).is_some());
                twin.insert(forward.key, reply.key);
                twin.insert(reply.key, forward.key);
            } else if !insert && twin.contains_key(&forward.key) {
                table.remove(find(&table, &forward.key).unwrap().slot);
                twin.remove(&forward.key);
                twin.remove(&reply.key);
            }
        }
        prop_assert_eq!(table.usage().entries, twin.len() as u64);
        for number in 0..60 {
            let (forward, _) = flow(number);
            let found = find(&table, &forward.key);
            prop_assert_eq!(found.is_some(), twin.contains_key(&forward.key));
            if let Some(found) = found {
                let partner = table.partner(found.slot, &found.entry).unwrap();
                prop_assert_eq!(partner.entry.key, twin[&forward.key]);
            }
        }
    }
}

#[test]
fn a_table_filled_to_five_eighths_has_room_for_everyone() {
    let table = table(1 << 15);
    for number in 0..5 << 11 {
        assert!(establish(&table, number, 1), "flow {number} found no place");
    }
    assert_eq!(table.usage().entries, 5 << 12);
    assert_eq!(table.usage().evicted, [0; 3]);
}
