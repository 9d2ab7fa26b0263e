//! Port lists: what the rules that match a peer say of protocol and port.
//!
//! Protocols and ports are one line of keys: `space << 16 | port`, the spaces being TCP, UDP, SCTP and all the rest
//! (which has no ports). A list cuts the line into segments and gives each what the tiers come to there: the rule that
//! decides and whether it allows. A lookup is one binary search over the segments; most lists have one to five.
//!
//! Rules have places in the order in which they are asked, so that in each tier the lowest that matches is the one:
//!
//! ```text
//!   Admin ──Accept, Deny──► decided
//!     │ Pass, or none matches
//!   NetworkPolicy, where it isolates ──► allowed by the lowest, or denied by none: decided
//!     │ isolates nobody here
//!   Baseline ──Accept, Deny──► decided          Pass, or none matches ──► allowed by default
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{Decision, RuleId};
use crate::hash::FastMap;
use crate::intent::{Action, Protocol, Tier};

/// The space of protocols other than TCP, UDP and SCTP: ICMP and the like, matched by rules without ports alone.
pub(super) const OTHER: u32 = 3;

/// The last key there is.
const LAST_KEY: u32 = OTHER << 16 | 0xffff;

/// A list. A clone costs at most a reference.
#[derive(Debug, Clone, Default)]
pub(super) struct PortList {
    /// Equal lists have equal numbers.
    number: u32,
    segments: Segments,
}

/// The segments of a list, ascending. A few, as most lists have, are read where the list stands.
#[derive(Debug, Clone)]
enum Segments {
    Few([Segment; FEW]),
    Many(Arc<[Segment]>),
}

/// So many segments are a few.
const FEW: usize = 3;

/// From which key on which decision holds, in one word: the key is the high half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Segment(u64);

/// All lists, each content once, by number. There are only more of them, until all is compiled anew.
#[derive(Debug, Default)]
pub(super) struct PortLists {
    known: FastMap<Arc<[Segment]>, u32>,
}

/// A [`Decision`] in one word: the rule's number, and in the lowest bit whether it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ruling(u32);

impl Ruling {
    fn new(rule: RuleId, allowed: bool) -> Self {
        Ruling(rule.0 << 1 | u32::from(allowed))
    }

    fn decision(self) -> Decision {
        Decision { allowed: self.0 & 1 == 1, rule: RuleId(self.0 >> 1) }
    }
}

/// A rule as the port lists know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Its number.
    pub(super) rule: RuleId,
    /// Its place among the rules of a subject: lower ones are asked first.
    pub(super) place: u32,
    /// The tier of its policy.
    pub(super) tier: Tier,
    /// What it does.
    pub(super) action: Action,
}

/// A range of keys that a rule matches, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    first: u32,
    last: u32,
    asked: Asked,
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
    pub(super) fn everything(asked: Asked) -> Self {
        Span { first: 0, last: LAST_KEY, asked }
    }

    /// Ports `first` to `last` of a protocol.
    pub(super) fn ports(protocol: Protocol, first: u16, last: u16, asked: Asked) -> Self {
        Span { first: key(protocol as u8, first), last: key(protocol as u8, last), asked }
    }
}

impl Segment {
    /// Behind every key.
    const NONE: Segment = Segment(u64::MAX);

    fn new(first: u32, ruling: Ruling) -> Self {
        Segment(u64::from(first) << 32 | u64::from(ruling.0))
    }

    /// Behind every segment that begins at `key` or before, before all others.
    fn after(key: u32) -> Self {
        Segment(u64::from(key) << 32 | u64::from(u32::MAX))
    }

    #[cfg(feature = "kubernetes")]
    fn first(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn decision(self) -> Decision {
        Ruling(self.0 as u32).decision()
    }
}

impl Default for Segments {
    fn default() -> Self {
        Segments::Few([Segment::NONE; FEW])
    }
}

impl PortList {
    fn new(number: u32, list: &Arc<[Segment]>) -> Self {
        let mut few = [Segment::NONE; FEW];
        let segments = match few.get_mut(..list.len()) {
            Some(place) => {
                place.copy_from_slice(list);
                Segments::Few(few)
            }
            None => Segments::Many(Arc::clone(list)),
        };
        PortList { number, segments }
    }

    /// What it says of `key`.
    #[inline]
    pub(super) fn decision(&self, key: u32) -> Decision {
        let after = Segment::after(key);
        let segment = match &self.segments {
            Segments::Few(list) => {
                let before = list.iter().filter(|segment| **segment <= after).count();
                list.get(before.wrapping_sub(1))
            }
            Segments::Many(list) => {
                list.get(list.partition_point(|segment| *segment <= after).wrapping_sub(1))
            }
        };
        segment.map_or(Decision::NO_RULE, |segment| segment.decision())
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The segments: the first key of each with the decision from there on.
    pub(super) fn decisions(&self) -> Vec<(u32, Decision)> {
        let list: &[Segment] = match &self.segments {
            Segments::Few(list) => list,
            Segments::Many(list) => list,
        };
        let list = list.iter().filter(|segment| **segment != Segment::NONE);
        list.map(|segment| (segment.first(), segment.decision())).collect()
    }
}

impl PortLists {
    /// The list that `spans` make, for an endpoint that NetworkPolicies isolate or not.
    pub(super) fn list(&mut self, spans: Vec<Span>, isolated: bool) -> PortList {
        let cut = cut(spans, isolated);
        let number = match self.known.get_key_value(cut.as_slice()) {
            Some((segments, number)) => return PortList::new(*number, segments),
            None => self.known.len() as u32,
        };
        let segments: Arc<[Segment]> = cut.into();
        let list = PortList::new(number, &segments);
        self.known.insert(segments, number);
        list
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// Cuts the line of keys where the decision changes: a sweep with the spans that are open, tier by tier.
fn cut(mut spans: Vec<Span>, isolated: bool) -> Vec<Segment> {
    spans.sort_by_key(|span| span.first);
    let ends = spans.iter().map(|span| span.last + 1).filter(|end| *end <= LAST_KEY);
    let mut borders: Vec<u32> = spans.iter().map(|span| span.first).chain(ends).chain([0]).collect();
    borders.sort_unstable();
    borders.dedup();
    let mut coming = spans.into_iter().peekable();
    let mut open = OpenSpans::default();
    let mut segments = Vec::<Segment>::new();
    let mut last = None;
    for border in borders {
        while let Some(span) = coming.next_if(|span| span.first <= border) {
            let Asked { rule, place, tier, action } = span.asked;
            open.tier(tier).push(Reverse((place, action, span.last, rule)));
        }
        let ruling = open.ruling(border, isolated);
        if last.replace(ruling) != Some(ruling) {
            segments.push(Segment::new(border, ruling));
        }
    }
    segments
}

/// Spans by the rule's place: its action, its last key, its number. Where one rule both denies and passes, it denies.
type Open = BinaryHeap<Reverse<(u32, Action, u32, RuleId)>>;

/// The spans that the sweep is in.
#[derive(Default)]
struct OpenSpans {
    admin: Open,
    network_policy: Open,
    baseline: Open,
}

impl OpenSpans {
    fn tier(&mut self, tier: Tier) -> &mut Open {
        match tier {
            Tier::Admin(_) => &mut self.admin,
            Tier::NetworkPolicy => &mut self.network_policy,
            Tier::Baseline(_) => &mut self.baseline,
        }
    }

    /// What the tiers come to at `key`.
    fn ruling(&mut self, key: u32, isolated: bool) -> Ruling {
        if let Some(ruling) = lowest(&mut self.admin, key).and_then(final_ruling) {
            return ruling;
        }
        if isolated {
            let allowing = lowest(&mut self.network_policy, key);
            return allowing.map_or(Ruling::new(RuleId::NO_RULE, false), |(rule, _)| Ruling::new(rule, true));
        }
        let ruling = lowest(&mut self.baseline, key).and_then(final_ruling);
        ruling.unwrap_or(Ruling::new(RuleId::DEFAULT_ALLOW, true))
    }
}

/// The lowest rule that is still open at `key`.
fn lowest(open: &mut Open, key: u32) -> Option<(RuleId, Action)> {
    while open.peek().is_some_and(|Reverse((_, _, last, _))| *last < key) {
        open.pop();
    }
    open.peek().map(|Reverse((_, action, _, rule))| (*rule, *action))
}

/// What a rule of a ClusterNetworkPolicy decides; nothing where it passes.
fn final_ruling((rule, action): (RuleId, Action)) -> Option<Ruling> {
    match action {
        Action::Accept => Some(Ruling::new(rule, true)),
        Action::Deny => Some(Ruling::new(rule, false)),
        Action::Pass => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rules 2 to 4 are of the Admin tier, 5 to 7 of NetworkPolicy, 8 to 10 of the Baseline tier; what each does follows
    /// from `actions`.
    fn asked(rule: u32, actions: [Action; 6]) -> Asked {
        let (tier, action) = match rule {
            2..=4 => (Tier::Admin(rule as u16), actions[rule as usize - 2]),
            5..=7 => (Tier::NetworkPolicy, Action::Accept),
            _ => (Tier::Baseline(rule as u16), actions[rule as usize - 5]),
        };
        // Numbers say nothing of the order.
        Asked { rule: RuleId(20 - rule), place: rule, tier, action }
    }

    fn actions() -> impl Strategy<Value = [Action; 6]> {
        let action = || prop::sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
        [action(), action(), action(), action(), action(), action()]
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let protocol = || prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
        let port = || prop::sample::select(vec![0_u16, 1, 2, 80, 81, 65534, 65535]);
        actions().prop_flat_map(move |actions| {
            let span = (protocol(), port(), port(), 0..9_u8, 2..11_u32).prop_map(
                move |(protocol, a, b, all, rule)| {
                    let asked = asked(rule, actions);
                    match all {
                        0 => Span::everything(asked),
                        1 => Span::ports(protocol, 0, u16::MAX, asked),
                        _ => Span::ports(protocol, a.min(b), a.max(b), asked),
                    }
                },
            );
            prop::collection::vec(span, 0..10)
        })
    }

    /// Asks every span, tier by tier.
    fn ask(spans: &[Span], key: u32, isolated: bool) -> Decision {
        let mut matching: Vec<&Span> =
            spans.iter().filter(|span| (span.first..=span.last).contains(&key)).collect();
        matching.sort_by_key(|span| span.asked.place);
        let first = |wanted: fn(&Tier) -> bool| matching.iter().find(|span| wanted(&span.asked.tier));
        let decided = |span: Option<&&Span>| {
            let asked = span?.asked;
            let decision = Decision { allowed: asked.action == Action::Accept, rule: asked.rule };
            (asked.action != Action::Pass).then_some(decision)
        };
        let admin = decided(first(|tier| matches!(tier, Tier::Admin(_))));
        let policy = || first(|tier| *tier == Tier::NetworkPolicy);
        let baseline = || decided(first(|tier| matches!(tier, Tier::Baseline(_))));
        match (admin, isolated) {
            (Some(decision), _) => decision,
            (None, true) => {
                policy().map_or(Decision::NO_RULE, |span| Decision { allowed: true, rule: span.asked.rule })
            }
            (None, false) => baseline().unwrap_or(Decision::DEFAULT_ALLOW),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        /// Against asking every span.
        #[test]
        fn the_first_rule_of_the_first_tier_decides(spans in spans(), isolated in any::<bool>()) {
            let mut lists = PortLists::default();
            let list = lists.list(spans.clone(), isolated);
            prop_assert_eq!(lists.list(spans.clone(), isolated).number(), list.number(), "equal lists are one");
            for protocol in [1_u8, 6, 17, 58, 132] {
                for port in [0_u16, 1, 2, 3, 79, 80, 81, 82, 65533, 65534, 65535] {
                    let key = key(protocol, port);
                    let expected = ask(&spans, key, isolated);
                    prop_assert_eq!(list.decision(key), expected, "{} {}", protocol, port);
                }
            }
        }
    }

    #[test]
    fn a_list_of_nothing_allows_nothing() {
        assert_eq!(PortList::default().decision(key(6, 80)), Decision::NO_RULE);
    }
}
