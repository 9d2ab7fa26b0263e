//! Two pods behind a kernel router, each in a network namespace, for the tests of the binary.
//!
//! ```text
//!   penstock-pktgen-a        penstock-pktgen-router        penstock-pktgen-b
//!        eth0  ───────────────  to-a     to-b  ───────────────  eth0
//!   10.9.0.1/32, fd09::1/128     169.254.1.1, fe80::1      10.9.0.2/32, fd09::2/128
//! ```
//!
//! As behind a Penstock port: the pod's address is a /32, its gateway link-local. Needs root.

// Each test binary uses its part, and none is a library.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

/// The sending pod's namespace.
pub const A: &str = "penstock-pktgen-a";
/// The receiving pod's namespace.
pub const B: &str = "penstock-pktgen-b";
/// The namespace between them.
pub const ROUTER: &str = "penstock-pktgen-router";

/// The router's MAC address, on both sides.
pub const ROUTER_MAC: &str = "02:00:00:00:09:fe";

/// The namespaces. One at a time on this machine; gone when it is dropped.
pub struct Lab {
    _lock: Flock<File>,
}

impl Lab {
    /// Makes the namespaces, and removes first what a killed run has left; `None`, and a word, without root.
    pub fn up() -> Option<Self> {
        if !Uid::effective().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let file = File::create("/run/lock/penstock-pktgen.lock").unwrap();
        let lab = Lab { _lock: Flock::lock(file, FlockArg::LockExclusive).unwrap() };
        remove();
        for namespace in [A, B, ROUTER] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        lab.pod(A, "to-a", 1);
        lab.pod(B, "to-b", 2);
        for key in ["ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1"] {
            inside(ROUTER, &format!("sysctl -qw net.{key}"));
        }
        Some(lab)
    }

    /// One queue, offloads off: what arrives has whole checksums. The router knows the pod from the beginning, so that
    /// nothing is lost while it asks.
    fn pod(&self, pod: &str, port: &str, number: u8) {
        let (v4, v6, mac) = (format!("10.9.0.{number}"), format!("fd09::{number}"), mac(number));
        let queues = "numrxqueues 1 numtxqueues 1";
        let own = format!("address {ROUTER_MAC}");
        ip(&format!(
            "-n {ROUTER} link add {port} {own} {queues} type veth peer name eth0 netns {pod} address {mac} {queues}"
        ));
        ip(&format!("-n {ROUTER} addr add 169.254.1.1/32 dev {port}"));
        ip(&format!("-n {ROUTER} addr add fe80::1/64 dev {port} nodad"));
        ip(&format!("-n {ROUTER} link set {port} up"));
        ip(&format!("-n {pod} addr add {v4}/32 dev eth0"));
        ip(&format!("-n {pod} addr add {v6}/128 dev eth0 nodad"));
        ip(&format!("-n {pod} link set eth0 up"));
        ip(&format!("-n {pod} route add default via 169.254.1.1 dev eth0 onlink"));
        ip(&format!("-n {pod} -6 route add default via fe80::1 dev eth0"));
        ip(&format!("-n {ROUTER} route add {v4}/32 dev {port}"));
        ip(&format!("-n {ROUTER} -6 route add {v6}/128 dev {port}"));
        for address in [v4, v6] {
            ip(&format!("-n {ROUTER} neigh add {address} lladdr {mac} dev {port} nud permanent"));
        }
        inside(pod, "ethtool -K eth0 tx off tso off gso off");
        inside(ROUTER, &format!("ethtool -K {port} tx off tso off gso off"));
    }
}

fn mac(number: u8) -> String {
    format!("02:00:00:00:09:{number:02x}")
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove();
    }
}

fn remove() {
    for namespace in [A, B, ROUTER] {
        // There need not be any.
        let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
    }
}

fn ip(words: &str) {
    run("ip", words);
}

/// Runs a command line in a namespace.
pub fn inside(namespace: &str, words: &str) {
    run("ip", &format!("netns exec {namespace} {words}"));
}

fn run(program: &str, words: &str) {
    let output = Command::new(program).args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `pktgen` with these words, run to its end.
pub fn pktgen(words: &str) -> Ended {
    Ended::of(words, pktgen_command(words).output().unwrap())
}

/// `pktgen` with these words, started.
pub fn start(words: &str) -> Running {
    spawn(pktgen_command(words), words)
}

fn spawn(mut command: Command, words: &str) -> Running {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    Running { words: words.to_owned(), child }
}

fn pktgen_command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    command.args(words.split_whitespace());
    command
}

/// A file for this test alone.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// `pktgen` with these words, started by `ip netns exec` in a namespace.
pub fn start_in(namespace: &str, words: &str) -> Running {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_pktgen")]).args(words.split_whitespace());
    spawn(command, words)
}

/// A `pktgen` that runs.
pub struct Running {
    words: String,
    child: Child,
}

impl Running {
    /// Waits until it says that packets can come.
    pub fn wait_ready(&mut self) {
        let mut said = BufReader::new(self.child.stderr.as_mut().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "pktgen: ready to receive\n");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end.
    pub fn finish(self) -> Ended {
        Ended::of(&self.words, self.child.wait_with_output().unwrap())
    }
}

/// A `pktgen` that has ended.
pub struct Ended {
    words: String,
    /// Its exit code; -1 where a signal killed it.
    pub code: i32,
    /// What it reported.
    pub out: String,
    /// What it said beside.
    pub err: String,
}

impl Ended {
    fn of(words: &str, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap_or(-1);
        Ended { words: words.to_owned(), code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Its report (`-o json`), where it has ended with `code`.
    pub fn report(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{self}");
        let report: Value = serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"));
        let holds = report["conservation"].is_null() || report["conservation"]["holds"] == true;
        assert!(holds, "{self}");
        report
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pktgen {}: {}\n{}{}", self.words, self.code, self.out, self.err)
    }
}
