//! `make bench-memif`: see [`benches::memif`].

use std::process::ExitCode;

fn main() -> ExitCode {
    benches::memif::main()
}
