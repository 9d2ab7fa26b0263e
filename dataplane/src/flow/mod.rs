//! Flows: decided once, replayed from one line of the flow table.
//!
//! ```text
//!   key ──hash──► home slot ──► one line (v4: 64 bytes, v6: 128) = the whole answer
//!                    │ another flow's?
//!                    └──► tags of the bucket (16 slots) ──► of the second bucket ──► miss
//! ```
//!
//! * [`table`]: the table itself: plain words of atomics, readable by every worker.  * `line`: its sequence lock.
//! * [`entry`]: what a line says.  * [`state`]: TCP states, time-outs, who is evicted first.
//!
//! It is not for: deciding (see [`crate::judge`]).

pub mod entry;
mod hit;
mod line;
pub mod state;
pub mod table;

use afxdp_driver::{HugePages, RegionError};

pub use entry::{Entry, Flags, Key};
pub(crate) use hit::Hit;
pub use state::Activity;
pub use table::{Found, Table, Usage};

/// The flow tables of one penstockd: one a family, shared by all workers.
#[derive(Debug)]
pub struct FlowTables {
    /// IPv4: one cache line an entry.
    pub v4: Table<8>,
    /// IPv6: two cache lines an entry.
    pub v6: Table<16>,
}

/// One entry, read for people.
#[derive(Debug, Clone, Copy)]
pub struct FlowView {
    /// What it says.
    pub entry: Entry,
    /// What has passed.
    pub activity: Activity,
    /// True for the IPv6 table.
    pub v6: bool,
    /// "established", "closing", …
    pub state: &'static str,
}

impl FlowTables {
    /// Tables that hold at least `v4` and `v6` entries (two a flow: one a direction). `seed` keys the hash: a secret,
    /// so that nobody can choose flows that collide.
    ///
    /// # Errors
    /// [`RegionError`] where the memory cannot be mapped.
    pub fn new(v4: usize, v6: usize, huge_pages: HugePages, seed: u64) -> Result<Self, RegionError> {
        Ok(FlowTables { v4: Table::new(v4, huge_pages, seed)?, v6: Table::new(v6, huge_pages, seed)? })
    }

    /// At most `limit` live entries, in table order, IPv4 first.
    pub fn list(&self, limit: usize) -> Vec<FlowView> {
        let mut views = self.v4.list(limit, false);
        views.extend(self.v6.list(limit - views.len(), true));
        views
    }

    /// How full each is: IPv4, IPv6.
    pub fn usage(&self) -> [Usage; 2] {
        [self.v4.usage(), self.v6.usage()]
    }

    /// Frees entries that have been idle for longer than their time-out: a part of the table each call, all of it
    /// in 64 calls. For the control thread.
    pub fn sweep(&self, now_seconds: u32) {
        self.v4.sweep(now_seconds);
        self.v6.sweep(now_seconds);
    }
}
