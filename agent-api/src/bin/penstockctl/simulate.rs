//! `simulate`: compiles manifests and hands them, as JSON in a file of its own, to `penstockd simulate`.
//!
//! The pipeline is penstockd's, and penstockd links no Kubernetes; this is where they meet.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_api::tools::agent::prepare;
use policy_compiler::intent::Intent;

use crate::answer::{Answer, Fault, NEGATIVE, Output};
use crate::arguments::Simulate;

pub(crate) fn simulate(arguments: &Simulate, output: Output) -> Result<Answer, Fault> {
    let Simulate { manifests, node, pcap, out, ingress_port, rest } = arguments;
    let (intent, _) = prepare(&manifests.folder, node, &manifests.network.options())?;
    let intent = IntentFile::write(&intent)?;
    let program = penstockd();
    let mut command = Command::new(&program);
    command.arg("simulate").arg("--intent").arg(&intent.path).arg("--pcap").arg(pcap).arg("--out").arg(out);
    for port in ingress_port {
        command.arg("--ingress-port").arg(port);
    }
    if output == Output::Json {
        command.args(["--output", "json"]);
    }
    let status = command.args(rest).status().map_err(|error| Fault::file(Path::new(&program), error))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(Answer::silent(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(NEGATIVE)))
}

/// penstockd beside this program; otherwise whichever PATH finds.
fn penstockd() -> OsString {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("penstockd"));
    beside.filter(|path| path.is_file()).map_or_else(|| "penstockd".into(), PathBuf::into_os_string)
}

/// An intent in a file that only we can read; removed with its owner.
struct IntentFile {
    path: PathBuf,
}

impl IntentFile {
    fn write(intent: &Intent) -> Result<Self, Fault> {
        let name = format!("penstock-intent-{}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Of a dead process with our number: `create_new` below refuses a link that others have put there.
        let _ = fs::remove_file(&path);
        let failed = |error: std::io::Error| Fault::file(&path, error);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let written = IntentFile { path: path.clone() };
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, intent).map_err(std::io::Error::from).map_err(failed)?;
        file.flush().map_err(failed)?;
        Ok(written)
    }
}

impl Drop for IntentFile {
    fn drop(&mut self) {
        // Nothing depends on it; temporary folders are swept.
        let _ = fs::remove_file(&self.path);
    }
}
