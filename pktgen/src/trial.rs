//! One trial: what it asks for, what it gave, and whoever can make one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mix::SizeMix;
use crate::mlr::Outcome;
use crate::report::LatencyReport;
use crate::run::Failure;

/// A trial to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialSpec {
    /// What it is for, in words: for progress and reports.
    pub test: String,
    /// Frame sizes; `None` is what the options say.
    pub size: Option<SizeMix>,
    /// Packets a second; `None` is as fast as the sender can.
    pub rate: Option<f64>,
    /// How much.
    pub amount: Amount,
}

/// How much a trial sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// For that long.
    Time(Duration),
    /// So many packets.
    Packets(u64),
}

/// What a trial gave. Laws: `asked` = `sent` + `forfeited` where a rate and a time are given; `sent` = `received` +
/// `lost`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// What it was for.
    pub test: String,
    /// Frame size with FCS, or the mix.
    pub size: String,
    /// Packets a second asked for; null for as fast as the sender can.
    pub load_pps: Option<f64>,
    /// Seconds asked for; null for a burst of so many packets.
    pub asked_seconds: Option<f64>,
    /// Packets asked for; of a trial as fast as possible, those that were sent.
    pub asked: u64,
    /// Packets sent.
    pub sent: u64,
    /// Seconds that it took to send them.
    pub seconds: f64,
    /// `sent / seconds`.
    pub sent_pps: f64,
    /// Packets of the load that the sender gave up because it was behind: counted as lost by searches, since nobody
    /// knows what the device would have done with them.
    pub forfeited: u64,
    /// Distinct packets received.
    pub received: u64,
    /// `sent` − `received`.
    pub lost: u64,
    /// Of `lost`: refused or dropped before they left the sender.
    pub lost_at_sender: u64,
    /// Of `lost`: dropped by the sending device itself (on a veth: the other end had no room).
    pub device_dropped: u64,
    /// Of `lost`: the receiver had no room for; others' packets count too.
    pub receiver_overflow: u64,
    /// Packets seen again.
    pub duplicates: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Latencies in nanoseconds, of what arrived.
    pub latency_ns: Option<LatencyReport>,
}

impl TrialRecord {
    /// Share of the packets asked for that did not arrive, from 0 to 1.
    pub fn loss_ratio(&self) -> f64 {
        self.outcome().loss()
    }

    /// The trial as a search sees it.
    pub fn outcome(&self) -> Outcome {
        Outcome { asked: self.asked, received: self.received }
    }

    /// Whether the laws hold.
    pub fn is_conserved(&self) -> bool {
        let paced = self.load_pps.is_some() && self.asked_seconds.is_some();
        (!paced || self.asked == self.sent + self.forfeited) && self.sent == self.received + self.lost
    }
}

/// What makes trials: the two ends around a device under test, or a simulation of them.
pub trait Device {
    /// Makes one trial.
    ///
    /// # Errors
    /// [`Failure`] where an end fails, or [`Failure::Interrupted`] where a signal came.
    fn measure(&mut self, spec: &TrialSpec) -> Result<TrialRecord, Failure>;

    /// The largest frame that the sending device takes, frame check sequence included, where that is known.
    fn largest_frame(&self) -> Option<usize>;
}
