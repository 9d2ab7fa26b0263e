//! [`Change`]: one thing changed on one end of a device, and how it is undone.

use std::str::FromStr;
use std::{fmt, io};

use super::end::End;
use super::ethtool::{self, Feature};
use super::{napi, queueing};

/// Which end of a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that a port is attached to.
    Near,
    /// Its peer.
    Far,
}

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A feature is no longer what it was.
    Feature { feature: Feature, was: bool },
    /// A queueing discipline of ours stands where there was none.
    Queueing,
    /// Receive work has threads, and had none.
    ThreadedNapi,
}

impl Change {
    /// Makes it undone. A device that is gone needs nothing.
    pub(super) fn undo(self, end: &End) -> io::Result<()> {
        let undone = end.run(|| match self {
            Change::Feature { feature, was } => ethtool::set_feature(&end.device, feature, was),
            Change::Queueing => queueing::remove(end.ifindex),
            Change::ThreadedNapi => {
                napi::of(end.ifindex)?.into_iter().try_for_each(|napi| napi::set_threaded(napi, false))
            }
        });
        match undone {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Near => "near",
            Side::Far => "far",
        })
    }
}

impl FromStr for Side {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "near" => Ok(Side::Near),
            "far" => Ok(Side::Far),
            _ => Err(()),
        }
    }
}

/// As it stands in a [`Note`](super::note::Note).
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Feature { feature, was } => {
                write!(f, "feature {} was {}", feature.word(), if *was { "on" } else { "off" })
            }
            Change::Queueing => f.write_str("queueing"),
            Change::ThreadedNapi => f.write_str("threaded-napi"),
        }
    }
}

impl FromStr for Change {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["feature", word, "was", state @ ("on" | "off")] => {
                let feature = Feature::ALL.into_iter().find(|feature| feature.word() == word).ok_or(())?;
                Ok(Change::Feature { feature, was: state == "on" })
            }
            ["queueing"] => Ok(Change::Queueing),
            ["threaded-napi"] => Ok(Change::ThreadedNapi),
            _ => Err(()),
        }
    }
}
