//! The slow path: what happens to the first packet of a flow, and why. Pure: tables in, [`Decision`] out.
//!
//! ```text
//!   origin ─► may it come from there? ─► Service ─► policy at both ends ─► route ─► masquerade ─► ways out and back
//! ```
//!
//! Asked once a flow and generation by [`crate::pipeline`], and by `Explain` for packets that need not exist.

use std::net::{IpAddr, SocketAddr};

use afxdp_driver::cpu;
use policy_compiler::intent::Revocation;
use policy_compiler::policy::{Judgement, PolicyTable};
use policy_compiler::routes::Route;
use policy_compiler::service::{Resolution, ServiceId, ServiceQuery};

use crate::drops::DropReason;
use crate::flow::Key;
use crate::snapshot::{PortIndex, PortView, Role, Snapshot, Way};
use crate::wire::parse::may_be_hosts;
use crate::wire::{SCTP, TCP, UDP};

/// Where a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By the port of a pod or virtual machine.
    Endpoint(PortIndex),
    /// By the port of this node's own network stack.
    Host(PortIndex),
    /// By the underlay, as it is.
    Uplink(PortIndex),
    /// By the underlay, from a node of the cluster (index into `tables.routes.nodes()`).
    Tunnel {
        /// The underlay's port.
        port: PortIndex,
        /// The node.
        node: u32,
    },
}

impl Origin {
    /// The origin of what a port receives, before any decapsulation.
    pub fn of_port(index: PortIndex, view: &PortView) -> Self {
        match view.role {
            Role::Endpoint(_) => Origin::Endpoint(index),
            Role::Host => Origin::Host(index),
            Role::Uplink => Origin::Uplink(index),
        }
    }

    /// The port.
    pub fn port(self) -> PortIndex {
        match self {
            Origin::Endpoint(port) | Origin::Host(port) | Origin::Uplink(port) => port,
            Origin::Tunnel { port, .. } => port,
        }
    }

    /// From the underlay, in a tunnel or as it is.
    pub fn is_outside(self) -> bool {
        matches!(self, Origin::Uplink(_) | Origin::Tunnel { .. })
    }
}

/// What is known of a flow before it is judged; by default nothing: it is new.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// The backend that it has, of a Service: it stays with it while that serves.
    pub backend: Option<SocketAddr>,
    /// What these very tables say of its Service, where that has been asked already.
    pub resolution: Option<Resolution>,
    /// Whether its packets have passed until now: then a policy that denies it may say how that takes effect.
    pub passes: bool,
}

/// What happens to a flow, and why.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    /// Forwarded, or why not.
    pub verdict: Result<(), DropReason>,
    /// What policy says, where it was asked.
    pub judgement: Option<Judgement>,
    /// What becomes of a flow that has passed until now and is denied by policy: with [`Revocation::Keep`] the verdict is that it is
    /// forwarded all the same.
    pub revocation: Revocation,
    /// The Service port, where the destination is one.
    pub service: Option<ServiceId>,
    /// The destination after its translation.
    pub dst: SocketAddr,
    /// The address that the source is translated to.
    pub masquerade: Option<IpAddr>,
    /// Where the destination is.
    pub route: Option<Route>,
    /// The way out.
    pub way: Way,
    /// The way of the replies.
    pub back: Way,
}

/// What is asked of policy for a flow: its ends as policies know them, the source before translation and the destination after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The source.
    pub src: IpAddr,
    /// The destination.
    pub dst: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether a Service has chosen the destination.
    pub translated: bool,
}

impl Question {
    /// What a table answers.
    #[inline(always)]
    pub fn ask(&self, policy: &PolicyTable) -> Judgement {
        let Question { src, dst, protocol, translated } = *self;
        let port = if matches!(protocol, TCP | UDP | SCTP) { dst.port() } else { 0 };
        match translated {
            false => policy.judge(src, dst.ip(), protocol, port),
            true => policy.judge_translated(src, dst.ip(), protocol, port),
        }
    }
}

/// What is asked of the Services for a flow.
pub(crate) fn service_query(key: &Key, v6: bool) -> ServiceQuery {
    ServiceQuery {
        src: key.src(v6),
        src_port: key.src_port(),
        dst: key.dst(v6),
        dst_port: key.dst_port(),
        protocol: key.protocol(),
    }
}

/// Decides a flow by the key of its first packet.
pub fn decide(snapshot: &Snapshot, key: &Key, v6: bool, origin: Origin, known: Known) -> Decision {
    let dst = SocketAddr::new(key.dst(v6), key.dst_port());
    let mut decision = Decision {
        verdict: Ok(()),
        judgement: None,
        revocation: Revocation::default(),
        service: None,
        dst,
        masquerade: None,
        route: None,
        way: Way::NoPort,
        back: way_back(snapshot, key.src(v6), origin),
    };
    decision.verdict = decide_into(&mut decision, snapshot, key, v6, origin, known);
    decision
}

fn decide_into(
    decision: &mut Decision,
    snapshot: &Snapshot,
    key: &Key,
    v6: bool,
    origin: Origin,
    known: Known,
) -> Result<(), DropReason> {
    let (src, protocol) = (key.src(v6), key.protocol());
    // 1. Nobody speaks for somebody else.
    if !may_come(snapshot, src, origin) {
        return Err(DropReason::SpoofedSource);
    }
    // 2. A Service is one of its backends.
    let masquerade = resolve(decision, snapshot, &service_query(key, v6), &known)?;
    if known.resolution.is_none()
        && let Some(place) = snapshot.tables.routes.first_read(decision.dst.ip())
    {
        // The route comes while policy is asked.
        cpu::prefetch(place);
    }
    // 3. Both ends' policies, on the addresses that policies know: source before, destination after translation.
    let policy = &snapshot.tables.policy;
    let translated = decision.service.is_some();
    let judgement = Question { src, dst: decision.dst, protocol, translated }.ask(policy);
    decision.judgement = Some(judgement);
    if let Some(reason) = denial(&judgement) {
        if known.passes {
            decision.revocation = policy.revocation(src, decision.dst.ip(), &judgement);
        }
        if !(known.passes && decision.revocation == Revocation::Keep) {
            return Err(reason);
        }
    }
    // 4. Where that is. Loopback and the like are nowhere but in a host itself.
    if !may_be_hosts(decision.dst.ip()) {
        return Err(DropReason::NoRoute);
    }
    let route = snapshot.tables.routes.lookup(decision.dst.ip());
    decision.route = Some(route);
    let leaves = route == Route::External;
    if route == Route::Unreachable || leaves && origin.is_outside() && decision.service.is_none() {
        return Err(DropReason::NoRoute);
    }
    if matches!(origin, Origin::Tunnel { .. }) && matches!(route, Route::Tunnel(_)) {
        return Err(DropReason::Loop);
    }
    decision.way = way_to(snapshot, route, decision.dst.ip());
    // 5. Replies must come back through here: from a Service that says so, and from outside of the cluster.
    if masquerade || leaves && matches!(origin, Origin::Endpoint(_)) {
        decision.masquerade = Some(node_address(snapshot, v6).ok_or(DropReason::NoRoute)?);
    }
    Ok(())
}

fn denial(judgement: &Judgement) -> Option<DropReason> {
    match (judgement.egress.allowed, judgement.ingress.allowed) {
        (false, _) => Some(DropReason::PolicyEgress),
        (true, false) => Some(DropReason::PolicyIngress),
        (true, true) => None,
    }
}

/// Translates the destination where it is a Service. True where the source is to be translated, too.
fn resolve(
    decision: &mut Decision,
    snapshot: &Snapshot,
    query: &ServiceQuery,
    known: &Known,
) -> Result<bool, DropReason> {
    let services = &snapshot.tables.services;
    // A live flow stays with a backend that still serves, whatever new flows are told.
    let kept = || known.backend.filter(|backend| services.still_serves(query, *backend));
    let (service, choice, masquerade) = match known.resolution.unwrap_or_else(|| services.resolve(query)) {
        Resolution::NotAService => return Ok(false),
        Resolution::Reject { service } => (service, kept().ok_or(DropReason::ServiceReject), false),
        Resolution::Drop { service } => (service, kept().ok_or(DropReason::ServiceDrop), false),
        // SCTP's checksum is not of the kind that a translation can adjust.
        Resolution::Forward { service, .. } if query.protocol == SCTP => {
            (service, Err(DropReason::ServiceDrop), false)
        }
        Resolution::Forward { service, backend, masquerade } => {
            (service, Ok(kept().unwrap_or(backend)), masquerade)
        }
    };
    decision.service = Some(service);
    decision.dst = choice?;
    Ok(masquerade)
}

/// Whether a packet from `src` may come in here. (An endpoint's own port is held to its addresses packet by packet;
/// this is the rest.)
fn may_come(snapshot: &Snapshot, src: IpAddr, origin: Origin) -> bool {
    let route = || snapshot.tables.routes.lookup(src);
    match origin {
        Origin::Endpoint(port) => snapshot.port(port).is_some_and(|view| view.addresses.contains(&src)),
        Origin::Host(_) => route() == Route::Node,
        Origin::Uplink(_) => route() == Route::External,
        Origin::Tunnel { node, .. } => {
            // A node speaks for its pods, and for itself where it has masqueraded.
            let own = snapshot.tables.routes.nodes().get(node as usize);
            route() == Route::Tunnel(node) || own.is_some_and(|own| own.addresses.contains(&src))
        }
    }
}

/// The way to an address whose route is known.
pub fn way_to(snapshot: &Snapshot, route: Route, address: IpAddr) -> Way {
    let listed = |ways: &[Way], index: u32| ways.get(index as usize).copied().unwrap_or(Way::NoPort);
    match route {
        Route::Endpoint(index) => listed(&snapshot.endpoints, index),
        Route::Tunnel(node) => listed(&snapshot.tunnels, node),
        Route::Node => snapshot.host,
        Route::External => match snapshot.underlay.next_hop(address) {
            Some(hop) => {
                snapshot.underlay.neighbours.get(&hop).map_or(Way::Unresolved, |way| Way::Ready(*way))
            }
            None => Way::NoPort,
        },
        Route::Unreachable => Way::NoPort,
    }
}

/// The way to whoever sent a packet.
fn way_back(snapshot: &Snapshot, src: IpAddr, origin: Origin) -> Way {
    match origin {
        Origin::Endpoint(port) | Origin::Host(port) => {
            snapshot.port(port).map_or(Way::NoPort, |view| view.way)
        }
        Origin::Uplink(_) => way_to(snapshot, Route::External, src),
        Origin::Tunnel { node, .. } => way_to(snapshot, Route::Tunnel(node), src),
    }
}

/// This node's address of the family: what masqueraded packets come from.
pub fn node_address(snapshot: &Snapshot, v6: bool) -> Option<IpAddr> {
    if v6 { snapshot.node_v6.map(IpAddr::V6) } else { snapshot.node_v4.map(IpAddr::V4) }
}

/// The gateway's address of the family.
pub fn gateway_address(snapshot: &Snapshot, v6: bool) -> IpAddr {
    if v6 { snapshot.gateway_v6.into() } else { snapshot.gateway_v4.into() }
}

/// Where a packet from `src` would come in; `None` where no port is attached for it.
pub fn origin_of(snapshot: &Snapshot, src: IpAddr) -> Option<Origin> {
    match snapshot.tables.routes.lookup(src) {
        Route::Endpoint(index) => port_of(snapshot, Role::Endpoint(Some(index))).map(Origin::Endpoint),
        Route::Tunnel(node) => port_of(snapshot, Role::Uplink).map(|port| Origin::Tunnel { port, node }),
        Route::Node => port_of(snapshot, Role::Host).map(Origin::Host),
        Route::External => port_of(snapshot, Role::Uplink).map(Origin::Uplink),
        Route::Unreachable => None,
    }
}

/// The port with a role.
pub fn port_of(snapshot: &Snapshot, role: Role) -> Option<PortIndex> {
    let mut ports = snapshot.ports.iter();
    let found = ports.position(|view| view.as_ref().is_some_and(|view| view.role == role));
    found.and_then(|index| PortIndex::try_from(index).ok())
}
