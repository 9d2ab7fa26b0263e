//! The whole turn of a worker, in TSC cycles and nanoseconds a packet: medians over many passes.
//!
//! `full`: parse, flow hit, policy verdict, Service NAT, VXLAN. `forward`: parse, flow hit, routed. `miss`: as `full`,
//! but judged and put into the flow table. `port`: the bench's ports alone, which are in each of the others, too.
//! Arguments: parts of the names of the rows to run; all without.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::path::Path;
use std::sync::Arc;

use benches::cluster;
use benches::replay::Packet;
use benches::rig::{Bare, Cost, Rig};
use serde_json::json;

const BATCHES: [usize; 4] = [1, 4, 16, 64];
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

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let mut rows = Vec::new();
    for (size, flows) in [("16k", 16 << 10), ("1m", 1 << 20)] {
        let packets = cluster::to_services(flows);
        for batch in BATCHES {
            let port = format!("port/{size}/{batch}");
            let full = format!("full/{size}/{batch}");
            if is_wanted(&port) || is_wanted(&full) {
                rows.push(alone(port, &packets, batch));
            }
            if is_wanted(&full) {
                rows.push(hits(full, &packets, batch, &rows));
            }
        }
    }
    for (kind, packets) in
        [("forward", cluster::to_neighbour(16 << 10)), ("miss", cluster::to_services(16 << 10))]
    {
        for (name, batch) in BATCHES.map(|batch| (format!("{kind}/16k/{batch}"), batch)) {
            if !is_wanted(&name) {
                continue;
            }
            let measure = if kind == "miss" { misses } else { hits };
            rows.push(measure(name, &packets, batch, &rows));
        }
    }
    print(&rows);
    if wanted.is_empty() {
        write(&rows);
    }
}

fn alone(name: String, packets: &Arc<[Packet]>, batch: usize) -> Row {
    let mut bare = Bare::new(packets, batch);
    row(name, packets.len(), None, || bare.pass())
}

fn hits(name: String, packets: &Arc<[Packet]>, batch: usize, rows: &[Row]) -> Row {
    let mut rig = Rig::new(packets, batch);
    rig.pass();
    let (_, judged) = rig.hits_and_misses();
    let port = port_of(&name, rows);
    let row = row(name, packets.len(), port, || rig.pass());
    assert_eq!(rig.hits_and_misses().1, judged, "every packet was a hit");
    row
}

fn misses(name: String, packets: &Arc<[Packet]>, batch: usize, rows: &[Row]) -> Row {
    let mut rig = Rig::new(packets, batch);
    let port = port_of(&name, rows);
    let row = row(name, packets.len() * 4, port, || {
        rig.forget();
        rig.pass()
    });
    assert_eq!(rig.hits_and_misses().0, 0, "every packet was a miss");
    row
}

/// The ports' own cost for the flows and batch of a row.
fn port_of(name: &str, rows: &[Row]) -> Option<f64> {
    let (_, rest) = name.split_once('/')?;
    rows.iter().find(|row| row.name == format!("port/{rest}")).map(|row| row.cycles)
}

/// `flows` weighs a pass: the more, the fewer.
fn row(name: String, flows: usize, port: Option<f64>, mut pass: impl FnMut() -> Cost) -> Row {
    pass();
    let costs: Vec<Cost> = (0..PASSES.max(PACKETS / flows)).map(|_| pass()).collect();
    let cycles = median(costs.iter().map(Cost::cycles_a_packet));
    let ns = median(costs.iter().map(Cost::ns_a_packet));
    Row { name, cycles, ns, port }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(rows: &[Row]) {
    println!("\n{:16} {:>14} {:>10} {:>22}", "row", "cycles/packet", "ns/packet", "cycles without port");
    for Row { name, cycles, ns, port } in rows {
        let net = port.map_or(String::new(), |port| format!("{:.1}", cycles - port));
        println!("{name:16} {cycles:>14.1} {ns:>10.2} {net:>22}");
    }
}

/// To `target/bench/summary.json`.
fn write(rows: &[Row]) {
    let value = |row: &Row, value: f64, unit: &str| json!({"row": row.name, "value": value, "unit": unit});
    let both = |row: &Row| [value(row, row.cycles, "cycles/packet"), value(row, row.ns, "ns/packet")];
    let values: Vec<_> = rows.iter().flat_map(both).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    std::fs::create_dir_all(&folder).expect("the folder target/bench");
    let file = folder.join("summary.json");
    let text = serde_json::to_string_pretty(&values).expect("plain values");
    std::fs::write(&file, text + "\n").expect("target/bench/summary.json");
    println!("\nwritten to {}", file.display());
}
