//! [`Request`]: what is asked of the control thread.

use std::collections::BTreeMap;
use std::time::Instant;

use afxdp_driver::Ended;
use agent_api::contract::{AddPort, Applied, DropEvent, PortInfo, PortStats, Refusal};
use policy_compiler::compiler::Touched;
use policy_compiler::tables::Tables;
use tokio::sync::{broadcast, oneshot};

use super::neighbours::News;
use super::ports::{Attached, PortKind, Reservation};
use super::shadow;
use crate::snapshot::PortIndex;

/// Where an answer goes. Whoever has stopped waiting misses it; what was asked is done all the same.
pub(super) type Answer<T> = oneshot::Sender<T>;

/// How far the workers are.
#[derive(Debug)]
pub(super) struct Running {
    /// By worker: the generation that it has passed.
    pub(super) workers: Vec<u64>,
}

/// What is asked of the control thread.
pub(super) enum Request {
    /// Put these tables in force, which say something else of what is `touched`; answer when every worker has passed them.
    Apply { tables: Tables, touched: Touched, began: Instant, answer: Answer<Result<Applied, Refusal>> },
    /// What each worker has passed.
    Running(Answer<Running>),
    /// Take a port number.
    Reserve { request: AddPort, kind: PortKind, answer: Answer<Result<Reservation, Refusal>> },
    /// Give a number back: the attachment failed.
    Release(PortIndex),
    /// Hand the attached device to its worker; answer when every worker knows it.
    Serve { port: PortIndex, attached: Box<Attached>, answer: Answer<Result<PortInfo, Refusal>> },
    /// Detach; answer when the device is as it was found.
    Remove { device: String, answer: Answer<Result<(), Refusal>> },
    /// A port that its worker had handed back is closed.
    Closed { port: PortIndex, ended: Ended },
    /// The devices' names, by port number.
    Devices(Answer<BTreeMap<PortIndex, String>>),
    /// The ports.
    Ports(Answer<Vec<PortInfo>>),
    /// Their counters.
    PortStats(Answer<Vec<PortStats>>),
    /// The kernel has changed something.
    News(News),
    /// Report drops to one more watcher.
    WatchDrops(Answer<broadcast::Receiver<DropEvent>>),
    /// About a candidate beside the state.
    Shadow(shadow::Ask),
    /// End everything.
    Stop,
}
