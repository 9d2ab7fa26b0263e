//! Flows to be judged by a set: what its rules allow, what they deny, and what nobody asked about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_compiler::intent::{IpBlock, Policy, PortMatch, PortSelector, Protocol, Rule};
use policy_compiler::policy::{Decision, Judgement, PolicyTable, RuleId};

use super::{CYCLE, Dice, RuleSet, identities_of, pods_of};

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Where it comes from.
    pub src: IpAddr,
    /// Where it goes to.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination's port; 0 for protocols without.
    pub port: u16,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A rule allows it, and none denies it: both ends together.
    Hit,
    /// Between pods that no policy selects.
    Miss,
    /// A rule denies it, or an end that is isolated has none that allows it.
    Denial,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Hit, Kind::Miss, Kind::Denial];

    /// Such as `hit`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hit => "hit",
            Kind::Miss => "miss",
            Kind::Denial => "denial",
        }
    }

    /// What a judgement says.
    pub fn of(judgement: &Judgement) -> Self {
        let by_rule = |decision: &Decision| decision.rule != RuleId::DEFAULT_ALLOW;
        match judgement {
            denied if !denied.allowed() => Kind::Denial,
            Judgement { egress, ingress } if by_rule(egress) || by_rule(ingress) => Kind::Hit,
            _ => Kind::Miss,
        }
    }
}

impl RuleSet {
    /// So many flows of a kind in no order, of IPv4 or IPv6; `table` is the set's, and says which are of that kind. A small set may
    /// not have so many that differ, and one that has none of a kind answers with none.
    pub fn flows(&self, table: &PolicyTable, kind: Kind, ipv6: bool, count: usize, seed: u64) -> Vec<Flow> {
        let mut caller = Caller { set: self, dice: Dice(seed), ipv6 };
        let mut flows = Vec::with_capacity(count);
        for _ in 0..count * TRIES {
            if flows.len() == count {
                break;
            }
            let flow = if kind == Kind::Miss { caller.unselected() } else { caller.ruled() };
            let Some(flow) = flow else { continue };
            if Kind::of(&table.judge(flow.src, flow.dst, flow.protocol, flow.port)) == kind {
                flows.push(flow);
            }
        }
        flows
    }

    /// So many flows between anyone: pods, nodes, pods that nobody knows, the world; ports beside those of rules.
    pub fn any_flows(&self, ipv6: bool, count: usize, seed: u64) -> Vec<Flow> {
        let mut caller = Caller { set: self, dice: Dice(seed), ipv6 };
        std::iter::repeat_with(|| caller.any()).flatten().take(count).collect()
    }
}

/// Times that a flow is made for one that is of the wanted kind.
const TRIES: usize = 1000;

/// Makes flows.
struct Caller<'a> {
    set: &'a RuleSet,
    dice: Dice,
    ipv6: bool,
}

impl Caller<'_> {
    /// What some rule is about, or nearly.
    fn ruled(&mut self) -> Option<Flow> {
        let policy: &Policy = self.dice.one_of(&self.set.intent.policies)?;
        let is_ingress = self.dice.below(2) == 0;
        let rules = if is_ingress { &policy.ingress } else { &policy.egress };
        let rule = self.dice.one_of(rules.as_deref()?)?;
        let subject = *self.dice.one_of(&policy.subjects)?;
        let subject = self.pod(subject)?;
        let peer = if self.dice.below(4) == 0 { self.anyone() } else { self.peer(rule) }?;
        let (protocol, mut port) = self.port(rule);
        if self.dice.below(4) == 0 {
            port = self.random_port();
        }
        let (src, dst) = if is_ingress { (peer, subject) } else { (subject, peer) };
        Some(Flow { src, dst, protocol, port })
    }

    /// Between namespaces that no policy selects.
    fn unselected(&mut self) -> Option<Flow> {
        let (src, dst) = (self.unselected_pod()?, self.unselected_pod()?);
        let protocol = if self.dice.below(4) == 0 { Protocol::Udp } else { Protocol::Tcp };
        Some(Flow { src, dst, protocol: protocol as u8, port: self.random_port() })
    }

    fn any(&mut self) -> Option<Flow> {
        let (mut flow, src, dst) = (self.ruled()?, self.anyone()?, self.anyone()?);
        // A port before or after a range, its first or its last.
        flow.port = flow.port.wrapping_add(self.dice.below(3) as u16).wrapping_sub(1);
        match self.dice.below(3) {
            0 => flow.src = src,
            1 => flow.dst = dst,
            _ => (flow.src, flow.dst) = (src, dst),
        }
        Some(flow)
    }

    fn peer(&mut self, rule: &Rule) -> Option<IpAddr> {
        let Some(peers) = &rule.peers else { return self.anyone() };
        if let Some(identity) = self.dice.one_of(&peers.identities) {
            return self.pod(*identity);
        }
        let ipv6 = self.ipv6;
        let of_family = |block: &&IpBlock| block.cidr.addr().is_ipv6() == ipv6;
        let block = peers.blocks.iter().find(of_family)?;
        Some(self.address_in(block))
    }

    /// Pods by half, else a node, an address of the pod network that none may have, or one of the world.
    fn anyone(&mut self) -> Option<IpAddr> {
        let intent = &self.set.intent;
        match self.dice.below(8) {
            0 if !self.ipv6 => self.dice.one_of(&intent.nodes)?.addresses.first().copied(),
            1 => {
                let ranges = &self.dice.one_of(&intent.nodes)?.pod_cidrs;
                let range = ranges.iter().find(|range| range.addr().is_ipv6() == self.ipv6)?;
                Some(self.address_in(&IpBlock { cidr: *range, except: vec![] }))
            }
            2 | 3 => Some(self.world()),
            _ => {
                let identity = self.dice.below(intent.identities.len() as u32);
                self.pod(identity)
            }
        }
    }

    fn world(&mut self) -> IpAddr {
        let (near, bits) = (self.dice.below(2) == 0, self.dice.throw());
        match (self.ipv6, near) {
            (false, true) => Ipv4Addr::new(203, bits as u8 % 80, (bits >> 8) as u8 % 20, (bits >> 16) as u8),
            (false, false) => return self.far(bits),
            (true, true) => {
                let (partner, part) = (bits as u16 % 80, (bits >> 16) as u16 % 4);
                return Ipv6Addr::new(0x2001, 0xdb8, partner, part, 0, 0, 0, (bits >> 32) as u16).into();
            }
            (true, false) => {
                return Ipv6Addr::from_bits(u128::from(bits) << 64 | u128::from(bits)).into();
            }
        }
        .into()
    }

    /// Anywhere, the metadata service and the closed range among it.
    fn far(&mut self, bits: u64) -> IpAddr {
        match self.dice.below(4) {
            0 => Ipv4Addr::new(169, 254, 169, 254),
            1 => Ipv4Addr::new(198, 51, 100, bits as u8),
            _ => Ipv4Addr::from_bits(bits as u32),
        }
        .into()
    }

    /// In a block, or, of a few, in what it leaves out.
    fn address_in(&mut self, block: &IpBlock) -> IpAddr {
        let place = u128::from(self.dice.throw()) << 64 | u128::from(self.dice.throw());
        match block.cidr.network() {
            IpAddr::V4(v4) => {
                let within = u32::MAX.checked_shr(block.cidr.prefix_len().into()).unwrap_or_default();
                Ipv4Addr::from_bits(v4.to_bits() | place as u32 & within).into()
            }
            IpAddr::V6(v6) => {
                let within = u128::MAX.checked_shr(block.cidr.prefix_len().into()).unwrap_or_default();
                Ipv6Addr::from_bits(v6.to_bits() | place & within).into()
            }
        }
    }

    fn unselected_pod(&mut self) -> Option<IpAddr> {
        let cycles = self.set.intent.identities.len() as u32 / identities_of(CYCLE).start;
        let namespace = self.dice.below(cycles) * CYCLE + CYCLE - 1;
        let identity = self.dice.within(identities_of(namespace));
        self.pod(identity)
    }

    fn pod(&mut self, identity: u32) -> Option<IpAddr> {
        let pods = pods_of(identity);
        // The first has both families.
        let pod = if self.ipv6 { pods.start } else { self.dice.within(pods) };
        let addresses = &self.set.intent.endpoints.get(pod as usize)?.addresses;
        addresses.iter().find(|address| address.is_ipv6() == self.ipv6).copied()
    }

    fn port(&mut self, rule: &Rule) -> (u8, u16) {
        let matching = rule.ports.as_deref().and_then(|ports| self.dice.one_of(ports));
        match matching {
            None => match self.dice.below(4) {
                0 => (1, 0),
                1 => (Protocol::Udp as u8, self.random_port()),
                2 => (Protocol::Sctp as u8, self.random_port()),
                _ => (Protocol::Tcp as u8, self.random_port()),
            },
            Some(PortMatch { protocol, port: PortSelector::Range(first, last) }) => {
                let port = self.dice.within(u32::from(*first)..u32::from(*last) + 1);
                (*protocol as u8, port as u16)
            }
            Some(PortMatch { protocol, .. }) => (*protocol as u8, self.random_port()),
        }
    }

    fn random_port(&mut self) -> u16 {
        self.dice.below(1 << 16) as u16
    }
}
