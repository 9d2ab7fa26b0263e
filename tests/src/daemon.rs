//! Programs under test: found, started in a namespace, watched, ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Namespace;
use crate::wait_for;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the program `name` of this build inside `namespace`; what it says goes to `log`, from the beginning.
    ///
    /// # Errors
    /// When it has not been built or cannot be started.
    pub fn start(namespace: &Namespace, name: &str, arguments: &[String], log: &Path) -> Result<Self> {
        Daemon::start_program(namespace, &binary(name)?, arguments, log)
    }

    /// The same with any program: a path, or a name to be found in `PATH`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(
        namespace: &Namespace,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let output = File::create(log).with_context(|| log.display().to_string())?;
        let child = namespace.start(program, arguments, output)?;
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Ok(Daemon { name, child, log: log.to_owned() })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it writes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `lines` of what it said.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Asks `ready` every 10 ms until it says so.
    ///
    /// # Errors
    /// At once when the program has ended, after `patience` when it is not ready; both with the end of its log.
    pub fn wait_ready(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let what = format!("{} ready", self.name);
        let result = wait_for(&what, patience, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", self.name);
            }
            Ok(ready().then_some(()))
        });
        result.with_context(|| format!("the end of {}:\n{}", self.log.display(), self.tail(15)))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("{} ended", self.name);
        wait_for(&what, patience, || Ok(self.child.try_wait()?))
            .with_context(|| format!("the end of {}:\n{}", self.log.display(), self.tail(15)))
    }

    /// Whether it is still running.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends SIGTERM and waits for it to end.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(patience)
    }

    /// Sends SIGKILL and waits.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.is_running()?, "{} has ended:\n{}", self.name, self.tail(15));
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill and the wait returns at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program `name` of the same build as the running one.
///
/// # Errors
/// When it is not there, with the command that builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = build_folder()?;
    let path = folder.join(name);
    let profile = if folder.ends_with("release") { "make build-release" } else { "make build" };
    ensure!(path.is_file(), "{} is not built: run `{profile}` first", path.display());
    Ok(path)
}

/// `target/<profile>` of the running program.
///
/// # Errors
/// When the running program's own path is unknown.
pub fn build_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().context("the running program has no folder")?;
    // Test binaries are in `target/<profile>/deps`.
    Ok(if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder).to_owned()
    } else {
        folder.to_owned()
    })
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a program that ran to its end has said.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs the program `name` of this build to its end.
///
/// # Errors
/// When it has not been built or cannot be started; not when it fails.
pub fn run_binary(name: &str, arguments: &[&str]) -> Result<Ended> {
    let output = Command::new(binary(name)?).args(arguments).stdin(Stdio::null()).output()?;
    Ok(Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
