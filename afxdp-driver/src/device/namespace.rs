//! Reaching the far end of a veth in another network namespace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use super::netlink;

/// Finds the namespace that has the id `id` in the calling thread's: among the named ones (`ip netns`) and those of
/// all processes. `None` where nothing of it can be seen from here.
pub(crate) fn find(id: i32) -> Option<File> {
    let mut seen = BTreeSet::new();
    for path in candidates() {
        let Ok(file) = File::open(&path) else { continue };
        let Ok(inode) = file.metadata().map(|metadata| metadata.ino()) else { continue };
        if seen.insert(inode) && netlink::namespace_id(file.as_fd()).is_ok_and(|found| found == Some(id)) {
            return Some(file);
        }
    }
    None
}

/// Runs `action` on a thread that has entered the namespace.
pub(crate) fn within<T: Send>(
    namespace: &File,
    action: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            action()
        });
        entered.join().unwrap_or_else(|_| Err(io::Error::other("a thread in another namespace panicked")))
    })
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let entries =
        |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = entries("/run/netns");
    let of_processes = entries("/proc")
        .filter(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
        })
        .map(|path| path.join("ns/net"));
    named.chain(of_processes)
}
