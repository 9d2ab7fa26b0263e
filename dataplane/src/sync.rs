//! The atomics of what is model-checked: the flow table's lines and the publication. Here they are std's.
//!
//! `tests/loom.rs` compiles those files a second time, as they are, with loom's in this module's place.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use arc_swap::ArcSwap;
