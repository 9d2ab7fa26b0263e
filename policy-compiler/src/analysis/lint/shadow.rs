//! Rules that add nothing: whatever they allow, other rules allow to the same pods, in any cluster.
//!
//! What one rule allows is found within what others allow by reading selectors, blocks and ports, not by looking at
//! pods; so a finding stays true when pods come. Going from the last rule to the first, a rule is compared with those
//! that have not been found superfluous: all that are found may go at once.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Peer, ReadPolicy, ReadRule, Who};
use super::{Code, Findings, blocks};
use crate::intent::{PortMatch, PortSelector, Protocol};
use crate::objects::selectors::{Requirement, Selector};

/// Most rules that a finding names.
const NAMED: usize = 3;

#[derive(Clone, Copy)]
struct Candidate<'a> {
    policy: &'a ReadPolicy<'a>,
    rule: &'a ReadRule<'a>,
}

/// Finds them.
pub(super) fn find<'a>(policies: &'a [ReadPolicy<'a>], findings: &mut Findings) {
    let mut groups = BTreeMap::<(&str, bool), Vec<Candidate<'_>>>::new();
    for policy in policies {
        for rule in &policy.rules {
            groups.entry((policy.namespace(), rule.ingress)).or_default().push(Candidate { policy, rule });
        }
    }
    for mut kept in groups.into_values() {
        for position in (0..kept.len()).rev() {
            let candidate = kept.remove(position);
            match covering(candidate, &kept) {
                None => kept.insert(position, candidate),
                Some(others) => report(candidate, &others, findings),
            }
        }
    }
}

fn report(candidate: Candidate<'_>, others: &[Candidate<'_>], findings: &mut Findings) {
    let names: BTreeSet<String> =
        others.iter().map(|other| format!("{} {}", other.policy.object(), other.rule.field)).collect();
    let mut text: Vec<String> = names.iter().take(NAMED).cloned().collect();
    if names.len() > NAMED {
        text.push(format!("{} more", names.len() - NAMED));
    }
    let reason = format!("all that it allows is allowed already by {}", text.join(" and "));
    findings.add(
        candidate.policy.object(),
        Code::Shadowed,
        &candidate.rule.field,
        reason,
        "take the rule away: nothing changes",
    );
}

/// Rules that together allow all that `wanted` allows; `None` where they do not.
fn covering<'a>(wanted: Candidate<'_>, others: &[Candidate<'a>]) -> Option<Vec<Candidate<'a>>> {
    let subjects = &wanted.policy.subjects.selector;
    let broader: Vec<Candidate<'a>> =
        others.iter().filter(|other| implies(subjects, &other.policy.subjects.selector)).copied().collect();
    let Some(peers) = &wanted.rule.peers else {
        let everyones = broader.into_iter().filter(|other| other.rule.peers.is_none()).collect();
        return ports_covered(wanted.rule, everyones);
    };
    let mut used = Vec::new();
    for peer in peers {
        let about = |other: &Candidate<'_>| match &other.rule.peers {
            None => true,
            Some(peers) => peers.iter().any(|known| peer_within(peer, known)),
        };
        used.extend(ports_covered(
            wanted.rule,
            broader.iter().filter(|other| about(other)).copied().collect(),
        )?);
    }
    Some(used)
}

/// Those of `others` whose ports make up the ports of `wanted`.
fn ports_covered<'a>(wanted: &ReadRule<'_>, others: Vec<Candidate<'a>>) -> Option<Vec<Candidate<'a>>> {
    if let Some(all) = others.iter().find(|other| other.rule.ports.is_none()) {
        return Some(vec![*all]);
    }
    let mut used = Vec::new();
    for port in wanted.ports.as_ref()? {
        let of_protocol = |other: &&Candidate<'_>| {
            other.rule.ports.iter().flatten().any(|known| known.protocol == port.protocol)
        };
        let about: Vec<Candidate<'a>> = others.iter().filter(of_protocol).copied().collect();
        if !port_covered(port, &about) {
            return None;
        }
        used.extend(about);
    }
    Some(used)
}

fn port_covered(wanted: &PortMatch, others: &[Candidate<'_>]) -> bool {
    let ports = || others.iter().flat_map(|other| other.rule.ports.iter().flatten());
    let known = || ports().filter(|port| port.protocol == wanted.protocol);
    if known().any(|port| port.port == PortSelector::Any || port.port == wanted.port) {
        return true;
    }
    match wanted.port {
        PortSelector::Range(first, last) => ranges_cover(known(), wanted.protocol, first, last),
        PortSelector::Any => ranges_cover(known(), wanted.protocol, 0, u16::MAX),
        PortSelector::Named(_) => ranges_cover(known(), wanted.protocol, 1, u16::MAX),
    }
}

fn ranges_cover<'p>(
    ports: impl Iterator<Item = &'p PortMatch>,
    protocol: Protocol,
    first: u16,
    last: u16,
) -> bool {
    let ranges = ports.filter(|port| port.protocol == protocol).filter_map(|port| match port.port {
        PortSelector::Range(first, last) => Some((u32::from(first), u32::from(last))),
        _ => None,
    });
    let mut ranges: Vec<(u32, u32)> = ranges.collect();
    ranges.sort_unstable();
    let mut next = u32::from(first);
    for (begin, end) in ranges {
        if begin > next {
            break;
        }
        next = next.max(end + 1);
    }
    next > u32::from(last)
}

/// Whether whoever is `one` is `other`, too; both are peers of policies of one namespace.
fn peer_within(one: &Peer<'_>, other: &Peer<'_>) -> bool {
    match (&one.who, &other.who) {
        (Who::Block(one), Who::Block(other)) => blocks::within(one, other),
        (
            Who::Pods { namespaces: own, pods },
            Who::Pods { namespaces: other_namespaces, pods: other_pods },
        ) => {
            let namespaces = match (own, other_namespaces) {
                (None, None) => true,
                (Some(one), Some(other)) => implies(&one.selector, &other.selector),
                // Every namespace is the own one, too, if nothing is asked of it.
                (None, Some(other)) => other.selector.requirements().is_empty(),
                (Some(_), None) => false,
            };
            namespaces && implies(&pods.selector, &other_pods.selector)
        }
        _ => false,
    }
}

/// Whether what fulfils `one` fulfils `other`. Says no where it is not plain.
fn implies(one: &Selector, other: &Selector) -> bool {
    other.requirements().iter().all(|wanted| one.requirements().iter().any(|known| gives(known, wanted)))
}

/// Whether what fulfils one requirement fulfils the other.
fn gives(known: &Requirement, wanted: &Requirement) -> bool {
    use Requirement::{DoesNotExist, Exists, In, NotIn};
    let among = |values: &[String], others: &[String]| values.iter().all(|value| others.contains(value));
    match (known, wanted) {
        (In(a, v), In(b, w)) => a == b && among(v, w),
        (In(a, _) | Exists(a), Exists(b)) => a == b,
        (In(a, v), NotIn(b, w)) => a == b && !v.iter().any(|value| w.contains(value)),
        (NotIn(a, v), NotIn(b, w)) => a == b && among(w, v),
        (DoesNotExist(a), NotIn(b, _) | DoesNotExist(b)) => a == b,
        _ => false,
    }
}
