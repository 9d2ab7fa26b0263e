//! # tests: what holds across the crates, on real packets
//!
//! ```text
//!   netns ──► lab ──► cluster ──► stage ──► demo, tests/*.rs     namespaces, links, nodes with their daemons
//!                └──► traffic ──────▲ └───► bench                the kernel's own TCP, UDP and ICMP inside them
//! ```
//!
//! * [`netns`]: namespaces as values; what a killed run left behind is swept away.
//! * [`lab`]: who may run at a time, links, pods, plain hosts, the underlay between nodes.
//! * [`daemon`]: programs under test: started, watched, ended.
//! * [`cluster`]: the two nodes of `examples/two-nodes` with `penstockd` and `penstock-agent` on them.
//! * [`traffic`]: clients and servers on the kernel's sockets.
//! * [`stage`]: the cluster with servers in every pod, and what the checks expect of them.
//! * [`generator`]: `pktgen`, started from a namespace.      * [`law`]: the workers' books, which must balance.
//! * [`interrupt`]: SIGINT and SIGTERM leave nothing behind.
//! * [`memif`]: DPDK's testpmd at the other end of a memif.
//! * [`demo`]: what `make demo` shows; its chapters are the root tests' too.
//! * [`conformance`]: cases in folders, run offline and on packets.
//! * [`mod@bench`]: penstockd against DPDK, the kernel and Open vSwitch on veth.
//!
//! It is not for: packets of our own making (see `pktgen`), nor for anything that runs in production. Everything here
//! needs root, except what its documentation says does not.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub mod bench;
pub mod cluster;
pub mod conformance;
pub mod daemon;
pub mod demo;
pub mod generator;
pub mod interrupt;
pub mod lab;
pub mod law;
pub mod manifests;
pub mod memif;
pub mod netns;
pub mod stage;
pub mod traffic;

/// Prints a line for people, now.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever listens may have gone; the work is no less valid.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Asks `question` every 10 ms until it has an answer.
///
/// # Errors
/// The question's own error at once; after `patience`, that `what` did not happen.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {:.1} s", patience.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_an_answer_an_error_or_the_name_of_what_did_not_happen() {
        let mut asked = 0;
        let answer = wait_for("three", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 3).then_some("three"))
        });
        assert_eq!(answer.unwrap(), "three");
        let late = wait_for::<()>("the moon", Duration::from_millis(1), || Ok(None));
        assert!(late.unwrap_err().to_string().starts_with("the moon: not within"));
        let broken = wait_for::<()>("x", Duration::from_secs(60), || bail!("broken"));
        assert_eq!(broken.unwrap_err().to_string(), "broken");
    }
}
