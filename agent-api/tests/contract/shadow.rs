//! The calls about a shadow, over both transports, and `penstockctl shadow`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use agent_api::contract::{RefusalKind, ShadowDifference, ShadowStatus};
use futures::StreamExt;
use serde_json::json;
use tokio::time::timeout;

use super::double::{self, Call, refusal};
use super::stage::{SOON, Served, TRANSPORTS, intent, penstockctl, two_nodes};

#[tokio::test]
async fn a_shadow_is_set_asked_watched_promoted_and_discarded() {
    for transport in TRANSPORTS {
        let mut served = Served::over(transport).await;
        let client = served.client().await;
        assert_eq!(client.shadow().await.unwrap(), None);
        let set = client.set_shadow(intent(), 32).await.unwrap();
        assert_eq!(set, ShadowStatus { sample: 32, ..double::shadow() }, "{transport:?}");
        assert_eq!(client.shadow().await.unwrap(), Some(set));
        let mut events = client.watch_shadow().await.unwrap();
        for expected in double::differences() {
            assert_eq!(timeout(SOON, events.next()).await.unwrap().unwrap().unwrap(), expected);
        }
        let promoted = client.promote_shadow(true).await.unwrap();
        assert_eq!((promoted.generation, promoted.microseconds), (1, 890));
        assert_eq!(client.shadow().await.unwrap(), None);
        let none = client.discard_shadow().await.unwrap_err();
        assert_eq!(none.to_string(), "shadow: candidate: none is set");
        // What stands for the usual sample.
        assert_eq!(client.set_shadow(intent(), 0).await.unwrap().sample, 16);
        client.discard_shadow().await.unwrap();
        let wanted = refusal("SetShadow", "sample", "17 is no power of two", RefusalKind::Invalid);
        served.double.refuse(Some(wanted.clone()));
        let refused = [
            client.set_shadow(intent(), 17).await.unwrap_err().to_string(),
            client.promote_shadow(false).await.unwrap_err().to_string(),
        ];
        assert_eq!(refused, [wanted.to_string(), wanted.to_string()]);
        let calls = [
            Call::SetShadow { intent: intent(), sample: 32 },
            Call::Promote { force: true },
            Call::Discard,
            Call::SetShadow { intent: intent(), sample: 16 },
            Call::Discard,
            Call::SetShadow { intent: intent(), sample: 17 },
            Call::Promote { force: false },
        ];
        assert_eq!(served.double.calls(), calls);
        served.stop();
        assert!(timeout(SOON, events.next()).await.unwrap().is_none(), "the stream ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn penstockctl_sets_a_folder_by_what_is_running_or_a_state() {
    let served = Served::unix().await;
    let folder = two_nodes().display().to_string();
    // Nothing is running whose node it could be.
    let error = served.ctl(&["shadow", "set", &folder, "-o", "json"]).error(2);
    assert_eq!((error[0].as_str(), error[1].as_str()), ("penstockctl", "--node"));
    let running = policy_compiler::intent::Intent { vni: 77, ..intent() };
    served.client().await.apply(running.clone(), None).await.unwrap();
    let set = served.ctl(&["shadow", "set", &folder]).text(0);
    assert!(set.starts_with("warning: other.yaml: ConfigMap poc/web-settings"), "{set}");
    assert!(set.ends_with("\nshadow 4 is set beside generation 1\n"), "{set}");
    let folder_of_state = tempfile::tempdir().unwrap();
    let file = folder_of_state.path().join("state.json");
    fs::write(&file, served.ctl(&["status", "-o", "json"]).text(0)).unwrap();
    let arguments = ["shadow", "set", "--file", file.to_str().unwrap(), "--sample", "1", "-o", "json"];
    assert_eq!(served.ctl(&arguments).json(0)["shadow"]["sample"], json!(1));
    let arguments = ["shadow", "set", &folder, "--vni", "5", "--node", "node-a"];
    served.ctl(&arguments).text(0);
    let set = |intent: policy_compiler::intent::Intent, sample| Call::SetShadow { intent, sample };
    let other = policy_compiler::intent::Intent { vni: 5, ..intent() };
    let calls = [set(running.clone(), 16), set(running, 1), set(other, 16)];
    assert_eq!(served.double.calls()[1..], calls);
    for wrong in [&["shadow", "set"][..], &["shadow", "set", &folder, "--sample", "0"]] {
        served.ctl(&[wrong, &["-o", "json"]].concat()).error(2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn penstockctl_tells_what_differs() {
    let mut served = Served::unix().await;
    assert_eq!(served.ctl(&["shadow"]).text(1), "no shadow is set\n");
    assert_eq!(served.ctl(&["shadow", "status", "-o", "json"]).json(1), json!(null));
    let client = served.client().await;
    client.set_shadow(intent(), 16).await.unwrap();
    let text = served.ctl(&["shadow", "status"]).text(0);
    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.starts_with("shadow 4, set ") && first.ends_with(" generation 0; 0 is running"), "{first}");
    let expected = "\
150 flows compared: 120 when judged, 30 of the established (one in 16 is looked at)
13 flows differ: 1 newly allowed, 12 newly denied
2 of them in no row
3 of them not streamed

 FLOWS  CHANGE        DIRECTION  BY THE RUNNING STATE  BY THE CANDIDATE
    11  newly denied  ingress    default-allow         no-rule of NetworkPolicy poc/web
";
    assert_eq!(rest, expected);
    let status: ShadowStatus =
        serde_json::from_value(served.ctl(&["shadow", "status", "-o", "json"]).json(0)).unwrap();
    assert_eq!(status, ShadowStatus { sample: 16, ..double::shadow() });

    let watch = |arguments: &[&str]| {
        let mut command = penstockctl();
        command.arg("--socket").arg(served.address.to_string()).args(["shadow", "watch"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out.lines().map(Result::unwrap))
    };
    let (mut people, lines) = watch(&[]);
    let lines: Vec<String> = lines.take(2).collect();
    let expected = [
        "1700000000.123456 newly denied tcp 10.244.1.10:40000 (poc/web-a) > 10.96.0.10:80 = 10.244.2.10:8080 (poc/web-b), \
         ingress: default-allow becomes no-rule of NetworkPolicy poc/web",
        "1700000000.123456 newly allowed tcp [fd00::9]:40000 > [fd00::10]:80 (poc/web-b), egress: no-rule becomes \
         default-allow [established] [the candidate does not know an end] [7 not shown before]",
    ];
    assert_eq!(lines, expected);
    let (mut programs, lines) = watch(&["-o", "json"]);
    let differences = lines.take(2).map(|line| serde_json::from_str::<ShadowDifference>(&line).unwrap());
    assert_eq!(differences.collect::<Vec<_>>(), double::differences());

    assert_eq!(served.ctl(&["shadow", "promote"]).text(0), "promoted as generation 1 in 890 µs\n");
    let error = served.ctl(&["shadow", "discard", "-o", "json"]).error(1);
    assert_eq!(error, ["shadow", "candidate", "none is set", "not_found"]);
    client.set_shadow(intent(), 16).await.unwrap();
    assert_eq!(served.ctl(&["shadow", "discard"]).text(0), "discarded\n");
    served.stop();
    for child in [&mut people, &mut programs] {
        assert_eq!(child.wait().unwrap().code(), Some(0), "it ends with penstockd");
    }
}
