#![allow(clippy::all, missing_docs, clippy::print_stdout, clippy::expect_used)]
use benches::large::Large;
use policy_compiler::{policy::PolicyTable, routes::RouteTable, service::ServiceTable};
use std::time::Instant;
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/statm").expect("statm");
    s.split(' ').nth(1).expect("rss").parse::<u64>().expect("n") * 4096 / 1_000_000
}
fn timed<T>(name: &str, f: impl FnOnce() -> T) -> T {
    let t = Instant::now();
    let r = f();
    println!("{name:30} {:9.2} ms  rss {} MB", t.elapsed().as_secs_f64() * 1e3, rss());
    r
}
fn main() {
    let intent = timed("generate", || Large { namespaces: 500 }.intent());
    println!(
        "{} endpoints {} policies {} services {} backends {} identities",
        intent.endpoints.len(),
        intent.policies.len(),
        intent.services.len(),
        intent.services.iter().map(|s| s.backends.len()).sum::<usize>(),
        intent.identities.len()
    );
    use policy_compiler::{compiler::Compiler, intent::update::Update, tables::Capacity};
    let backends: Vec<_> = intent.services[200..400].to_vec();
    let pods: Vec<_> = intent.endpoints[300..500].to_vec();
    let policy = intent.policies[300].clone();
    for _ in 0..2 {
        let r = timed("routes", || RouteTable::compile(&intent).expect("ok"));
        let p = timed("policy", || PolicyTable::compile(&intent).expect("ok"));
        println!("{:?} routes {}", p.size(), r.bytes());
        let s = timed("services", || ServiceTable::compile(&intent).expect("ok"));
        println!("backend bytes {} {}", s.backend_bytes(), s.frontend_bytes());
        timed("drop", || drop((r, p, s)));
    }
    let mut compiler =
        timed("Compiler::new", || Compiler::new(intent, 1, &Capacity::default(), None).expect("ok"));
    let times = |name: &str, compiler: &mut Compiler, updates: Vec<Update>| {
        let mut us: Vec<f64> = updates
            .into_iter()
            .map(|update| {
                let t = Instant::now();
                let prepared = compiler.prepare(update, 2).expect("ok");
                compiler.commit(prepared);
                t.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        us.sort_by(f64::total_cmp);
        println!(
            "{name:30} p50 {:.0} us  p99 {:.0} us max {:.0}",
            us[us.len() / 2],
            us[us.len() * 99 / 100],
            us[us.len() - 1]
        );
    };
    times(
        "a backend",
        &mut compiler,
        backends
            .into_iter()
            .map(|mut s| {
                s.backends.pop();
                Update { services: vec![s], ..Update::default() }
            })
            .collect(),
    );
    times(
        "a pod",
        &mut compiler,
        pods.into_iter()
            .map(|mut e| {
                e.node = "large-7".into();
                Update { endpoints: vec![e], ..Update::default() }
            })
            .collect(),
    );
    times(
        "a policy",
        &mut compiler,
        (0..5)
            .map(|n| {
                let mut p = policy.clone();
                p.resource_version = n.to_string();
                Update { policies: vec![p], ..Update::default() }
            })
            .collect(),
    );
    let again = timed("export", || compiler.intent());
    let mut b = again.clone();
    timed("between", || Update::between(&again, &mut b));
    timed("whole again", || Compiler::new(again, 3, &Capacity::default(), Some(&compiler)).expect("ok"));
}
