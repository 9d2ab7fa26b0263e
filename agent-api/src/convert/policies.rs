//! The policies of the state: [`Policy`] and its parts.

use policy_compiler::intent::{
    Action, IpBlock, MAX_PRIORITY, ObjectName, Peers, Policy, PolicyKind, PortMatch, PortSelector,
    Revocation, Rule, Tier,
};

use super::intent::{all, object_name, prefix, protocol};
use super::{FieldError, InField, list, port, required, unknown, unspecified};
use crate::proto;

impl From<Policy> for proto::Policy {
    fn from(policy: Policy) -> Self {
        let rules = |rules: Option<Vec<Rule>>| rules.map(|rules| proto::Rules { rules: all(rules) });
        let (tier, priority) = match policy.tier {
            Tier::Admin(priority) => (proto::ClusterTier::Admin, priority),
            Tier::NetworkPolicy => (proto::ClusterTier::Unspecified, 0),
            Tier::Baseline(priority) => (proto::ClusterTier::Baseline, priority),
        };
        proto::Policy {
            kind: proto::PolicyKind::from(policy.kind()).into(),
            name: Some(policy.name.into()),
            resource_version: policy.resource_version,
            subjects: policy.subjects,
            ingress: rules(policy.ingress),
            egress: rules(policy.egress),
            tier: tier.into(),
            priority: priority.into(),
            revocation: proto::Revocation::from(policy.revocation).into(),
        }
    }
}

impl TryFrom<proto::Policy> for Policy {
    type Error = FieldError;

    fn try_from(mut message: proto::Policy) -> Result<Self, FieldError> {
        let name = object_name(message.name.take())?;
        let kind = policy_kind(message.kind).in_field("kind");
        let kind = kind.map_err(|error| error.of(|| format!("Policy {name}")))?;
        let object = name.clone();
        policy(kind, name, message).map_err(|error| error.of(|| format!("{kind} {object}")))
    }
}

fn policy(kind: PolicyKind, name: ObjectName, message: proto::Policy) -> Result<Policy, FieldError> {
    let rules = |field, rules: Option<proto::Rules>| {
        rules.map(|rules| list(field, rules.rules, |message| rule(kind, message))).transpose()
    };
    Ok(Policy {
        tier: tier(kind, message.tier, message.priority)?,
        name,
        resource_version: message.resource_version,
        revocation: revocation(message.revocation).in_field("revocation")?,
        subjects: message.subjects,
        ingress: rules("ingress", message.ingress)?,
        egress: rules("egress", message.egress)?,
    })
}

fn tier(kind: PolicyKind, tier: i32, priority: u32) -> Result<Tier, FieldError> {
    let tier = proto::ClusterTier::try_from(tier).map_err(|_| unknown(tier).within("tier"))?;
    let of_cluster = |make: fn(u16) -> Tier| {
        let range = || FieldError::new(format!("is at most {MAX_PRIORITY}, this is {priority}"));
        let priority = u16::try_from(priority).ok().filter(|priority| *priority <= MAX_PRIORITY);
        priority.map(make).ok_or_else(|| range().within("priority"))
    };
    match (kind, tier) {
        (PolicyKind::NetworkPolicy, proto::ClusterTier::Unspecified) if priority == 0 => {
            Ok(Tier::NetworkPolicy)
        }
        (PolicyKind::NetworkPolicy, proto::ClusterTier::Unspecified) => {
            Err(FieldError::new("a NetworkPolicy has none").within("priority"))
        }
        (PolicyKind::NetworkPolicy, _) => Err(FieldError::new("a NetworkPolicy has none").within("tier")),
        (PolicyKind::ClusterNetworkPolicy, proto::ClusterTier::Unspecified) => {
            Err(unspecified().within("tier"))
        }
        (PolicyKind::ClusterNetworkPolicy, proto::ClusterTier::Admin) => of_cluster(Tier::Admin),
        (PolicyKind::ClusterNetworkPolicy, proto::ClusterTier::Baseline) => of_cluster(Tier::Baseline),
    }
}

impl From<PolicyKind> for proto::PolicyKind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::NetworkPolicy => proto::PolicyKind::NetworkPolicy,
            PolicyKind::ClusterNetworkPolicy => proto::PolicyKind::ClusterNetworkPolicy,
        }
    }
}

pub(super) fn policy_kind(number: i32) -> Result<PolicyKind, FieldError> {
    match proto::PolicyKind::try_from(number) {
        Ok(proto::PolicyKind::NetworkPolicy) => Ok(PolicyKind::NetworkPolicy),
        Ok(proto::PolicyKind::ClusterNetworkPolicy) => Ok(PolicyKind::ClusterNetworkPolicy),
        Ok(proto::PolicyKind::Unspecified) => Err(unspecified()),
        Err(_) => Err(unknown(number)),
    }
}

impl From<Revocation> for proto::Revocation {
    fn from(revocation: Revocation) -> Self {
        match revocation {
            Revocation::Keep => proto::Revocation::Keep,
            Revocation::Drop => proto::Revocation::Drop,
            Revocation::Reset => proto::Revocation::Reset,
        }
    }
}

fn revocation(number: i32) -> Result<Revocation, FieldError> {
    match proto::Revocation::try_from(number) {
        Ok(proto::Revocation::Unspecified | proto::Revocation::Drop) => Ok(Revocation::Drop),
        Ok(proto::Revocation::Keep) => Ok(Revocation::Keep),
        Ok(proto::Revocation::Reset) => Ok(Revocation::Reset),
        Err(_) => Err(unknown(number)),
    }
}

impl From<Action> for proto::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Accept => proto::Action::Accept,
            Action::Deny => proto::Action::Deny,
            Action::Pass => proto::Action::Pass,
        }
    }
}

/// An action left out is taken for the only one that a NetworkPolicy has; where there are others, it is refused.
fn action(kind: PolicyKind, number: i32) -> Result<Action, FieldError> {
    match (proto::Action::try_from(number), kind) {
        (Ok(proto::Action::Unspecified), PolicyKind::NetworkPolicy) => Ok(Action::Accept),
        _ => said_action(number),
    }
}

/// An action that may not be left out.
pub(super) fn said_action(number: i32) -> Result<Action, FieldError> {
    match proto::Action::try_from(number) {
        Ok(proto::Action::Accept) => Ok(Action::Accept),
        Ok(proto::Action::Deny) => Ok(Action::Deny),
        Ok(proto::Action::Pass) => Ok(Action::Pass),
        Ok(proto::Action::Unspecified) => Err(unspecified()),
        Err(_) => Err(unknown(number)),
    }
}

impl From<Rule> for proto::Rule {
    fn from(rule: Rule) -> Self {
        proto::Rule {
            index: rule.index,
            peers: rule
                .peers
                .map(|peers| proto::Peers { identities: peers.identities, blocks: all(peers.blocks) }),
            ports: rule.ports.map(|ports| proto::PortMatches { matches: all(ports) }),
            action: proto::Action::from(rule.action).into(),
            name: rule.name,
            selects_pods: rule.selects_pods,
        }
    }
}

fn rule(kind: PolicyKind, message: proto::Rule) -> Result<Rule, FieldError> {
    let peers = |peers: proto::Peers| {
        let blocks = list("peers.blocks", peers.blocks, IpBlock::try_from)?;
        Ok(Peers { identities: peers.identities, blocks })
    };
    let ports = |ports: proto::PortMatches| list("ports", ports.matches, PortMatch::try_from);
    Ok(Rule {
        index: message.index,
        name: message.name,
        selects_pods: message.selects_pods,
        action: action(kind, message.action).in_field("action")?,
        peers: message.peers.map(peers).transpose()?,
        ports: message.ports.map(ports).transpose()?,
    })
}

impl From<IpBlock> for proto::IpBlock {
    fn from(block: IpBlock) -> Self {
        proto::IpBlock { cidr: Some(block.cidr.into()), except: all(block.except) }
    }
}

impl TryFrom<proto::IpBlock> for IpBlock {
    type Error = FieldError;

    fn try_from(message: proto::IpBlock) -> Result<Self, FieldError> {
        Ok(IpBlock {
            cidr: required(message.cidr).and_then(prefix).in_field("cidr")?,
            except: list("except", message.except, prefix)?,
        })
    }
}

impl From<PortMatch> for proto::PortMatch {
    fn from(matching: PortMatch) -> Self {
        use proto::port_match::Port;
        let port = match matching.port {
            PortSelector::Any => Port::Any(proto::AnyPort {}),
            PortSelector::Range(first, last) => {
                Port::Range(proto::PortRange { first: first.into(), last: last.into() })
            }
            PortSelector::Named(name) => Port::Named(name),
        };
        proto::PortMatch { protocol: proto::Protocol::from(matching.protocol).into(), port: Some(port) }
    }
}

impl TryFrom<proto::PortMatch> for PortMatch {
    type Error = FieldError;

    fn try_from(message: proto::PortMatch) -> Result<Self, FieldError> {
        use proto::port_match::Port;
        let protocol = protocol(message.protocol).in_field("protocol")?;
        let port = match required(message.port).in_field("port")? {
            Port::Any(proto::AnyPort {}) => PortSelector::Any,
            Port::Range(range) => PortSelector::Range(
                port(range.first).in_field("range.first")?,
                port(range.last).in_field("range.last")?,
            ),
            Port::Named(name) => PortSelector::Named(name),
        };
        Ok(PortMatch { protocol, port })
    }
}
