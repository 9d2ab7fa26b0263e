//! What a shadow costs the packets: whole turns with one and without, by turns in one run. `make bench-shadow`.
//!
//! | row | what a packet goes through |
//! |---|---|
//! | `hits` | as `full` of `make bench`: flow hit, policy verdict, Service NAT, VXLAN; one established flow in `sample` is compared |
//! | `misses` | as `miss_small`: judged, put into the flow table; with a shadow every flow is compared |
//!
//! The candidate says what the running state says, by tables of its own; in the rows `denies` it denies every flow, so that each is also
//! counted by its rule and, up to the rate, told of. Medians over pairs of passes; the order within a pair alternates. Arguments: parts of
//! the names of the rows to run; all without.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::sync::Arc;

use benches::cluster::{self, SMALL};
use benches::median;
use benches::replay::Packets;
use benches::rig::{Cost, Rig};
use dataplane::shadow::Shadow;
use dataplane::snapshot::Snapshot;
use policy_compiler::policy::PolicyTable;

/// Packets that a row is measured with, each way.
const PACKETS: usize = 16 << 20;
/// Pairs of passes at least.
const PAIRS: usize = 21;
const BATCH: usize = 64;

/// What the candidate says.
#[derive(Clone, Copy, PartialEq)]
enum Candidate {
    Same,
    /// Nobody may reach anybody.
    Denies,
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    println!("{:24} {:>8} {:>14} {:>14} {:>8}", "row", "sample", "cycles/packet", "with a shadow", "ratio");
    for (name, v6, flows) in [("16k", false, 16 << 10), ("16k, IPv6", true, 16 << 10), ("1m", false, 1 << 20)]
    {
        if !is_wanted(name) {
            continue;
        }
        let packets = match v6 {
            false => Packets::Short(cluster::to_services_of(&SMALL, flows)),
            true => cluster::to_services_v6(&SMALL, flows),
        };
        for sample in [16, 1] {
            hits(&format!("hits/{name}"), &packets, sample, Candidate::Same);
        }
        hits(&format!("hits/{name} denies"), &packets, 16, Candidate::Denies);
        if flows == 16 << 10 {
            misses(&format!("misses/{name}"), &packets, 16, Candidate::Same);
            misses(&format!("misses/{name} denies"), &packets, 16, Candidate::Denies);
        }
    }
}

fn rigs(packets: &Packets, sample: u32, candidate: Candidate) -> [Rig; 2] {
    let entries = packets.count() * 8;
    let plain = cluster::snapshot_of(&SMALL);
    let policy = match candidate {
        Candidate::Same => Arc::clone(&cluster::snapshot_of(&SMALL).tables.policy),
        Candidate::Denies => denying(),
    };
    let shadow = Some(Arc::new(Shadow::new(1, policy, sample, entries, 1)));
    let shadowed = Snapshot { shadow, ..plain.clone() };
    [plain, shadowed].map(|snapshot| Rig::of(snapshot, packets, BATCH))
}

fn hits(name: &str, packets: &Packets, sample: u32, candidate: Candidate) {
    let mut rigs = rigs(packets, sample, candidate);
    for rig in &mut rigs {
        rig.pass();
    }
    let judged = rigs.each_ref().map(|rig| rig.hits_and_misses().1);
    compare(name, packets, sample, &mut rigs, Rig::pass);
    assert_eq!(rigs.each_ref().map(|rig| rig.hits_and_misses().1), judged, "every packet was a hit");
}

fn misses(name: &str, packets: &Packets, sample: u32, candidate: Candidate) {
    let mut rigs = rigs(packets, sample, candidate);
    compare(name, packets, sample, &mut rigs, |rig| {
        rig.forget();
        rig.pass()
    });
    assert_eq!(rigs.each_ref().map(|rig| rig.hits_and_misses().0), [0; 2], "every packet was a miss");
}

fn compare(name: &str, packets: &Packets, sample: u32, rigs: &mut [Rig; 2], pass: impl Fn(&mut Rig) -> Cost) {
    for rig in rigs.iter_mut() {
        pass(rig);
    }
    let pairs: Vec<[f64; 2]> = (0..PAIRS.max(PACKETS / packets.count()))
        .map(|pair| {
            let mut costs = [0.0; 2];
            for which in [pair % 2, 1 - pair % 2] {
                costs[which] = pass(&mut rigs[which]).cycles_a_packet();
            }
            costs
        })
        .collect();
    let [plain, shadowed] = [0, 1].map(|which| median(pairs.iter().map(|pair| pair[which])));
    let ratio = median(pairs.iter().map(|[plain, shadowed]| shadowed / plain));
    println!("{name:24} {:>8} {plain:>14.1} {shadowed:>14.1} {ratio:>8.3}", format!("1/{sample}"));
}

/// The same endpoints; nobody lets anybody in.
fn denying() -> Arc<PolicyTable> {
    let mut intent = cluster::intent_of(&SMALL);
    for policy in &mut intent.policies {
        policy.ingress = policy.ingress.as_ref().map(|_| Vec::new());
        policy.egress = policy.egress.as_ref().map(|_| Vec::new());
    }
    Arc::new(PolicyTable::compile(&intent).expect("the intent is right"))
}
