//! Endpoints grouped by what the policies' selections can tell apart.
//!
//! Two endpoints are of one identity where the same selections select them and the port names that policies refer to
//! mean the same ports. Labels that no selector looks at do not count: a hundred thousand pods with unique labels make
//! as many identities as there are combinations of selections.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::endpoints::PodRecord;
use super::policies::Drafts;
use super::selectors::{Scope, Selections, SelectorIndex};
use super::{NAMESPACE_NAME_LABEL, ObjectError, Objects, Warning};
use crate::intent::{Identity, ObjectName, Protocol};

/// The classes.
pub(super) struct Classes {
    /// By number.
    pub(super) identities: Vec<Identity>,
    /// The identity of each pod, in the order of the pods given.
    pub(super) of_pod: Vec<u32>,
    /// The identities of each selection, sorted.
    pub(super) members: Vec<Vec<u32>>,
}

/// Groups `pods`. hostNetwork pods are the node to policy: no selection selects them.
pub(super) fn classify(
    objects: &Objects,
    pods: &[PodRecord<'_>],
    drafts: &Drafts<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Classes, ObjectError> {
    let classifier = Classifier::new(drafts);
    let mut numbering = Numbering::default();
    let mut of_pod = vec![0; pods.len()];
    for (namespace, positions) in by_namespace(pods) {
        let labels = namespace_labels(objects, namespace, warnings);
        let mut here = classifier.within(namespace, &labels);
        let mut known = HashMap::<Appearance<'_>, u32>::new();
        for position in positions {
            let (Some(record), Some(slot)) = (pods.get(position), of_pod.get_mut(position)) else { continue };
            let appearance = classifier.appearance(record)?;
            *slot = match known.get(&appearance) {
                Some(identity) => *identity,
                None => {
                    let selected = here.selections(&appearance);
                    let identity = numbering.number(namespace, &appearance, selected);
                    known.insert(appearance, identity);
                    identity
                }
            };
        }
    }
    let members = numbering.members(drafts.selections.pairs.values().len());
    Ok(Classes { identities: numbering.identities(), of_pod, members })
}

/// Named ports that policies refer to, sorted.
type Ports = Vec<(String, Protocol, u16)>;

/// What policies can see of a pod.
#[derive(PartialEq, Eq, Hash)]
struct Appearance<'a> {
    /// False for hostNetwork pods.
    selectable: bool,
    /// The labels that any pod selector looks at.
    labels: BTreeMap<&'a str, &'a str>,
    ports: Ports,
}

/// The selections of all policies, filed for finding those that select a pod.
struct Classifier<'a> {
    drafts: &'a Drafts<'a>,
    pods: SelectorIndex<'a>,
    namespaces: SelectorIndex<'a>,
    /// Label keys that any pod selector looks at.
    keys: HashSet<&'a str>,
    /// By pod selector.
    filed: HashMap<u32, Filed<'a>>,
}

/// The same within one namespace.
struct Within<'c> {
    classifier: &'c Classifier<'c>,
    namespace: &'c str,
    /// The namespace selectors that select it.
    matching: HashSet<u32>,
    /// The selections that a pod selector makes here, filled as they are asked for.
    pairs: HashMap<u32, Vec<u32>>,
}

impl<'a> Classifier<'a> {
    fn new(drafts: &'a Drafts<'a>) -> Self {
        let selections = &drafts.selections;
        Classifier {
            drafts,
            pods: SelectorIndex::new(selections.pod_selectors.values()),
            namespaces: SelectorIndex::new(selections.namespace_selectors.values()),
            keys: selections.pod_selectors.values().iter().flat_map(|selector| selector.keys()).collect(),
            filed: file_pairs(selections),
        }
    }

    fn within<'c>(&'c self, namespace: &'c str, labels: &BTreeMap<&str, &str>) -> Within<'c> {
        let matching = self.namespaces.matching(labels).into_iter().collect();
        Within { classifier: self, namespace, matching, pairs: HashMap::new() }
    }

    fn appearance<'p>(&self, record: &PodRecord<'p>) -> Result<Appearance<'p>, ObjectError> {
        if record.host_network {
            return Ok(Appearance { selectable: false, labels: BTreeMap::new(), ports: Ports::new() });
        }
        let labels = record.pod.metadata.labels.iter().flatten();
        let labels = labels.filter(|(key, _)| self.keys.contains(key.as_str()));
        let labels = labels.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Ok(Appearance { selectable: true, labels, ports: visible_ports(record, self.drafts)? })
    }
}

impl Within<'_> {
    /// The selections that select a pod that looks like this, sorted.
    fn selections(&mut self, appearance: &Appearance<'_>) -> Vec<u32> {
        let mut selected = Vec::new();
        if appearance.selectable {
            for selector in self.classifier.pods.matching(&appearance.labels) {
                let pairs = self.pairs.entry(selector).or_insert_with(|| {
                    let filed = self.classifier.filed.get(&selector);
                    filed.map_or_else(Vec::new, |filed| filed.of(self.namespace, &self.matching))
                });
                selected.extend_from_slice(pairs);
            }
            selected.sort_unstable();
        }
        selected
    }
}

/// Which selections use one pod selector.
#[derive(Default)]
struct Filed<'a> {
    by_namespace: HashMap<&'a str, Vec<u32>>,
    by_selector: Vec<(u32, u32)>,
}

impl Filed<'_> {
    /// Those of them that hold in the namespace, which `matching` namespace selectors select.
    fn of(&self, namespace: &str, matching: &HashSet<u32>) -> Vec<u32> {
        let selected = self.by_selector.iter().filter(|(selector, _)| matching.contains(selector));
        let own = self.by_namespace.get(namespace).into_iter().flatten().copied();
        own.chain(selected.map(|(_, pair)| *pair)).collect()
    }
}

fn file_pairs(selections: &Selections) -> HashMap<u32, Filed<'_>> {
    let mut filed = HashMap::<u32, Filed<'_>>::new();
    for (pair, (scope, pods)) in selections.pairs.values().iter().enumerate() {
        let filed = filed.entry(*pods).or_default();
        match scope {
            Scope::Namespace(name) => filed.by_namespace.entry(name).or_default().push(pair as u32),
            Scope::Selected(selector) => filed.by_selector.push((*selector, pair as u32)),
        }
    }
    filed
}

fn by_namespace<'a>(pods: &[PodRecord<'a>]) -> BTreeMap<&'a str, Vec<usize>> {
    let mut grouped = BTreeMap::<&str, Vec<usize>>::new();
    for (position, record) in pods.iter().enumerate() {
        grouped.entry(&record.name.namespace).or_default().push(position);
    }
    grouped
}

/// The namespace's labels; always with its name, which the API server sets.
fn namespace_labels<'a>(
    objects: &'a Objects,
    namespace: &'a str,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<&'a str, &'a str> {
    let name = ObjectName::new("", namespace);
    let object = objects.namespaces.get(&name);
    if object.is_none() {
        warnings.push(Warning::new(
            "Namespace",
            &name,
            "is not there but has pods: taken as one without labels",
        ));
    }
    let own = object.into_iter().flat_map(|object| object.metadata.labels.iter().flatten());
    let mut labels: BTreeMap<&str, &str> = own.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    labels.insert(NAMESPACE_NAME_LABEL, namespace);
    labels
}

/// The pod's named ports that any policy refers to.
fn visible_ports(record: &PodRecord<'_>, drafts: &Drafts<'_>) -> Result<Ports, ObjectError> {
    let named = record.named_ports()?.into_iter();
    let named = named.map(|(name, protocol, number)| (name.to_owned(), protocol, number));
    let visible = named.filter(|(name, protocol, _)| drafts.port_names.contains(&(name.clone(), *protocol)));
    let sorted: BTreeSet<_> = visible.collect();
    Ok(sorted.into_iter().collect())
}

/// Numbers classes in the order of their first member.
#[derive(Default)]
struct Numbering {
    numbers: HashMap<(Vec<u32>, Ports), u32>,
    classes: Vec<Class>,
}

struct Class {
    namespace: String,
    labels: BTreeMap<String, String>,
    selected: Vec<u32>,
    ports: Ports,
}

impl Numbering {
    /// The number of the class that the `selected` selections and the named ports make; what its members do not
    /// share is taken off what it shows of them.
    fn number(&mut self, namespace: &str, appearance: &Appearance<'_>, selected: Vec<u32>) -> u32 {
        let labels = &appearance.labels;
        let key = (selected, appearance.ports.clone());
        if let Some(number) = self.numbers.get(&key) {
            if let Some(class) = self.classes.get_mut(*number as usize) {
                class.labels.retain(|key, value| labels.get(key.as_str()) == Some(&value.as_str()));
                if class.namespace != namespace {
                    class.namespace.clear();
                }
            }
            return *number;
        }
        let number = self.classes.len() as u32;
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (selected, ports) = key.clone();
        self.classes.push(Class { namespace: namespace.to_owned(), labels, selected, ports });
        self.numbers.insert(key, number);
        number
    }

    /// The classes of each of `count` selections; sorted, as classes are visited in their order.
    fn members(&self, count: usize) -> Vec<Vec<u32>> {
        let mut members = vec![Vec::new(); count];
        for (number, class) in self.classes.iter().enumerate() {
            for selection in &class.selected {
                if let Some(list) = members.get_mut(*selection as usize) {
                    list.push(number as u32);
                }
            }
        }
        members
    }

    fn identities(self) -> Vec<Identity> {
        let identity = |class: Class| Identity {
            namespace: class.namespace,
            labels: class.labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
            named_ports: class.ports,
        };
        self.classes.into_iter().map(identity).collect()
    }
}
