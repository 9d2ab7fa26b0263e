//! [`UnixSocket`]: a listening Unix socket that is ours alone.
//!
//! ```text
//!   lock PATH.lock   held by a living process: refused       released by the kernel when its holder dies, however
//!   look at PATH     somebody answers: refused; no socket: refused; a dead process's socket: removed
//!   bind PATH.new, set its permissions, rename it to PATH    whoever sees PATH may connect to it at once
//! ```

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::ServerError;

/// A listening Unix socket. Dropping it removes it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    claim: Claim,
}

/// The right to the path. Dropping it removes the socket, where it is still ours, and the lock.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    /// Device and inode number of the socket.
    socket: Option<(u64, u64)>,
    lock_path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl UnixSocket {
    /// Listens on `path` with permissions `mode`. A missing folder is made. The socket of a process that has died is
    /// replaced. Needs a Tokio runtime with I/O.
    ///
    /// # Errors
    /// [`ServerError::Live`] where another process serves on it, [`ServerError::NotASocket`] where something else is
    /// there, [`ServerError::Socket`] where the system refuses.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, ServerError> {
        let mut claim = Claim::take(path)?;
        remove_dead(path)?;
        let listener = claim.listen(mode)?;
        Ok(UnixSocket { listener, claim })
    }

    pub(super) fn into_parts(self) -> (UnixListener, Claim) {
        (self.listener, self.claim)
    }
}

impl Claim {
    fn take(path: &Path) -> Result<Self, ServerError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .map_err(failed("create folder", folder))?;
        }
        let lock_path = beside(path, ".lock");
        loop {
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&lock_path)
                .map_err(failed("open", &lock_path))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ServerError::Live { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
            }
            // Its last holder may have removed it between our opening and our locking: then we hold nothing.
            let held = lock.metadata().map_err(failed("look at", &lock_path))?;
            if number(&lock_path).is_some_and(|there| there == (held.dev(), held.ino())) {
                return Ok(Claim { path: path.to_owned(), socket: None, lock_path, _lock: lock });
            }
        }
    }

    fn listen(&mut self, mode: u32) -> Result<UnixListener, ServerError> {
        let new = beside(&self.path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &new)(error)),
            _ => {}
        }
        let listener = net::UnixListener::bind(&new).map_err(failed("bind", &new))?;
        let place = || {
            fs::set_permissions(&new, Permissions::from_mode(mode))?;
            listener.set_nonblocking(true)?;
            fs::rename(&new, &self.path)
        };
        if let Err(error) = place() {
            // The error that follows is the one to report.
            let _ = fs::remove_file(&new);
            return Err(failed("place", &self.path)(error));
        }
        self.socket = number(&self.path);
        UnixListener::from_std(listener).map_err(failed("listen on", &self.path))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.socket.is_some() && number(&self.path) == self.socket {
            // Nothing depends on it: a socket left behind is replaced by the next process.
            let _ = fs::remove_file(&self.path);
        }
        // Still locked: whoever waits for it finds its name gone and makes a new one.
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes the socket of a process that has died.
fn remove_dead(path: &Path) -> Result<(), ServerError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ServerError::NotASocket { path: path.to_owned() });
    }
    match net::UnixStream::connect(path) {
        Ok(_) => Err(ServerError::Live { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove", path))
        }
        Err(error) => Err(failed("connect to", path)(error)),
    }
}

/// Device and inode number of what is at `path`.
fn number(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError + use<> {
    let path = path.to_owned();
    move |source| ServerError::Socket { operation, path, source }
}
