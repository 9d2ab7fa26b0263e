//! Single stages, by criterion: parse, flow look-up, policy, Maglev, Services, the whole decision about a flow.

#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]
#![allow(clippy::print_stdout, reason = "the clock's rate belongs to the figures")]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use afxdp_driver::{HugePages, cpu};
use benches::cluster::{self, BACKEND_PORT, CLIENT, CLIENT_PORT, SERVICE_PORT};
use criterion::{Criterion, Throughput, criterion_group};
use dataplane::flow::{Entry, Key, Table};
use dataplane::judge::{self, Origin, Past};
use dataplane::wire::parse::parse;
use dataplane::wire::{TCP, vxlan};
use etherparse::PacketBuilder;
use policy_compiler::maglev::{Maglev, Member};
use policy_compiler::service::ServiceQuery;

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

fn parsing(criterion: &mut Criterion) {
    let plain = || PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let v6 = || PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6([0xfd; 16], [0xfc; 16], 64);
    let mut frames: Vec<(&str, Vec<u8>)> =
        ["tcp_v4", "tcp_v6", "udp_v4", "udp_v4_tiny", "echo_v4"].map(|name| (name, Vec::new())).into();
    let payload = [0; 100];
    for (name, bytes) in &mut frames {
        let written = match *name {
            "tcp_v4" => plain().tcp(1, 2, 3, 4).ack(5).write(bytes, &payload),
            "tcp_v6" => v6().tcp(1, 2, 3, 4).ack(5).write(bytes, &payload),
            "udp_v4" => plain().udp(1, 2).write(bytes, &payload),
            "udp_v4_tiny" => plain().udp(1, 2).write(bytes, b"a"),
            _ => plain().icmpv4_echo_request(1, 2).write(bytes, &payload),
        };
        written.expect("a vector takes everything");
    }
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in &frames {
        group.bench_function(*name, |bencher| bencher.iter(|| parse(black_box(frame))));
    }
    // A refusal is as cheap as an acceptance.
    group.bench_function("truncated", |bencher| bencher.iter(|| parse(black_box(&frames[0].1[..50]))));
    let mut tunnelled = Vec::new();
    let inner = [&[0x08, 0, 0, 0, 0, 0, 7, 0][..], &frames[0].1].concat();
    plain().udp(50_000, vxlan::PORT).write(&mut tunnelled, &inner).expect("a vector takes everything");
    group.bench_function("vxlan_v4", |bencher| {
        bencher.iter(|| {
            let dataplane::wire::Packet::Ip(outer) = parse(black_box(&tunnelled)).ok()? else { return None };
            let inner = vxlan::decapsulate(&tunnelled, &outer).ok()?;
            parse(tunnelled.get(inner.offset..)?).ok()
        });
    });
    group.finish();
}

fn flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(1));
    let key = |number: usize| {
        let src = IpAddr::from((0x0a01_0000 | number as u32 >> 12).to_be_bytes());
        Key::new(src, 1024 + (number & 0xfff) as u16, "10.96.0.1".parse().expect("an address"), 80, TCP)
    };
    for (name, count) in [("4k", 4 << 10), ("16k", 16 << 10), ("1m", 1 << 20)] {
        let table = Table::<8>::new(count * 4, HugePages::Prefer, 0x5eed).expect("memory for flows");
        for number in 0..count {
            let key = key(number);
            table.insert(&Entry { key, rewritten: key, epoch: 1, ..Entry::default() }, 1);
        }
        let keys: Vec<Key> = cluster::shuffled(count).into_iter().map(key).collect();
        let mut next = 0;
        group.bench_function(format!("hit_{name}"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % keys.len();
                table.lookup(&keys[next], table.hash(&keys[next])).map(|found| found.entry.egress)
            });
        });
        let stranger = key(count + 1);
        group.bench_function(format!("absent_{name}"), |bencher| {
            bencher.iter(|| table.lookup(black_box(&stranger), table.hash(&stranger)).is_none());
        });
    }
    group.finish();
}

fn policy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    group.throughput(Throughput::Elements(1));
    for policies in [0, 1000, 10_000] {
        let tables = cluster::tables(policies);
        let server = IpAddr::from(cluster::backend_address(3, 4).0);
        let total = policies + 2;
        for (verdict, port) in [("allow", BACKEND_PORT), ("deny", 22)] {
            group.bench_function(format!("judge_{verdict}_{total}"), |bencher| {
                bencher.iter(|| tables.policy.judge(black_box(CLIENT.into()), server, TCP, port));
            });
        }
    }
    group.finish();
}

fn services(criterion: &mut Criterion) {
    let members = |count: u16| -> Vec<Member> {
        let address = |number: u16| SocketAddr::from(([10, 2, (number >> 8) as u8, number as u8], 80));
        (0..count).map(|number| Member { address: address(number), weight: 1 }).collect()
    };
    let mut group = criterion.benchmark_group("maglev");
    for count in [8, 100, 1000] {
        let members = members(count);
        group.bench_function(format!("build_{count}"), |bencher| bencher.iter(|| Maglev::build(&members)));
        let table = Maglev::build(&members);
        let mut hash = 1_u64;
        group.bench_function(format!("pick_{count}"), |bencher| {
            bencher.iter(|| {
                hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                table.pick(hash)
            });
        });
    }
    group.finish();
    let snapshot = cluster::snapshot();
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(1));
    let mut query = ServiceQuery {
        src: CLIENT.into(),
        src_port: 1,
        dst: cluster::service_address(5).into(),
        dst_port: SERVICE_PORT,
        protocol: TCP,
    };
    group.bench_function("service_resolve", |bencher| {
        bencher.iter(|| {
            query.src_port = query.src_port.wrapping_add(1);
            snapshot.tables.services.resolve(&query)
        });
    });
    let route = IpAddr::from(cluster::backend_address(3, 4).0);
    group.bench_function("route", |bencher| bencher.iter(|| snapshot.tables.routes.lookup(black_box(route))));
    let key = Key::new(query.src, 2000, query.dst, SERVICE_PORT, TCP);
    group.bench_function("whole", |bencher| {
        bencher.iter(|| {
            judge::decide(&snapshot, black_box(&key), false, Origin::Endpoint(CLIENT_PORT), Past::default())
        });
    });
    group.finish();
}

criterion_group! {
    name = stages;
    config = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000));
    targets = parsing, flows, policy, services
}

fn main() {
    stages();
    Criterion::default().configure_from_args().final_summary();
    let (start, began) = (Instant::now(), cpu::cycles());
    std::thread::sleep(Duration::from_millis(100));
    let cycles = cpu::cycles().wrapping_sub(began) as f64;
    println!("\n1 ns = {:.3} TSC cycles", cycles / start.elapsed().as_nanos() as f64);
}
