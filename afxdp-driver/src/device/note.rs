//! [`Note`]: what was changed on a device, in a file that outlives us, so that the next run can undo it where this one
//! was killed.
//!
//! One file a device, named by what no other device of this machine has until it restarts: its namespace's cookie and
//! its index there. Whoever has changed the device holds a lock on the file as long as it lives; a file without a holder is
//! left over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::change::{Change, Side};
use super::{DeviceError, netlink};

/// How long another process may take to finish with the device.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A device's note, held.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
    file: Flock<File>,
}

impl Note {
    /// Takes the note of a device of the calling thread's namespace, and reads what somebody killed has left in it. To
    /// be [begun](Self::begin) when that is undone.
    pub(super) fn take(
        folder: &Path,
        device: &str,
        ifindex: u32,
    ) -> Result<(Self, Vec<(Side, Change)>), DeviceError> {
        let path = place(folder, ifindex);
        let failed = |source: io::Error| DeviceError::Note { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(mut note) = Note::try_take(&path).map_err(failed)? {
                let left = note.read().map_err(failed)?;
                return Ok((note, left));
            }
            if Instant::now() >= deadline {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = holder.lines().next().unwrap_or("another process").to_owned();
                return Err(DeviceError::Taken { device: device.into(), holder });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The notes in a folder that nobody holds, of devices of the calling thread's namespace: index and note.
    pub(super) fn left_in(folder: &Path) -> io::Result<Vec<(u32, Self)>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let here = format!("{}-", netlink::namespace_cookie()?);
        let mut notes = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let index = name.to_str().and_then(|name| name.strip_prefix(&here)?.parse().ok());
            if let Some(ifindex) = index
                && let Some(note) = Note::try_take(&folder.join(&name))?
            {
                notes.push((ifindex, note));
            }
        }
        Ok(notes)
    }

    /// Notes a change, before it is made.
    pub(super) fn add(&mut self, side: Side, change: Change) -> io::Result<()> {
        writeln!(self.file, "{side} {change}")
    }

    /// The changes in the file. Lines that make no sense are passed over: they are the first one, or not ours.
    pub(super) fn read(&mut self) -> io::Result<Vec<(Side, Change)>> {
        let mut text = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut text)?;
        Ok(parse(&String::from_utf8_lossy(&text)))
    }

    /// Nothing is left to undo.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Empties the file but for who holds it.
    pub(super) fn begin(&mut self) -> Result<(), DeviceError> {
        let begun = (|| {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            writeln!(self.file, "process {}", std::process::id())
        })();
        begun.map_err(|source| DeviceError::Note { path: self.path.clone(), source })
    }

    /// `None` where somebody holds it.
    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last holder may have removed it between our opening and our locking.
            Ok(file) if file.metadata()?.nlink() == 0 => Ok(None),
            Ok(file) => Ok(Some(Note { path: path.to_owned(), file })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

fn place(folder: &Path, ifindex: u32) -> PathBuf {
    // Without a cookie (before Linux 5.14) the namespaces of one folder are not told apart.
    folder.join(format!("{}-{ifindex}", netlink::namespace_cookie().unwrap_or_default()))
}

fn parse(text: &str) -> Vec<(Side, Change)> {
    let line = |line: &str| {
        let (side, change) = line.split_once(' ')?;
        Some((side.parse().ok()?, change.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ethtool::Feature;
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = (Side, Change)> {
        let feature = (proptest::sample::select(&Feature::ALL[..]), any::<bool>());
        let change = prop_oneof![
            feature.prop_map(|(feature, was)| Change::Feature { feature, was }),
            Just(Change::Queueing),
            Just(Change::ThreadedNapi),
        ];
        (proptest::sample::select(&[Side::Near, Side::Far][..]), change)
    }

    proptest! {
        #[test]
        fn a_note_says_what_was_written(changes in proptest::collection::vec(change(), 0..8)) {
            let lines: String = changes.iter().map(|(side, change)| format!("{side} {change}\n")).collect();
            prop_assert_eq!(parse(&format!("process 1\n{lines}near feature gso\n\nfar\n")), changes);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
