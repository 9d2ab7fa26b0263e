//! Devices made ready and restored; nothing lost on the way to a slow receiver. As root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test ends where something fails, and says what it did"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use afxdp_driver::device::{DeviceError, DeviceSetup, SetupPlan, restore_left};
use afxdp_driver::{AfXdpPort, AttachConfig, BATCH_SIZE, Batch, FramePool, HugePages, PacketIo};
use common::{FAR, NEAR, Wire, eventually, frame, ip, output, wired};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// A folder for notes that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("penstock-setup-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }

    fn notes(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All of it, with receive work on any CPU: what matters here is that it is set and undone.
fn plan(notes: &Path) -> SetupPlan {
    SetupPlan { queueing: true, napi_cpus: vec![0], notes: Some(notes.to_owned()) }
}

/// What the setup changes, as the kernel's tools say it.
fn state() -> Vec<String> {
    [NEAR, FAR]
        .iter()
        .flat_map(|device| [format!("ip -d -o link show dev {device}"), format!("ethtool -k {device}")])
        .map(|command| output(&command))
        .collect()
}

#[test]
fn a_device_is_set_up_as_planned_and_is_what_it_was_afterwards() {
    wired();
    let folder = Folder::new("restored");
    let before = state();
    let setup = DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap();
    let report = setup.report();
    assert_eq!(report.omitted, []);
    assert_eq!(
        report.to_string(),
        format!(
            "{NEAR}: gso off, tso off, tx off, queueing pfifo; {FAR}: gso off, tso off, tx off, gro on, napi threaded"
        )
    );
    assert!(setup.holds_up());
    assert!(output(&format!("ip link show dev {NEAR}")).contains("qdisc pfifo"));
    assert!(output(&format!("ethtool -k {FAR}")).contains("generic-receive-offload: on"));
    let threads = output("ps -e -o comm");
    assert!(threads.contains(&format!("napi/{FAR}-")), "no thread for {FAR}: {threads}");
    assert_eq!(folder.notes(), 1);
    setup.restore().unwrap();
    assert_eq!(state(), before);
    assert_eq!(folder.notes(), 0);
}

#[test]
fn what_was_so_before_is_left_so() {
    wired();
    let folder = Folder::new("kept");
    common::run(&format!("ethtool -K {FAR} gro on"));
    common::run(&format!("tc qdisc replace dev {NEAR} root handle 7: pfifo limit 77"));
    let before = (state(), output(&format!("tc qdisc show dev {NEAR}")));
    let setup = DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap();
    assert!(setup.holds_up(), "a discipline of any kind can be stopped");
    setup.restore().unwrap();
    assert_eq!((state(), output(&format!("tc qdisc show dev {NEAR}"))), before);
    // Somebody else's discipline in place of ours stays, too.
    ip(&format!("link set dev {NEAR} down"));
    common::run(&format!("tc qdisc del dev {NEAR} root"));
    ip(&format!("link set dev {NEAR} up"));
    let setup = DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap();
    common::run(&format!("tc qdisc replace dev {NEAR} root handle 8: pfifo limit 88"));
    setup.restore().unwrap();
    assert!(output(&format!("tc qdisc show dev {NEAR}")).contains("limit 88p"));
}

#[test]
fn without_a_plan_the_offloads_alone_are_switched_off() {
    wired();
    let setup = DeviceSetup::apply(NEAR, &SetupPlan::default()).unwrap();
    assert!(!setup.holds_up());
    assert_eq!(
        setup.report().to_string(),
        format!("{NEAR}: gso off, tso off, tx off; {FAR}: gso off, tso off, tx off")
    );
    drop(setup);
}

#[test]
fn what_cannot_be_done_is_said_with_the_command_and_half_of_it_is_undone() {
    wired();
    let plan = SetupPlan { queueing: true, napi_cpus: vec![1000], notes: None };
    let setup = DeviceSetup::apply(NEAR, &plan).unwrap();
    let report = setup.report();
    assert_eq!(report.omitted.len(), 1, "{report}");
    assert_eq!(report.omitted[0].device, FAR);
    assert!(report.omitted[0].command.contains(&format!("ethtool -K {FAR} gro on; echo 1")), "{report:?}");
    assert!(output(&format!("ethtool -k {FAR}")).contains("generic-receive-offload: off"));
    assert!(setup.holds_up(), "the other step is done all the same");
    setup.restore().unwrap();
}

#[test]
fn a_device_has_one_process_that_sets_it_up() {
    wired();
    let folder = Folder::new("taken");
    let first = DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap();
    let error = DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap_err();
    assert!(matches!(error, DeviceError::Taken { .. }), "{error}");
    assert_eq!(error.to_string(), format!("device {NEAR}: is in use by process {}", std::process::id()));
    drop(first);
    DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap().restore().unwrap();
}

#[test]
fn what_a_killed_run_has_left_is_undone_by_the_next() {
    let folder = Folder::new("killed");
    for by_start in [true, false] {
        wired();
        let before = state();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sets_a_device_up_until_killed", "--ignored", "--nocapture"])
            .env("NOTES", &folder.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("the device is set up")));
        assert_eq!(restore_left(&folder.0).unwrap(), Vec::<String>::new(), "it lives");
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        assert_ne!(state(), before);
        if by_start {
            assert_eq!(restore_left(&folder.0).unwrap(), [NEAR]);
        } else {
            // By setting the same device up again: what is restored is what was there before the killed one.
            DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap().restore().unwrap();
        }
        assert_eq!(state(), before, "by_start {by_start}");
        assert_eq!(folder.notes(), 0);
    }
}

/// The child of the test above; inherits its namespace.
#[test]
#[ignore = "run by what_a_killed_run_has_left_is_undone_by_the_next"]
fn sets_a_device_up_until_killed() {
    let folder = PathBuf::from(std::env::var_os("NOTES").unwrap());
    let _setup = DeviceSetup::apply(NEAR, &plan(&folder)).unwrap();
    println!("the device is set up");
    std::thread::sleep(Duration::from_secs(30));
}

#[test]
fn a_note_of_a_device_that_is_gone_goes_too() {
    wired();
    let folder = Folder::new("gone");
    let setup = DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap();
    ip(&format!("link del {NEAR}"));
    setup.restore().unwrap();
    assert_eq!(folder.notes(), 0);
    wired();
    std::mem::forget(DeviceSetup::apply(NEAR, &plan(&folder.0)).unwrap()); // its note is held until the process ends
    ip(&format!("link del {NEAR}"));
    assert_eq!(restore_left(&folder.0).unwrap(), Vec::<String>::new());
}

/// Frames of a burst: far more than a veth's ring (256) and than the default send buffer has room for.
const BURST: usize = 2048;

/// Sends bursts through a port to a receiver whose thread has to wait for the sender's CPU; answers with the frames taken
/// by `send`, counted as lost, and received by the far end's own statistics.
fn burst(setup: &SetupPlan, bursts: usize) -> (u64, u64, u64) {
    wired();
    let mut cpus = CpuSet::new();
    setup.napi_cpus.iter().for_each(|&cpu| cpus.set(cpu).unwrap());
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap(); // this thread alone
    let setup = DeviceSetup::apply(NEAR, setup).unwrap();
    assert_eq!(setup.report().omitted, []);
    let mut pool = FramePool::umem(4 * BURST, HugePages::Prefer).unwrap();
    let config = AttachConfig {
        holds_up: setup.holds_up(),
        rx_ring: 64,
        fill: 64,
        tx_ring: BURST as u32,
        ..AttachConfig::new(NEAR)
    };
    let mut port = AfXdpPort::attach(&config, &pool.umem_handle().unwrap()).unwrap();
    let before = received();
    let mut taken = 0;
    for _ in 0..bursts {
        let mut batch = Batch::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut rest = BURST;
        while rest > 0 || port.in_flight() > 0 {
            assert!(Instant::now() < deadline, "{rest} not sent, {} on the way", port.in_flight());
            while rest > 0 && batch.len() < BATCH_SIZE {
                let Some(mut out) = pool.alloc() else { break };
                assert!(out.fill(&frame(60, 1)));
                batch.push(out);
                rest -= 1;
            }
            taken += port.send(&mut pool, &mut batch) as u64;
            rest += batch.len();
            batch.drain(..).for_each(|frame| pool.free(frame));
            port.flush(&mut pool).unwrap();
        }
    }
    let counters = port.counters();
    assert_eq!(counters.tx_packets + counters.tx_lost, taken);
    assert!(counters.kernel_cycles > 0, "time inside sendto is counted");
    // Completed is not received yet: the receiver's thread may have some to go through.
    eventually(|| received() - before >= counters.tx_packets);
    port.close(&mut pool);
    (taken, counters.tx_lost, received() - before)
}

/// Packets that the far end has received.
fn received() -> u64 {
    let text = output(&format!("ip -s -j link show dev {FAR}"));
    let (_, rest) = text.split_once("\"rx\":{").unwrap();
    let (_, rest) = rest.split_once("\"packets\":").unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn nothing_is_lost_to_a_receiver_that_is_slower_than_the_sender() {
    let plan = SetupPlan { queueing: true, napi_cpus: vec![0], notes: None };
    let (taken, lost, received) = burst(&plan, 20);
    assert_eq!(taken, 20 * BURST as u64);
    assert_eq!(received + lost, taken, "lost without being counted");
    assert_eq!(lost, 0);
}

#[test]
fn packets_that_arrive_before_the_workers_first_look_are_not_lost() {
    wired();
    let mut pool = FramePool::umem(1024, HugePages::Prefer).unwrap();
    let config = AttachConfig { rx_ring: 256, tx_ring: 256, fill: 256, ..AttachConfig::new(NEAR) };
    let mut port = AfXdpPort::attach(&config, &pool.umem_handle().unwrap()).unwrap();
    let wire = Wire::open(FAR);
    for number in 0..100 {
        wire.send(&frame(60, number));
    }
    let mut batch = Batch::new();
    let mut next = 0;
    assert!(eventually(|| {
        port.receive(&mut pool, &mut batch, BATCH_SIZE);
        for received in batch.drain(..) {
            assert_eq!(*received, frame(60, next)[..]);
            next += 1;
            pool.free(received);
        }
        next == 100
    }));
    let stats = port.kernel_stats().unwrap();
    assert_eq!((stats.rx_fill_ring_empty_descs, stats.rx_dropped), (0, 0), "{stats:?}");
    port.close(&mut pool);
    assert_eq!(pool.ledger().free, 1024);
}
