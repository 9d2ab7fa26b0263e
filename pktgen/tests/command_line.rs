//! The binary without root and without a device: what is refused, how, and what a capture holds.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lab;

use std::fs::File;
use std::io::BufReader;

use afxdp_driver::pcap::PcapReader;
use lab::{file, pktgen};

#[test]
fn what_cannot_be_kept_is_refused_with_the_flags_name_and_exit_code_2() {
    let rows = [
        ("run --dst-ip 10.0.0.1", "--tx-device"),
        ("run --dst-ip 10.0.0.1 --tx-device v", "--rx-device"),
        ("run --dst-ip 10.0.0.1 --tx-device v --rx-device v", "--rx-device"),
        ("run --tx-device v --rx-device w", "--dst-ip"),
        ("run --engine socket --dst-ip 10.0.0.1 --protocol tcp --size 128", "--protocol"),
        ("run --engine warp --dst-ip 10.0.0.1", "--engine"),
        ("send --tx-device v --dst-ip here", "--dst-ip"),
        ("send --tx-device v --dst-ip 10.0.0.1 --src-ip fd00::1", "--src-ip and --dst-ip"),
        ("send --tx-device v --dst-ip 10.0.0.1 --rate fast", "--rate"),
        ("send --tx-device v --dst-ip 10.0.0.1 --rate 10%", "--link-speed"),
        ("send --tx-device v --dst-ip 10.0.0.1 --size 20", "--size"),
        ("send --tx-device v --dst-ip 10.0.0.1 --protocol tcp --size 64", "--size"),
        ("send --tx-device v --dst-ip 10.0.0.1 --flows 0", "--flows"),
        ("send --tx-device v --dst-ip 10.0.0.1 --flows 2 --streams 3", "--streams"),
        ("send --tx-device v --dst-ip 10.0.0.1 --duration soon", "--duration"),
        ("send --tx-device v --dst-ip 10.0.0.1 --count 0", "--count"),
        ("send --tx-device v --dst-ip 10.0.0.1 --tx-core 9999", "--tx-core"),
        ("send --tx-device v --dst-ip 10.0.0.1 --vxlan vni=1", "--vxlan"),
        ("send --tx-engine live --tx-device v --dst-ip fd00::1", "--dst-ip"),
        ("send --tx-engine live --tx-device v --dst-ip 10.0.0.1 --size imix", "--size"),
        ("send --tx-engine socket --dst-ip 10.0.0.1 --dst-mac 02:00:00:00:00:02", "--dst-mac"),
        ("receive", "--rx-device"),
        ("receive --rx-engine socket", "--rx-port"),
        ("receive --rx-engine socket --rx-port 1-9999", "--rx-port"),
        ("receive --rx-device v --max-loss 101", "--max-loss"),
        ("replay nothing.pcap", "--tx-device"),
        ("replay nothing.pcap --tx-device v --tx-engine live", "--tx-engine"),
        ("replay nothing.pcap --tx-device v --rate 10%", "--link-speed"),
        ("build out.pcap --dst-ip 10.0.0.1", "--src-ip"),
        ("receive --colour red", "--colour"),
        ("send --tx-device v --dst-ip 10.0.0.1 --popularity often", "--popularity"),
        ("send --tx-device v --dst-ip 10.0.0.1 --syn-flows 5", "--syn-flows"),
        ("send --tx-engine live --tx-device v --dst-ip 10.0.0.1 --flows 9 --popularity zipf", "--popularity"),
        ("rfc2544 --dst-ip 10.0.0.1 --tx-device v", "--rx-device"),
        ("rfc2544 --dst-ip 10.0.0.1 --tx-device v --rx-device w --test speed", "--test"),
        ("rfc2544 --dst-ip 10.0.0.1 --tx-device v --rx-device w --sizes 20", "--sizes"),
        ("rfc2544 --dst-ip 10.0.0.1 --tx-device v --rx-device w --trial 0s", "--trial"),
        ("rfc2544 --dst-ip 10.0.0.1 --tx-device v --rx-device w --repeats 0", "--repeats"),
        ("search --dst-ip 10.0.0.1 --tx-device v --rx-device w --goal fast", "--goal"),
        ("search --dst-ip 10.0.0.1 --tx-device v --rx-device w --goal pdr,width=2", "width"),
        ("certify --dst-ip 10.0.0.1 --tx-device v --rx-device w --fractions 150%", "--fractions"),
        ("compare one.json", "B.json"),
        ("compare one.json two.json", "one.json"),
        ("run --profile nothing.toml", "nothing.toml"),
    ];
    for (words, flag) in rows {
        let ended = pktgen(words);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended}");
        assert!(ended.err.contains(flag), "no word of {flag}: {ended}");
    }
    assert!(!std::path::Path::new("out.pcap").exists());
}

#[test]
fn what_is_not_there_is_named_with_exit_code_1() {
    let text = file("text.pcap");
    std::fs::write(&text, "no capture, this").unwrap();
    let text = text.display();
    let rows = [
        ("send --tx-device no-such-device --dst-ip 10.0.0.1".to_owned(), "no-such-device"),
        ("send --tx-netns nowhere --tx-device v --dst-ip 10.0.0.1".to_owned(), "/run/netns/nowhere"),
        ("replay nothing.pcap --tx-device v".to_owned(), "nothing.pcap"),
        (format!("replay {text} --tx-device v"), "not a capture file"),
        (
            "search --dst-ip 10.0.0.1 --tx-device v --rx-device w --report /proc/nowhere".to_owned(),
            "/proc/nowhere",
        ),
        ("build /nowhere/out.pcap --src-ip 10.0.0.1 --dst-ip 10.0.0.2".to_owned(), "/nowhere/out.pcap"),
    ];
    for (words, name) in rows {
        let ended = pktgen(&words);
        assert_eq!(ended.code, 1, "{ended}");
        assert!(ended.err.starts_with("pktgen: ") && ended.err.contains(name), "{ended}");
    }
}

#[test]
fn a_capture_holds_what_was_asked_for_at_its_times() {
    let path = file("built.pcap");
    let words =
        "--src-ip 10.0.0.1 --dst-ip 10.0.0.2 --flows 3 --protocol udp=2,tcp=1 --size 128,512 --rate 1kpps";
    let ended = pktgen(&format!("build {} {words} --count 72", path.display()));
    assert_eq!(ended.code, 0, "{ended}");
    let reader = PcapReader::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let records: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!((records.len(), records[0].time_ns, records[71].time_ns), (72, 0, 71_000_000));
    let count = |what: &dyn Fn(&[u8]) -> bool| records.iter().filter(|record| what(&record.data)).count();
    assert_eq!((count(&|frame| frame[23] == 17), count(&|frame| frame[23] == 6)), (48, 24));
    assert_eq!((count(&|frame| frame.len() == 124), count(&|frame| frame.len() == 508)), (36, 36));
}

#[test]
fn the_same_seed_builds_the_same_capture_and_popular_flows_are_in_it_more_often() {
    let build = |name: &str, seed: u8| {
        let path = file(name);
        let words = "--src-ip 10.0.0.1 --dst-ip 10.0.0.2 --flows 20 --protocol tcp-stream --run-id 1 --popularity zipf=1.5";
        let ended = pktgen(&format!("build {} {words} --seed {seed} --count 2000", path.display()));
        assert_eq!(ended.code, 0, "{ended}");
        std::fs::read(path).unwrap()
    };
    let first = build("seed-1.pcap", 1);
    assert_eq!(first, build("seed-1-again.pcap", 1));
    assert_ne!(first, build("seed-2.pcap", 2));
    let reader = PcapReader::new(first.as_slice()).unwrap();
    let frames: Vec<Vec<u8>> = reader.map(|record| record.unwrap().data).collect();
    // The source port tells the flow; the first is the most popular.
    let of = |port: u16| frames.iter().filter(|frame| frame[34..36] == port.to_be_bytes()).count();
    assert!(
        of(10_000) > of(10_001) && of(10_001) > of(10_010),
        "{} {} {}",
        of(10_000),
        of(10_001),
        of(10_010)
    );
    let syns = frames.iter().filter(|frame| frame[47] == 0x02).count();
    let seen = (10_000..10_020).filter(|port| of(*port) > 0).count();
    assert_eq!(syns, seen, "each flow is opened once");
}

#[test]
fn a_profile_that_is_wrong_is_refused_by_file_and_key() {
    let path = file("wrong.toml");
    for (text, says) in [
        ("[traffic]\ncolour = 1\n", "traffic.colour"),
        ("[traffic]\nflows = \"many\"\n", "traffic.flows"),
        ("[traffic\n", "line 1"),
    ] {
        std::fs::write(&path, text).unwrap();
        let ended = pktgen(&format!("run --profile {}", path.display()));
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended}");
        assert!(ended.err.contains(says) && ended.err.contains("wrong.toml"), "{ended}");
    }
}

#[test]
fn reports_of_one_run_are_not_compared() {
    let path = file("run.json");
    std::fs::write(&path, "{\"schema\": \"pktgen.report/1\"}").unwrap();
    let ended = pktgen(&format!("compare {0} {0}", path.display()));
    assert_eq!(ended.code, 2, "{ended}");
    assert!(ended.err.contains("its schema is `pktgen.report/1`"), "{ended}");
}

#[test]
fn the_help_has_examples_and_exit_codes() {
    let ended = pktgen("--help");
    assert_eq!(ended.code, 0);
    for part in ["Examples", "ip netns exec POD-B pktgen receive", "Exit codes", "130"] {
        assert!(ended.out.contains(part), "{part}: {ended}");
    }
    assert!(pktgen("run --help").out.contains("--drain"));
    for (command, flag) in
        [("rfc2544", "--loss-step"), ("search", "--goal"), ("certify", "--quick"), ("compare", "--alpha")]
    {
        assert!(pktgen(&format!("{command} --help")).out.contains(flag), "{command}");
    }
    assert_eq!(pktgen("").code, 2);
}
