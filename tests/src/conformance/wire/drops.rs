//! [`Drops`]: what every node's penstockd says of the packets it drops, by the flow that each was of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_api::client::Client;
use agent_api::contract::DropEvent;
use anyhow::{Context, Result};
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::fabric::Fabric;

/// A flow as its first packet has it. An echo's identifier stands for both of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The client's address and port.
    pub(super) src: (IpAddr, u16),
    /// The server's.
    pub(super) dst: (IpAddr, u16),
    /// IP protocol number.
    pub(super) protocol: u8,
}

/// Why a packet was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// The drop reason's name.
    pub(super) name: String,
    /// The rule that decided, where one did.
    pub(super) rule: String,
}

impl Reason {
    /// Whether it is a policy's denial.
    pub(super) fn is_policy(&self) -> bool {
        matches!(self.name.as_str(), "policy_egress" | "policy_ingress")
    }
}

type Seen = Arc<Mutex<HashMap<Key, Reason>>>;

/// The drops of all nodes, while it lives.
#[derive(Debug)]
pub(super) struct Drops {
    seen: Seen,
    watchers: Vec<JoinHandle<()>>,
}

impl Drops {
    /// Watches every node from now on.
    ///
    /// # Errors
    /// Where one does not answer.
    pub(super) fn watch(runtime: &Runtime, fabric: &Fabric) -> Result<Self> {
        let mut drops = Drops { seen: Seen::default(), watchers: Vec::new() };
        for node in fabric.nodes() {
            let address = node.socket().display().to_string();
            let mut events = runtime
                .block_on(async { Client::connect(&address).await?.watch_drops().await })
                .with_context(|| format!("watching the drops of {}", node.site.name))?;
            let seen = Arc::clone(&drops.seen);
            drops.watchers.push(runtime.spawn(async move {
                // A stream that breaks off leaves denials without their reason, and those fail.
                while let Some(Ok(event)) = events.next().await {
                    enter(&seen, event);
                }
            }));
        }
        Ok(drops)
    }

    /// Forgets what was: another state is asked now.
    pub(super) fn forget(&self) {
        lock(&self.seen).clear();
    }

    /// Why a packet of this flow was dropped; the policy's reason where there are several.
    pub(super) fn reason(&self, key: &Key) -> Option<Reason> {
        lock(&self.seen).get(key).cloned()
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.watchers.iter().for_each(JoinHandle::abort);
    }
}

fn lock(seen: &Seen) -> MutexGuard<'_, HashMap<Key, Reason>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter(seen: &Seen, event: DropEvent) {
    let (Some(src), Some(dst)) = (event.src, event.dst) else { return };
    let key = Key { src: (src, event.src_port), dst: (dst, event.dst_port), protocol: event.protocol };
    let reason = Reason { name: event.reason, rule: event.rule };
    let mut seen = lock(seen);
    if reason.is_policy() || !seen.contains_key(&key) {
        seen.insert(key, reason);
    }
}
