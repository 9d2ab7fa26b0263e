//! [`End`].

use std::time::Duration;

use afxdp_driver::memif::{MemifConfig, MemifHub, MemifPort, MemifStatus};
use afxdp_driver::{Batch, FramePool, HugePages, PacketIo};
use anyhow::{Result, ensure};

use crate::wait_for;

/// Chunks a queue.
const CHUNKS: usize = 2048;

/// An end of ours: a hub, the ports of one interface and memory for each.
#[derive(Debug)]
pub struct End {
    ports: Vec<MemifPort>,
    pools: Vec<FramePool>,
    status: MemifStatus,
    _hub: MemifHub,
}

impl End {
    /// Opens the interface.
    ///
    /// # Errors
    /// When its configuration cannot be, or its socket cannot be had.
    pub fn open(config: MemifConfig) -> Result<Self> {
        let hub = MemifHub::start()?;
        let (ports, status) = hub.open(config)?;
        let pools = ports.iter().map(|_| FramePool::anonymous(CHUNKS, HugePages::Never));
        let pools = pools.collect::<Result<Vec<_>, _>>()?;
        Ok(End { ports, pools, status, _hub: hub })
    }

    /// Where the connection stands.
    pub fn status(&self) -> &MemifStatus {
        &self.status
    }

    /// One queue's port and its memory.
    pub fn queue(&mut self, queue: usize) -> Result<(&mut MemifPort, &mut FramePool)> {
        match (self.ports.get_mut(queue), self.pools.get_mut(queue)) {
            (Some(port), Some(pool)) => Ok((port, pool)),
            _ => anyhow::bail!("there is no queue {queue}"),
        }
    }

    /// Waits until every queue is up, or down.
    ///
    /// # Errors
    /// When it is not so after `patience`, with what the hub says of it.
    pub fn wait_link(&mut self, up: bool, patience: Duration) -> Result<()> {
        let waited = wait_for(if up { "memif link up" } else { "memif link down" }, patience, || {
            for queue in 0..self.ports.len() {
                self.receive(queue)?;
            }
            let is_so = self.status.is_up() == up && self.ports.iter().all(|port| port.is_up() == up);
            Ok(is_so.then_some(()))
        });
        waited.map_err(|error| error.context(self.status.text()))
    }

    /// Sends packets by a queue; answers with how many were taken, the rest found no room.
    ///
    /// # Errors
    /// When the packets do not fit a chunk.
    pub fn send(&mut self, queue: usize, packets: &[Vec<u8>]) -> Result<usize> {
        let (port, pool) = self.queue(queue)?;
        let mut taken = 0;
        for packets in packets.chunks(64) {
            let mut batch = Batch::new();
            for packet in packets {
                let Some(mut frame) = pool.alloc() else { break };
                let fits = frame.fill(packet);
                batch.push(frame);
                ensure!(fits, "a packet of {} bytes", packet.len());
            }
            taken += port.send(pool, &mut batch);
            port.flush(pool)?;
            let left = batch.len();
            batch.into_iter().for_each(|frame| pool.free(frame));
            if left > 0 {
                break;
            }
        }
        Ok(taken)
    }

    /// What waits in a queue, a batch at most.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn receive(&mut self, queue: usize) -> Result<Vec<Vec<u8>>> {
        let (port, pool) = self.queue(queue)?;
        let mut batch = Batch::new();
        port.receive(pool, &mut batch, 64);
        let packets = batch.iter().map(|frame| frame.to_vec()).collect();
        batch.into_iter().for_each(|frame| pool.free(frame));
        Ok(packets)
    }

    /// That all packet memory is at home.
    ///
    /// # Errors
    /// With the books, when it is not.
    pub fn check_books(&self) -> Result<()> {
        for pool in &self.pools {
            let ledger = pool.ledger();
            ensure!(ledger.free == ledger.total, "chunks are missing: {ledger:?}");
        }
        Ok(())
    }
}
