//! The whole turn of a worker, in TSC cycles and nanoseconds a packet: medians over many passes.
//!
//! | row | what a packet goes through |
//! |---|---|
//! | `full` | parse, flow hit, policy verdict, Service NAT, VXLAN |
//! | `updated` | as `full`, where the tables have been replaced since its flow's last packet, and say of it what they said |
//! | `forward` | parse, flow hit, routed to a neighbour |
//! | `miss` | as `full`, but judged against 10,000 rules and 5,000 Services, and put into the flow table |
//! | `miss_small` | the same, against the 32 Services of `full` |
//! | `flood` | as `miss`, where the flow table is full and stays so: each pushes another unreplied flow out |
//! | `port` | the bench's own ports, which are in each of the others, too |
//!
//! `row/flows` is at batches of 64, `row/flows/n` at batches of n. A `6` behind the row's name is IPv6.
//! Arguments: parts of the names of the rows to run; all without.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use benches::cluster::{self, LARGE, SMALL, Scale, WIDE};
use benches::flood::Flood;
use benches::median;
use benches::replay::Packets;
use benches::rig::{Bare, Cost, Rig};
use policy_compiler::maglev::{Maglev, Member};
use serde_json::json;

/// The first is what a row without a number means.
const BATCHES: [usize; 4] = [64, 16, 4, 1];
/// Packets that a row is measured with, in passes over all of its flows.
const PACKETS: usize = 8 << 20;
/// Passes of a row at least.
const PASSES: usize = 15;

/// A line of the table.
struct Row {
    name: String,
    cycles: f64,
    ns: f64,
    /// What the ports alone cost, in cycles.
    port: Option<f64>,
}

/// Flows of a row: how they are called, how many, and in which cluster.
const SIZES: [(&str, usize, Scale); 3] =
    [("16k", 16 << 10, SMALL), ("1m", 1 << 20, SMALL), ("4m", 4 << 20, WIDE)];

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let mut rows = Vec::new();
    for (v6, six) in [(false, ""), (true, "6")] {
        for (size, flows, scale) in SIZES {
            let batches = if size == "4m" { &BATCHES[..1] } else { &BATCHES[..] };
            let names = |kind: &str, batch: usize| row_name(&format!("{kind}{six}/{size}"), batch);
            if !batches
                .iter()
                .any(|batch| is_wanted(&names("port", *batch)) || is_wanted(&names("full", *batch)))
            {
                continue;
            }
            let packets = to_services(v6, &scale, flows);
            for batch in batches {
                let (port, full) = (names("port", *batch), names("full", *batch));
                if is_wanted(&port) || is_wanted(&full) {
                    rows.push(alone(port, &packets, *batch));
                }
                if is_wanted(&full) {
                    rows.push(hits(full, &scale, &packets, *batch, &rows));
                }
            }
        }
        let name = format!("updated{six}/16k");
        if is_wanted(&name) {
            rows.push(updated(name, &to_services(v6, &SMALL, 16 << 10), &rows));
        }
        for batch in BATCHES {
            let name = row_name(&format!("forward{six}/16k"), batch);
            if is_wanted(&name) {
                rows.push(hits(name, &SMALL, &to_neighbour(v6, 16 << 10), batch, &rows));
            }
        }
        for batch in BATCHES {
            for (kind, scale) in [("miss", LARGE), ("miss_small", SMALL)] {
                let name = row_name(&format!("{kind}{six}/16k"), batch);
                if is_wanted(&name) {
                    rows.push(misses(name, &scale, batch, v6, &rows));
                }
            }
        }
    }
    if is_wanted("flood/4m") {
        rows.push(flood("flood/4m".into()));
    }
    print(&rows);
    let maglev = is_wanted("maglev").then(maglev);
    if let Some(micros) = maglev {
        println!("\nmaglev/65537x1000: a table of 65,537 places for 1,000 backends in {micros:.0} µs");
    }
    if wanted.is_empty() {
        write(&rows, maglev);
    }
}

fn row_name(row: &str, batch: usize) -> String {
    if batch == BATCHES[0] { row.into() } else { format!("{row}/{batch}") }
}

fn to_services(v6: bool, scale: &Scale, flows: usize) -> Packets {
    if v6 {
        cluster::to_services_v6(scale, flows)
    } else {
        Packets::Short(cluster::to_services_of(scale, flows))
    }
}

fn to_neighbour(v6: bool, flows: usize) -> Packets {
    if v6 { cluster::to_neighbour_v6(flows) } else { Packets::Short(cluster::to_neighbour(flows)) }
}

fn alone(name: String, packets: &Packets, batch: usize) -> Row {
    let mut bare = Bare::new(packets, batch);
    row(name, packets.count(), None, || bare.pass())
}

fn hits(name: String, scale: &Scale, packets: &Packets, batch: usize, rows: &[Row]) -> Row {
    let mut rig = Rig::of(cluster::snapshot_of(scale), packets, batch);
    rig.pass();
    let (_, judged) = rig.hits_and_misses();
    let port = port_of(&name, rows);
    let row = row(name, packets.count(), port, || rig.pass());
    assert_eq!(rig.hits_and_misses().1, judged, "every packet was a hit");
    row
}

/// Every flow's packet is the first since the tables were replaced.
fn updated(name: String, packets: &Packets, rows: &[Row]) -> Row {
    let mut rig = Rig::of(cluster::snapshot_of(&SMALL), packets, BATCHES[0]);
    rig.pass();
    let (_, judged) = rig.hits_and_misses();
    let port = port_of(&name, rows);
    let row = row(name, packets.count(), port, || {
        rig.publish();
        rig.pass()
    });
    assert_eq!(rig.hits_and_misses().1, judged, "no flow was judged again");
    row
}

fn misses(name: String, scale: &Scale, batch: usize, v6: bool, rows: &[Row]) -> Row {
    let packets = to_services(v6, scale, 16 << 10);
    let mut rig = Rig::of(cluster::snapshot_of(scale), &packets, batch);
    let port = port_of(&name, rows);
    let row = row(name, packets.count() * 4, port, || {
        rig.forget();
        rig.pass()
    });
    assert_eq!(rig.hits_and_misses().0, 0, "every packet was a miss");
    row
}

/// New flows by the million into a table that holds a quarter of them, beside flows that both ends speak in.
fn flood(name: String) -> Row {
    let mut flood = Flood::new();
    let row = row(name, flood.attempts(), None, || flood.pass());
    flood.assert_established();
    row
}

/// The ports' own cost for the flows and batch of a row.
fn port_of(name: &str, rows: &[Row]) -> Option<f64> {
    let (kind, rest) = name.split_once('/')?;
    let six = if kind.ends_with('6') { "6" } else { "" };
    rows.iter().find(|row| row.name == format!("port{six}/{rest}")).map(|row| row.cycles)
}

/// `flows` weighs a pass: the more, the fewer.
fn row(name: String, flows: usize, port: Option<f64>, mut pass: impl FnMut() -> Cost) -> Row {
    pass();
    let passes = if flows > PACKETS / PASSES { PASSES / 3 } else { PACKETS / flows };
    let costs: Vec<Cost> = (0..passes).map(|_| pass()).collect();
    let cycles = median(costs.iter().map(Cost::cycles_a_packet));
    let ns = median(costs.iter().map(Cost::ns_a_packet));
    Row { name, cycles, ns, port }
}

/// Microseconds that the table of a Service takes with the most backends that the paper speaks of (Eisenbud et al.,
/// NSDI 2016, section 5.3: 65,537 places, 1,000 backends).
fn maglev() -> f64 {
    let member = |number: u16| {
        let address = Ipv4Addr::new(10, 2, (number >> 8) as u8, number as u8);
        Member { address: SocketAddr::new(IpAddr::from(address), 8080), weight: 1 }
    };
    let members: Vec<Member> = (0..1000).map(member).collect();
    median((0..PASSES).map(|_| {
        let start = Instant::now();
        std::hint::black_box(Maglev::with_size(&members, 65_537));
        start.elapsed().as_secs_f64() * 1e6
    }))
}

fn print(rows: &[Row]) {
    println!("\n{:16} {:>14} {:>10} {:>22}", "row", "cycles/packet", "ns/packet", "cycles without port");
    for Row { name, cycles, ns, port } in rows {
        let net = port.map_or(String::new(), |port| format!("{:.1}", cycles - port));
        println!("{name:16} {cycles:>14.1} {ns:>10.2} {net:>22}");
    }
}

/// To `target/bench/summary.json`.
fn write(rows: &[Row], maglev: Option<f64>) {
    let value = |row: &Row| json!({"row": row.name, "value": row.cycles, "unit": "cycles/packet", "ns": row.ns, "port_cycles": row.port});
    let mut values: Vec<_> = rows.iter().map(value).collect();
    values.extend(maglev.map(|micros| json!({"row": "maglev/65537x1000_us", "value": micros, "unit": "us"})));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    std::fs::create_dir_all(&folder).expect("the folder target/bench");
    let file = folder.join("summary.json");
    let text = serde_json::to_string_pretty(&values).expect("plain values");
    std::fs::write(&file, text + "\n").expect("target/bench/summary.json");
    println!("\nwritten to {}", file.display());
}
