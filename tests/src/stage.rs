//! The cluster with a server in every pod and on the plain host, and what is expected of them. The demo and the tests
//! in namespaces both play on it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::netns::Namespace;
use crate::traffic::tcp::{self, NameServer};
use crate::traffic::udp::{self, Ask, EchoServer};
use crate::traffic::{Outcome, icmp};

/// TCP port of the servers, the database's excepted.
pub const HTTP: u16 = 8080;
/// UDP port of the servers.
pub const ECHO: u16 = 7007;
/// The database's TCP port.
pub const DATABASE: u16 = 27017;
/// Another port of the database, which no policy opens.
pub const OTHER: u16 = 27018;
/// How long an answer may take: some retransmissions, while a neighbour is asked for.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence must last to be believed.
pub const SILENCE: Duration = Duration::from_millis(700);
/// What "at once" means to a refused client: no retransmission has been waited for.
pub const AT_ONCE: Duration = Duration::from_millis(500);

/// The cluster with its servers. The servers are dropped first.
#[derive(Debug)]
pub struct Stage {
    database: Option<NameServer>,
    _tcp: Vec<NameServer>,
    _udp: Vec<EchoServer>,
    /// The cluster.
    pub cluster: Cluster,
}

impl Stage {
    /// Starts the servers in a cluster that has been made.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn set(cluster: Cluster) -> Result<Self> {
        let places = [
            (&cluster.web_a.namespace, "web-a"),
            (&cluster.web_b.namespace, "web-b"),
            (&cluster.host.namespace, "host"),
        ];
        let mut tcp = vec![NameServer::start(&cluster.mongodb.namespace, OTHER, "mongodb")?];
        let mut udp = vec![EchoServer::start(&cluster.mongodb.namespace, ECHO, "mongodb")?];
        for (namespace, name) in places {
            tcp.push(NameServer::start(namespace, HTTP, name)?);
            udp.push(EchoServer::start(namespace, ECHO, name)?);
        }
        let mut stage = Stage { database: None, _tcp: tcp, _udp: udp, cluster };
        stage.open_database()?;
        Ok(stage)
    }

    /// The whole cluster up, with its servers.
    ///
    /// # Errors
    /// When any part does not come up.
    pub fn up(tag: &str, patient: bool) -> Result<Self> {
        Stage::set(Cluster::up(tag, patient)?)
    }

    /// Lets the database answer on [`DATABASE`].
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open_database(&mut self) -> Result<()> {
        self.database = None;
        self.database = Some(NameServer::start(&self.cluster.mongodb.namespace, DATABASE, "mongodb")?);
        Ok(())
    }

    /// Gives [`DATABASE`] free, for a stream to listen on.
    pub fn close_database(&mut self) {
        self.database = None;
    }
}

/// `from` asks over TCP; the server called `name` answers and sees the client as `seen`.
///
/// # Errors
/// When it does not, saying what came instead.
pub fn tcp_answers(from: &Namespace, to: SocketAddr, name: &str, seen: IpAddr) -> Result<()> {
    let answers = tcp::who(from, to, 3, PATIENCE).map_err(|outcome| unexpected(from, "TCP", to, &outcome))?;
    for answer in &answers {
        ensure!(
            answer.name == name && answer.seen == seen,
            "TCP {to} from {}: {answer:?}, not {name} which sees {seen}",
            from.name()
        );
    }
    Ok(())
}

/// `from` asks over UDP with `size` bytes; the server called `name` answers.
///
/// # Errors
/// When it does not, saying what came instead.
pub fn udp_answers(from: &Namespace, to: SocketAddr, size: usize, name: &str) -> Result<()> {
    let ask = Ask { size, patience: PATIENCE, ..Ask::default() };
    // UDP has no second try of its own, and the first datagram may be spent on asking for a neighbour.
    let mut answer = udp::ask(from, to, Ask { patience: SILENCE, ..ask });
    if answer == Err(Outcome::Silent) {
        answer = udp::ask(from, to, ask);
    }
    let answer = answer.map_err(|outcome| unexpected(from, "UDP", to, &outcome))?;
    ensure!(answer == name, "UDP {to} from {}: {answer} answers, not {name}", from.name());
    Ok(())
}

/// `from` pings; the round trip's time is returned.
///
/// # Errors
/// When no reply comes.
pub fn pinged(from: &Namespace, to: IpAddr, size: usize) -> Result<Duration> {
    let mut reply = icmp::ping(from, to, size, None, SILENCE);
    if reply == Err(Outcome::Silent) {
        reply = icmp::ping(from, to, size, None, PATIENCE);
    }
    reply.map_err(|outcome| anyhow::anyhow!("ping {to} from {}: {outcome}", from.name()))
}

/// `from` asks over TCP and hears nothing: what a policy's drop looks like.
///
/// # Errors
/// When it hears anything.
pub fn tcp_silent(from: &Namespace, to: SocketAddr) -> Result<()> {
    match tcp::probe(from, to, SILENCE) {
        Outcome::Silent => Ok(()),
        other => Err(unexpected(from, "TCP", to, &other).context("silence is wanted")),
    }
}

/// `from` asks over TCP and is refused at once. Returns how long that took.
///
/// # Errors
/// When it is answered, or has to wait.
pub fn tcp_refused(from: &Namespace, to: SocketAddr) -> Result<Duration> {
    let begin = Instant::now();
    let outcome = tcp::probe(from, to, PATIENCE);
    let took = begin.elapsed();
    ensure!(
        outcome == Outcome::Refused,
        unexpected(from, "TCP", to, &outcome).context("a refusal is wanted")
    );
    ensure!(took < AT_ONCE, "TCP {to} from {}: refused only after {took:?}", from.name());
    Ok(took)
}

/// Waits until `from` is answered over TCP by `name`, however often it has to ask.
///
/// # Errors
/// When it is not within `patience`.
pub fn wait_answer(from: &Namespace, to: SocketAddr, name: &str, patience: Duration) -> Result<Duration> {
    let begin = Instant::now();
    crate::wait_for(&format!("an answer of {name}"), patience, || {
        Ok(tcp::who(from, to, 1, Duration::from_millis(250))
            .is_ok_and(|answers| answers.iter().all(|answer| answer.name == name))
            .then_some(()))
    })
    .with_context(|| format!("TCP {to} from {}", from.name()))?;
    Ok(begin.elapsed())
}

fn unexpected(from: &Namespace, protocol: &str, to: SocketAddr, outcome: &Outcome) -> anyhow::Error {
    anyhow::anyhow!("{protocol} {to} from {}: {outcome}", from.name())
}
