//! What is wrong with NetworkPolicies, though the API takes them, or because it would not.
//!
//! ```text
//!   each policy alone ──► what the API refuses: NP001, NP002        the rest is not looked at further
//!   what it says ───────► NP003, NP009, NP011; rule against rule: NP010         whatever pods there are
//!   the pods at hand ───► NP004 to NP008                                        what is true of these manifests
//! ```
//!
//! A finding is a fact, not a taste: each names what it can be held to. Those of the second row hold in any cluster; those of
//! the third hold of the pods that were given, and are left out where none were. Only "looks like a typing mistake" (NP008)
//! is a guess, made where one to two letters less wrong would select pods that are not selected as it stands.

mod blocks;
mod read;
mod shadow;
mod typos;
mod world;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use serde::Serialize;

use self::read::ReadPolicy;
use self::world::World;
use crate::intent::{PortMatch, PortSelector};
use crate::objects::Objects;

/// Namespaces that every cluster has.
const ALWAYS_THERE: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The API server refuses the object.
    Error,
    /// It is taken, but a part of it does nothing.
    Warning,
}

/// What sort of finding it is. The codes do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Code {
    /// A field that cannot be.
    #[serde(rename = "NP001")]
    Refused,
    /// An except that is no strict part of its block.
    #[serde(rename = "NP002")]
    ExceptOutside,
    /// Excepts that leave nothing of their block.
    #[serde(rename = "NP003")]
    ExceptsCoverBlock,
    /// A policy that selects no pod.
    #[serde(rename = "NP004")]
    SelectsNothing,
    /// A peer that no pod is.
    #[serde(rename = "NP005")]
    PeerMatchesNothing,
    /// A policy in a namespace that does not exist.
    #[serde(rename = "NP006")]
    NoSuchNamespace,
    /// A named port that none of the pods in question has.
    #[serde(rename = "NP007")]
    NoSuchPort,
    /// A label that no pod has and that is nearly one which pods have.
    #[serde(rename = "NP008")]
    NearlyALabel,
    /// Rules of a direction that `policyTypes` leaves out.
    #[serde(rename = "NP009")]
    DeadDirection,
    /// A rule that adds nothing to the others.
    #[serde(rename = "NP010")]
    Shadowed,
    /// A selector that contradicts itself.
    #[serde(rename = "NP011")]
    Contradiction,
}

impl Code {
    /// Every code, ascending.
    pub const ALL: [Code; 11] = [
        Code::Refused,
        Code::ExceptOutside,
        Code::ExceptsCoverBlock,
        Code::SelectsNothing,
        Code::PeerMatchesNothing,
        Code::NoSuchNamespace,
        Code::NoSuchPort,
        Code::NearlyALabel,
        Code::DeadDirection,
        Code::Shadowed,
        Code::Contradiction,
    ];

    /// How bad such a finding is.
    pub fn severity(self) -> Severity {
        match self {
            Code::Refused | Code::ExceptOutside => Severity::Error,
            _ => Severity::Warning,
        }
    }

    /// As it is printed: `NP001`.
    pub fn name(self) -> String {
        let number = Code::ALL.iter().position(|code| *code == self).unwrap_or_default() + 1;
        format!("NP{number:03}")
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Kind and name, such as `NetworkPolicy shop/web`.
    pub object: String,
    /// Path of the field within the object.
    pub field: String,
    /// What sort it is.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub reason: String,
    /// What may be meant instead.
    pub suggestion: String,
}

/// What a set of objects gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The findings, in the order of their objects and fields.
    pub findings: Vec<Finding>,
    /// NetworkPolicies looked at.
    pub policies: usize,
    /// Pods there were to compare them with. Without any, NP004 to NP008 are left out.
    pub pods: usize,
}

/// Looks at every NetworkPolicy of `objects`.
pub fn lint(objects: &Objects) -> Report {
    let mut findings = Findings::default();
    findings.other_objects(objects);
    let mut policies = Vec::new();
    for (name, object) in &objects.network_policies {
        policies.extend(read::read(name, object, &mut findings));
    }
    for policy in &policies {
        findings.policy(policy);
    }
    shadow::find(&policies, &mut findings);
    let world = World::of(objects, &policies);
    if !objects.pods.is_empty() {
        for policy in &policies {
            findings.against(policy, objects, &world);
        }
    }
    let Findings(mut found) = findings;
    found.sort();
    found.dedup();
    Report { findings: found, policies: objects.network_policies.len(), pods: objects.pods.len() }
}

/// The findings so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        object: impl Into<String>,
        code: Code,
        field: impl Into<String>,
        reason: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        self.0.push(Finding {
            object: object.into(),
            field: field.into(),
            code,
            severity: code.severity(),
            reason: reason.into(),
            suggestion: suggestion.into(),
        });
    }

    /// What is wrong with nodes, pods and Services: the first of each run, as they are read in one go.
    fn other_objects(&mut self, objects: &Objects) {
        let others = Objects { network_policies: Default::default(), ..objects.clone() };
        if let Err(error) = others.intent("") {
            self.add(error.object, Code::Refused, error.field, error.problem, "correct the field");
        }
    }

    /// What holds of a policy in any cluster.
    fn policy(&mut self, policy: &ReadPolicy<'_>) {
        let object = policy.object();
        if policy.subjects.contradiction().is_some() {
            self.contradiction(&object, "spec.podSelector", &policy.subjects);
        }
        for (direction, r#type) in [("ingress", "Ingress"), ("egress", "Egress")] {
            if policy.dead.contains(&direction) {
                self.add(
                    &object,
                    Code::DeadDirection,
                    format!("spec.{direction}"),
                    format!("has rules, but spec.policyTypes leaves {type} out: they do nothing"),
                    format!("add {type} to spec.policyTypes, or take the rules away"),
                );
            }
        }
        for rule in &policy.rules {
            for peer in rule.peers.iter().flatten() {
                if let Some(block) = peer.block()
                    && blocks::is_empty(block)
                {
                    self.add(
                        &object,
                        Code::ExceptsCoverBlock,
                        format!("{}.ipBlock.except", peer.field),
                        format!("the exceptions leave no address of {}", block.cidr),
                        "take the block away, or an exception",
                    );
                }
                for (field, selector) in peer.selectors() {
                    if selector.contradiction().is_some() {
                        self.contradiction(&object, &field, selector);
                    }
                }
            }
        }
    }

    fn contradiction(&mut self, object: &str, field: &str, selector: &read::Selection<'_>) {
        let reason = selector.contradiction().unwrap_or_default();
        let reason = format!("{reason}: no labels fulfil it");
        self.add(object, Code::Contradiction, field, reason, "take one of the requirements away");
    }

    /// What holds of a policy with the pods at hand.
    fn against(&mut self, policy: &ReadPolicy<'_>, objects: &Objects, world: &World<'_>) {
        let object = policy.object();
        if self.namespace(policy, objects, world) {
            return;
        }
        let guesses =
            typos::find(&policy.subjects, "spec.podSelector", &world.pods_in(&[policy.namespace()]));
        if world.subjects(policy).is_empty() && policy.subjects.contradiction().is_none() {
            let suggestion = guesses.first().map_or_else(
                || "correct spec.podSelector, or take the policy away".to_owned(),
                |guess| guess.suggestion(),
            );
            let reason = format!("selects no pod of namespace {}", policy.namespace());
            self.add(&object, Code::SelectsNothing, "spec.podSelector", reason, suggestion);
        }
        self.typos(&object, guesses);
        for rule in &policy.rules {
            for peer in rule.peers.iter().flatten() {
                self.peer(&object, policy, peer, world);
            }
            self.ports(&object, policy, rule, world);
        }
    }

    /// Says whether the policy's namespace is not there.
    fn namespace(&mut self, policy: &ReadPolicy<'_>, objects: &Objects, world: &World<'_>) -> bool {
        let namespace = policy.namespace();
        let there = objects.namespaces.keys().any(|name| name.name == namespace)
            || world.has_pods(namespace)
            || ALWAYS_THERE.contains(&namespace);
        if there || objects.namespaces.is_empty() {
            return false;
        }
        let near = objects.namespaces.keys().find(|known| typos::near(namespace, &known.name));
        let suggestion = match near {
            Some(known) => format!("is {} meant?", known.name),
            None => "create the namespace, or take the policy away".to_owned(),
        };
        let reason = format!("there is no Namespace {namespace}, and no pod in it");
        self.add(policy.object(), Code::NoSuchNamespace, "metadata.namespace", reason, suggestion);
        true
    }

    fn peer(&mut self, object: &str, policy: &ReadPolicy<'_>, peer: &read::Peer<'_>, world: &World<'_>) {
        let read::Who::Pods { namespaces, pods } = &peer.who else { return };
        if peer.selectors().iter().any(|(_, selector)| selector.contradiction().is_some()) {
            return;
        }
        let scope = world.namespaces(policy, namespaces.as_ref());
        let mut guesses = Vec::new();
        if let Some(selector) = namespaces {
            let field = format!("{}.namespaceSelector", peer.field);
            guesses.extend(typos::find(selector, &field, &[world.all_namespaces()]));
        }
        let field = format!("{}.podSelector", peer.field);
        guesses.extend(typos::find(pods, &field, &world.pods_in(&scope)));
        if world.peers(policy, peer).is_empty() {
            let reason = if scope.is_empty() {
                "matches no pod: no namespace has such labels".to_owned()
            } else {
                "matches no pod".to_owned()
            };
            let suggestion = guesses.first().map_or_else(
                || "correct the selectors, or take the peer away".to_owned(),
                typos::Guess::suggestion,
            );
            self.add(object, Code::PeerMatchesNothing, &peer.field, reason, suggestion);
        }
        self.typos(object, guesses);
    }

    fn typos(&mut self, object: &str, guesses: Vec<typos::Guess>) {
        for guess in guesses {
            let suggestion = guess.suggestion();
            let typos::Guess { field, reason, .. } = guess;
            self.add(object, Code::NearlyALabel, field, reason, suggestion);
        }
    }

    /// Named ports of an ingress rule are the subjects', those of an egress rule the peers'.
    fn ports(&mut self, object: &str, policy: &ReadPolicy<'_>, rule: &read::ReadRule<'_>, world: &World<'_>) {
        let Some(holders) = world.port_holders(policy, rule) else { return };
        for (index, port) in rule.ports.iter().flatten().enumerate() {
            let PortMatch { protocol, port: PortSelector::Named(name) } = port else { continue };
            if holders.is_empty() || holders.iter().any(|class| class.has_port(name, *protocol)) {
                continue;
            }
            let whose = if rule.ingress { "the policy selects" } else { "the rule's peers are" };
            let other = holders.iter().find_map(|class| class.port_of_any_protocol(name));
            let near =
                holders.iter().flat_map(|class| class.port_names()).find(|known| typos::near(name, known));
            let suggestion = match (other, near) {
                (Some(protocol), _) => format!("there it is a port of {}", read::protocol_text(protocol)),
                (None, Some(known)) => format!("is {known} meant?"),
                (None, None) => "name a container port of those pods, or write a number".to_owned(),
            };
            let protocol = read::protocol_text(*protocol);
            let reason = format!("none of the pods that {whose} has a {protocol} port called {name:?}");
            self.add(
                object,
                Code::NoSuchPort,
                format!("{}.ports[{index}].port", rule.field),
                reason,
                suggestion,
            );
        }
    }
}
