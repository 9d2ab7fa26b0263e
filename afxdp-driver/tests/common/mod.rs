//! A network namespace a test, a veth pair in it, and a raw socket on the far end.
//!
//! The namespace belongs to the test's own thread and has no name: it goes with the thread and whatever the test left
//! in it, killed or not.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// The end that ports attach to, and the end where the test sits.
pub const NEAR: &str = "near0";
pub const FAR: &str = "far0";

/// Moves this thread to a fresh namespace with a veth pair of one queue, both ends up and silent.
pub fn wired() {
    enter_namespace();
    add_veth(NEAR, FAR);
}

pub fn enter_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root: sudo -E cargo test -p afxdp-driver");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

pub fn add_veth(near: &str, far: &str) {
    ip(&format!(
        "link add {near} numtxqueues 1 numrxqueues 1 type veth peer name {far} numtxqueues 1 numrxqueues 1"
    ));
    for end in [near, far] {
        ip(&format!("link set {end} addrgenmode none"));
        ip(&format!("link set {end} up"));
    }
}

pub fn ip(arguments: &str) {
    run(&format!("ip {arguments}"));
}

pub fn run(command: &str) {
    output(command);
}

/// What a command says.
pub fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Tries until `condition` holds; false after five seconds.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    condition()
}

/// An `AF_PACKET` socket on a device: what it sends arrives at the device's peer.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(device: &str) -> Wire {
        let index = nix::net::if_::if_nametoindex(device).unwrap();
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain system call; the result is checked.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol))
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just made, nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        // SAFETY: the address outlives the call and has the length given.
        let code = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        assert_eq!(code, 0, "{}", io::Error::last_os_error());
        Wire(fd)
    }

    pub fn send(&self, packet: &[u8]) {
        let sent = nix::unistd::write(&self.0, packet).unwrap();
        assert_eq!(sent, packet.len());
    }

    /// The next packet that came in (not one of our own), waiting up to two seconds.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if let Some(packet) = self.try_receive() {
                return Some(packet);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        None
    }

    fn try_receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: buffer and address have the lengths given.
        let count = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut len,
            )
        };
        if count < 0 || from.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        buffer.truncate(count as usize);
        Some(buffer)
    }
}

/// An Ethernet frame of an experimental type that no stack answers, filled with a pattern.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, seed, 0x88, 0xb5];
    bytes.extend((14..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)));
    bytes
}
