//! [`Shadow`]: a candidate state that live traffic is judged by beside the active one, without effect.
//!
//! ```text
//!   judged (new, or under a new generation) ──┐
//!                                             ├─► what both policies say ─► the same?    noted, that is all
//!   established, one flow in `sample` ────────┘                              └─ not ───► counted by rules, and told (Event)
//! ```
//!
//! What is compared is what policy says of a flow: allowed or denied, by which rule, asked with the addresses that policies know, after
//! the *active* translation of Services. What else a state says (Services, routes) is not compared.
//!
//! * [`Compared`]: which flows have been compared, so that a packet costs a look and a flow is counted once.
//! * [`tally`]: a worker's counts. All memory is had when the shadow is made: workers neither lock nor allocate.

pub mod tally;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy_compiler::intent::PolicyKind;
use policy_compiler::policy::{Judgement, PolicyTable, RuleId};

pub use tally::Tally;

/// The rarest sample: one flow in so many.
pub const MAX_SAMPLE: u32 = 1 << 16;
/// Bits of a flow's hash that say whether it is in the sample: the highest.
const SAMPLE_SHIFT: u32 = 48;
/// Fewest and most flows that are remembered.
const ROOM: (usize, usize) = (1 << 10, 1 << 16);

/// A candidate that is evaluated beside the active state.
#[derive(Debug)]
pub struct Shadow {
    number: u64,
    policy: Arc<PolicyTable>,
    /// The bits of a hash, shifted, that are zero in the sample.
    mask: u64,
    compared: Arc<Compared>,
    tallies: Vec<Tally>,
}

impl Shadow {
    /// The candidate with that number, of which each of `workers` samples one established flow in `sample`, a power of two. `flows` is
    /// the room of the flow tables, by which it is measured how many flows are remembered.
    pub fn new(number: u64, policy: Arc<PolicyTable>, sample: u32, flows: usize, workers: usize) -> Self {
        let sample = sample.clamp(1, MAX_SAMPLE);
        Shadow {
            number,
            policy,
            mask: u64::from(sample) - 1,
            compared: Arc::new(Compared::new(sample, flows)),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }

    /// The same with counts that begin at zero. What has been compared stays known.
    #[must_use]
    pub fn with_new_tallies(&self) -> Self {
        Shadow {
            number: self.number,
            policy: Arc::clone(&self.policy),
            mask: self.mask,
            compared: Arc::clone(&self.compared),
            tallies: self.tallies.iter().map(|_| Tally::default()).collect(),
        }
    }

    /// Which candidate it is.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What the candidate's policies compiled to.
    pub fn policy(&self) -> &Arc<PolicyTable> {
        &self.policy
    }

    /// The workers' counts.
    pub fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Whether a flow with this hash is in the sample.
    #[inline(always)]
    pub(crate) fn samples(&self, hash: u64) -> bool {
        hash >> SAMPLE_SHIFT & self.mask == 0
    }

    /// Whether the flow with this hash, which is in the sample, has been compared in this epoch.
    #[inline(always)]
    pub(crate) fn knows(&self, hash: u64, epoch: u32) -> bool {
        self.compared.knows(hash, epoch)
    }

    /// Notes what came of a comparison. Answers with what had come of it before, where that is remembered.
    pub(crate) fn note(&self, hash: u64, epoch: u32, outcome: Outcome) -> Option<Outcome> {
        self.compared.note(self.samples(hash), hash, epoch, outcome)
    }
}

/// How two policies differ about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Difference {
    /// The candidate allows what is denied now; else it denies what is allowed now.
    pub allowed: bool,
    /// The side that denies does so for ingress; else for egress, which is asked first.
    pub ingress: bool,
    /// What decides now, in that direction.
    pub active: RuleId,
    /// What would decide.
    pub candidate: RuleId,
}

impl Difference {
    /// How they differ, where they do: the one allows the flow and the other does not.
    pub fn between(active: &Judgement, candidate: &Judgement) -> Option<Self> {
        let denial = match (active.allowed(), candidate.allowed()) {
            (true, false) => candidate,
            (false, true) => active,
            _ => return None,
        };
        let ingress = denial.egress.allowed;
        let rule = |judgement: &Judgement| {
            if ingress { judgement.ingress.rule } else { judgement.egress.rule }
        };
        Some(Difference {
            allowed: candidate.allowed(),
            ingress,
            active: rule(active),
            candidate: rule(candidate),
        })
    }

    /// The rule that denies.
    pub fn denial(&self) -> RuleId {
        if self.allowed { self.active } else { self.candidate }
    }
}

/// A number for the set of NetworkPolicies that isolate an endpoint in a direction; the same in every table.
pub fn isolation(policy: &PolicyTable, address: IpAddr, ingress: bool) -> u64 {
    // FNV-1a, 64 bits.
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let isolating =
        policy.selecting(address, ingress).filter(|origin| origin.kind == PolicyKind::NetworkPolicy);
    isolating.fold(OFFSET, |hash, origin| {
        let parts = [&origin.name.namespace, &origin.name.name];
        // No name has a byte of zero.
        let bytes = parts.into_iter().flat_map(|part| part.bytes().chain([0]));
        bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
    })
}

/// What comes of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both allow the flow, or both deny it.
    Same = 1,
    /// The candidate allows it.
    Allowed = 2,
    /// The candidate denies it.
    Denied = 3,
}

impl Outcome {
    /// Of a difference, or of none.
    pub fn of(difference: Option<&Difference>) -> Self {
        match difference {
            None => Outcome::Same,
            Some(Difference { allowed: true, .. }) => Outcome::Allowed,
            Some(Difference { allowed: false, .. }) => Outcome::Denied,
        }
    }
}

/// Flows that have been compared: two direct-mapped arrays of words, one of the sample and one of the other flows, so that a flood of
/// new flows does not push out many that are established. A flow that is pushed out is compared, and counted, once more.
///
/// ```text
///   word = [ 32 bits of the hash │ 30 of the epoch │ 2: outcome ]        0: nothing
/// ```
#[derive(Debug)]
pub struct Compared {
    sampled: Box<[AtomicU64]>,
    others: Box<[AtomicU64]>,
}

impl Compared {
    fn new(sample: u32, flows: usize) -> Self {
        let words = |count: usize| {
            let count = count.next_power_of_two().clamp(ROOM.0, ROOM.1);
            (0..count).map(|_| AtomicU64::new(0)).collect()
        };
        Compared { sampled: words(flows / sample as usize), others: words(flows) }
    }

    #[inline(always)]
    fn knows(&self, hash: u64, epoch: u32) -> bool {
        let word = place(&self.sampled, hash).map_or(0, |place| place.load(Ordering::Relaxed));
        // Whatever came of it.
        word ^ word_of(hash, epoch, Outcome::Same) < 4 && word & 3 != 0
    }

    fn note(&self, sampled: bool, hash: u64, epoch: u32, outcome: Outcome) -> Option<Outcome> {
        let place = place(if sampled { &self.sampled } else { &self.others }, hash)?;
        // Both directions of a flow may be with two workers: the first of them counts it.
        let before = place.swap(word_of(hash, epoch, outcome), Ordering::Relaxed);
        if (before ^ word_of(hash, epoch, outcome)) >> 32 != 0 {
            return None;
        }
        match before & 3 {
            1 => Some(Outcome::Same),
            2 => Some(Outcome::Allowed),
            3 => Some(Outcome::Denied),
            _ => None,
        }
    }
}

/// Where a flow is remembered. The bits that say so are neither those of its word nor those of the sample.
#[inline(always)]
fn place(places: &[AtomicU64], hash: u64) -> Option<&AtomicU64> {
    places.get(hash as usize & places.len().wrapping_sub(1))
}

#[inline(always)]
fn word_of(hash: u64, epoch: u32, outcome: Outcome) -> u64 {
    let hash = hash >> 16 & 0xffff_ffff;
    hash << 32 | u64::from(epoch << 2) | outcome as u64
}

#[cfg(test)]
mod tests;
