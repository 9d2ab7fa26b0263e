//! [`RouteTable`]: where addresses are, seen from one node.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::hash::FastMap;
use crate::intent::{Endpoint, Intent, Node, ObjectName};
use crate::prefix::PrefixMap;
use crate::shared_map::SharedMap;
use crate::tables::CompileError;
use crate::view::{Change, View};

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
#[derive(Debug, Default, Clone)]
pub struct RouteTable {
    endpoints: Arc<Vec<LocalEndpoint>>,
    /// Addresses of nodes and endpoints.
    exact: SharedMap<IpAddr, Route>,
    nodes: Arc<Nodes>,
}

/// What follows from the nodes alone.
#[derive(Debug, Default)]
struct Nodes {
    /// Name of this node.
    this: String,
    nodes: Vec<RemoteNode>,
    /// Their numbers.
    numbers: FastMap<String, u32>,
    /// Pod ranges and Service ranges.
    prefixes: PrefixMap<Route>,
    pod_cidrs: Vec<IpNet>,
    own_ranges: Vec<IpNet>,
}

impl RouteTable {
    /// Compiles routes for `intent.node`.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] where the node is not among the nodes, an endpoint names an unknown node, two nodes
    /// claim one address or one pod range, or two endpoints one address. hostNetwork pods share their node's.
    pub fn compile(intent: &Intent) -> Result<Self, CompileError> {
        Self::compile_view(&View::of(intent))
    }

    /// As [`RouteTable::compile`].
    pub(crate) fn compile_view(view: &View<'_>) -> Result<Self, CompileError> {
        if !view.nodes.iter().any(|node| node.name == view.node) {
            let problem = format!("node {:?} is not among the nodes", view.node);
            return Err(CompileError::Invalid { object: "intent".into(), field: "node".into(), problem });
        }
        let mut table = RouteTable::default();
        let (nodes, mut prefixes) = add_nodes(view, &mut table.exact)?;
        prefixes.extend(view.service_ranges.iter().map(|range| (*range, Route::Unreachable)));
        table.nodes = Arc::new(Nodes { prefixes: PrefixMap::new(prefixes), ..nodes });
        let mut local = Vec::new();
        for (number, endpoint) in view.endpoints() {
            table.add(number as usize, endpoint, &mut local)?;
        }
        table.endpoints = Arc::new(local);
        Ok(table)
    }

    /// The same table after a change of endpoints. The positions in errors are the change's.
    ///
    /// # Errors
    /// As [`RouteTable::compile`].
    pub(crate) fn updated(&self, change: &Change<'_, Endpoint>) -> Result<Self, CompileError> {
        let mut table = self.clone();
        let is_local = |endpoint: &Endpoint| endpoint.node == self.nodes.this && !endpoint.host_network;
        let mut local = None;
        for (_, endpoint) in change.removed.iter().filter(|(_, endpoint)| !endpoint.host_network) {
            for address in &endpoint.addresses {
                table.exact.remove(address);
            }
            if is_local(endpoint) {
                local.get_or_insert_with(|| self.endpoints.to_vec()).retain(|one| one.name != endpoint.name);
            }
        }
        // Where one of this node's endpoints goes, those behind it get other numbers.
        if let Some(local) = &local {
            for (endpoint, number) in local.iter().zip(0..) {
                for address in &endpoint.addresses {
                    table.exact.insert(*address, Route::Endpoint(number));
                }
            }
        }
        if local.is_none() && change.added.iter().any(|(_, endpoint)| is_local(endpoint)) {
            local = Some(self.endpoints.to_vec());
        }
        let mut unchanged = Vec::new();
        let list = local.as_mut().unwrap_or(&mut unchanged);
        for (position, (_, endpoint)) in change.added.iter().enumerate() {
            table.add(position, endpoint, list)?;
        }
        if let Some(local) = local {
            table.endpoints = Arc::new(local);
        }
        Ok(table)
    }

    /// This node's pod ranges and those of Services: what comes to this node from outside.
    pub fn own_ranges(&self) -> &[IpNet] {
        &self.nodes.own_ranges
    }

    /// Whether both have the very same nodes, the one having been made of the other.
    pub fn has_nodes_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// How many addresses are known exactly.
    pub fn addresses(&self) -> usize {
        self.exact.len()
    }

    /// Heap memory of the exact addresses in bytes: what grows with the cluster.
    pub fn bytes(&self) -> usize {
        self.exact.bytes()
    }

    /// Where `address` is.
    pub fn lookup(&self, address: IpAddr) -> Route {
        if let Some(route) = self.exact.get(&address) {
            return *route;
        }
        self.nodes.prefixes.lookup(address).unwrap_or(Route::External)
    }

    /// Where [`RouteTable::lookup`] begins to read, for those who know of the address before.
    #[inline]
    pub fn first_read(&self, address: IpAddr) -> Option<*const u8> {
        self.exact.first_read(&address)
    }

    /// The endpoints on this node that have addresses of their own (no hostNetwork pods).
    pub fn endpoints(&self) -> &[LocalEndpoint] {
        &self.endpoints
    }

    /// All nodes.
    pub fn nodes(&self) -> &[RemoteNode] {
        &self.nodes.nodes
    }

    /// This node, if the tables are not the empty ones.
    pub fn this_node(&self) -> Option<&RemoteNode> {
        self.nodes.nodes.iter().find(|node| node.this)
    }

    /// The pod ranges of all nodes: what is not masqueraded, and what the uplink takes from the kernel.
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.nodes.pod_cidrs
    }

    /// Adds an endpoint: one of this node's to `local` as well. `position` is where an error says that it stands.
    fn add(
        &mut self,
        position: usize,
        endpoint: &Endpoint,
        local: &mut Vec<LocalEndpoint>,
    ) -> Result<(), CompileError> {
        if endpoint.host_network {
            return Ok(());
        }
        let fault = |field: String, problem: String| {
            invalid(format!("Pod {}", endpoint.name), format!("endpoints[{position}].{field}"), problem)
        };
        let route = match self.nodes.numbers.get(endpoint.node.as_str()) {
            Some(_) if endpoint.node == self.nodes.this => {
                let (name, addresses) = (endpoint.name.clone(), endpoint.addresses.clone());
                local.push(LocalEndpoint { name, addresses });
                Route::Endpoint(local.len() as u32 - 1)
            }
            Some(node) => Route::Tunnel(*node),
            None if endpoint.node.is_empty() => Route::Unreachable,
            None => return Err(fault("node".into(), format!("no node is called {:?}", endpoint.node))),
        };
        for (index, address) in endpoint.addresses.iter().enumerate() {
            if self.exact.insert(*address, route).is_some() {
                let problem = format!("{address} belongs to another endpoint or node already");
                return Err(fault(format!("addresses[{index}]"), problem));
            }
        }
        Ok(())
    }
}

/// The nodes, with their addresses put among the `exact` ones, and the routes of their pod ranges.
fn add_nodes(
    view: &View<'_>,
    exact: &mut SharedMap<IpAddr, Route>,
) -> Result<(Nodes, Vec<(IpNet, Route)>), CompileError> {
    let mut nodes = Nodes { this: view.node.to_owned(), ..Nodes::default() };
    let mut prefixes = Vec::new();
    let mut owners = HashMap::<IpNet, &str>::new();
    for (index, node) in view.nodes.iter().enumerate() {
        let this = node.name == view.node;
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
        for address in &node.addresses {
            exact.insert(*address, route);
        }
        let pods = if this { Route::Unreachable } else { Route::Tunnel(index as u32) };
        prefixes.extend(node.pod_cidrs.iter().map(|cidr| (*cidr, pods)));
        nodes.pod_cidrs.extend(&node.pod_cidrs);
        if this {
            nodes.own_ranges.extend(node.pod_cidrs.iter().chain(view.service_ranges));
        }
        nodes.numbers.insert(node.name.clone(), index as u32);
        nodes.nodes.push(RemoteNode { name: node.name.clone(), addresses: node.addresses.clone(), this });
    }
    Ok((nodes, prefixes))
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
