//! memif with a stranger: DPDK's testpmd as the other end, and an end of ours to drive it with.
//!
//! ```text
//!   End: MemifHub, its ports, packet memory ══ memif ══ Testpmd: net_memif, macswap
//! ```

mod end;
mod testpmd;

pub use end::End;
pub use testpmd::{Forwarding, Testpmd};
