//! The commands of many trials on real devices: two pods in namespaces of their own, behind a router. Trials are short, and
//! nothing is asserted of speed: structure, sums and order of bounds. Needs root.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lab;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use lab::{A, B, Ended, Lab, file, pktgen, start};
use nix::sys::signal::Signal;
use serde_json::Value;

/// From pod to pod, at loads that keep a slow machine from being the measure of everything.
fn ends() -> String {
    format!("--tx-netns {A} --tx-device eth0 --rx-netns {B} --rx-device eth0 --dst-ip 10.9.0.2 --flows 8")
}

const SHORT: &str = "--trial 100ms --drain 100ms --pause 10ms --min-rate 1kpps --max-rate 40kpps -o json";

fn json(ended: &Ended, code: i32) -> Value {
    assert_eq!(ended.code, code, "{ended}");
    let report: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended}"));
    assert_eq!(report["schema"], "pktgen.bench/1");
    sums_hold(&report);
    report
}

/// What every trial and every search keeps, however fast the machine.
fn sums_hold(report: &Value) {
    let trials = report["trials"].as_array().unwrap();
    assert!(!trials.is_empty());
    for trial in trials {
        let number = |key: &str| trial[key].as_u64().unwrap_or_else(|| panic!("{key}: {trial:#}"));
        assert_eq!(number("sent"), number("received") + number("lost"), "{trial:#}");
        if trial["load_pps"].is_number() && trial["asked_seconds"].is_number() {
            assert_eq!(number("asked"), number("sent") + number("forfeited"), "{trial:#}");
        }
        if let Some(latency) = trial["latency_ns"].as_object() {
            let ladder: Vec<_> = ["min", "p50", "p90", "p99", "p99_9", "max"]
                .iter()
                .map(|step| latency[*step].as_u64())
                .collect();
            assert!(ladder.is_sorted(), "{trial:#}");
            assert_eq!(latency["samples"].as_u64(), Some(number("received")));
        }
    }
    for search in report["searches"].as_array().unwrap() {
        if let (Some(lower), Some(upper)) = (search["lower"].as_u64(), search["upper"].as_u64()) {
            assert!(lower < upper, "{search:#}");
        }
        if let (Some(lower), Some(rate)) =
            (search["lower"].as_u64(), search["conditional_throughput"].as_f64())
        {
            assert!(rate <= lower as f64 + 1e-6, "{search:#}");
        }
    }
    for figure in report["figures"].as_array().unwrap() {
        let number = |key: &str| figure[key].as_f64().unwrap();
        assert!(number("min") <= number("median") && number("median") <= number("max"), "{figure:#}");
    }
}

fn names(report: &Value) -> Vec<String> {
    report["figures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|figure| figure["name"].as_str().unwrap().to_owned())
        .collect()
}

fn was_reached(report: &Value, name: &str) -> bool {
    // On a machine that stalls, a search may find no rate; then the report says so.
    let said = report["not_reached"].as_array().unwrap();
    names(report).iter().any(|figure| figure.contains(name))
        || said.iter().any(|entry| entry["what"].as_str().unwrap().contains(name))
}

#[test]
fn rfc_2544_makes_its_tests_and_says_what_it_found() {
    let Some(_lab) = Lab::up() else { return };
    let words = format!("rfc2544 {} {SHORT} --sizes 64,512 --repeats 1 --loss-step 50% --burst 10ms", ends());
    let report = json(&pktgen(&words), 0);
    for name in ["throughput", "latency", "loss at 100%", "back-to-back"] {
        assert!(was_reached(&report, name), "{name}: {report:#}");
    }
    let sizes: Vec<_> =
        report["figures"].as_array().unwrap().iter().map(|figure| figure["size"].clone()).collect();
    assert!(sizes.contains(&"64".into()) && sizes.contains(&"512".into()), "{sizes:?}");
    let floor = &report["floor"];
    assert!(floor["memory_ns"]["p50"].as_u64().unwrap() > 0, "{floor:#}");
    assert!(
        floor["veth_ns"]["p50"].as_u64().unwrap() > floor["memory_ns"]["min"].as_u64().unwrap(),
        "{floor:#}"
    );
    assert_eq!(report["settings"]["trials.sizes"], "64,512");

    let refused = pktgen(&format!("rfc2544 {} {SHORT} --sizes 1600", ends()));
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.err.contains("--sizes: frames of 1600 bytes are longer than the 1518"), "{refused}");
}

#[test]
fn every_pair_of_engines_searches_and_the_bounds_are_ordered() {
    let Some(_lab) = Lab::up() else { return };
    lab::inside(lab::ROUTER, "ethtool -K to-a gro on");
    let base = format!("--tx-netns {A} --rx-netns {B} --dst-ip 10.9.0.2 --flows 4");
    let engines = [
        "--tx-device eth0 --rx-device eth0 --protocol udp,tcp-stream,tcp-syn --size 128 --popularity zipf=1.2",
        "--tx-device eth0 --rx-engine socket",
        "--engine socket --size imix",
        "--tx-engine live --tx-device eth0 --rx-device eth0",
    ];
    for engines in engines {
        let goals = "--goal ndr,initial=50ms,final=100ms,sum=200ms,width=20% --goal pdr,loss=2%,initial=50ms,final=100ms,sum=200ms,width=20%";
        let report = json(&pktgen(&format!("search {base} {engines} {SHORT} {goals}")), 0);
        assert!(was_reached(&report, "NDR") && was_reached(&report, "PDR"), "{report:#}");
        assert_eq!(report["searches"].as_array().unwrap().len(), 2);
        let floor = &report["floor"];
        assert!(floor["veth_ns"]["samples"].as_u64() > Some(0), "{engines}: {floor:#}");
    }
}

#[test]
fn certify_writes_one_report_that_compares_with_itself() {
    let Some(_lab) = Lab::up() else { return };
    let directory = file("certified");
    let _ = fs::remove_dir_all(&directory);
    let words = format!(
        "certify --quick --node lab {} --trial 50ms --drain 100ms --pause 5ms --max-rate 20kpps --report {}",
        ends(),
        directory.display()
    );
    let ended = pktgen(&words);
    assert_eq!(ended.code, 0, "{ended}");
    for part in ["node: lab", "Figures", "The instrument's own latency", "certifies nothing"] {
        assert!(ended.out.contains(part), "{part}: {ended}");
    }
    let read = |name: &str| fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let report: Value = serde_json::from_slice(&read("report.json")).unwrap();
    sums_hold(&report);
    for name in ["throughput", "NDR", "PDR", "latency p99 at 50% of NDR", "back-to-back"] {
        assert!(was_reached(&report, name), "{name}: {report:#}");
    }
    let html = String::from_utf8(read("report.html")).unwrap();
    for part in
        ["<svg", "Loss of each trial against its load", "Latency of frames of", "Trials", "Settings", "lab"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(&read("loss.png")[1..4], b"PNG");
    let trials = String::from_utf8(read("trials.csv")).unwrap();
    assert_eq!(trials.lines().count(), 1 + report["trials"].as_array().unwrap().len());

    let json = directory.join("report.json").display().to_string();
    let same = pktgen(&format!("compare {json} {json} -o json"));
    assert_eq!(same.code, 0, "{same}");
    let worse = directory.join("worse.json");
    slower(&report, &worse);
    let compared = pktgen(&format!("compare {json} {}", worse.display()));
    assert_eq!(compared.code, 1, "{compared}");
    assert!(compared.out.contains("worse"), "{compared}");
}

/// The same report with every rate halved.
fn slower(report: &Value, path: &Path) {
    let mut slower = report.clone();
    for figure in slower["figures"].as_array_mut().unwrap() {
        if figure["unit"] == "packets/s" {
            for key in ["median", "min", "max"] {
                figure[key] = (figure[key].as_f64().unwrap() / 2.0).into();
            }
            for value in figure["repeats"].as_array_mut().unwrap() {
                *value = (value.as_f64().unwrap() / 2.0).into();
            }
        }
    }
    fs::write(path, slower.to_string()).unwrap();
}

#[test]
fn a_signal_ends_a_search_with_a_report_of_what_was_found() {
    let Some(_lab) = Lab::up() else { return };
    let goal = "--goal ndr,initial=100ms,final=100ms,sum=60s";
    let running = start(&format!("search {} {SHORT} {goal} --no-floor --progress", ends()));
    thread::sleep(Duration::from_millis(2500));
    running.signal(Signal::SIGINT);
    let ended = running.finish();
    let report = json(&ended, 130);
    assert_eq!(report["interrupted"], true);
    assert!(ended.err.contains("trial 1  search NDR"), "each trial has its line: {ended}");
}

#[test]
fn a_profile_is_run_and_flags_go_before_it() {
    let Some(_lab) = Lab::up() else { return };
    let profile = file("lab.toml");
    let text = format!(
        "[traffic]\ndst-ip = \"10.9.0.2\"\nsize = {{ 64 = 7, 594 = 4, 1518 = 1 }}\nflows = 100\npopularity = \"zipf\"\n\
         [load]\nrate = \"20kpps\"\ncount = 5000\n[sender]\ntx-device = \"eth0\"\ntx-netns = \"{A}\"\n\
         [receiver]\nrx-device = \"eth0\"\nrx-netns = \"{B}\"\n[output]\noutput = \"json\"\nfloor = true\n"
    );
    fs::write(&profile, text).unwrap();
    let report = pktgen(&format!("run --profile {} --count 4000", profile.display())).report(0);
    assert_eq!((&report["tx"]["sent"], &report["loss"]["lost"]), (&4000.into(), &0.into()), "{report:#}");
    assert_eq!(report["tx"]["frame_sizes"], serde_json::json!([64, 594, 1518]));
    // The first of a hundred streams' flows is the most popular: Zipf's half of the harmonic number.
    let first = report["streams"][0]["sent"].as_u64().unwrap();
    assert!(first > 600, "{report:#}");
    assert!(report["floor"]["veth_ns"]["samples"].as_u64().unwrap() > 0, "{report:#}");
}
