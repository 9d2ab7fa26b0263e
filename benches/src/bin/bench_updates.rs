//! `make bench-updates`: what a change of the state costs, and what it costs the packets.
//!
//! One worker thread with a port on which packets arrive by the clock, and this thread, which compiles and publishes; both in one
//! process, with nothing of the kernel between. The state is that of 5,000 Services with 250,000 backends and 10,000 policies over
//! 100,000 pods. Rows go to `target/bench/updates.json`.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use benches::cluster;
use benches::large::Large;
use benches::load::Load;
use benches::paced::Outcome;
use clap::Parser;
use policy_compiler::compiler::Compiler;
use policy_compiler::intent::update::Update;
use policy_compiler::intent::{Endpoint, Intent, IpBlock, Peers, Policy, Rule, Service};
use policy_compiler::tables::Tables;
use serde_json::json;

/// Flows that the packets belong to.
const FLOWS: usize = 16 << 10;
/// Rounds of each kind, in turns.
const ROUNDS: usize = 5;
/// Updates a second.
const RATES: [u32; 4] = [1, 10, 100, 1000];

/// Replaces the tables of a large cluster under load.
#[derive(Debug, Parser)]
struct Options {
    /// Namespaces of the cluster: 200 pods, 20 policies and 10 Services of 50 backends in each.
    #[arg(long, default_value_t = 500)]
    namespaces: usize,
    /// Seconds of load for each rate of updates, with updates, with compiling only and without either.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Flows that the packets belong to.
    #[arg(long, default_value_t = FLOWS)]
    flows: usize,
    /// Where the rows go.
    #[arg(long, default_value = "target/bench/updates.json")]
    out: PathBuf,
}

fn main() {
    let options = Options::parse();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let [control, _, ..] = cores[..] {
        core_affinity::set_for_current(control);
    }
    let mut rows = Rows::default();
    let intent = Large { namespaces: options.namespaces }.intent();
    let changes = Changes {
        services: intent.services.iter().rev().take(1000).cloned().collect(),
        endpoints: intent.endpoints.iter().rev().take(1000).cloned().collect(),
        policy: intent.policies.last().cloned().expect("a policy"),
        first_identity: cluster::intent(0).identities.len() as u32,
        identities: intent.identities.len() - cluster::intent(0).identities.len(),
    };
    checks(&mut rows, &intent, &changes);
    let packets = cluster::to_services(options.flows);
    let mut load = Load::new(intent.clone(), &packets, cores.get(1).copied());
    whole(&mut rows, &mut load, intent);
    single(&mut rows, &mut load, &changes);
    let rate = loss_free(&mut rows, &load);
    load.tally.set_rate(rate * 0.8);
    under_load(&mut rows, &mut load, &changes, options.seconds);
    drop(load);
    rows.write(&options.out);
}

/// What is changed over and over.
struct Changes {
    services: Vec<Service>,
    endpoints: Vec<Endpoint>,
    policy: Policy,
    /// Identities of the large cluster.
    first_identity: u32,
    identities: usize,
}

impl Changes {
    /// A Service with a backend less, or with all again.
    fn backend(&self, number: usize) -> Update {
        let mut service = self.services[number % self.services.len()].clone();
        if (number / self.services.len()).is_multiple_of(2) {
            service.backends.pop();
        }
        Update { services: vec![service], ..Update::default() }
    }

    /// A pod without its second address, or on no known node, or as it was.
    fn pod(&self, number: usize) -> Update {
        let mut endpoint = self.endpoints[number % self.endpoints.len()].clone();
        if (number / self.endpoints.len()).is_multiple_of(2) {
            endpoint.node.clear();
        }
        Update { endpoints: vec![endpoint], ..Update::default() }
    }

    /// A policy of which nothing is new but its version.
    fn policy(&self, number: usize) -> Update {
        let policy = Policy { resource_version: number.to_string(), ..self.policy.clone() };
        Update { policies: vec![policy], ..Update::default() }
    }

    /// The same policy with a rule whose peers no policy has yet: two applications of two namespaces.
    fn peers(&self, number: usize) -> Update {
        let identities = BTreeSet::from([number * 37, number * 53 + 1].map(|one| one % self.identities));
        let identities = identities.into_iter().map(|one| self.first_identity + one as u32).collect();
        self.policy_about(number, Peers { identities, blocks: vec![] })
    }

    /// The same with an address block that no policy has yet, the first octets of which are given.
    fn block(&self, number: usize, first: u8, second: u8) -> Update {
        let cidr = format!("{first}.{second}.{}.0/24", number % 256).parse().expect("a prefix");
        self.policy_about(
            number,
            Peers { identities: vec![], blocks: vec![IpBlock { cidr, except: vec![] }] },
        )
    }

    fn policy_about(&self, number: usize, peers: Peers) -> Update {
        let ingress = Some(vec![Rule { peers: Some(peers), ..Rule::default() }]);
        let policy = Policy { resource_version: number.to_string(), ingress, ..self.policy.clone() };
        Update { policies: vec![policy], ..Update::default() }
    }
}

/// The whole state, compiled and in force; what it takes of memory, the bench's own copy of the state apart.
fn whole(rows: &mut Rows, load: &mut Load, intent: Intent) {
    let mut times: Vec<f64> = (0..3).map(|_| milliseconds(load.apply(intent.clone()))).collect();
    // With no table to take from the generation before.
    let fresh = Instant::now();
    let tables = Tables::compile(&intent, 1, &Default::default()).expect("the intent is right");
    rows.add("updates/whole_state_compile_ms", milliseconds(fresh.elapsed()), "ms");
    drop(tables);
    rows.add("updates/whole_state_again_ms", median(&mut times), "ms");
    let tables = load.compiler().tables();
    let policy = tables.policy.size();
    let bytes = [
        ("policy", policy.address_bytes + policy.row_bytes),
        ("services", tables.services.backend_bytes() + tables.services.frontend_bytes()),
        ("routes", tables.routes.bytes()),
    ];
    for (table, bytes) in bytes {
        rows.add(&format!("updates/{table}_bytes"), bytes as f64 / 1e6, "MB");
    }
    rows.add("updates/rss_with_two_states_mb", resident(), "MB");
    drop(intent);
    rows.add("updates/rss_mb", resident(), "MB");
}

/// What it takes to hold tables to the policies before they are published, beside what it takes to compile them.
fn checks(rows: &mut Rows, intent: &Intent, changes: &Changes) {
    let mut whole = [Vec::new(), Vec::new()];
    let mut last = None;
    for generation in 1..=5 {
        let began = Instant::now();
        let compiler = Compiler::new(intent.clone(), generation, &Default::default(), last.as_ref());
        let mut compiler = compiler.expect("the intent is right");
        whole[0].push(milliseconds(began.elapsed()));
        let began = Instant::now();
        let checked = compiler.check().expect("the tables are right");
        whole[1].push(milliseconds(began.elapsed()));
        println!("{checked:?}");
        last = Some(compiler);
    }
    let [compiled, checked] = whole.map(|mut times| median(&mut times));
    rows.add("updates/whole_state_check_ms", checked, "ms");
    rows.add("updates/whole_state_check_share", checked / compiled * 100.0, "%");
    let mut compiler = last.expect("one");
    let mut single = |name: &str, count: usize, change: &dyn Fn(usize) -> Update| {
        let (mut times, mut left_out) = (Vec::new(), 0);
        for number in 0..count {
            let generation = compiler.tables().generation + 1;
            let prepared = compiler.prepare(change(number), generation).expect("the update is right");
            let began = Instant::now();
            let checked = compiler.check_prepared(&prepared).expect("the tables are right");
            times.push(milliseconds(began.elapsed()) * 1e3);
            left_out += checked.left_out;
            compiler.commit(prepared);
        }
        println!("left out {left_out}");
        rows.add(&format!("updates/{name}_check_p50_us"), percentile(&mut times, 0.50), "us");
        rows.add(&format!("updates/{name}_check_p99_us"), percentile(&mut times, 0.99), "us");
    };
    single("one_pod", 2000, &|number| changes.pod(number));
    single("one_policy", 20, &|number| changes.policy(number));
}

/// One change at a time, the worker idle.
fn single(rows: &mut Rows, load: &mut Load, changes: &Changes) {
    let mut row = |name: &str, count: usize, change: &dyn Fn(usize) -> Update| {
        let mut times: Vec<f64> =
            (0..count).map(|number| milliseconds(load.update(change(number))) * 1e3).collect();
        rows.add(&format!("updates/{name}_p50_us"), percentile(&mut times, 0.50), "us");
        rows.add(&format!("updates/{name}_p99_us"), percentile(&mut times, 0.99), "us");
    };
    row("one_endpoint", 2000, &|number| changes.backend(number));
    row("one_pod", 2000, &|number| changes.pod(number));
    row("one_policy", 2000, &|number| changes.policy(number));
    row("one_policy_new_peers", 500, &|number| changes.peers(number));
    row("one_policy_new_block", 250, &|number| changes.block(number, 198, 51));
    row("one_policy_new_block_of_pods", 100, &|number| changes.block(number, 100, 64));
}

/// The highest rate at which no packet is lost for a second, by halving.
fn loss_free(rows: &mut Rows, load: &Load) -> f64 {
    let run = |rate: f64| {
        load.tally.set_rate(rate);
        std::thread::sleep(Duration::from_millis(200));
        measured(load, 1.0)
    };
    // As fast as it goes: nearly all is lost, and what is taken is what can be.
    let (mut low, mut high) = (0.0, run(1e9).taken as f64 * 1.05);
    for _ in 0..7 {
        let rate = f64::midpoint(low, high);
        if run(rate).lost == 0 { low = rate } else { high = rate }
    }
    rows.add("updates/loss_free_mpps", low / 1e6, "Mpps");
    low
}

fn measured(load: &Load, seconds: f64) -> Outcome {
    let before = load.tally.read();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    load.tally.read().since(&before)
}

/// Packets at 80 % of the loss-free rate while tables are replaced. In turns: nothing is done, the same updates are compiled and not
/// published, they are published. The second is what the third is held against: both CPUs share caches and memory, so whatever
/// is compiled beside a worker slows it, new tables or not.
fn under_load(rows: &mut Rows, load: &mut Load, changes: &Changes, seconds: f64) {
    let mut number = 0;
    let mut all = Vec::new();
    for rate in RATES {
        let mut still = Rounds::default();
        let mut compiled = Rounds::default();
        let mut published = Rounds::default();
        let judged = load.counters.flow_misses.read();
        for _ in 0..ROUNDS {
            let part = seconds / ROUNDS as f64;
            still.add(measured(load, part));
            // At least one a round.
            let rate = f64::from(rate).max(1.0 / part);
            compiled.add(paced(load, rate, part, |load| {
                load.rehearse(changes.backend(number));
                number += 1;
            }));
            published.add(paced(load, rate, part, |load| {
                all.push(milliseconds(load.update(changes.backend(number))) * 1e3);
                number += 1;
            }));
        }
        let judged = load.counters.flow_misses.read() - judged;
        let row = |name: &str| format!("updates/{rate}hz/{name}");
        rows.add(&row("lost"), published.lost(), "ppm");
        rows.add(&row("lost_compiling_only"), compiled.lost(), "ppm");
        rows.add(&row("lost_still"), still.lost(), "ppm");
        rows.add(&row("judged_again"), judged as f64 / published.taken as f64 * 100.0, "%");
        rows.add(&row("p50_us"), published.microseconds(0.5), "us");
        rows.add(&row("p99_us"), published.microseconds(0.99), "us");
        rows.add(&row("p99_compiling_only_us"), compiled.microseconds(0.99), "us");
        rows.add(&row("p99_still_us"), still.microseconds(0.99), "us");
        rows.add(&row("p99_ratio"), published.microseconds(0.99) / compiled.microseconds(0.99), "");
    }
    rows.add("updates/apply_to_last_old_p50_us", percentile(&mut all, 0.50), "us");
    rows.add("updates/apply_to_last_old_p99_us", percentile(&mut all, 0.99), "us");
}

/// Calls `change` so many times a second, and spins in between.
fn paced(load: &mut Load, rate: f64, seconds: f64, mut change: impl FnMut(&mut Load)) -> Outcome {
    let before = load.tally.read();
    let start = Instant::now();
    let mut done = 0.0;
    while start.elapsed().as_secs_f64() < seconds {
        if start.elapsed().as_secs_f64() * rate >= done {
            change(load);
            done += 1.0;
        }
        std::hint::spin_loop();
    }
    load.tally.read().since(&before)
}

/// Outcomes of one kind; of each figure the median is shown: a round that something else on the machine fell into is left out.
#[derive(Default)]
struct Rounds {
    rounds: Vec<Outcome>,
    taken: u64,
}

impl Rounds {
    fn add(&mut self, outcome: Outcome) {
        self.taken += outcome.taken;
        self.rounds.push(outcome);
    }

    /// Packets lost of a million.
    fn lost(&self) -> f64 {
        self.median(|round| round.lost as f64 / (round.lost + round.taken) as f64 * 1e6)
    }

    fn microseconds(&self, share: f64) -> f64 {
        self.median(|round| round.microseconds(share))
    }

    fn median(&self, figure: impl Fn(&Outcome) -> f64) -> f64 {
        median(&mut self.rounds.iter().map(figure).collect::<Vec<_>>())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share) as usize]
}

fn median(times: &mut [f64]) -> f64 {
    percentile(times, 0.5)
}

/// Resident memory of this process, in megabytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096.0 / 1e6
}

/// The table.
#[derive(Default)]
struct Rows(Vec<serde_json::Value>);

impl Rows {
    fn add(&mut self, row: &str, value: f64, unit: &str) {
        println!("{row:40} {value:12.3} {unit}");
        self.0.push(json!({ "row": row, "value": value, "unit": unit }));
    }

    fn write(&self, path: &PathBuf) {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("a folder for the rows");
        }
        let text = serde_json::to_vec_pretty(&self.0).expect("numbers");
        std::fs::write(path, text).expect("the rows can be written");
        println!("rows: {}", path.display());
    }
}
