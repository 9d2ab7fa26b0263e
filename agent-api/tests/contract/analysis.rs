//! policy diff, who-can-reach, lint and explain: over the example's folders, and against a served double.

use std::fs;
use std::path::{Path, PathBuf};

use policy_compiler::intent::Intent;
use policy_compiler::objects::IntentOptions;
use serde_json::{Value, json};

use super::double::Call;
use super::stage::{Ran, Served, editable, intent, penstockctl, two_nodes};

fn example(which: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policy-tools").join(which)
}

fn run(arguments: &[&str]) -> Ran {
    Ran::of(penstockctl().args(arguments))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The example's state, as penstockd would have it.
fn running(which: &str) -> Intent {
    agent_api::tools::agent::prepare(&example(which), "node-a", &IntentOptions::default()).unwrap().0
}

/// A file of ours with this text.
fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn diff_says_what_a_change_allows_and_denies() {
    let (before, after) = (text(&example("before")), text(&example("after")));
    let human = run(&["policy", "diff", &before, &after]).text(1);
    let wanted = "\
newly allowed, IPv4
  from  pod shop/api-1 (app=api)
  to    pod shop/db-0 (app=db)
  on    tcp 5433-5439
  was   ingress: denied by no-rule of NetworkPolicy shop/db
  is    ingress: allowed by NetworkPolicy shop/db ingress[0]
  e.g.  tcp 10.244.1.21:49152 > 10.244.2.31:5433

";
    assert!(human.starts_with(wanted), "{human}");
    assert!(
        human.contains(
            "  from  pod monitoring/prometheus-0 (app=prometheus)\n  to    pod shop/db-0 (app=db)\n  on    tcp 9187\n"
        ),
        "{human}"
    );
    let answer = run(&["policy", "diff", &before, &after, "-o", "json"]).json(1);
    let differences = answer["differences"].as_array().unwrap();
    let first = &differences[0];
    assert_eq!(
        (&first["change"], &first["families"], &first["ports"]),
        (&json!("allowed"), &json!([4]), &json!([{"protocol": "TCP", "first": 5433, "last": 5439}]))
    );
    assert_eq!(first["from"]["parties"][0]["names"], json!(["shop/api-1"]));
    assert_eq!(first["witness"]["dst_port"], json!(5433));
    assert_eq!((&first["old"]["allowed"], &first["new"]["allowed"]), (&json!(false), &json!(true)));
    let ends =
        format!("{} newly denied\n", differences.iter().filter(|row| row["change"] == "denied").count());
    assert!(human.ends_with(&ends), "{human}");

    for order in [[&before, &before], [&after, &after]] {
        let ran = run(&["policy", "diff", order[0], order[1]]);
        assert_eq!(ran.text(0), "no difference in what policy allows\n");
    }
    let back = run(&["policy", "diff", &after, &before, "-o", "json"]).json(1);
    assert_eq!(back["differences"].as_array().map(Vec::len), Some(differences.len()), "and back");
}

/// What both have is compared; what one has is told.
#[test]
fn diff_names_what_it_does_not_compare() {
    let (before, other) = (text(&example("before")), text(&two_nodes()));
    let answer = run(&["policy", "diff", &before, &other, "-o", "json"]).json(0);
    // The nodes have the same IPv4 addresses, the pods do not.
    assert_eq!(answer["only_old"]["addresses"], json!(5));
    assert_eq!(answer["only_new"]["addresses"], json!(8));
    let human = run(&["policy", "diff", &before, &other]).text(0);
    assert!(
        human.contains(&format!(
            "not compared, only in {before}: 5 addresses of Pod monitoring/prometheus-0, "
        )),
        "{human}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diff_compares_with_what_runs_and_with_what_ran() {
    let served = Served::unix().await;
    served.client().await.apply(running("before"), None).await.unwrap();
    let (before, after) = (text(&example("before")), text(&example("after")));
    assert_eq!(
        served.ctl(&["policy", "diff", "running", &before]).text(0),
        "no difference in what policy allows\n"
    );
    let offline = run(&["policy", "diff", &before, &after]).text(1);
    for state in ["running", "1"] {
        assert_eq!(served.ctl(&["policy", "diff", state, &after]).text(1), offline);
    }
    // What `status -o json` prints is a state, too, and so is an intent.
    let states = [
        file("state.json", &served.ctl(&["status", "-o", "json"]).text(0)),
        file("intent.json", &serde_json::to_string(&running("before")).unwrap()),
    ];
    for (_, state) in &states {
        assert_eq!(run(&["policy", "diff", state, &after]).text(1), offline);
    }
    let error = served.ctl(&["policy", "diff", "7", &after, "-o", "json"]).error(2);
    assert_eq!(error, ["generation 7", "", "is not running, 1 is; penstockd keeps no other", "not_found"]);
}

#[test]
fn a_state_that_cannot_be_read_is_no_difference() {
    let before = text(&example("before"));
    let bad =
        file("bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nstatus: {podIP: nowhere}\n");
    let state = file("bad.json", "{\"intent\": 5}");
    let rows =
        [("/nowhere", "/nowhere"), (bad.1.as_str(), "Pod default/bad"), (state.1.as_str(), state.1.as_str())];
    for (path, object) in rows {
        for order in [[path, &before], [&before, path]] {
            let error = run(&["policy", "diff", order[0], order[1], "-o", "json"]).error(2);
            assert_eq!(error[0], object, "{error:?}");
        }
    }
    let error =
        run(&["--socket", "/nowhere/p.sock", "policy", "diff", "running", &before, "-o", "json"]).error(3);
    assert_eq!(error[3], "unreachable");
    assert_eq!(run(&["policy", "diff", &before]).code, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_reach_a_port_offline_and_as_it_runs() {
    let before = text(&example("before"));
    let offline = ["policy", "who-can-reach", "shop/db-0:5432", "--manifests", &before];
    let human = run(&offline).text(0);
    let wanted = "\
tcp 5432 of pod shop/db-0 (10.244.2.31)
 CAN REACH IT                FAMILY  EGRESS         INGRESS
 pod shop/api-1 (app=api)    IPv4    default-allow  NetworkPolicy shop/db ingress[0]
 node node-b (its own node)  IPv4    default-allow  default-allow
";
    assert_eq!(human, wanted);
    let denied = run(&[&offline[..], &["--denied"]].concat()).text(0);
    assert!(denied.starts_with(wanted) && denied.contains("outside 0.0.0.0/0"), "{denied}");
    let answer = run(&[&offline[..], &["-o", "json"]].concat()).json(0);
    assert_eq!((answer["allowed"].as_array().map(Vec::len), answer.get("denied")), (Some(2), None));
    let answer = run(&[&offline[..], &["--denied", "-o", "json"]].concat()).json(0);
    let rules: Vec<&Value> = answer["denied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|access| &access["verdict"]["ingress"]["rule"])
        .collect();
    assert!(!rules.is_empty() && rules.iter().all(|rule| **rule == json!("no-rule")), "{rules:?}");

    let served = Served::unix().await;
    served.client().await.apply(running("before"), None).await.unwrap();
    assert_eq!(served.ctl(&offline[..3]).text(0), wanted);
    let error = served.ctl(&["policy", "who-can-reach", "shop/nobody:80", "-o", "json"]).error(1);
    assert_eq!(error[0], "Pod shop/nobody");
    for wrong in ["shop/db-0", "shop/db-0:http", "db-0:80", "shop/db-0:0", "shop/db-0:80/icmp"] {
        assert_eq!(run(&["policy", "who-can-reach", wrong]).code, Some(2), "{wrong}");
    }
}

#[test]
fn lint_finds_what_is_wrong_with_a_folder() {
    let human = run(&["policy", "lint", &text(&example("after"))]).text(1);
    let codes: Vec<&str> = human
        .lines()
        .filter_map(|line| line.split(' ').next().filter(|word| word.starts_with("NP")))
        .collect();
    assert_eq!(codes, ["NP009", "NP003", "NP007", "NP005", "NP008", "NP010", "NP004", "NP008"], "{human}");
    assert!(human.ends_with("8 findings (3 policies, 5 pods)\n"), "{human}");
    let answer = run(&["policy", "lint", &text(&example("after")), "-o", "json"]).json(1);
    let finding = &answer["findings"][6];
    let wanted = json!({
        "object": "NetworkPolicy shop/frontend",
        "field": "spec.podSelector",
        "code": "NP004",
        "severity": "warning",
        "reason": "selects no pod of namespace shop",
        "suggestion": "is app=frontend meant?",
    });
    assert_eq!(*finding, wanted);

    assert_eq!(
        run(&["policy", "lint", &text(&example("before"))]).text(0),
        "nothing found (1 policy, 5 pods)\n"
    );
    let alone = text(&example("before").join("policies.yaml"));
    let wanted = "nothing found (1 policy, no pods to compare them with: NP004 to NP008 were left out)\n";
    assert_eq!(run(&["policy", "lint", &alone]).text(0), wanted);
    let bad = file(
        "bad.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: 5}\n",
    );
    for (path, object) in [("/nowhere", "/nowhere"), (bad.1.as_str(), "NetworkPolicy default/a")] {
        assert_eq!(run(&["policy", "lint", path, "-o", "json"]).error(2)[0], object);
    }
}

#[test]
fn explain_judges_a_folder_and_says_what_did_not_match() {
    let before = text(&example("before"));
    let explain = |source: &str, destination: &str, protocol: &str, more: &[&str]| {
        run(&[&["explain", protocol, source, destination, "--manifests", &before], more].concat())
    };
    let wanted = "\
tcp 10.244.1.11 > 10.244.2.31:5432
deny
egress of pod shop/frontend-1 (10.244.1.11, app=frontend): allowed by default-allow
  no policy selects it for egress
ingress of pod shop/db-0 (10.244.2.31, app=db): denied by no-rule of NetworkPolicy shop/db
  NetworkPolicy shop/db selects it
    ingress[0] no: peer: pod shop/frontend-1 (10.244.1.11, app=frontend); the rule is about pods of shop with app=api
    ingress[1] no: peer: pod shop/frontend-1 (10.244.1.11, app=frontend); the rule is about pods of monitoring with app=prometheus
";
    assert_eq!(explain("shop/frontend-1", "shop/db-0:5432", "tcp", &[]).text(1), wanted);
    let rows = [
        ("shop/api-1", "shop/db-0:5432", "tcp", 0, "ingress[0] matches and decides"),
        ("shop/api-1", "shop/db-0:22", "tcp", 1, "ingress[0] no: port: tcp 22; the rule is about tcp 5432"),
        (
            "shop/api-1",
            "shop/db-0:5432",
            "udp",
            1,
            "ingress[0] no: protocol: udp; the rule is about tcp 5432",
        ),
        (
            "monitoring/prometheus-0",
            "shop/db-0:80",
            "tcp",
            1,
            "ingress[1] no: port: tcp 80; the rule is about tcp \"metrics\" (9187 of the destination)",
        ),
        ("172.30.0.2", "shop/db-0:80", "tcp", 0, "no NetworkPolicy isolates a pod from its own node"),
        ("198.51.100.1", "shop/db-0:5432", "tcp", 1, "peer: 198.51.100.1; the rule"),
        (
            "shop/db-0",
            "172.30.0.1:10250",
            "tcp",
            0,
            "a node, and what shares its network, is selected by no policy",
        ),
    ];
    for (source, destination, protocol, code, says) in rows {
        let told = explain(source, destination, protocol, &[]).text(code);
        assert!(told.contains(says), "{says}: {told}");
    }
    let answer = explain("shop/api-1", "shop/db-0:22", "tcp", &["-o", "json"]).json(1);
    let rule = &answer["policy"]["destination"]["policies"][0]["rules"][0];
    let mismatch = json!({"part": "port", "found": "tcp 22", "wanted": "tcp 5432"});
    assert_eq!(
        (&answer["verdict"], &rule["rule"], &rule["mismatch"]),
        (&json!("deny"), &json!("ingress[0]"), &mismatch)
    );
    let error = explain("shop/nobody", "shop/db-0:22", "tcp", &["-o", "json"]).error(1);
    assert_eq!(error, ["explain", "source", "no pod with an address is called shop/nobody", "not_found"]);
}

#[test]
fn explain_takes_the_backends_of_a_service_offline() {
    let folder = text(&two_nodes());
    let explain = |destination: &str, more: &[&str]| {
        run(&[&["explain", "tcp", "poc/web-b:40000", destination, "--manifests", &folder], more].concat())
    };
    let denied = explain("poc/mongodb:27017", &["--node", "node-b"]).text(1);
    let service = "  Service poc/mongodb: 1 backend, 1 of them denied by policy; told of 10.244.1.20:27017\n";
    assert!(denied.contains(service) && denied.contains("no: peer: pod poc/web-b"), "{denied}");
    let told = explain("poc/empty:80", &["--node", "node-b", "-o", "json"]).json(1);
    assert_eq!(
        (&told["verdict"], &told["service"], &told["policy"]),
        (&json!("reject"), &json!("poc/empty"), &Value::Null)
    );
    let error = explain("poc/mongodb:27017", &["-o", "json"]).error(2);
    assert_eq!((error[1].as_str(), error[3].as_str()), ("destination", "usage"));
    let allowed = explain("poc/web:80", &["--node", "node-b", "-o", "json"]).json(0);
    assert_eq!(allowed["backends"].as_array().map(Vec::len), Some(2));
}

/// The double's verdict with what its state says: rules are those of the running state, resourceVersion included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_tells_of_the_running_policies() {
    let served = Served::unix().await;
    let folder = editable();
    let path = folder.path().join("networkpolicy.yaml");
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        manifest.replace("  name: mongodb-vm\n", "  name: mongodb-vm\n  resourceVersion: \"77\"\n"),
    )
    .unwrap();
    let options = IntentOptions::default();
    let state = agent_api::tools::agent::prepare(folder.path(), "node-a", &options).unwrap().0;
    assert_ne!(state, intent());
    for _ in 0..3 {
        // The double explains as of generation 3.
        served.client().await.apply(state.clone(), None).await.unwrap();
    }
    let told = served.ctl(&["explain", "tcp", "poc/web-a", "poc/virt-launcher-mongodb-vm:27017"]).text(0);
    let wanted = "\
ingress of pod poc/virt-launcher-mongodb-vm (10.244.1.20, kubevirt.io/domain=mongodb-vm): allowed by NetworkPolicy poc/mongodb-vm ingress[0] (resourceVersion 77)
  NetworkPolicy poc/mongodb-vm (resourceVersion 77) selects it
    ingress[0] matches and decides
";
    assert!(told.ends_with(wanted) && !told.contains("meanwhile"), "{told}");
    let value =
        served.ctl(&["explain", "tcp", "poc/web-b", "poc/virt-launcher-mongodb-vm:23", "-o", "json"]).json(1);
    assert_eq!((&value["verdict"], &value["policy"]["generation"]), (&json!("drop"), &json!(3)));
    assert_eq!(value["policy"]["destination"]["policies"][0]["rules"][0]["mismatch"]["part"], json!("peer"));
    let asked = served.double.calls().into_iter().filter(|call| matches!(call, Call::Explain(_))).count();
    assert_eq!(asked, 2);
}
