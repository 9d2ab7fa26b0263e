//! Options of the commands that measure by many trials.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Engine, Form, LinkSpeed, RxOptions, TrafficOptions, TxOptions, duration, share};
use crate::mix::SizeMix;
use crate::mlr::Goal;
use crate::rate::Rate;

/// What all commands of many trials have in common.
#[derive(Debug, Clone, Args)]
pub struct BenchOptions {
    /// How to send and receive, where --tx-engine or --rx-engine does not say otherwise [default: xdp]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// Profile to take options from (TOML); what is given on the command line goes first
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// What to send.
    #[command(flatten)]
    pub traffic: TrafficOptions,
    /// How often, how long, how fast.
    #[command(flatten)]
    pub trials: Trials,
    /// From where.
    #[command(flatten)]
    pub tx: TxOptions,
    /// To where.
    #[command(flatten)]
    pub rx: RxOptions,
    /// What to tell.
    #[command(flatten)]
    pub output: BenchOutput,
}

/// How trials are made.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Trials")]
pub struct Trials {
    /// Length of a trial; RFC 2544 asks for 60s; with --goal the goals say it, but for the sender's own highest rate
    /// [default: 60s; NDR and PDR: 1s; certify: 10s, --quick: 200ms]
    #[arg(long, value_name = "TIME", value_parser = positive)]
    pub trial: Option<Duration>,
    /// How often each figure is measured; 3 or more let `compare` know the noise
    /// [default: RFC 2544's: throughput and loss 1, latency 20, back-to-back 50; search: 1; certify: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeats: Option<u32>,
    /// How near the bounds of a searched figure must come, as a share of it; with --goal the goals say it
    /// [default: 1%; NDR and PDR: 0.5%, certify --quick: 5%]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub resolution: Option<f64>,
    /// The highest load [default: as fast as the sender can, which is measured first]
    #[arg(long, value_name = "RATE")]
    pub max_rate: Option<Rate>,
    /// The lowest load
    #[arg(long, value_name = "RATE", default_value = "1kpps")]
    pub min_rate: Rate,
    /// Speed of the link that a rate in percent is taken of: 10Gbps
    #[arg(long, value_name = "RATE")]
    pub link_speed: Option<LinkSpeed>,
    /// Send this long first in each trial without measuring
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub warmup: Duration,
    /// How far the sender may fall behind its load and catch up by a burst; what is older is given up, which searches
    /// count as lost [default: 2ms; live 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub catch_up: Option<Duration>,
    /// How long to wait after each trial for what is still on its way; ends early when everything has come
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub drain: Duration,
    /// How long to rest between trials
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub pause: Duration,
    /// Sum of the trials' lengths after which one search is given up
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = positive)]
    pub time_limit: Duration,
}

impl Trials {
    /// The resolution of RFC 2544's searches: as asked, or one percent; never above a half.
    pub fn near(&self) -> f64 {
        self.resolution.unwrap_or(0.01).min(0.5)
    }

    /// The trial's length: as asked, or RFC 2544's 60 s.
    pub fn length(&self) -> Duration {
        self.trial.unwrap_or(Duration::from_secs(60))
    }
}

/// What is told, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct BenchOutput {
    /// Form of the report on standard output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
    /// Directory to write report.html, report.json, figures.csv, trials.csv and the plots (SVG, PNG) to; made if need be
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Progress on standard error, a line a second [default: where that is a terminal, in place]
    #[arg(long)]
    pub progress: bool,
    /// Do not measure the instrument's own latency first
    #[arg(long)]
    pub no_floor: bool,
}

/// A test of RFC 2544.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// Section 26.1: the highest rate without loss.
    Throughput,
    /// Section 26.2: latency at that rate.
    Latency,
    /// Section 26.3: loss from the highest rate down.
    Loss,
    /// Section 26.4 and RFC 9004: the longest burst at the highest rate without loss.
    BackToBack,
    /// All four.
    All,
}

/// Options of `pktgen rfc2544`.
#[derive(Debug, Clone, Args)]
pub struct Rfc2544Options {
    /// Tests to make
    #[arg(long, value_name = "TEST", value_delimiter = ',', default_value = "all", help_heading = "Trials")]
    pub test: Vec<Test>,
    /// Frame sizes, FCS included, one after the other; imix is the simple Internet mix
    /// [default: RFC 2544's 64,128,256,512,1024,1280,1518, as far as headers and MTU allow]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = one_size, help_heading = "Trials")]
    pub sizes: Vec<SizeMix>,
    /// Step of the loss test, as a share of the highest rate; RFC 2544 allows 10% at most
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = share, help_heading = "Trials")]
    pub loss_step: f64,
    /// Longest burst of the back-to-back test, as time at the highest rate; RFC 2544 asks for 2s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = positive, help_heading = "Trials")]
    pub burst: Duration,
    /// The rest.
    #[command(flatten)]
    pub bench: BenchOptions,
}

/// Options of `pktgen search`.
#[derive(Debug, Clone, Args)]
pub struct SearchOptions {
    /// Goal to search for, again and again: ndr, pdr or rfc2544, then keys that differ: pdr,loss=1%,exceed=50%,
    /// initial=1s,final=1s,sum=21s,width=0.5%,name=TEXT [default: ndr and pdr]
    #[arg(long, value_name = "GOAL", help_heading = "Search")]
    pub goal: Vec<Goal>,
    /// The rest.
    #[command(flatten)]
    pub bench: BenchOptions,
}

impl SearchOptions {
    /// The goals: as asked, or NDR and PDR, whose trials are as long as --trial says where it does.
    pub fn goals(&self) -> Vec<Goal> {
        if !self.goal.is_empty() {
            return self.goal.clone();
        }
        let scaled = |goal: Goal| match self.bench.trials.trial {
            Some(trial) => Goal { initial: trial, last: trial, sum: trial * 21, ..goal },
            None => goal,
        };
        let width = self.bench.trials.resolution.map_or(Goal::ndr().width, |near| near.min(0.5));
        [Goal::ndr(), Goal::pdr()].map(|goal| Goal { width, ..scaled(goal) }).to_vec()
    }
}

/// Options of `pktgen certify`.
#[derive(Debug, Clone, Args)]
pub struct CertifyOptions {
    /// Short trials, few repeats and sizes: shows that it works, certifies nothing
    #[arg(long)]
    pub quick: bool,
    /// What is certified, in words, for the report's head
    #[arg(long, value_name = "TEXT")]
    pub node: Option<String>,
    /// Frame sizes, FCS included; the simple Internet mix is always among them
    /// [default: RFC 2544's as far as headers and MTU allow; --quick: the smallest]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = one_size, help_heading = "Trials")]
    pub sizes: Vec<SizeMix>,
    /// Shares of the NDR at which latency is taken
    #[arg(
        long,
        value_name = "SHARES",
        value_delimiter = ',',
        default_value = "10%,50%,90%",
        value_parser = share,
        help_heading = "Trials"
    )]
    pub fractions: Vec<f64>,
    /// The rest.
    #[command(flatten)]
    pub bench: BenchOptions,
}

/// Options of `pktgen compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareOptions {
    /// Report before (report.json of rfc2544, search or certify)
    #[arg(value_name = "A.json")]
    pub before: PathBuf,
    /// Report after
    #[arg(value_name = "B.json")]
    pub after: PathBuf,
    /// Difference of medians that is nobody's concern
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    pub threshold: f64,
    /// Probability of taking noise for a difference
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share)]
    pub alpha: f64,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
}

/// One frame size, or the simple Internet mix.
fn one_size(text: &str) -> Result<SizeMix, String> {
    let mix: SizeMix = text.parse().map_err(|error: crate::mix::MixError| error.to_string())?;
    if text == "imix" || mix.entries().len() == 1 {
        Ok(mix)
    } else {
        Err(format!("`{text}` is not one frame size"))
    }
}

/// A time above zero.
fn positive(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err("it must be above 0".into()),
        Err(error) => Err(error.to_string()),
    }
}
