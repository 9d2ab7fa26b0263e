//! The slow path: a flow's first packet, and its first under a new generation.

use std::net::{IpAddr, SocketAddr};

use afxdp_driver::Frame;
use policy_compiler::intent::Revocation;
use policy_compiler::policy::RuleId;
use policy_compiler::routes::Route;

use super::{Item, Notice, Pipeline, Turn, rewrite};
use crate::drops::DropReason;
use crate::flow::entry::NO_PARTNER;
use crate::flow::state::Standing;
use crate::flow::{Entry, Flags, Found, Key};
use crate::judge::{self, Decision, Known, Origin};
use crate::snapshot::{EgressIndex, Role, Way};
use crate::wire::checksum::transport_ok;
use crate::wire::icmp::ErrorKind;
use crate::wire::{L4Kind, TCP, tcp};

/// Source ports tried for a masqueraded flow: at half of the range in use, all of them miss once in 2^256 flows.
const PORT_TRIES: u16 = 256;

impl Pipeline {
    /// A packet whose entry is of an older generation, or which opens a connection where one has been.
    #[inline(never)]
    pub(super) fn follow_again(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame, found: Found) {
        let opens = item.parsed.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        if opens && !found.entry.flags.has(Flags::DROP) && self.standing(item, &found) == Standing::Closed {
            self.forget(item.parsed.v6, found.slot);
            return self.miss(turn, item, frame);
        }
        if turn.snapshot.upholds(item.parsed.v6, &found.entry) {
            self.tally.hits += 1;
            return self.replay(turn, item, frame, &found);
        }
        self.tally.misses += 1;
        match self.renew(turn, item, found) {
            Renewal::Holds(entry) => {
                if entry.flags.has(Flags::RESET) && !found.entry.flags.has(Flags::DROP) {
                    self.abort(turn, item, &frame, &found.entry);
                }
                self.replay(turn, item, frame, &Found { entry, ..found });
            }
            Renewal::NoWay(reason) => self.park(turn, item, frame, reason),
            Renewal::Over if found.entry.flags.has(Flags::REPLY) => {
                self.forget(item.parsed.v6, found.slot);
                self.end(turn, item, frame, DropReason::ServiceDrop, Some(&found.entry));
            }
            Renewal::Over => {
                self.forget(item.parsed.v6, found.slot);
                self.tally.misses -= 1;
                self.judge(turn, item, frame, Some(&found.entry));
            }
        }
    }

    /// A flow that has no entry.
    #[inline(always)]
    pub(super) fn miss(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame) {
        self.judge(turn, item, frame, None);
    }

    /// Judges a flow from the beginning; `before` is the entry that it had until now.
    #[inline(never)]
    fn judge(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame, before: Option<&Entry>) {
        self.tally.misses += 1;
        if frame.first().is_some_and(|first| first & 1 != 0) || is_for_many(&item.parsed.dst()) {
            return self.end(turn, item, frame, DropReason::Multicast, None);
        }
        if item.parsed.dst() == judge::gateway_address(turn.snapshot, item.parsed.v6)
            && !item.origin.is_outside()
        {
            return self.answer_for_gateway(turn, item, frame);
        }
        if item.parsed.kind == L4Kind::Tcp && item.parsed.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
            return self.end(turn, item, frame, DropReason::TcpInvalid, None);
        }
        let known = Known { resolution: item.resolution, ..Known::default() };
        let decision = judge::decide(turn.snapshot, &item.key(), item.parsed.v6, item.origin, known);
        match decision.verdict {
            Ok(()) => self.admit(turn, item, frame, &decision, before),
            Err(reason) => self.deny(turn, item, frame, (&decision, reason), before),
        }
    }

    /// Refused: denials by policy are remembered, the rest is answered where it should be.
    fn deny(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        frame: Frame,
        (decision, reason): (&Decision, DropReason),
        before: Option<&Entry>,
    ) {
        let entry = Entry {
            key: item.key(),
            // What was judged: should another thing be said of that address, it is judged again.
            rewritten: judged(item, decision),
            epoch: turn.snapshot.epoch(),
            flags: Flags::drop(reason).with(side(item.origin)),
            rule: rule_of(decision, reason).0,
            partner: NO_PARTNER,
            ..Entry::default()
        };
        match reason {
            DropReason::PolicyEgress | DropReason::PolicyIngress => {
                self.count_denied(turn, decision, reason, before);
                self.insert(item.parsed.v6, &entry, turn.now.seconds);
                self.compare_judged(turn, &entry.key, item.parsed.v6, decision);
                self.end(turn, item, frame, reason, Some(&entry));
            }
            DropReason::ServiceReject => self.answer_with_reject(turn, item, frame),
            DropReason::NoRoute => {
                self.answer_with_error(turn, item, frame, reason, ErrorKind::HostUnreachable)
            }
            _ => self.end(turn, item, frame, reason, Some(&entry)),
        }
    }

    /// Allowed: both directions get an entry, and the packet goes its way.
    fn admit(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        frame: Frame,
        decision: &Decision,
        before: Option<&Entry>,
    ) {
        let v6 = item.parsed.v6;
        let Way::Ready(egress) = decision.way else {
            let reason = self.resolve(turn, decision);
            return self.park(turn, item, frame, reason);
        };
        let translated = decision.dst.ip() != item.key().dst(v6) || decision.masquerade.is_some();
        let is_hairpin = turn.snapshot.egresses.get(egress as usize).is_some_and(|way| way.port == turn.port);
        if is_hairpin && matches!(item.origin, Origin::Endpoint(_)) && !translated {
            return self.end(turn, item, frame, DropReason::Loop, None);
        }
        let Some(rewritten) = self.translated(turn, item, decision) else {
            return self.end(turn, item, frame, DropReason::SnatExhausted, None);
        };
        let (forward, reply) = entries(turn, item, decision, rewritten, egress);
        // The lines of the replies come while the checksum is added up, where they are not here already.
        if item.resolution.is_none() || decision.masquerade.is_some() {
            self.expect_new(v6, &reply.key);
        }
        if translated && !transport_ok(&frame, &item.parsed) {
            return self.end(turn, item, frame, DropReason::BadL4Checksum, None);
        }
        self.make_room(v6, &reply.key);
        let Some(slot) = self.insert_pair(v6, forward, reply, turn.now.seconds) else {
            return self.end(turn, item, frame, DropReason::FlowTableFull, Some(&forward));
        };
        self.count_allowed(turn, decision, before);
        self.compare_judged(turn, &forward.key, v6, decision);
        self.replay(turn, item, frame, &Found { slot, entry: forward });
    }

    /// The packet's key as it leaves; `None` where no source port is left.
    fn translated(&self, turn: &Turn<'_>, item: &Item, decision: &Decision) -> Option<Key> {
        let (v6, protocol) = (item.parsed.v6, item.key().protocol());
        let is_echo = item.parsed.kind == L4Kind::Echo;
        let dst_port = if is_echo { item.key().dst_port() } else { decision.dst.port() };
        let key = |src: IpAddr, port: u16| {
            let dst_port = if is_echo { port } else { dst_port };
            Key::new(src, port, decision.dst.ip(), dst_port, protocol)
        };
        let Some(address) = decision.masquerade else {
            return Some(key(item.key().src(v6), item.key().src_port()));
        };
        let is_free = |key: &Key| self.lookup(v6, &key.reversed(v6)).is_none();
        if !is_echo && !matches!(item.parsed.kind, L4Kind::Tcp | L4Kind::Udp) {
            let only = key(address, item.key().src_port());
            return is_free(&only).then_some(only);
        }
        let (first, last) = turn.snapshot.snat_ports;
        let count = last.saturating_sub(first).saturating_add(1);
        let start = item.hash as u16 % count.max(1);
        let port = |step: u16| first + (start as u32 + step as u32).rem_euclid(count as u32) as u16;
        (0..PORT_TRIES.min(count)).map(|step| key(address, port(step))).find(is_free)
    }

    /// Judges a flow once more, by its first packet's key. Both directions hold again, or drop, afterwards.
    pub(super) fn renew(&mut self, turn: &mut Turn<'_>, item: &Item, found: Found) -> Renewal {
        let v6 = item.parsed.v6;
        let Some(partner) = self.partner(v6, &found) else { return Renewal::Over };
        let is_reply = found.entry.flags.has(Flags::REPLY);
        let (mut forward, mut reply) = if is_reply { (partner, found) } else { (found, partner) };
        let Some(origin) = origin_of_flow(turn, item, &forward.entry, is_reply) else {
            return Renewal::NoWay(DropReason::NoPort);
        };
        let (key, rewritten) = (forward.entry.key, forward.entry.rewritten);
        let backend = SocketAddr::new(rewritten.dst(v6), rewritten.dst_port());
        let kept = forward.entry.flags.has(Flags::SERVICE).then_some(backend);
        let passes = !forward.entry.flags.has(Flags::DROP);
        let known = Known { backend: kept, passes, resolution: None };
        let decision = judge::decide(turn.snapshot, &key, v6, origin, known);
        let epoch = turn.snapshot.epoch();
        // Both lines were judged at once; one that lacks its way says of itself that it never was.
        let judged = if forward.entry.epoch == 0 { reply.entry.epoch } else { forward.entry.epoch };
        let before = Entry { epoch: judged, ..forward.entry };
        match decision.verdict {
            Err(DropReason::ServiceReject | DropReason::ServiceDrop) => return Renewal::Over,
            // Denied at another backend than it has.
            Err(_) if decision.service.is_some() && decision.dst.ip() != backend.ip() => {
                return Renewal::Over;
            }
            Err(reason) => {
                self.count_denied(turn, &decision, reason, Some(&before));
                let denial = denial(&key, &decision, reason, forward.entry.flags);
                for entry in [&mut forward.entry, &mut reply.entry] {
                    entry.flags = entry.flags.forwarding().with(denial);
                    entry.rule = rule_of(&decision, reason).0;
                    entry.epoch = epoch;
                }
            }
            Ok(()) if decision.dst.ip() != backend.ip() => return Renewal::Over,
            Ok(()) if kept.is_some() && decision.dst.port() != backend.port() => return Renewal::Over,
            Ok(()) => {
                self.count_allowed(turn, &decision, Some(&before));
                for (entry, way) in [(&mut forward.entry, decision.way), (&mut reply.entry, decision.back)] {
                    entry.flags = entry.flags.forwarding();
                    (entry.rule, entry.egress_rule) = rules(&decision);
                    (entry.egress, entry.epoch) = ready(way, epoch);
                }
            }
        }
        self.compare_judged(turn, &key, v6, &decision);
        self.update(v6, &forward);
        self.update(v6, &reply);
        let entry = if is_reply { reply.entry } else { forward.entry };
        if entry.epoch == epoch {
            return Renewal::Holds(entry);
        }
        let back = judge::origin_of(turn.snapshot, key.src(v6)).map(Origin::port);
        Renewal::NoWay(match (is_reply, decision.back, back) {
            (false, ..) => self.resolve(turn, &decision),
            (true, Way::Unresolved, Some(port)) => self.resolve_back(turn, port, key.src(v6)),
            (true, ..) => DropReason::NoPort,
        })
    }

    /// Asks for the MAC address that a way lacks. Answers with the reason to drop the packet that wanted it.
    fn resolve(&mut self, turn: &mut Turn<'_>, decision: &Decision) -> DropReason {
        if decision.way != Way::Unresolved {
            return DropReason::NoPort;
        }
        let snapshot = turn.snapshot;
        match decision.route {
            Some(Route::Endpoint(index)) => {
                self.ask_port(turn, Role::Endpoint(Some(index)), decision.dst.ip())
            }
            Some(Route::Node) => self.ask_port(turn, Role::Host, decision.dst.ip()),
            Some(Route::Tunnel(node)) => {
                let peer = snapshot.tables.routes.nodes().get(node as usize);
                let family = |address: &&IpAddr| address.is_ipv4() == snapshot.node_v4.is_some();
                if let Some(address) = peer.and_then(|peer| peer.addresses.iter().find(family)) {
                    let hop = snapshot.underlay.next_hop(*address).unwrap_or(*address);
                    self.notify(Notice::Unresolved(hop));
                }
            }
            Some(Route::External) => {
                if let Some(hop) = snapshot.underlay.next_hop(decision.dst.ip()) {
                    self.notify(Notice::Unresolved(hop));
                }
            }
            _ => {}
        }
        DropReason::NeighbourUnresolved
    }

    fn resolve_back(&mut self, turn: &mut Turn<'_>, port: u16, address: IpAddr) -> DropReason {
        match turn.snapshot.port(port).map(|view| view.role) {
            Some(Role::Uplink) => {
                if let Some(hop) = turn.snapshot.underlay.next_hop(address) {
                    self.notify(Notice::Unresolved(hop));
                }
            }
            Some(role) => self.ask_port(turn, role, address),
            None => {}
        }
        DropReason::NeighbourUnresolved
    }

    fn ask_port(&mut self, turn: &mut Turn<'_>, role: Role, address: IpAddr) {
        if let Some(port) = judge::port_of(turn.snapshot, role) {
            self.notify(Notice::UnresolvedPort(port));
            self.solicit(turn, port, address);
        }
    }

    /// Frees the key of a flow's replies: a denial that stands there, or what is left of another flow.
    fn make_room(&self, v6: bool, key: &Key) {
        if let Some(found) = self.lookup(v6, key) {
            self.forget(v6, found.slot);
        }
    }
}

/// What became of a flow under a new generation.
pub(super) enum Renewal {
    /// This is its entry now, forwarding or dropping.
    Holds(Entry),
    /// It is allowed, but there is no way for this direction at the moment.
    NoWay(DropReason),
    /// It is no more: its Service or backend has gone.
    Over,
}

/// The tables, by family.
impl Pipeline {
    pub(super) fn lookup(&self, v6: bool, key: &Key) -> Option<Found> {
        self.lookup_hashed(v6, key, if v6 { self.flows.v6.hash(key) } else { self.flows.v4.hash(key) })
    }

    pub(super) fn expect_new(&self, v6: bool, key: &Key) {
        if v6 {
            self.flows.v6.expect_new(self.flows.v6.hash(key));
        } else {
            self.flows.v4.expect_new(self.flows.v4.hash(key));
        }
    }

    #[inline(always)]
    pub(super) fn lookup_hashed(&self, v6: bool, key: &Key, hash: u64) -> Option<Found> {
        if v6 { self.flows.v6.lookup(key, hash) } else { self.flows.v4.lookup(key, hash) }
    }

    fn partner(&self, v6: bool, found: &Found) -> Option<Found> {
        if v6 {
            self.flows.v6.partner(found.slot, &found.entry)
        } else {
            self.flows.v4.partner(found.slot, &found.entry)
        }
    }

    fn standing(&self, item: &Item, found: &Found) -> Standing {
        if item.parsed.v6 {
            self.flows.v6.standing(found.slot, &found.entry)
        } else {
            self.flows.v4.standing(found.slot, &found.entry)
        }
    }

    fn insert(&self, v6: bool, entry: &Entry, now_seconds: u32) {
        // Where there is no place for a denial, the next packet is judged again.
        let _ = if v6 {
            self.flows.v6.insert(entry, now_seconds)
        } else {
            self.flows.v4.insert(entry, now_seconds)
        };
    }

    fn insert_pair(&self, v6: bool, forward: Entry, reply: Entry, now_seconds: u32) -> Option<u32> {
        let slots = if v6 {
            self.flows.v6.insert_pair(forward, reply, now_seconds)
        } else {
            self.flows.v4.insert_pair(forward, reply, now_seconds)
        };
        slots.map(|(forward, _)| forward)
    }

    fn update(&self, v6: bool, found: &Found) {
        if v6 {
            self.flows.v6.update(found.slot, &found.entry);
        } else {
            self.flows.v4.update(found.slot, &found.entry);
        }
    }

    fn forget(&self, v6: bool, slot: u32) {
        if v6 {
            self.flows.v6.remove(slot);
        } else {
            self.flows.v4.remove(slot);
        }
    }
}

/// The entries of both directions of an allowed flow.
fn entries(
    turn: &Turn<'_>,
    item: &Item,
    decision: &Decision,
    rewritten: Key,
    egress: EgressIndex,
) -> (Entry, Entry) {
    let v6 = item.parsed.v6;
    let epoch = turn.snapshot.epoch();
    let mut flags = Flags::default();
    for (holds, flag) in [(rewritten != item.key(), Flags::NAT), (decision.service.is_some(), Flags::SERVICE)]
    {
        flags = if holds { flags.with(flag) } else { flags };
    }
    let (rule, egress_rule) = rules(decision);
    let (l3_delta, l4_delta) = rewrite::deltas(&item.key(), &rewritten, item.parsed.kind);
    let forward = Entry {
        key: item.key(),
        rewritten,
        epoch,
        egress,
        flags: flags.with(side(item.origin)),
        rule,
        egress_rule,
        partner: NO_PARTNER,
        l3_delta,
        l4_delta,
    };
    let (key, rewritten) = (rewritten.reversed(v6), item.key().reversed(v6));
    let (l3_delta, l4_delta) = rewrite::deltas(&key, &rewritten, item.parsed.kind);
    let (egress, epoch) = ready(decision.back, epoch);
    let outside = match decision.route {
        Some(Route::Tunnel(_)) => Flags::FROM_UPLINK.with(Flags::TUNNELLED),
        Some(Route::External) => Flags::FROM_UPLINK,
        _ => Flags::default(),
    };
    let flags = flags.with(Flags::REPLY).with(outside);
    (forward, Entry { key, rewritten, epoch, egress, flags, l3_delta, l4_delta, ..forward })
}

/// An entry's egress and epoch for a way. Without an egress the entry counts as never judged, so that the first
/// packet that wants it asks again.
fn ready(way: Way, epoch: u32) -> (EgressIndex, u32) {
    match way {
        Way::Ready(egress) => (egress, epoch),
        Way::Unresolved | Way::NoPort => (0, 0),
    }
}

/// The sides that packets from an origin come by.
fn side(origin: Origin) -> Flags {
    match origin {
        Origin::Tunnel { .. } => Flags::FROM_UPLINK.with(Flags::TUNNELLED),
        Origin::Uplink(_) => Flags::FROM_UPLINK,
        Origin::Endpoint(_) | Origin::Host(_) => Flags::default(),
    }
}

/// Where the first packet of a flow came in; asked when the packet at hand may be a reply.
fn origin_of_flow(turn: &Turn<'_>, item: &Item, forward: &Entry, is_reply: bool) -> Option<Origin> {
    if !is_reply {
        return Some(item.origin);
    }
    let src = forward.key.src(item.parsed.v6);
    if !forward.flags.has(Flags::TUNNELLED) {
        return judge::origin_of(turn.snapshot, src);
    }
    let node = match turn.snapshot.tables.routes.lookup(src) {
        Route::Tunnel(node) => node,
        // A node that masquerades sends from its own address.
        _ => *turn.snapshot.tunnel_peers.get(&src)?,
    };
    let port = judge::port_of(turn.snapshot, Role::Uplink)?;
    Some(Origin::Tunnel { port, node })
}

/// The verdict's flags on a flow that was judged again and is dropped for `reason`; `before` are those of its first direction. A
/// reset that is due stays so.
fn denial(key: &Key, decision: &Decision, reason: DropReason, before: Flags) -> Flags {
    let revoked =
        !before.has(Flags::DROP) && decision.revocation == Revocation::Reset && key.protocol() == TCP;
    let resets = revoked || before.has(Flags::RESET);
    let by_policy = matches!(reason, DropReason::PolicyEgress | DropReason::PolicyIngress);
    Flags::drop(reason).with(if by_policy && resets { Flags::RESET } else { Flags::default() })
}

/// The key of a denied packet as policies were asked of it.
fn judged(item: &Item, decision: &Decision) -> Key {
    let (v6, key) = (item.parsed.v6, item.key());
    Key::new(key.src(v6), key.src_port(), decision.dst.ip(), decision.dst.port(), key.protocol())
}

/// The rules of an allowed flow: of the destination's ingress, of the source's egress.
fn rules(decision: &Decision) -> (u32, u32) {
    decision.judgement.map_or((0, 0), |judgement| (judgement.ingress.rule.0, judgement.egress.rule.0))
}

/// The rule that denied.
pub(super) fn rule_of(decision: &Decision, reason: DropReason) -> RuleId {
    match (decision.judgement, reason) {
        (Some(judgement), DropReason::PolicyEgress) => judgement.egress.rule,
        (Some(judgement), _) => judgement.ingress.rule,
        (None, _) => RuleId::default(),
    }
}

fn is_for_many(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}
