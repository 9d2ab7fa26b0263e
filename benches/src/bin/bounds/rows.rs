//! The rows: work that is prepared first and counted then, each by what it does a packet.
//!
//! * `port`, `full`, `forward`: whole turns, as `make bench` measures them; batches of 64, or of what stands last; a `6` is IPv6.
//! * `shadow`: as `full`, where a shadow is set that one flow in 16 is compared with, and has been.
//! * `miss_small`: as its `miss`, against the tables of the small cluster: callgrind would be minutes at building the large one's.
//! * the others: single stages, as `benches/stages.rs` measures them, with the loop around them.

#![allow(clippy::expect_used, reason = "a row that cannot be prepared has nothing to say")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use afxdp_driver::{Frame, FramePool, HugePages};
use benches::cluster::{self, BACKEND_PORT, CLIENT, CLIENT_PORT, SERVICE_PORT, SMALL};
use benches::replay::Packets;
use benches::rig::{Bare, Rig};
use dataplane::flow::{Entry, Key, Table};
use dataplane::judge::{self, Known, Origin};
use dataplane::shadow::Shadow;
use dataplane::snapshot::Snapshot;
use dataplane::wire::TCP;
use dataplane::wire::parse::parse;
use dataplane::wire::vxlan::{self, Inside};
use etherparse::PacketBuilder;
use policy_compiler::maglev::{Maglev, Member};
use policy_compiler::service::ServiceQuery;

use crate::callgrind::counted_by_callgrind;

/// Work that is counted.
pub(crate) struct Row {
    /// Its name; where `make bench` measures the same, the same.
    pub(crate) name: String,
    /// What it counts by.
    pub(crate) unit: &'static str,
    /// Prepares, is counted, and answers with so many of the unit.
    pub(crate) work: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Flows of the rows that have many.
const FLOWS: usize = 16 << 10;
/// Times that a single stage is done.
const TIMES: usize = 4096;
/// Policies beside the two that judge.
const OTHER_POLICIES: u32 = 1000;
/// Secret of the hashes: any, but always the same.
const SEED: u64 = 0x5eed;
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// All rows.
pub(crate) fn all() -> impl Iterator<Item = Row> {
    pipeline().into_iter().chain(stages())
}

/// No row but the proof that callgrind sees what is to be seen: one allocation each.
pub(crate) fn control() -> Row {
    let work = || repeat(Box::new);
    Row { name: "control/allocation".to_owned(), unit: "allocation", work: Box::new(work) }
}

// ---------------------------------------------------------------------------------------------- whole turns

fn pipeline() -> Vec<Row> {
    let mut rows = Vec::new();
    for (v6, batch) in [(false, 64), (false, 1), (true, 64), (true, 1)] {
        let six = if v6 { "6" } else { "" };
        let suffix = if batch == 64 { String::new() } else { format!("/{batch}") };
        let mut add = |kind: &str, work: Box<dyn Fn() -> usize + Send + Sync>| {
            rows.push(Row { name: format!("{kind}{six}/16k{suffix}"), unit: "packet", work });
        };
        add("port", Box::new(move || alone(to_services(v6), batch)));
        add("full", Box::new(move || hits(to_services(v6), batch)));
        add("shadow", Box::new(move || shadowed(to_services(v6), batch)));
        add("forward", Box::new(move || hits(to_neighbour(v6), batch)));
        add("miss_small", Box::new(move || misses(to_services(v6), batch)));
    }
    rows
}

fn to_services(v6: bool) -> Packets {
    if v6 { cluster::to_services_v6(&SMALL, FLOWS) } else { Packets::Short(cluster::to_services(FLOWS)) }
}

fn to_neighbour(v6: bool) -> Packets {
    if v6 { cluster::to_neighbour_v6(FLOWS) } else { Packets::Short(cluster::to_neighbour(FLOWS)) }
}

fn alone(packets: Packets, batch: usize) -> usize {
    let mut bare = Bare::new(packets, batch);
    bare.pass();
    counted_by_callgrind(&mut || bare.pass().packets)
}

fn hits(packets: Packets, batch: usize) -> usize {
    hits_by(cluster::snapshot(), packets, batch)
}

fn shadowed(packets: Packets, batch: usize) -> usize {
    let policy = cluster::snapshot().tables.policy;
    let shadow = Some(Arc::new(Shadow::new(1, policy, 16, packets.count() * 8, 1)));
    hits_by(Snapshot { shadow, ..cluster::snapshot() }, packets, batch)
}

fn hits_by(snapshot: Snapshot, packets: Packets, batch: usize) -> usize {
    let mut rig = Rig::of(snapshot, packets, batch);
    rig.pass();
    let (_, judged) = rig.hits_and_misses();
    let taken = counted_by_callgrind(&mut || rig.pass().packets);
    assert_eq!(rig.hits_and_misses().1, judged, "every packet was a hit");
    taken
}

fn misses(packets: Packets, batch: usize) -> usize {
    let mut rig = Rig::new(packets, batch);
    rig.pass();
    rig.forget();
    let taken = counted_by_callgrind(&mut || rig.pass().packets);
    assert_eq!(rig.hits_and_misses().0, 0, "every packet was a miss");
    taken
}

// ------------------------------------------------------------------------------------------- single stages

fn stages() -> Vec<Row> {
    let stage = |name: &str, unit: &'static str, work: fn() -> usize| Row {
        name: name.to_owned(),
        unit,
        work: Box::new(work),
    };
    vec![
        stage("parse/tcp_v4", "packet", || parsing(false)),
        stage("parse/tcp_v6", "packet", || parsing(true)),
        stage("flow/hit_v4", "packet", || lookups::<8>(key_v4, true)),
        stage("flow/hit_v6", "packet", || lookups::<16>(key_v6, true)),
        stage("flow/absent_v4", "packet", || lookups::<8>(key_v4, false)),
        stage("flow/absent_v6", "packet", || lookups::<16>(key_v6, false)),
        stage("policy/allow", "packet", || verdicts(BACKEND_PORT, true)),
        stage("policy/deny", "packet", || verdicts(22, false)),
        stage("maglev/pick", "packet", picks),
        stage("service/resolve", "packet", resolutions),
        stage("route/lookup", "packet", routes),
        stage("decide/whole", "packet", decisions),
        stage("vxlan/encapsulate_v4", "packet", || {
            let template = template_v4();
            encapsulations(|frame, inside| vxlan::encapsulate_v4(frame, &template, inside))
        }),
        stage("vxlan/encapsulate_v6", "packet", || {
            let template = template_v6();
            encapsulations(|frame, inside| vxlan::encapsulate_v6(frame, &template, inside))
        }),
    ]
}

/// Does a thing many times, counted.
fn repeat<T>(mut once: impl FnMut(usize) -> T) -> usize {
    counted_by_callgrind(&mut || {
        for number in 0..TIMES {
            black_box(once(black_box(number)));
        }
        TIMES
    })
}

fn parsing(v6: bool) -> usize {
    let mut frame = Vec::new();
    let written = match v6 {
        false => PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4)
            .ack(5)
            .write(&mut frame, &[0; 100]),
        true => PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv6([0xfd; 16], [0xfc; 16], 64)
            .tcp(1, 2, 3, 4)
            .ack(5)
            .write(&mut frame, &[0; 100]),
    };
    written.expect("a vector takes everything");
    assert!(parse(&frame).is_ok(), "the packet is right");
    repeat(|_| parse(black_box(&frame)))
}

fn key_v4(number: usize) -> Key {
    let src = IpAddr::from((0x0a01_0000 | number as u32 >> 12).to_be_bytes());
    Key::new(src, 1024 + (number & 0xfff) as u16, Ipv4Addr::new(10, 96, 0, 1).into(), 80, TCP)
}

fn key_v6(number: usize) -> Key {
    let address = |host: u128| IpAddr::from((0xfd00_u128 << 112 | host).to_be_bytes());
    Key::new(address(number as u128 >> 12), 1024 + (number & 0xfff) as u16, address(1 << 64), 80, TCP)
}

fn lookups<const WORDS: usize>(key: fn(usize) -> Key, there: bool) -> usize {
    let table = Table::<WORDS>::new(FLOWS * 4, HugePages::Prefer, SEED).expect("memory for flows");
    for number in 0..FLOWS {
        let key = key(number);
        table.insert(&Entry { key, rewritten: key, epoch: 1, ..Entry::default() }, 1);
    }
    let first = if there { 0 } else { FLOWS };
    let keys: Vec<Key> = cluster::shuffled(FLOWS).into_iter().map(|number| key(first + number)).collect();
    assert!(keys.iter().all(|key| table.lookup(key, table.hash(key)).is_some() == there), "as it should be");
    repeat(|number| {
        let key = &keys[number % FLOWS];
        table.lookup(key, table.hash(key)).map(|found| found.entry.egress)
    })
}

fn verdicts(port: u16, allowed: bool) -> usize {
    let tables = cluster::tables(OTHER_POLICIES);
    let server = IpAddr::from(cluster::backend_address(3, 4).0);
    assert_eq!(tables.policy.judge(CLIENT.into(), server, TCP, port).allowed(), allowed, "the verdict");
    repeat(|_| tables.policy.judge(black_box(CLIENT.into()), server, TCP, port))
}

fn picks() -> usize {
    let address = |number: u16| SocketAddr::from(([10, 2, (number >> 8) as u8, number as u8], 80));
    let members: Vec<Member> =
        (0..100).map(|number| Member { address: address(number), weight: 1 }).collect();
    let table = Maglev::build(&members);
    repeat(|number| table.pick(number as u64 * 0x9e37_79b9_7f4a_7c15))
}

fn resolutions() -> usize {
    let tables = cluster::tables(0);
    repeat(|number| {
        let query = ServiceQuery {
            src: CLIENT.into(),
            src_port: number as u16,
            dst: cluster::service_address(5).into(),
            dst_port: SERVICE_PORT,
            protocol: TCP,
        };
        tables.services.resolve(&query)
    })
}

fn routes() -> usize {
    let tables = cluster::tables(0);
    let address = IpAddr::from(cluster::backend_address(3, 4).0);
    repeat(|_| tables.routes.lookup(black_box(address)))
}

fn decisions() -> usize {
    let snapshot = cluster::snapshot();
    repeat(|number| {
        let service = cluster::service_address(5).into();
        let key = Key::new(CLIENT.into(), number as u16, service, SERVICE_PORT, TCP);
        judge::decide(&snapshot, &key, false, Origin::Endpoint(CLIENT_PORT), Known::default())
    })
}

fn template_v4() -> [u8; vxlan::TEMPLATE_V4_LEN] {
    let nodes = [1, 2].map(|number| Ipv4Addr::new(172, 30, 0, number));
    vxlan::template_v4(MACS.0, MACS.1, nodes[0], nodes[1], 7, MACS.0, MACS.1)
}

fn template_v6() -> [u8; vxlan::TEMPLATE_V6_LEN] {
    let nodes = [1, 2].map(|number| Ipv4Addr::new(172, 30, 0, number).to_ipv6_mapped());
    vxlan::template_v6(MACS.0, MACS.1, nodes[0], nodes[1], 7, MACS.0, MACS.1)
}

fn encapsulations(encapsulate: impl Fn(&mut Frame, Inside) -> bool) -> usize {
    let mut pool = FramePool::anonymous(TIMES, HugePages::Prefer).expect("packet memory");
    let packet = cluster::packet(1, CLIENT, 80);
    let mut frames: Vec<Frame> = (0..TIMES)
        .map(|_| {
            let mut frame = pool.alloc().expect("a chunk");
            assert!(frame.fill(&packet.0), "a packet fits into a chunk");
            frame
        })
        .collect();
    let done = repeat(|number| {
        let frame = &mut frames[number];
        Inside::of(frame, number as u32).is_some_and(|inside| encapsulate(frame, inside))
    });
    assert!(frames.iter().all(|frame| frame.len() > packet.0.len()), "every packet was encapsulated");
    frames.into_iter().for_each(|frame| pool.free(frame));
    done
}
