//! [`DeviceSetup`]: a device made ready for a port, and made what it was again.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use nix::sched::CpuSet;

use super::change::{Change, Side};
use super::end::{End, offload_command};
use super::ethtool::{self, Feature};
use super::note::Note;
use super::{DeviceError, link_of, napi, netlink, queueing};

/// What is done beyond the offloads, which no port can live with.
#[derive(Debug, Clone, Default)]
pub struct SetupPlan {
    /// Gives a veth a queueing discipline where it has none, so that a full receiver holds the sender up instead of
    /// losing its frames (Linux 6.16). See [`DeviceSetup::holds_up`].
    pub queueing: bool,
    /// The CPUs for the receive work at a veth's far end, which else is done inside our own system calls. Empty: it
    /// is left there.
    pub napi_cpus: Vec<usize>,
    /// Where notes are kept of what was changed, for the run after one that was killed; none are without a folder.
    pub notes: Option<PathBuf>,
}

/// What was changed on a device and, for a veth, on its peer, wherever that is; undone when this is dropped, or before
/// by [`restore`](Self::restore).
#[derive(Debug)]
#[must_use = "dropping it undoes the setup"]
pub struct DeviceSetup {
    near: End,
    far: Option<End>,
    done: Vec<(Side, Change)>,
    omitted: Vec<Omitted>,
    /// The near end has a discipline that can be stopped.
    holds_up: bool,
    note: Option<Note>,
}

/// What [`DeviceSetup::apply`] did; printed as "veth0: gso tso tx off, pfifo; eth0: gro on, napi threaded".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupReport {
    /// Each end's name, and what was changed there.
    pub ends: Vec<(String, Vec<String>)>,
    /// What could not be done.
    pub omitted: Vec<Omitted>,
}

/// A step that is wanted and could not be done. The port works without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device {device}: {step}: {reason}. Run: {command}")]
pub struct Omitted {
    /// The end's name.
    pub device: String,
    /// What was to be done.
    pub step: &'static str,
    /// Why it could not.
    pub reason: String,
    /// The command for a person to run, in the end's namespace.
    pub command: String,
}

impl DeviceSetup {
    /// Makes a device of the calling thread's namespace ready.
    ///
    /// Switches tx-checksumming, TSO and GSO off at both ends, or fails; then does what the plan says, as far as it can
    /// be done ([`SetupReport::omitted`] says what cannot). What an earlier run has left is undone first. What was
    /// changed before an error is changed back.
    ///
    /// # Errors
    /// [`DeviceError::Missing`], [`DeviceError::Query`]; [`DeviceError::Offload`] or [`DeviceError::Peer`] with the
    /// command to run where an offload stays on; [`DeviceError::Taken`], [`DeviceError::Note`].
    pub fn apply(device: &str, plan: &SetupPlan) -> Result<Self, DeviceError> {
        let mut link = link_of(device)?;
        let mut note = None;
        if let Some(folder) = &plan.notes {
            let (mut taken, left) = Note::take(folder, device, link.ifindex)?;
            if !left.is_empty() {
                tracing::info!(device, "undoing what a run that was killed has left");
                undo_left(&link, left)?;
                link = link_of(device)?;
            }
            taken.begin()?;
            note = Some(taken);
        }
        // Kept here while it grows: dropped on an error, it undoes what was done.
        let mut setup = DeviceSetup {
            near: End::here(&link),
            far: None,
            done: Vec::new(),
            omitted: Vec::new(),
            holds_up: false,
            note,
        };
        setup.complete_packets(Side::Near)?;
        setup.far = End::beyond(&link)?;
        if setup.far.is_some() {
            setup.complete_packets(Side::Far)?;
            setup.add_queueing(&link, plan);
            setup.thread_receiver(plan);
        }
        Ok(setup)
    }

    /// Whether the sending end stops when the receiving one is full, so that no frame is lost between them and
    /// [`AttachConfig::holds_up`](crate::AttachConfig::holds_up) may be set.
    pub fn holds_up(&self) -> bool {
        self.holds_up
    }

    /// What was done, to be said in the log.
    pub fn report(&self) -> SetupReport {
        let ends = [(Side::Near, Some(&self.near)), (Side::Far, self.far.as_ref())];
        let told = |(side, end): (Side, Option<&End>)| {
            let changes = self.done.iter().filter(|(place, _)| *place == side);
            end.map(|end| (end.device.clone(), changes.map(|(_, change)| in_words(*change)).collect()))
        };
        SetupReport { ends: ends.into_iter().filter_map(told).collect(), omitted: self.omitted.clone() }
    }

    /// Undoes all of it. A device that is gone needs nothing.
    ///
    /// # Errors
    /// The first [`DeviceError::Query`]; the rest is undone all the same.
    pub fn restore(mut self) -> Result<(), DeviceError> {
        self.undo()
    }

    /// Has checksums and segmentation done before packets leave an end.
    fn complete_packets(&mut self, side: Side) -> Result<(), DeviceError> {
        for feature in Feature::UNDONE {
            let Some(end) = self.end(side) else { return Ok(()) };
            match end.run(|| ethtool::feature(&end.device, feature)) {
                Ok(false) => continue,
                Ok(true) => {}
                // A device without ethtool has no such offload.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
                Err(source) => return Err(end.failed("reading an offload", source)),
            }
            let set = self.make(side, Change::Feature { feature, was: true }, |end| {
                ethtool::set_feature(&end.device, feature, false)
            });
            let Some(end) = self.end(side) else { return Ok(()) };
            if end.run(|| ethtool::feature(&end.device, feature)).unwrap_or(true) {
                return Err(DeviceError::Offload {
                    device: end.device.clone(),
                    offload: feature.word(),
                    reason: set
                        .err()
                        .map_or_else(|| "the driver keeps it on".into(), |error| error.to_string()),
                    command: offload_command(&end.device),
                });
            }
        }
        Ok(())
    }

    /// Gives the sending end a queueing discipline, unless it has one.
    fn add_queueing(&mut self, link: &netlink::Link, plan: &SetupPlan) {
        if !plan.queueing {
            return;
        }
        self.holds_up = true;
        if link.queueing == queueing::NONE {
            let added = self.make(Side::Near, Change::Queueing, |end| queueing::add(end.ifindex));
            self.holds_up = added.is_ok();
            if let Err(error) = added {
                let command = format!("tc qdisc replace dev {} root pfifo", link.name);
                self.omit(Side::Near, "a queueing discipline, against loss", &error, command);
            }
        }
    }

    /// Moves the receiving end's work to threads on the plan's CPUs. A veth has such work to move only with GRO on.
    fn thread_receiver(&mut self, plan: &SetupPlan) {
        let Some(far) = self.far.as_ref().filter(|_| !plan.napi_cpus.is_empty()) else { return };
        let list: Vec<String> = plan.napi_cpus.iter().map(usize::to_string).collect();
        let command = format!(
            "ethtool -K {0} gro on; echo 1 > /sys/class/net/{0}/threaded; then taskset -pc {1} PID of napi/{0}-*",
            far.device,
            list.join(",")
        );
        if let Err(error) = self.try_thread_receiver(&plan.napi_cpus) {
            self.omit(Side::Far, "receiving in a thread of its own", &error, command);
        }
    }

    fn try_thread_receiver(&mut self, cpus: &[usize]) -> io::Result<()> {
        let mut set = CpuSet::new();
        cpus.iter().try_for_each(|&cpu| set.set(cpu))?;
        let gro = Feature::Gro;
        let Some(far) = &self.far else { return Ok(()) };
        if !far.run(|| ethtool::feature(&far.device, gro))? {
            let change = Change::Feature { feature: gro, was: false };
            self.make(Side::Far, change, |end| ethtool::set_feature(&end.device, gro, true))?;
        }
        let Some(far) = &self.far else { return Ok(()) };
        let contexts = far.run(|| napi::of(far.ifindex))?;
        if contexts.is_empty() || contexts.iter().any(|napi| napi.threaded) {
            // Nothing to move, or somebody else has moved it to where they want it.
            return Ok(());
        }
        self.make(Side::Far, Change::ThreadedNapi, |end| {
            napi::of(end.ifindex)?.into_iter().try_for_each(|napi| napi::set_threaded(napi, true))?;
            napi::of(end.ifindex)?.into_iter().try_for_each(|napi| napi::pin(napi, &set))
        })
    }

    /// Makes a change, noted before it is made: undoing what has not been done changes nothing.
    fn make(
        &mut self,
        side: Side,
        change: Change,
        action: impl FnOnce(&End) -> io::Result<()> + Send,
    ) -> io::Result<()> {
        if let Some(note) = &mut self.note {
            note.add(side, change)?;
        }
        self.done.push((side, change));
        self.end(side).map_or(Ok(()), |end| end.run(|| action(end)))
    }

    fn end(&self, side: Side) -> Option<&End> {
        match side {
            Side::Near => Some(&self.near),
            Side::Far => self.far.as_ref(),
        }
    }

    fn omit(&mut self, side: Side, step: &'static str, error: &io::Error, command: String) {
        // What was done of it is undone at once: half of it may be worse than nothing.
        let half = |change: &Change| match side {
            Side::Near => *change == Change::Queueing,
            Side::Far => !matches!(change, Change::Feature { was: true, .. }),
        };
        let begun: Vec<_> =
            self.done.iter().filter(|(place, change)| *place == side && half(change)).copied().collect();
        for (_, change) in begun.iter().rev() {
            // It could not be done; that it cannot be undone either has the same reason.
            let _ = self.end(side).map(|end| change.undo(end));
        }
        self.done.retain(|entry| !begun.contains(entry));
        if let Some(end) = self.end(side) {
            let device = end.device.clone();
            self.omitted.push(Omitted { device, step, reason: error.to_string(), command });
        }
    }

    fn undo(&mut self) -> Result<(), DeviceError> {
        let mut result = Ok(());
        for (side, change) in std::mem::take(&mut self.done).into_iter().rev() {
            if let Some(end) = self.end(side)
                && let Err(error) = change.undo(end)
            {
                result = result.and(Err(end.failed("undoing the setup", error)));
            }
        }
        // What could not be undone stays noted, for the next run.
        if let Some(note) = self.note.take().filter(|_| result.is_ok())
            && let Err(error) = note.remove()
        {
            tracing::debug!(%error, "removing a note");
        }
        result
    }
}

impl Drop for DeviceSetup {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(%error, "a device is not what it was");
        }
    }
}

/// Undoes what runs that were killed have left on devices of the calling thread's namespace, by their notes in `folder`.
/// Returns the devices' names.
///
/// # Errors
/// Where the folder cannot be read. A device that cannot be restored is said in the log, and its note stays.
pub fn restore_left(folder: &Path) -> io::Result<Vec<String>> {
    let mut restored = Vec::new();
    for (ifindex, mut note) in Note::left_in(folder)? {
        let left = note.read()?;
        match netlink::link(ifindex) {
            Ok(link) => match undo_left(&link, left) {
                Ok(()) => restored.push(link.name),
                Err(error) => {
                    tracing::warn!(%error, "a run that was killed has left a device changed");
                    continue;
                }
            },
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
        note.remove()?;
    }
    Ok(restored)
}

fn undo_left(link: &netlink::Link, left: Vec<(Side, Change)>) -> Result<(), DeviceError> {
    let near = End::here(link);
    let far = if left.iter().any(|(side, _)| *side == Side::Far) { End::beyond(link)? } else { None };
    for (side, change) in left.into_iter().rev() {
        let end = match side {
            Side::Near => Some(&near),
            Side::Far => far.as_ref(),
        };
        if let Some(end) = end {
            change.undo(end).map_err(|source| end.failed("undoing what was left", source))?;
        }
    }
    Ok(())
}

fn in_words(change: Change) -> String {
    match change {
        Change::Feature { feature, was } => format!("{} {}", feature.word(), if was { "off" } else { "on" }),
        Change::Queueing => format!("queueing {}", queueing::OURS),
        Change::ThreadedNapi => "napi threaded".to_owned(),
    }
}

impl fmt::Display for SetupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (device, changes)) in self.ends.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let changes = if changes.is_empty() { "nothing to do".to_owned() } else { changes.join(", ") };
            write!(f, "{separator}{device}: {changes}")?;
        }
        Ok(())
    }
}
