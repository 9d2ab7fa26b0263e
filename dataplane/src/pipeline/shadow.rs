//! Comparing flows with a shadow's policies. Nothing here changes what becomes of a packet.
//!
//! ```text
//!   judged        at its decision, once more by the candidate                                    (called from miss)
//!   established   before a batch is acted on: those of the sample that are not known to have been   (called from mod)
//! ```

use afxdp_driver::Frame;
use policy_compiler::policy::{Judgement, RuleId};

use super::express::Head;
use super::{Fate, Item, Notice, Pipeline, Turn};
use crate::drops::DropReason;
use crate::flow::{Entry, Flags, Key};
use crate::judge::{Decision, Question};
use crate::messages::DifferenceRecord;
use crate::shadow::{Difference, Outcome, Shadow, isolation};

/// A flow that is compared.
struct Flow {
    key: Key,
    v6: bool,
    hash: u64,
    question: Question,
    /// It was not judged just now.
    established: bool,
}

impl Pipeline {
    /// Compares a flow that has just been decided, and has an entry that says so.
    #[inline(always)]
    pub(super) fn compare_judged(&mut self, turn: &Turn<'_>, key: &Key, v6: bool, decision: &Decision) {
        if let (Some(shadow), Some(judgement)) = (&turn.snapshot.shadow, &decision.judgement) {
            self.compare_decided(turn, shadow, key, v6, decision, judgement);
        }
    }

    #[cold]
    #[inline(never)]
    fn compare_decided(
        &mut self,
        turn: &Turn<'_>,
        shadow: &Shadow,
        key: &Key,
        v6: bool,
        decision: &Decision,
        judgement: &Judgement,
    ) {
        if !is_by_policy(decision.verdict.err()) {
            return;
        }
        let question = Question {
            src: key.src(v6),
            dst: decision.dst,
            protocol: key.protocol(),
            translated: decision.service.is_some(),
        };
        let hash = if v6 { self.flows.v6.hash(key) } else { self.flows.v4.hash(key) };
        let flow = Flow { key: *key, v6, hash, question, established: false };
        self.compare(turn, shadow, &flow, judgement);
    }

    /// Compares those established flows of a batch that are in the sample.
    #[inline(never)]
    pub(super) fn compare_sampled(
        &mut self,
        turn: &Turn<'_>,
        shadow: &Shadow,
        frames: &[Frame],
        heads: &[Head],
        items: &[Item],
    ) {
        let epoch = turn.snapshot.epoch();
        for ((frame, head), item) in frames.iter().zip(heads).zip(items) {
            let hash = head.hash();
            if !shadow.samples(hash) || shadow.knows(hash, epoch) {
                continue;
            }
            let key = match head.is_read() {
                true if item.fate == Fate::Flow => Some(item.key()),
                true => None,
                false => head.key(frame),
            };
            if let Some(key) = key {
                self.compare_established(turn, shadow, &key, head.is_v6(), hash);
            }
        }
    }

    #[inline(never)]
    fn compare_established(&mut self, turn: &Turn<'_>, shadow: &Shadow, key: &Key, v6: bool, hash: u64) {
        let Some(found) = self.lookup_hashed(v6, key, hash) else { return };
        let entry = &found.entry;
        // Of an older generation: it is judged with this packet, and compared then.
        if !turn.snapshot.upholds(v6, entry) {
            return;
        }
        if entry.flags.has(Flags::REPLY) || !is_by_policy(entry.flags.drop_reason()) {
            // The flow's first direction speaks for it.
            shadow.note(hash, turn.snapshot.epoch(), Outcome::Same);
            return;
        }
        let question = question_of(entry, v6);
        let judgement = question.ask(&turn.snapshot.tables.policy);
        let flow = Flow { key: *key, v6, hash, question, established: true };
        self.compare(turn, shadow, &flow, &judgement);
    }

    fn compare(&mut self, turn: &Turn<'_>, shadow: &Shadow, flow: &Flow, active: &Judgement) {
        let Some(tally) = shadow.tallies().get(turn.out.worker()) else { return };
        let difference = Difference::between(active, &flow.question.ask(shadow.policy()));
        let outcome = Outcome::of(difference.as_ref());
        let before = shadow.note(flow.hash, turn.snapshot.epoch(), outcome);
        if before.is_none() {
            if flow.established { &tally.sampled } else { &tally.judged }.add(1);
        }
        let Some(difference) = difference.filter(|_| before != Some(outcome)) else { return };
        let Question { src, dst, .. } = flow.question;
        let isolation = match difference.denial() {
            RuleId::NO_RULE => {
                let denying = if difference.allowed { &turn.snapshot.tables.policy } else { shadow.policy() };
                let isolated = if difference.ingress { dst.ip() } else { src };
                isolation(denying, isolated, difference.ingress)
            }
            _ => 0,
        };
        tally.count(&difference, isolation, (src, dst.ip()));
        if !tally.may_tell(turn.now.seconds) {
            return;
        }
        let record = DifferenceRecord {
            shadow: shadow.number(),
            difference,
            addresses: (flow.key.src(flow.v6), flow.key.dst(flow.v6)),
            src_port: flow.key.src_port(),
            dst_port: flow.key.dst_port(),
            protocol: flow.key.protocol(),
            judged_dst: dst,
            established: flow.established,
            epoch: turn.snapshot.epoch(),
            time_ns: turn.now.nanos,
        };
        if self.notices.try_push(Notice::Difference(record)).is_err() {
            tally.lost.add(1);
        }
    }
}

/// Whether what becomes of a flow is what policy has said: it passes, or is dropped for that reason.
fn is_by_policy(reason: Option<DropReason>) -> bool {
    matches!(reason, None | Some(DropReason::PolicyEgress | DropReason::PolicyIngress))
}

/// What policy was asked when the entry of a flow's first direction was made.
fn question_of(entry: &Entry, v6: bool) -> Question {
    let (key, rewritten) = (&entry.key, &entry.rewritten);
    let dst = std::net::SocketAddr::new(rewritten.dst(v6), rewritten.dst_port());
    Question {
        src: key.src(v6),
        dst,
        protocol: key.protocol(),
        translated: entry.flags.has(Flags::SERVICE) || dst.ip() != key.dst(v6),
    }
}
