//! Reading ahead: where much of a batch is of flows that are not known, the memory that their judgement reads is asked for step by
//! step, each step for all of them. Packet by packet each would wait for every step by itself.
//!
//! ```text
//!   1  the packet           asked for: its frontend
//!   2  frontend ─► slot     asked for: the slot and the members
//!   3  slot ─► backend      asked for: its policy, its route, the lines of the replies
//! ```
//!
//! What the Services say is remembered in the item, so that the judgement does not ask again. Nothing else is: what is asked for and
//! not used after all costs a little, and changes nothing. The twin without it is the pipeline whose `general_only` is set.

use afxdp_driver::{Batch, Frame, cpu};
use arrayvec::ArrayVec;
use policy_compiler::service::{Choice, Resolution};

use super::express::{Head, Lane};
use super::{Fate, Item, Pipeline, Turn};
use crate::flow::Key;
use crate::judge::service_query;

/// Fewer strangers have nothing to do abreast.
const FEWEST: usize = 4;
/// Packets that are read ahead before the first of them is acted on: what is asked for must not push out what was.
const GROUP: usize = 16;

impl Pipeline {
    /// Whether so many packets of the batch may be of new flows that all of it is worth another look.
    #[inline(always)]
    pub(super) fn has_many_strangers(&self, packets: usize) -> bool {
        #[cfg(test)]
        if self.general_only {
            return false;
        }
        self.strangers >= FEWEST && self.strangers * 4 >= packets
    }

    /// Acts on a batch, of which a group is read ahead each time.
    #[inline(never)]
    pub(super) fn act_ahead(
        &mut self,
        turn: &mut Turn<'_>,
        lane: &Lane,
        batch: &mut Batch,
        heads: &mut [Head],
        items: &mut [Item],
    ) {
        for (heads, items) in heads.chunks_mut(GROUP).zip(items.chunks_mut(GROUP)) {
            let group = GROUP.min(batch.len());
            self.read_ahead(turn, &mut batch[..group], heads, items);
            for ((frame, head), item) in batch.drain(..group).zip(&*heads).zip(items) {
                self.act(turn, lane, frame, head, item);
            }
        }
    }

    fn read_ahead(&mut self, turn: &Turn<'_>, frames: &mut [Frame], heads: &mut [Head], items: &mut [Item]) {
        let tables = &turn.snapshot.tables;
        // 1. The packets.
        let mut strangers = ArrayVec::<&mut Item, GROUP>::new();
        for ((frame, head), item) in frames.iter_mut().zip(heads).zip(items) {
            if !head.is_strange(&self.flows) {
                continue;
            }
            if !head.is_read() {
                self.read(turn, frame, item);
                head.set_read();
            }
            if item.fate == Fate::Flow && !strangers.is_full() {
                let dst = item.parsed.dst();
                let frontend = tables.services.first_read(dst, item.parsed.dst_port, item.parsed.protocol);
                frontend.into_iter().for_each(cpu::prefetch);
                strangers.push(item);
            }
        }
        // 2. Their Services.
        let mut choices = ArrayVec::<Choice<'_>, GROUP>::new();
        for item in &strangers {
            let choice = tables.services.choose(&service_query(&item.key(), item.parsed.v6));
            choice.reads().into_iter().flatten().for_each(cpu::prefetch);
            choices.push(choice);
        }
        // 3. Their backends.
        for (item, choice) in strangers.into_iter().zip(&choices) {
            let resolution = choice.resolution();
            item.resolution = Some(resolution);
            let (v6, key) = (item.parsed.v6, item.key());
            let (dst, port, is_own) = match resolution {
                Resolution::NotAService => (key.dst(v6), key.dst_port(), true),
                Resolution::Forward { backend, masquerade, .. } => {
                    (backend.ip(), backend.port(), !masquerade)
                }
                Resolution::Reject { .. } | Resolution::Drop { .. } => continue,
            };
            tables.policy.first_read(dst).into_iter().for_each(cpu::prefetch);
            tables.routes.first_read(dst).into_iter().for_each(cpu::prefetch);
            if is_own {
                let replies = Key::new(dst, port, key.src(v6), key.src_port(), key.protocol());
                self.expect_new(v6, &replies);
            }
        }
    }
}
