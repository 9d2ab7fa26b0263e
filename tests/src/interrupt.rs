//! SIGINT and SIGTERM: everything that was made is removed, then the process ends.
//!
//! The thread that waits for them does so by itself, since the one that works may be in the middle of anything; that
//! one stops at its next [`point`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::lab;

/// True once a signal has come.
static ENDING: AtomicBool = AtomicBool::new(false);
/// How often removing is tried: what was being made when the signal came may be in the way at first.
const TRIES: usize = 10;

/// Watches for SIGINT and SIGTERM from now on, for the run with `tag`.
///
/// # Errors
/// When the system gives no thread or no handler.
pub fn watch(tag: &'static str) -> Result<()> {
    let (ready, answer) = channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Ok(number) = first_signal(&ready) {
            end(tag, number);
        }
    })?;
    answer.recv().context("the thread for signals ended")?.context("signal handlers")
}

/// Where the working thread stops for good once a signal has come: the other one ends the process.
pub fn point() {
    while ENDING.load(Ordering::Acquire) {
        std::thread::park();
    }
}

/// Waits for a signal and returns its number. Says through `ready` whether it can.
fn first_signal(ready: &Sender<std::io::Result<()>>) -> std::io::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let wait = || {
        let runtime = runtime?;
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            // Whoever asked waits for this answer.
            let _ = ready.send(Ok(()));
            Ok(tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
            })
        })
    };
    wait().inspect_err(|error: &std::io::Error| {
        let _ = ready.send(Err(std::io::Error::new(error.kind(), error.to_string())));
    })
}

fn end(tag: &str, number: i32) -> ! {
    ENDING.store(true, Ordering::Release);
    crate::say("interrupted: removing everything");
    let mut result = lab::clean_up(tag);
    for _ in 1..TRIES {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        result = lab::clean_up(tag);
    }
    if let Err(error) = result {
        crate::say(&format!("something is left; the next run removes it: {error:#}"));
    }
    std::process::exit(128 + number)
}
