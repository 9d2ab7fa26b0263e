//! Flows: addresses and ports drawn from ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Flows at most.
pub const MAX_FLOWS: usize = 1 << 20;

/// A flow or a range that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Not an address or a range of addresses.
    #[error(
        "`{0}` is not an address or a range: write 10.0.0.1 or 10.0.0.1-10.0.0.9 (both ends of one family)"
    )]
    Addresses(String),
    /// Not a port or a range of ports.
    #[error("`{0}` is not a port or a range: write 9000 or 9000-9099")]
    Ports(String),
    /// Not a MAC address.
    #[error("`{0}` is not a MAC address: write 02:00:00:00:00:01")]
    Mac(String),
    /// Source and destination are of different families.
    #[error("source {0} and destination {1} are of different families")]
    Families(IpAddr, IpAddr),
    /// The ranges do not hold that many flows.
    #[error("{asked} flows are asked for; the ranges of addresses and ports hold {held}")]
    TooFew {
        /// What was asked for.
        asked: usize,
        /// What the ranges hold.
        held: u128,
    },
    /// None, or more than [`MAX_FLOWS`].
    #[error("{0} flows: the count must be between 1 and {MAX_FLOWS}")]
    Count(usize),
}

/// Consecutive addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    /// Addresses in the range, minus one.
    more: u128,
}

impl AddressRange {
    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Address number `index`, wrapping around at the range's end.
    fn at(&self, index: u128) -> IpAddr {
        let offset = match self.more.checked_add(1) {
            Some(count) => index % count,
            None => index,
        };
        match self.first {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(offset as u32))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(offset))),
        }
    }

    fn count(&self) -> u128 {
        self.more.saturating_add(1)
    }
}

impl From<IpAddr> for AddressRange {
    fn from(first: IpAddr) -> Self {
        AddressRange { first, more: 0 }
    }
}

impl FromStr for AddressRange {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let bad = || FlowError::Addresses(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (IpAddr, IpAddr) =
            (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        let more = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                last.to_bits().checked_sub(first.to_bits()).map(u128::from)
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => last.to_bits().checked_sub(first.to_bits()),
            _ => None,
        };
        Ok(AddressRange { first, more: more.ok_or_else(bad)? })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.more == 0 {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.at(self.more))
        }
    }
}

/// Consecutive ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to the highest.
    pub fn from_first(first: u16) -> Self {
        PortRange { first, last: u16::MAX }
    }

    /// All ports, lowest first.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        self.first..=self.last
    }

    /// Ports in the range.
    pub fn count(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    fn at(&self, index: u128) -> u16 {
        self.first + (index % self.count() as u128) as u16
    }
}

impl FromStr for PortRange {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let bad = |_| FlowError::Ports(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u16, u16) = (first.parse().map_err(bad)?, last.parse().map_err(bad)?);
        if first == 0 || last < first {
            Err(FlowError::Ports(text.to_owned()))
        } else {
            Ok(PortRange { first, last })
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddr(pub [u8; 6]);

impl FromStr for MacAddr {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let bad = || FlowError::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(MacAddr(bytes)) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Addresses and ports of one flow, in one direction. Source and destination are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port, or ICMP identifier.
    pub source_port: u16,
    /// Destination port; unused by ICMP.
    pub destination_port: u16,
}

/// Draws the first `count` flows of the ranges: source ports vary fastest, then source addresses, then
/// destination ports, then destination addresses.
///
/// # Errors
/// [`FlowError`] for a count that is zero, too large, or more than the ranges hold, and for mixed families.
pub fn draw(
    count: usize,
    sources: (AddressRange, PortRange),
    destinations: (AddressRange, PortRange),
) -> Result<Vec<Flow>, FlowError> {
    let ((from, from_ports), (to, to_ports)) = (sources, destinations);
    if count == 0 || count > MAX_FLOWS {
        return Err(FlowError::Count(count));
    }
    if from.first.is_ipv4() != to.first.is_ipv4() {
        return Err(FlowError::Families(from.first, to.first));
    }
    let ports = [from_ports.count() as u128, to_ports.count() as u128];
    let held =
        [from.count(), ports[1], to.count()].iter().fold(ports[0], |held, more| held.saturating_mul(*more));
    if count as u128 > held {
        return Err(FlowError::TooFew { asked: count, held });
    }
    let mut flows = Vec::with_capacity(count);
    for index in 0..count as u128 {
        let (index, source_port) = (index / ports[0], from_ports.at(index));
        let (index, source) = (index / from.count(), from.at(index));
        let (index, destination_port) = (index / ports[1], to_ports.at(index));
        flows.push(Flow { source, destination: to.at(index), source_port, destination_port });
    }
    Ok(flows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn range<T: FromStr>(text: &str) -> T
    where
        T::Err: fmt::Debug,
    {
        text.parse().unwrap()
    }

    #[test]
    fn source_ports_vary_fastest() {
        let flows = draw(
            5,
            (range("10.0.0.255-10.0.1.0"), range("7-8")),
            (range("10.1.0.1-10.1.0.2"), range("9000")),
        )
        .unwrap();
        let seen: Vec<_> = flows
            .iter()
            .map(|flow| {
                format!("{}:{} {}:{}", flow.source, flow.source_port, flow.destination, flow.destination_port)
            })
            .collect();
        let expected = [
            "10.0.0.255:7 10.1.0.1:9000",
            "10.0.0.255:8 10.1.0.1:9000",
            "10.0.1.0:7 10.1.0.1:9000",
            "10.0.1.0:8 10.1.0.1:9000",
            "10.0.0.255:7 10.1.0.2:9000",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_the_ranges_do_not_hold_is_refused() {
        let one = || (range("10.0.0.1"), range("7-8"));
        assert_eq!(
            draw(3, one(), (range("10.0.0.2"), range("9"))),
            Err(FlowError::TooFew { asked: 3, held: 2 })
        );
        assert_eq!(draw(0, one(), (range("10.0.0.2"), range("9"))), Err(FlowError::Count(0)));
        assert!(matches!(draw(1, one(), (range("fd00::1"), range("9"))), Err(FlowError::Families(..))));
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in ["", "10.0.0", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.0/8"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
        for text in ["", "0", "65536", "9-8", "a", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn flows_are_distinct(count in 1usize..300, ports in 1u16..9, more in 0u8..9, to_ports in 1u16..9) {
            let sources = (range(&format!("10.0.0.1-10.0.0.{}", 1 + more)), PortRange { first: 1, last: ports });
            let destinations = (range("10.9.0.0-10.9.0.9"), PortRange { first: 5, last: 4 + to_ports });
            let held = u128::from(ports) * u128::from(more + 1) * u128::from(to_ports) * 10;
            match draw(count, sources, destinations) {
                Ok(flows) => prop_assert_eq!(flows.iter().collect::<HashSet<_>>().len(), count),
                Err(error) => {
                    prop_assert!(count as u128 > held);
                    prop_assert_eq!(error, FlowError::TooFew { asked: count, held });
                }
            }
        }

        #[test]
        fn macs_are_read_as_written(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse(), Ok(MacAddr(bytes)));
        }
    }
}
