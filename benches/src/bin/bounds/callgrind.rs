//! callgrind around one row: instructions and calls of the allocator, within [`counted_by_callgrind`] alone.
//!
//! valgrind shows every program the same CPU, a Haswell, where the machine has AVX2: libc's `memcpy` and the like are the same
//! on all such machines. Addresses and the environment are the same in each run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What callgrind saw of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// What the row counts by: packets, mostly.
    pub(crate) packets: u64,
    /// Instructions.
    pub(crate) instructions: u64,
    /// Calls of the heap allocator for memory.
    pub(crate) allocations: u64,
}

/// Functions of libc that answer with memory.
const ALLOCATORS: [&str; 7] =
    ["malloc", "calloc", "realloc", "memalign", "aligned_alloc", "posix_memalign", "reallocarray"];

/// Does `work`, which answers with its packets. callgrind counts from here on and stops at the end: its name is the switch.
#[inline(never)]
pub(crate) fn counted_by_callgrind(work: &mut dyn FnMut() -> usize) -> usize {
    // The answer passes through memory, or the call would become a jump and this function no frame.
    std::hint::black_box(work())
}

/// Counts a row of `program`; the profile stays in `folder`.
pub(crate) fn count(program: &Path, row: &str, folder: &Path) -> Result<Count> {
    let profile = folder.join(format!("{}.out", row.replace('/', "-")));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--vgdb=no", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_by_callgrind*")
        .args(["--compress-strings=no", "--compress-pos=no", "--dump-line=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(["--work", row]);
    // The environment lies on the stack, in front of everything else there.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let output = command.output().context("valgrind (install it with: deploy/deps.sh bounds)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}:\n{}", output.status, said.trim_end());
    let printed = String::from_utf8_lossy(&output.stdout);
    let packets =
        printed.trim().parse().with_context(|| format!("no number of packets: \"{}\"", printed.trim()))?;
    ensure!(packets > 0, "it did nothing");
    let text = std::fs::read_to_string(&profile)
        .with_context(|| format!("callgrind's profile {}", profile.display()))?;
    let (instructions, allocations) = read(&text)?;
    ensure!(
        instructions > 0,
        "callgrind has not seen it: is `counted_by_callgrind` still a function of its own?"
    );
    Ok(Count { packets, instructions, allocations })
}

/// Instructions and allocations of a profile ("Callgrind Format Specification" in valgrind's manual; without compressed names).
fn read(profile: &str) -> Result<(u64, u64)> {
    let mut total = None;
    let mut allocations = 0;
    let mut callee = "";
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if let Some(call) = line.strip_prefix("calls=") {
            let times = call.split(' ').next().unwrap_or_default();
            let times: u64 = times.parse().with_context(|| format!("calls of {callee}: \"{line}\""))?;
            allocations += if is_allocator(callee) { times } else { 0 };
        } else if let Some(number) = line.strip_prefix("totals:") {
            let number = number.trim();
            total = Some(number.parse().with_context(|| format!("totals of callgrind: \"{number}\""))?);
        }
    }
    Ok((total.context("a profile of callgrind without totals")?, allocations))
}

/// Names of a recursion end in `'2`; libc has some functions twice.
fn is_allocator(function: &str) -> bool {
    let name = function.split('\'').next().unwrap_or_default();
    ALLOCATORS.contains(&name.strip_prefix("__libc_").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_allocator_are_told_from_others() {
        let profile = "events: Ir\nfn=a\n0 12\ncfi=x\ncfn=malloc\ncalls=3 0 \n0 90\ncfn=free\ncalls=5 0\n0 1\n\
                       fn=malloc\n0 90\ncfn=__libc_calloc'2\ncalls=1 0\n0 3\ntotals: 106\n";
        assert_eq!(read(profile).unwrap(), (106, 4));
    }

    #[test]
    fn a_profile_cut_off_is_no_count_of_zero() {
        assert!(read("events: Ir\nfn=a\n0 12\n").is_err());
        assert!(read("totals: many\n").is_err());
        assert!(read("cfn=malloc\ncalls=some 0\ntotals: 1\n").is_err());
    }
}
