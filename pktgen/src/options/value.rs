//! Values of flags: a link's speed, a core, a time, a share.

use std::str::FromStr;
use std::time::Duration;

use crate::rate::{Rate, RateError};

/// Bits a second of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpeed(pub f64);

impl FromStr for LinkSpeed {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        match text.parse()? {
            Rate::Bits(speed) => Ok(LinkSpeed(speed)),
            _ => Err(RateError::Form(text.to_owned())),
        }
    }
}

/// A core to pin a thread to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// Not pinned.
    Any,
    /// Pinned to the core of that number.
    Number(usize),
}

impl FromStr for Core {
    type Err = CoreError;

    fn from_str(text: &str) -> Result<Self, CoreError> {
        match text {
            "none" => Ok(Core::Any),
            _ => text.parse().map(Core::Number).map_err(|_| CoreError(text.to_owned())),
        }
    }
}

/// Not a core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a core: write its number, or none")]
pub struct CoreError(String);

/// A time that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time: write 10s, 500ms, 250us or 2m, up to 30 days")]
pub struct DurationError(String);

/// Reads a time: a number with `us`, `ms`, `s`, `m` or `h`; a bare number is seconds. Up to 30 days.
///
/// # Errors
/// [`DurationError`] for anything else.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let bad = || DurationError(text.to_owned());
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(bad()),
    };
    if seconds > 30.0 * 86_400.0 {
        Err(bad())
    } else {
        Duration::try_from_secs_f64(seconds).map_err(|_| bad())
    }
}

/// Reads a share above 0 and at most 1: `10%`, or `0.1`.
///
/// # Errors
/// What to write instead.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= unit => Ok(value / unit),
        _ => Err(format!("`{text}` is not a share: write 10% or 0.1, above 0 and at most 100%")),
    }
}

/// Reads a share of packets in percent, from 0 to 100; `%` may follow.
///
/// # Errors
/// What to write instead.
pub fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is not a share: write a number of percent from 0 to 100")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        assert_eq!(
            (share("10%"), share("0.5"), share("100%"), share("1")),
            (Ok(0.1), Ok(0.5), Ok(1.0), Ok(1.0))
        );
        for text in ["", "0", "0%", "101%", "1.5", "-1%", "half", "NaN", "%"] {
            assert!(share(text).unwrap_err().contains(&format!("`{text}`")), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        let rows = [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("3", 3000), ("1.5s", 1500), ("0s", 0)];
        for (text, milliseconds) in rows {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1 s", "1d", "99999999h", "NaN", "1.2.3s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
