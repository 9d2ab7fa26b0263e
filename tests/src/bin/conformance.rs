//! The conformance runner: see [`tests::conformance::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::conformance::command::main()
}
