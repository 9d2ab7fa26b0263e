//! NetworkPolicy v1 (networking.k8s.io) and ClusterNetworkPolicy (`cluster`): first read and checked with their selectors as
//! numbered selections, then, once endpoints have been classified by those, resolved to identities.

mod cluster;

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::endpoints::protocol;
use super::selectors::{Namespaces, Selections, Selector};
use super::{ObjectError, Objects, Warning, address};
use crate::intent::{
    Action, IpBlock, Node, ObjectName, Peers, Policy, PolicyKind, PortMatch, PortSelector, Protocol,
    Revocation, Rule, Tier,
};

/// The annotation that says what happens to live flows that a policy does not allow any more.
const REVOCATION: &str = "penstock.io/revocation";

/// The policies as read.
#[derive(Default)]
pub(super) struct Drafts<'a> {
    /// NetworkPolicies, then ClusterNetworkPolicies, each in the order of their names.
    policies: Vec<Draft<'a>>,
    /// What their selectors select.
    pub(super) selections: Selections,
    /// The port names they refer to, by protocol.
    pub(super) port_names: BTreeSet<(String, Protocol)>,
}

struct Draft<'a> {
    tier: Tier,
    name: &'a ObjectName,
    resource_version: String,
    revocation: Revocation,
    subjects: u32,
    ingress: Option<Vec<DraftRule>>,
    egress: Option<Vec<DraftRule>>,
}

#[derive(Default)]
struct DraftRule {
    name: String,
    action: Action,
    peers: Option<DraftPeers>,
    ports: Option<Vec<PortMatch>>,
}

#[derive(Default)]
struct DraftPeers {
    selections: Vec<u32>,
    blocks: Vec<IpBlock>,
}

/// Reads and checks all policies. `nodes` are those of `objects`, in their order.
pub(super) fn read<'a>(
    objects: &'a Objects,
    nodes: &[Node],
    warnings: &mut Vec<Warning>,
) -> Result<Drafts<'a>, ObjectError> {
    let mut drafts = Drafts::default();
    for (name, object) in &objects.network_policies {
        let mut reader = Reader { kind: PolicyKind::NetworkPolicy, name, drafts: &mut drafts, warnings };
        let draft = reader.policy(object).map_err(|problem| reader.error(problem))?;
        drafts.policies.push(draft);
    }
    let nodes = cluster::LabelledNodes::new(objects, nodes);
    for (name, object) in &objects.cluster_network_policies {
        let mut reader =
            Reader { kind: PolicyKind::ClusterNetworkPolicy, name, drafts: &mut drafts, warnings };
        let draft = reader.cluster_policy(object, &nodes).map_err(|problem| reader.error(problem))?;
        drafts.policies.push(draft);
    }
    Ok(drafts)
}

/// The intent's policies; `members` holds the identities of each selection.
pub(super) fn resolve(drafts: &Drafts<'_>, members: &[Vec<u32>]) -> Vec<Policy> {
    let select = |selection: &u32| members.get(*selection as usize).map(Vec::as_slice).unwrap_or_default();
    let peers = |peers: &DraftPeers| {
        let mut identities: Vec<u32> = peers.selections.iter().flat_map(select).copied().collect();
        identities.sort_unstable();
        identities.dedup();
        Peers { identities, blocks: peers.blocks.clone() }
    };
    let rules = |rules: &Vec<DraftRule>| -> Vec<Rule> {
        let rule = |(index, rule): (usize, &DraftRule)| Rule {
            index: index as u32,
            name: rule.name.clone(),
            action: rule.action,
            peers: rule.peers.as_ref().map(peers),
            ports: rule.ports.clone(),
        };
        rules.iter().enumerate().map(rule).collect()
    };
    let policy = |draft: &Draft<'_>| Policy {
        tier: draft.tier,
        revocation: draft.revocation,
        name: draft.name.clone(),
        resource_version: draft.resource_version.clone(),
        subjects: select(&draft.subjects).to_vec(),
        ingress: draft.ingress.as_ref().map(rules),
        egress: draft.egress.as_ref().map(rules),
    };
    drafts.policies.iter().map(policy).collect()
}

/// A field's path and what is wrong with it.
type Problem = (String, String);

struct Reader<'r, 'a> {
    kind: PolicyKind,
    name: &'a ObjectName,
    drafts: &'r mut Drafts<'a>,
    warnings: &'r mut Vec<Warning>,
}

impl<'a> Reader<'_, 'a> {
    fn policy(&mut self, object: &NetworkPolicy) -> Result<Draft<'a>, Problem> {
        let nothing = NetworkPolicySpec::default();
        let spec = object.spec.as_ref().unwrap_or(&nothing);
        let subjects = Selector::read(spec.pod_selector.as_ref(), "spec.podSelector")?;
        let subjects = self.drafts.selections.number(Namespaces::Own(&self.name.namespace), subjects);
        let mut ingress = Vec::new();
        for (index, rule) in spec.ingress.iter().flatten().enumerate() {
            let at = format!("spec.ingress[{index}]");
            ingress.push(self.rule(&at, "from", rule.from.as_deref(), rule.ports.as_deref())?);
        }
        let mut egress = Vec::new();
        for (index, rule) in spec.egress.iter().flatten().enumerate() {
            let at = format!("spec.egress[{index}]");
            egress.push(self.rule(&at, "to", rule.to.as_deref(), rule.ports.as_deref())?);
        }
        let isolates = policy_types(spec.policy_types.as_deref(), !egress.is_empty())?;
        for (isolates, rules, direction) in
            [(isolates.0, &ingress, "ingress"), (isolates.1, &egress, "egress")]
        {
            if !isolates && !rules.is_empty() {
                self.warn(format!(
                    "spec.{direction} has rules but spec.policyTypes leaves it out: they do nothing"
                ));
            }
        }
        Ok(Draft {
            tier: Tier::NetworkPolicy,
            name: self.name,
            resource_version: object.metadata.resource_version.clone().unwrap_or_default(),
            revocation: revocation(&object.metadata)?,
            subjects,
            ingress: isolates.0.then_some(ingress),
            egress: isolates.1.then_some(egress),
        })
    }

    fn rule(
        &mut self,
        at: &str,
        list: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Result<DraftRule, Problem> {
        let mut rule = DraftRule::default();
        for (index, peer) in peers.unwrap_or_default().iter().enumerate() {
            let known = rule.peers.get_or_insert_default();
            self.peer(&format!("{at}.{list}[{index}]"), peer, known)?;
        }
        for (index, port) in ports.unwrap_or_default().iter().enumerate() {
            let port = port_match(&format!("{at}.ports[{index}]"), port)?;
            if let PortSelector::Named(name) = &port.port {
                self.drafts.port_names.insert((name.clone(), port.protocol));
            }
            rule.ports.get_or_insert_default().push(port);
        }
        Ok(rule)
    }

    fn peer(&mut self, at: &str, peer: &NetworkPolicyPeer, known: &mut DraftPeers) -> Result<(), Problem> {
        let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        match (ip_block, namespace_selector, pod_selector) {
            (Some(block), None, None) => known.blocks.push(self.block(at, block)?),
            (Some(_), ..) => {
                return Err((
                    at.to_owned(),
                    "ipBlock cannot stand with podSelector or namespaceSelector".into(),
                ));
            }
            (None, None, None) => {
                return Err((at.to_owned(), "needs one of podSelector, namespaceSelector, ipBlock".into()));
            }
            (None, namespaces, pods) => {
                known.selections.push(self.selection(at, namespaces.as_ref(), pods.as_ref())?)
            }
        }
        Ok(())
    }

    fn selection(
        &mut self,
        at: &str,
        namespaces: Option<&LabelSelector>,
        pods: Option<&LabelSelector>,
    ) -> Result<u32, Problem> {
        let pods = Selector::read(pods, &format!("{at}.podSelector"))?;
        let namespaces = match namespaces {
            None => Namespaces::Own(&self.name.namespace),
            some => Namespaces::Selected(Selector::read(some, &format!("{at}.namespaceSelector"))?),
        };
        Ok(self.drafts.selections.number(namespaces, pods))
    }

    fn block(&mut self, at: &str, block: &IPBlock) -> Result<IpBlock, Problem> {
        let cidr = self.prefix(format!("{at}.ipBlock.cidr"), &block.cidr)?;
        let mut except = Vec::new();
        for (index, text) in block.except.iter().flatten().enumerate() {
            let field = format!("{at}.ipBlock.except[{index}]");
            let part = self.prefix(field.clone(), text)?;
            if !cidr.contains(&part) || part.prefix_len() == cidr.prefix_len() {
                return Err((field, format!("{text:?} is not a strict part of {cidr}")));
            }
            except.push(part);
        }
        Ok(IpBlock { cidr, except })
    }

    fn prefix(&mut self, field: String, text: &str) -> Result<IpNet, Problem> {
        match address::prefix(text) {
            Ok((prefix, false)) => Ok(prefix),
            Ok((prefix, true)) => {
                self.warn(format!("{field}: {text:?} has host bits; read as {prefix}"));
                Ok(prefix)
            }
            Err(problem) => Err((field, problem)),
        }
    }

    fn warn(&mut self, problem: String) {
        self.warnings.push(Warning::new(&self.kind.to_string(), self.name, problem));
    }

    fn error(&self, (field, problem): Problem) -> ObjectError {
        ObjectError::new(&self.kind.to_string(), self.name, field, problem)
    }
}

/// What the annotation says of live flows.
fn revocation(metadata: &ObjectMeta) -> Result<Revocation, Problem> {
    let text = metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVOCATION));
    match text.map(String::as_str) {
        None => Ok(Revocation::default()),
        Some("keep") => Ok(Revocation::Keep),
        Some("drop") => Ok(Revocation::Drop),
        Some("reset") => Ok(Revocation::Reset),
        Some(other) => {
            let problem = format!("{other:?} is not a revocation (keep, drop, reset)");
            Err((format!("metadata.annotations[{REVOCATION}]"), problem))
        }
    }
}

/// Whether the policy isolates for ingress and for egress. Where the object does not say: for ingress, and for egress
/// if it has egress rules.
fn policy_types(types: Option<&[String]>, has_egress: bool) -> Result<(bool, bool), Problem> {
    let types = types.unwrap_or_default();
    if types.is_empty() {
        return Ok((true, has_egress));
    }
    if types.len() > 2 {
        return Err(("spec.policyTypes".into(), format!("{} types; there are two", types.len())));
    }
    for (index, name) in types.iter().enumerate() {
        if !matches!(name.as_str(), "Ingress" | "Egress") {
            let problem = format!("{name:?} is not a policy type (Ingress, Egress)");
            return Err((format!("spec.policyTypes[{index}]"), problem));
        }
    }
    let has = |wanted: &str| types.iter().any(|name| name == wanted);
    Ok((has("Ingress"), has("Egress")))
}

fn port_match(at: &str, port: &NetworkPolicyPort) -> Result<PortMatch, Problem> {
    let fault = |field: &str| {
        let field = format!("{at}.{field}");
        move |problem: String| (field, problem)
    };
    let protocol = protocol(port.protocol.as_deref()).map_err(fault("protocol"))?;
    let selector = match (&port.port, port.end_port) {
        (None, None) => PortSelector::Any,
        (Some(IntOrString::Int(first)), end) => {
            let first = address::port(*first).map_err(fault("port"))?;
            let last = end.map_or(Ok(first), address::port).map_err(fault("endPort"))?;
            if last < first {
                return Err(fault("endPort")(format!("{last} is less than port, {first}")));
            }
            PortSelector::Range(first, last)
        }
        (Some(IntOrString::String(name)), None) => {
            address::port_name(name).map_err(fault("port"))?;
            PortSelector::Named(name.clone())
        }
        (Some(IntOrString::String(name)), Some(_)) => {
            return Err(fault("endPort")(format!("cannot stand with a named port, {name:?}")));
        }
        (None, Some(_)) => return Err(fault("endPort")("cannot stand without port".into())),
    };
    Ok(PortMatch { protocol, port: selector })
}

#[cfg(test)]
mod tests;
