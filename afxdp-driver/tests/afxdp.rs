//! AF_XDP ports on real veth pairs. As root.

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
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use afxdp_driver::umem::Anchor;
use afxdp_driver::xdp::{AfXdpPort, AttachConfig, AttachError, DeviceProgram, Steering, XdpMode, ZeroCopy};
use afxdp_driver::{BATCH_SIZE, Batch, FramePool, HugePages, PacketIo, PoolLedger, PortError, UmemHandle};
use common::{FAR, NEAR, Wire, add_veth, eventually, frame, ip, wired};

const CHUNKS: usize = 1024;
const FILL: u32 = 256;

fn config(device: &str) -> AttachConfig {
    AttachConfig { fill: FILL, rx_ring: 256, tx_ring: 256, ..AttachConfig::new(device) }
}

fn pool() -> (FramePool, UmemHandle) {
    let pool = FramePool::umem(CHUNKS, HugePages::Prefer).unwrap();
    let umem = pool.umem_handle().unwrap();
    (pool, umem)
}

fn all_home() -> PoolLedger {
    PoolLedger { free: CHUNKS, out: 0, kernel: 0, total: CHUNKS }
}

/// Receives until `count` packets are there.
fn receive(port: &mut AfXdpPort, pool: &mut FramePool, count: usize) -> Batch {
    let mut batch = Batch::new();
    let complete = eventually(|| {
        port.receive(pool, &mut batch, BATCH_SIZE);
        batch.len() >= count
    });
    assert!(complete, "{} of {count} packets arrived; kernel {:?}", batch.len(), port.kernel_stats());
    batch
}

fn flush_all(port: &mut AfXdpPort, pool: &mut FramePool) {
    assert!(eventually(|| {
        port.flush(pool).unwrap();
        port.in_flight() == 0
    }));
}

#[test]
fn packets_go_in_and_out_whole_and_every_chunk_comes_home() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        wired();
        let (mut pool, umem) = pool();
        let mut port = AfXdpPort::attach(&AttachConfig { mode, ..config(NEAR) }, &umem).unwrap();
        assert_eq!(port.mode().native, mode == XdpMode::Native);
        assert!(!port.mode().zero_copy);
        let wire = Wire::open(FAR);
        assert_eq!(port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE), 0);
        for (round, len) in [14, 60, 61, 128, 1000, 1514].into_iter().enumerate() {
            let packet = frame(len, round as u8);
            wire.send(&packet);
            let mut batch = receive(&mut port, &mut pool, 1);
            assert_eq!(&*batch[0], &packet[..], "as received, {mode:?}");
            assert_eq!(pool.ledger(), PoolLedger { free: CHUNKS - 257, out: 1, kernel: 256, total: CHUNKS });
            // Encapsulated: 50 bytes more in front than the kernel put there.
            let outer = frame(50, 0xee);
            assert!(batch[0].push_front(50));
            batch[0][..50].copy_from_slice(&outer);
            assert_eq!(port.send(&mut pool, &mut batch), 1);
            flush_all(&mut port, &mut pool);
            if len + 50 <= 1514 {
                assert_eq!(wire.receive().unwrap(), [&outer[..], &packet[..]].concat(), "as sent, {mode:?}");
            }
        }
        let counters = port.counters();
        assert_eq!((counters.rx_packets, counters.rx_bytes), (6, 14 + 60 + 61 + 128 + 1000 + 1514));
        assert_eq!(counters.tx_packets + counters.tx_lost, 6);
        port.close(&mut pool);
        assert_eq!(pool.ledger(), all_home());
    }
}

#[test]
fn a_thousand_packets_in_batches_keep_order_and_the_pool_law() {
    wired();
    let (mut pool, umem) = pool();
    let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    let wire = Wire::open(FAR);
    let mut next = 0u32;
    port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    for burst in 0..50u32 {
        for number in 0..20 {
            let mut packet = frame(60 + burst as usize, 1);
            packet[14..18].copy_from_slice(&(burst * 20 + number).to_be_bytes());
            wire.send(&packet);
        }
        let mut batch = receive(&mut port, &mut pool, 20);
        for frame in &batch {
            assert_eq!(frame[14..18], next.to_be_bytes());
            next += 1;
        }
        assert_eq!(port.send(&mut pool, &mut batch), 20);
        let ledger = pool.ledger();
        assert_eq!(ledger.kernel, FILL as usize + port.in_flight());
        flush_all(&mut port, &mut pool);
        for number in 0..20 {
            assert_eq!(wire.receive().unwrap()[14..18], (burst * 20 + number).to_be_bytes());
        }
    }
    assert_eq!(port.kernel_stats().unwrap().rx_fill_ring_empty_descs, 0);
    port.close(&mut pool);
    assert_eq!(pool.ledger(), all_home());
}

#[test]
fn a_packet_longer_than_a_chunk_is_dropped_whole_and_counted_once() {
    wired();
    ip(&format!("link set {NEAR} mtu 9000"));
    ip(&format!("link set {FAR} mtu 9000"));
    let (mut pool, umem) = pool();
    let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    let wire = Wire::open(FAR);
    port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    for (rounds, len) in [1793, 5000, 9014].into_iter().enumerate() {
        wire.send(&frame(len, 1));
        wire.send(&frame(1792, 2));
        let batch = receive(&mut port, &mut pool, 1);
        assert_eq!(&*batch[0], &frame(1792, 2)[..]);
        assert_eq!(port.counters().rx_oversize, rounds as u64 + 1, "{len} bytes");
        batch.into_iter().for_each(|frame| pool.free(frame));
    }
    port.close(&mut pool);
    assert_eq!(pool.ledger(), all_home());
}

#[test]
fn a_frame_that_the_kernel_loses_is_counted_and_its_chunk_comes_home() {
    wired();
    let (mut pool, umem) = pool();
    let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    ip(&format!("link set {FAR} down")); // no carrier: each frame is consumed and dropped, with EBUSY
    let mut batch = Batch::new();
    for number in 0..40 {
        let mut out = pool.alloc().unwrap();
        assert!(out.fill(&frame(100, number)));
        batch.push(out);
    }
    let mut runt = pool.alloc().unwrap();
    assert!(runt.fill(&[0; 13]));
    batch.push(runt);
    assert_eq!(port.send(&mut pool, &mut batch), 41);
    flush_all(&mut port, &mut pool);
    let counters = port.counters();
    assert_eq!((counters.tx_packets, counters.tx_bytes, counters.tx_lost), (0, 0, 41));
    assert_eq!(port.kernel_stats().unwrap().tx_invalid_descs, 0);
    ip(&format!("link set {FAR} up"));
    let wire = Wire::open(FAR);
    let mut out = pool.alloc().unwrap();
    assert!(out.fill(&frame(100, 7)));
    batch.push(out);
    assert_eq!(port.send(&mut pool, &mut batch), 1);
    flush_all(&mut port, &mut pool);
    assert_eq!(wire.receive().unwrap(), frame(100, 7));
    assert_eq!(port.counters().tx_packets, 1);
    assert_eq!(port.counters().tx_bytes, 100);
    port.close(&mut pool);
    assert_eq!(pool.ledger(), all_home());
}

#[test]
fn a_device_taken_down_or_removed_is_gone_and_leaves_no_chunk_behind() {
    for removal in [format!("link set {NEAR} down"), format!("link del {NEAR}")] {
        wired();
        let (mut pool, umem) = pool();
        let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
        port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
        ip(&removal);
        let mut batch = Batch::new();
        let mut out = pool.alloc().unwrap();
        assert!(out.fill(&frame(60, 1)));
        batch.push(out);
        port.send(&mut pool, &mut batch);
        let error = port.flush(&mut pool).unwrap_err();
        assert!(matches!(error, PortError::Gone { .. }), "{removal}: {error}");
        assert!(error.to_string().contains(NEAR));
        let closed = port.finish();
        assert_eq!(closed.counters.tx_discarded, 1, "{removal}");
        pool.take_home(closed);
        assert_eq!(pool.ledger(), all_home(), "{removal}");
        // The pool's other ports are not concerned.
        add_veth("near1", "far1");
        let mut other = AfXdpPort::attach(&config("near1"), &umem).unwrap();
        other.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
        Wire::open("far1").send(&frame(60, 9));
        let batch = receive(&mut other, &mut pool, 1);
        batch.into_iter().for_each(|frame| pool.free(frame));
        other.close(&mut pool);
        assert_eq!(pool.ledger(), all_home(), "{removal}");
    }
}

#[test]
fn ports_of_one_pool_come_and_go_while_another_forwards() {
    wired();
    add_veth("near1", "far1");
    let (mut pool, umem) = pool();
    let mut staying = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    staying.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    let wire = Wire::open(FAR);
    for round in 0..5 {
        let handle = umem.clone();
        // On the control thread, in the same namespace.
        let attaching = std::thread::spawn(move || AfXdpPort::attach(&config("near1"), &handle));
        let mut coming = attaching.join().unwrap().unwrap();
        coming.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
        Wire::open("far1").send(&frame(80, round));
        wire.send(&frame(70, round));
        for (port, len) in [(&mut coming, 80), (&mut staying, 70)] {
            let batch = receive(port, &mut pool, 1);
            assert_eq!(&*batch[0], &frame(len, round)[..]);
            batch.into_iter().for_each(|frame| pool.free(frame));
        }
        let closed = std::thread::spawn(move || coming.finish()).join().unwrap();
        pool.take_home(closed);
        assert_eq!(pool.ledger().kernel, FILL as usize);
    }
    staying.close(&mut pool);
    assert_eq!(pool.ledger(), all_home());
}

#[test]
fn a_busy_queue_is_tried_again_until_its_holder_closes() {
    wired();
    let (mut first_pool, first_umem) = pool();
    let (mut second_pool, second_umem) = pool();
    let first = AfXdpPort::attach(&config(NEAR), &first_umem).unwrap();
    let hasty = AttachConfig { busy_retry: Duration::from_millis(100), ..config(NEAR) };
    let started = Instant::now();
    let error = AfXdpPort::attach(&hasty, &second_umem).err().unwrap();
    assert!(matches!(error, AttachError::Busy { queue: 0, .. }), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    let patient = std::thread::spawn(move || AfXdpPort::attach(&config(NEAR), &second_umem));
    std::thread::sleep(Duration::from_millis(200));
    first.close(&mut first_pool);
    patient.join().unwrap().unwrap().close(&mut second_pool);
    assert_eq!(first_pool.ledger(), all_home());
    assert_eq!(second_pool.ledger(), all_home());
}

#[test]
fn a_port_is_to_be_had_right_after_its_holder_was_killed() {
    wired();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holds_the_port_until_killed", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let attached = lines.map_while(Result::ok).any(|line| line.contains("the port is held"));
        assert!(attached, "the child could not attach");
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let (mut pool, umem) = pool();
        let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
        port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
        Wire::open(FAR).send(&frame(60, 3));
        let batch = receive(&mut port, &mut pool, 1);
        batch.into_iter().for_each(|frame| pool.free(frame));
        port.close(&mut pool);
        assert_eq!(pool.ledger(), all_home());
    }
}

/// The child of the test above; inherits its namespace.
#[test]
#[ignore = "run by a_port_is_to_be_had_right_after_its_holder_was_killed"]
fn holds_the_port_until_killed() {
    let (mut pool, umem) = pool();
    let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    println!("the port is held");
    std::thread::sleep(Duration::from_secs(30));
}

#[test]
fn each_queue_of_a_device_has_its_port() {
    common::enter_namespace();
    ip(&format!(
        "link add {NEAR} numtxqueues 2 numrxqueues 2 type veth peer name {FAR} numtxqueues 2 numrxqueues 2"
    ));
    for end in [NEAR, FAR] {
        common::run(&format!("ethtool -L {end} rx 2 tx 2"));
        ip(&format!("link set {end} addrgenmode none"));
        ip(&format!("link set {end} up"));
    }
    let (mut pool, umem) = pool();
    let program =
        DeviceProgram::attach(NEAR, Steering::All, XdpMode::Native, Duration::from_secs(2)).unwrap();
    let mut ports = [0, 1]
        .map(|queue| AfXdpPort::join(&AttachConfig { queue, ..config(NEAR) }, &umem, &program).unwrap());
    for port in &mut ports {
        port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    }
    // The veth's transmit queue, and so the receive queue at the peer, is the sending CPU's: both get their share.
    let wire = Wire::open(FAR);
    for number in 0..100 {
        wire.send(&frame(64, number));
    }
    let mut total = 0;
    assert!(eventually(|| {
        for port in &mut ports {
            let mut batch = Batch::new();
            total += port.receive(&mut pool, &mut batch, BATCH_SIZE);
            batch.into_iter().for_each(|frame| pool.free(frame));
        }
        total == 100
    }));
    assert_eq!(program.verdicts().unwrap().no_socket, 0);
    let [first, second] = ports;
    first.close(&mut pool);
    second.close(&mut pool);
    assert_eq!(pool.ledger(), all_home());
    // Without its ports the program drops: a pod's packets are never left to the kernel.
    wire.send(&frame(64, 1));
    assert!(eventually(|| program.verdicts().unwrap().no_socket == 1));
}

/// Regression: such replies came to us always, so that the node's own pings with one of these identifiers had none.
#[test]
fn a_reply_goes_to_the_kernel_if_that_has_asked_and_to_us_otherwise() {
    wired();
    ip(&format!("addr add 192.0.2.1/24 dev {NEAR}"));
    ip(&format!("addr add 2001:db8::1/64 dev {NEAR} nodad"));
    let remotes: [IpAddr; 2] = ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    for remote in remotes {
        ip(&format!("neigh add {remote} lladdr 02:00:00:00:00:02 dev {NEAR} nud permanent"));
    }
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    let (mut pool, umem) = pool();
    let mut port =
        AfXdpPort::attach(&AttachConfig { steering: Steering::Uplink, ..config(NEAR) }, &umem).unwrap();
    port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    let local = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    port.steering().unwrap().set_local(&local, &[(1, 61_000..=65_535)]).unwrap();
    let wire = Wire::open(FAR);
    let verdicts = |port: &AfXdpPort| {
        let verdicts = port.program().verdicts().unwrap();
        (verdicts.redirected, verdicts.passed)
    };
    let mut wanted = (0, 0);
    for (remote, own) in remotes.into_iter().zip(local) {
        let mut check = |id: u16, ours: bool| {
            wire.send(&echo_reply(remote, own, id));
            if ours {
                wanted.0 += 1
            } else {
                wanted.1 += 1
            }
            assert!(eventually(|| verdicts(&port) == wanted), "{remote} {id}: {:?}", verdicts(&port));
        };
        // Nobody has asked that we know of: a pod has.
        check(62_000, true);
        check(60_999, false);
        ask(remote, 62_000);
        check(62_000, false);
        check(62_001, true);
    }
    port.close(&mut pool);
    let links = common::output(&format!("ip -d link show dev {NEAR}"));
    assert!(!links.contains("prog"), "{links}");
}

/// The kernel asks: an echo request with this identifier. The sysctl is the namespace's, which `/proc/sys` shows.
fn ask(remote: IpAddr, id: u16) {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, sendto, socket,
    };
    let (family, protocol, request, any) = match remote {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, IpAddr::from([0; 4])),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, IpAddr::from([0; 16])),
    };
    let socket = socket(family, SockType::Datagram, SockFlag::empty(), protocol).unwrap();
    let address = |ip, port| SockaddrStorage::from(std::net::SocketAddr::new(ip, port));
    bind(socket.as_raw_fd(), &address(any, id)).unwrap();
    let message = [request, 0, 0, 0, 0, 0, 0, 1];
    sendto(socket.as_raw_fd(), &message, &address(remote, 0), nix::sys::socket::MsgFlags::empty()).unwrap();
}

/// Checksums are nothing to the program.
fn echo_reply(from: IpAddr, to: IpAddr, id: u16) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let kind = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0]);
            packet.extend(from.octets().into_iter().chain(to.octets()));
            0
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 64]);
            packet.extend(from.octets().into_iter().chain(to.octets()));
            129
        }
        _ => panic!("{from} and {to}"),
    };
    packet.extend([kind, 0, 0, 0]);
    packet.extend(id.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

#[test]
fn a_frame_outlives_pool_and_port() {
    wired();
    let (mut pool, umem) = pool();
    let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE);
    Wire::open(FAR).send(&frame(60, 5));
    let batch = receive(&mut port, &mut pool, 1);
    drop(pool);
    drop(port);
    drop(umem);
    assert_eq!(&*batch[0], &frame(60, 5)[..]);
}

#[test]
fn what_cannot_be_attached_says_why_and_leaves_nothing() {
    wired();
    let (_pool, umem) = pool();
    let refusal = |config: &AttachConfig| AfXdpPort::attach(config, &umem).err().unwrap();
    assert!(matches!(refusal(&config("nosuch0")), AttachError::Device { .. }));
    assert!(matches!(
        refusal(&AttachConfig { rx_ring: 100, ..config(NEAR) }),
        AttachError::Config { field: "rx_ring", value: 100, .. }
    ));
    assert!(matches!(
        refusal(&AttachConfig { zero_copy: ZeroCopy::Require, ..config(NEAR) }),
        AttachError::ZeroCopy { .. }
    ));
    assert!(matches!(
        refusal(&AttachConfig { queue: 7, ..config(NEAR) }),
        AttachError::Socket { operation: "bind", .. }
    ));
    let foreign =
        DeviceProgram::attach(NEAR, Steering::All, XdpMode::Native, Duration::from_secs(2)).unwrap();
    let error = refusal(&AttachConfig { busy_retry: Duration::from_millis(50), ..config(NEAR) });
    assert!(matches!(error, AttachError::Program { .. }), "{error}");
    assert!(error.to_string().contains("xdp off"), "{error}");
    drop(foreign);
    let zero_copy = FramePool::umem_anchored(64, HugePages::Never, Anchor::FirstPort).unwrap();
    let umem = zero_copy.umem_handle().unwrap();
    let error =
        AfXdpPort::attach(&AttachConfig { zero_copy: ZeroCopy::Require, ..config(NEAR) }, &umem).err();
    assert!(matches!(error, Some(AttachError::ZeroCopy { .. })), "veth has no zero-copy: {error:?}");
    let port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    assert!(!port.mode().zero_copy, "copy mode where zero-copy cannot be had");
}

#[test]
fn an_empty_pool_starves_reception_visibly() {
    wired();
    let (mut pool, umem) = pool();
    let hoard: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(hoard.len(), CHUNKS);
    let mut port = AfXdpPort::attach(&config(NEAR), &umem).unwrap();
    assert_eq!(port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE), 0);
    Wire::open(FAR).send(&frame(60, 1));
    assert!(eventually(|| port.kernel_stats().unwrap().rx_fill_ring_empty_descs == 1));
    hoard.into_iter().for_each(|frame| pool.free(frame));
    port.close(&mut pool);
    assert_eq!(pool.ledger(), all_home());
}
