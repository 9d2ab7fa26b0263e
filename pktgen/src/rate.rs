//! [`Rate`], what is asked for, and [`Pacer`], which says how many packets may leave by now.

use std::fmt;
use std::str::FromStr;

/// Bytes of the frame check sequence behind every Ethernet frame.
pub const FCS: usize = 4;

/// Bytes that every frame costs on the wire beside itself: preamble, start delimiter and the gap (IEEE 802.3).
pub const WIRE_OVERHEAD: usize = 20;

/// A load as asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the engine can.
    Unlimited,
    /// Packets a second.
    Packets(f64),
    /// Bits a second of whole frames, frame check sequence included, gaps not (layer 2).
    Bits(f64),
    /// Percent of a link's speed, which includes preamble and gap (layer 1, as RFC 2544 counts).
    Percent(f64),
}

/// A rate that cannot be understood or kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RateError {
    /// Not of the form described by [`Rate::from_str`].
    #[error("`{0}` is not a rate: write max, 100kpps, 1.5Mpps, 250Mbps, 10Gbps or 50%")]
    Form(String),
    /// Zero, negative, not finite or above 10^12.
    #[error("`{0}`: a rate must be above 0 and at most 10^12")]
    Range(String),
    /// A percentage without a link speed to take it of.
    #[error("a rate in percent needs --link-speed")]
    NoLinkSpeed,
}

impl FromStr for Rate {
    type Err = RateError;

    /// `max`, or a number with `pps`, `kpps`, `Mpps`, `bps`, `kbps`, `Mbps`, `Gbps` or `%`; a bare number is pps.
    fn from_str(text: &str) -> Result<Self, RateError> {
        if text == "max" {
            return Ok(Rate::Unlimited);
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| RateError::Form(text.to_owned()))?;
        let (rate, value) = match unit.to_ascii_lowercase().as_str() {
            "" | "pps" => (Rate::Packets(number), number),
            "kpps" => (Rate::Packets(number * 1e3), number * 1e3),
            "mpps" => (Rate::Packets(number * 1e6), number * 1e6),
            "bps" => (Rate::Bits(number), number),
            "kbps" => (Rate::Bits(number * 1e3), number * 1e3),
            "mbps" => (Rate::Bits(number * 1e6), number * 1e6),
            "gbps" => (Rate::Bits(number * 1e9), number * 1e9),
            "%" => (Rate::Percent(number), number),
            _ => return Err(RateError::Form(text.to_owned())),
        };
        if value > 0.0 && value <= 1e12 { Ok(rate) } else { Err(RateError::Range(text.to_owned())) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Unlimited => write!(f, "max"),
            Rate::Packets(value) => write!(f, "{value}pps"),
            Rate::Bits(value) => write!(f, "{value}bps"),
            Rate::Percent(value) => write!(f, "{value}%"),
        }
    }
}

impl Rate {
    /// The rate in packets a second for frames of `mean_frame` bytes on average (frame check sequence not
    /// included); `None` for [`Rate::Unlimited`]. A mix of sizes repeats in a short cycle, so that over a cycle the
    /// bits are exact.
    ///
    /// # Errors
    /// [`RateError::NoLinkSpeed`] for a percentage where `link_speed` (bits a second) is `None`;
    /// [`RateError::Range`] where less than one packet in a thousand seconds would leave.
    pub fn packets_per_second(
        self,
        mean_frame: f64,
        link_speed: Option<f64>,
    ) -> Result<Option<f64>, RateError> {
        let frame = mean_frame + FCS as f64;
        let rate = match self {
            Rate::Unlimited => return Ok(None),
            Rate::Packets(value) => value,
            Rate::Bits(value) => value / (frame * 8.0),
            Rate::Percent(value) => {
                let speed = link_speed.ok_or(RateError::NoLinkSpeed)?;
                value / 100.0 * speed / ((frame + WIRE_OVERHEAD as f64) * 8.0)
            }
        };
        if rate < 0.001 { Err(RateError::Range(self.to_string())) } else { Ok(Some(rate)) }
    }
}

/// Nanoseconds that a pacer may be behind and still catch up, unless it is told otherwise; what is older is
/// forfeited, so that a stall is followed by a short burst and not by a flood.
pub const CATCH_UP_NS: u64 = 2_000_000;

/// Hands out the right to send packets as time passes. Time is an argument.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Thousandths of a packet a second; 0 is unlimited.
    millipackets: u64,
    start: u64,
    catch_up: u64,
    /// Packets released or forfeited so far.
    spent: u64,
    forfeited: u64,
}

impl Pacer {
    /// A pacer at `rate` packets a second (`None`: unlimited), whose first packet is due at `start` ns.
    pub fn new(rate: Option<f64>, start: u64) -> Self {
        let millipackets = rate.map_or(0, |rate| ((rate * 1000.0).round() as u64).max(1));
        Pacer { millipackets, start, catch_up: CATCH_UP_NS, spent: 0, forfeited: 0 }
    }

    /// The same, which may be `catch_up` ns behind.
    #[must_use]
    pub fn catching_up(self, catch_up: u64) -> Self {
        Pacer { catch_up, ..self }
    }

    /// Packets that may leave at `now`. What has waited longer than the pacer may be behind is forfeited here.
    pub fn due(&mut self, now: u64) -> u64 {
        if self.millipackets == 0 {
            return u64::MAX;
        }
        let Some(elapsed) = now.checked_sub(self.start) else { return 0 };
        let earned = earned(elapsed, self.millipackets);
        let stale =
            elapsed.checked_sub(self.catch_up).map_or(0, |elapsed| self::earned(elapsed, self.millipackets));
        if stale > self.spent {
            // The newest stale packet may still go: at low rates a moment's delay must not lose the only one due.
            let lost = stale - 1 - self.spent;
            self.forfeited += lost;
            self.spent += lost;
        }
        earned - self.spent
    }

    /// Notes that `count` packets have left.
    pub fn take(&mut self, count: u64) {
        self.spent += count;
    }

    /// When the next packet is due, in ns.
    pub fn next_at(&self) -> u64 {
        if self.millipackets == 0 {
            return self.start;
        }
        let at = (u128::from(self.spent) * NANO_MILLI).div_ceil(u128::from(self.millipackets));
        self.start.saturating_add(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// Packets that should have left but were given up because the sender was too far behind.
    pub fn forfeited(&self) -> u64 {
        self.forfeited
    }
}

const NANO_MILLI: u128 = 1_000_000_000_000;

/// Packets earned after `elapsed` ns: the first at once.
fn earned(elapsed: u64, millipackets: u64) -> u64 {
    u64::try_from(u128::from(elapsed) * u128::from(millipackets) / NANO_MILLI).unwrap_or(u64::MAX - 1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read() {
        let rows = [
            ("max", Rate::Unlimited),
            ("1000", Rate::Packets(1000.0)),
            ("1.5Mpps", Rate::Packets(1.5e6)),
            ("100kpps", Rate::Packets(1e5)),
            ("250mbps", Rate::Bits(2.5e8)),
            ("10Gbps", Rate::Bits(1e10)),
            ("50%", Rate::Percent(50.0)),
        ];
        for (text, rate) in rows {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
        for text in ["", "fast", "10 apples", "1.2.3pps", "-5pps", "NaN", "inf", "pps"] {
            assert!(matches!(text.parse::<Rate>(), Err(RateError::Form(_))), "{text}");
        }
        for text in ["0", "0%", "0.0bps", "9999999999999pps"] {
            assert!(matches!(text.parse::<Rate>(), Err(RateError::Range(_))), "{text}");
        }
    }

    #[test]
    fn ten_gigabit_of_the_smallest_frames_is_14_88_million_packets() {
        let rate = Rate::Percent(100.0).packets_per_second(60.0, Some(1e10)).unwrap().unwrap();
        assert!((rate - 14_880_952.0).abs() < 1.0, "{rate}");
        let bits = Rate::Bits(64.0 * 8.0 * 1000.0).packets_per_second(60.0, None).unwrap().unwrap();
        assert!((bits - 1000.0).abs() < 1e-9);
        assert_eq!(Rate::Percent(1.0).packets_per_second(60.0, None), Err(RateError::NoLinkSpeed));
        assert!(Rate::Bits(0.001).packets_per_second(1514.0, None).is_err());
    }

    #[test]
    fn a_stall_is_forfeited_not_flooded() {
        let mut pacer = Pacer::new(Some(1e6), 0);
        assert_eq!(pacer.due(0), 1);
        pacer.take(1);
        let burst = pacer.due(1_000_000_000);
        assert_eq!(burst, CATCH_UP_NS / 1000 + 1);
        assert_eq!(pacer.forfeited() + burst, 1_000_000);
    }

    #[test]
    fn a_slow_rate_survives_a_late_turn() {
        let mut pacer = Pacer::new(Some(10.0), 0);
        pacer.take(1);
        assert_eq!(pacer.next_at(), 100_000_000);
        assert_eq!(pacer.due(150_000_000), 1);
        assert_eq!(pacer.forfeited(), 0);
    }

    proptest! {
        /// The slow twin: packet k is due at k / rate; count them.
        #[test]
        fn agrees_with_counting_due_times(rate in 1u64..5000, times in proptest::collection::vec(0u64..400_000, 1..60)) {
            let mut pacer = Pacer::new(Some(rate as f64), 0);
            let (mut now, mut sent) = (0u64, 0u64);
            for step in times {
                now += step;
                let due = pacer.due(now);
                let slow = (sent..).take_while(|k| u128::from(*k) * 1_000_000_000 <= u128::from(now) * u128::from(rate)).count() as u64;
                prop_assert_eq!(due, slow);
                prop_assert_eq!(pacer.next_at() <= now, due > 0);
                pacer.take(due);
                sent += due;
            }
        }

        #[test]
        fn every_earned_packet_is_due_or_forfeited(rate in 1u64..3_000_000, times in proptest::collection::vec(0u64..20_000_000, 1..60)) {
            let mut pacer = Pacer::new(Some(rate as f64), 7);
            let (mut now, mut sent) = (7u64, 0u64);
            for step in times {
                now += step;
                let due = pacer.due(now);
                prop_assert_eq!(sent + pacer.forfeited() + due, earned(now - 7, rate * 1000));
                prop_assert!(due <= CATCH_UP_NS * rate / 1_000_000_000 + 2);
                pacer.take(due);
                sent += due;
            }
        }
    }
}
