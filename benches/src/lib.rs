//! # benches: what a packet costs
//!
//! ```text
//!   cluster: Intent ─► Tables ─► Snapshot        packets: one cache line a flow
//!                                   │                         │
//!                                   └────► Rig: Worker<ReplayPort> ◄────┘    a pass = every packet once
//! ```
//!
//! * [`cluster`]: the state that is judged by: one client here, Services with their backends on other nodes.
//! * [`large`]: the same within a cluster of a hundred thousand pods.
//! * [`replay`]: [`replay::ReplayPort`]: receives from a prepared list, sends into nothing.
//! * [`paced`]: a port on which packets arrive by the clock, and what became of them.
//! * [`load`]: a worker thread under such a load, and the thread that replaces its tables.
//! * [`flood`]: SYNs by the million beside flows that both ends speak in.
//! * [`memif`]: a whole worker between two memifs, against DPDK's testpmd (`make bench-memif`).
//! * [`rig`]: a whole worker between such ports, and the same ports without a worker.
//! * [`rulesets`]: generated sets of 10 to 100,000 rules, and flows that they allow, deny and say nothing of.
//! * [`classifiers`]: other ways to judge by them: what the policy tables are measured against.
//!
//! `benches/stages.rs` measures single stages by criterion, `benches/policy.rs` the policy tables beside other classifiers,
//! `benches/pipeline.rs` the whole turn in ns and in TSC cycles a packet.
//! `bench-updates` replaces the tables of a large cluster under load.
//! It is not for: the network (see `make bench-peers`), correctness (see the crates' own tests).

#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

pub mod classifiers;
pub mod cluster;
pub mod flood;
pub mod large;
pub mod load;
pub mod memif;
pub mod paced;
pub mod replay;
pub mod rig;
pub mod rulesets;

/// The middle one of some figures; of an even number of them the upper middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
