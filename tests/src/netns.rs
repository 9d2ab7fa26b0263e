//! Network namespaces that live exactly as long as their [`Namespace`], and the broom for those that did not.
//!
//! A namespace is a thread: [`Namespace::run`] sends it a closure, which then sees that namespace's devices and
//! sockets and nobody else's. Threads and processes started from there live in it too.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where iproute2 keeps named namespaces.
const NAMED: &str = "/run/netns";

type Job = Box<dyn FnOnce() + Send>;

/// True once [`sweep_for_good`] has begun: nothing may be created after it.
static CLOSED: Mutex<bool> = Mutex::new(false);

/// A named network namespace with a thread in it. Dropping it ends the processes inside and deletes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Creates the namespace `name` and brings its loopback device up.
    ///
    /// # Errors
    /// When not root, or when the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        let closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!*closed, "the run is being ended: no new namespace {name}");
        run("ip", &["netns", "add", name])?;
        let mut namespace = Namespace { name: name.to_owned(), jobs: None, thread: None };
        drop(closed);
        let file = File::open(Path::new(NAMED).join(name)).with_context(|| format!("namespace {name}"))?;
        let (jobs, queue) = channel();
        let (entered, answer) = channel();
        let thread = thread::Builder::new().name(format!("ns {name}")).spawn(move || {
            let result = setns(&file, CloneFlags::CLONE_NEWNET);
            let inside = result.is_ok();
            if entered.send(result).is_ok() && inside {
                serve(&queue);
            }
        })?;
        namespace.thread = Some(thread);
        answer.recv()?.with_context(|| format!("entering namespace {name}"))?;
        namespace.jobs = Some(jobs);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on the namespace's own thread and waits for what it returns. A panic in it goes on here.
    ///
    /// # Errors
    /// When the namespace's thread has ended.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, answer) = channel::<Result<T, Box<dyn Any + Send>>>();
        let job: Job = Box::new(move || {
            // The receiver waits below; it can only be gone when its thread is, and then nobody wants the answer.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        });
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .context("the namespace's thread has ended")?;
        match answer.recv().context("the namespace's thread has ended")? {
            Ok(value) => Ok(value),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace's thread has ended or the system has no thread to give.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        // A new thread inherits the namespace of the one that starts it.
        Ok(self.run(|| thread::Builder::new().spawn(work))??)
    }

    /// Starts a program inside the namespace. The kernel kills it when this process dies, however it dies.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, program: &Path, arguments: &[String], output: File) -> Result<Child> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let what = program.display().to_string();
        self.run(move || command.spawn())?.with_context(|| format!("starting {what}"))
    }

    /// Runs `ip` with these words inside the namespace.
    ///
    /// # Errors
    /// With the words and what `ip` said.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut arguments = vec!["-n", self.name.as_str()];
        arguments.extend(words.split_whitespace());
        run("ip", &arguments)
    }

    /// Runs a program inside the namespace to its end.
    ///
    /// # Errors
    /// With its name and what it said.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let program = program.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        self.run(move || run(&program, &arguments.iter().map(String::as_str).collect::<Vec<_>>()))?
    }

    /// Writes a value under `/proc/sys/net` of the namespace: `sysctl("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// When there is no such key or the kernel refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        let (value, place) = (value.to_owned(), path.display().to_string());
        self.run(move || std::fs::write(path, value))?
            .with_context(|| format!("{place} in namespace {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It only runs jobs whose panics are caught; there is nothing to learn from its end.
            let _ = thread.join();
        }
        if *CLOSED.lock().unwrap_or_else(PoisonError::into_inner) {
            // Another thread sweeps all of them away.
            return;
        }
        if let Err(error) = remove(&self.name) {
            crate::say(&format!("could not remove namespace {}: {error:#}", self.name));
        }
    }
}

/// Removes every namespace whose name begins with `prefix`, with the processes in it: what a run that was killed
/// has left behind. Returns their names.
///
/// # Errors
/// When one cannot be removed.
pub fn sweep(prefix: &str) -> Result<Vec<String>> {
    let names = existing(prefix)?;
    for name in &names {
        remove(name)?;
    }
    Ok(names)
}

/// The same for a process that is about to end: from now on [`Namespace::create`] refuses.
///
/// # Errors
/// When one cannot be removed.
pub fn sweep_for_good(prefix: &str) -> Result<Vec<String>> {
    *CLOSED.lock().unwrap_or_else(PoisonError::into_inner) = true;
    sweep(prefix)
}

/// The namespaces there are whose name begins with `prefix`.
///
/// # Errors
/// When the folder of named namespaces cannot be read.
pub fn existing(prefix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NAMED) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(NAMED),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// With the whole command line and what it said, when it cannot be started or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().with_context(line)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", line(), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn serve(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job();
    }
}

fn remove(name: &str) -> Result<()> {
    // A process keeps its namespace alive after the name is gone, so they go first.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let inside: Vec<i32> = run("ip", &["netns", "pids", name])?
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        // Threads of this process show up as this process where its main thread is inside; it never is.
        if inside.is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "processes {inside:?} in namespace {name} do not end");
        for pid in inside {
            // It may have ended by itself in between; the next look tells.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    run("ip", &["netns", "del", name]).map(drop)
}
