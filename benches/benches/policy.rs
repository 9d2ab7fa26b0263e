//! The policy tables beside other classifiers, over generated sets of 10 to 100,000 rules.
//!
//! | group | what |
//! |---|---|
//! | `hot` | 1,024 flows in no order, over and over; each judgement waits for the one before |
//! | `abreast` | the same, none waits: what a batch of new flows sees |
//! | `cold` | 1,024 flows that were not asked for before, after 512 MiB of other memory have been written |
//! | `compile` | from the intent to the table |
//!
//! A judgement is both ends of a flow, addresses looked up and rules named; all classifiers must say the same before they are measured.
//! Arguments: as for any criterion benchmark, parts of the names of the rows to run; all without.

#![allow(clippy::print_stdout, reason = "the tables are what it is for")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use afxdp_driver::cpu;
use benches::classifiers::{Classifier, Linear, Lines, PrefixWalks, TupleSpace};
use benches::median;
use benches::rulesets::{Flow, Kind, RuleSet};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use policy_compiler::policy::{Judgement, PolicyTable};
use serde_json::json;

/// Rules of the sets.
const SIZES: [usize; 5] = [10, 100, 1000, 10_000, 100_000];
/// The set of `abreast`: what the targets of a cluster speak of.
const ABREAST_RULES: usize = 10_000;
/// Flows that are judged over and over, and of a cold round.
const FLOWS: usize = 1 << 10;
/// Rounds of `cold`, each with other flows.
const ROUNDS: usize = 9;
/// Flows of a cold round of the linear scan, of which each reads everything.
const LINEAR_FLOWS: usize = 16;
/// Seed of the sets.
const SEED: u64 = 1;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(15)
        .nresamples(1000)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    let mut report = Report { cycles_a_ns: cycles_a_ns(), ..Report::default() };
    for rules in SIZES {
        compile(&mut criterion, rules, &mut report);
        let contest = Contest::new(rules, &mut report);
        contest.warm::<true>("hot", &mut criterion, &mut report);
        if rules == ABREAST_RULES {
            contest.warm::<false>("abreast", &mut criterion, &mut report);
        }
        if SIZES.last() == Some(&rules) && is_whole() {
            contest.cold(&mut report);
        }
    }
    criterion.final_summary();
    report.print();
    if is_whole() {
        report.write();
    }
}

/// Whether all rows run: no part of a name is given, and this is no test.
fn is_whole() -> bool {
    let mut arguments = std::env::args().skip(1);
    arguments.all(|argument| argument == "--bench")
}

/// What is said at the end.
#[derive(Default)]
struct Report {
    figures: Vec<Figure>,
    sets: Vec<String>,
    /// Rules, and nanoseconds.
    compiled: Vec<(usize, f64)>,
    /// Nanoseconds of a read that no cache has.
    miss: Option<f64>,
    cycles_a_ns: f64,
}

/// Nanoseconds a judgement.
struct Figure {
    group: &'static str,
    rules: usize,
    kind: Kind,
    of: &'static str,
    ns: f64,
}

/// A flow in few bytes, so that the flows themselves stay in the first cache.
#[derive(Clone, Copy)]
struct Probe {
    src: u32,
    dst: u32,
    port: u16,
    protocol: u8,
}

impl Probe {
    /// `None` of IPv6.
    fn of(flow: &Flow) -> Option<Self> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (flow.src, flow.dst) else { return None };
        Some(Probe { src: src.to_bits(), dst: dst.to_bits(), port: flow.port, protocol: flow.protocol })
    }

    /// The flow; `after` is 0, which only the judgement before can tell.
    #[inline]
    fn flow(&self, after: u32) -> Flow {
        Flow {
            src: Ipv4Addr::from_bits(self.src ^ after).into(),
            dst: Ipv4Addr::from_bits(self.dst ^ after).into(),
            protocol: self.protocol,
            port: self.port ^ after as u16,
        }
    }
}

/// 0: no table has so many rules.
#[inline]
fn nothing(judgement: &Judgement) -> u32 {
    (judgement.egress.rule.0 | judgement.ingress.rule.0) >> 31
}

/// One set and those who judge by it.
struct Contest {
    rules: usize,
    set: RuleSet,
    table: PolicyTable,
    linear: Linear,
    space: TupleSpace,
    walks: PrefixWalks,
}

impl Contest {
    fn new(rules: usize, report: &mut Report) -> Self {
        let set = RuleSet::new(rules, SEED);
        let intent = &set.intent;
        let lines = Lines::of(intent);
        let table = PolicyTable::compile(intent).expect("a generated set is right");
        let (linear, space, walks) =
            (Linear::new(intent, &lines), TupleSpace::new(intent, &lines), PrefixWalks::new(intent, &lines));
        let size = table.size();
        report.sets.push(format!(
            "| {rules} | {} | {} | {} | {} | {} rows, {} lists | {} lines, {} | {} tuples, {} entries, {} | {} entries, {} |",
            intent.policies.len(),
            intent.identities.len(),
            intent.endpoints.len(),
            lines.blocks.len(),
            mb(size.row_bytes),
            size.port_lists,
            linear.lines(),
            mb(linear.bytes()),
            space.tuples(),
            space.entries(),
            mb(space.bytes()),
            walks.entries(),
            mb(walks.bytes()),
        ));
        Contest { rules, table, linear, space, walks, set }
    }

    /// Over and over; `SERIAL`: each judgement waits for the one before.
    fn warm<const SERIAL: bool>(&self, group: &'static str, criterion: &mut Criterion, report: &mut Report) {
        for kind in Kind::ALL {
            let probes = self.probes(kind, FLOWS);
            let mut of_kind = criterion.benchmark_group(format!("policy/{group}/{}", kind.name()));
            let mut row = Row { rules: self.rules, group, kind, report: &mut *report };
            row.warm::<SERIAL, _>(&mut of_kind, &self.table, &probes);
            row.warm::<SERIAL, _>(&mut of_kind, &self.linear, &probes);
            row.warm::<SERIAL, _>(&mut of_kind, &self.space, &probes);
            row.warm::<SERIAL, _>(&mut of_kind, &self.walks, &probes);
        }
    }

    /// By turns, so that all see the same neighbours on the machine.
    fn cold(&self, report: &mut Report) {
        let mut other = OtherMemory::new();
        report.miss = Some(other.miss());
        for kind in Kind::ALL {
            let probes = self.probes(kind, FLOWS * ROUNDS);
            let mut costs: [Vec<f64>; 4] = Default::default();
            for probes in probes.chunks(FLOWS) {
                costs[0].push(other.cold(&self.table, probes));
                costs[1].push(other.cold(&self.linear, &probes[..LINEAR_FLOWS.min(probes.len())]));
                costs[2].push(other.cold(&self.space, probes));
                costs[3].push(other.cold(&self.walks, probes));
            }
            let names = [PolicyTable::NAME, Linear::NAME, TupleSpace::NAME, PrefixWalks::NAME];
            let mut row = Row { rules: self.rules, group: "cold", kind, report: &mut *report };
            for (name, costs) in names.into_iter().zip(costs) {
                println!(
                    "policy/cold/{}/{name}/{}: {:.1} ns",
                    kind.name(),
                    self.rules,
                    median(costs.clone())
                );
                row.add(name, median(costs));
            }
        }
    }

    /// Flows of a kind, of which all say that they are. Those of a small set repeat.
    fn probes(&self, kind: Kind, count: usize) -> Vec<Probe> {
        let flows = self.set.flows(&self.table, kind, false, count, SEED);
        for flow in flows.iter().take(64) {
            let said = [
                Classifier::judge(&self.table, flow),
                self.linear.judge(flow),
                self.space.judge(flow),
                self.walks.judge(flow),
            ];
            assert_eq!(said.map(|said| Kind::of(&said)), [kind; 4], "{flow:?}");
        }
        flows.iter().filter_map(Probe::of).cycle().take(count).collect()
    }
}

/// Where figures of one kind of flow go.
struct Row<'a> {
    rules: usize,
    group: &'static str,
    kind: Kind,
    report: &'a mut Report,
}

impl Row<'_> {
    fn warm<const SERIAL: bool, C: Classifier>(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        classifier: &C,
        probes: &[Probe],
    ) {
        let (mut at, mut samples) = (0, Vec::new());
        group.bench_function(BenchmarkId::new(C::NAME, self.rules), |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                let mut after = 0;
                for _ in 0..count {
                    at = (at + 1) % FLOWS;
                    let judgement = classifier.judge(&probes[at].flow(after));
                    if SERIAL {
                        after = nothing(&judgement);
                    } else {
                        black_box(judgement);
                    }
                }
                black_box(after);
                let elapsed = start.elapsed();
                samples.push((count, elapsed.as_nanos() as f64 / count as f64));
                elapsed
            });
        });
        // What is short is criterion's way to find out how long it takes.
        let most = samples.iter().map(|(count, _)| *count).max().unwrap_or_default();
        let long: Vec<f64> =
            samples.iter().filter(|(count, _)| *count * 4 >= most).map(|(_, ns)| *ns).collect();
        if !long.is_empty() {
            self.add(C::NAME, median(long));
        }
    }

    fn add(&mut self, of: &'static str, ns: f64) {
        self.report.figures.push(Figure { group: self.group, rules: self.rules, kind: self.kind, of, ns });
    }
}

fn compile(criterion: &mut Criterion, rules: usize, report: &mut Report) {
    let intent = RuleSet::new(rules, SEED).intent;
    let mut samples = Vec::new();
    let mut group = criterion.benchmark_group("policy/compile");
    group.sample_size(10).bench_function(BenchmarkId::from_parameter(rules), |bencher| {
        bencher.iter_custom(|count| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..count {
                let start = Instant::now();
                let table = black_box(PolicyTable::compile(&intent));
                elapsed += start.elapsed();
                // To drop it is no part of it.
                drop(table);
            }
            samples.push(elapsed.as_nanos() as f64 / count as f64);
            elapsed
        });
    });
    group.finish();
    if !samples.is_empty() {
        report.compiled.push((rules, median(samples)));
    }
}

/// So much that no cache holds it.
struct OtherMemory(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    next: u32,
    written: u32,
}

impl OtherMemory {
    /// A power of two: 512 MiB.
    const LINES: u32 = 1 << 23;

    /// Each line names another, and all are on one way, whose steps are no pattern: x → ax + c has the full period modulo a power of two
    /// where c is odd and a is 1 modulo 4 (Knuth, The Art of Computer Programming, volume 2, 3.2.1.2).
    fn new() -> Self {
        let next = |line: u32| line.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % Self::LINES;
        OtherMemory((0..Self::LINES).map(|line| Line { next: next(line), written: 0 }).collect())
    }

    /// Nanoseconds of one read that waits for memory, and for its address's translation.
    fn miss(&self) -> f64 {
        const STEPS: u32 = 1 << 20;
        let start = Instant::now();
        let end = (0..STEPS).fold(0, |line: u32, _| self.0[line as usize].next);
        black_box(end);
        start.elapsed().as_nanos() as f64 / f64::from(STEPS)
    }

    /// Nanoseconds a judgement, each after the one before, with nothing in the caches.
    fn cold<C: Classifier>(&mut self, classifier: &C, probes: &[Probe]) -> f64 {
        self.0.iter_mut().for_each(|line| line.written = line.written.wrapping_add(1));
        black_box(&self.0);
        let start = Instant::now();
        let after = probes.iter().fold(0, |after, probe| nothing(&classifier.judge(&probe.flow(after))));
        black_box(after);
        start.elapsed().as_nanos() as f64 / probes.len() as f64
    }
}

impl Report {
    fn print(&self) {
        println!("\n1 ns = {:.3} TSC cycles", self.cycles_a_ns);
        if let Some(miss) = self.miss {
            println!("one read that no cache has: {miss:.0} ns");
        }
        if !self.compiled.is_empty() {
            println!("\n| rules | compiled in ms |\n|---:|---:|");
            self.compiled.iter().for_each(|(rules, ns)| println!("| {rules} | {:.2} |", ns / 1e6));
        }
        println!(
            "\n| rules | policies | identities | pods | blocks | penstock | linear | tuple space | prefix walks |"
        );
        println!("|---:|---:|---:|---:|---:|---|---|---|---|");
        self.sets.iter().for_each(|set| println!("{set}"));
        for group in ["hot", "abreast", "cold"] {
            self.print_group(group);
        }
    }

    /// A line a set and kind of flow: nanoseconds and TSC cycles of ours, nanoseconds of the others and how many times ours they are.
    fn print_group(&self, group: &str) {
        let figures = || self.figures.iter().filter(|figure| figure.group == group);
        let mut ours = figures().filter(|figure| figure.of == PolicyTable::NAME).peekable();
        if ours.peek().is_none() {
            return;
        }
        println!("\n{group}:\n");
        println!(
            "| rules | flows | penstock: ns | cycles | linear: ns | | tuple space: ns | | prefix walks: ns | |"
        );
        println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        for own in ours {
            let mut line = format!("| {} | {} ", own.rules, own.kind.name());
            line += &format!("| {:.1} | {:.0} |", own.ns, own.ns * self.cycles_a_ns);
            for name in [Linear::NAME, TupleSpace::NAME, PrefixWalks::NAME] {
                let mut same =
                    figures().filter(|figure| (figure.rules, figure.kind) == (own.rules, own.kind));
                let other = same.find(|figure| figure.of == name);
                let cell = other.map(|other| format!(" {:.1} | {:.2} × |", other.ns, other.ns / own.ns));
                line += cell.as_deref().unwrap_or(" | |");
            }
            println!("{line}");
        }
    }

    /// To `target/bench/policy.json`.
    fn write(&self) {
        let judged = self.figures.iter().map(|Figure { group, rules, kind, of, ns }| {
            let row = format!("policy/{group}/{rules}/{}/{of}", kind.name());
            json!({"row": row, "value": ns, "unit": "ns", "cycles": ns * self.cycles_a_ns})
        });
        let compiled = self.compiled.iter().map(
            |(rules, ns)| json!({"row": format!("policy/compile/{rules}"), "value": ns / 1e6, "unit": "ms"}),
        );
        let miss = self.miss.iter().map(|ns| json!({"row": "policy/memory_miss", "value": ns, "unit": "ns"}));
        let rows: Vec<_> = judged.chain(compiled).chain(miss).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        std::fs::create_dir_all(&folder).expect("the folder target/bench");
        let file = folder.join("policy.json");
        let text = serde_json::to_string_pretty(&rows).expect("plain values");
        std::fs::write(&file, text + "\n").expect("target/bench/policy.json");
        println!("\nwritten to {}", file.display());
    }
}

fn mb(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn cycles_a_ns() -> f64 {
    let (start, began) = (Instant::now(), cpu::cycles());
    std::thread::sleep(Duration::from_millis(100));
    cpu::cycles().wrapping_sub(began) as f64 / start.elapsed().as_nanos() as f64
}
