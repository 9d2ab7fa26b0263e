//! [`Watch`]: says when a folder of manifests has changed.
//!
//! inotify tells within a millisecond of edits, renames and swapped links inside the folder. It cannot tell of links'
//! targets elsewhere, of network file systems, or of a folder that was replaced as a whole: for these the files are
//! looked at (not read) once a second. Where inotify cannot be had at all, four times a second.
//!
//! inotify watches a folder, not its name: it tells that the folder was moved away, and goes on telling of that one.
//! So after each change the name is looked up again, and watched anew where it has become another folder's.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::folder::{Fingerprint, fingerprint};

/// An edit is over when nothing has happened for this long …
const QUIET: Duration = Duration::from_millis(10);
/// … or when it has lasted this long.
const LONGEST: Duration = Duration::from_millis(50);
/// Between two looks at the files, beside inotify and without it.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(250));

/// Watches a folder.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// `None`: inotify cannot be had.
    inotify: Option<RecommendedWatcher>,
    /// Device and inode of the folder that inotify watches.
    watched: Option<(u64, u64)>,
    events: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    seen: Fingerprint,
    /// Something has happened that has not been told.
    pending: bool,
}

impl Watch {
    /// Watches the folder at `path` from now on. What happens before the first [`Watch::changed`] is told by it.
    pub fn new(path: &Path) -> Self {
        // One place is enough: it says that something has happened, not what.
        let (sender, events) = mpsc::channel(1);
        let seen = fingerprint(path);
        let path = path.to_owned();
        let mut watch = Watch { path, inotify: None, watched: None, events, sender, seen, pending: false };
        watch.begin();
        watch
    }

    /// Waits for a change and for its end. May be dropped before its end without losing the change.
    pub async fn changed(&mut self) {
        while !self.pending {
            let pause = if self.inotify.is_some() { LOOK.0 } else { LOOK.1 };
            match timeout(pause, self.events.recv()).await {
                Ok(_) => self.pending = true,
                Err(_) => self.look(),
            }
        }
        let end = Instant::now() + LONGEST;
        while Instant::now() < end && timeout(QUIET, self.events.recv()).await.is_ok() {
            // More events may come than can be counted; one pause for all that have come.
            sleep(Duration::from_millis(1)).await;
        }
        if inode(&self.path) != self.watched {
            self.begin();
        }
        self.seen = fingerprint(&self.path);
        self.pending = false;
    }

    /// Looks at the files. A change that inotify has not told of means that it watches the wrong folders by now.
    fn look(&mut self) {
        if fingerprint(&self.path) != self.seen {
            self.pending = true;
            self.begin();
        }
    }

    /// Watches the folders that are there now.
    fn begin(&mut self) {
        let sender = self.sender.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            // Errors count as changes: an overflow of the queue is one.
            if event.is_ok_and(|event| is_reading(event.kind)) {
                return;
            }
            // A full channel has told already.
            let _ = sender.try_send(());
        };
        // Looked up before it is watched: a folder that is replaced in between is found at the next change.
        let watched = inode(&self.path);
        let begun = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        self.watched = watched.filter(|_| begun.is_ok());
        match begun {
            Ok(watcher) => self.inotify = Some(watcher),
            Err(error) => {
                tracing::warn!(folder = %self.path.display(), %error, "no inotify: looking every 250 ms instead");
                self.inotify = None;
            }
        }
    }
}

/// Device and inode of what is at `path`.
fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Whether an event is but of reading, our own for instance.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests;
