//! Clients and servers on the kernel's own sockets, inside namespaces: nothing of Penstock takes part at the ends.

use std::fmt;
use std::io::ErrorKind;
use std::time::Instant;

pub mod icmp;
pub mod live;
pub mod raw;
pub mod stream;
pub mod tcp;
pub mod udp;

/// What came of an attempt to reach somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other end answered.
    Answered,
    /// TCP RST, or ICMP port unreachable.
    Refused,
    /// ICMP host or network unreachable, administratively prohibited or the like.
    Unreachable,
    /// Nothing at all within the time allowed: what a policy's drop looks like.
    Silent,
    /// Something else, in the system's words.
    Failed(String),
}

impl Outcome {
    /// The outcome that an error of a socket stands for.
    pub fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Outcome::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Silent,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied => {
                Outcome::Unreachable
            }
            _ => Outcome::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered => f.write_str("answered"),
            Outcome::Refused => f.write_str("refused"),
            Outcome::Unreachable => f.write_str("unreachable"),
            Outcome::Silent => f.write_str("no answer"),
            Outcome::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

/// A clock all threads of this process share, whatever namespace they are in: nanoseconds since its first use.
pub fn clock_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A pseudo-random byte stream and its running digest: sender and receiver each make their own and compare.
#[derive(Debug, Clone)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        // FNV-1a, 64 bits: offset basis.
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes in `bytes`; the split into calls does not matter.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The digest so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

/// Fills `buffer` with the pseudo-random stream that `state` stands for, and moves it on (xorshift64).
pub fn fill(state: &mut u64, buffer: &mut [u8]) {
    for chunk in buffer.chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_see_how_the_bytes_were_cut() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut whole = Digest::default();
        whole.add(&bytes);
        let mut pieces = Digest::default();
        bytes.chunks(7).for_each(|piece| pieces.add(piece));
        assert_eq!(whole.value(), pieces.value());
        let mut other = Digest::default();
        other.add(&bytes[1..]);
        assert_ne!(whole.value(), other.value());
    }

    #[test]
    fn errors_of_sockets_have_their_outcome() {
        use std::io::Error;
        let rows = [
            (nix::libc::ECONNREFUSED, Outcome::Refused),
            (nix::libc::ECONNRESET, Outcome::Refused),
            (nix::libc::ETIMEDOUT, Outcome::Silent),
            (nix::libc::EAGAIN, Outcome::Silent),
            (nix::libc::EHOSTUNREACH, Outcome::Unreachable),
            (nix::libc::ENETUNREACH, Outcome::Unreachable),
            (nix::libc::EACCES, Outcome::Unreachable),
        ];
        for (errno, outcome) in rows {
            assert_eq!(Outcome::of(&Error::from_raw_os_error(errno)), outcome, "errno {errno}");
        }
    }
}
