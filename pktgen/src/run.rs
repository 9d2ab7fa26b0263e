//! The commands that send and receive: each checks its options, opens its ends (each on a thread of its own, in its
//! own network namespace), drives them and makes the report.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};

use crate::check;
use crate::drive::{Load, Sent, Shared, collect, transmit};
use crate::ends::{self, SendingEnd};
use crate::engine::EngineError;
use crate::floor;
use crate::meter::Meter;
use crate::options::{
    LoadOptions, OptionsError, ReceiveOptions, RunOptions, RxEngine, RxOptions, SendOptions, TrafficOptions,
    TxEngine, TxOptions,
};
use crate::plot::PlotError;
use crate::progress::{self, Ends, Status};
use crate::rate::FCS;
use crate::report::{Report, RxReport, TxReport, per_second, seconds_between};
use crate::traffic::Traffic;
use crate::trial::TrialRecord;

/// Why a command ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The flags cannot be kept: exit code 2.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// An end failed: exit code 1.
    #[error("{end}: {source}")]
    Engine {
        /// "sender" or "receiver".
        end: &'static str,
        /// How.
        source: EngineError,
    },
    /// A signal ended it: exit code 130.
    #[error("interrupted")]
    Interrupted,
    /// An end has ended without a word: exit code 1.
    #[error("the {0}'s thread has ended")]
    Gone(&'static str),
    /// A trial's sums do not hold: exit code 1.
    #[error("a trial's sums do not hold: {0:?}")]
    Sums(Box<TrialRecord>),
    /// A report cannot be drawn: exit code 1.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A file failed: exit code 1.
    #[error("{file}: {reason}")]
    File {
        /// Its path.
        file: String,
        /// How.
        reason: String,
    },
}

impl Failure {
    /// The process's exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Options(_) | Failure::Engine { source: EngineError::Options(_), .. } => 2,
            Failure::Interrupted => 130,
            Failure::Engine { .. }
            | Failure::File { .. }
            | Failure::Gone(_)
            | Failure::Sums(_)
            | Failure::Plot(_) => 1,
        }
    }

    pub(crate) fn of(end: &'static str) -> impl Fn(EngineError) -> Failure {
        move |source| Failure::Engine { end, source }
    }
}

/// `pktgen run`: both ends in this process.
///
/// # Errors
/// [`Failure`] where the options are impossible or an end fails.
pub fn run(options: &RunOptions, shared: &Shared) -> Result<Report, Failure> {
    check::run(options)?;
    let (tx_engine, rx_engine) = check::engines(options);
    let traffic = numbered(&options.traffic);
    let family = Some(traffic.dst_ip.first());
    let floor = if options.floor { Some(floor::measure(options, shared, &Status::default())?) } else { None };
    let mut rx_options = options.rx.clone();
    rx_options.rx_port = rx_options.rx_port.or(Some(traffic.dst_port));

    let (sent, received) = thread::scope(|scope| {
        let (ready, wait) = mpsc::channel();
        let receiver = scope.spawn(|| {
            let end = receiving_end(
                rx_engine,
                &rx_options,
                traffic.run_id,
                family,
                shared,
                Some(ready),
                |meter, now| shared.is_drained(meter, now, options.drain),
            );
            if end.is_err() {
                shared.stop();
            }
            end
        });
        if wait.recv().is_err() {
            // The receiver ended before it was ready: its error says why.
            return (Ok(None), join(receiver));
        }
        let sender = scope.spawn(|| {
            let end = sending_end(tx_engine, &options.tx, &traffic, &options.load, shared);
            shared.end_sending();
            end
        });
        progress::watch(shared, Ends::Both, options.output.progress, || {
            sender.is_finished() && receiver.is_finished()
        });
        (join(sender).map(Some), join(receiver))
    });
    let sent = sent.map_err(Failure::of("sender"));
    let received = received.map_err(Failure::of("receiver"))?;
    let mut report = Report::new("run", shared.is_interrupted());
    report.run_id = traffic.run_id;
    report.floor = floor;
    if let Some(sent) = sent? {
        report.judge(&received.meter, Some(sent.traffic.tallies()), received.report);
        report.notes.extend(sent.notes());
        report.tx = Some(sent.report);
    }
    Ok(report)
}

/// `pktgen send`: the sending end alone.
///
/// # Errors
/// As [`run`].
pub fn send(options: &SendOptions, shared: &Shared) -> Result<Report, Failure> {
    let engine = options.tx.tx_engine.unwrap_or(TxEngine::Xdp);
    check::sending(engine, &options.tx, &options.traffic, &options.load)?;
    let traffic = numbered(&options.traffic);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| sending_end(engine, &options.tx, &traffic, &options.load, shared));
        progress::watch(shared, Ends::Sender, options.output.progress, || sender.is_finished());
        join(sender)
    });
    let sent = sent.map_err(Failure::of("sender"))?;
    let mut report = Report::new("send", shared.is_interrupted());
    report.run_id = traffic.run_id;
    report.notes.extend(sent.notes());
    report.tx = Some(sent.report);
    Ok(report)
}

/// `pktgen receive`: the receiving end alone.
///
/// # Errors
/// As [`run`].
pub fn receive(options: &ReceiveOptions, shared: &Shared) -> Result<Report, Failure> {
    let engine = options.rx.rx_engine.unwrap_or(RxEngine::Xdp);
    check::receiving(engine, &options.rx, None)?;
    let start = crate::clock::monotonic_ns();
    let over = |limit: Option<std::time::Duration>, since: u64, now: u64| {
        limit.is_some_and(|limit| u128::from(now.saturating_sub(since)) >= limit.as_nanos())
    };
    let received = thread::scope(|scope| {
        let (ready, wait) = mpsc::channel();
        let receiver = scope.spawn(|| {
            receiving_end(engine, &options.rx, options.run_id, None, shared, Some(ready), |meter, now| {
                shared.stopping()
                    || over(options.duration, start, now)
                    || options.count.is_some_and(|count| meter.received >= count)
                    || meter.last.is_some_and(|last| over(options.idle, last, now))
            })
        });
        if wait.recv().is_ok() {
            progress::ready();
        }
        progress::watch(shared, Ends::Receiver, options.output.progress, || receiver.is_finished());
        join(receiver)
    });
    let received = received.map_err(Failure::of("receiver"))?;
    let mut report = Report::new("receive", shared.is_interrupted());
    report.judge(&received.meter, None, received.report);
    Ok(report)
}

/// What a sending thread brings back.
struct SentEnd {
    traffic: Traffic,
    report: TxReport,
}

impl SentEnd {
    fn notes(&self) -> Vec<String> {
        let raised = self.traffic.raised().iter();
        let mut notes: Vec<_> = raised
            .map(|(asked, made)| {
                format!("frames of {asked} bytes were raised to {made}: headers and stamp need it")
            })
            .collect();
        notes.extend(self.report.notes());
        notes
    }
}

/// What a receiving thread brings back.
struct ReceivedEnd {
    meter: Meter,
    report: RxReport,
}

/// The whole life of a sending thread.
fn sending_end(
    engine: TxEngine,
    tx: &TxOptions,
    options: &TrafficOptions,
    load: &LoadOptions,
    shared: &Shared,
) -> Result<SentEnd, EngineError> {
    let mut end = SendingEnd::open(engine, tx, options)?;
    let mut traffic = end.traffic(options)?;
    let load = Load {
        rate: load.packets_per_second(traffic.mean_frame())?,
        limit: load.limit(),
        count: load.count,
        warmup: load.warmup,
        catch_up: load.catch_up,
    };
    let result = transmit(&mut *end.sender, &mut traffic, &load, shared);
    let (mode, device) = (std::mem::take(&mut end.mode), end.device());
    let lost_at_sender = end.sender.close();
    let sent = result?;
    let report = TxReport {
        asked_rate: load.rate.map_or("max".into(), |rate| format!("{rate}pps")),
        asked_pps: load.rate,
        asked_packets: load.asked(),
        lost_at_sender,
        device_dropped: device.dropped(),
        frame_sizes: traffic.sizes(),
        ..sent_report(engine, tx, mode, &sent)
    };
    Ok(SentEnd { traffic, report })
}

/// The figures of a sender, in the report's form.
pub(crate) fn sent_report(engine: TxEngine, tx: &TxOptions, mode: String, sent: &Sent) -> TxReport {
    let seconds = seconds_between(sent.first, sent.last);
    TxReport {
        engine: engine.to_string(),
        device: tx.tx_device.clone(),
        netns: tx.tx_netns.clone(),
        mode,
        sent: sent.packets,
        bytes: sent.bytes,
        seconds,
        pps: per_second(sent.packets as f64, seconds),
        bps: per_second((sent.bytes + sent.packets * FCS as u64) as f64 * 8.0, seconds),
        forfeited: sent.forfeited,
        warmup_sent: sent.warmup,
        ..TxReport::default()
    }
}

/// The whole life of a receiving thread. Says `ready` once packets can come.
fn receiving_end(
    engine: RxEngine,
    rx: &RxOptions,
    run: Option<u16>,
    family: Option<IpAddr>,
    shared: &Shared,
    ready: Option<mpsc::Sender<()>>,
    done: impl Fn(&Meter, u64) -> bool,
) -> Result<ReceivedEnd, EngineError> {
    let (mut receiver, mode) = ends::receiver(engine, rx, family)?;
    if let Some(ready) = ready {
        // Nobody listening any more means that the run has been given up, and `done` will say so.
        let _ = ready.send(());
    }
    let mut meter = Meter::new(run);
    let result = collect(&mut *receiver, &mut meter, shared, done);
    let receiver_overflow = receiver.overflow();
    receiver.close();
    result?;
    let report = RxReport {
        engine: engine.to_string(),
        device: rx.rx_device.clone(),
        netns: rx.rx_netns.clone(),
        mode,
        receiver_overflow,
        ..RxReport::default()
    };
    Ok(ReceivedEnd { meter, report })
}

/// The same options with the run's number fixed.
pub(crate) fn numbered(options: &TrafficOptions) -> TrafficOptions {
    TrafficOptions { run_id: Some(options.run()), ..options.clone() }
}

/// A thread's result; its panic goes on here.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
