//! In a worker's turn nothing is allocated and nothing freed: counted, not believed.
//!
//! A worker between ports in memory takes every kind of packet there is, over and over. What is prepared and looked at
//! around the turns may allocate; a turn may not. Each kind must be seen to have been what its name says.
//!
//! * `kinds`: the packets.   * `lab`: the worker, its ports, its tables.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

mod kinds;
mod lab;

use allocation_counter::AllocationInfo;

use lab::Lab;

/// Times that every kind is sent, counted.
const ROUNDS: u64 = 50;

#[test]
fn no_packet_and_no_publication_makes_a_turn_allocate() {
    let mut lab = Lab::new();
    let kinds = kinds::all();
    // What grows once, grows now.
    for kind in &kinds {
        lab.send(kind);
    }
    let mut sent = 0;
    for round in 0..ROUNDS {
        for kind in &kinds {
            let before = (kind.seen)(lab.counters());
            let allocated = lab.send(kind);
            assert_eq!(allocated, AllocationInfo::default(), "{}, round {round}", kind.name);
            let (seen, packets) = ((kind.seen)(lab.counters()) - before, kind.frames.len() as u64);
            assert!(seen >= packets, "{}, round {round}: {seen} of {packets} were such", kind.name);
            sent += packets;
        }
        lab.publish();
    }
    assert!(sent > 100_000, "{sent} packets are no steady state");
    assert!(lab.evicted() > 0, "the flood has pushed flows out");
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!((counted.count_total, counted.count_current), (1, 0));
}
