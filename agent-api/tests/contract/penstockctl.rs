//! penstockctl against a served double: every command as a table and as JSON, and each exit code.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use agent_api::contract::{
    Direction, DropEvent, Explanation, FlowInfo, PolicyHits, PortInfo, PortRole, RefusalKind, RuleHits,
    State, Stats,
};
use policy_compiler::intent::Intent;
use serde_json::{Value, json};

use super::double::{self, Call, dropped, refusal, until};
use super::stage::{Ran, Served, intent, penstockctl, two_nodes};

/// The lines of a table, each as its words.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn plain<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn manifests() -> String {
    two_nodes().display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_takes_manifests_or_a_state() {
    let served = Served::unix().await;
    let folder = manifests();
    let table = served.ctl(&["apply", "--manifests", &folder, "--node", "node-a"]).text(0);
    let warning = "warning: other.yaml: ConfigMap poc/web-settings: v1 ConfigMap is not a kind that is used";
    assert_eq!(table, format!("{warning}\napplied generation 1 in 1234 µs\n"));
    let answer = served.ctl(&["apply", "--manifests", &folder, "--node", "node-a", "-o", "json"]).json(0);
    assert_eq!((&answer["generation"], &answer["microseconds"]), (&json!(2), &json!(1234)));
    assert_eq!(answer["warnings"][0]["object"], "other.yaml: ConfigMap poc/web-settings");

    // What `status` prints may be applied again, and an intent by itself, too.
    let state = served.ctl(&["status", "-o", "json"]).text(0);
    let folder = tempfile::tempdir().unwrap();
    let files = ["state.json", "intent.json"].map(|name| folder.path().join(name));
    fs::write(&files[0], state).unwrap();
    fs::write(&files[1], serde_json::to_vec(&intent()).unwrap()).unwrap();
    for (generation, file) in (2..).zip(&files) {
        let expect = generation.to_string();
        let arguments = ["apply", "--file", file.to_str().unwrap(), "--expect", &expect];
        assert_eq!(
            served.ctl(&arguments).text(0),
            format!("applied generation {} in 1234 µs\n", generation + 1)
        );
    }
    let expected = [None, None, Some(2), Some(3)];
    assert_eq!(served.double.calls(), expected.map(|expected| Call::Apply { intent: intent(), expected }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_what_runs() {
    let served = Served::unix().await;
    let before = served.ctl(&["status"]).text(0);
    assert!(words(&before).contains(&vec!["node", "-"]), "{before}");
    served.client().await.apply(intent(), None).await.unwrap();
    let table = served.ctl(&["status"]).text(0);
    let wanted = [
        vec!["WHAT", "VALUE"],
        vec!["generation", "1"],
        vec!["worker", "0", "has", "passed", "1"],
        vec!["worker", "1", "has", "passed", "1"],
        vec!["node", "node-a"],
        vec!["VNI", "4096"],
        vec!["nodes", "2"],
        vec!["endpoints", "3"],
        vec!["identities", "3"],
        vec!["policies", "1"],
        vec!["service", "ports", "7"],
    ];
    assert_eq!(words(&table), wanted);
    let state: State = plain(served.ctl(&["status", "-o", "json"]).json(0));
    assert_eq!(state, State { generation: 1, workers: vec![1, 1], intent: intent() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_and_drops_tell_the_counters() {
    let served = Served::unix().await;
    let table = served.ctl(&["stats"]).text(0);
    assert!(table.starts_with("generation 0, up 12.5 s\n\n"), "{table}");
    let rows = words(&table);
    let wanted = [
        // 150 000 busy cycles over 1000 packets, 120 000 of them in the kernel; drops are the sum of all reasons.
        vec!["0", "1", "1000", "2", "900", "100", "2", "950", "50", "150", "120", "7", "100/128"],
        // Nothing received: no cycles a packet.
        vec!["1", "-", "0", "0", "0", "1", "0", "0", "0", "-", "-", "0", "0/0"],
        vec!["veth0", "poc/web-a", "1000", "64000", "900", "57600", "rx_dropped=3"],
        vec!["ipv4", "12", "65536", "closed=4", "2", "MiB", "pages"],
        vec!["policy-denied", "91"],
        vec!["ttl-expired", "10"],
    ];
    for row in wanted {
        assert!(rows.contains(&row), "{row:?} is not in\n{table}");
    }
    let stats: Stats = plain(served.ctl(&["stats", "-o", "json"]).json(0));
    assert_eq!(stats, Stats { uptime_seconds: 12.5, ..double::stats() });

    let table = served.ctl(&["drops"]).text(0);
    let wanted = [vec!["DROP", "REASON", "PACKETS"], vec!["policy-denied", "91"], vec!["ttl-expired", "10"]];
    assert_eq!(words(&table), wanted);
    let drops = served.ctl(&["drops", "-o", "json"]).json(0);
    assert_eq!(drops, json!({"policy-denied": 91, "ttl-expired": 10}));
}

/// `drops --follow`, and its output.
fn follow(served: &Served, arguments: &[&str]) -> (Child, BufReader<impl Read + use<>>) {
    let mut command = penstockctl();
    command.arg("--socket").arg(served.address.to_string()).args(["drops", "--follow"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_are_followed_until_penstockd_stops() {
    let mut served = Served::unix().await;
    let (mut child, mut out) = follow(&served, &[]);
    served.double.drop_packet(dropped("policy-denied")).await;
    let wanted =
        "1700000000.123456 veth0 tcp 10.244.2.10:40000 > 10.244.1.20:27017 policy-denied (no-rule)\n";
    assert_eq!(line(&mut out), wanted);
    let unparsed = DropEvent {
        src: None,
        dst: None,
        protocol: 0,
        rule: String::new(),
        missed: 4,
        ..dropped("truncated")
    };
    served.double.drop_packet(unparsed).await;
    assert_eq!(line(&mut out), "1700000000.123456 veth0 0 ? > ? truncated [4 not shown before]\n");
    let strict = double::by(Direction::Egress, double::strict(1, "no-dns"));
    let mongodb = double::by(Direction::Ingress, double::mongodb(0));
    for (decided_by, wanted) in [
        (strict, "(ClusterNetworkPolicy strict egress[1] (no-dns))\n"),
        (mongodb, "(NetworkPolicy poc/mongodb-vm ingress[0], resourceVersion 4711)\n"),
    ] {
        let (rule, decided_by) = (decided_by.to_string(), Some(decided_by));
        served.double.drop_packet(DropEvent { rule, decided_by, ..dropped("policy-denied") }).await;
        let line = line(&mut out);
        assert!(line.ends_with(wanted), "{line}");
    }
    served.stop();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(line(&mut out), "");
    served.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_followed_as_json_are_an_object_a_line_and_end_with_their_reader() {
    let served = Served::unix().await;
    let (mut child, mut out) = follow(&served, &["-o", "json"]);
    for reason in ["policy-denied", "ttl-expired"] {
        served.double.drop_packet(dropped(reason)).await;
        let event: DropEvent = serde_json::from_str(&line(&mut out)).unwrap();
        assert_eq!(event, dropped(reason));
    }
    // As after `| head -2`. A program that another test is just starting may hold the reading end for a moment more.
    drop(out);
    let mut ended = None;
    for _ in 0..500 {
        served.double.drop_unwatched(dropped("ttl-expired"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        ended = child.try_wait().unwrap();
        if ended.is_some() {
            break;
        }
    }
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_decided_is_told_field_by_field() {
    let served = Served::unix().await;
    let (mut child, mut out) = follow(&served, &["-o", "json"]);
    let decided_by = Some(double::by(Direction::Egress, double::strict(1, "no-dns")));
    served.double.drop_packet(DropEvent { decided_by, ..dropped("policy-denied") }).await;
    let event: Value = serde_json::from_str(&line(&mut out)).unwrap();
    let wanted = json!({
        "direction": "egress",
        "basis": "rule",
        "kind": "ClusterNetworkPolicy",
        "namespace": "",
        "name": "strict",
        "resource_version": "",
        "index": 1,
        "rule_name": "no-dns",
    });
    assert_eq!(event["decided_by"], wanted);
    child.kill().unwrap();
    child.wait().unwrap();
    let answer = served.ctl(&["explain", "tcp", "10.244.1.10", "10.244.1.20:23", "-o", "json"]).json(1);
    let wanted = json!([
        {"allowed": true, "direction": "egress", "basis": "default_allow"},
        {"allowed": false, "direction": "ingress", "basis": "no_rule"},
    ]);
    assert_eq!(answer["decisions"], wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_of_rules_are_filtered_and_sorted() {
    let served = Served::unix().await;
    let rules = |arguments: &[&str]| -> Vec<String> {
        let found: PolicyHits =
            plain(served.ctl(&[&["policy", "hits", "-o", "json"], arguments].concat()).json(0));
        let name = |hits: &RuleHits| format!("{} {}", hits.decided_by, hits.decided_by.direction);
        found.hits.iter().map(name).collect()
    };
    let all: PolicyHits = plain(served.ctl(&["policy", "hits", "--sort", "name", "-o", "json"]).json(0));
    assert_eq!(all, PolicyHits { generation: 0, hits: double::rule_hits() });
    let by_count = [
        "default-allow egress",
        "NetworkPolicy poc/mongodb-vm ingress[0] ingress",
        "default-allow ingress",
        "ClusterNetworkPolicy strict egress[1] (no-dns) egress",
        "no-rule ingress",
        "no-rule egress",
        "NetworkPolicy poc/mongodb-vm ingress[1] ingress",
        "ClusterNetworkPolicy strict egress[0] egress",
    ];
    assert_eq!(rules(&[]), by_count);
    assert_eq!(rules(&["--unused"]), [by_count[6]]);
    assert_eq!(rules(&["-n", "poc"]), [by_count[1], by_count[6]]);
    assert_eq!(rules(&["-n", ""]), [by_count[3], by_count[7]]);
    assert_eq!(rules(&["--policy", "mongodb-vm", "--unused"]), [by_count[6]]);
    assert_eq!(rules(&["--policy", "mongodb-vm", "-n", "shop"]), [""; 0]);
    let table = served.ctl(&["policy", "hits"]).text(0);
    let rows = words(&table);
    let heading = ["RULE", "VERSION", "ACTION", "FLOWS", "ALLOWED", "FLOWS", "DENIED", "PACKETS", "DENIED"];
    assert_eq!(rows[0], heading);
    let first = ["NetworkPolicy", "poc/mongodb-vm", "ingress[0]", "4711", "Accept", "12", "0", "0"];
    assert_eq!(rows[2], first);
    assert_eq!(rows[5], ["no-rule", "(ingress)", "-", "Deny", "0", "3", "17"]);
    assert_eq!(served.ctl(&["policy", "hits", "--policy", "nobody"]).text(0), "no such rule\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_added_listed_and_removed() {
    let served = Served::unix().await;
    assert_eq!(served.ctl(&["ports"]).text(0), "no ports\n");
    let add = ["ports", "add", "--device", "veth0", "--pod", "poc/web-a", "--mac", "02:00:00:00:00:0A"];
    let table = served.ctl(&add).text(0);
    let row =
        "veth0 pod poc/web-a 10.244.1.10,fd00::10 02:00:00:00:00:fe 02:00:00:00:00:0a 1450 1 native, copy";
    assert_eq!(words(&table)[1], row.split(' ').collect::<Vec<_>>());
    let port: PortInfo =
        plain(served.ctl(&["ports", "add", "--device", "up0", "--uplink", "-o", "json"]).json(0));
    assert_eq!((port.device.as_str(), port.role, port.peer_mac), ("up0", PortRole::Uplink, None));
    served.ctl(&["ports", "add", "--device", "host0", "--host"]).text(0);

    let table = served.ctl(&["ports", "list"]).text(0);
    let rows = words(&table);
    assert_eq!(rows.len(), 4);
    assert_eq!((&rows[2][..2], &rows[3][..2]), (&["up0", "uplink"][..], &["host0", "host"][..]));
    let ports: Vec<PortInfo> = plain(served.ctl(&["ports", "-o", "json"]).json(0));
    assert_eq!(ports.len(), 3);

    assert_eq!(served.ctl(&["ports", "remove", "--device", "up0"]).text(0), "removed up0\n");
    let removed = served.ctl(&["ports", "remove", "--device", "host0", "-o", "json"]).json(0);
    assert_eq!(removed, json!({"device": "host0", "removed": true}));
    let error = served.ctl(&["ports", "remove", "--device", "up0", "-o", "json"]).error(1);
    assert_eq!(error, ["port up0", "device", "is not attached", "not_found"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_and_services_are_listed() {
    let served = Served::unix().await;
    let table = served.ctl(&["flows"]).text(0);
    let rows = words(&table);
    let original = "tcp 10.244.1.10:40000 10.96.0.10:80 forward original established = > 10.244.2.10:8080 42 3 s default-allow";
    let reply = "tcp 10.244.2.10:8080 10.244.1.10:40000 forward reply established 10.96.0.10:80 > = 42 3 s default-allow";
    assert_eq!(rows[1], original.split(' ').collect::<Vec<_>>());
    assert_eq!(rows[2], reply.split(' ').collect::<Vec<_>>());
    let flows: Vec<FlowInfo> = plain(served.ctl(&["flows", "--limit", "1", "-o", "json"]).json(0));
    assert_eq!(flows, double::flows()[..1]);
    assert_eq!(served.double.calls(), [Call::Flows(100), Call::Flows(1)]);
    assert_eq!(served.ctl(&["flows", "--limit", "0"]).text(0), "no flows\n");

    assert_eq!(served.ctl(&["services"]).text(0), "no services\n");
    served.client().await.apply(intent(), None).await.unwrap();
    let table = served.ctl(&["services"]).text(0);
    let rows = words(&table);
    let wanted = [
        "poc/empty http tcp 10.96.0.30:80 none",
        "poc/web http tcp 10.96.0.10:80 10.244.1.10:8080 node-a ready 1",
        "IPv4 node port 30080 10.244.2.10:8080 node-b ready 1",
        "poc/mongodb mongodb tcp [fd00:10:96::20]:27017 [fd00:10:244:1::20]:27017 node-a ready 1",
    ];
    for row in wanted {
        assert!(rows.contains(&row.split(' ').collect()), "{row} is not in\n{table}");
    }
    let services = served.ctl(&["services", "-o", "json"]).json(0);
    assert_eq!(services, serde_json::to_value(intent().services).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_asks_by_address_or_by_name_and_a_drop_is_a_negative_answer() {
    let served = Served::unix().await;
    let table = served.ctl(&["explain", "tcp", "10.244.1.10:40000", "10.244.1.20:27017"]).text(0);
    let wanted = "\
tcp 10.244.1.10:40000 > 10.244.1.20:27017
forward (generation 3)
  1. no Service is at the destination
  2. policy at the destination: no rule
egress:  default-allow
ingress: NetworkPolicy poc/mongodb-vm ingress[0]
backend: 10.244.1.20:27017
the state has changed meanwhile; policies of generation 0:
egress of 10.244.1.10: allowed by default-allow
  outside of the cluster: no policy selects it
ingress of 10.244.1.20: allowed by default-allow
  outside of the cluster: no policy selects it
";
    assert_eq!(table, wanted);
    let dropped = served.ctl(&["explain", "tcp", "10.244.1.10:40000", "10.244.1.20:23"]).text(1);
    assert!(dropped.contains("\ndrop: policy-denied (generation 3)\n"), "{dropped}");
    let dropped = served.ctl(&["explain", "tcp", "10.244.1.10", "10.244.1.20:23", "-o", "json"]).json(1);
    assert_eq!(plain::<Explanation>(dropped), double::explanation(false));

    served.client().await.apply(intent(), None).await.unwrap();
    let rows = [
        // A pod's name, and a Service's cluster address in the family of the source.
        (["poc/web-b", "poc/mongodb:27017"], ["10.244.2.10", "10.96.0.20"]),
        (["[fd00:10:244:2::10]:1", "poc/mongodb:27017"], ["fd00:10:244:2::10", "fd00:10:96::20"]),
        (["poc/web-a:5", "poc/web-b"], ["10.244.1.10", "10.244.2.10"]),
    ];
    for ([source, destination], [src, dst]) in rows {
        served.ctl(&["explain", "udp", source, destination]).text(0);
        let Some(Call::Explain(query)) = served.double.calls().pop() else { panic!("not asked") };
        assert_eq!(
            (query.src.to_string(), query.dst.to_string(), query.protocol),
            (src.into(), dst.into(), 17)
        );
    }
    let error = served.ctl(&["explain", "tcp", "poc/nobody", "10.0.0.1:80", "-o", "json"]).error(1);
    let problem = "no pod with an address is called poc/nobody";
    assert_eq!(error, ["explain", "source", problem, "not_found"]);
    let error = served.ctl(&["explain", "tcp", "nobody", "10.0.0.1:80", "-o", "json"]).error(2);
    assert_eq!((error[1].as_str(), error[3].as_str()), ("source", "usage"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_object_and_field_and_ends_with_one() {
    let served = Served::unix().await;
    let folder = manifests();
    let apply = ["apply", "--manifests", &folder, "--node", "node-a"];
    let error = served.ctl(&[&apply[..], &["--expect", "9", "-o", "json"]].concat()).error(1);
    assert_eq!(error, ["Apply", "expected_generation", "0 is running, not 9", "conflict"]);
    let full =
        refusal("Service poc/web", "backends", "70000 backends, room for 65536", RefusalKind::Capacity);
    served.double.refuse(Some(full));
    let ran = served.ctl(&apply);
    assert_eq!(ran.err, "penstockctl: Service poc/web: backends: 70000 backends, room for 65536\n");
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let error = served.ctl(&[&apply[..], &["-o", "json"]].concat()).error(1);
    assert_eq!(error[3], "capacity");
}

#[test]
fn wrong_usage_ends_with_two_in_words_and_in_json() {
    let run = |arguments: &[&str]| Ran::of(penstockctl().args(arguments));
    let ran = run(&["ports", "add", "--device", "veth0"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("--pod") && ran.err.contains("--uplink"), "{}", ran.err);
    for json in [&["-o", "json"][..], &["--output=json"], &["-ojson"]] {
        let [object, field, problem, kind] = run(&[json, &["frobnicate"]].concat()).error(2);
        assert_eq!((object.as_str(), field.as_str(), kind.as_str()), ("penstockctl", "arguments", "usage"));
        assert!(problem.contains("frobnicate"), "{problem}");
    }
    let error = run(&["--socket", "http://10.0.0.1:7000", "status", "-o", "json"]).error(2);
    assert!(error[2].contains("loopback addresses alone"), "{error:?}");
    let error = run(&["apply", "--file", "/nowhere/state.json", "-o", "json"]).error(2);
    assert_eq!(error[0], "/nowhere/state.json");
    let error = run(&["apply", "--manifests", "/nowhere", "--node", "a", "-o", "json"]).error(2);
    assert_eq!(error[0], "/nowhere");

    assert!(run(&["--help"]).text(0).contains("Exit codes:"));
    assert!(run(&["--version"]).text(0).starts_with("penstockctl "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_ends_with_three_unless_it_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let socket = path.display().to_string();
    for command in
        [&["status"][..], &["stats"], &["drops"], &["drops", "-f"], &["ports"], &["flows"], &["services"]]
    {
        let arguments = [&["--socket", &socket, "-o", "json"], command].concat();
        let error = Ran::of(penstockctl().args(&arguments)).error(3);
        assert_eq!(
            (error[0].as_str(), error[3].as_str()),
            (format!("unix://{socket}").as_str(), "unreachable")
        );
    }
    let mut waiting = penstockctl()
        .args(["--socket", &socket, "--wait", "10", "flows"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let served = Served::at(&path, double::Double::new()).await;
    assert_eq!(waiting.wait().unwrap().code(), Some(0));

    // It is there, but does not answer in time.
    served.double.hold(true);
    let arguments = ["--timeout", "1", "ports", "remove", "--device", "veth0", "-o", "json"];
    assert_eq!(served.ctl(&arguments).error(3)[3], "unreachable");
    served.double.hold(false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_says_where_penstockd_is() {
    let served = Served::unix().await;
    let address = served.address.to_string();
    let ran = Ran::of(penstockctl().env("PENSTOCK_SOCKET", address).arg("drops"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    until("no question left", || served.double.calls().is_empty()).await;
}

/// simulate hands an intent and the rest to the penstockd beside it, and ends as that does.
#[test]
fn simulate_hands_the_compiled_manifests_to_penstockd() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::copy(env!("CARGO_BIN_EXE_penstockctl"), at("penstockctl")).unwrap();
    let script = "#!/bin/sh\n\
        for word; do echo \"$word\"; done\n\
        while [ $# -gt 0 ]; do [ \"$1\" = --intent ] && cp \"$2\" \"$(dirname \"$0\")/kept.json\"; shift; done\n\
        exit 7\n";
    fs::write(at("penstockd"), script).unwrap();
    fs::set_permissions(at("penstockd"), fs::Permissions::from_mode(0o755)).unwrap();
    let manifests = manifests();
    let arguments = [
        "-o",
        "json",
        "simulate",
        "--manifests",
        &manifests,
        "--node",
        "node-a",
        "--pcap",
        "in.pcap",
        "--out",
        "out",
        "--ingress-port",
        "poc/web-a",
        "--",
        "--seed",
        "5",
    ];
    let mut command = std::process::Command::new(at("penstockctl"));
    let out = Ran::of(command.args(arguments).env("TMPDIR", folder.path())).text(7);
    let words: Vec<&str> = out.lines().collect();
    assert_eq!(words[..2], ["simulate", "--intent"]);
    let rest = [
        "--pcap",
        "in.pcap",
        "--out",
        "out",
        "--ingress-port",
        "poc/web-a",
        "--output",
        "json",
        "--seed",
        "5",
    ];
    assert_eq!(words[3..], rest);
    let kept: Intent = serde_json::from_slice(&fs::read(at("kept.json")).unwrap()).unwrap();
    assert_eq!(kept, intent());
    assert!(!std::path::Path::new(words[2]).exists(), "the intent's file is removed");
}
