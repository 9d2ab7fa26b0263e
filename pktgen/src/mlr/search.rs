//! [`Search`]: which trial is next, and what has been found.
//!
//! Each goal has phases: trials grow from the initial to the final duration, the width asked for shrinks with them. A
//! phase is over for a goal when its bounds are close enough, or a limit is a bound itself. Within a phase, in this
//! order:
//! 1. nothing is known: the highest load;
//! 2. no lower bound: the lower bound of the phase before is measured again, else lower and lower loads, the first of
//!    them at the forwarding rate of the upper bound;
//! 3. no upper bound: the upper bound of the phase before, else higher and higher loads;
//! 4. both, too far apart: the load halfway (in proportion), again until it is decided.
//!
//! All trials count for all goals and phases (see [`classify`](super::classify)); earlier phases are never gone back to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::classify::{Class, Target, Trials};
use super::goal::{Goal, GoalError};

/// Phases before the last one, where the initial duration is shorter than the final one.
const EARLIER_PHASES: u32 = 2;

/// Loads to search between, in packets a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The lowest; at least 1.
    pub min: u64,
    /// The highest; above `min`.
    pub max: u64,
    /// Sum of all trials' durations after which no further one is begun.
    pub time: Duration,
}

/// A search that cannot begin.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SearchError {
    /// No goal.
    #[error("there is no goal to search for")]
    NoGoal,
    /// A goal does not keep its promises.
    #[error("goal {name}: {error}")]
    Goal {
        /// The goal's name.
        name: String,
        /// What is wrong.
        error: GoalError,
    },
    /// Two goals of one name.
    #[error("two goals are called {0}")]
    SameName(String),
    /// The limits are no range of loads.
    #[error(
        "loads from {min} to {max} packets a second are no range: at least 1, and the highest above the lowest"
    )]
    Limits {
        /// The lowest.
        min: u64,
        /// The highest.
        max: u64,
    },
}

/// A trial to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trial {
    /// Packets a second.
    pub load: u64,
    /// For how long.
    pub duration: Duration,
}

/// What a trial gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Packets that the load and the duration ask for.
    pub asked: u64,
    /// Of those, distinct packets that arrived.
    pub received: u64,
}

impl Outcome {
    /// Share of the packets asked for that did not arrive, from 0 to 1; 0 where none was asked for.
    pub fn loss(&self) -> f64 {
        if self.asked == 0 {
            0.0
        } else {
            self.asked.saturating_sub(self.received) as f64 / self.asked as f64
        }
    }
}

/// Why the search for a goal is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The bounds are as close as the goal asks: the regular result.
    Width,
    /// The highest load is a lower bound: the device may carry more.
    MaxLoad,
    /// The lowest load is an upper bound: the device does not keep the goal anywhere between the limits.
    MinLoad,
    /// The time was up before.
    Time,
}

/// What was found for a goal.
#[derive(Debug, Clone, PartialEq)]
pub struct GoalResult {
    /// The goal.
    pub goal: Goal,
    /// Relevant lower bound: the highest load that keeps the goal and is below all that do not.
    pub lower: Option<u64>,
    /// Relevant upper bound: the lowest load that does not keep the goal.
    pub upper: Option<u64>,
    /// Forwarding rate at the relevant lower bound, at the goal's exceed quantile.
    pub conditional_throughput: Option<f64>,
    /// Why it is over.
    pub ended: Ended,
}

/// The search as a state machine.
#[derive(Debug, Clone)]
pub struct Search {
    goals: Vec<(Goal, Vec<Target>)>,
    limits: Limits,
    loads: BTreeMap<u64, Trials>,
    spent: Duration,
    /// Phase and goal that are worked on.
    at: (usize, usize),
}

/// The bounds at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bounds {
    lower: Option<u64>,
    upper: Option<u64>,
}

impl Search {
    /// A search for `goals` within `limits`.
    ///
    /// # Errors
    /// [`SearchError`] where there is nothing to search for, or nowhere.
    pub fn new(goals: &[Goal], limits: Limits) -> Result<Self, SearchError> {
        if limits.min == 0 || limits.min >= limits.max {
            return Err(SearchError::Limits { min: limits.min, max: limits.max });
        }
        if goals.is_empty() {
            return Err(SearchError::NoGoal);
        }
        for (index, goal) in goals.iter().enumerate() {
            let named = |error| SearchError::Goal { name: goal.name.clone(), error };
            goal.clone().checked().map_err(named)?;
            if goals.iter().take(index).any(|other| other.name == goal.name) {
                return Err(SearchError::SameName(goal.name.clone()));
            }
        }
        let goals = goals.iter().map(|goal| (goal.clone(), targets(goal))).collect();
        let mut search = Search { goals, limits, loads: BTreeMap::new(), spent: Duration::ZERO, at: (0, 0) };
        search.advance();
        Ok(search)
    }

    /// The trial that tells most; `None` when everything is found or the time is up. The same until something is
    /// recorded.
    pub fn next(&self) -> Option<Trial> {
        if self.spent >= self.limits.time {
            return None;
        }
        let (load, target) = self.wanted()?;
        Some(Trial { load, duration: Duration::from_nanos(target.length) })
    }

    /// Enters what a trial gave. It need not be the one that [`next`](Self::next) asked for.
    pub fn record(&mut self, trial: Trial, outcome: Outcome) {
        self.loads.entry(trial.load).or_default().push(trial.duration, outcome.loss());
        self.spent += trial.duration;
        self.advance();
    }

    /// What has been found so far, goal by goal.
    pub fn results(&self) -> Vec<GoalResult> {
        self.goals.iter().map(|(goal, targets)| self.result(goal, targets)).collect()
    }

    /// Sum of the durations of all trials so far.
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// The name of the goal that is worked on; `None` at the end.
    pub fn working_on(&self) -> Option<&str> {
        self.goals.get(self.at.1).filter(|_| self.at.0 < self.phases()).map(|(goal, _)| goal.name.as_str())
    }

    fn result(&self, goal: &Goal, targets: &[Target]) -> GoalResult {
        let last = targets.last();
        let bounds = last.map(|target| self.bounds(target)).unwrap_or_default();
        let ended = last.and_then(|target| self.done(&bounds, target)).unwrap_or(Ended::Time);
        let throughput = bounds.lower.zip(last).and_then(|(load, target)| {
            self.loads.get(&load).and_then(|trials| trials.conditional_throughput(load, target))
        });
        GoalResult {
            goal: goal.clone(),
            lower: bounds.lower,
            upper: bounds.upper,
            conditional_throughput: throughput,
            ended,
        }
    }

    fn phases(&self) -> usize {
        self.goals.iter().map(|(_, targets)| targets.len()).max().unwrap_or(0)
    }

    /// Goes on to the next phase or goal while nothing is left to do in this one. In the last phase a goal is come back
    /// to where trials for another have moved its bounds.
    fn advance(&mut self) {
        while self.at.0 < self.phases() && self.wanted().is_none() {
            self.at.1 += 1;
            if self.at.1 < self.goals.len() {
                continue;
            }
            let open = self.goals.iter().position(|(_, targets)| {
                targets.last().is_some_and(|target| self.done(&self.bounds(target), target).is_none())
            });
            self.at = match open {
                Some(goal) if self.at.0 + 1 == self.phases() => (self.at.0, goal),
                _ => (self.at.0 + 1, 0),
            };
        }
    }

    /// The load that the current phase and goal want measured, and the phase's target; `None` where they are done.
    fn wanted(&self) -> Option<(u64, &Target)> {
        let (_, targets) = self.goals.get(self.at.1)?;
        // Goals with fewer phases join in later: all have their last one together.
        let phase = (self.at.0 + targets.len()).checked_sub(self.phases())?;
        let target = targets.get(phase)?;
        let bounds = self.bounds(target);
        if self.done(&bounds, target).is_some() {
            return None;
        }
        let before = phase.checked_sub(1).and_then(|phase| targets.get(phase));
        let before = before.map(|target| self.bounds(target)).unwrap_or_default();
        let load = match (bounds.lower, bounds.upper) {
            // 4.
            (Some(lower), Some(upper)) => self.halfway(lower, upper, target),
            // 2.
            (None, Some(upper)) => match before.lower {
                Some(load) if load < upper => load,
                _ => self.below(upper, target),
            },
            // 3.
            (Some(lower), None) => match before.upper {
                Some(load) if load > lower => load,
                _ => self.above(lower, target),
            },
            // 1., or the first of what the phase before has found.
            (None, None) => before.lower.or(before.upper).unwrap_or(self.limits.max),
        };
        Some((load, target))
    }

    fn bounds(&self, target: &Target) -> Bounds {
        let of = |wanted: Class| {
            move |(load, trials): (&u64, &Trials)| (trials.class(target) == wanted).then_some(*load)
        };
        let upper = self.loads.iter().find_map(of(Class::Upper));
        let below = self.loads.range(..upper.unwrap_or(u64::MAX));
        Bounds { lower: below.rev().find_map(of(Class::Lower)), upper }
    }

    fn done(&self, bounds: &Bounds, target: &Target) -> Option<Ended> {
        match (bounds.lower, bounds.upper) {
            (Some(lower), Some(upper)) if upper - lower <= width(upper, target) => Some(Ended::Width),
            (Some(lower), None) if lower >= self.limits.max => Some(Ended::MaxLoad),
            (None, Some(upper)) if upper <= self.limits.min => Some(Ended::MinLoad),
            _ => None,
        }
    }

    /// A load below `upper`: twice as far as the last step went, or what the device has forwarded, whichever is less.
    fn below(&self, upper: u64, target: &Target) -> u64 {
        let above = self.loads.range(upper + 1..).map(|(load, _)| *load).next();
        let step = above.map_or(0, |above| 2 * (above - upper)).max(width(upper, target));
        let forwarded = self
            .loads
            .get(&upper)
            .and_then(Trials::least_loss)
            .map_or(upper, |loss| (upper as f64 * (1.0 - loss)) as u64);
        // Never more than half at a time: one bad trial must not send the search to the bottom.
        let load = upper.saturating_sub(step).max(upper / 2).min(forwarded.max(upper / 64));
        load.clamp(self.limits.min, upper - 1)
    }

    /// A load above `lower`: twice as far as the last step went.
    fn above(&self, lower: u64, target: &Target) -> u64 {
        let below = self.loads.range(..lower).map(|(load, _)| *load).next_back();
        let step = below.map_or(0, |below| 2 * (lower - below)).max(width(lower, target));
        lower.saturating_add(step).min(self.limits.max)
    }

    /// A load between the two, neither of them: one that is already begun where it lies well, else the middle in
    /// proportion.
    fn halfway(&self, lower: u64, upper: u64, target: &Target) -> u64 {
        let ratio = upper as f64 / lower as f64;
        let at = |share: f64| (lower as f64 * ratio.powf(share)) as u64;
        let middle = at(0.5).clamp(lower + 1, upper - 1);
        let begun = self.loads.range(at(0.25).max(lower + 1)..=at(0.75).clamp(lower + 1, upper - 1));
        begun
            .filter(|(_, trials)| trials.class(target) == Class::Undecided)
            .map(|(load, _)| *load)
            .min_by_key(|load| load.abs_diff(middle))
            .unwrap_or(middle)
    }
}

/// How far apart the bounds may be.
fn width(upper: u64, target: &Target) -> u64 {
    ((upper as f64 * target.width) as u64).max(1)
}

/// The targets of a goal's phases: durations in a geometric row, each decided by one trial but the last; the width
/// doubled for each phase before the last.
fn targets(goal: &Goal) -> Vec<Target> {
    let (first, last) = (goal.initial.as_secs_f64(), goal.last.as_secs_f64());
    let earlier = if goal.initial < goal.last || goal.sum > goal.last { EARLIER_PHASES } else { 0 };
    let target = |length: Duration, sum: Duration, width: f64| Target {
        loss: goal.loss,
        exceed: goal.exceed,
        length: length.as_nanos() as u64,
        sum: sum.as_nanos() as u64,
        width,
    };
    let mut targets: Vec<Target> = (0..earlier)
        .map(|phase| {
            let length = first * (last / first).powf(f64::from(phase) / f64::from(earlier));
            let length = Duration::from_secs_f64(length).clamp(goal.initial, goal.last);
            let width = goal.width * f64::from(1 << (earlier - phase));
            target(length, length, width.min(0.5))
        })
        .collect();
    targets.push(target(goal.last, goal.sum, goal.width));
    targets
}
