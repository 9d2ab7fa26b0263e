//! Runs a case on packets: `penstockd` on every node with the case's objects applied by `penstockctl`, pods and outside
//! hosts in namespaces, and the kernel's own TCP, UDP and ICMP at the ends.
//!
//! ```text
//!   case's manifests ─► folder ─► penstockctl apply ─► penstockd of each node       fabric: what stands between steps
//!   flow ─► a socket in its client's namespace ─► penstockd ─► echo in its server's probe: all of a step at once
//!                                                    └─► WatchDrops ──────────────► drops: why nothing came
//! ```
//!
//! An allowed flow must carry a nonce there and back, with the server's name. A denied one must meet silence, and
//! `penstockd` must have dropped this very flow's packet, by its ports, as `policy_egress` or `policy_ingress`: silence
//! for another reason is no denial. Neither waits for a fixed time only: an answer, or the drop's event, ends it.

use std::time::Instant;

use anyhow::{Context, Result};
use policy_compiler::evaluate::ProbeProtocol;
use tokio::runtime::Runtime;

use self::drops::Drops;
use self::echo::Echoes;
use self::fabric::Fabric;
use super::case::{Case, Flow, Step, Wanted};
use super::offline::judge_refusal;
use super::report::Outcome;
use crate::law;

mod drops;
mod echo;
mod fabric;
mod probe;

/// Why SCTP is left out.
const NO_SCTP: &str = "SCTP is left out on the wire: this kernel has none; offline it is asked";

/// A laboratory that runs cases, one after the other. What two have in common stays.
#[derive(Debug)]
pub struct Wire {
    stage: Option<Stage>,
    tag: &'static str,
    runtime: Runtime,
}

/// What stands, and who listens and watches there. Those go first.
#[derive(Debug)]
struct Stage {
    echoes: Echoes,
    drops: Drops,
    fabric: Fabric,
}

impl Wire {
    /// Makes nothing yet. `tag` tells its namespaces from others'.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(tag: &'static str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Wire { stage: None, tag, runtime })
    }

    /// Runs a case. What keeps it from being run is a failure, too.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let begin = Instant::now();
        let mut outcome = Outcome::of(case);
        if case.pending.is_none()
            && let Err(error) = self.steps(case, &mut outcome)
        {
            outcome.failures.push(format!("could not be run to its end: {error:#}"));
            // Whatever is broken is not for the next case to meet.
            self.stage = None;
        }
        if outcome.left_out > 0 {
            outcome.notes.push(NO_SCTP.to_owned());
        }
        outcome.took = begin.elapsed();
        outcome
    }

    /// Ends the daemons, whose books must balance and whose exit codes be 0.
    ///
    /// # Errors
    /// Where they do not.
    pub fn close(mut self) -> Result<()> {
        self.end_stage()
    }

    fn steps(&mut self, case: &Case, outcome: &mut Outcome) -> Result<()> {
        for step in &case.steps {
            crate::interrupt::point();
            let failures = match &step.wanted {
                Wanted::Refused(parts) => {
                    outcome.probes += 1;
                    self.refused(step, parts)?
                }
                Wanted::Flows(flows) => {
                    let (asked, left): (Vec<&Flow>, Vec<&Flow>) =
                        flows.iter().partition(|flow| flow.protocol != ProbeProtocol::Sctp);
                    outcome.probes += asked.len();
                    outcome.left_out += left.len();
                    self.step(case, step, &asked).with_context(|| step.name.clone())?
                }
            };
            outcome.failures.extend(failures.into_iter().map(|failure| format!("{}: {failure}", step.name)));
        }
        Ok(())
    }

    fn step(&mut self, case: &Case, step: &Step, flows: &[&Flow]) -> Result<Vec<String>> {
        if flows.is_empty() {
            return Ok(Vec::new());
        }
        let objects = step.objects.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
        let plan = fabric::Plan::of(objects, &case.outside)?;
        if !self.stage.as_ref().is_some_and(|stage| stage.fabric.suits(&plan)) {
            self.end_stage()?;
            let fabric = Fabric::raise(self.tag, &plan)?;
            let drops = Drops::watch(&self.runtime, &fabric)?;
            self.stage = Some(Stage { echoes: Echoes::default(), drops, fabric });
        }
        let stage = self.stage.as_mut().context("nothing stands")?;
        for place in stage.fabric.settle(&plan, &step.documents)? {
            stage.echoes.stop(&place);
        }
        for flow in flows {
            let namespace = stage.fabric.namespace(&flow.to.place)?;
            stage.echoes.start(&self.runtime, namespace, flow)?;
        }
        probe::ask(&self.runtime, &stage.fabric, &stage.drops, flows)
    }

    /// What is refused leaves what runs as it was.
    fn refused(&mut self, step: &Step, parts: &[String]) -> Result<Vec<String>> {
        let stage =
            self.stage.as_mut().context("a refusal must follow a step with flows: nothing runs yet")?;
        let said = stage.fabric.refused(&step.documents)?;
        Ok(judge_refusal(parts, said.as_deref()).err().into_iter().collect())
    }

    fn end_stage(&mut self) -> Result<()> {
        let Some(Stage { echoes, drops, mut fabric }) = self.stage.take() else { return Ok(()) };
        drop((echoes, drops));
        for node in fabric.nodes_mut() {
            law::at_rest(node)?;
            node.stop()?;
        }
        Ok(())
    }
}
