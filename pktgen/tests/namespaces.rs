//! Every engine on real devices: two pods in namespaces of their own, behind a router. Needs root.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lab;

use std::fs::File;
use std::io::BufReader;
use std::thread;
use std::time::{Duration, Instant};

use afxdp_driver::pcap::{PcapReader, PcapWriter, Record};
use lab::{A, B, Lab, ROUTER, ROUTER_MAC, Running, file, inside, pktgen, start, start_in};
use nix::sys::signal::Signal;
use serde_json::Value;

/// From pod to pod; packets that a slow machine, too, carries without loss.
const EASY: &str = "--count 4000 --rate 20kpps -o json";

/// A receiver for packets of run 7, ready.
fn receiver(words: &str) -> Running {
    let mut running = start(&format!("receive --rx-netns {B} --run-id 7 {words} -o json"));
    running.wait_ready();
    running
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a count"))
}

/// All that was sent came, once and in order, and each was timed.
fn came_whole(report: &Value) {
    let (loss, rx, tx) = (&report["loss"], &report["rx"], &report["tx"]);
    let sent = number(&tx["sent"]);
    assert_eq!(sent, 4000, "{report:#}");
    assert_eq!((number(&loss["sent"]), number(&loss["received"])), (sent, sent), "{report:#}");
    assert_eq!((number(&loss["lost"]), &loss["exact"]), (0, &Value::Bool(true)), "{report:#}");
    assert_eq!((number(&tx["lost_at_sender"]), number(&tx["device_dropped"])), (0, 0), "{report:#}");
    let faults = ["duplicates", "reordered", "corrupt", "other_run", "beyond_window", "receiver_overflow"];
    for fault in faults {
        assert_eq!(number(&rx[fault]), 0, "{fault}: {report:#}");
    }
    let latency = &report["latency_ns"];
    assert_eq!(number(&latency["samples"]), sent);
    let ladder: Vec<_> =
        ["min", "p50", "p90", "p99", "p99_9", "max"].iter().map(|step| number(&latency[step])).collect();
    assert!(ladder.is_sorted() && ladder[0] > 0 && ladder[5] < 5_000_000_000, "{ladder:?}");
    let each: u64 =
        report["streams"].as_array().unwrap().iter().map(|stream| number(&stream["received"])).sum();
    assert_eq!(each, sent);
}

#[test]
fn every_pair_of_engines_brings_everything_through_the_gateway() {
    let Some(_lab) = Lab::up() else { return };
    let v4 = "--dst-ip 10.9.0.2 --flows 8";
    let v6 = "--dst-ip fd09::2 --flows 8";
    let rows = [
        format!("{v4} --tx-device eth0 --rx-engine socket"),
        format!("{v6} --tx-device eth0 --rx-engine socket"),
        format!("{v4} --tx-device eth0 --rx-device eth0 --protocol udp=2,tcp=1,icmp=1 --size 80,300"),
        format!("{v6} --tx-device eth0 --rx-device eth0 --protocol udp,tcp,icmp --size imix"),
        format!("{v4} --engine socket"),
        format!("{v6} --engine socket --size 1280"),
        format!("{v4} --tx-engine socket --rx-device eth0"),
    ];
    for words in rows {
        let report =
            pktgen(&format!("run --tx-netns {A} --rx-netns {B} {words} {EASY} --max-loss 0")).report(0);
        came_whole(&report);
    }
}

#[test]
fn live_frames_come_through_as_others_do() {
    let Some(_lab) = Lab::up() else { return };
    // The other end of the sender's veth must take XDP frames: GRO makes it.
    inside(ROUTER, "ethtool -K to-a gro on");
    let words = format!("run --tx-netns {A} --tx-device eth0 --rx-netns {B} --dst-ip 10.9.0.2 --flows 32");
    for receiver in ["--rx-device eth0", "--rx-engine socket"] {
        let report = pktgen(&format!("{words} --tx-engine live {receiver} {EASY}")).report(0);
        came_whole(&report);
        assert_eq!(report["tx"]["engine"], "live");
    }
}

#[test]
fn two_processes_each_in_its_pod_measure_as_one() {
    let Some(_lab) = Lab::up() else { return };
    let receive = "receive --rx-engine socket --rx-port 8080 --idle 500ms --run-id 7 -o json";
    let mut receiver = start_in(B, receive);
    receiver.wait_ready();
    let load = "--dst-ip 10.9.0.2 --dst-port 8080 --flows 4 --warmup 100ms --count 4000 --rate 20kpps";
    let sender = start_in(A, &format!("send --tx-device eth0 {load} --run-id 7 -o json"));
    let (sent, received) = (sender.finish().report(0), receiver.finish().report(0));
    let (tx, rx, loss) = (&sent["tx"], &received["rx"], &received["loss"]);
    let count = number(&tx["sent"]);
    assert_eq!(count, 4000);
    assert_eq!((&sent["command"], &sent["rx"]), (&"send".into(), &Value::Null));
    assert!(number(&tx["warmup_sent"]) > 0);
    assert_eq!(number(&rx["warmup_received"]), number(&tx["warmup_sent"]));
    assert_eq!((number(&loss["sent"]), number(&loss["received"])), (count, count));
    assert_eq!((&loss["exact"], number(&received["run_id"])), (&Value::Bool(false), 7));
    assert_eq!(number(&received["latency_ns"]["samples"]), count);
}

#[test]
fn a_replayed_capture_shows_each_loss_duplicate_and_disorder() {
    let Some(_lab) = Lab::up() else { return };
    let path = file("mangled.pcap");
    let words = "--src-ip 10.9.0.1 --dst-ip 10.9.0.2 --run-id 7 --count 1000 --rate 10kpps";
    assert_eq!(pktgen(&format!("build {} {words}", path.display())).code, 0);
    mangle(&path);
    for pace in ["", "--rate 5kpps"] {
        let receiver = receiver("--rx-device eth0 --idle 500ms");
        let begin = Instant::now();
        let replay =
            format!("replay {} --tx-netns {A} --tx-device eth0 --dst-mac {ROUTER_MAC}", path.display());
        let sent = pktgen(&format!("{replay} {pace} -o json")).report(0);
        let seconds = begin.elapsed().as_secs_f64();
        assert_eq!(
            (number(&sent["tx"]["sent"]), number(&sent["tx"]["lost_at_sender"])),
            (992, 0),
            "{sent:#}"
        );
        let least = if pace.is_empty() { 0.099 } else { 0.19 };
        assert!(seconds > least, "{seconds} s for {pace:?}");
        let received = receiver.finish().report(0);
        let (loss, rx) = (&received["loss"], &received["rx"]);
        assert_eq!(
            (number(&loss["sent"]), number(&loss["received"]), number(&loss["lost"])),
            (1000, 989, 11)
        );
        assert_eq!(number(&rx["duplicates"]), 2, "{received:#}");
        assert_eq!((number(&rx["reordered"]), number(&rx["max_reorder_distance"])), (1, 4), "{received:#}");
        assert_eq!(number(&rx["corrupt"]), 1, "{received:#}");
        assert_eq!(received["latency_ns"], Value::Null, "a capture's packets carry no send time");
    }
}

/// Of 1000 packets: ten are left out, one is damaged, two are sent twice, one is late by four.
fn mangle(path: &std::path::Path) {
    let reader = PcapReader::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let mut records: Vec<Record> = reader.map(Result::unwrap).collect();
    assert_eq!(records.len(), 1000);
    let frames: Vec<Vec<u8>> = records.iter().map(|record| record.data.clone()).collect();
    let mut order: Vec<usize> = (0..1000).filter(|number| !(500..510).contains(number)).collect();
    let late = order.remove(100);
    order.insert(104, late);
    order.insert(201, 200);
    order.insert(302, 300);
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for (record, number) in records.iter_mut().zip(&order) {
        let mut frame = frames[*number].clone();
        if *number == 700 {
            frame[55] ^= 0x10; // within the stamp: the UDP checksum tells
        }
        writer.write(record.time_ns, &frame).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_signal_ends_each_command_early_with_a_report() {
    let Some(_lab) = Lab::up() else { return };
    let receiver = receiver("--rx-engine socket --rx-port 9000");
    let to_b = format!("--tx-netns {A} --tx-device eth0 --dst-ip 10.9.0.2 --duration 60s --rate 1kpps");
    let sender = start(&format!("send {to_b} --run-id 7 --progress -o json"));
    thread::sleep(Duration::from_millis(1500));
    sender.signal(Signal::SIGINT);
    let sender = sender.finish();
    let sent = sender.report(130);
    assert_eq!(sent["interrupted"], true);
    assert!((500..5000).contains(&number(&sent["tx"]["sent"])), "{sent:#}");
    assert!(
        sender.err.contains("[   1 s] sent ")
            && sender.err.contains("pps)")
            && !sender.err.contains("received"),
        "{sender}"
    );
    receiver.signal(Signal::SIGTERM);
    let received = receiver.finish().report(0);
    assert_eq!(number(&received["loss"]["received"]), number(&sent["tx"]["sent"]));

    let both = start(&format!("run {to_b} --rx-netns {B} --rx-device eth0 -o json"));
    thread::sleep(Duration::from_millis(1500));
    both.signal(Signal::SIGINT);
    let report = both.finish().report(130);
    assert_eq!((&report["interrupted"], number(&report["loss"]["lost"])), (&Value::Bool(true), 0));
}

#[test]
fn too_much_loss_is_exit_code_3_and_the_table_says_what_was_lost() {
    let Some(_lab) = Lab::up() else { return };
    let words = format!("run --tx-netns {A} --tx-device eth0 --rx-netns {B} --dst-ip 10.9.0.2 --count 100");
    let ended = pktgen(&format!("{words} --rx-engine socket --rx-port 9001 --max-loss 1"));
    assert_eq!(ended.code, 3, "{ended}");
    for part in
        ["lost           100 of 100 (100.0000 %)", "conservation   holds: sent 100 = received 0 + lost 100"]
    {
        assert!(ended.out.contains(part), "{part}: {ended}");
    }
    assert_eq!(pktgen(&format!("{words} --rx-engine socket --max-loss 0 -o csv")).code, 0);
}

#[test]
fn after_a_kill_the_next_run_succeeds() {
    let Some(_lab) = Lab::up() else { return };
    let words =
        format!("run --tx-netns {A} --tx-device eth0 --rx-netns {B} --rx-device eth0 --dst-ip 10.9.0.2");
    let killed = start(&format!("{words} --duration 60s --rate 20kpps"));
    thread::sleep(Duration::from_millis(1000));
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.finish().code, -1);
    came_whole(&pktgen(&format!("{words} {EASY}")).report(0));
}
