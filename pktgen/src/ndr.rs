//! `pktgen search`: NDR, PDR and other goals by MLRsearch (RFC 9971), for one frame size or mix.

use crate::figures::Better;
use crate::mix::SizeMix;
use crate::mlr::{Ended, Goal};
use crate::run::Failure;
use crate::suite::Suite;

impl Suite<'_> {
    /// Searches for all goals together, again for each repeat. Gives the relevant lower bounds of the goals, each the
    /// median of its repeats; `None` where there was none.
    ///
    /// # Errors
    /// [`Failure`] where the goals cannot be kept, an end fails, or a signal comes.
    pub fn goals(
        &mut self,
        size: &SizeMix,
        goals: &[Goal],
        repeats: u32,
    ) -> Result<Vec<Option<f64>>, Failure> {
        let loads = self.loads(size)?;
        let mut found = vec![Vec::new(); goals.len()];
        for repeat in 1..=repeats {
            let results = self.search("search", size, goals, loads, repeat)?;
            for (result, found) in results.iter().zip(&mut found) {
                let name = &result.goal.name;
                match result.ended {
                    Ended::MaxLoad => {
                        let why =
                            format!("the highest load of {} packets a second keeps the goal", loads.max);
                        self.not_reached(format!("an upper bound of {name}, {size} bytes"), why);
                    }
                    Ended::Time => {
                        let why = "--time-limit was over before the bounds were close enough".into();
                        self.not_reached(format!("{name} to the goal's width, {size} bytes"), why);
                    }
                    Ended::MinLoad => {
                        let why = format!("even {} packets a second do not keep the goal", loads.min);
                        self.not_reached(format!("{name}, {size} bytes"), why);
                    }
                    Ended::Width => {}
                }
                let Some(lower) = result.lower else { continue };
                found.push(lower as f64);
                self.figure(name, size, "packets/s", Better::Higher, lower as f64);
                if let Some(rate) = result.conditional_throughput {
                    let name = format!("{name} conditional throughput");
                    self.figure(&name, size, "packets/s", Better::Higher, rate);
                }
            }
        }
        Ok(found.iter().map(|found| crate::stats::median_of(found)).collect())
    }
}
