//! `pktgen` of this build, started from a namespace so that it ends with it, and what its report says.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::netns::Namespace;

/// What of pktgen's report is used here; its documentation says what the fields mean.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// The sender's part.
    pub tx: Option<Sent>,
    /// The receiver's part; none after `pktgen send`.
    pub rx: Option<Received>,
    /// What did not come; none after `pktgen send`.
    pub loss: Option<Loss>,
    /// Latencies, where packets came.
    pub latency_ns: Option<Latency>,
    /// Whether pktgen's own sums are right; none after `pktgen send`.
    pub conservation: Option<Conservation>,
}

/// What was sent.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Sent {
    /// Packets.
    pub sent: u64,
    /// Packets a second.
    pub pps: f64,
    /// Of `sent`: never left the sender.
    pub lost_at_sender: u64,
}

/// What was received.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Received {
    /// Distinct packets.
    pub received: u64,
    /// Packets a second.
    pub pps: f64,
    /// Packets seen again.
    pub duplicates: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Packets with a wrong checksum.
    pub corrupt: u64,
    /// Packets that the receiver had no room for.
    pub receiver_overflow: u64,
}

/// What did not come.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Loss {
    /// Packets.
    pub lost: u64,
}

/// Latencies in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 99 of 100 are below.
    pub p99: u64,
    /// 999 of 1000 are below.
    pub p99_9: u64,
    /// The largest.
    pub max: u64,
}

/// pktgen's own sums.
#[derive(Debug, Clone, Deserialize)]
pub struct Conservation {
    /// Whether they are right.
    pub holds: bool,
    /// The sums.
    pub text: String,
}

/// A running `pktgen`.
#[derive(Debug)]
pub struct Generator {
    daemon: Daemon,
}

impl Generator {
    /// Starts `pktgen` with these words and `-o json`. It is in `namespace`, and ends with it; where it sends and
    /// receives is said in the words.
    ///
    /// # Errors
    /// When it has not been built or cannot be started.
    pub fn start(namespace: &Namespace, log: PathBuf, words: &str) -> Result<Self> {
        let arguments: Vec<String> =
            words.split_whitespace().chain(["-o", "json"]).map(str::to_owned).collect();
        Ok(Generator { daemon: Daemon::start(namespace, "pktgen", &arguments, &log)? })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// With its last words, when it fails or has not ended after `patience`.
    pub fn finish(mut self, patience: Duration) -> Result<Report> {
        let status = self.daemon.wait_end(patience)?;
        ensure!(status.success(), "pktgen ended with {status}:\n{}", self.daemon.tail(15));
        let text = std::fs::read_to_string(self.daemon.log())?;
        parse(&text).with_context(|| format!("the report in {}", self.daemon.log().display()))
    }
}

/// The report among whatever else was said.
fn parse(text: &str) -> Result<Report> {
    let begin = text.find('{').context("there is none")?;
    let end = text.rfind('}').context("it does not end")?;
    Ok(serde_json::from_str(text.get(begin..=end).context("it does not begin")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_among_other_lines() {
        let text = concat!(
            "a warning\n{\"schema\": \"pktgen.report/1\", \"tx\": {\"sent\": 3, \"pps\": 1.5, \"lost_at_sender\": 0},\n",
            "\"rx\": null, \"loss\": null, \"latency_ns\": null, \"conservation\": null}\nthe end\n"
        );
        let report = parse(text).unwrap();
        assert_eq!(report.tx.unwrap().sent, 3);
        assert!(parse("pktgen: no such device").is_err());
    }
}
