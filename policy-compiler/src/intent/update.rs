//! [`Update`]: what of an [`Intent`] changes, by object.
//!
//! An object that an update names, as removed or as there, has afterwards exactly the parts that the update holds of it.
//! Nodes, ranges and the node itself do not change by updates: for those there is the whole state.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Endpoint, Identity, Intent, ObjectName, Policy, PolicyKind, Service};
use crate::hash::{FastMap, absorb, absorb_text};

/// Identities that nobody has may be as many before the whole state is sent again.
const STALE: usize = 1024;

/// A policy object: its API and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyName {
    /// Which API.
    pub kind: PolicyKind,
    /// The object.
    pub name: ObjectName,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A change of an [`Intent`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Identities more, numbered behind those that there are.
    pub identities: Vec<Identity>,
    /// Pods that are gone.
    pub removed_endpoints: Vec<ObjectName>,
    /// Pods that are new or changed.
    pub endpoints: Vec<Endpoint>,
    /// Policies that are gone.
    pub removed_policies: Vec<PolicyName>,
    /// Policies that are new or changed.
    pub policies: Vec<Policy>,
    /// Service objects that are gone.
    pub removed_services: Vec<ObjectName>,
    /// Service objects that are new or changed: all their ports and families.
    pub services: Vec<Service>,
}

impl Update {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Update::default()
    }

    /// What leads from `old` to `new`; `None` where only the whole state does: the node, nodes or ranges differ, or there
    /// are too many identities that nobody has any more.
    ///
    /// `new` is renumbered: an identity that is in `old`, too, takes its number there, and those that `new` lacks stay in it.
    pub fn between(old: &Intent, new: &mut Intent) -> Option<Self> {
        let same_site = old.node == new.node
            && old.vni == new.vni
            && old.nodes == new.nodes
            && old.service_ranges == new.service_ranges;
        if !same_site {
            return None;
        }
        let live = new.identities.len();
        renumber(&old.identities, new);
        if new.identities.len() > 2 * live + STALE {
            return None;
        }
        let (removed_endpoints, endpoints) = differences(&old.endpoints, &new.endpoints);
        let (removed_policies, policies) = differences(&old.policies, &new.policies);
        let (removed_services, services) = differences(&old.services, &new.services);
        let identities = new.identities.get(old.identities.len()..).unwrap_or_default().to_vec();
        Some(Update {
            identities,
            removed_endpoints,
            endpoints,
            removed_policies,
            policies,
            removed_services,
            services,
        })
    }

    /// Makes the change in `intent`, plainly; what is replaced goes to the end of its list. The slow twin of
    /// [`Compiler::prepare`](crate::compiler::Compiler::prepare), which asks whether what is removed is there, too.
    pub fn apply_to(&self, intent: &mut Intent) {
        intent.identities.extend_from_slice(&self.identities);
        replace(&mut intent.endpoints, &self.removed_endpoints, &self.endpoints);
        replace(&mut intent.policies, &self.removed_policies, &self.policies);
        replace(&mut intent.services, &self.removed_services, &self.services);
    }
}

/// A part of an intent: an object or, for a Service, one of the object's ports.
pub(crate) trait Part: Clone + PartialEq {
    /// What names the object.
    type Name: Clone + Eq + fmt::Display;
    /// The object.
    fn object(&self) -> Self::Name;
    /// Whether it is of that object.
    fn is_of(&self, object: &Self::Name) -> bool;
    /// A hash of the object's name.
    fn spread(&self) -> u64;
    /// The same of a name.
    fn spread_of(object: &Self::Name) -> u64;
}

/// Endpoints and Services are named alike.
macro_rules! named_by_object_name {
    ($($part:ty),*) => { $(
        impl Part for $part {
            type Name = ObjectName;
            fn object(&self) -> ObjectName {
                self.name.clone()
            }
            fn is_of(&self, object: &ObjectName) -> bool {
                self.name == *object
            }
            fn spread(&self) -> u64 {
                spread_of(&self.name)
            }
            fn spread_of(object: &ObjectName) -> u64 {
                spread_of(object)
            }
        }
    )* };
}

named_by_object_name!(Endpoint, Service);

impl Part for Policy {
    type Name = PolicyName;

    fn object(&self) -> PolicyName {
        PolicyName { kind: self.kind(), name: self.name.clone() }
    }

    fn is_of(&self, object: &PolicyName) -> bool {
        self.kind() == object.kind && self.name == object.name
    }

    fn spread(&self) -> u64 {
        absorb(spread_of(&self.name), self.kind() as u64)
    }

    fn spread_of(object: &PolicyName) -> u64 {
        absorb(spread_of(&object.name), object.kind as u64)
    }
}

fn spread_of(name: &ObjectName) -> u64 {
    absorb_text(absorb_text(0, &name.namespace), &name.name)
}

/// Where the parts of each object stand in a list, by the hash of its name.
pub(crate) fn index<'a, T: Part + 'a>(parts: impl Iterator<Item = &'a T>) -> FastMap<u64, Vec<u32>> {
    let mut index = FastMap::<u64, Vec<u32>>::default();
    for (part, number) in parts.zip(0..) {
        index.entry(part.spread()).or_default().push(number);
    }
    index
}

/// Gives the identities of `new` the numbers of equal ones among `old`, and higher numbers to the rest. Any numbering is right
/// that keeps them apart: what an identity means, policies and endpoints say by its number.
fn renumber(old: &[Identity], new: &mut Intent) {
    let mut free = HashMap::<&Identity, Vec<u32>>::new();
    for (identity, number) in old.iter().zip(0..old.len() as u32).rev() {
        free.entry(identity).or_default().push(number);
    }
    let mut identities = old.to_vec();
    let mut number = |identity: Identity| match free.get_mut(&identity).and_then(Vec::pop) {
        Some(number) => number,
        None => {
            identities.push(identity);
            identities.len() as u32 - 1
        }
    };
    let numbers: Vec<u32> = std::mem::take(&mut new.identities).into_iter().map(&mut number).collect();
    new.identities = identities;
    // A number that is none stays none, for whoever compiles to refuse.
    let renumbered = |identity: u32| numbers.get(identity as usize).copied().unwrap_or(u32::MAX);
    let renumber_all = |list: &mut Vec<u32>| {
        list.iter_mut().for_each(|identity| *identity = renumbered(*identity));
        list.sort_unstable();
    };
    new.endpoints.iter_mut().for_each(|endpoint| endpoint.identity = renumbered(endpoint.identity));
    for policy in &mut new.policies {
        renumber_all(&mut policy.subjects);
        let rules = policy.ingress.iter_mut().chain(&mut policy.egress).flatten();
        rules.filter_map(|rule| rule.peers.as_mut()).for_each(|peers| renumber_all(&mut peers.identities));
    }
}

/// The objects that `new` lacks, and the parts of those that are not the same in both.
fn differences<T: Part>(old: &[T], new: &[T]) -> (Vec<T::Name>, Vec<T>) {
    let (before, after) = (index(old.iter()), index(new.iter()));
    let parts = |list: &'_ [T], numbers: Option<&Vec<u32>>| -> Vec<T> {
        let numbers = numbers.into_iter().flatten();
        numbers.filter_map(|number| list.get(*number as usize)).cloned().collect()
    };
    let same = |hash: &u64| {
        let (before, after) = (before.get(hash).into_iter().flatten(), after.get(hash).into_iter().flatten());
        before.map(|number| old.get(*number as usize)).eq(after.map(|number| new.get(*number as usize)))
    };
    let mut put = Vec::new();
    for (part, number) in new.iter().zip(0..) {
        let hash = part.spread();
        // All parts under one hash at the first of them: objects whose hashes are equal change together.
        if after.get(&hash).is_some_and(|numbers| numbers.first() == Some(&number)) && !same(&hash) {
            put.extend(parts(new, after.get(&hash)));
        }
    }
    let mut removed = Vec::new();
    for part in old.iter().filter(|part| !same(&part.spread())) {
        let object = part.object();
        let stays = parts(new, after.get(&part.spread())).iter().any(|part| part.is_of(&object));
        if !stays && removed.last() != Some(&object) {
            removed.push(object);
        }
    }
    (removed, put)
}

fn replace<T: Part>(list: &mut Vec<T>, removed: &[T::Name], put: &[T]) {
    let named: Vec<T::Name> = removed.iter().cloned().chain(put.iter().map(T::object)).collect();
    list.retain(|part| !named.iter().any(|object| part.is_of(object)));
    list.extend_from_slice(put);
}
