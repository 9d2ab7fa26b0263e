//! `pktgen certify`: the whole set against a running node, for one report that can be handed on: RFC 2544 by frame size,
//! NDR and PDR by frame size and for the Internet mix, latency at shares of the NDR.

use std::time::Duration;

use crate::mix::SizeMix;
use crate::mlr::Goal;
use crate::options::CertifyOptions;
use crate::run::Failure;
use crate::suite::{RFC_2544_SIZES, Suite, no_size};

/// Repeats and trial length where none are asked for.
const REPEATS: u32 = 5;
const TRIAL: Duration = Duration::from_secs(10);
/// The same for `--quick`.
const QUICK_REPEATS: u32 = 3;
const QUICK_TRIAL: Duration = Duration::from_millis(200);

/// Steps of the loss test.
const LOSS_STEP: f64 = 0.1;
/// Longest burst, as time at the highest rate (RFC 2544, section 26.4: at least 2 s).
const BURST: Duration = Duration::from_secs(2);
const QUICK_BURST: Duration = Duration::from_millis(50);

/// The options with what `certify` takes where nothing is asked for.
pub fn filled(mut options: CertifyOptions) -> CertifyOptions {
    let trials = &mut options.bench.trials;
    let (repeats, trial) = if options.quick { (QUICK_REPEATS, QUICK_TRIAL) } else { (REPEATS, TRIAL) };
    trials.repeats = Some(trials.repeats.unwrap_or(repeats));
    trials.trial = Some(trials.trial.unwrap_or(trial));
    options
}

/// Makes the set.
///
/// # Errors
/// [`Failure`] where the options are impossible, an end fails, or a signal comes; the report has what was found before.
pub fn run(suite: &mut Suite<'_>, options: &CertifyOptions) -> Result<(), Failure> {
    suite.report.node.clone_from(&options.node);
    if options.quick {
        let note =
            "--quick: short trials and few of them; it shows that everything works and certifies nothing";
        suite.report.note(note.into());
    }
    no_size(&options.bench)?;
    let repeats = options.bench.trials.repeats.unwrap_or(REPEATS);
    let trial = options.bench.trials.length();
    let usual: &[u16] = if options.quick { &[128] } else { &RFC_2544_SIZES };
    let mut sizes = suite.sizes(&options.sizes, usual)?;
    for size in &sizes {
        rfc2544(suite, options, size, repeats)?;
    }
    if !sizes.contains(&SizeMix::imix()) {
        sizes.push(SizeMix::imix());
    }
    let goals = goals(options.quick, trial, options.bench.trials.resolution);
    for size in &sizes {
        let found = suite.goals(size, &goals, repeats)?;
        let ndr = found.first().copied().flatten();
        for share in &options.fractions {
            let at = format!("{}% of NDR", (share * 1000.0).round() / 10.0);
            match ndr {
                Some(ndr) => suite.latency_at(&at, size, ndr * share, repeats)?,
                None => suite.not_reached(format!("latency at {at}, {size} bytes"), "there is no NDR".into()),
            }
        }
    }
    Ok(())
}

fn rfc2544(
    suite: &mut Suite<'_>,
    options: &CertifyOptions,
    size: &SizeMix,
    repeats: u32,
) -> Result<(), Failure> {
    let loads = suite.loads(size)?;
    let throughput = suite.throughput(size, loads, repeats)?;
    suite.latency(size, throughput, repeats)?;
    suite.loss(size, loads, LOSS_STEP, repeats)?;
    let burst = if options.quick { QUICK_BURST } else { BURST };
    suite.back_to_back(size, loads, throughput, burst, repeats)
}

/// NDR and PDR. CSIT's 21 trials a load; for `--quick` three.
fn goals(quick: bool, trial: Duration, near: Option<f64>) -> Vec<Goal> {
    let trial = trial.min(Duration::from_secs(1));
    let (sum, width) = if quick { (trial * 3, 0.05) } else { (trial * 21, 0.005) };
    let width = near.map_or(width, |near| near.min(0.5));
    [Goal::ndr(), Goal::pdr()].map(|goal| Goal { initial: trial, last: trial, sum, width, ..goal }).to_vec()
}
