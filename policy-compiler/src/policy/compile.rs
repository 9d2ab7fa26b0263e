//! From the policies of an [`Intent`](crate::intent::Intent) to a [`PolicyTable`].
//!
//! 1. Number the rules in the order in which they are asked, tier by tier, priority by priority, and among equals in the
//!    order of their policies' names: where several of a tier match, the lowest number decides.
//! 2. Number the groups of peers; on egress a named port is the peer's, so such a rule becomes one part a number.
//! 3. Number the subjects: identities that the same policies select and whose named ports agree.
//! 4. Classify every address that is known, and every prefix.
//! 5. For each subject, match its rules with the classes and write the port lists.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::peers::{Classes, Groups};
use super::ports::{Asked, PortListBuilder, Span};
use super::rows::RowBuilder;
use super::{Entry, NOBODY, PolicyOrigin, PolicyTable, RuleId, RuleOrigin, Rules, Subject};
use crate::intent::{
    Action, Endpoint, Identity, MAX_PRIORITY, Policy, PolicyKind, PortMatch, PortSelector, Protocol, Rule,
    Tier,
};
use crate::shared_map::SharedMap;
use crate::tables::CompileError;
use crate::view::{Change, View};

/// Compiles the policies of a checked intent.
pub(super) fn compile(view: &View<'_>) -> Result<PolicyTable, CompileError> {
    let mut policies: Vec<&Policy> = view.policies().collect();
    policies.sort_by_key(|policy| (policy.tier, &policy.name));
    for policy in &policies {
        check(policy, view.identities.len())?;
    }
    let mut numbered = number_rules(&policies, &view.identities); // 1, 2
    let mut rules = Rules { origins: Arc::new(std::mem::take(&mut numbered.origins)), ..Rules::default() };
    rules.policies = policies.iter().map(|policy| origin(policy)).collect();
    rules.nodes = view.nodes.iter().map(|node| node.name.clone()).zip(0..).collect();
    let mut classes = std::mem::take(&mut numbered.groups).finish(view.identities.len());
    let subjects = Subjects::of(&policies, &numbered, &view.identities); // 3
    let addresses = addresses(view, &mut rules, &subjects, &mut classes)?; // 4
    write_subjects(&mut rules, &subjects, &classes); // 5
    rules.of_identity = subjects.of_identity;
    rules.classes = classes.into_known();
    Ok(PolicyTable { addresses, rules: Arc::new(rules) })
}

/// The same rules with other endpoints; `None` where they do not suffice.
pub(super) fn update(
    table: &PolicyTable,
    change: &Change<'_, Endpoint>,
) -> Option<Result<PolicyTable, CompileError>> {
    let rules = &table.rules;
    let mut addresses = table.addresses.clone();
    for address in change.removed.iter().flat_map(|(_, endpoint)| &endpoint.addresses) {
        if rules.stray_hosts.contains(address) {
            return None;
        }
    }
    for (_, endpoint) in change.removed.iter().filter(|(_, endpoint)| !endpoint.host_network) {
        for address in &endpoint.addresses {
            addresses.remove(address);
        }
    }
    for (position, (number, endpoint)) in change.added.iter().enumerate() {
        let Some((ingress, egress)) = rules.of_identity.get(endpoint.identity as usize).copied() else {
            return Some(Err(no_identity(position, endpoint)));
        };
        let node = rules.nodes.get(endpoint.node.as_str()).copied().unwrap_or(NOBODY);
        for address in &endpoint.addresses {
            let known = addresses.get(address);
            if endpoint.host_network {
                // That of a node is there and stays as it is.
                known.filter(|entry| entry.endpoint == NOBODY && !rules.stray_hosts.contains(address))?;
            } else {
                let class = rules.classes.of_address(*address, endpoint.identity)?;
                addresses.insert(*address, Entry { endpoint: *number, node, class, ingress, egress });
            }
        }
    }
    Some(Ok(PolicyTable { addresses, rules: Arc::clone(rules) }))
}

fn no_identity(position: usize, endpoint: &Endpoint) -> CompileError {
    let problem = format!("there is no identity {}", endpoint.identity);
    invalid(format!("Pod {}", endpoint.name), format!("endpoints[{position}].identity"), problem)
}

fn origin(policy: &Policy) -> PolicyOrigin {
    PolicyOrigin { kind: policy.kind(), name: policy.name.clone(), revocation: policy.revocation }
}

/// What a rule, or its part with one named port's number, matches.
#[derive(Clone)]
struct Part {
    asked: Asked,
    group: u32,
    /// `None`: every protocol and port.
    ports: Option<Vec<PortMatch>>,
}

/// The parts of a policy's rules, for the directions of which it says something.
struct Parts {
    tier: Tier,
    ingress: Option<Vec<Part>>,
    egress: Option<Vec<Part>>,
}

impl Parts {
    fn of(&self, ingress: bool) -> Option<&[Part]> {
        if ingress { self.ingress.as_deref() } else { self.egress.as_deref() }
    }
}

#[derive(Default)]
struct Numbered {
    groups: Groups,
    origins: Vec<RuleOrigin>,
    /// In the policies' order.
    parts: Vec<Parts>,
}

fn number_rules(policies: &[&Policy], identities: &[&Identity]) -> Numbered {
    let mut holders = BTreeMap::<(&str, Protocol), BTreeMap<u16, Vec<u32>>>::new();
    for (identity, (name, protocol, number)) in named_ports(identities) {
        holders.entry((name, *protocol)).or_default().entry(*number).or_default().push(identity);
    }
    let mut numbered = Numbered::default();
    for policy in policies {
        let mut number = |rules: &Option<Vec<Rule>>, ingress: bool| -> Option<Vec<Part>> {
            let mut parts = Vec::new();
            for rule in rules.as_ref()? {
                let id = RuleId(RuleId::FIRST + numbered.origins.len() as u32);
                numbered.origins.push(RuleOrigin {
                    kind: policy.kind(),
                    policy: policy.name.clone(),
                    resource_version: policy.resource_version.clone(),
                    ingress,
                    index: rule.index,
                    name: rule.name.clone(),
                    revocation: policy.revocation,
                });
                let asked = Asked { rule: id, tier: policy.tier, action: rule.action };
                let named = |port: &&PortMatch| !ingress && matches!(port.port, PortSelector::Named(_));
                let (named, plain): (Vec<&PortMatch>, Vec<&PortMatch>) =
                    rule.ports.iter().flatten().partition(named);
                if rule.ports.is_none() || !plain.is_empty() {
                    let ports = rule.ports.as_ref().map(|_| plain.into_iter().cloned().collect());
                    parts.push(Part {
                        asked,
                        group: numbered.groups.number(rule.peers.as_ref(), None),
                        ports,
                    });
                }
                for port in named {
                    let PortSelector::Named(name) = &port.port else { continue };
                    for (number, identities) in
                        holders.get(&(name.as_str(), port.protocol)).into_iter().flatten()
                    {
                        let group = numbered.groups.number(rule.peers.as_ref(), Some(identities));
                        let port = PortMatch {
                            protocol: port.protocol,
                            port: PortSelector::Range(*number, *number),
                        };
                        parts.push(Part { asked, group, ports: Some(vec![port]) });
                    }
                }
            }
            Some(parts)
        };
        let (ingress, egress) = (number(&policy.ingress, true), number(&policy.egress, false));
        numbered.parts.push(Parts { tier: policy.tier, ingress, egress });
    }
    numbered
}

/// All named ports with their identities, identities ascending.
fn named_ports<'a>(
    identities: &[&'a Identity],
) -> impl Iterator<Item = (u32, (&'a str, &'a Protocol, &'a u16))> {
    identities.iter().enumerate().flat_map(|(identity, class)| {
        class
            .named_ports
            .iter()
            .map(move |(name, protocol, port)| (identity as u32, (name.as_str(), protocol, port)))
    })
}

/// The subjects of both directions; number 0 is left for those whom no policy selects.
struct Subjects {
    /// By identity: the subject for ingress and the one for egress.
    of_identity: Vec<(u32, u32)>,
    /// From number 1 on.
    subjects: Vec<DraftSubject>,
}

struct DraftSubject {
    /// Positions of the policies that select it.
    policies: Vec<u32>,
    /// Whether a NetworkPolicy is among them.
    isolated: bool,
    parts: Vec<Part>,
}

impl Subjects {
    fn of(policies: &[&Policy], numbered: &Numbered, identities: &[&Identity]) -> Self {
        let mut selecting = vec![(Vec::new(), Vec::new()); identities.len()];
        for (position, (policy, parts)) in policies.iter().zip(&numbered.parts).enumerate() {
            for identity in &policy.subjects {
                let Some((ingress, egress)) = selecting.get_mut(*identity as usize) else { continue };
                parts.ingress.iter().for_each(|_| ingress.push(position as u32));
                parts.egress.iter().for_each(|_| egress.push(position as u32));
            }
        }
        let mut subjects = Subjects { of_identity: Vec::new(), subjects: Vec::new() };
        let mut known = HashMap::new();
        for (identity, (ingress, egress)) in identities.iter().zip(selecting) {
            let mut number = |policies: Vec<u32>, ports: &[(String, Protocol, u16)], ingress: bool| -> u32 {
                if policies.is_empty() {
                    return 0;
                }
                *known.entry((policies, ports.to_vec(), ingress)).or_insert_with_key(
                    |(policies, ports, ingress)| {
                        subjects.subjects.push(DraftSubject::new(policies, ports, *ingress, numbered));
                        subjects.subjects.len() as u32
                    },
                )
            };
            let numbers = (number(ingress, &identity.named_ports, true), number(egress, &[], false));
            subjects.of_identity.push(numbers);
        }
        subjects
    }
}

impl DraftSubject {
    fn new(policies: &[u32], ports: &[(String, Protocol, u16)], ingress: bool, numbered: &Numbered) -> Self {
        let selecting = || policies.iter().filter_map(|policy| numbered.parts.get(*policy as usize));
        let isolated = selecting().any(|parts| parts.tier == Tier::NetworkPolicy);
        let lists = selecting().filter_map(|parts| parts.of(ingress));
        let resolved = |part: &Part| Part {
            ports: part
                .ports
                .as_ref()
                .map(|list| list.iter().flat_map(|port| resolve(port, ports)).collect()),
            ..part.clone()
        };
        let parts = lists.flatten().map(resolved).collect();
        DraftSubject { policies: policies.to_vec(), isolated, parts }
    }
}

/// What a port of an ingress rule means to a subject with `named` ports.
fn resolve(port: &PortMatch, named: &[(String, Protocol, u16)]) -> Vec<PortMatch> {
    let PortSelector::Named(wanted) = &port.port else { return vec![port.clone()] };
    let meant = named.iter().filter(|(name, protocol, _)| name == wanted && *protocol == port.protocol);
    let range =
        |number: u16| PortMatch { protocol: port.protocol, port: PortSelector::Range(number, number) };
    meant.map(|(_, _, number)| range(*number)).collect()
}

/// Classifies nodes' and endpoints' addresses, and all others by prefix.
fn addresses(
    view: &View<'_>,
    rules: &mut Rules,
    subjects: &Subjects,
    classes: &mut Classes,
) -> Result<SharedMap<IpAddr, Entry>, CompileError> {
    let mut addresses = SharedMap::default();
    let host = |node: u32, class: u32| Entry { endpoint: NOBODY, node, class, ingress: 0, egress: 0 };
    for (node, number) in view.nodes.iter().zip(0..) {
        for address in &node.addresses {
            addresses.insert(*address, host(number, classes.of_address(*address, None)));
        }
    }
    for (number, endpoint) in view.endpoints() {
        let node = rules.nodes.get(endpoint.node.as_str()).copied().unwrap_or(NOBODY);
        let identity = endpoint.identity;
        let Some((ingress, egress)) = subjects.of_identity.get(identity as usize).copied() else {
            return Err(no_identity(number as usize, endpoint));
        };
        for address in &endpoint.addresses {
            if !endpoint.host_network {
                let class = classes.of_address(*address, Some(identity));
                addresses.insert(*address, Entry { endpoint: number, node, class, ingress, egress });
            } else if addresses.get(address).is_none_or(|entry| entry.endpoint != NOBODY) {
                // An ordinary endpoint has precedence, wherever it stands.
                rules.stray_hosts.insert(*address);
                if addresses.get(address).is_none() {
                    addresses.insert(*address, host(node, classes.of_address(*address, None)));
                }
            }
        }
    }
    rules.outside = classes.outside();
    Ok(addresses)
}

fn write_subjects(rules: &mut Rules, subjects: &Subjects, classes: &Classes) {
    let mut rows = RowBuilder::new(classes.count());
    let mut ports = PortListBuilder::default();
    rules.subjects.push(Subject::default());
    for subject in &subjects.subjects {
        let row = rows.row(subject.parts.iter().map(|part| part.group).collect(), classes);
        let first_list = rules.lists.len() as u32;
        for matching in &row.matches {
            let parts = matching.iter().filter_map(|position| subject.parts.get(*position as usize));
            rules.lists.push(ports.number(parts.flat_map(spans).collect(), subject.isolated));
        }
        rules.subjects.push(Subject { row: row.number, first_list, policies: subject.policies.clone() });
    }
    rules.rows = rows.finish();
    rules.ports = ports.finish();
}

fn spans(part: &Part) -> Vec<Span> {
    let Some(ports) = &part.ports else { return vec![Span::everything(part.asked)] };
    let span = |port: &PortMatch| match port.port {
        PortSelector::Any => Some(Span::ports(port.protocol, 0, u16::MAX, part.asked)),
        PortSelector::Range(first, last) => Some(Span::ports(port.protocol, first, last, part.asked)),
        PortSelector::Named(_) => None,
    };
    ports.iter().filter_map(span).collect()
}

fn check(policy: &Policy, identities: usize) -> Result<(), CompileError> {
    let refuse = |field: String, problem: String| {
        Err(invalid(format!("{} {}", policy.kind(), policy.name), field, problem))
    };
    if let Tier::Admin(priority) | Tier::Baseline(priority) = policy.tier
        && priority > MAX_PRIORITY
    {
        return refuse("tier".into(), format!("priority {priority} is above {MAX_PRIORITY}"));
    }
    let missing = |list: &[u32]| list.iter().position(|identity| *identity as usize >= identities);
    if let Some(position) = missing(&policy.subjects) {
        return refuse(format!("subjects[{position}]"), format!("there are {identities} identities"));
    }
    let ingress = policy.ingress.iter().flatten().map(|rule| ("ingress", rule));
    for (direction, rule) in ingress.chain(policy.egress.iter().flatten().map(|rule| ("egress", rule))) {
        let at = format!("{direction}[{}]", rule.index);
        if policy.kind() == PolicyKind::NetworkPolicy && rule.action != Action::Accept {
            return refuse(format!("{at}.action"), format!("a NetworkPolicy cannot {}", rule.action));
        }
        if let Some(peers) = &rule.peers {
            if let Some(position) = missing(&peers.identities) {
                let field = format!("{at}.peers.identities[{position}]");
                return refuse(field, format!("there are {identities} identities"));
            }
            for (position, block) in peers.blocks.iter().enumerate() {
                if let Some(part) = block.except.iter().find(|part| !block.cidr.contains(*part)) {
                    let problem = format!("{part} is not within {}", block.cidr);
                    return refuse(format!("{at}.peers.blocks[{position}].except"), problem);
                }
            }
        }
        for (position, port) in rule.ports.iter().flatten().enumerate() {
            if let PortSelector::Range(first, last) = port.port
                && last < first
            {
                return refuse(
                    format!("{at}.ports[{position}]"),
                    format!("the range {first}-{last} is empty"),
                );
            }
        }
    }
    Ok(())
}

fn invalid(object: String, field: String, problem: String) -> CompileError {
    CompileError::Invalid { object, field, problem }
}
