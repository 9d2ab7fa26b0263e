//! penstock-agent against a served double: the folder is watched, what is good is applied, what is bad is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_api::contract::RefusalKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use policy_compiler::intent::{Action, Revocation, Tier};
use serde_json::Value;
use tempfile::TempDir;

use super::double::{Double, refusal, until};
use super::stage::{Ran, Served, editable, intent};

/// Long enough for three looks at penstockd.
const THREE_LOOKS: Duration = Duration::from_millis(900);

fn agent(manifests: &Path, socket: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-agent"));
    command.env_remove("PENSTOCK_SOCKET").env_remove("NODE_NAME").env_remove("RUST_LOG");
    command.args(["--node", "node-a", "--socket", socket, "--manifests"]).arg(manifests);
    command
}

/// A running agent over a folder of its own. Ends with it.
struct Agent {
    child: Child,
    manifests: TempDir,
    own: TempDir,
}

impl Agent {
    fn start(socket: &str) -> Self {
        let (manifests, own) = (editable(), tempfile::tempdir().unwrap());
        let log = fs::File::create(own.path().join("log")).unwrap();
        let mut command = agent(manifests.path(), socket);
        command.arg("--status-file").arg(own.path().join("status.json")).stderr(log).stdout(Stdio::null());
        Agent { child: command.spawn().unwrap(), manifests, own }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.manifests.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.own.path().join("log")).unwrap()
    }

    fn status(&self) -> Value {
        let text = fs::read(self.own.path().join("status.json"));
        text.map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
    }

    async fn in_sync(&self, generation: u64) {
        let wanted = || {
            let status = self.status();
            status["in_sync"] == true && status["applied"]["generation"] == generation
        };
        until(&format!("in sync with generation {generation}"), wanted).await;
    }

    async fn said(&self, text: &str) {
        until(&format!("the log says {text:?}"), || self.log().contains(text)).await;
    }

    /// Replaces the policy's file, as an editor does.
    fn write_policy(&self, edit: impl FnOnce(String) -> String) {
        let path = self.file("networkpolicy.yaml");
        let text = edit(fs::read_to_string(&path).unwrap());
        let new = self.file(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_applied_and_each_edit_is_a_new_generation() {
    let served = Served::unix().await;
    let mut agent = Agent::start(&served.address.to_string());
    agent.in_sync(1).await;
    assert_eq!(served.double.intents(), [intent()]);
    assert_eq!(agent.status()["node"], "node-a");
    let warning = "other.yaml: ConfigMap poc/web-settings: v1 ConfigMap is not a kind that is used";
    assert!(agent.log().contains(warning), "{}", agent.log());

    let begun = Instant::now();
    agent.write_policy(|text| text.replace("27017", "27018"));
    until("the edit", || served.double.generation() == 2).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    agent.in_sync(2).await;
    fs::remove_file(agent.file("networkpolicy.yaml")).unwrap();
    agent.in_sync(3).await;
    let policies = |intent: &policy_compiler::intent::Intent| intent.policies.len();
    assert_eq!(served.double.intents().iter().map(policies).collect::<Vec<_>>(), [1, 1, 0]);

    // The tiers of the cluster are part of the folder like any other policy.
    let cluster = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: strict, \
                   annotations: {penstock.io/revocation: reset}}\nspec: {tier: Baseline, priority: 9, subject: {namespaces: {}}, \
                   ingress: [{name: all, action: Deny, from: [{namespaces: {}}]}]}\n";
    fs::write(agent.file("cluster.yaml"), cluster).unwrap();
    agent.in_sync(4).await;
    let policy = served.double.intents().last().unwrap().policies[0].clone();
    assert_eq!((policy.tier, policy.revocation), (Tier::Baseline(9), Revocation::Reset));
    let rule = &policy.ingress.as_ref().unwrap()[0];
    assert_eq!((rule.name.as_str(), rule.action), ("all", Action::Deny));

    // A change that changes nothing is no transaction; a warning is said once.
    fs::write(agent.file("comment.yaml"), "# nothing\n").unwrap();
    tokio::time::sleep(THREE_LOOKS).await;
    assert_eq!(served.double.generation(), 4);
    assert_eq!(agent.log().matches(warning).count(), 1);

    kill(Pid::from_raw(agent.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(agent.child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_manifest_is_said_and_what_runs_goes_on() {
    let served = Served::unix().await;
    let agent = Agent::start(&served.address.to_string());
    agent.in_sync(1).await;
    let good = fs::read_to_string(agent.file("networkpolicy.yaml")).unwrap();
    agent.write_policy(|text| text.replace("port: 27017", "port: 270170"));
    let problem = "NetworkPolicy poc/mongodb-vm: spec.ingress[0].ports[0].port: 270170 is not a port";
    agent.said(problem).await;
    agent.said("generation 1 goes on").await;
    let status = agent.status();
    assert_eq!((&status["in_sync"], &status["applied"]["generation"]), (&false.into(), &1.into()));
    assert!(status["problem"].as_str().unwrap().contains(problem), "{status}");

    agent.write_policy(|_| "kind: [".into());
    agent.said("networkpolicy.yaml, document 1").await;
    agent.write_policy(|_| good);
    agent.said("the manifests are good again").await;
    until("in sync", || agent.status()["in_sync"] == true).await;
    assert_eq!(served.double.generation(), 1, "what is good again is what runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_said_once_until_the_folder_changes() {
    let served = Served::unix().await;
    let full =
        refusal("Service poc/web", "backends", "70000 backends, room for 65536", RefusalKind::Capacity);
    served.double.refuse(Some(full.clone()));
    let agent = Agent::start(&served.address.to_string());
    agent.said(&format!("penstockd refuses: {full}")).await;
    tokio::time::sleep(THREE_LOOKS).await;
    assert_eq!(served.double.intents().len(), 1, "it is not asked again");
    assert_eq!(agent.status()["problem"], full.to_string());
    served.double.refuse(None);
    agent.write_policy(|text| text.replace("27017", "27018"));
    agent.in_sync(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_penstockd_that_comes_later_or_anew_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let agent = Agent::start(path.to_str().unwrap());
    agent.said("trying again").await;
    let mut first = Served::at(&path, Double::new()).await;
    agent.in_sync(1).await;
    agent.write_policy(|text| text.replace("27017", "27018"));
    agent.in_sync(2).await;
    let intents = first.double.intents();
    first.stop();
    first.ended().await.unwrap();
    until("the loss", || agent.status()["in_sync"] == false).await;

    let second = Served::at(&path, Double::new()).await;
    agent.said("penstockd was restarted").await;
    agent.in_sync(1).await;
    assert_eq!(second.double.intents(), intents[1..]);

    // A restart between two looks, at whose end the generation is no lower: told by the time it has been up.
    second.double.set_uptime(0.5);
    agent.in_sync(2).await;
    assert_eq!(second.double.intents().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_of_somebody_elses_is_left_until_the_folder_changes() {
    let served = Served::unix().await;
    let agent = Agent::start(&served.address.to_string());
    agent.in_sync(1).await;
    served.double.step();
    agent.said("generation 2 is not of this agent").await;
    tokio::time::sleep(THREE_LOOKS).await;
    assert_eq!(served.double.generation(), 2);
    assert_eq!(agent.log().matches("is not of this agent").count(), 1);
    agent.write_policy(|text| text.replace("27017", "27018"));
    agent.in_sync(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_applies_and_ends_with_the_documented_codes() {
    let served = Served::unix().await;
    let socket = served.address.to_string();
    let once = |manifests: &Path, socket: &str, more: &[&str]| {
        Ran::of(agent(manifests, socket).arg("--once").args(more))
    };
    let folder = editable();
    let status = folder.path().join("status");
    let status_file = ["--status-file", status.to_str().unwrap()];
    assert_eq!(once(folder.path(), &socket, &status_file).code, Some(0));
    assert_eq!(served.double.generation(), 1);
    let written: Value = serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
    assert_eq!((&written["in_sync"], &written["problem"]), (&true.into(), &Value::Null));

    let full = refusal("Intent", "flows", "too many", RefusalKind::Capacity);
    served.double.refuse(Some(full.clone()));
    let ran = once(folder.path(), &socket, &status_file);
    assert!(ran.code == Some(1) && ran.err.contains(&full.to_string()), "{ran:?}");
    let written: Value = serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
    assert_eq!((&written["in_sync"], &written["problem"]), (&false.into(), &full.to_string().into()));

    let ran = once(folder.path(), "/nowhere/p.sock", &[]);
    assert!(ran.code == Some(3) && ran.err.contains("unix:///nowhere/p.sock"), "{ran:?}");
    fs::write(folder.path().join("bad.yaml"), "kind: [").unwrap();
    let ran = once(folder.path(), &socket, &[]);
    assert!(ran.code == Some(1) && ran.err.contains("bad.yaml, document 1"), "{ran:?}");
    let ran = once(Path::new("/nowhere"), &socket, &[]);
    assert!(ran.code == Some(2) && ran.err.contains("--manifests /nowhere"), "{ran:?}");
    assert_eq!(once(folder.path(), "ftp://x", &[]).code, Some(2));
    assert_eq!(served.double.generation(), 1);
}
