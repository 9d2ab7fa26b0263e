//! What we say ourselves: neighbours, echo, errors, resets. The packet that asked ends under its reason; the answer is
//! one that we made, in the same frame.

use std::net::IpAddr;

use afxdp_driver::Frame;

use super::miss::Renewal;
use super::{Item, Notice, Pipeline, Turn, rewrite};
use crate::drops::DropReason;
use crate::flow::{Entry, Flags, Key};
use crate::judge::{self, Origin};
use crate::snapshot::{PortIndex, Role, Way};
use crate::wire::icmp::{self, ErrorKind, Translation};
use crate::wire::parse::{self, Packet};
use crate::wire::{L4Kind, TCP, arp, ndp, tcp};

/// Errors that a worker answers with in a second (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4(f)).
const ERRORS_A_SECOND: u32 = 1000;

/// How many more errors may be answered with in this second, and what was asked in it.
#[derive(Debug, Default)]
pub(super) struct Budget {
    second: u32,
    used: u32,
    /// By port: the second in which its endpoint was last asked for its MAC address, plus one.
    asked: Vec<u32>,
}

impl Budget {
    fn take(&mut self, now_seconds: u32) -> bool {
        if self.second != now_seconds {
            (self.second, self.used) = (now_seconds, 0);
        }
        self.used += 1;
        self.used <= ERRORS_A_SECOND
    }

    /// At most one question a port and second.
    fn may_ask(&mut self, port: PortIndex, now_seconds: u32) -> bool {
        let index = port as usize;
        if self.asked.len() <= index {
            self.asked.resize(index + 1, 0);
        }
        std::mem::replace(&mut self.asked[index], now_seconds + 1) != now_seconds + 1
    }
}

impl Pipeline {
    /// ARP: we answer for everything but the endpoint's own addresses, as a router's proxy (RFC 1027); to the node's
    /// stack for the pods.
    #[cold]
    pub(super) fn answer_arp(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame) {
        let packet = match arp::parse(&frame) {
            Ok(packet) if !item.origin.is_outside() => packet,
            Ok(_) => return self.end(turn, item, frame, DropReason::Arp, None),
            Err(reason) => return self.end(turn, item, frame, reason, None),
        };
        let answers = packet.op == arp::Operation::Request
            && !packet.is_probe()
            && !packet.is_announcement()
            && self.answers_for(turn, packet.target_ip.into());
        if answers && arp::reply_in_place(&mut frame, turn.view.mac) {
            self.tally.drop(DropReason::Answered);
            return self.send_back(turn, item, frame);
        }
        self.end(turn, item, frame, DropReason::Arp, None);
    }

    /// Neighbour discovery; other ICMPv6 is a flow like others.
    #[cold]
    pub(super) fn answer_icmp(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame) {
        let message = match ndp::parse(&frame, &item.parsed) {
            Ok(Some(message)) => message,
            Ok(None) => return self.follow_icmp(turn, item, frame),
            Err(reason) => return self.end(turn, item, frame, reason, None),
        };
        if let ndp::Message::Solicitation(solicitation) = message
            && !item.origin.is_outside()
            && !solicitation.is_probe()
            && self.answers_for(turn, solicitation.target.into())
            && ndp::advertise_in_place(&mut frame, &item.parsed, turn.view.mac, true)
        {
            self.tally.drop(DropReason::Answered);
            return self.send_back(turn, item, frame);
        }
        self.end(turn, item, frame, DropReason::NeighbourDiscovery, None);
    }

    fn follow_icmp(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame) {
        let is_own = turn.view.addresses.contains(&item.parsed.src());
        let reason = match turn.view.role {
            _ if matches!(item.parsed.dst(), IpAddr::V6(dst) if dst.is_multicast()) => DropReason::Multicast,
            Role::Endpoint(None) => DropReason::PortUnbound,
            Role::Endpoint(Some(_)) if !is_own => DropReason::SpoofedSource,
            _ => return self.follow(turn, item, frame),
        };
        self.end(turn, item, frame, reason, None);
    }

    /// Whether we say that an address is here.
    fn answers_for(&self, turn: &Turn<'_>, target: IpAddr) -> bool {
        match turn.view.role {
            _ if target == judge::gateway_address(turn.snapshot, target.is_ipv6()) => true,
            Role::Endpoint(_) => !turn.view.addresses.contains(&target),
            Role::Host => turn.snapshot.tables.routes.pod_cidrs().iter().any(|cidr| cidr.contains(&target)),
            Role::Uplink => false,
        }
    }

    /// A packet to the gateway itself: echo is answered, the rest refused.
    pub(super) fn answer_for_gateway(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame) {
        if item.parsed.kind == L4Kind::Echo {
            if frame.resize(item.parsed.end()) && icmp::echo_reply_in_place(&mut frame, &item.parsed) {
                self.tally.drop(DropReason::Answered);
                return self.send_back(turn, item, frame);
            }
            return self.end(turn, item, frame, DropReason::NoRoute, None);
        }
        self.refuse_port(turn, item, frame, DropReason::NoRoute);
    }

    /// A Service without an endpoint, in its own name.
    pub(super) fn answer_with_reject(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame) {
        self.refuse_port(turn, item, frame, DropReason::ServiceReject);
    }

    /// A segment of a connection that policy has revoked, and whose ends are to know. The number in a reset that answers is the one that
    /// its receiver expects (RFC 5961, section 3.2), so each end takes the one that answers its own segment.
    #[cold]
    pub(super) fn answer_with_reset(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        mut frame: Frame,
        reason: DropReason,
        entry: Entry,
    ) {
        let answered = self.answers.take(turn.now.seconds) && tcp::reset_in_place(&mut frame, &item.parsed);
        self.finish_answer(turn, item, frame, reason, answered, Some(&entry));
    }

    /// Tells the far end of a connection that is revoked by this segment, of which `entry` says where it would have gone: it may have
    /// nothing to say, and would never be answered. A reset goes on as it is: another node may have revoked the connection first.
    #[cold]
    pub(super) fn abort(&mut self, turn: &mut Turn<'_>, item: &Item, frame: &Frame, entry: &Entry) {
        // The entry's own way out is by number, of a snapshot that has gone.
        let there = entry.rewritten.dst(item.parsed.v6);
        let route = turn.snapshot.tables.routes.lookup(there);
        let Way::Ready(way) = judge::way_to(turn.snapshot, route, there) else { return };
        let Some(egress) = turn.snapshot.egresses.get(way as usize) else { return };
        let Some(mut reset) = turn.pool.alloc() else { return };
        let made = reset.fill(frame)
            && (item.parsed.tcp_flags & tcp::RST != 0 || tcp::abort_in_place(&mut reset, &item.parsed))
            && match parse::parse(&reset) {
                Ok(Packet::Ip(parsed)) => {
                    rewrite::forward(&mut reset, &parsed, entry, egress, item.hash as u32)
                }
                _ => false,
            };
        if !made {
            turn.pool.free(reset);
            return;
        }
        self.tally.generated += 1;
        self.emit(turn, egress.port, egress.worker, reset);
    }

    /// As a host refuses where nobody listens: TCP by a reset, the rest by "port unreachable".
    fn refuse_port(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame, reason: DropReason) {
        let parsed = &item.parsed;
        let answered = self.answers.take(turn.now.seconds)
            && if parsed.protocol == TCP {
                tcp::reset_in_place(&mut frame, parsed)
            } else {
                icmp::error_in_place(&mut frame, parsed, ErrorKind::PortUnreachable, parsed.dst())
            };
        self.finish_answer(turn, item, frame, reason, answered, None);
    }

    /// Ends a packet with an error to its source.
    #[cold]
    pub(super) fn answer_with_error(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        mut frame: Frame,
        reason: DropReason,
        kind: ErrorKind,
    ) {
        let v6 = item.parsed.v6;
        let own = if item.origin.is_outside() { judge::node_address(turn.snapshot, v6) } else { None };
        let from = own.unwrap_or_else(|| judge::gateway_address(turn.snapshot, v6));
        let answered =
            self.answers.take(turn.now.seconds) && icmp::error_in_place(&mut frame, &item.parsed, kind, from);
        self.finish_answer(turn, item, frame, reason, answered, None);
    }

    fn finish_answer(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        frame: Frame,
        reason: DropReason,
        answered: bool,
        entry: Option<&Entry>,
    ) {
        if !answered {
            return self.end(turn, item, frame, reason, entry);
        }
        self.tally.drop(reason);
        if let Some(entry) = entry {
            self.count_denied_packet(turn, reason, entry);
        }
        if turn.snapshot.watch_drops {
            self.record(turn, item, reason, entry);
        }
        self.send_back(turn, item, frame);
    }

    /// Sends what we have made out of a packet to where that came from.
    fn send_back(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame) {
        self.tally.generated += 1;
        if let Origin::Tunnel { node, .. } = item.origin {
            let way = turn.snapshot.tunnels.get(node as usize).copied().unwrap_or(Way::NoPort);
            let Way::Ready(index) = way else {
                return self.lose(turn.pool, frame, DropReason::NeighbourUnresolved);
            };
            let Some(egress) = turn.snapshot.egresses.get(index as usize) else {
                return self.lose(turn.pool, frame, DropReason::NoPort);
            };
            if !rewrite::header(&mut frame, egress, item.hash as u32) {
                return self.lose(turn.pool, frame, DropReason::Truncated);
            }
            return self.emit(turn, egress.port, egress.worker, frame);
        }
        self.emit(turn, turn.port, turn.view.worker, frame);
    }

    /// Asks the endpoint (or host) behind a port for the MAC address of one of its addresses.
    pub(super) fn solicit(&mut self, turn: &mut Turn<'_>, port: PortIndex, target: IpAddr) {
        let Some(view) = turn.snapshot.port(port) else { return };
        if !self.answers.may_ask(port, turn.now.seconds) {
            return;
        }
        let Some(mut frame) = turn.pool.alloc() else { return };
        let made = match target {
            IpAddr::V4(target) => arp::request(&mut frame, view.mac, turn.snapshot.gateway_v4, target),
            IpAddr::V6(target) => ndp::solicit(&mut frame, view.mac, turn.snapshot.gateway_v6, target),
        };
        if !made {
            turn.pool.free(frame);
            return;
        }
        self.tally.generated += 1;
        self.emit(turn, port, view.worker, frame);
    }

    /// An ICMP error goes the way of the flow it quotes, and reads there as if there were no translation.
    #[cold]
    pub(super) fn relay_error(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame) {
        let (parsed, v6) = (&item.parsed, item.parsed.v6);
        let Some(quoted) = icmp::quoted(&frame, parsed) else {
            return self.end(turn, item, frame, DropReason::IcmpUnrelated, None);
        };
        // The error travels against what it quotes: with the packets of the other direction.
        let key = Key::of(&quoted.parsed).reversed(v6);
        let Some(mut found) = self.lookup(v6, &key) else {
            return self.end(turn, item, frame, DropReason::IcmpUnrelated, None);
        };
        if !turn.snapshot.upholds(v6, &found.entry) {
            match self.renew(turn, item, found) {
                Renewal::Holds(entry) => found.entry = entry,
                Renewal::NoWay(reason) => return self.end(turn, item, frame, reason, Some(&found.entry)),
                Renewal::Over => return self.end(turn, item, frame, DropReason::IcmpUnrelated, None),
            }
        }
        let entry = found.entry;
        let from_endpoint = parsed.src() == entry.key.src(v6);
        // Routers speak of the flows of others, pods of their own alone.
        let is_ours = parsed.dst() == entry.key.dst(v6)
            && entry.flags.has(Flags::FROM_UPLINK) == item.origin.is_outside()
            && (from_endpoint || !matches!(item.origin, Origin::Endpoint(_)));
        let reason = match entry.flags.drop_reason() {
            Some(reason) => Some(reason),
            None if !is_ours => Some(DropReason::IcmpUnrelated),
            None => None,
        };
        if let Some(reason) = reason {
            return self.end(turn, item, frame, reason, Some(&entry));
        }
        let Some(egress) = turn.snapshot.egresses.get(entry.egress as usize) else {
            return self.end(turn, item, frame, DropReason::NoPort, Some(&entry));
        };
        if parsed.ttl <= 1 || parsed.ip_len > egress.mtu {
            let reason = if parsed.ttl <= 1 { DropReason::TtlExceeded } else { DropReason::TooBig };
            return self.end(turn, item, frame, reason, Some(&entry));
        }
        let new = &entry.rewritten;
        let to = Translation {
            quoted_src: (new.dst(v6), new.dst_port()),
            quoted_dst: (new.src(v6), new.src_port()),
            outer_src: if from_endpoint { new.src(v6) } else { parsed.src() },
            outer_dst: new.dst(v6),
        };
        let rewritten =
            !entry.flags.has(Flags::NAT) || icmp::translate_quoted(&mut frame, parsed, &quoted, &to);
        if !rewritten
            || !frame.resize(parsed.end())
            || !rewrite::decrement_ttl(&mut frame, parsed, rewrite::TTL_DELTA)
            || !rewrite::header(&mut frame, egress, item.hash as u32)
        {
            return self.end(turn, item, frame, DropReason::IcmpUnrelated, Some(&entry));
        }
        self.tally.hits += 1;
        self.emit(turn, egress.port, egress.worker, frame);
    }

    /// Asks every endpoint of this worker whose MAC address nobody knows: before its first packet needs it.
    pub(crate) fn ask_unknown(&mut self, turn: &mut Turn<'_>) {
        if turn.view.peer_mac.is_none()
            && let Some(address) = turn.view.addresses.first()
        {
            self.notify(Notice::UnresolvedPort(turn.port));
            self.solicit(turn, turn.port, *address);
        }
    }
}
