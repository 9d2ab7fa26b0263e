//! Packets that wait for a neighbour's MAC address: few, and not for long.
//!
//! The first packet of a connection often finds a next hop that nobody has asked for yet. Its loss would cost the
//! connection a second (TCP's first retransmission). So it is held until a snapshot with the address is there, and
//! judged again then.

use afxdp_driver::{Frame, FramePool};
use arrayvec::ArrayVec;

use super::{Item, Now, Outputs, Pipeline, Turn};
use crate::drops::DropReason;
use crate::snapshot::{PortIndex, Snapshot};

/// Packets held by a worker at most.
const MAX_PARKED: usize = 64;
/// Nanoseconds that a packet is held at most: what an unanswered ARP request is worth.
const PATIENCE: u64 = 1_000_000_000;

/// The packets held, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Parking {
    parked: ArrayVec<Parked, MAX_PARKED>,
    /// While a packet is tried again: when its time is over.
    until: Option<u64>,
}

#[derive(Debug)]
struct Parked {
    item: Item,
    frame: Frame,
    port: PortIndex,
    until: u64,
}

impl Pipeline {
    /// Holds a packet whose next hop is being asked for; ends it where there is no room, no time left or another
    /// reason.
    pub(super) fn park(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame, reason: DropReason) {
        let until = self.parking.until.unwrap_or(turn.now.nanos + PATIENCE);
        let waits = reason == DropReason::NeighbourUnresolved && turn.now.nanos < until;
        if !waits || self.parking.parked.is_full() {
            return self.end(turn, item, frame, reason, None);
        }
        self.tally.held += 1;
        // It is judged again by other tables.
        let item = Item { resolution: None, ..*item };
        self.parking.parked.push(Parked { item, frame, port: turn.port, until });
    }

    /// Packets held.
    pub(crate) fn held(&self) -> usize {
        self.parking.parked.len()
    }

    /// Whether the oldest packet has waited for long enough.
    pub(crate) fn is_held_too_long(&self, nanos: u64) -> bool {
        self.parking.parked.first().is_some_and(|parked| parked.until <= nanos)
    }

    /// Tries every packet held once more: with a new snapshot, or at the end of its time.
    pub(crate) fn retry(&mut self, snapshot: &Snapshot, pool: &mut FramePool, out: &mut Outputs, now: Now) {
        for Parked { item, frame, port, until } in std::mem::take(&mut self.parking.parked) {
            self.tally.held -= 1;
            let Some(view) = snapshot.port(port) else {
                self.lose(pool, frame, DropReason::PortGone);
                continue;
            };
            self.parking.until = Some(until);
            self.follow(&mut Turn { snapshot, port, view, pool, out, now }, &item, frame);
        }
        self.parking.until = None;
    }

    /// Ends every packet held.
    pub(crate) fn abandon(&mut self, pool: &mut FramePool) {
        for parked in std::mem::take(&mut self.parking.parked) {
            self.tally.held -= 1;
            self.lose(pool, parked.frame, DropReason::NeighbourUnresolved);
        }
    }
}
