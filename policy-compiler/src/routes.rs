//! [`RouteTable`]: where addresses are, seen from one node.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::hash::FastMap;
use crate::intent::{Endpoint, Intent, Node, ObjectName};
use crate::prefix::PrefixMap;
use crate::tables::CompileError;

/// Where an address is, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// An endpoint on this node; index into [`RouteTable::endpoints`].
    Endpoint(u32),
    /// A pod (or a free pod address) of another node, behind the tunnel; index into [`RouteTable::nodes`].
    Tunnel(u32),
    /// This node itself.
    Node,
    /// Nothing of the cluster: by the underlay, natively.
    External,
    /// One of ours that does not exist: a free address of this node's pod ranges, a Service address that is no Service,
    /// a pod whose node is not known.
    Unreachable,
}

/// An endpoint on this node, as the dataplane binds ports to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The pod.
    pub name: ObjectName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A node as the overlay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteNode {
    /// Name of the Node object.
    pub name: String,
    /// Tunnel endpoint and other addresses, the Node object's order.
    pub addresses: Vec<IpAddr>,
    /// True for this node itself.
    pub this: bool,
}

/// Where addresses are.
#[derive(Debug, Default)]
pub struct RouteTable {
    endpoints: Vec<LocalEndpoint>,
    nodes: Vec<RemoteNode>,
    /// Addresses of nodes and endpoints.
    exact: FastMap<IpAddr, Route>,
    /// Pod ranges and Service ranges.
    prefixes: PrefixMap<Route>,
    pod_cidrs: Vec<IpNet>,
}

impl RouteTable {
    /// Compiles routes for `intent.node`.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] where the node is not among the nodes, an endpoint names an unknown node, two nodes
    /// claim one address or one pod range, or two endpoints one address. hostNetwork pods share their node's.
    pub fn compile(intent: &Intent) -> Result<Self, CompileError> {
        if !intent.nodes.iter().any(|node| node.name == intent.node) {
            let problem = format!("node {:?} is not among the nodes", intent.node);
            return Err(CompileError::Invalid { object: "intent".into(), field: "node".into(), problem });
        }
        let mut table = RouteTable::default();
        let mut prefixes = table.add_nodes(intent)?;
        table.add_endpoints(intent)?;
        prefixes.extend(intent.service_ranges.iter().map(|range| (*range, Route::Unreachable)));
        table.prefixes = PrefixMap::new(prefixes);
        Ok(table)
    }

    /// Where `address` is.
    pub fn lookup(&self, address: IpAddr) -> Route {
        if let Some(route) = self.exact.get(&address) {
            return *route;
        }
        self.prefixes.lookup(address).unwrap_or(Route::External)
    }

    /// The endpoints on this node that have addresses of their own (no hostNetwork pods).
    pub fn endpoints(&self) -> &[LocalEndpoint] {
        &self.endpoints
    }

    /// All nodes.
    pub fn nodes(&self) -> &[RemoteNode] {
        &self.nodes
    }

    /// This node, if the tables are not the empty ones.
    pub fn this_node(&self) -> Option<&RemoteNode> {
        self.nodes.iter().find(|node| node.this)
    }

    /// The pod ranges of all nodes: what is not masqueraded, and what the uplink takes from the kernel.
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// Adds the nodes and their addresses; answers with the routes of their pod ranges.
    fn add_nodes(&mut self, intent: &Intent) -> Result<Vec<(IpNet, Route)>, CompileError> {
        let mut prefixes = Vec::new();
        let mut owners = HashMap::<IpNet, &str>::new();
        for (index, node) in intent.nodes.iter().enumerate() {
            let this = node.name == intent.node;
            let route = if this { Route::Node } else { Route::External };
            for (claim, field) in claims(node) {
                if let Some(other) = owners.insert(claim, &node.name) {
                    let problem = format!("{claim} belongs to node {other} already");
                    return Err(invalid(
                        format!("Node {}", node.name),
                        format!("nodes[{index}].{field}"),
                        problem,
                    ));
                }
            }
            self.exact.extend(node.addresses.iter().map(|address| (*address, route)));
            let pods = if this { Route::Unreachable } else { Route::Tunnel(index as u32) };
            prefixes.extend(node.pod_cidrs.iter().map(|cidr| (*cidr, pods)));
            self.pod_cidrs.extend(&node.pod_cidrs);
            self.nodes.push(RemoteNode { name: node.name.clone(), addresses: node.addresses.clone(), this });
        }
        Ok(prefixes)
    }

    fn add_endpoints(&mut self, intent: &Intent) -> Result<(), CompileError> {
        let nodes: HashMap<&str, u32> = intent.nodes.iter().map(|node| node.name.as_str()).zip(0..).collect();
        for (index, endpoint) in intent.endpoints.iter().enumerate().filter(|(_, e)| !e.host_network) {
            let fault = |field: String, problem: String| {
                invalid(format!("Pod {}", endpoint.name), format!("endpoints[{index}].{field}"), problem)
            };
            let route = match nodes.get(endpoint.node.as_str()) {
                Some(_) if endpoint.node == intent.node => self.add_local(endpoint),
                Some(node) => Route::Tunnel(*node),
                None if endpoint.node.is_empty() => Route::Unreachable,
                None => return Err(fault("node".into(), format!("no node is called {:?}", endpoint.node))),
            };
            for (position, address) in endpoint.addresses.iter().enumerate() {
                if self.exact.insert(*address, route).is_some() {
                    let problem = format!("{address} belongs to another endpoint or node already");
                    return Err(fault(format!("addresses[{position}]"), problem));
                }
            }
        }
        Ok(())
    }

    fn add_local(&mut self, endpoint: &Endpoint) -> Route {
        let (name, addresses) = (endpoint.name.clone(), endpoint.addresses.clone());
        self.endpoints.push(LocalEndpoint { name, addresses });
        Route::Endpoint(self.endpoints.len() as u32 - 1)
    }
}

/// What no two nodes may have: addresses and pod ranges, each with the field it stands in.
fn claims(node: &Node) -> Vec<(IpNet, &'static str)> {
    let addresses = node.addresses.iter().map(|address| (IpNet::from(*address), "addresses"));
    addresses.chain(node.pod_cidrs.iter().map(|cidr| (cidr.trunc(), "pod_cidrs"))).collect()
}

fn invalid(object: String, field: String, problem: String) -> CompileError {
    CompileError::Invalid { object, field, problem }
}

#[cfg(test)]
mod tests;
