//! The bench's topologies work: penstockd and the kernel forward what `make bench-peers` has them forward. As root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something fails, and says what it did"
)]

#[test]
fn penstockd_and_the_kernel_do_what_the_bench_says_they_do() {
    for line in tests::bench::smoke("peers").unwrap() {
        println!("{line}");
    }
}
