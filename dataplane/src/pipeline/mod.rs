//! The pipeline: a batch from one port, in the packet's order.
//!
//! ```text
//!   parse      every frame: what it is, who may send it, its key; its flow's line is on the way       (mod)
//!   ahead      where flows are new: what their judgement reads is on the way, all of them abreast       (ahead)
//!   compare    where a shadow is set: established flows of the sample, with what its policies say    (shadow)
//!   act        look-up ─ hit ─► rewrite ─► out                                                  (mod, rewrite)
//!                 ├─ older generation ─► judged again, once                                             (miss)
//!                 ├─ miss ─► judged: two entries, or a denial                                           (miss)
//!                 └─ for us, or an error ─► answered                                                  (answer)
//!              what was judged is counted, by rule                                                    (judged)
//!   close      counters, once a batch
//! ```
//!
//! A packet whose next hop is being asked for is held for a moment (parking).
//!
//! The law of every batch: packets in + packets made = packets out + drops + what is held more than before.

mod ahead;
mod answer;
mod express;
mod judged;
mod miss;
mod output;
mod parking;
mod rewrite;
mod shadow;
mod tally;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use afxdp_driver::{BATCH_SIZE, Batch, Frame, FramePool};
use arrayvec::ArrayVec;
use policy_compiler::policy::RuleId;
use policy_compiler::service::Resolution;

use crate::counters::WorkerCounters;
use crate::drops::DropReason;
use crate::flow::entry::words_of;
use crate::flow::{Entry, Flags, FlowTables, Found, Key, state};
use crate::judge::Origin;
use crate::messages::{DifferenceRecord, DropRecord};
use crate::snapshot::{Mac, PortIndex, PortView, Role, Snapshot};
use crate::wire::fragment::FragmentTable;
use crate::wire::icmp::ErrorKind;
use crate::wire::parse::{FRAGMENT, FRAGMENT_LATER};
use crate::wire::{L4Kind, Packet, Parsed, UDP, parse, tcp, vxlan};

use express::{Head, Lane};
pub use output::Outputs;
use tally::Tally;

/// The time of a turn, on the worker's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Whole seconds: what flows age by.
    pub seconds: u32,
    /// Nanoseconds.
    pub nanos: u64,
}

impl Now {
    /// The time since `start`.
    pub fn since(start: std::time::Instant) -> Self {
        let elapsed = start.elapsed();
        Now { seconds: elapsed.as_secs() as u32, nanos: elapsed.as_nanos() as u64 }
    }
}

/// What the control thread should know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// See [`Event::PeerMac`](crate::messages::Event::PeerMac).
    PeerMac(PortIndex, Mac),
    /// See [`Event::Unresolved`](crate::messages::Event::Unresolved).
    Unresolved(IpAddr),
    /// See [`Event::UnresolvedPort`](crate::messages::Event::UnresolvedPort).
    UnresolvedPort(PortIndex),
    /// See [`Event::Drop`](crate::messages::Event::Drop).
    Drop(DropRecord),
    /// See [`Event::Difference`](crate::messages::Event::Difference).
    Difference(DifferenceRecord),
}

/// Notices of a batch at most; what is more is counted as lost.
pub const MAX_NOTICES: usize = BATCH_SIZE;

/// First fragments remembered by a worker.
const FRAGMENTS: usize = 4096;

/// One worker's stages, and what they remember between batches.
#[derive(Debug)]
pub struct Pipeline {
    flows: Arc<FlowTables>,
    counters: Arc<WorkerCounters>,
    fragments: FragmentTable,
    tally: Tally,
    /// What is remembered of each frame of the batch; always [`BATCH_SIZE`] of them.
    heads: Vec<Head>,
    /// What has been read of the frames that take the general way, in place; as many.
    items: Vec<Item>,
    /// Packets of the batch that are not plain, or whose flows are not at home: some of them may be new.
    strangers: usize,
    notices: ArrayVec<Notice, MAX_NOTICES>,
    /// The tunnel peer seen last: epoch, source address, node.
    last_peer: (u32, [u64; 2], u32),
    answers: answer::Budget,
    parking: parking::Parking,
    /// No packet takes the express way, and nothing is read ahead: for the test that holds it against the other.
    #[cfg(test)]
    pub(crate) general_only: bool,
}

/// What a batch is processed with.
pub struct Turn<'a> {
    /// What is judged by.
    pub snapshot: &'a Snapshot,
    /// The port that the batch came by.
    pub port: PortIndex,
    /// The same, as the snapshot has it.
    pub view: &'a PortView,
    /// The worker's packet memory.
    pub pool: &'a mut FramePool,
    /// Where packets go.
    pub out: &'a mut Outputs,
    /// When.
    pub now: Now,
}

/// A frame that has been read.
#[derive(Debug, Clone, Copy)]
struct Item {
    fate: Fate,
    origin: Origin,
    hash: u64,
    parsed: Parsed,
    /// What the tables of this turn say of its Service, where that has been asked already.
    resolution: Option<Resolution>,
}

impl Item {
    /// A frame that has not been read.
    const BLANK: Item =
        Item { fate: Fate::Flow, origin: Origin::Uplink(0), hash: 0, parsed: UNREAD, resolution: None };

    /// What its flow is found by.
    #[inline(always)]
    fn key(&self) -> Key {
        Key::of(&self.parsed)
    }
}

/// What is to be done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// To be looked up.
    Flow,
    /// An ICMP error: belongs to the flow it quotes.
    Error,
    /// ICMPv6 other than echo: may be neighbour discovery.
    Icmp,
    /// Neighbours.
    Arp,
    /// Nothing.
    Drop(DropReason),
}

/// An IP packet that was never read: what stands in an [`Item`] for a frame that is none.
const UNREAD: Parsed = Parsed {
    addresses: [0; 4],
    src_port: 0,
    dst_port: 0,
    ip_len: 0,
    l3: 0,
    l4: 0,
    protocol: 0,
    kind: L4Kind::Other,
    v6: false,
    ttl: 0,
    tcp_flags: 0,
    fragment: 0,
};

impl Pipeline {
    /// The stages of a worker that shares `flows` with the others and counts into `counters`.
    pub fn new(flows: Arc<FlowTables>, counters: Arc<WorkerCounters>, seed: u64) -> Self {
        Pipeline {
            flows,
            counters,
            fragments: FragmentTable::new(FRAGMENTS, seed),
            tally: Tally::default(),
            heads: vec![Head::default(); BATCH_SIZE],
            items: vec![Item::BLANK; BATCH_SIZE],
            strangers: 0,
            notices: ArrayVec::new(),
            last_peer: (0, [0; 2], 0),
            answers: answer::Budget::default(),
            parking: parking::Parking::default(),
            #[cfg(test)]
            general_only: false,
        }
    }

    /// Processes a batch: every frame ends in `turn.out` or in the pool.
    pub fn process(&mut self, turn: &mut Turn<'_>, batch: &mut Batch) {
        self.tally.rx += batch.len() as u64;
        let lane = Lane::of(turn.view);
        let (mut heads, mut items) = (std::mem::take(&mut self.heads), std::mem::take(&mut self.items));
        self.strangers = 0;
        for ((frame, head), item) in batch.iter_mut().zip(&mut heads).zip(&mut items) {
            self.parse(turn, &lane, frame, head, item);
        }
        self.look_beside(&mut heads[..batch.len()]);
        if let Some(shadow) = &turn.snapshot.shadow {
            self.compare_sampled(turn, shadow, batch, &heads, &items);
        }
        if self.has_many_strangers(batch.len()) {
            self.act_ahead(turn, &lane, batch, &mut heads, &mut items);
        }
        for ((frame, head), item) in batch.drain(..).zip(&heads).zip(&mut items) {
            self.act(turn, &lane, frame, head, item);
        }
        (self.heads, self.items) = (heads, items);
    }

    /// Takes what the control thread should know.
    pub fn notices(&mut self) -> ArrayVec<Notice, MAX_NOTICES> {
        // There are none almost always, and taking moves all of the room for them.
        if self.notices.is_empty() { ArrayVec::new() } else { std::mem::take(&mut self.notices) }
    }

    /// Publishes the counts since the last time.
    pub fn close(&mut self) {
        self.tally.publish(&self.counters);
        self.counters.held.set(self.held() as u64);
    }

    /// Puts out a copy of a packet that another worker has made ready.
    pub(crate) fn cross(&mut self, pool: &mut FramePool, out: &mut Outputs, port: PortIndex, packet: &[u8]) {
        self.tally.rx += 1;
        let Some(mut frame) = pool.alloc() else { return self.tally.drop(DropReason::NoMemory) };
        // It came out of a chunk of the same size, with as much room in front.
        if !frame.fill(packet) {
            return self.lose(pool, frame, DropReason::TooBig);
        }
        if let Err((reason, frame)) = out.push_own(port, frame) {
            self.lose(pool, frame, reason);
        }
    }

    /// Counts packets handed to ports.
    pub(crate) fn count_sent(&mut self, packets: usize) {
        self.tally.tx += packets as u64;
    }

    /// Counts a packet that ends here for a reason that is not the packet's, and takes its frame home.
    #[cold]
    pub(crate) fn lose(&mut self, pool: &mut FramePool, frame: Frame, reason: DropReason) {
        self.tally.drop(reason);
        pool.free(frame);
    }

    // ------------------------------------------------------------------------------------------------ parse

    /// What a frame is; the line of its flow is on its way.
    #[inline(always)]
    fn parse(&mut self, turn: &Turn<'_>, lane: &Lane, frame: &mut Frame, head: &mut Head, item: &mut Item) {
        if !lane.read(&self.flows, frame, head) {
            self.read(turn, frame, item);
            head.note(item, &self.flows);
            self.strangers += 1;
        }
        #[cfg(test)]
        if self.general_only {
            head.refuse();
        }
    }

    /// Writes into the item what a frame is, each field once: an item that is copied right after waits for its own bytes.
    #[inline(never)]
    fn read(&mut self, turn: &Turn<'_>, frame: &mut Frame, item: &mut Item) {
        *item = Item { origin: Origin::of_port(turn.port, turn.view), ..Item::BLANK };
        // 1. What it is.
        match parse::parse(frame) {
            Ok(Packet::Ip(parsed)) => item.parsed = parsed,
            Ok(Packet::Arp) => item.fate = Fate::Arp,
            Err(reason) => item.fate = Fate::Drop(reason),
        }
        if let Some(reason) = self.refuse_ethernet(turn, item.origin, frame) {
            item.fate = Fate::Drop(reason);
        }
        if item.fate != Fate::Flow {
            return;
        }
        // 2. Out of its tunnel, where it is ours.
        if matches!(item.origin, Origin::Uplink(_)) && is_tunnelled(turn.snapshot, &item.parsed) {
            match self.decapsulate(turn, frame, item.parsed) {
                Ok((parsed, node)) => {
                    item.parsed = parsed;
                    item.origin = Origin::Tunnel { port: turn.port, node };
                }
                Err(reason) => item.fate = Fate::Drop(reason),
            }
        // 3. Nobody but the owner of an address sends from it.
        } else if let Some(reason) = Sources::of(turn.view).refuse(&item.parsed) {
            item.fate = Fate::Drop(reason);
        }
        // 4. A later fragment follows its first.
        if item.parsed.fragment & FRAGMENT != 0 && item.fate == Fate::Flow {
            match self.join_fragments(turn, frame, item.parsed) {
                Ok(parsed) => item.parsed = parsed,
                Err(reason) => item.fate = Fate::Drop(reason),
            }
        }
        item.fate = match (item.fate, item.parsed.kind) {
            (Fate::Flow, L4Kind::IcmpError) => Fate::Error,
            // Neighbour discovery comes from addresses that no endpoint is known by.
            (Fate::Flow | Fate::Drop(DropReason::SpoofedSource | DropReason::PortUnbound), L4Kind::Icmp)
                if item.parsed.v6 =>
            {
                Fate::Icmp
            }
            (fate, _) => fate,
        };
        // 5. Its key.
        let key = item.key();
        item.hash = if item.parsed.v6 { self.flows.v6.hash(&key) } else { self.flows.v4.hash(&key) };
    }

    /// Frames that are not for us; and whoever is behind the port, where it is not who we thought.
    #[inline(always)]
    fn refuse_ethernet(&mut self, turn: &Turn<'_>, arrival: Origin, frame: &Frame) -> Option<DropReason> {
        let head: &[u8; 12] = frame.first_chunk()?;
        let (dst, src) = (&head[..6], &head[6..]);
        if !arrival.is_outside() && turn.view.peer_mac.is_none_or(|mac| mac != *src) {
            self.learn(turn, src);
        }
        (dst != turn.view.mac && dst[0] & 1 == 0).then_some(DropReason::NotOurMac)
    }

    #[cold]
    fn learn(&mut self, turn: &Turn<'_>, src: &[u8]) {
        if let Some(mac) = src.first_chunk::<6>().filter(|mac| mac[0] & 1 == 0 && **mac != [0; 6]) {
            self.notify(Notice::PeerMac(turn.port, *mac));
        }
    }

    #[inline(never)]
    fn decapsulate(
        &mut self,
        turn: &Turn<'_>,
        frame: &mut Frame,
        outer: Parsed,
    ) -> Result<(Parsed, u32), DropReason> {
        let snapshot = turn.snapshot;
        let inner = vxlan::decapsulate(frame, &outer)?;
        if inner.vni != snapshot.tables.vni {
            return Err(DropReason::ForeignVni);
        }
        let src = if outer.v6 { [outer.addresses[0], outer.addresses[1]] } else { [outer.addresses[0], 0] };
        if self.last_peer.0 != snapshot.epoch() || self.last_peer.1 != src {
            let node = snapshot.tunnel_peers.get(&outer.src()).ok_or(DropReason::UnknownTunnelPeer)?;
            self.last_peer = (snapshot.epoch(), src, *node);
        }
        if !frame.pull_front(inner.offset) || !frame.resize(inner.len) {
            return Err(DropReason::BadVxlan);
        }
        match parse::parse(frame)? {
            // A sender that does not know ECN is told of congestion by the loss (RFC 6040, section 4.2).
            Packet::Ip(_) if inner.congestion && !vxlan::mark_congestion(frame) => Err(DropReason::BadVxlan),
            Packet::Ip(parsed) => Ok((parsed, self.last_peer.2)),
            Packet::Arp => Err(DropReason::Arp),
        }
    }

    #[cold]
    fn join_fragments(
        &mut self,
        turn: &Turn<'_>,
        frame: &Frame,
        parsed: Parsed,
    ) -> Result<Parsed, DropReason> {
        if parsed.fragment & FRAGMENT_LATER == 0 {
            self.fragments.insert(frame, &parsed, turn.now.seconds);
            return Ok(parsed);
        }
        let ports = self.fragments.lookup(frame, &parsed, turn.now.seconds)?;
        Ok(Parsed { src_port: ports.src, dst_port: ports.dst, protocol: ports.protocol, ..parsed })
    }

    // -------------------------------------------------------------------------------------------------- act

    #[inline(always)]
    fn act(&mut self, turn: &mut Turn<'_>, lane: &Lane, frame: Frame, head: &Head, item: &mut Item) {
        match self.express(turn, lane, head, frame) {
            Ok(()) => self.tally.hits += 1,
            Err(frame) => self.general(turn, head, item, frame),
        }
    }

    /// A packet that is not plain, or whose line says more than where to.
    #[inline(never)]
    fn general(&mut self, turn: &mut Turn<'_>, head: &Head, item: &mut Item, mut frame: Frame) {
        if !head.is_read() {
            self.read(turn, &mut frame, item);
        }
        match item.fate {
            Fate::Flow => self.follow(turn, item, frame),
            Fate::Drop(reason) => self.end(turn, item, frame, reason, None),
            Fate::Arp => self.answer_arp(turn, item, frame),
            Fate::Icmp => self.answer_icmp(turn, item, frame),
            Fate::Error => self.relay_error(turn, item, frame),
        }
    }

    /// By its flow's entry, which is made where there is none.
    #[inline(always)]
    fn follow(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame) {
        let Some(found) = self.lookup_hashed(item.parsed.v6, &item.key(), item.hash) else {
            return self.miss(turn, item, frame);
        };
        if !turn.snapshot.upholds(item.parsed.v6, &found.entry) || item.parsed.tcp_flags & tcp::SYN != 0 {
            return self.follow_again(turn, item, frame, found);
        }
        self.tally.hits += 1;
        self.replay(turn, item, frame, &found);
    }

    /// What the entry says, to a packet of its flow.
    #[inline(always)]
    fn replay(&mut self, turn: &mut Turn<'_>, item: &Item, mut frame: Frame, found: &Found) {
        let entry = &found.entry;
        self.touch(item, found.slot, turn.now.seconds);
        if entry.flags.has(Flags::DROP) || entry.flags.has(Flags::FROM_UPLINK) != item.origin.is_outside() {
            let reason = entry.flags.drop_reason().unwrap_or(DropReason::SpoofedSource);
            if entry.flags.has(Flags::RESET) {
                return self.answer_with_reset(turn, item, frame, reason, *entry);
            }
            return self.end_by(turn, item, frame, reason, *entry);
        }
        let Some(egress) = turn.snapshot.egresses.get(entry.egress as usize) else {
            return self.end_by(turn, item, frame, DropReason::NoPort, *entry);
        };
        if item.parsed.ttl <= 1 {
            return self.answer_with_error(
                turn,
                item,
                frame,
                DropReason::TtlExceeded,
                ErrorKind::TimeExceeded,
            );
        }
        if item.parsed.ip_len > egress.mtu {
            let kind = ErrorKind::TooBig { mtu: egress.mtu };
            return self.answer_with_error(turn, item, frame, DropReason::TooBig, kind);
        }
        if !rewrite::forward(&mut frame, &item.parsed, entry, egress, item.hash as u32) {
            return self.end_by(turn, item, frame, DropReason::Truncated, *entry);
        }
        self.emit(turn, egress.port, egress.worker, frame);
    }

    #[inline(always)]
    fn touch(&self, item: &Item, slot: u32, now_seconds: u32) {
        let flags = item.parsed.tcp_flags;
        let mut bits = 0;
        if flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
            for (flag, bit) in [(tcp::SYN, state::SYN), (tcp::FIN, state::FIN), (tcp::RST, state::RST)] {
                bits |= if flags & flag != 0 { bit } else { 0 };
            }
        }
        if item.parsed.v6 {
            self.flows.v6.touch(slot, now_seconds, bits);
        } else {
            self.flows.v4.touch(slot, now_seconds, bits);
        }
    }

    /// Out by a port.
    #[inline(always)]
    fn emit(&mut self, turn: &mut Turn<'_>, port: PortIndex, worker: u16, frame: Frame) {
        match turn.out.push(port, worker, frame) {
            Ok(false) => {}
            Ok(true) => self.tally.tx += 1,
            Err((reason, frame)) => self.lose(turn.pool, frame, reason),
        }
    }

    /// The end of a packet: named, counted, freed.
    #[inline]
    fn end(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        frame: Frame,
        reason: DropReason,
        entry: Option<&Entry>,
    ) {
        self.tally.drop(reason);
        if let Some(entry) = entry {
            self.count_denied_packet(turn, reason, entry);
        }
        if turn.snapshot.watch_drops {
            self.record(turn, item, reason, entry);
        }
        turn.pool.free(frame);
    }

    /// The end of a packet by what its entry says. Takes a copy: nobody else needs the entry in memory.
    #[cold]
    #[inline(never)]
    fn end_by(&mut self, turn: &mut Turn<'_>, item: &Item, frame: Frame, reason: DropReason, entry: Entry) {
        self.end(turn, item, frame, reason, Some(&entry));
    }

    /// Says of a packet that it ended, to those who watch.
    #[cold]
    fn record(&mut self, turn: &Turn<'_>, item: &Item, reason: DropReason, entry: Option<&Entry>) {
        let parsed = &item.parsed;
        let rule = entry.map_or(0, |entry| entry.rule);
        self.notify(Notice::Drop(DropRecord {
            reason,
            port: turn.port,
            addresses: (parsed.l3 != 0).then(|| (parsed.src(), parsed.dst())),
            src_port: parsed.src_port,
            dst_port: parsed.dst_port,
            protocol: parsed.protocol,
            rule: RuleId(rule),
            epoch: turn.snapshot.epoch(),
            time_ns: turn.now.nanos,
        }));
    }

    fn notify(&mut self, notice: Notice) {
        let is_drop = matches!(notice, Notice::Drop(_));
        if !is_drop && self.notices.contains(&notice) {
            return;
        }
        if self.notices.try_push(notice).is_err() {
            self.counters.events_lost.add(1);
        }
    }
}

/// The addresses that may send by a port, as they stand in packets.
struct Sources {
    checked: bool,
    unbound: bool,
    v4: ArrayVec<u64, 4>,
    v6: ArrayVec<[u64; 2], 4>,
}

impl Sources {
    fn of(view: &PortView) -> Self {
        let mut sources = Sources {
            checked: matches!(view.role, Role::Endpoint(_)),
            unbound: matches!(view.role, Role::Endpoint(None)),
            v4: ArrayVec::new(),
            v6: ArrayVec::new(),
        };
        for address in &view.addresses {
            let words = words_of(*address, *address);
            // There is room: the view holds no more addresses than each list.
            if address.is_ipv4() {
                let _ = sources.v4.try_push(words[0] & first_half());
            } else {
                let _ = sources.v6.try_push([words[0], words[1]]);
            }
        }
        sources
    }

    #[inline(always)]
    fn refuse(&self, parsed: &Parsed) -> Option<DropReason> {
        if !self.checked {
            return None;
        }
        let words = &parsed.addresses;
        let known = if parsed.v6 {
            self.v6.contains(&[words[0], words[1]])
        } else {
            self.v4.contains(&(words[0] & first_half()))
        };
        match known {
            true => None,
            false if self.unbound => Some(DropReason::PortUnbound),
            false => Some(DropReason::SpoofedSource),
        }
    }
}

/// The bits of an address word that hold an IPv4 source: its first four bytes.
#[inline(always)]
const fn first_half() -> u64 {
    u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
}

/// Whether a packet from the underlay is of the overlay: UDP to this node's VXLAN port.
#[inline(always)]
pub(crate) fn is_tunnelled(snapshot: &Snapshot, parsed: &Parsed) -> bool {
    parsed.protocol == UDP && parsed.dst_port == vxlan::PORT && {
        match parsed.dst() {
            IpAddr::V4(dst) => snapshot.node_v4 == Some(dst),
            IpAddr::V6(dst) => snapshot.node_v6 == Some(dst),
        }
    }
}
