//! Port lists: what the rules that match a peer say of protocol and port.
//!
//! Protocols and ports are one line of keys: `space << 16 | port`, the spaces being TCP, UDP, SCTP and all the rest
//! (which has no ports). A list cuts the line into segments and gives each the lowest rule that allows it, or
//! [`RuleId::NO_RULE`]. A lookup is one binary search over the segments; most lists have one to five.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[cfg(feature = "kubernetes")]
use super::Decision;
use super::RuleId;
use crate::hash::FastMap;
use crate::intent::Protocol;

/// The space of protocols other than TCP, UDP and SCTP: ICMP and the like, allowed by rules without ports alone.
pub(super) const OTHER: u32 = 3;

/// The last key there is.
const LAST_KEY: u32 = OTHER << 16 | 0xffff;

/// All port lists of a table, each content once.
#[derive(Debug, Default)]
pub(super) struct PortLists {
    /// (first key, rule), list after list.
    segments: Vec<(u32, RuleId)>,
    /// Where each list stands in `segments`.
    lists: Vec<(u32, u32)>,
}

/// A range of keys that a rule allows, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    first: u32,
    last: u32,
    rule: RuleId,
}

/// Makes [`PortLists`].
#[derive(Default)]
pub(super) struct PortListBuilder {
    lists: PortLists,
    known: FastMap<Vec<(u32, RuleId)>, u32>,
}

/// The key of an IP protocol number and a port.
pub(super) fn key(protocol: u8, port: u16) -> u32 {
    const TCP: u8 = Protocol::Tcp as u8;
    const UDP: u8 = Protocol::Udp as u8;
    const SCTP: u8 = Protocol::Sctp as u8;
    match protocol {
        TCP => u32::from(port),
        UDP => 1 << 16 | u32::from(port),
        SCTP => 2 << 16 | u32::from(port),
        _ => OTHER << 16,
    }
}

impl Span {
    /// Every protocol and port.
    pub(super) fn everything(rule: RuleId) -> Self {
        Span { first: 0, last: LAST_KEY, rule }
    }

    /// Ports `first` to `last` of a protocol.
    pub(super) fn ports(protocol: Protocol, first: u16, last: u16, rule: RuleId) -> Self {
        Span { first: key(protocol as u8, first), last: key(protocol as u8, last), rule }
    }
}

impl PortLists {
    /// The rule of list `list` that decides on `key`; [`RuleId::NO_RULE`] where none allows it.
    pub(super) fn rule(&self, list: u32, key: u32) -> RuleId {
        let Some((offset, length)) = self.lists.get(list as usize) else { return RuleId::NO_RULE };
        let segments = self.segments.get(*offset as usize..(*offset + *length) as usize).unwrap_or_default();
        let after = segments.partition_point(|(first, _)| *first <= key);
        segments.get(after.wrapping_sub(1)).map_or(RuleId::NO_RULE, |(_, rule)| *rule)
    }

    /// The segments of list `list`: the first key of each with the decision from there on.
    #[cfg(feature = "kubernetes")]
    pub(super) fn decisions(&self, list: u32) -> Vec<(u32, Decision)> {
        let Some((offset, length)) = self.lists.get(list as usize) else {
            return vec![(0, Decision::NO_RULE)];
        };
        let segments = self.segments.get(*offset as usize..(*offset + *length) as usize).unwrap_or_default();
        let decision = |rule: RuleId| Decision { allowed: rule != RuleId::NO_RULE, rule };
        segments.iter().map(|(first, rule)| (*first, decision(*rule))).collect()
    }

    /// How many lists there are.
    pub(super) fn count(&self) -> usize {
        self.lists.len()
    }
}

impl PortListBuilder {
    /// The number of the list that `spans` make.
    pub(super) fn number(&mut self, spans: Vec<Span>) -> u32 {
        let segments = cut(spans);
        if let Some(number) = self.known.get(&segments) {
            return *number;
        }
        let number = self.lists.lists.len() as u32;
        self.lists.lists.push((self.lists.segments.len() as u32, segments.len() as u32));
        self.lists.segments.extend_from_slice(&segments);
        self.known.insert(segments, number);
        number
    }

    /// The lists.
    pub(super) fn finish(self) -> PortLists {
        self.lists
    }
}

/// Cuts the line of keys where the lowest rule changes: a sweep with a heap of the spans that are open.
fn cut(mut spans: Vec<Span>) -> Vec<(u32, RuleId)> {
    spans.sort_by_key(|span| span.first);
    let ends = spans.iter().map(|span| span.last + 1).filter(|end| *end <= LAST_KEY);
    let mut borders: Vec<u32> = spans.iter().map(|span| span.first).chain(ends).chain([0]).collect();
    borders.sort_unstable();
    borders.dedup();
    let mut coming = spans.into_iter().peekable();
    let mut open = BinaryHeap::<Reverse<(RuleId, u32)>>::new();
    let mut segments = Vec::<(u32, RuleId)>::new();
    for border in borders {
        while let Some(span) = coming.next_if(|span| span.first <= border) {
            open.push(Reverse((span.rule, span.last)));
        }
        while open.peek().is_some_and(|Reverse((_, last))| *last < border) {
            open.pop();
        }
        let rule = open.peek().map_or(RuleId::NO_RULE, |Reverse((rule, _))| *rule);
        if segments.last().is_none_or(|(_, before)| *before != rule) {
            segments.push((border, rule));
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans() -> impl Strategy<Value = Span> {
        let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
        let port = || prop::sample::select(vec![0_u16, 1, 2, 80, 81, 65534, 65535]);
        (protocol, port(), port(), 0..9_u8, 2..6_u32).prop_map(|(protocol, a, b, all, rule)| match all {
            0 => Span::everything(RuleId(rule)),
            1 => Span::ports(protocol, 0, u16::MAX, RuleId(rule)),
            _ => Span::ports(protocol, a.min(b), a.max(b), RuleId(rule)),
        })
    }

    proptest! {
        /// Against asking every span.
        #[test]
        fn the_lowest_rule_that_allows_decides(spans in prop::collection::vec(spans(), 0..8)) {
            let mut builder = PortListBuilder::default();
            let list = builder.number(spans.clone());
            prop_assert_eq!(builder.number(spans.clone()), list, "equal lists are one");
            let lists = builder.finish();
            for protocol in [1_u8, 6, 17, 58, 132] {
                for port in [0_u16, 1, 2, 3, 79, 80, 81, 82, 65533, 65534, 65535] {
                    let key = key(protocol, port);
                    let allowing = spans.iter().filter(|span| (span.first..=span.last).contains(&key));
                    let expected = allowing.map(|span| span.rule).min().unwrap_or(RuleId::NO_RULE);
                    prop_assert_eq!(lists.rule(list, key), expected, "{} {}", protocol, port);
                }
            }
        }
    }

    #[test]
    fn a_list_that_is_not_there_allows_nothing() {
        assert_eq!(PortLists::default().rule(0, key(6, 80)), RuleId::NO_RULE);
    }
}
