//! Compiles the XDP programs of `bpf/` with clang into `OUT_DIR`, from where `include_bytes!` embeds them.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const PROGRAMS: [&str; 2] = ["penstock", "live_frames"];

fn main() {
    let sources = PathBuf::from("bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-changed=bpf");
    for program in PROGRAMS {
        let source = sources.join(format!("{program}.bpf.c"));
        let status = Command::new(&clang)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c"])
            .arg(&source)
            .arg("-o")
            .arg(out.join(format!("{program}.bpf.o")))
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => fail(&format!("clang could not compile {}: {status}", source.display())),
            Err(error) => fail(&format!(
                "cannot run {}: {error}. The XDP program needs clang 11 or later (Debian: apt-get install clang); \
                 CLANG names another",
                clang.to_string_lossy()
            )),
        }
    }
}

fn fail(message: &str) -> ! {
    println!("cargo:warning={message}");
    exit(1)
}
