//! [`MemifConfig`]: what an interface is, and what must hold of it.

use std::fmt;
use std::path::Path;

use super::layout::Layout;
use super::message::{NAME_LEN, SECRET_LEN};

/// Queue pairs of an interface at most.
pub const MAX_QUEUES: u16 = 64;
/// The smallest ring, as a power of two.
pub const MIN_LOG2_RING: u8 = 1;
/// The largest ring, as a power of two: what an index of 16 bits can tell full from empty, and half of it.
pub const MAX_LOG2_RING: u8 = 14;
/// Bytes of a buffer at least and at most; a multiple of [`MIN_BUFFER`].
pub const MIN_BUFFER: u32 = 64;
/// See [`MIN_BUFFER`].
pub const MAX_BUFFER: u32 = 16384;
/// Bytes of a socket's path at most (`sun_path`).
const MAX_PATH: usize = 107;

/// Who makes the shared memory, and who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemifRole {
    /// Connects, and makes the memory ("slave" of old).
    Client,
    /// Listens on the socket ("master" of old).
    Server,
}

/// One memif interface.
#[derive(Clone, PartialEq, Eq)]
pub struct MemifConfig {
    /// The control socket: an absolute path, or `@` and a name for an abstract one.
    pub socket: String,
    /// Which end this is.
    pub role: MemifRole,
    /// Number of the interface on its socket.
    pub id: u32,
    /// What a client must know; empty: nothing. At most [`SECRET_LEN`] bytes.
    pub secret: String,
    /// Queue pairs, a [`MemifPort`](super::MemifPort) each. The peer may have fewer: the others' link stays down.
    pub queues: u16,
    /// Descriptors of a ring, as a power of two. A client's to say; the server may lower it.
    pub log2_ring: u8,
    /// Bytes of a buffer. A client's to say.
    pub buffer: u32,
    /// What the peer is told as the interface's name.
    pub name: String,
}

/// A [`MemifConfig`] that cannot be, or a socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemifError {
    /// A field's value cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// The field of [`MemifConfig`].
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A server cannot listen.
    #[error("socket: {socket}: {operation}: {source}")]
    Listen {
        /// The socket.
        socket: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The thread that talks to peers cannot be started, or has ended.
    #[error("memif: {operation}: {source}")]
    Thread {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl MemifConfig {
    /// An interface with one queue, rings of 1,024 and buffers of 2 KiB.
    pub fn new(socket: impl Into<String>, role: MemifRole, id: u32) -> Self {
        MemifConfig {
            socket: socket.into(),
            role,
            id,
            secret: String::new(),
            queues: 1,
            log2_ring: 10,
            buffer: 2048,
            name: format!("memif{id}"),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`MemifError::Field`].
    pub fn check(&self) -> Result<(), MemifError> {
        let wrong = |field, problem| Err(MemifError::Field { field, problem });
        let name = self.socket.strip_prefix('@');
        let length = name.unwrap_or(&self.socket).len();
        if length == 0
            || self.socket.contains('\0')
            || (name.is_none() && !Path::new(&self.socket).is_absolute())
        {
            let problem = format!("{:?} is neither an absolute path nor @ and a name", self.socket);
            return wrong("socket", problem);
        }
        if length > MAX_PATH {
            return wrong("socket", format!("has {length} bytes: at most {MAX_PATH} are possible"));
        }
        if self.secret.len() > SECRET_LEN || self.secret.contains('\0') {
            return wrong("secret", format!("is longer than {SECRET_LEN} bytes or has a NUL"));
        }
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            return wrong("queues", format!("{} is not from 1 to {MAX_QUEUES}", self.queues));
        }
        if !(MIN_LOG2_RING..=MAX_LOG2_RING).contains(&self.log2_ring) {
            let problem = format!("2^{} is not from 2^{MIN_LOG2_RING} to 2^{MAX_LOG2_RING}", self.log2_ring);
            return wrong("ring", problem);
        }
        if !(MIN_BUFFER..=MAX_BUFFER).contains(&self.buffer) || !self.buffer.is_multiple_of(MIN_BUFFER) {
            let problem =
                format!("{} is no multiple of {MIN_BUFFER} from {MIN_BUFFER} to {MAX_BUFFER}", self.buffer);
            return wrong("buffer", problem);
        }
        let layout = Layout { queues: self.queues, log2_size: self.log2_ring, buffer: self.buffer };
        if layout.size() > u64::from(u32::MAX) {
            let problem = format!(
                "{} queues of 2^{} buffers of {} bytes each way are more than 4 GiB",
                self.queues, self.log2_ring, self.buffer
            );
            return wrong("buffer", problem);
        }
        if self.name.is_empty() || self.name.len() >= NAME_LEN || self.name.contains(char::is_control) {
            return wrong("name", format!("{:?} is not from 1 to {} bytes of text", self.name, NAME_LEN - 1));
        }
        Ok(())
    }
}

impl fmt::Display for MemifRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == MemifRole::Client { "client" } else { "server" })
    }
}

/// Without the secret.
impl fmt::Debug for MemifConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemifConfig")
            .field("socket", &self.socket)
            .field("role", &self.role)
            .field("id", &self.id)
            .field("has_secret", &!self.secret.is_empty())
            .field("queues", &self.queues)
            .field("log2_ring", &self.log2_ring)
            .field("buffer", &self.buffer)
            .field("name", &self.name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_named() {
        let good = || MemifConfig::new("/run/x", MemifRole::Client, 0);
        assert!(good().check().is_ok());
        assert!(MemifConfig { socket: "@penstock".into(), ..good() }.check().is_ok());
        let refused = |field: &str, config: MemifConfig| {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        };
        for socket in ["", "@", "relative", "/with\0nul", &format!("/{}", "x".repeat(107))] {
            refused("socket", MemifConfig { socket: socket.into(), ..good() });
        }
        refused("secret", MemifConfig { secret: "x".repeat(25), ..good() });
        refused("queues", MemifConfig { queues: 0, ..good() });
        refused("queues", MemifConfig { queues: 65, ..good() });
        refused("ring", MemifConfig { log2_ring: 0, ..good() });
        refused("ring", MemifConfig { log2_ring: 15, ..good() });
        for buffer in [0, 65, 16448] {
            refused("buffer", MemifConfig { buffer, ..good() });
        }
        refused("buffer", MemifConfig { queues: 64, log2_ring: 14, ..good() });
        refused("name", MemifConfig { name: "x".repeat(32), ..good() });
        assert!(!format!("{:?}", MemifConfig { secret: "psst".into(), ..good() }).contains("psst"));
    }
}
