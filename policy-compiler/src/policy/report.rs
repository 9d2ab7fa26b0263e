//! Policy for people: who reaches whom among the endpoints, and what isolates whom. Plain data; printing is the caller's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use super::PolicyTable;
use crate::intent::update::PolicyName;
use crate::intent::{Endpoint, Intent, ObjectName, PolicyKind};

/// Who reaches whom on one protocol and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// IP protocol number.
    pub protocol: u8,
    /// The destination's port; 0 for protocols without one.
    pub port: u16,
    /// The endpoints, in the order of their names: both axes.
    pub endpoints: Vec<ObjectName>,
    /// `cells[from][to]`.
    pub cells: Vec<Vec<Cell>>,
}

/// What policy says of one endpoint to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Both ends allow it.
    Allow,
    /// The policies of the source do not.
    DenyEgress,
    /// The policies of the destination do not.
    DenyIngress,
    /// Neither end does.
    DenyBoth,
    /// IPv4 and IPv6 are treated differently (by ipBlocks).
    ByFamily,
    /// They have no address family in common.
    NoCommonFamily,
}

/// What a folder or cluster amounts to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Nodes.
    pub nodes: usize,
    /// Endpoints, hostNetwork pods included.
    pub endpoints: usize,
    /// hostNetwork pods among them: to policy they are their node.
    pub host_network: usize,
    /// Classes of endpoints that the policies can tell apart.
    pub identities: usize,
    /// Policies.
    pub policies: usize,
    /// Rules of all policies.
    pub rules: usize,
    /// Service ports, an address family each.
    pub services: usize,
    /// The endpoints that any NetworkPolicy isolates, in the order of their names.
    pub isolated: Vec<Isolated>,
    /// The endpoints that any ClusterNetworkPolicy has rules for, in the order of their names.
    pub ruled: Vec<Ruled>,
    /// Policies that select no endpoint.
    pub idle_policies: Vec<PolicyName>,
}

/// An endpoint that ClusterNetworkPolicies have rules for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ruled {
    /// The endpoint.
    pub endpoint: ObjectName,
    /// Those with rules for ingress, in the order in which they are asked.
    pub ingress: Vec<ObjectName>,
    /// Those with rules for egress.
    pub egress: Vec<ObjectName>,
}

/// An endpoint that NetworkPolicies isolate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Isolated {
    /// The endpoint.
    pub endpoint: ObjectName,
    /// The policies that isolate it for ingress; none: everyone may reach it.
    pub ingress: Vec<ObjectName>,
    /// The policies that isolate it for egress; none: it may reach everyone.
    pub egress: Vec<ObjectName>,
}

/// Judges every endpoint to every endpoint. The work and the answer grow with the square of the endpoints.
pub fn matrix(intent: &Intent, policy: &PolicyTable, protocol: u8, port: u16) -> Matrix {
    let endpoints = sorted(intent);
    let row = |from: &&Endpoint| endpoints.iter().map(|to| cell(policy, from, to, protocol, port)).collect();
    let cells = endpoints.iter().map(row).collect();
    let endpoints = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    Matrix { protocol, port, endpoints, cells }
}

/// Counts, and who is isolated by what.
pub fn summary(intent: &Intent, policy: &PolicyTable) -> Summary {
    let isolated = |endpoint: &&Endpoint| {
        let names = |ingress: bool| -> Vec<ObjectName> {
            let by = |address: &IpAddr| policy.isolating(*address, ingress).into_iter().cloned();
            let all: BTreeSet<_> = endpoint.addresses.iter().flat_map(by).collect();
            all.into_iter().collect()
        };
        let found = Isolated { endpoint: endpoint.name.clone(), ingress: names(true), egress: names(false) };
        Some(found).filter(|found| !found.ingress.is_empty() || !found.egress.is_empty())
    };
    let ruled = |endpoint: &&Endpoint| {
        let names = |ingress: bool| -> Vec<ObjectName> {
            // To a pod's addresses of both families the same policies apply.
            let address = endpoint.addresses.first().filter(|_| !endpoint.host_network);
            let selecting = address.into_iter().flat_map(|address| policy.selecting(*address, ingress));
            let cluster = selecting.filter(|policy| policy.kind == PolicyKind::ClusterNetworkPolicy);
            cluster.map(|policy| policy.name.clone()).collect()
        };
        let found = Ruled { endpoint: endpoint.name.clone(), ingress: names(true), egress: names(false) };
        Some(found).filter(|found| !found.ingress.is_empty() || !found.egress.is_empty())
    };
    let idle = intent.policies.iter().filter(|policy| policy.subjects.is_empty());
    let rules =
        intent.policies.iter().flat_map(|policy| policy.ingress.iter().chain(&policy.egress)).map(Vec::len);
    Summary {
        nodes: intent.nodes.len(),
        endpoints: intent.endpoints.len(),
        host_network: intent.endpoints.iter().filter(|endpoint| endpoint.host_network).count(),
        identities: intent.identities.len(),
        policies: intent.policies.len(),
        rules: rules.sum(),
        services: intent.services.len(),
        isolated: sorted(intent).iter().filter_map(isolated).collect(),
        ruled: sorted(intent).iter().filter_map(ruled).collect(),
        idle_policies: idle
            .map(|policy| PolicyName { kind: policy.kind(), name: policy.name.clone() })
            .collect(),
    }
}

fn sorted(intent: &Intent) -> Vec<&Endpoint> {
    let mut endpoints: Vec<&Endpoint> = intent.endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| &endpoint.name);
    endpoints
}

fn cell(policy: &PolicyTable, from: &Endpoint, to: &Endpoint, protocol: u8, port: u16) -> Cell {
    let mut cells = from.addresses.iter().filter_map(|src| {
        let dst = to.addresses.iter().find(|dst| dst.is_ipv4() == src.is_ipv4())?;
        let judgement = policy.judge(*src, *dst, protocol, port);
        Some(match (judgement.egress.allowed, judgement.ingress.allowed) {
            (true, true) => Cell::Allow,
            (false, true) => Cell::DenyEgress,
            (true, false) => Cell::DenyIngress,
            (false, false) => Cell::DenyBoth,
        })
    });
    let Some(first) = cells.next() else { return Cell::NoCommonFamily };
    if cells.all(|other| other == first) { first } else { Cell::ByFamily }
}
