//! Services: new connections are spread over the backends, each connection stays with its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::Checks;
use crate::cluster::{Cluster, EMPTY, WEB};
use crate::manifests::Manifests;
use crate::netns::Namespace;
use crate::stage::{PATIENCE, SILENCE, Stage, tcp_refused};
use crate::traffic::udp::{self, Ask};
use crate::traffic::{Outcome, tcp};

/// Connections a client opens. That all of them meet one of two backends happens once in 2^31 runs.
const CONNECTIONS: usize = 32;
/// Questions on each connection.
const QUESTIONS: usize = 5;
/// The file with the backends.
const SLICES: &str = "endpointslices.yaml";

/// How many connections each backend has had.
type Spread = BTreeMap<String, usize>;

/// Shows it.
pub fn show(stage: &Stage, checks: &mut Checks) {
    let cluster = &stage.cluster;
    checks.check("a ClusterIP spreads connections, each keeps its backend", || {
        let mut told = Vec::new();
        for (client, name) in
            [(&cluster.mongodb, "database"), (&cluster.web_a, "web-a"), (&cluster.web_b, "web-b")]
        {
            for address in WEB {
                let spread = connections(&client.namespace, (address, 80).into(), CONNECTIONS)?;
                both(&spread)?;
                told.push(format!("{name} {}", counts(&spread)));
            }
        }
        Ok(format!("{QUESTIONS} questions on each of {CONNECTIONS}: {}", told.join("; ")))
    });
    checks.check("a ClusterIP spreads UDP, each socket keeps its backend", || {
        let mut told = Vec::new();
        for address in WEB {
            let spread = datagrams(&cluster.mongodb.namespace, (address, 7).into(), CONNECTIONS)?;
            both(&spread)?;
            told.push(counts(&spread));
        }
        Ok(told.join("; "))
    });
    checks.check("a Service without endpoints refuses at once", || {
        let times =
            [&cluster.web_a, &cluster.web_b].map(|pod| tcp_refused(&pod.namespace, (EMPTY, 80).into()));
        let [a, b] = times;
        Ok(format!("TCP refused after {:.1} and {:.1} ms", millis(a?), millis(b?)))
    });
    checks.check("node ports lead in from outside", || {
        let mut told = Vec::new();
        for node in [&cluster.node_a, &cluster.node_b] {
            for address in node.site.addresses() {
                let spread = connections(&cluster.host.namespace, (address, 30080).into(), CONNECTIONS)?;
                both(&spread)?;
                both(&datagrams(&cluster.host.namespace, (address, 30007).into(), CONNECTIONS)?)?;
                told.push(counts(&spread));
            }
        }
        Ok(format!("TCP 30080 and UDP 30007 at both nodes: {}", told.join("; ")))
    });
    checks.check("an endpoint that is not ready gets no new connection", || not_ready(cluster));
}

/// Opens connections to a Service and says who answered how many. On each all questions have one answer.
///
/// # Errors
/// When one is not answered, or changes its backend.
pub fn connections(from: &Namespace, to: SocketAddr, count: usize) -> Result<Spread> {
    let mut spread = Spread::new();
    for _ in 0..count {
        let answers = tcp::who(from, to, QUESTIONS, PATIENCE);
        let answers = answers.map_err(|outcome| anyhow!("TCP {to} from {}: {outcome}", from.name()))?;
        let name = answers.first().map(|answer| answer.name.clone()).unwrap_or_default();
        ensure!(
            answers.len() == QUESTIONS && answers.iter().all(|answer| answer.name == name),
            "one connection, several backends: {answers:?}"
        );
        *spread.entry(name).or_default() += 1;
    }
    Ok(spread)
}

fn datagrams(from: &Namespace, to: SocketAddr, count: usize) -> Result<Spread> {
    let mut spread = Spread::new();
    for number in 0..count {
        // The first may be spent on asking for a neighbour; of the others none may be missing.
        let patience = if number == 0 { SILENCE } else { PATIENCE };
        match udp::ask(from, to, Ask { patience, ..Ask::default() }) {
            Ok(name) => *spread.entry(name).or_default() += 1,
            Err(Outcome::Silent) if number == 0 => {}
            Err(outcome) => return Err(anyhow!("UDP {to} from {}: {outcome}", from.name())),
        }
    }
    Ok(spread)
}

fn not_ready(cluster: &Cluster) -> Result<String> {
    let mut was = String::new();
    cluster.edit(|manifests| {
        was = only_web_b(manifests)?;
        Ok(())
    })?;
    let spreads =
        WEB.map(|address| connections(&cluster.mongodb.namespace, (address, 80).into(), CONNECTIONS));
    cluster.edit(|manifests| restore(manifests, &was))?;
    for spread in spreads {
        let spread = spread?;
        ensure!(spread.keys().eq(["web-b"]), "while web-a was not ready: {}", counts(&spread));
    }
    for address in WEB {
        both(&connections(&cluster.mongodb.namespace, (address, 80).into(), CONNECTIONS)?)?;
    }
    Ok("web-b alone while web-a was not, both afterwards".to_owned())
}

/// Takes `web-a` out of the Service `poc/web`. Returns the file as it was.
///
/// # Errors
/// When the file is not the example's, or cannot be written.
pub fn only_web_b(manifests: &Manifests) -> Result<String> {
    let was = manifests.read(SLICES)?;
    let mut text = was.clone();
    for address in ["10.244.1.10", "fd00:10:244:1::10"] {
        let ready = |flags: &str| format!("[\"{address}\"]\n    nodeName: node-a\n    conditions: {{{flags}");
        let (yes, no) = (ready("ready: true, serving: true"), ready("ready: false, serving: false"));
        ensure!(text.matches(&yes).count() == 1, "{SLICES} does not have {address} once");
        text = text.replace(&yes, &no);
    }
    manifests.write(SLICES, &text)?;
    Ok(was)
}

/// Puts back what [`only_web_b`] has returned.
///
/// # Errors
/// When it cannot be written.
pub fn restore(manifests: &Manifests, was: &str) -> Result<()> {
    manifests.write(SLICES, was)
}

fn both(spread: &Spread) -> Result<()> {
    ensure!(spread.keys().eq(["web-a", "web-b"]), "not spread over both backends: {}", counts(spread));
    Ok(())
}

fn counts(spread: &Spread) -> String {
    spread.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(" + ")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_can_do_without_web_a_and_be_restored() {
        let folder = std::env::temp_dir().join(format!("penstock-alone-{}", std::process::id()));
        let manifests = Manifests::copy("two-nodes", &folder).unwrap();
        let was = only_web_b(&manifests).unwrap();
        assert_eq!(manifests.read(SLICES).unwrap().matches("ready: false").count(), 2);
        assert!(only_web_b(&manifests).is_err(), "it is out already");
        restore(&manifests, &was).unwrap();
        assert!(!manifests.read(SLICES).unwrap().contains("ready: false"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
