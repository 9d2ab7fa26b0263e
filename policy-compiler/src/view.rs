//! [`View`]: the parts of an intent by number, and [`Change`]: what an update does to one sort of them.

use crate::intent::{Endpoint, Identity, Intent, Node, Policy, Service};
use ipnet::IpNet;

/// The parts of an intent, each under its number. Of an [`Intent`] the numbers are indices; of one that was updated some may
/// be free.
pub(crate) struct View<'a> {
    /// The node it is for.
    pub(crate) node: &'a str,
    pub(crate) nodes: &'a [Node],
    pub(crate) identities: Vec<&'a Identity>,
    pub(crate) endpoints: Vec<Option<&'a Endpoint>>,
    pub(crate) policies: Vec<Option<&'a Policy>>,
    pub(crate) services: Vec<Option<&'a Service>>,
    pub(crate) service_ranges: &'a [IpNet],
}

impl<'a> View<'a> {
    /// All of `intent`.
    pub(crate) fn of(intent: &'a Intent) -> Self {
        View {
            node: &intent.node,
            nodes: &intent.nodes,
            identities: intent.identities.iter().collect(),
            endpoints: intent.endpoints.iter().map(Some).collect(),
            policies: intent.policies.iter().map(Some).collect(),
            services: intent.services.iter().map(Some).collect(),
            service_ranges: &intent.service_ranges,
        }
    }

    /// The endpoints with their numbers.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (u32, &'a Endpoint)> {
        numbered(&self.endpoints)
    }

    /// The Services with their numbers.
    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, &'a Service)> {
        numbered(&self.services)
    }

    /// The policies.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &'a Policy> {
        self.policies.iter().copied().flatten()
    }
}

fn numbered<'a, T>(list: &[Option<&'a T>]) -> impl Iterator<Item = (u32, &'a T)> {
    (0..).zip(list).filter_map(|(number, object)| object.map(|object| (number, object)))
}

/// What goes and what comes, each with its number. What is replaced does both.
pub(crate) struct Change<'a, T> {
    pub(crate) removed: Vec<(u32, &'a T)>,
    pub(crate) added: Vec<(u32, &'a T)>,
}

impl<T> Change<'_, T> {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}
