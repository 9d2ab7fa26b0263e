//! [`Oracle`]: judges flows by reading the policies of an [`Intent`](crate::intent::Intent), in the order in which the documentation of
//! NetworkPolicy and ClusterNetworkPolicy words it.
//!
//! ```text
//!   subject ──► the rules of the policies that select it, in the order of asking
//!                 │ whose peers the other end is among      ([`Oracle::matching`])
//!                 │ whose ports the packet has, tier by tier ([`Subject::finding`])
//!                 ▼
//!               Finding
//! ```
//!
//! It shares no code with the compiled table and knows neither classes nor port lists. `oracle` reads Kubernetes objects, which
//! penstockd does not have; `tests` holds the two to each other.

use std::net::IpAddr;

use super::index::{Index, Party, State};
use crate::intent::{Action, Endpoint, IpBlock, Policy, PortMatch, PortSelector, Protocol, Rule, Tier};

/// Judges by reading a state.
#[derive(Clone, Copy)]
pub(super) struct Oracle<'a> {
    pub(super) state: State<'a>,
    pub(super) index: &'a Index,
}

/// What the policies say of a flow in one direction.
#[derive(Clone, Copy)]
pub(super) struct Finding<'a> {
    pub(super) allowed: bool,
    pub(super) reason: Reason<'a>,
}

/// Why.
#[derive(Clone, Copy)]
pub(super) enum Reason<'a> {
    /// Nothing says otherwise.
    Default,
    /// NetworkPolicies isolate the endpoint and no rule of theirs allows it.
    Isolated,
    /// That rule decides.
    Rule(&'a Policy, &'a Rule),
}

/// A packet, as far as rules look at it.
#[derive(Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) protocol: u8,
    /// The destination's port; 0 for protocols without ports.
    pub(super) port: u16,
    /// The destination's container ports by name.
    pub(super) named: &'a [(String, Protocol, u16)],
}

/// An endpoint whose policies are asked in one direction.
pub(super) struct Subject<'a> {
    pub(super) ingress: bool,
    /// Whether a NetworkPolicy isolates it.
    isolated: bool,
    /// The rules of all policies that select it, in the order in which they are asked.
    rules: Vec<(&'a Policy, &'a Rule)>,
}

/// A rule that matches a peer, by its position among a subject's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Match {
    position: u32,
    /// The peer is among the rule's peers.
    peer: bool,
    /// The peer is one of which nothing is known, and might be among them.
    stranger: bool,
}

impl<'a> Oracle<'a> {
    /// Who has an address.
    pub(super) fn party(&self, address: IpAddr) -> Party<'a> {
        self.index.party(&self.state, address)
    }

    /// What the policies of the source say of a flow, and what those of the destination say. `by_service`: a Service has chosen the
    /// destination.
    pub(super) fn judge(
        &self,
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        port: u16,
        by_service: bool,
    ) -> [Finding<'a>; 2] {
        let (from, to) = (self.party(src), self.party(dst));
        // "A Pod connecting to its own Pod IP is not subject to CNP. A Pod connecting to a Service IP that the service
        // proxy load-balances back to the same Pod is subject to ClusterNetworkPolicy."
        if !by_service && is_one_pod(from, to) {
            return [Finding::DEFAULT; 2];
        }
        let packet = Packet { protocol, port, named: self.named_ports(to) };
        let exempt = self.is_exempt(from, to);
        let finding = |pod: Party<'a>, ingress: bool, peer: Party<'a>, at: IpAddr| {
            let Party::Pod(_, endpoint) = pod else { return Finding::DEFAULT };
            let (subject, mut matching) = (self.subject(endpoint.identity, ingress), Vec::new());
            self.matching(&subject, peer, at, &mut matching);
            subject.finding(&matching, &packet, exempt)
        };
        [finding(from, false, to, dst), finding(to, true, from, src)]
    }

    /// "A Pod cannot block access to itself", and "traffic to and from the node where a Pod is running is always allowed": so
    /// far as NetworkPolicy goes.
    pub(super) fn is_exempt(&self, from: Party<'a>, to: Party<'a>) -> bool {
        match (from, to) {
            (Party::Pod(_, pod), Party::Host(node, _)) | (Party::Host(node, _), Party::Pod(_, pod)) => {
                self.index.is_own_node(pod, node)
            }
            _ => is_one_pod(from, to),
        }
    }

    /// The container ports of a destination by name.
    pub(super) fn named_ports(&self, party: Party<'a>) -> &'a [(String, Protocol, u16)] {
        let Party::Pod(_, endpoint) = party else { return &[] };
        self.state
            .identity(endpoint.identity)
            .map(|identity| identity.named_ports.as_slice())
            .unwrap_or_default()
    }

    /// An endpoint of that identity as the subject of policies. "By default, a pod is non-isolated. It is isolated if there is any
    /// NetworkPolicy that both selects the pod and has the direction in its policyTypes."
    pub(super) fn subject(&self, identity: u32, ingress: bool) -> Subject<'a> {
        let mut subject = Subject { ingress, isolated: false, rules: Vec::new() };
        for policy in
            self.index.selecting(identity).iter().filter_map(|number| self.state.policies.get(*number))
        {
            let Some(rules) = (if ingress { &policy.ingress } else { &policy.egress }) else { continue };
            subject.isolated |= policy.tier == Tier::NetworkPolicy;
            subject.rules.extend(rules.iter().map(|rule| (policy, rule)));
        }
        subject
    }

    /// Which rules of a subject are about the party `peer`, whose address is `at`.
    pub(super) fn matching(
        &self,
        subject: &Subject<'a>,
        peer: Party<'a>,
        at: IpAddr,
        matching: &mut Vec<Match>,
    ) {
        matching.clear();
        for ((_, rule), position) in subject.rules.iter().zip(0..) {
            // Who a stranger is nobody knows. The API, of peers that are not understood: "For Accept rules, fail closed means:
            // treat the rule as matching no traffic. For Deny and Pass rules: treat the rule as a Deny all rule."
            let stranger =
                matches!(peer, Party::Stranger) && rule.selects_pods && rule.action != Action::Accept;
            let peer = is_peer(rule, peer, at);
            if peer || stranger {
                matching.push(Match { position, peer, stranger });
            }
        }
    }
}

impl<'a> Subject<'a> {
    /// Whether no policy selects it.
    pub(super) fn is_free(&self) -> bool {
        !self.isolated && self.rules.is_empty()
    }

    /// Its rules.
    pub(super) fn rules(&self) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().map(|(_, rule)| *rule)
    }

    /// The address blocks that its rules are about.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &'a IpBlock> {
        self.rules().filter_map(|rule| rule.peers.as_ref()).flat_map(|peers| &peers.blocks)
    }

    /// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier. If a given connection
    /// wasn't allowed or denied by any of the tiers, the default kubernetes policy is applied, which says that all pods can
    /// communicate with each other." `exempt`: that NetworkPolicies isolate the endpoint does not hold for this peer.
    pub(super) fn finding(&self, matching: &[Match], packet: &Packet<'_>, exempt: bool) -> Finding<'a> {
        let admin = self.first(matching, packet, |tier| matches!(tier, Tier::Admin(_)));
        if let Some(finding) = admin.and_then(decided) {
            return finding;
        }
        // "v1.NetworkPolicy always makes a final decision for selected pods."
        if self.isolated {
            let allowing = self.first(matching, packet, |tier| tier == Tier::NetworkPolicy);
            let denied = || match exempt {
                true => Finding::DEFAULT,
                false => Finding { allowed: false, reason: Reason::Isolated },
            };
            return allowing.and_then(decided).unwrap_or_else(denied);
        }
        let baseline = self.first(matching, packet, |tier| matches!(tier, Tier::Baseline(_)));
        baseline.and_then(decided).unwrap_or(Finding::DEFAULT)
    }

    /// The first keys, on the line of all protocols and ports, from which on rules that match say something else of a packet to
    /// a destination with those named ports. Sorted, with 0.
    pub(super) fn borders(&self, matching: &[Match], named: &[(String, Protocol, u16)]) -> Vec<u32> {
        let mut borders = vec![0];
        for found in matching {
            let Some((_, rule)) = self.rules.get(found.position as usize) else { continue };
            for port in rule.ports.iter().flatten() {
                let mut range = |first: u16, last: u16| {
                    borders.extend([key(port.protocol, first), key(port.protocol, last) + 1]);
                };
                match &port.port {
                    PortSelector::Any => range(0, u16::MAX),
                    PortSelector::Range(first, last) => range(*first, *last),
                    // A stranger may call any of its ports so.
                    PortSelector::Named(_) if found.stranger && !self.ingress => range(0, u16::MAX),
                    PortSelector::Named(wanted) => {
                        let meant = named.iter().filter(|(name, ..)| name == wanted);
                        meant.for_each(|(_, _, number)| range(*number, *number));
                    }
                }
            }
        }
        borders.sort_unstable();
        borders.dedup();
        borders
    }

    /// The first rule of a tier that matches a packet, and what it does.
    fn first(
        &self,
        matching: &[Match],
        packet: &Packet<'_>,
        of_tier: impl Fn(Tier) -> bool,
    ) -> Option<(&'a Policy, &'a Rule, Action)> {
        matching.iter().find_map(|found| {
            let (policy, rule) = self.rules.get(found.position as usize).copied()?;
            if !of_tier(policy.tier) {
                return None;
            }
            // A stranger may call any of its ports by any name.
            let any_name = |port: &PortMatch| {
                !self.ingress
                    && matches!(port.port, PortSelector::Named(_))
                    && port.protocol as u8 == packet.protocol
            };
            let closes =
                found.stranger && (has_port(rule, packet) || rule.ports.iter().flatten().any(any_name));
            if closes {
                return Some((policy, rule, Action::Deny));
            }
            (found.peer && has_port(rule, packet)).then_some((policy, rule, rule.action))
        })
    }
}

impl Finding<'_> {
    /// Allowed, as nothing says otherwise.
    pub(super) const DEFAULT: Self = Finding { allowed: true, reason: Reason::Default };
}

/// A place on the line of all protocols and ports: those of TCP, of UDP, of SCTP, and one for all other protocols.
pub(super) fn key(protocol: Protocol, port: u16) -> u32 {
    let before = match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    };
    before * 0x1_0000 + u32::from(port)
}

fn is_one_pod(from: Party<'_>, to: Party<'_>) -> bool {
    matches!((from, to), (Party::Pod(from, _), Party::Pod(to, _)) if from == to)
}

/// "If this field is empty or missing, this rule matches all sources (destinations)."
fn is_peer(rule: &Rule, party: Party<'_>, at: IpAddr) -> bool {
    let Some(peers) = &rule.peers else { return true };
    let selected = |endpoint: &Endpoint| peers.identities.contains(&endpoint.identity);
    // hostNetwork pods are their node, which no selector of pods selects.
    matches!(party, Party::Pod(_, endpoint) if selected(endpoint))
        || peers.blocks.iter().any(|block| contains(block, at))
}

/// "Except is a slice of CIDRs that should not be included within an IPBlock."
fn contains(block: &IpBlock, address: IpAddr) -> bool {
    block.cidr.contains(&address) && !block.except.iter().any(|part| part.contains(&address))
}

/// "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)."
fn has_port(rule: &Rule, packet: &Packet<'_>) -> bool {
    let Some(ports) = &rule.ports else { return true };
    ports.iter().any(|port| {
        port.protocol as u8 == packet.protocol
            && match &port.port {
                PortSelector::Any => true,
                PortSelector::Range(first, last) => (*first..=*last).contains(&packet.port),
                PortSelector::Named(wanted) => packet.named.iter().any(|(name, protocol, number)| {
                    name == wanted && *protocol == port.protocol && *number == packet.port
                }),
            }
    })
}

/// What a rule decides. "Pass: skips all further rules in the current tier, and passes evaluation to the next tier."
fn decided<'a>((policy, rule, action): (&'a Policy, &'a Rule, Action)) -> Option<Finding<'a>> {
    let allowed = match action {
        Action::Accept => true,
        Action::Deny => false,
        Action::Pass => return None,
    };
    Some(Finding { allowed, reason: Reason::Rule(policy, rule) })
}
