//! Who can reach a port of an endpoint, and by which rules: every endpoint, node and outside address is judged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::addresses::{Owner, free, host_names, owners, ranges};
use super::{Packet, Party, Verdict};
use crate::intent::{Intent, ObjectName};
use crate::policy::{Decision, PolicyTable, RuleId};

/// Who reaches an endpoint's port and who does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// The endpoint.
    pub target: ObjectName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// The port; 0 for protocols without one.
    pub port: u16,
    /// Who may, put together where the same rules decide.
    pub allowed: Vec<Access>,
    /// Who may not.
    pub denied: Vec<Access>,
}

/// Some who are treated alike, and by the same rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Who.
    pub who: Vec<Party>,
    /// 4, 6 or both: the IP versions that it holds for.
    pub families: Vec<u8>,
    /// True for the endpoint's own node, from which policy does not isolate it.
    pub own_node: bool,
    /// What policy says.
    pub verdict: Verdict,
    /// A packet of one of them.
    pub example: Packet,
}

/// Who reaches `port` of the endpoint called `target`, the endpoint itself left out. `None` where there is no such endpoint.
pub fn who_can_reach(
    intent: &Intent,
    policy: &PolicyTable,
    target: &ObjectName,
    protocol: u8,
    port: u16,
) -> Option<Reach> {
    let endpoint = intent.endpoints.iter().find(|endpoint| endpoint.name == *target)?;
    let mut search = Search { policy, protocol, port, found: BTreeMap::new() };
    let owners = owners(intent);
    let names = host_names(intent);
    for dst in &endpoint.addresses {
        let same_family = owners.iter().filter(|(src, _)| src.is_ipv6() == dst.is_ipv6() && *src != dst);
        for (src, owner) in same_family {
            let source = match *owner {
                Owner::Endpoint(position, identity) => Source::Pod(identity, position),
                Owner::Host(_) => Source::Host(names.get(src).cloned().unwrap_or_else(|| src.to_string())),
            };
            search.add(*src, *dst, source);
        }
        for (range, _) in ranges(&[policy.outside(dst.is_ipv6())], dst.is_ipv6()) {
            if let Some(src) = free(&[range], dst.is_ipv6(), |address| owners.contains_key(address)) {
                search.add(src, *dst, Source::Outside(range));
            }
        }
    }
    let (allowed, denied) = search.accesses(intent).into_iter().partition(|access| access.verdict.allowed);
    Some(Reach {
        target: target.clone(),
        addresses: endpoint.addresses.clone(),
        protocol,
        port,
        allowed,
        denied,
    })
}

/// One source.
enum Source {
    /// Identity and position.
    Pod(u32, u32),
    Host(String),
    Outside((u128, u128)),
}

/// What is alike of sources that are told of together.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    ipv6: bool,
    /// 0 for pods, then nodes, then the outside.
    sort: u8,
    identity: u32,
    own_node: bool,
    rules: [(bool, RuleId); 2],
    /// The source's subject where its policies deny for want of a rule, so that they can be named.
    subject: u32,
}

#[derive(Default)]
struct Sources {
    members: Members,
    example: Option<Packet>,
}

/// Who they are: one of the lists has all of them.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Members {
    pods: Vec<u32>,
    hosts: Vec<String>,
    ranges: Vec<(u128, u128)>,
}

impl Members {
    fn add(&mut self, source: Source) {
        match source {
            Source::Pod(_, position) => self.pods.push(position),
            Source::Host(name) => self.hosts.push(name),
            Source::Outside(range) => self.ranges.push(range),
        }
    }

    /// The same of both families are equal then.
    fn sort(&mut self) {
        self.pods.sort_unstable();
        self.hosts.sort_unstable();
    }

    /// As a party; ranges are of one family.
    fn party(self, intent: &Intent, ipv6: bool) -> Party {
        match self {
            Members { pods, .. } if !pods.is_empty() => Party::pods(intent, &pods),
            Members { hosts, .. } if !hosts.is_empty() => Party::nodes(hosts),
            Members { ranges, .. } => Party::outside(ranges, ipv6),
        }
    }
}

struct Search<'a> {
    policy: &'a PolicyTable,
    protocol: u8,
    port: u16,
    found: BTreeMap<Alike, Sources>,
}

impl Search<'_> {
    fn add(&mut self, src: IpAddr, dst: IpAddr, source: Source) {
        let packet = Packet::new(src, dst, self.protocol, self.port);
        let judgement = self.policy.judge(src, dst, self.protocol, self.port);
        let rule = |decision: Decision| (decision.allowed, decision.rule);
        let isolated = judgement.egress.rule == RuleId::NO_RULE;
        let (sort, identity) = match source {
            Source::Pod(identity, _) => (0, identity),
            Source::Host(_) => (1, 0),
            Source::Outside(_) => (2, 0),
        };
        let alike = Alike {
            ipv6: src.is_ipv6(),
            sort,
            identity,
            own_node: self.policy.is_exempt(src, dst),
            rules: [rule(judgement.egress), rule(judgement.ingress)],
            subject: if isolated { self.policy.look(src).egress } else { 0 },
        };
        let sources = self.found.entry(alike).or_default();
        sources.example.get_or_insert(packet);
        sources.members.add(source);
    }

    /// Both families of one party become one, then the parties by the same rules.
    fn accesses(self, intent: &Intent) -> Vec<Access> {
        let mut by_party = BTreeMap::<(bool, Verdict, Members), (Vec<u8>, Packet)>::new();
        for (alike, sources) in self.found {
            let Sources { mut members, example: Some(example) } = sources else { continue };
            members.sort();
            let key = (alike.own_node, Verdict::of(self.policy, &example), members);
            let family = if alike.ipv6 { 6 } else { 4 };
            let families = &mut by_party.entry(key).or_insert_with(|| (Vec::new(), example)).0;
            if !families.contains(&family) {
                families.push(family);
            }
        }
        let mut by_rules = BTreeMap::<(bool, Verdict, Vec<u8>), (Vec<Party>, Packet)>::new();
        for ((own_node, verdict, members), (families, example)) in by_party {
            let party = members.party(intent, families.contains(&6));
            let key = (own_node, verdict, families);
            by_rules.entry(key).or_insert_with(|| (Vec::new(), example)).0.push(party);
        }
        let access = |((own_node, verdict, families), (who, example))| Access {
            who,
            families,
            own_node,
            verdict,
            example,
        };
        by_rules.into_iter().map(access).collect()
    }
}
