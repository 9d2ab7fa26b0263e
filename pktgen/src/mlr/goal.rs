//! [`Goal`]: what a search is to find (RFC 9971, section "Search Goal").

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::options::duration;

/// A search goal. Its promises are checked where it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// Its name in reports.
    pub name: String,
    /// Loss ratio that a trial may have at most and still be low-loss; from 0 to below 1.
    pub loss: f64,
    /// Share of the duration sum that may be of high-loss trials; from 0 to below 1.
    pub exceed: f64,
    /// Length of the first trials; above 0.
    pub initial: Duration,
    /// Length of the trials that count in the end; not below `initial`.
    pub last: Duration,
    /// Sum of full-length trials that decides a load; not below `last`.
    pub sum: Duration,
    /// Distance of the bounds in the end, as a share of the upper one; above 0 and below 1.
    pub width: f64,
}

/// A goal that cannot be understood or kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoalError {
    /// An entry is neither a known goal nor a known key.
    #[error(
        "`{0}` is not understood: write ndr, pdr or rfc2544, or keys of \
         name=TEXT,loss=0.5%,exceed=50%,initial=1s,final=1s,sum=21s,width=0.5%, after a name or without"
    )]
    Entry(String),
    /// A key's value is not of its kind.
    #[error("{key}={value}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        reason: String,
    },
    /// Two keys cannot stand together.
    #[error("{key}: {reason}")]
    Together {
        /// The key.
        key: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Goal {
    /// No-drop rate as FD.io CSIT takes it: no loss in more than half of 21 trials of a second, to 0.5 percent.
    pub fn ndr() -> Self {
        Goal {
            name: "NDR".into(),
            loss: 0.0,
            exceed: 0.5,
            initial: Duration::from_secs(1),
            last: Duration::from_secs(1),
            sum: Duration::from_secs(21),
            width: 0.005,
        }
    }

    /// Partial-drop rate as FD.io CSIT takes it: as [`ndr`](Self::ndr), with a loss ratio of 0.5 percent.
    pub fn pdr() -> Self {
        Goal { name: "PDR".into(), loss: 0.005, ..Goal::ndr() }
    }

    /// RFC 2544's throughput (RFC 9971 calls the goal unconditionally compliant where `trial` is 60 s or longer): one
    /// trial of full length without any loss, and no other at the same load with loss.
    pub fn rfc2544(trial: Duration, width: f64) -> Self {
        Goal {
            name: "throughput".into(),
            loss: 0.0,
            exceed: 0.0,
            initial: trial.min(Duration::from_secs(1)),
            last: trial,
            sum: trial,
            width,
        }
    }

    /// The goal, if its fields keep their promises.
    ///
    /// # Errors
    /// [`GoalError::Together`] naming the key that does not.
    pub fn checked(self) -> Result<Self, GoalError> {
        let wrong = |key, reason: String| Err(GoalError::Together { key, reason });
        if self.initial.is_zero() {
            return wrong("initial", "a trial takes time".into());
        }
        if self.last < self.initial {
            return wrong(
                "final",
                format!("{:?} is shorter than the initial trial's {:?}", self.last, self.initial),
            );
        }
        if self.sum < self.last {
            return wrong("sum", format!("{:?} is shorter than one final trial's {:?}", self.sum, self.last));
        }
        for (key, value) in [("loss", self.loss), ("exceed", self.exceed)] {
            if !(0.0..1.0).contains(&value) {
                return wrong(key, format!("{value} is not from 0 to below 1 (100%)"));
            }
        }
        if !(self.width > 0.0 && self.width < 1.0) {
            return wrong("width", format!("{} is not above 0 and below 1 (100%)", self.width));
        }
        Ok(self)
    }
}

impl FromStr for Goal {
    type Err = GoalError;

    /// `ndr`, `pdr` or `rfc2544`, then keys that differ: `pdr,loss=1%,sum=5s`. Keys alone start from `ndr`.
    fn from_str(text: &str) -> Result<Self, GoalError> {
        let mut goal = Goal { name: String::new(), ..Goal::ndr() };
        for (index, entry) in text.split(',').enumerate() {
            let Some((key, value)) = entry.split_once('=') else {
                goal = match entry {
                    "ndr" if index == 0 => Goal::ndr(),
                    "pdr" if index == 0 => Goal::pdr(),
                    "rfc2544" if index == 0 => Goal::rfc2544(Duration::from_secs(60), 0.005),
                    _ => return Err(GoalError::Entry(entry.to_owned())),
                };
                continue;
            };
            match key {
                "name" if !value.trim().is_empty() => goal.name = value.trim().to_owned(),
                "loss" => goal.loss = share("loss", value)?,
                "exceed" => goal.exceed = share("exceed", value)?,
                "width" => goal.width = share("width", value)?,
                "initial" => goal.initial = time("initial", value)?,
                "final" => goal.last = time("final", value)?,
                "sum" => goal.sum = time("sum", value)?,
                _ => return Err(GoalError::Entry(entry.to_owned())),
            }
        }
        if goal.name.is_empty() {
            goal.name = format!("loss {}%", goal.loss * 100.0);
        }
        goal.checked()
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "name={},loss={}%,exceed={}%,initial={:?},final={:?},sum={:?},width={}%",
            self.name,
            self.loss * 100.0,
            self.exceed * 100.0,
            self.initial,
            self.last,
            self.sum,
            self.width * 100.0
        )
    }
}

fn time(key: &'static str, value: &str) -> Result<Duration, GoalError> {
    duration(value).map_err(|error| GoalError::Value {
        key,
        value: value.to_owned(),
        reason: error.to_string(),
    })
}

/// A share: `0.005` or `0.5%`.
fn share(key: &'static str, value: &str) -> Result<f64, GoalError> {
    let (number, unit) = value.strip_suffix('%').map_or((value, 1.0), |number| (number, 100.0));
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number / unit),
        _ => Err(GoalError::Value {
            key,
            value: value.to_owned(),
            reason: "write a share such as 0.005 or 0.5%".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn goals_are_read() {
        assert_eq!("ndr".parse(), Ok(Goal::ndr()));
        assert_eq!("pdr".parse(), Ok(Goal::pdr()));
        let goal: Goal = "pdr,loss=1%,sum=500ms,final=100ms,initial=50ms,name=one".parse().unwrap();
        assert_eq!(
            (goal.loss, goal.sum, goal.last),
            (0.01, Duration::from_millis(500), Duration::from_millis(100))
        );
        assert_eq!((goal.name.as_str(), goal.exceed, goal.width), ("one", 0.5, 0.005));
        assert_eq!("loss=0.02".parse::<Goal>().unwrap().name, "loss 2%");
    }

    #[test]
    fn bad_goals_are_refused_by_key() {
        let rows = [
            ("fast", "`fast`"),
            ("loss=0,ndr", "`ndr`"),
            ("colour=red", "`colour=red`"),
            ("loss=much", "loss=much"),
            ("loss=100%", "loss: 1"),
            ("loss=-1%", "loss: -0.01"),
            ("exceed=1", "exceed: 1"),
            ("width=0", "width: 0"),
            ("initial=0s", "initial"),
            ("final=100ms", "final"),
            ("sum=100ms", "sum"),
            ("sum=soon", "sum=soon"),
            ("loss=NaN", "loss=NaN"),
            ("", "``"),
        ];
        for (text, says) in rows {
            let error = text.parse::<Goal>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_and_what_is_read_keeps_its_promises(
            text in "(ndr|pdr)?(,?(loss|exceed|width|sum|final|initial)=[0-9.]{0,4}(%|ms|s)?){0,4}",
        ) {
            if let Ok(goal) = text.parse::<Goal>() {
                prop_assert!(goal.checked().is_ok());
            }
        }
    }
}
