//! MLRsearch (RFC 9971): the loads at which a device keeps several loss goals, found in one search.
//!
//! ```text
//!   goals, limits ─► Search ─── next() ──► Trial { load, duration } ──► whoever measures
//!                      ▲                                                     │
//!                      └────────── record(trial, outcome) ◄──────────────────┘
//!   at the end: results() ─► relevant lower and upper bound, conditional throughput, by goal
//! ```
//!
//! * [`goal`]: what is asked for: loss ratio, exceed ratio, durations, width.
//! * [`classify`]: a load's trials against a goal (RFC 9971, appendices A and B).
//! * [`search`]: which trial is next. It sees neither clock nor socket: time is the sum of the trials' durations.
//!
//! RFC 2544's throughput is the goal [`Goal::rfc2544`]: no loss, one trial of full length, nothing forgiven.
//!
//! It is not for: measuring. See [`bench`](crate::bench).

pub mod classify;
pub mod goal;
pub mod search;
#[cfg(test)]
mod simulated;

pub use classify::{Class, Trials};
pub use goal::{Goal, GoalError};
pub use search::{Ended, GoalResult, Limits, Outcome, Search, SearchError, Trial};
