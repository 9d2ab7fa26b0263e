//! The laws of every worker, read from a running penstockd and checked to the packet.

use std::time::{Duration, Instant};

use agent_api::contract::{Stats, WorkerStats};
use anyhow::{Result, bail, ensure};

use crate::cluster::Node;

/// How long a node may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the two readings that must not differ.
const REST: Duration = Duration::from_millis(100);

/// Packets dropped, over all reasons.
pub fn dropped(worker: &WorkerStats) -> u64 {
    worker.drops.values().sum()
}

/// Checks one worker's books: packets, and chunks of packet memory. Returns the sums.
///
/// # Errors
/// With the sums, where they do not balance.
pub fn balance(worker: &WorkerStats) -> Result<String> {
    let WorkerStats { rx, generated, tx, held, chunks: [free, batches, kernel, all], .. } = *worker;
    let drops = dropped(worker);
    let packets = format!("rx {rx} + generated {generated} = tx {tx} + drops {drops} + held {held}");
    ensure!(rx + generated == tx + drops + held, "worker {}: not {packets}", worker.worker);
    ensure!(
        free + batches + kernel == all,
        "worker {}: not free {free} + in batches {batches} + with the kernel {kernel} = {all} chunks",
        worker.worker
    );
    Ok(packets)
}

/// The counters of a node at rest: two readings in which no worker has moved, and whose books balance.
///
/// # Errors
/// When it does not come to rest, or its books do not balance once it has.
pub fn at_rest(node: &Node) -> Result<Stats> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = node.stats()?;
    loop {
        std::thread::sleep(REST);
        let after = node.stats()?;
        let moved = before.workers.iter().zip(&after.workers).any(|(a, b)| (a.rx, a.tx) != (b.rx, b.tx));
        // A reading in the middle of a turn may not balance; one at rest must.
        let broken = after.workers.iter().find_map(|worker| balance(worker).err());
        match (moved, broken) {
            (false, None) => return Ok(after),
            (false, Some(error)) if Instant::now() > deadline => {
                return Err(error.context(node.site.name.clone()));
            }
            (true, _) if Instant::now() > deadline => {
                bail!("{} did not come to rest within {} s", node.site.name, PATIENCE.as_secs())
            }
            _ => before = after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_balance_to_the_packet_and_to_the_chunk() {
        let mut worker = WorkerStats {
            rx: 10,
            generated: 2,
            tx: 7,
            held: 1,
            drops: [("too_big".to_owned(), 3), ("loop".to_owned(), 1)].into(),
            chunks: [5, 1, 2, 8],
            ..WorkerStats::default()
        };
        assert_eq!(balance(&worker).unwrap(), "rx 10 + generated 2 = tx 7 + drops 4 + held 1");
        worker.chunks[3] = 9;
        assert!(balance(&worker).unwrap_err().to_string().contains("chunks"));
        worker.chunks[3] = 8;
        worker.tx = 8;
        assert!(balance(&worker).is_err());
    }
}
