//! [`Traffic`]: the endless sequence of packets of one run, and the ledger of what was given out.
//!
//! In turn, packet n belongs to flow `n mod flows`; each round over the flows begins one step further in the pattern of
//! protocols and sizes, so that every flow meets every kind. Drawn by popularity, flow and kind have nothing to do
//! with each other. TCP SYNs have flows of their own where there are any; then, too, the pattern just goes on. A flow belongs to stream
//! `flow mod streams`, where SYNs with flows of their own have the last stream for themselves (if there are two); each
//! stream numbers its packets from 0.

use crate::flow::{Flow, FlowError, MAX_FLOWS};
use crate::mix::{MixError, Protocol, ProtocolMix, SizeMix, interleave};
use crate::packet::{Headers, PacketError, PreparedFlow, Template};
use crate::popularity::{Draw, Popularity};
use crate::rate::FCS;
use crate::stamp::{MAX_SEQUENCE, MAX_STREAMS, Stamp};

/// What the packets of a run are.
#[derive(Debug, Clone)]
pub struct TrafficSpec {
    /// The flows, all of one family; not empty.
    pub flows: Vec<Flow>,
    /// Of `flows`, how many at the end are for TCP SYNs alone; 0 where SYNs share the flows of the others.
    pub syn_flows: usize,
    /// How often each of the others is sent, and what it is drawn by.
    pub popularity: (Popularity, u64),
    /// Streams to number the packets in; at most [`MAX_STREAMS`] and at most as many as flows.
    pub streams: usize,
    /// Protocols by weight.
    pub protocols: ProtocolMix,
    /// Frame sizes by weight.
    pub sizes: SizeMix,
    /// What the headers have in common.
    pub headers: Headers,
}

/// Traffic that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// A packet cannot be built.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The mix of protocols and sizes is too fine.
    #[error(transparent)]
    Mix(#[from] MixError),
    /// The flows are none, too many, or of two families.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// Streams out of range.
    #[error(
        "{streams} streams: the count must be between 1 and {MAX_STREAMS}, and not above the {flows} flows"
    )]
    Streams {
        /// What was asked for.
        streams: usize,
        /// How many flows there are.
        flows: usize,
    },
}

/// Which packet is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    template: usize,
    /// Of a TCP segment.
    sequence: u32,
    /// Number of the flow.
    pub flow: usize,
    /// The stamp, but for the time.
    pub stamp: Stamp,
}

/// What was given out in one stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StreamTally {
    /// Packets of the measurement: numbers 0 … `sent` − 1.
    pub sent: u64,
    /// Packets before the measurement.
    pub warmup: u64,
}

/// An entry of the pattern: a protocol and a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    protocol: Protocol,
    template: usize,
    /// The template of a TCP stream's first segment.
    opening: usize,
}

/// The packets of a run.
#[derive(Debug)]
pub struct Traffic {
    templates: Vec<Template>,
    kinds: Vec<Kind>,
    pattern: Vec<u16>,
    /// First those that all kinds but SYNs choose from, behind them those of SYNs.
    flows: Vec<PreparedFlow>,
    shared_flows: usize,
    /// Streams but for that of SYNs with flows of their own.
    shared_streams: usize,
    next_syn: usize,
    draw: Option<Draw>,
    /// Sequence number of each flow's next segment; `None` until it is opened. Empty where there are no TCP streams.
    connections: Vec<Option<u32>>,
    tallies: Vec<StreamTally>,
    run: u16,
    warmup: bool,
    next_flow: usize,
    next_kind: usize,
    /// Where in the pattern the current round over the flows began.
    round: usize,
    raised: Vec<(usize, usize)>,
}

impl Traffic {
    /// Prepares the packets of `spec` under the run number `run`.
    ///
    /// # Errors
    /// [`TrafficError`] where `spec` does not keep what its fields promise or a size is too small. Only sizes that
    /// [may be](SizeMix::may_be_raised) are raised instead ([`raised`](Self::raised)).
    pub fn new(spec: &TrafficSpec, run: u16) -> Result<Self, TrafficError> {
        let v6 = match spec.flows.first() {
            Some(first) if spec.flows.len() <= MAX_FLOWS => first.source.is_ipv6(),
            _ => return Err(FlowError::Count(spec.flows.len()).into()),
        };
        for flow in &spec.flows {
            if flow.source.is_ipv6() != v6 || flow.destination.is_ipv6() != v6 {
                return Err(FlowError::Families(flow.source, flow.destination).into());
            }
        }
        if spec.streams == 0 || spec.streams > MAX_STREAMS.min(spec.flows.len()) {
            return Err(TrafficError::Streams { streams: spec.streams, flows: spec.flows.len() });
        }
        let shared_flows = spec.flows.len().saturating_sub(spec.syn_flows);
        if shared_flows == 0 {
            return Err(FlowError::Count(0).into());
        }
        let (mut templates, mut kinds) = (Vec::new(), Vec::new());
        let (mut weights, mut raised) = (Vec::new(), Vec::new());
        for (protocol, protocol_weight) in spec.protocols.entries() {
            for (size, size_weight) in spec.sizes.entries() {
                let asked = usize::from(*size);
                let minimum = spec.headers.minimum(*protocol, v6);
                let size = if spec.sizes.may_be_raised() { asked.max(minimum) } else { asked };
                if size != asked {
                    raised.push((asked, size));
                }
                let template = templates.len();
                templates.push(Template::new(&spec.headers, *protocol, v6, size)?);
                let opening = templates.len();
                if *protocol == Protocol::TcpStream {
                    templates.push(Template::new(&spec.headers, Protocol::TcpSyn, v6, size)?);
                }
                kinds.push(Kind { protocol: *protocol, template, opening });
                weights.push(u64::from(*protocol_weight) * u64::from(*size_weight));
            }
        }
        let streams = kinds.iter().any(|kind| kind.protocol == Protocol::TcpStream);
        let (popularity, seed) = spec.popularity;
        let mut draw = Draw::new(popularity, shared_flows, seed);
        Ok(Traffic {
            next_flow: draw.as_mut().map_or(0, Draw::next_flow),
            pattern: interleave(&weights)?,
            templates,
            kinds,
            shared_flows,
            shared_streams: if spec.syn_flows > 0 { spec.streams.max(2) - 1 } else { spec.streams },
            next_syn: 0,
            draw,
            connections: if streams { vec![None; shared_flows] } else { Vec::new() },
            flows: spec.flows.iter().map(PreparedFlow::from).collect(),
            tallies: vec![StreamTally::default(); spec.streams],
            run,
            warmup: false,
            next_kind: 0,
            round: 0,
            raised,
        })
    }

    /// Marks the packets planned from here on as warm-up, or no longer.
    pub fn set_warmup(&mut self, warmup: bool) {
        self.warmup = warmup;
    }

    /// The next packet, entered in the ledger as given out; `None` when the stream's numbers are used up.
    #[inline]
    pub fn plan(&mut self) -> Option<Plan> {
        self.plan_run(1)
    }

    /// The next `count` packets as one, all of the same flow, kind and stream: the engine counts the numbers on from
    /// the plan's. `None` as in [`plan`](Self::plan).
    #[inline]
    pub fn plan_run(&mut self, count: u64) -> Option<Plan> {
        let kind = *self.kinds.get(usize::from(*self.pattern.get(self.next_kind)?))?;
        let own_flow = kind.protocol == Protocol::TcpSyn && self.shared_flows < self.flows.len();
        let flow = if own_flow { self.shared_flows + self.next_syn } else { self.next_flow };
        let stream = if own_flow { self.tallies.len() - 1 } else { flow % self.shared_streams };
        let tally = self.tallies.get_mut(stream)?;
        let given = if self.warmup { &mut tally.warmup } else { &mut tally.sent };
        let number = *given;
        if number + count > MAX_SEQUENCE {
            return None;
        }
        *given += count;
        let (template, sequence) = self.segment(kind, flow, number);
        self.advance(own_flow);
        let stamp =
            Stamp { run: self.run, stream: stream as u16, warmup: self.warmup, sequence: number, sent: 0 };
        Some(Plan { template, sequence, flow, stamp })
    }

    /// The template and the TCP sequence number of the next packet of `kind` and `flow`.
    #[inline]
    fn segment(&mut self, kind: Kind, flow: usize, number: u64) -> (usize, u32) {
        match kind.protocol {
            Protocol::TcpSyn => (kind.template, initial_sequence(flow as u64, number)),
            Protocol::TcpStream => {
                let Some(connection) = self.connections.get_mut(flow) else { return (kind.template, 1) };
                let payload =
                    |template| self.templates.get(template).map_or(0, |t: &Template| t.payload_len() as u32);
                let (template, sequence, taken) = match *connection {
                    Some(sequence) => (kind.template, sequence, payload(kind.template)),
                    // The SYN itself takes a number (RFC 9293, section 3.4).
                    None => (kind.opening, initial_sequence(flow as u64, 0), payload(kind.opening) + 1),
                };
                *connection = Some(sequence.wrapping_add(taken));
                (template, sequence)
            }
            Protocol::Udp | Protocol::Tcp | Protocol::Icmp => (kind.template, 1),
        }
    }

    /// Takes back the last `count` packets of the latest [`plan_run`](Self::plan_run), which were not sent.
    pub fn unsent(&mut self, plan: &Plan, count: u64) {
        if let Some(tally) = self.tallies.get_mut(usize::from(plan.stamp.stream)) {
            let given = if plan.stamp.warmup { &mut tally.warmup } else { &mut tally.sent };
            *given = given.saturating_sub(count);
        }
    }

    #[inline]
    fn advance(&mut self, own_flow: bool) {
        self.next_kind += 1;
        if own_flow {
            self.next_syn = (self.next_syn + 1) % (self.flows.len() - self.shared_flows);
        } else if let Some(draw) = &mut self.draw {
            self.next_flow = draw.next_flow();
        } else {
            self.next_flow += 1;
        }
        if self.next_flow == self.shared_flows {
            self.next_flow = 0;
            // Beside SYNs with flows of their own a round has no fixed length: the pattern just goes on.
            if self.shared_flows == self.flows.len() {
                self.round = (self.round + 1) % self.pattern.len();
                self.next_kind = self.round;
            }
        }
        if self.next_kind == self.pattern.len() {
            self.next_kind = 0;
        }
    }

    /// Bytes of the planned frame, frame check sequence not included.
    #[inline]
    pub fn frame_len(&self, plan: &Plan) -> usize {
        self.templates.get(plan.template).map_or(0, Template::len)
    }

    /// Writes the planned frame, sent at `now`, into `out` of exactly [`frame_len`](Self::frame_len) bytes; false
    /// where it is of another length.
    #[inline]
    #[must_use]
    pub fn write(&self, plan: &Plan, now: u64, out: &mut [u8]) -> bool {
        let (Some(template), Some(flow)) = (self.templates.get(plan.template), self.flows.get(plan.flow))
        else {
            return false;
        };
        template.write(flow, &Stamp { sent: now, ..plan.stamp }, plan.sequence, out)
    }

    /// Writes the planned packet for the first flow and without a transport checksum, for an engine that changes the
    /// source port, numbers and times it later on; returns where the stamp is. `None` where the packet is not plain
    /// UDP over IPv4.
    pub fn write_unsummed(&self, plan: &Plan, out: &mut [u8]) -> Option<usize> {
        self.templates.get(plan.template)?.write_unsummed(self.flows.first()?, &plan.stamp, out)
    }

    /// Writes the planned packet's transport payload alone, for an engine whose kernel makes the headers; returns
    /// its length.
    pub fn write_payload(&self, plan: &Plan, now: u64, out: &mut [u8]) -> usize {
        let len = self.templates.get(plan.template).map_or(0, Template::payload_len);
        let Some(out) = out.get_mut(..len) else { return 0 };
        out.fill(0);
        if let Some(stamp) = out.first_chunk_mut() {
            *stamp = Stamp { sent: now, ..plan.stamp }.to_bytes();
        }
        len
    }

    /// What was given out, stream by stream.
    pub fn tallies(&self) -> &[StreamTally] {
        &self.tallies
    }

    /// Frames that had to be raised: asked and made, both with frame check sequence.
    pub fn raised(&self) -> &[(usize, usize)] {
        &self.raised
    }

    /// Mean frame length over the pattern, frame check sequence not included.
    pub fn mean_frame(&self) -> f64 {
        let total: usize = self
            .pattern
            .iter()
            .filter_map(|kind| self.kinds.get(usize::from(*kind)))
            .filter_map(|kind| self.templates.get(kind.template))
            .map(Template::len)
            .sum();
        total as f64 / self.pattern.len() as f64
    }

    /// The frame sizes in use, frame check sequence included, ascending.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<_> = self.templates.iter().map(|template| template.len() + FCS).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Whether every packet is of `protocol`.
    pub fn only(&self, protocol: Protocol) -> bool {
        self.kinds.iter().all(|kind| kind.protocol == protocol)
    }
}

/// An initial sequence number: spread over all 32 bits, the same for the same flow and number (Knuth's
/// multiplicative hashing).
#[inline]
fn initial_sequence(flow: u64, number: u64) -> u32 {
    (flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)).rotate_left(32)
        as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::draw;
    use crate::locate::{Found, Look, locate};
    use crate::packet::VXLAN_PORT;
    use crate::packet::tests::HEADERS;
    use std::collections::HashMap;

    fn spec(flows: usize, streams: usize, protocols: &str, sizes: &str) -> TrafficSpec {
        let sources = ("10.0.0.1".parse().unwrap(), "1000-2000".parse().unwrap());
        let destinations = ("10.0.0.2".parse().unwrap(), "9000".parse().unwrap());
        TrafficSpec {
            flows: draw(flows, sources, destinations).unwrap(),
            syn_flows: 0,
            popularity: (Popularity::InTurn, 1),
            streams,
            protocols: protocols.parse().unwrap(),
            sizes: sizes.parse().unwrap(),
            headers: HEADERS,
        }
    }

    #[test]
    fn every_flow_meets_every_kind_in_proportion() {
        let mut traffic = Traffic::new(&spec(4, 2, "udp=3,icmp=1", "64,128"), 1).unwrap();
        let mut seen = HashMap::new();
        for _ in 0..4 * 8 {
            let plan = traffic.plan().unwrap();
            *seen.entry((plan.flow, plan.template)).or_insert(0) += 1;
        }
        for flow in 0..4 {
            let counts: Vec<_> = (0..4).map(|template| seen[&(flow, template)]).collect();
            assert_eq!(counts, [3, 3, 1, 1], "flow {flow}");
        }
    }

    /// Of each frame: flow, flags, sequence number, payload length.
    fn segments(traffic: &mut Traffic, count: usize) -> Vec<(usize, u8, u32, u32)> {
        let segment = |_| {
            let plan = traffic.plan().unwrap();
            let mut frame = vec![0; traffic.frame_len(&plan)];
            assert!(traffic.write(&plan, 1, &mut frame));
            let sequence = u32::from_be_bytes(*frame[38..].first_chunk().unwrap());
            (plan.flow, frame[47], sequence, frame.len() as u32 - 54)
        };
        (0..count).map(segment).collect()
    }

    const SYN: u8 = 0x02;
    const ACK_PSH: u8 = 0x18;

    #[test]
    fn a_tcp_stream_opens_with_a_syn_and_goes_on_where_it_was() {
        let mut traffic = Traffic::new(&spec(3, 1, "tcp-stream", "128,256"), 1).unwrap();
        let mut next = HashMap::new();
        for (flow, flags, sequence, payload) in segments(&mut traffic, 60) {
            match next.get(&flow) {
                None => assert_eq!(flags, SYN, "flow {flow}"),
                Some(expected) => assert_eq!((flags, sequence), (ACK_PSH, *expected), "flow {flow}"),
            }
            next.insert(flow, sequence.wrapping_add(payload).wrapping_add(u32::from(flags == SYN)));
        }
        assert_eq!(next.len(), 3);
    }

    #[test]
    fn a_flood_of_syns_has_flows_of_its_own() {
        let spec = TrafficSpec { syn_flows: 5, ..spec(7, 3, "tcp-stream=1,tcp-syn=3", "128") };
        let mut traffic = Traffic::new(&spec, 1).unwrap();
        let segments = segments(&mut traffic, 80);
        let (flood, rest): (Vec<_>, Vec<_>) = segments.into_iter().partition(|(flow, ..)| *flow >= 2);
        assert_eq!((flood.len(), rest.len()), (60, 20));
        assert!(flood.iter().all(|(_, flags, ..)| *flags == SYN));
        let mut numbers: Vec<_> = flood.iter().map(|(_, _, sequence, _)| *sequence).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 60, "each has a number of its own");
        let each = |flow: usize| flood.iter().filter(|(of, ..)| *of == flow).count();
        assert!((2..7).all(|flow| each(flow) == 12));
        assert_eq!(
            rest.iter().filter(|(_, flags, ..)| *flags == SYN).count(),
            2,
            "two streams are opened once"
        );
    }

    #[test]
    fn popular_flows_are_sent_more_often_and_every_kind_in_proportion() {
        let spec =
            TrafficSpec { popularity: (Popularity::Zipf(1.0), 3), ..spec(50, 5, "udp=3,icmp=1", "64") };
        let mut traffic = Traffic::new(&spec, 1).unwrap();
        let (mut flows, mut kinds) = (vec![0u32; 50], [0u32; 2]);
        for _ in 0..8000 {
            let plan = traffic.plan().unwrap();
            flows[plan.flow] += 1;
            kinds[plan.template] += 1;
        }
        assert_eq!(kinds, [6000, 2000]);
        let first = f64::from(flows[0]) / f64::from(flows[9]);
        assert!((7.0..13.0).contains(&first), "the first is ten times as popular as the tenth: {first}");
        assert_eq!(traffic.tallies().iter().map(|tally| tally.sent).sum::<u64>(), 8000);
    }

    #[test]
    fn streams_number_their_packets_from_zero_and_warmup_apart() {
        let mut traffic = Traffic::new(&spec(3, 2, "udp", "64"), 9).unwrap();
        traffic.set_warmup(true);
        (0..5).for_each(|_| assert!(traffic.plan().unwrap().stamp.warmup));
        traffic.set_warmup(false);
        let mut next = [0, 0];
        for _ in 0..100 {
            let plan = traffic.plan().unwrap();
            assert_eq!(usize::from(plan.stamp.stream), plan.flow % 2);
            assert_eq!(plan.stamp.sequence, next[usize::from(plan.stamp.stream)]);
            next[usize::from(plan.stamp.stream)] += 1;
        }
        assert_eq!([traffic.tallies()[0].sent, traffic.tallies()[1].sent], next);
        assert_eq!(traffic.tallies().iter().map(|tally| tally.warmup).sum::<u64>(), 5);
        let before = traffic.tallies().to_vec();
        let plan = traffic.plan_run(10).unwrap();
        let stream = usize::from(plan.stamp.stream);
        assert_eq!(plan.stamp.sequence, before[stream].sent);
        traffic.unsent(&plan, 4);
        assert_eq!(traffic.tallies()[stream].sent, before[stream].sent + 6);
    }

    #[test]
    fn a_planned_packet_carries_its_stamp_and_its_time() {
        let mut traffic = Traffic::new(&spec(2, 1, "udp,tcp,icmp", "128,256"), 7).unwrap();
        for _ in 0..12 {
            let plan = traffic.plan().unwrap();
            let mut frame = vec![0; traffic.frame_len(&plan)];
            assert!(traffic.write(&plan, 12_345, &mut frame));
            let stamp = Stamp { sent: 12_345, ..plan.stamp };
            let look = Look { verify: true, vxlan_port: VXLAN_PORT };
            assert_eq!(locate(&frame, look), Found::Stamped(stamp));
            let mut payload = [0xff; 2000];
            let len = traffic.write_payload(&plan, 12_345, &mut payload);
            assert_eq!(frame[frame.len() - len..], payload[..len]);
            match traffic.write_unsummed(&plan, &mut frame) {
                Some(at) => assert_eq!((at, locate(&frame, look)), (42, Found::Stamped(plan.stamp))),
                None => assert_ne!(frame[23], 17, "UDP can go without a checksum"),
            }
        }
    }

    #[test]
    fn imix_is_raised_to_what_the_protocol_needs_and_says_so_where_a_list_is_refused() {
        let traffic = Traffic::new(&spec(1, 1, "tcp", "imix"), 1).unwrap();
        assert_eq!(traffic.raised(), [(64, 76)]);
        assert_eq!(traffic.sizes(), [76, 594, 1518]);
        assert!((traffic.mean_frame() - (7.0 * 72.0 + 4.0 * 590.0 + 1514.0) / 12.0).abs() < 1e-9);
        let error = Traffic::new(&spec(1, 1, "tcp", "64"), 1).unwrap_err();
        assert!(matches!(error, TrafficError::Packet(PacketError::TooSmall { minimum: 76, .. })), "{error}");
    }

    #[test]
    fn bad_streams_are_refused() {
        for streams in [0, 3, MAX_STREAMS + 1] {
            let error = Traffic::new(&spec(2, streams, "udp", "64"), 1).unwrap_err();
            assert_eq!(error, TrafficError::Streams { streams, flows: 2 });
        }
    }
}
