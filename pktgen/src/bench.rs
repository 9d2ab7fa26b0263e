//! [`Bench`]: the two ends, opened once, and trial after trial between them.
//!
//! ```text
//!   command ── order ──► sender thread   (own namespace, own core, engine open)
//!       │                     │ device under test
//!       └───── order ──► receiver thread (the same), ready before the sender begins
//! ```
//!
//! Each trial has a run number of its own, so that what is left over from one is never counted in the next.

use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver as Inbox, RecvTimeoutError, Sender as Outbox};
use std::thread;
use std::time::{Duration, Instant};

use crate::check;
use crate::drive::{Load, Sent, Shared, collect, transmit};
use crate::ends::{self, SendingEnd};
use crate::engine::{EngineError, Receiver};
use crate::meter::Meter;
use crate::options::{
    BenchOptions, LoadOptions, OutputOptions, RunOptions, RxEngine, RxOptions, TrafficOptions, TxEngine,
};
use crate::progress::{self, Status};
use crate::report::{Report, RxReport, per_second, seconds_between};
use crate::run::{Failure, join, numbered};
use crate::traffic::StreamTally;
use crate::trial::{Amount, Device, TrialRecord, TrialSpec};

/// How long the sender is given after a trial to see its last packets off.
const SETTLE: Duration = Duration::from_millis(200);

/// How long a receiver looks for packets left over before a trial.
const LEFTOVERS: Duration = Duration::from_millis(50);

/// What both ends are told of a trial.
#[derive(Debug, Clone)]
struct Order {
    traffic: TrafficOptions,
    rate: Option<f64>,
    amount: Amount,
    warmup: Duration,
    catch_up: Option<Duration>,
    drain: Duration,
}

/// What the sender brings back.
struct SentTrial {
    sent: Sent,
    tallies: Vec<StreamTally>,
    sizes: Vec<usize>,
    lost: u64,
    device_dropped: u64,
}

/// What the receiver brings back.
struct ReceivedTrial {
    meter: Meter,
    overflow: u64,
}

/// The ends as they are attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The sender's engine, and how it is attached.
    pub sender: String,
    /// The receiver's.
    pub receiver: String,
    largest_frame: Option<usize>,
}

/// Both ends.
pub struct Bench<'a> {
    options: &'a RunOptions,
    pause: Duration,
    shared: &'a Shared,
    status: &'a Status,
    attached: Attached,
    run: u16,
    sender: Outbox<Order>,
    sent: Inbox<Result<SentTrial, EngineError>>,
    receiver: Outbox<Order>,
    ready: Inbox<()>,
    received: Inbox<Result<ReceivedTrial, EngineError>>,
    measured_before: bool,
}

impl Bench<'_> {
    /// Opens both ends as `options` say, lets `work` make trials with `pause` between them, and closes the ends. The
    /// load of `options` is each trial's own, but for the warm-up.
    ///
    /// # Errors
    /// [`Failure`] where the options are impossible or an end cannot be opened; what `work` gives.
    pub fn with<R>(
        options: &RunOptions,
        pause: Duration,
        shared: &Shared,
        status: &Status,
        work: impl FnOnce(&mut Bench<'_>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        check::run(options)?;
        let (tx_engine, rx_engine) = check::engines(options);
        let mut rx = options.rx.clone();
        rx.rx_port = rx.rx_port.or(Some(options.traffic.dst_port));
        let family = options.traffic.dst_ip.first();
        thread::scope(|scope| {
            let (rx_orders, rx_inbox) = mpsc::channel();
            let (ready_tell, ready) = mpsc::channel();
            let (received_tell, received) = mpsc::channel();
            let (rx_open_tell, rx_open) = mpsc::channel();
            scope.spawn(move || {
                receiver_thread(
                    rx_engine,
                    &rx,
                    family,
                    shared,
                    (rx_open_tell, rx_inbox, ready_tell, received_tell),
                );
            });
            let receiver = opened(&rx_open).map_err(Failure::of("receiver"))?;
            let (tx_orders, tx_inbox) = mpsc::channel();
            let (sent_tell, sent) = mpsc::channel();
            let (tx_open_tell, tx_open) = mpsc::channel();
            scope.spawn(move || {
                sender_thread(tx_engine, options, shared, (tx_open_tell, tx_inbox, sent_tell));
            });
            let (sender, largest_frame) = opened(&tx_open).map_err(Failure::of("sender"))?;
            let attached = Attached {
                sender: format!("{tx_engine}: {sender}"),
                receiver: format!("{rx_engine}: {receiver}"),
                largest_frame,
            };
            let mut bench = Bench {
                options,
                pause,
                shared,
                status,
                attached,
                run: options.traffic.run(),
                sender: tx_orders,
                sent,
                receiver: rx_orders,
                ready,
                received,
                measured_before: false,
            };
            let watcher = scope.spawn(|| progress::watch_trials(shared, status, options.output.progress));
            let result = work(&mut bench);
            status.end();
            join(watcher);
            // The channels close with the bench: both threads end.
            drop(bench);
            result
        })
    }

    /// How the ends are attached.
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    fn order(&mut self, spec: &TrialSpec) -> Order {
        // Not the first run's number plus one a trial: two of these programs may have begun at the same moment.
        self.run = self.run.wrapping_mul(5).wrapping_add(12_345);
        let mut traffic = numbered(&self.options.traffic);
        traffic.run_id = Some(self.run);
        traffic.size = spec.size.clone().or(traffic.size);
        let (warmup, drain) = (self.options.load.warmup, self.options.drain);
        let catch_up = self.options.load.catch_up;
        Order { traffic, rate: spec.rate, amount: spec.amount, warmup, catch_up, drain }
    }

    /// Sleeps between two trials, unless it is to stop.
    fn pause(&mut self) {
        let until = Instant::now() + self.pause;
        while self.measured_before && !self.shared.stopping() && Instant::now() < until {
            thread::sleep((until - Instant::now()).min(Duration::from_millis(20)));
        }
        self.measured_before = true;
    }
}

impl Device for Bench<'_> {
    fn measure(&mut self, spec: &TrialSpec) -> Result<TrialRecord, Failure> {
        self.pause();
        let order = self.order(spec);
        self.shared.renew();
        self.status.begin(&spec.test, spec.rate);
        let run = order.traffic.run_id;
        // An end that is gone has said why on its other channel.
        let _ = self.receiver.send(order.clone());
        let sent = match self.ready.recv() {
            Ok(()) => {
                let _ = self.sender.send(order);
                self.sent.recv().ok()
            }
            Err(_) => None,
        };
        if !matches!(sent, Some(Ok(_))) {
            // The receiver must not wait for what will never come.
            self.shared.stop();
        }
        let received = self.received.recv().map_err(|_| Failure::Gone("receiver"))?;
        let sent = sent.transpose().map_err(Failure::of("sender"))?;
        let received = received.map_err(Failure::of("receiver"))?;
        let sent = sent.ok_or(Failure::Gone("sender"))?;
        if self.shared.stopping() {
            return Err(Failure::Interrupted);
        }
        let record = record(spec, &sent, received, run);
        self.status.done(&record);
        if record.is_conserved() { Ok(record) } else { Err(Failure::Sums(Box::new(record))) }
    }

    fn largest_frame(&self) -> Option<usize> {
        self.attached.largest_frame
    }
}

fn record(spec: &TrialSpec, sent: &SentTrial, received: ReceivedTrial, run: Option<u16>) -> TrialRecord {
    let mut report = Report::new("trial", false);
    report.run_id = run;
    let rx = RxReport { receiver_overflow: received.overflow, ..RxReport::default() };
    report.judge(&received.meter, Some(&sent.tallies), rx);
    let rx = report.rx.unwrap_or_default();
    let packets = sent.sent.packets;
    let seconds = seconds_between(sent.sent.first, sent.sent.last);
    let (asked_seconds, forfeited) = match (spec.amount, spec.rate) {
        (Amount::Time(time), Some(_)) => (Some(time.as_secs_f64()), sent.sent.forfeited),
        (Amount::Time(time), None) => (Some(time.as_secs_f64()), 0),
        (Amount::Packets(_), _) => (None, 0),
    };
    let sizes: Vec<String> = sent.sizes.iter().map(ToString::to_string).collect();
    TrialRecord {
        test: spec.test.clone(),
        size: spec
            .size
            .as_ref()
            .filter(|size| size.to_string() == "imix")
            .map_or(sizes.join("/"), ToString::to_string),
        load_pps: spec.rate,
        asked_seconds,
        asked: packets + forfeited,
        sent: packets,
        seconds,
        sent_pps: per_second(packets as f64, seconds),
        forfeited,
        received: rx.received,
        lost: packets.saturating_sub(rx.received),
        lost_at_sender: sent.lost,
        device_dropped: sent.device_dropped,
        receiver_overflow: rx.receiver_overflow,
        duplicates: rx.duplicates,
        reordered: rx.reordered,
        latency_ns: report.latency_ns,
    }
}

/// What an end says once it is open.
fn opened<T>(open: &Inbox<Result<T, EngineError>>) -> Result<T, EngineError> {
    open.recv().unwrap_or_else(|_| {
        Err(EngineError::Driver {
            operation: "opening",
            reason: "the thread has ended without a word".into(),
        })
    })
}

type SenderChannels = (
    Outbox<Result<(String, Option<usize>), EngineError>>,
    Inbox<Order>,
    Outbox<Result<SentTrial, EngineError>>,
);

/// The whole life of a sending thread.
fn sender_thread(
    engine: TxEngine,
    options: &RunOptions,
    shared: &Shared,
    (open, orders, results): SenderChannels,
) {
    let mut end = match SendingEnd::open(engine, &options.tx, &options.traffic) {
        Ok(end) => end,
        // Nobody listening: the command has ended.
        Err(error) => return drop(open.send(Err(error))),
    };
    let _ = open.send(Ok((end.mode.clone(), end.largest_frame())));
    loop {
        match orders.recv_timeout(Duration::from_millis(5)) {
            Ok(order) => {
                let result = send_trial(&mut end, &order, shared);
                shared.end_sending();
                if results.send(result).is_err() {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => drop(end.sender.settle()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    end.sender.close();
}

fn send_trial(end: &mut SendingEnd, order: &Order, shared: &Shared) -> Result<SentTrial, EngineError> {
    let mut traffic = end.traffic(&order.traffic)?;
    let (limit, count) = match order.amount {
        Amount::Time(time) => (Some(time), None),
        Amount::Packets(packets) => (None, Some(packets)),
    };
    let load = Load { rate: order.rate, limit, count, warmup: order.warmup, catch_up: order.catch_up };
    let (device, lost_before) = (end.device_now(), end.sender.lost());
    let sent = transmit(&mut *end.sender, &mut traffic, &load, shared)?;
    let deadline = Instant::now() + SETTLE;
    while end.sender.settle()? > 0 && Instant::now() < deadline {
        thread::yield_now();
    }
    Ok(SentTrial {
        sent,
        tallies: traffic.tallies().to_vec(),
        sizes: traffic.sizes(),
        lost: end.sender.lost() - lost_before,
        device_dropped: device.dropped(),
    })
}

type ReceiverChannels = (
    Outbox<Result<String, EngineError>>,
    Inbox<Order>,
    Outbox<()>,
    Outbox<Result<ReceivedTrial, EngineError>>,
);

/// The whole life of a receiving thread.
fn receiver_thread(
    engine: RxEngine,
    rx: &RxOptions,
    family: IpAddr,
    shared: &Shared,
    (open, orders, ready, results): ReceiverChannels,
) {
    let mut receiver = match ends::receiver(engine, rx, Some(family)) {
        Ok((receiver, mode)) => {
            let _ = open.send(Ok(mode));
            receiver
        }
        Err(error) => return drop(open.send(Err(error))),
    };
    while let Ok(order) = orders.recv() {
        let result = receive_trial(&mut *receiver, &order, shared, &ready);
        if results.send(result).is_err() {
            break;
        }
    }
    receiver.close();
}

fn receive_trial(
    receiver: &mut dyn Receiver,
    order: &Order,
    shared: &Shared,
    ready: &Outbox<()>,
) -> Result<ReceivedTrial, EngineError> {
    let deadline = Instant::now() + LEFTOVERS;
    let mut leftovers = Meter::new(None);
    while receiver.receive(&mut leftovers, Duration::ZERO)? > 0 && Instant::now() < deadline {}
    let mut meter = Meter::new(order.traffic.run_id);
    meter.prepare(order.traffic.stream_count());
    let overflow_before = receiver.overflow();
    let _ = ready.send(());
    collect(receiver, &mut meter, shared, |meter, now| {
        shared.stopping() || shared.is_drained(meter, now, order.drain)
    })?;
    Ok(ReceivedTrial { meter, overflow: receiver.overflow() - overflow_before })
}

/// The options as those of one run, for what is checked of both alike.
pub fn as_run(options: &BenchOptions) -> RunOptions {
    let trials = &options.trials;
    RunOptions {
        profile: None,
        floor: false,
        engine: options.engine,
        traffic: options.traffic.clone(),
        load: LoadOptions {
            rate: trials.min_rate,
            link_speed: trials.link_speed,
            duration: Some(trials.length()),
            count: None,
            warmup: trials.warmup,
            catch_up: trials.catch_up,
        },
        drain: trials.drain,
        tx: options.tx.clone(),
        rx: options.rx.clone(),
        output: OutputOptions {
            output: options.output.output,
            progress: options.output.progress,
            max_loss: None,
        },
    }
}
