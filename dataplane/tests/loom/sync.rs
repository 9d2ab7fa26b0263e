//! Loom's atomics in the place of `dataplane::sync`.

#![allow(clippy::unwrap_used, reason = "a poisoned lock fails the model")]

pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::sync::Arc;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// In the place of `arc_swap::ArcSwap`: the same promise (a load sees one whole store and all before it) by a lock. The
/// crate's own way to it, hazard slots, is not what is checked here.
#[derive(Debug)]
pub(crate) struct ArcSwap<T> {
    current: loom::sync::Mutex<Arc<T>>,
}

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(first: T) -> Self {
        ArcSwap { current: loom::sync::Mutex::new(Arc::new(first)) }
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        Arc::clone(&self.current.lock().unwrap())
    }

    pub(crate) fn store(&self, next: Arc<T>) {
        let old = std::mem::replace(&mut *self.current.lock().unwrap(), next);
        drop(old);
    }
}
