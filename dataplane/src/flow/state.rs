//! How a flow lives: what has been seen of it, when it is idle for too long, who goes first when the table is full.
//!
//! Each direction notes only what it has carried itself; the flow's state is read from both. Time-outs are those
//! of Linux (`net.netfilter.nf_conntrack_*_timeout*`, Documentation/networking/nf_conntrack-sysctl.rst).

/// What one direction has carried. One mutable word of the line, outside of the sequence lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Second of the last packet (24 bits: wraps after 194 days).
    pub last_seen: u32,
    /// `SYN`, `FIN`, `RST`.
    pub bits: u8,
    /// Packets (wraps).
    pub packets: u32,
}

/// A TCP SYN has passed in this direction.
pub const SYN: u8 = 1;
/// A TCP FIN has passed in this direction.
pub const FIN: u8 = 2;
/// A TCP RST has passed in this direction.
pub const RST: u8 = 4;

const SECONDS: u32 = 0xff_ffff;

impl Activity {
    /// As a word.
    #[inline]
    pub fn encode(self) -> u64 {
        (self.last_seen & SECONDS) as u64 | (self.bits as u64) << 24 | (self.packets as u64) << 32
    }

    /// From a word.
    #[inline]
    pub fn decode(word: u64) -> Self {
        Activity { last_seen: word as u32 & SECONDS, bits: (word >> 24) as u8, packets: (word >> 32) as u32 }
    }

    /// Seconds since the last packet.
    pub fn idle(self, now_seconds: u32) -> u32 {
        now_seconds.wrapping_sub(self.last_seen) & SECONDS
    }
}

/// Where a flow stands, worst first: the order in which entries are pushed out of a full table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Reset, closed from both ends, or denied: costs nothing to forget.
    Closed,
    /// No packet has come back yet.
    Unreplied,
    /// Both directions have carried packets: never pushed out for those above.
    Established,
}

impl Standing {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Closed => "closed",
            Standing::Unreplied => "unreplied",
            Standing::Established => "established",
        }
    }
}

/// Where the flow of one entry stands. `other` is the activity of the other direction, if it has an entry.
pub fn standing(protocol: u8, drops: bool, own: Activity, other: Option<Activity>) -> Standing {
    let Some(other) = other.filter(|_| !drops) else { return Standing::Closed };
    let bits = own.bits | other.bits;
    if protocol == TCP && (bits & RST != 0 || own.bits & other.bits & FIN != 0) {
        Standing::Closed
    } else if own.packets == 0 || other.packets == 0 {
        Standing::Unreplied
    } else {
        Standing::Established
    }
}

/// Seconds without a packet in either direction after which the flow is forgotten.
pub fn timeout(protocol: u8, drops: bool, own: Activity, other: Option<Activity>) -> u32 {
    if drops {
        return 30;
    }
    let standing = standing(protocol, drops, own, other);
    let bits = own.bits | other.map_or(0, |other| other.bits);
    match (protocol, standing) {
        (TCP, _) if bits & RST != 0 => 10,
        (TCP, _) if bits & FIN != 0 => 120,
        (TCP, Standing::Established) => 432_000,
        (TCP, _) => 120,
        (UDP, Standing::Established) => 120,
        (UDP | ICMP | ICMP6, _) => 30,
        _ => 600,
    }
}

/// The flow's state for people.
pub fn name(protocol: u8, drops: bool, own: Activity, other: Option<Activity>) -> &'static str {
    let bits = own.bits | other.map_or(0, |other| other.bits);
    match standing(protocol, drops, own, other) {
        _ if drops => "denied",
        Standing::Closed if protocol == TCP && bits & RST != 0 => "reset",
        Standing::Closed => "closed",
        _ if protocol == TCP && bits & FIN != 0 => "closing",
        Standing::Unreplied if protocol == TCP && bits & SYN != 0 => "syn-sent",
        standing => standing.name(),
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(bits: u8, packets: u32) -> Activity {
        Activity { last_seen: 5, bits, packets }
    }

    #[test]
    fn states_of_a_tcp_connection() {
        let rows = [
            (activity(SYN, 1), activity(0, 0), "syn-sent", 120, Standing::Unreplied),
            (activity(SYN, 2), activity(SYN, 1), "established", 432_000, Standing::Established),
            (activity(SYN | FIN, 9), activity(SYN, 9), "closing", 120, Standing::Established),
            (activity(SYN | FIN, 9), activity(SYN | FIN, 9), "closed", 120, Standing::Closed),
            (activity(SYN, 1), activity(RST, 1), "reset", 10, Standing::Closed),
        ];
        for (own, other, state, seconds, place) in rows {
            assert_eq!(name(TCP, false, own, Some(other)), state);
            assert_eq!(timeout(TCP, false, own, Some(other)), seconds, "{state}");
            assert_eq!(standing(TCP, false, own, Some(other)), place, "{state}");
        }
        assert_eq!(name(TCP, true, activity(SYN, 1), None), "denied");
    }

    #[test]
    fn time_wraps_without_harm() {
        let late = Activity { last_seen: SECONDS, bits: 0, packets: 1 };
        assert_eq!(Activity::decode(late.encode()), late);
        assert_eq!(late.idle(4), 5);
    }
}
