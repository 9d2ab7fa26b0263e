//! [`World`]: the pods and namespaces at hand, grouped by what the policies can tell apart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1::Pod;

use super::read::{Peer, ReadPolicy, ReadRule, Selection, Who};
use super::typos::{Area, Labels};
use crate::intent::Protocol;
use crate::objects::selectors::{Selector, SelectorIndex};
use crate::objects::{NAMESPACE_NAME_LABEL, Objects};

/// Pods of one namespace with the same labels, as far as any policy looks at them.
pub(super) struct PodClass<'a> {
    namespace: &'a str,
    labels: Labels<'a>,
    /// Names and protocols of container ports that any of them has.
    ports: BTreeSet<(&'a str, Protocol)>,
}

/// Every pod and namespace. Pods count whether or not they run: a finding that one of them disproves is none. hostNetwork
/// pods do not count: no policy selects them.
pub(super) struct World<'a> {
    classes: Vec<PodClass<'a>>,
    /// Positions of classes by pod selector.
    matching: HashMap<Selector, Vec<usize>>,
    /// Labels of the pods of each namespace that has any.
    pods: BTreeMap<&'a str, Area<'a>>,
    all_namespaces: Area<'a>,
    namespaces: BTreeMap<&'a str, Labels<'a>>,
}

impl<'a> World<'a> {
    pub(super) fn of(objects: &'a Objects, policies: &[ReadPolicy<'_>]) -> Self {
        let selectors: HashSet<&Selector> = policies.iter().flat_map(pod_selectors).collect();
        let selectors: Vec<Selector> = selectors.into_iter().cloned().collect();
        let mut world = World {
            classes: classes(objects),
            matching: HashMap::new(),
            pods: BTreeMap::new(),
            all_namespaces: Area::default(),
            namespaces: namespaces(objects),
        };
        world.namespaces.values().for_each(|labels| world.all_namespaces.add(labels.clone()));
        let index = SelectorIndex::new(&selectors);
        for (position, class) in world.classes.iter().enumerate() {
            world.pods.entry(class.namespace).or_default().add(class.labels.clone());
            for selector in index.matching(&class.labels) {
                let Some(selector) = selectors.get(selector as usize) else { continue };
                world.matching.entry(selector.clone()).or_default().push(position);
            }
        }
        world
    }

    /// The classes that a policy selects.
    pub(super) fn subjects(&self, policy: &ReadPolicy<'_>) -> Vec<&PodClass<'a>> {
        self.selected(&policy.subjects.selector, |namespace| namespace == policy.namespace())
    }

    /// The classes that a peer is; none for a block.
    pub(super) fn peers(&self, policy: &ReadPolicy<'_>, peer: &Peer<'_>) -> Vec<&PodClass<'a>> {
        let Who::Pods { namespaces, pods } = &peer.who else { return Vec::new() };
        let scope: HashSet<&str> = self.namespaces(policy, namespaces.as_ref()).into_iter().collect();
        self.selected(&pods.selector, |namespace| scope.contains(namespace))
    }

    /// Those whose ports an ingress rule (the policy's subjects) or an egress rule (its peers) names. `None` where that cannot
    /// be told: any pod may be in a block.
    pub(super) fn port_holders(
        &self,
        policy: &ReadPolicy<'_>,
        rule: &ReadRule<'_>,
    ) -> Option<Vec<&PodClass<'a>>> {
        if rule.ingress {
            return Some(self.subjects(policy));
        }
        let Some(peers) = &rule.peers else { return Some(self.classes.iter().collect()) };
        if peers.iter().any(|peer| peer.block().is_some()) {
            return None;
        }
        Some(peers.iter().flat_map(|peer| self.peers(policy, peer)).collect())
    }

    /// The namespaces that a selector selects; without one, the policy's own.
    pub(super) fn namespaces<'p>(
        &'p self,
        policy: &'p ReadPolicy<'_>,
        selection: Option<&Selection<'_>>,
    ) -> Vec<&'p str> {
        let Some(selection) = selection else { return vec![policy.namespace()] };
        let selected = self.namespaces.iter().filter(|(_, labels)| selection.selector.matches(labels));
        selected.map(|(name, _)| *name).collect()
    }

    /// Every namespace.
    pub(super) fn all_namespaces(&self) -> &Area<'a> {
        &self.all_namespaces
    }

    /// The pods of some namespaces.
    pub(super) fn pods_in(&self, namespaces: &[&str]) -> Vec<&Area<'a>> {
        namespaces.iter().filter_map(|namespace| self.pods.get(*namespace)).collect()
    }

    pub(super) fn has_pods(&self, namespace: &str) -> bool {
        self.pods.contains_key(namespace)
    }

    fn selected(&self, selector: &Selector, here: impl Fn(&str) -> bool) -> Vec<&PodClass<'a>> {
        let positions = self.matching.get(selector).into_iter().flatten();
        let classes = positions.filter_map(|position| self.classes.get(*position));
        classes.filter(|class| here(class.namespace)).collect()
    }
}

impl<'a> PodClass<'a> {
    pub(super) fn has_port(&self, name: &str, protocol: Protocol) -> bool {
        self.ports.contains(&(name, protocol))
    }

    pub(super) fn port_of_any_protocol(&self, name: &str) -> Option<Protocol> {
        self.ports.iter().find(|(known, _)| *known == name).map(|(_, protocol)| *protocol)
    }

    pub(super) fn port_names(&self) -> impl Iterator<Item = &'a str> {
        self.ports.iter().map(|(name, _)| *name)
    }
}

fn pod_selectors<'p>(policy: &'p ReadPolicy<'_>) -> impl Iterator<Item = &'p Selector> {
    let peers = policy.rules.iter().flat_map(|rule| rule.peers.iter().flatten());
    let selectors = peers.filter_map(|peer| match &peer.who {
        Who::Pods { pods, .. } => Some(&pods.selector),
        Who::Block(_) => None,
    });
    selectors.chain([&policy.subjects.selector])
}

fn classes(objects: &Objects) -> Vec<PodClass<'_>> {
    let mut classes = BTreeMap::<(&str, Labels<'_>), BTreeSet<(&str, Protocol)>>::new();
    for (name, pod) in &objects.pods {
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            continue;
        }
        let labels = pod.metadata.labels.iter().flatten();
        let labels = labels.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        classes.entry((&name.namespace, labels)).or_default().extend(named_ports(pod));
    }
    let class = |((namespace, labels), ports)| PodClass { namespace, labels, ports };
    classes.into_iter().map(class).collect()
}

/// Every named port of every container, those that have run to their end included.
fn named_ports(pod: &Pod) -> impl Iterator<Item = (&str, Protocol)> {
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        Some((port.name.as_deref()?, protocol))
    })
}

/// The namespaces that are there or have pods, each with the label that the API server gives it.
fn namespaces(objects: &Objects) -> BTreeMap<&str, Labels<'_>> {
    let mut namespaces = BTreeMap::<&str, Labels<'_>>::new();
    for (name, object) in &objects.namespaces {
        let labels = object.metadata.labels.iter().flatten();
        let labels = labels.map(|(key, value)| (key.as_str(), value.as_str()));
        namespaces.entry(&name.name).or_default().extend(labels);
    }
    for name in objects.pods.keys() {
        namespaces.entry(&name.namespace).or_default();
    }
    for (name, labels) in &mut namespaces {
        labels.insert(NAMESPACE_NAME_LABEL, name);
    }
    namespaces
}
