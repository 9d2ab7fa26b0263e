//! NetworkPolicy: the article's database takes only the pods with one label, only on its port; and a permission that is
//! revoked ends with the next packet.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use agent_api::contract::Explanation;
use anyhow::{Context, Result, ensure};

use super::Checks;
use crate::cluster::{Cluster, MONGODB};
use crate::lab::Pod;
use crate::manifests::Manifests;
use crate::stage::{DATABASE, HTTP, OTHER, PATIENCE, Stage, tcp_answers, tcp_silent};
use crate::traffic::clock_ns;
use crate::traffic::stream::{Pace, Stream};

const POLICY: &str = "networkpolicy.yaml";
const PODS: &str = "pods.yaml";
const ALLOWED: &str = "app: kubevirt-networking-poc";
const DENIED: &str = "app: another-application";

/// What may still be between the dataplane and the reader when `Apply` has answered.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// How long nothing may arrive.
const STANDSTILL: Duration = Duration::from_millis(700);
/// How long TCP may take to find out that it may go on: its retransmissions have backed off.
const RECOVERY: Duration = Duration::from_secs(15);

/// Shows it.
pub fn show(stage: &mut Stage, checks: &mut Checks) {
    let cluster = &stage.cluster;
    let (web_a, web_b) = (&cluster.web_a, &cluster.web_b);
    checks.check("the labelled pod reaches the database at 27017", || {
        allowed(cluster, web_a)?;
        Ok("web-a, directly and by the Service, IPv4 and IPv6".to_owned())
    });
    checks.check("it reaches no other port of it", || {
        for address in cluster.mongodb.addresses() {
            tcp_silent(&web_a.namespace, (address, OTHER).into())?;
        }
        Ok(format!("TCP {OTHER}: silence, IPv4 and IPv6"))
    });
    checks.check("a pod without the label does not, from the other node", || {
        let before = denials(cluster)?;
        denied(cluster, web_b)?;
        let counted = denials(cluster)? - before;
        ensure!(counted > 0, "no drop was counted as policy_ingress");
        Ok(format!("web-b, directly and by the Service: silence, {counted} drops named policy_ingress"))
    });
    checks.check("penstockctl explains the denial", || explained(cluster));
    checks.check("the database itself may talk to others", || {
        for pod in [web_a, web_b] {
            let name = pod.name.trim_start_matches("poc/");
            for (to, seen) in pod.addresses().into_iter().zip(cluster.mongodb.addresses()) {
                tcp_answers(&cluster.mongodb.namespace, (to, HTTP).into(), name, seen)?;
            }
        }
        Ok("replies pass, whatever its ingress policy".to_owned())
    });
    checks.check("labels changed places: so has the permission", || {
        cluster.edit(swap_labels)?;
        allowed(cluster, web_b)?;
        denied(cluster, web_a)?;
        Ok("web-b over VXLAN now, web-a on the same node no more".to_owned())
    });
    stage.close_database();
    let cluster = &stage.cluster;
    checks.check("labels changed back: a transfer over VXLAN stops", || {
        let stream = transfer(cluster, &cluster.web_b, cluster.mongodb.v4.into())?;
        let told = cut(cluster, &stream, swap_labels);
        stream.abandon();
        told
    });
    checks.check("a policy edited during a transfer stops it, restored it goes on", || {
        let mut told = Vec::new();
        for address in [cluster.mongodb.v4.into(), MONGODB[1]] {
            told.push(edited(cluster, address)?);
        }
        Ok(told.join("; by the Service, IPv6: "))
    });
    checks.check("afterwards all is as before", || {
        stage.open_database()?;
        allowed(&stage.cluster, &stage.cluster.web_a)?;
        denied(&stage.cluster, &stage.cluster.web_b)?;
        Ok("web-a may, web-b may not".to_owned())
    });
}

fn allowed(cluster: &Cluster, pod: &Pod) -> Result<()> {
    for to in cluster.mongodb.addresses().into_iter().chain(MONGODB) {
        let seen = if to.is_ipv4() { pod.v4.into() } else { pod.v6.into() };
        tcp_answers(&pod.namespace, (to, DATABASE).into(), "mongodb", seen)?;
    }
    Ok(())
}

fn denied(cluster: &Cluster, pod: &Pod) -> Result<()> {
    for to in cluster.mongodb.addresses().into_iter().chain(MONGODB) {
        tcp_silent(&pod.namespace, (to, DATABASE).into())?;
    }
    Ok(())
}

fn denials(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.node_a.dropped("policy_ingress")? + cluster.node_b.dropped("policy_ingress")?)
}

fn explained(cluster: &Cluster) -> Result<String> {
    let question = ["explain", "tcp", "poc/web-b", "poc/virt-launcher-mongodb-vm:27017", "-o", "json"];
    let ended = cluster.node_b.ctl(&question)?;
    ensure!(ended.code == Some(1), "exit {:?}: {}{}", ended.code, ended.out, ended.err);
    let answer: Explanation = serde_json::from_str(&ended.out).with_context(|| ended.out.clone())?;
    ensure!(
        answer.verdict == "drop" && answer.reason.as_deref() == Some("policy_ingress"),
        "not dropped as policy_ingress: {answer:?}"
    );
    Ok(format!("policy_ingress, ingress: {}", answer.ingress))
}

/// Lets the two web pods change their labels.
fn swap_labels(manifests: &Manifests) -> Result<()> {
    let text = manifests.read(PODS)?;
    ensure!(
        text.matches(ALLOWED).count() == 1 && text.matches(DENIED).count() == 1,
        "{PODS} is not the example's"
    );
    let kept = text.replace(ALLOWED, "app: \u{0}");
    manifests.write(PODS, &kept.replace(DENIED, ALLOWED).replace("app: \u{0}", DENIED))
}

fn transfer(cluster: &Cluster, from: &Pod, to: IpAddr) -> Result<Stream> {
    let to = SocketAddr::from((to, DATABASE));
    let (client, server) = (&from.namespace, &cluster.mongodb.namespace);
    Stream::start(client, server, DATABASE, to, Pace::Every(Duration::from_millis(1)), PATIENCE)
}

/// Makes the edit while the stream flows. Once both nodes run what follows from it nothing may arrive that was sent
/// later, and soon nothing at all.
fn cut(cluster: &Cluster, stream: &Stream, edit: impl FnOnce(&Manifests) -> Result<()>) -> Result<String> {
    stream.wait_flow(PATIENCE)?;
    let begun = clock_ns();
    cluster.edit(edit)?;
    let seen = clock_ns();
    std::thread::sleep(ON_ITS_WAY);
    let before = stream.progress();
    std::thread::sleep(STANDSTILL);
    let after = stream.progress();
    let more = after.records - before.records;
    ensure!(more == 0, "{more} more records arrived after Apply had answered");
    ensure!(after.newest_ns <= seen, "a record sent after Apply had answered has arrived");
    let stopped = after.arrived_ns.saturating_sub(begun) / 1_000_000;
    let known = (seen - begun) / 1_000_000;
    Ok(format!("last byte {stopped} ms after the edit, generation seen after {known} ms, then none"))
}

fn edited(cluster: &Cluster, to: IpAddr) -> Result<String> {
    let stream = transfer(cluster, &cluster.web_a, to)?;
    let mut was = String::new();
    let told = cut(cluster, &stream, |manifests| {
        was = manifests.edit(POLICY, ALLOWED, "app: nobody-at-all")?;
        Ok(())
    });
    cluster.edit(|manifests| manifests.write(POLICY, &was))?;
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            stream.abandon();
            return Err(error);
        }
    };
    let restored = clock_ns();
    stream.wait_flow(RECOVERY).context("after the policy was restored")?;
    let again = (clock_ns() - restored) / 1_000_000;
    let records = stream.finish()?;
    Ok(format!("{told}; again {again} ms after it was restored, all {records} records in order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_changed_places_twice_are_where_they_were() {
        let folder = std::env::temp_dir().join(format!("penstock-swap-{}", std::process::id()));
        let manifests = Manifests::copy("two-nodes", &folder).unwrap();
        let was = manifests.read(PODS).unwrap();
        swap_labels(&manifests).unwrap();
        let swapped = manifests.read(PODS).unwrap();
        assert!(swapped.find(DENIED).unwrap() < swapped.find(ALLOWED).unwrap(), "web-a is the first pod");
        swap_labels(&manifests).unwrap();
        assert_eq!(manifests.read(PODS).unwrap(), was);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
