//! The instrument's own latency: what is measured where there is nothing between its ends.
//!
//! * In memory: frames are handed from the sender's port to the receiver's as bytes, on one thread. It holds what this
//!   program does between the two readings of the clock: writing a batch, copying, parsing, checking.
//! * Over a bare veth pair between two network namespaces without a name, by the engines of the measurement: it holds
//!   the kernel's part of sending and receiving, and the waking of the receiver, too.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver as Inbox, Sender as Outbox};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use afxdp_driver::memory::MemoryPort;
use afxdp_driver::{BATCH_SIZE, FramePool, HugePages};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getpid, gettid};

use crate::bench::Bench;
use crate::check;
use crate::clock::monotonic_ns;
use crate::drive::Shared;
use crate::engine::port::{PortReceiver, PortSender};
use crate::engine::{EngineError, Receiver, Sender};
use crate::figures::FloorReport;
use crate::locate::Look;
use crate::meter::Meter;
use crate::options::{RunOptions, RxEngine, TrafficOptions};
use crate::packet::VXLAN_PORT;
use crate::progress::Status;
use crate::rate::Pacer;
use crate::report::{LatencyReport, Report, RxReport};
use crate::run::Failure;
use crate::traffic::Traffic;
use crate::trial::{Amount, Device, TrialSpec};

/// Packets a second of both measurements: slow enough that nothing waits for anything.
const PPS: f64 = 10_000.0;

/// How long each is measured at most.
const LONGEST: Duration = Duration::from_secs(1);

/// Measures both. What keeps the veth pair from being made (no root, no `ip`) is said in the report and is no failure.
///
/// # Errors
/// [`Failure`] where not even memory can be had, or a signal comes.
pub fn measure(options: &RunOptions, shared: &Shared, status: &Status) -> Result<FloorReport, Failure> {
    let time = options.load.limit().unwrap_or(LONGEST).min(LONGEST);
    let failed = |source| Failure::Engine { end: "floor", source };
    let traffic = TrafficOptions { run_id: Some(options.traffic.run()), ..options.traffic.clone() };
    let memory_ns = in_memory(&mut check::offline(&traffic)?, time, PPS).map_err(failed)?;
    let (veth_ns, veth) = match over_veth(options, time, status) {
        Ok((latency, made_of)) => (Some(latency), format!("bare veth pair: {made_of}")),
        Err(error) => (None, format!("over a bare veth pair it could not be measured: {error}")),
    };
    if shared.stopping() {
        return Err(Failure::Interrupted);
    }
    Ok(FloorReport { memory_ns, veth_ns, veth, pps: PPS })
}

/// Latencies of `traffic` for `time`, handed over in memory.
///
/// # Errors
/// [`EngineError`] where packet memory cannot be had.
pub fn in_memory(traffic: &mut Traffic, time: Duration, pps: f64) -> Result<LatencyReport, EngineError> {
    let pool = |chunks| FramePool::anonymous(chunks, HugePages::Never);
    let (tx_port, tx_wire) = MemoryPort::new(BATCH_SIZE);
    let (rx_port, rx_wire) = MemoryPort::new(BATCH_SIZE);
    let mut sender = PortSender::new(tx_port, pool(2 * BATCH_SIZE)?);
    let look = Look { verify: true, vxlan_port: VXLAN_PORT };
    let mut receiver = PortReceiver::new(vec![rx_port], pool(2 * BATCH_SIZE)?, look, |_| 0);
    let mut meter = Meter::new(None);
    meter.prepare(traffic.tallies().len());
    let begin = monotonic_ns();
    let end = begin + time.as_nanos() as u64;
    let mut pacer = Pacer::new(Some(pps), begin);
    let mut now = begin;
    while now < end {
        let due = pacer.due(now).min(BATCH_SIZE as u64);
        if due > 0 {
            pacer.take(sender.send(traffic, due)?.packets);
            tx_wire.drain().into_iter().for_each(|frame| rx_wire.inject(frame));
            while receiver.receive(&mut meter, Duration::ZERO)? > 0 {}
            sender.settle()?;
        }
        std::hint::spin_loop();
        now = monotonic_ns();
    }
    Box::new(sender).close();
    Box::new(receiver).close();
    let mut report = Report::new("floor", false);
    report.judge(&meter, Some(traffic.tallies()), RxReport::default());
    report
        .latency_ns
        .ok_or(EngineError::Driver { operation: "floor", reason: "no packet came through".into() })
}

/// Latencies over a veth pair made for it.
fn over_veth(
    options: &RunOptions,
    time: Duration,
    status: &Status,
) -> Result<(LatencyReport, String), Failure> {
    let (sender, receiver) = (Namespace::make()?, Namespace::make()?);
    let v6 = options.traffic.dst_ip.first().is_ipv6();
    let (from, to, prefix) =
        if v6 { ("fd25:44::1", "fd25:44::2", 64) } else { ("198.18.0.1", "198.18.0.2", 24) };
    let peer = receiver.task.to_string();
    let queues = "numrxqueues 1 numtxqueues 1";
    sender.ip(&format!("link add floor0 {queues} type veth peer name floor1 netns {peer} {queues}"))?;
    for (namespace, device, address) in [(&sender, "floor0", from), (&receiver, "floor1", to)] {
        let nodad = if v6 { " nodad" } else { "" };
        namespace.ip(&format!("addr add {address}/{prefix} dev {device}{nodad}"))?;
        namespace.ip(&format!("link set {device} up"))?;
        // Checksums that the kernel leaves to a card are never made on a veth: received raw, they would be wrong.
        // GRO lets the other end take XDP's live frames.
        namespace.run("ethtool", &format!("-K {device} tx off tso off gso off gro on"))?;
    }
    let own = joined(options, &sender.path, &receiver.path, from, to)?;
    // Of its own: where it fails, what is measured next goes on.
    let (shared, no_progress) = (Shared::default(), Status::default());
    let spec = TrialSpec { test: "floor".into(), size: None, rate: Some(PPS), amount: Amount::Time(time) };
    status.say("measuring the instrument's own latency over a bare veth pair");
    let (record, attached) = Bench::with(&own, Duration::ZERO, &shared, &no_progress, |bench| {
        Ok((bench.measure(&spec)?, bench.attached().clone()))
    })?;
    let made_of = format!("{} to {}", attached.sender, attached.receiver);
    let nothing = || Failure::Engine {
        end: "floor",
        source: EngineError::Driver { operation: "floor", reason: "no packet came through".into() },
    };
    Ok((record.latency_ns.ok_or_else(nothing)?, made_of))
}

/// The same engines, sizes and protocols, between the ends of the veth pair.
fn joined(
    options: &RunOptions,
    from_ns: &str,
    to_ns: &str,
    from: &str,
    to: &str,
) -> Result<RunOptions, Failure> {
    let mut own = options.clone();
    let addresses =
        |text: &str| text.parse().map_err(|error| crate::suite::impossible("--dst-ip", format!("{error}")));
    own.output.progress = false;
    own.load.warmup = Duration::from_millis(20);
    own.tx.tx_netns = Some(from_ns.to_owned());
    own.tx.tx_device = Some("floor0".into());
    own.tx.tx_queue = 0;
    own.rx.rx_netns = Some(to_ns.to_owned());
    own.rx.rx_device = Some("floor1".into());
    own.traffic.src_ip = Some(addresses(from)?);
    own.traffic.dst_ip = addresses(to)?;
    own.traffic.src_mac = None;
    own.traffic.dst_mac = None;
    own.traffic.next_hop = None;
    let (_, rx_engine) = check::engines(&own);
    if rx_engine == RxEngine::Socket {
        // What a Service has made of the address and the port is not made here.
        own.rx.rx_port = Some(own.traffic.dst_port);
    }
    Ok(own)
}

/// A network namespace without a name: it is gone, with its devices, when its thread is.
struct Namespace {
    task: i32,
    path: String,
    orders: Option<Outbox<(String, Vec<String>)>>,
    answers: Inbox<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn make() -> Result<Self, Failure> {
        let (orders, inbox) = mpsc::channel::<(String, Vec<String>)>();
        let (tell, answers) = mpsc::channel();
        let (tell_task, task) = mpsc::channel();
        let thread = thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().as_raw());
            // Nobody listening: the command has ended.
            if tell_task.send(made).is_err() || made.is_err() {
                return;
            }
            // A program started here is in this thread's namespace.
            for (program, words) in inbox {
                let _ = tell.send(run(&program, &words));
            }
        });
        let refused = |reason: String| refused("a network namespace", reason);
        let task = task.recv().map_err(|error| refused(error.to_string()))?;
        let task = task.map_err(|error| refused(error.to_string()))?;
        let path = format!("/proc/{}/task/{task}/ns/net", getpid());
        if !Path::new(&path).exists() {
            return Err(refused(format!("{path} is not there")));
        }
        Ok(Namespace { task, path, orders: Some(orders), answers, thread: Some(thread) })
    }

    fn ip(&self, words: &str) -> Result<(), Failure> {
        self.run("ip", words)
    }

    fn run(&self, program: &str, words: &str) -> Result<(), Failure> {
        let gone = || refused("a network namespace", "its thread has ended".into());
        let order = (program.to_owned(), words.split_whitespace().map(str::to_owned).collect());
        self.orders.as_ref().ok_or_else(gone)?.send(order).map_err(|_| gone())?;
        self.answers.recv().map_err(|_| gone())?.map_err(|reason| refused("setting up a veth pair", reason))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn run(program: &str, words: &[String]) -> Result<(), String> {
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn refused(operation: &'static str, reason: String) -> Failure {
    Failure::Engine { end: "floor", source: EngineError::Driver { operation, reason } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::HEADERS;
    use crate::traffic::TrafficSpec;

    #[test]
    fn in_memory_every_packet_is_timed_and_takes_some_time() {
        let sources = ("10.0.0.1".parse().unwrap(), "1000-2000".parse().unwrap());
        let destinations = ("10.0.0.2".parse().unwrap(), "9000".parse().unwrap());
        let spec = TrafficSpec {
            flows: crate::flow::draw(4, sources, destinations).unwrap(),
            syn_flows: 0,
            popularity: Default::default(),
            streams: 2,
            protocols: "udp,tcp-stream".parse().unwrap(),
            sizes: "128".parse().unwrap(),
            headers: HEADERS,
        };
        let mut traffic = Traffic::new(&spec, 1).unwrap();
        let latency = in_memory(&mut traffic, Duration::from_millis(50), PPS).unwrap();
        let sent: u64 = traffic.tallies().iter().map(|tally| tally.sent).sum();
        assert_eq!(latency.samples, sent);
        assert!(latency.min > 0 && latency.min <= latency.p50 && latency.p50 <= latency.max, "{latency:?}");
        assert!(sent > 10, "{sent}");
    }
}
