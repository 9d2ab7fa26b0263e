//! What the packets are: protocols and frame sizes with their weights, spread into one short repeating pattern.

use std::fmt;
use std::str::FromStr;

use crate::rate::FCS;

/// Longest frame that fits one chunk of packet memory, frame check sequence included.
pub const MAX_FRAME: usize = afxdp_driver::CHUNK_SIZE - afxdp_driver::HEADROOM + FCS;

/// Entries of a pattern at most, after common factors of the weights are taken out.
pub const MAX_PATTERN: usize = 65_536;

/// Transport of the generated packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP segments with ACK and PSH set, all of the same sequence number; no connection behind them.
    Tcp,
    /// TCP segments with SYN alone, each with an initial sequence number of its own: what a flood is made of.
    TcpSyn,
    /// TCP as one end of a connection sends it: a flow's first segment is a SYN, each one after it ACK and PSH, its
    /// sequence number where the one before has ended. Nobody answers.
    TcpStream,
    /// ICMP or ICMPv6 echo requests; the identifier plays the source port's part.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
            Protocol::TcpSyn => "tcp-syn",
            Protocol::TcpStream => "tcp-stream",
            Protocol::Icmp => "icmp",
        })
    }
}

/// A mix that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// An entry is not a known protocol.
    #[error(
        "`{0}` is not a protocol: write udp, tcp, tcp-syn, tcp-stream or icmp, or a mix such as udp=70,tcp=20,icmp=10"
    )]
    Protocol(String),
    /// An entry is not a frame size.
    #[error(
        "`{0}` is not a frame size: write 64 … {MAX_FRAME} (FCS included), a list such as 64,512, or imix"
    )]
    Size(String),
    /// A weight is not a number from 1 to 65535.
    #[error("`{0}` is not a weight: write a whole number from 1 to 65535")]
    Weight(String),
    /// The same entry stands there twice.
    #[error("`{0}` is named twice")]
    Twice(String),
    /// The weights need a pattern longer than [`MAX_PATTERN`].
    #[error(
        "weights of protocols and sizes multiply to a pattern of {0} packets; at most {MAX_PATTERN} are kept"
    )]
    Pattern(u64),
}

/// Protocols and their weights; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolMix(Vec<(Protocol, u16)>);

impl ProtocolMix {
    /// Protocols with their weights, as given.
    pub fn entries(&self) -> &[(Protocol, u16)] {
        &self.0
    }
}

impl FromStr for ProtocolMix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let mut entries: Vec<(Protocol, u16)> = Vec::new();
        for entry in text.split(',') {
            let (name, weight) = weighted(entry)?;
            let protocol = match name {
                "udp" => Protocol::Udp,
                "tcp" => Protocol::Tcp,
                "tcp-syn" => Protocol::TcpSyn,
                "tcp-stream" => Protocol::TcpStream,
                "icmp" => Protocol::Icmp,
                _ => return Err(MixError::Protocol(name.to_owned())),
            };
            if entries.iter().any(|(other, _)| *other == protocol) {
                return Err(MixError::Twice(name.to_owned()));
            }
            entries.push((protocol, weight));
        }
        Ok(ProtocolMix(entries))
    }
}

/// Frame sizes (frame check sequence included, as RFC 2544 counts) and their weights; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeMix {
    entries: Vec<(u16, u16)>,
    raised: bool,
}

/// The simple Internet mix: 40, 576 and 1,500 bytes of IP packet, 7 : 4 : 1; here as Ethernet frames with FCS,
/// the smallest padded to 64.
const IMIX: [(u16, u16); 3] = [(64, 7), (594, 4), (1518, 1)];

impl SizeMix {
    /// Frames of one size, which is as it is asked for.
    pub fn one(size: u16) -> Self {
        SizeMix { entries: vec![(size, 1)], raised: false }
    }

    /// The simple Internet mix.
    pub fn imix() -> Self {
        SizeMix { entries: IMIX.to_vec(), raised: true }
    }

    /// Sizes with their weights, as given.
    pub fn entries(&self) -> &[(u16, u16)] {
        &self.entries
    }

    /// Whether frames may be raised to what a protocol needs: those of the Internet mix, and the smallest where
    /// nobody has asked for a size.
    pub fn may_be_raised(&self) -> bool {
        self.raised
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entries.as_slice() {
            entries if entries == IMIX => f.write_str("imix"),
            [(size, _)] => write!(f, "{size}"),
            entries => {
                for (index, (size, weight)) in entries.iter().enumerate() {
                    write!(f, "{}{size}={weight}", if index > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl Default for SizeMix {
    /// The smallest frame that will do.
    fn default() -> Self {
        SizeMix { entries: vec![(64, 1)], raised: true }
    }
}

impl FromStr for SizeMix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        if text == "imix" {
            return Ok(SizeMix::imix());
        }
        let mut entries: Vec<(u16, u16)> = Vec::new();
        for entry in text.split(',') {
            let (size, weight) = weighted(entry)?;
            let size: u16 = size.parse().map_err(|_| MixError::Size(size.to_owned()))?;
            if !(64..=MAX_FRAME).contains(&usize::from(size)) {
                return Err(MixError::Size(size.to_string()));
            }
            if entries.iter().any(|(other, _)| *other == size) {
                return Err(MixError::Twice(size.to_string()));
            }
            entries.push((size, weight));
        }
        Ok(SizeMix { entries, raised: false })
    }
}

/// Spreads entries by their weights as evenly as they go ("smooth weighted round robin"): the pattern holds each
/// index `weight` times (common factors taken out), far apart from each other.
///
/// # Errors
/// [`MixError::Pattern`] where it would be longer than [`MAX_PATTERN`].
pub fn interleave(weights: &[u64]) -> Result<Vec<u16>, MixError> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total = weights.iter().fold(0u64, |total, weight| total.saturating_add(weight / divisor));
    if total > MAX_PATTERN as u64 || weights.len() > usize::from(u16::MAX) {
        return Err(MixError::Pattern(total));
    }
    let mut credit: Vec<(i64, i64)> = weights.iter().map(|weight| ((weight / divisor) as i64, 0)).collect();
    let mut pattern = Vec::with_capacity(total as usize);
    for _ in 0..total {
        credit.iter_mut().for_each(|(weight, credit)| *credit += *weight);
        let richest =
            credit.iter().enumerate().max_by_key(|(index, (_, credit))| (*credit, std::cmp::Reverse(*index)));
        let Some(index) = richest.map(|(index, _)| index) else { break };
        if let Some((_, credit)) = credit.get_mut(index) {
            *credit -= total as i64;
        }
        pattern.push(index as u16);
    }
    Ok(pattern)
}

/// Splits `name=weight`; the weight is 1 where none is given.
fn weighted(entry: &str) -> Result<(&str, u16), MixError> {
    let Some((name, weight)) = entry.split_once('=') else { return Ok((entry, 1)) };
    match weight.parse() {
        Ok(weight) if weight > 0 => Ok((name, weight)),
        _ => Err(MixError::Weight(weight.to_owned())),
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mixes_are_read() {
        let mix: ProtocolMix = "udp=70,tcp=20,icmp=10".parse().unwrap();
        assert_eq!(mix.entries(), [(Protocol::Udp, 70), (Protocol::Tcp, 20), (Protocol::Icmp, 10)]);
        assert_eq!("udp".parse::<ProtocolMix>().unwrap().entries(), [(Protocol::Udp, 1)]);
        assert_eq!("64,1518=3".parse::<SizeMix>().unwrap().entries(), [(64, 1), (1518, 3)]);
        assert_eq!("imix".parse::<SizeMix>().unwrap().entries(), IMIX);
    }

    #[test]
    fn bad_mixes_are_refused_by_name() {
        let protocols =
            [("sctp", "sctp"), ("udp,udp", "udp"), ("udp=0", "0"), ("udp=x", "x"), ("", ""), ("udp,", "")];
        for (text, name) in protocols {
            assert!(
                text.parse::<ProtocolMix>().unwrap_err().to_string().contains(&format!("`{name}`")),
                "{text}"
            );
        }
        for (text, name) in
            [("63", "63"), ("9000", "9000"), ("64,64", "64"), ("big", "big"), ("64=", ""), ("-1", "-1")]
        {
            assert!(
                text.parse::<SizeMix>().unwrap_err().to_string().contains(&format!("`{name}`")),
                "{text}"
            );
        }
    }

    #[test]
    fn imix_is_spread_not_bunched() {
        assert_eq!(interleave(&[7, 4, 1]).unwrap(), [0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 1, 0]);
        assert_eq!(interleave(&[500, 500]).unwrap(), [0, 1]);
        assert_eq!(interleave(&[65_535, 65_534]), Err(MixError::Pattern(131_069)));
    }

    proptest! {
        #[test]
        fn a_pattern_keeps_the_weights(weights in proptest::collection::vec(1u64..100, 1..10)) {
            let pattern = interleave(&weights).unwrap();
            for (index, weight) in weights.iter().enumerate() {
                let times = pattern.iter().filter(|entry| usize::from(**entry) == index).count() as u64;
                prop_assert_eq!(times * weights.iter().sum::<u64>(), weight * pattern.len() as u64);
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "[a-z0-9=,.-]{0,20}") {
            let _ = text.parse::<ProtocolMix>();
            let _ = text.parse::<SizeMix>();
        }
    }
}
