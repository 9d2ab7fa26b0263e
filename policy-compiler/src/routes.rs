//! [`RouteTable`]: where addresses are, seen from one node.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::intent::{Intent, ObjectName};
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
    /// One of ours that does not exist: a free address of this node's pod ranges, a Service address that is no Service.
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
    exact: HashMap<IpAddr, Route>,
    /// Sorted by prefix length, longest first.
    prefixes: Vec<(IpNet, Route)>,
    pod_cidrs: Vec<IpNet>,
}

impl RouteTable {
    /// Compiles routes for `intent.node`.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] where the node is not among the nodes, an endpoint names an unknown node, or two
    /// endpoints share an address.
    pub fn compile(intent: &Intent) -> Result<Self, CompileError> {
        if !intent.nodes.iter().any(|node| node.name == intent.node) {
            let problem = format!("node {:?} is not among the nodes", intent.node);
            return Err(CompileError::Invalid { object: "intent".into(), field: "node".into(), problem });
        }
        let mut table = RouteTable::default();
        table.add_nodes(intent);
        table.add_endpoints(intent)?;
        table.prefixes.extend(intent.service_ranges.iter().map(|range| (*range, Route::Unreachable)));
        table.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        Ok(table)
    }

    /// Where `address` is.
    pub fn lookup(&self, address: IpAddr) -> Route {
        if let Some(route) = self.exact.get(&address) {
            return *route;
        }
        self.prefixes.iter().find(|(prefix, _)| prefix.contains(&address)).map_or(Route::External, |(_, route)| *route)
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

    fn add_nodes(&mut self, intent: &Intent) {
        for (index, node) in intent.nodes.iter().enumerate() {
            let this = node.name == intent.node;
            let route = if this { Route::Node } else { Route::External };
            self.exact.extend(node.addresses.iter().map(|address| (*address, route)));
            let pods = if this { Route::Unreachable } else { Route::Tunnel(index as u32) };
            self.prefixes.extend(node.pod_cidrs.iter().map(|cidr| (*cidr, pods)));
            self.pod_cidrs.extend(&node.pod_cidrs);
            self.nodes.push(RemoteNode { name: node.name.clone(), addresses: node.addresses.clone(), this });
        }
    }

    fn add_endpoints(&mut self, intent: &Intent) -> Result<(), CompileError> {
        for (index, endpoint) in intent.endpoints.iter().enumerate().filter(|(_, e)| !e.host_network) {
            let invalid = |field: String, problem: String| CompileError::Invalid {
                object: format!("Pod {}", endpoint.name),
                field: format!("endpoints[{index}].{field}"),
                problem,
            };
            let Some(node) = intent.nodes.iter().position(|node| node.name == endpoint.node) else {
                return Err(invalid("node".into(), format!("no node is called {:?}", endpoint.node)));
            };
            let route = if endpoint.node == intent.node {
                self.endpoints
                    .push(LocalEndpoint { name: endpoint.name.clone(), addresses: endpoint.addresses.clone() });
                Route::Endpoint(self.endpoints.len() as u32 - 1)
            } else {
                Route::Tunnel(node as u32)
            };
            for (position, address) in endpoint.addresses.iter().enumerate() {
                if self.exact.insert(*address, route).is_some() {
                    return Err(invalid(
                        format!("addresses[{position}]"),
                        format!("{address} belongs to another endpoint or node already"),
                    ));
                }
            }
        }
        Ok(())
    }
}
