//! The question that [`PolicyTable::judge`] answers, answered in other ways: what its speed is measured against.
//!
//! ```text
//!   Intent ──► Lines: subject, peer, ports, action, in the order in which they are asked
//!                ├──► Linear        every line is tried; the first that matches decides
//!                ├──► TupleSpace    a hash table for each combination of prefix lengths; all are tried
//!                └──► PrefixWalks   a trie for each subject; two walks: the peer's identity, and any identity
//! ```
//!
//! All judge both ends of a flow and name the rule that decides at each: the same answers, which the tests of this module hold them to
//! over generated sets. They share what is not the matter: [`lines`], and what is asked before a rule (`judge_ends`).

pub mod addresses;
pub mod linear;
pub mod lines;
pub mod prefix_walks;
#[cfg(test)]
mod tests;
pub mod trie;
pub mod tuple_space;

use policy_compiler::policy::{Decision, Judgement, PolicyTable, RuleId};

pub use self::addresses::{Direction, Who};
pub use self::linear::Linear;
pub use self::lines::Lines;
pub use self::prefix_walks::PrefixWalks;
pub use self::tuple_space::TupleSpace;
use crate::rulesets::Flow;

/// Says who may talk to whom.
pub trait Classifier {
    /// What it is called in figures.
    const NAME: &'static str;

    /// Judges a flow: both ends.
    fn judge(&self, flow: &Flow) -> Judgement;
}

impl Classifier for PolicyTable {
    const NAME: &'static str = "penstock";

    #[inline]
    fn judge(&self, flow: &Flow) -> Judgement {
        PolicyTable::judge(self, flow.src, flow.dst, flow.protocol, flow.port)
    }
}

/// Asks `decide` for each end that is a pod. Isolation, but no rule that denies, is lifted between a pod and its own node; between a pod
/// and itself there is nothing to ask.
#[inline]
fn judge_ends(from: &Who, to: &Who, mut decide: impl FnMut(Direction, &Who, &Who) -> Decision) -> Judgement {
    if from.is_same_pod(to) {
        return Judgement { egress: Decision::DEFAULT_ALLOW, ingress: Decision::DEFAULT_ALLOW };
    }
    let on_own_node = from.is_pod() != to.is_pod() && from.is_on_node_of(to);
    let mut ask = |direction, subject: &Who, peer: &Who| {
        let decision =
            if subject.is_pod() { decide(direction, subject, peer) } else { Decision::DEFAULT_ALLOW };
        let is_lifted = on_own_node && decision.rule == RuleId::NO_RULE;
        if is_lifted { Decision::DEFAULT_ALLOW } else { decision }
    };
    Judgement { egress: ask(Direction::Egress, from, to), ingress: ask(Direction::Ingress, to, from) }
}
