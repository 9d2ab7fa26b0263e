//! [`Party`]: who is at an end of a flow, in words that people use.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use serde::Serialize;

use crate::intent::{Endpoint, Intent};

/// Most names that a party lists of its members.
const NAMES: usize = 100;
/// Most of them that are printed.
const PRINTED: usize = 4;

/// Pods that policy cannot tell apart, nodes, or addresses that are neither's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Party {
    /// Pods (and virtual machines).
    Pods {
        /// Their namespace; empty where they are of several.
        namespace: String,
        /// The labels that policies look at and all of them have, as `key=value`.
        labels: Vec<String>,
        /// How many they are.
        count: usize,
        /// Their names, the first hundred of them, as `namespace/name`.
        names: Vec<String>,
    },
    /// Nodes, with their hostNetwork pods.
    Nodes {
        /// How many they are.
        count: usize,
        /// Their names, the first hundred of them; an address where it is no node's.
        names: Vec<String>,
    },
    /// Addresses that are no pod's and no node's.
    Outside {
        /// All of them as prefixes. Addresses of pods and nodes that lie within are not meant.
        blocks: Vec<IpNet>,
    },
}

impl Party {
    /// The pods at these positions of `intent`.
    pub(super) fn pods<'a>(intent: &'a Intent, members: impl IntoIterator<Item = &'a u32>) -> Self {
        let pods = members.into_iter().filter_map(|member| intent.endpoints.get(*member as usize));
        let mut pods: Vec<&Endpoint> = pods.collect();
        pods.sort_by_key(|pod| &pod.name);
        pods.dedup_by_key(|pod| &pod.name);
        let first = pods.first().map_or("", |pod| pod.name.namespace.as_str());
        let one = pods.iter().all(|pod| pod.name.namespace == first);
        Party::Pods {
            namespace: if one { first.to_owned() } else { String::new() },
            labels: common_labels(intent, &pods),
            count: pods.len(),
            names: pods.iter().take(NAMES).map(|pod| pod.name.to_string()).collect(),
        }
    }

    /// Nodes of these names.
    pub(super) fn nodes(mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        let count = names.len();
        names.truncate(NAMES);
        Party::Nodes { count, names }
    }

    /// The addresses of these ranges of one family, both ends included.
    pub(super) fn outside(ranges: impl IntoIterator<Item = (u128, u128)>, ipv6: bool) -> Self {
        let mut joined = Vec::<(u128, u128)>::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
                _ => joined.push((first, last)),
            }
        }
        let blocks = joined.into_iter().flat_map(|(first, last)| blocks(first, last, ipv6)).collect();
        Party::Outside { blocks }
    }
}

/// Labels that the identities of all of them show.
fn common_labels(intent: &Intent, pods: &[&Endpoint]) -> Vec<String> {
    let mut identities: Vec<u32> = pods.iter().map(|pod| pod.identity).collect();
    identities.sort_unstable();
    identities.dedup();
    let mut counts = BTreeMap::<&str, usize>::new();
    let known = identities.iter().filter_map(|identity| intent.identities.get(*identity as usize));
    for label in known.flat_map(|identity| &identity.labels) {
        *counts.entry(label).or_default() += 1;
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count == identities.len())
        .map(|(label, _)| label.to_owned())
        .collect()
}

fn blocks(first: u128, last: u128, ipv6: bool) -> Vec<IpNet> {
    if ipv6 {
        return Ipv6Subnets::new(Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last), 0)
            .map(IpNet::V6)
            .collect();
    }
    let v4 = |bits: u128| Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX));
    Ipv4Subnets::new(v4(first), v4(last), 0).map(IpNet::V4).collect()
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Pods { count: 1, names, labels, .. } => {
                write!(f, "pod {}", names.join(""))?;
                if labels.is_empty() { Ok(()) } else { write!(f, " ({})", labels.join(", ")) }
            }
            Party::Pods { namespace, labels, count, names } => {
                write!(f, "{count} pods")?;
                if !namespace.is_empty() {
                    write!(f, " of {namespace}")?;
                }
                if !labels.is_empty() {
                    write!(f, " with {}", labels.join(", "))?;
                }
                write!(f, " ({})", few(names, *count))
            }
            Party::Nodes { count: 1, names } => write!(f, "node {}", names.join("")),
            Party::Nodes { count, names } => write!(f, "{count} nodes ({})", few(names, *count)),
            Party::Outside { blocks } => {
                let texts: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                write!(f, "outside {}", few(&texts, texts.len()))
            }
        }
    }
}

/// The first of `names`, and how many more there are of `count`.
fn few(names: &[String], count: usize) -> String {
    let shown = names.len().min(if count <= PRINTED + 1 { count } else { PRINTED });
    let text = names.iter().take(shown).map(String::as_str).collect::<Vec<_>>().join(", ");
    if count > shown { format!("{text} and {} more", count - shown) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        let text = |ranges: &[(u128, u128)], ipv6| Party::outside(ranges.iter().copied(), ipv6).to_string();
        assert_eq!(text(&[(0, u32::MAX.into())], false), "outside 0.0.0.0/0");
        assert_eq!(text(&[(0, 0x0aff_ffff), (0x0b00_0000, u32::MAX.into())], false), "outside 0.0.0.0/0");
        assert_eq!(
            text(&[(0, 0x7fff_ffff), (0x8000_0001, 0x8000_0001)], false),
            "outside 0.0.0.0/1, 128.0.0.1/32"
        );
        assert_eq!(text(&[(0, u128::MAX)], true), "outside ::/0");
        assert_eq!(text(&[(1, u128::MAX)], true), "outside ::1/128, ::2/127, ::4/126, ::8/125 and 124 more");
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(few(&names(5), 5), "0, 1, 2, 3, 4");
        assert_eq!(few(&names(6), 6), "0, 1, 2, 3 and 2 more");
        assert_eq!(few(&names(100), 1000), "0, 1, 2, 3 and 996 more");
    }
}
