//! The peers' topology: what penstockd's node, its pod and its uplink are to penstockd.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::party::Path;
use crate::cluster::WEB;
use crate::daemon::checkout;
use crate::lab::{self, GATEWAY_V4};
use crate::netns::{Namespace, run};
use crate::stage::ECHO;
use crate::traffic::raw;
use crate::traffic::udp::{self, Ask};

/// How often a party is asked to prove itself, and how long its packets may take each time.
const TRIES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(1);
/// The client's address: `web-a`'s.
pub(super) const CLIENT: &str = "10.244.1.10";
/// The backend's address: `web-b`'s.
pub(super) const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
/// The party's own address on the way out, and the other node's.
pub(super) const NODES: [&str; 2] = ["172.30.0.1", "172.30.0.2"];
/// Next hop's MAC address: nobody's, so that what arrives is dropped first thing, as frames for another host.
pub(super) const NEXT_HOP: &str = "02:00:00:00:00:99";
/// The inner destination MAC address.
pub(super) const INNER: &str = "02:50:53:00:00:02";

/// Two veth pairs: the party's ends in one namespace, each of the others in its own.
pub(super) struct Links {
    name: &'static str,
    /// Has `eth0`, with the client's address.
    pub(super) client: Namespace,
    /// Has `in0` and `out0`.
    pub(super) inside: Namespace,
    /// Has `far0`.
    pub(super) far: Namespace,
}

impl Links {
    /// Makes the links, each device with one queue and complete checksums, as penstockd's have them.
    pub(super) fn make(tag: &str, name: &'static str) -> Result<Self> {
        let namespace = |what: &str| Namespace::create(&format!("{}{name}-{what}", lab::prefix(tag)));
        let links = Links {
            name,
            client: namespace("client")?,
            inside: namespace("inside")?,
            far: namespace("far")?,
        };
        for (device, far, other) in [("in0", "eth0", &links.client), ("out0", "far0", &links.far)] {
            links.inside.ip(&format!(
                "link add {device} numrxqueues 1 numtxqueues 1 type veth \
                 peer name {far} netns {} numrxqueues 1 numtxqueues 1",
                other.name()
            ))?;
            for (namespace, end) in [(&links.inside, device), (other, far)] {
                namespace.sysctl(&format!("ipv6/conf/{end}/disable_ipv6"), "1")?;
                namespace.ip(&format!("link set dev {end} up"))?;
                namespace.command("ethtool", &["-K", end, "tx", "off", "tso", "off", "gso", "off"])?;
            }
        }
        links.client.ip(&format!("addr add {CLIENT}/32 dev eth0"))?;
        links.client.ip(&format!("route add default via {GATEWAY_V4} dev eth0 onlink"))?;
        let mac = links.mac()?;
        links.client.ip(&format!("neigh replace {GATEWAY_V4} lladdr {mac} dev eth0 nud permanent"))?;
        Ok(links)
    }

    /// The load's way: to the Service.
    pub(super) fn path(&self) -> Result<Path<'_>> {
        Ok(Path {
            from: &self.client,
            device: "eth0",
            addresses: format!("--src-ip {CLIENT} --dst-ip {} --dst-mac {}", WEB[0], self.mac()?),
            sink: (&self.far, "far0"),
            log: self.log("pktgen.json"),
        })
    }

    /// The MAC address of the way in.
    pub(super) fn mac(&self) -> Result<String> {
        let [a, b, c, d, e, f] = raw::mac(&self.inside, "in0")?;
        Ok(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
    }

    /// Where something of this party is written.
    pub(super) fn log(&self, what: &str) -> PathBuf {
        checkout().join("target/logs/penstock-bench").join(format!("{}-{what}", self.name))
    }

    /// Has the receive work of a device done by a thread on a CPU, in place of whoever sends to it.
    pub(super) fn receive_on(&self, namespace: &Namespace, device: &str, cpu: usize) -> Result<()> {
        namespace.command("ethtool", &["-K", device, "gro", "on"])?;
        let before = napi_threads(device)?;
        // `ip netns exec` shows the namespace's own /sys.
        let write = format!("echo 1 > /sys/class/net/{device}/threaded");
        run("ip", &["netns", "exec", namespace.name(), "sh", "-c", &write])?;
        let threads: Vec<String> =
            napi_threads(device)?.into_iter().filter(|thread| !before.contains(thread)).collect();
        ensure!(!threads.is_empty(), "{}: no thread receives for {device}", self.name);
        for thread in threads {
            run("taskset", &["-pc", &cpu.to_string(), &thread])?;
        }
        Ok(())
    }

    /// Has `far0` receive on the last CPU, as penstockd has it at its uplink's far end: else a party that sends by
    /// AF_XDP does the receiver's work in its own system calls.
    pub(super) fn receive_far(&self) -> Result<()> {
        self.receive_on(&self.far, "far0", super::last_core()?)
    }

    /// What the client sends to the Service leaves by `out0` as `wanted` says; `what` says it in words.
    pub(super) fn prove(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Result<()> {
        // Who has just started may need a moment yet.
        for _ in 0..TRIES {
            if raw::expect(&self.far, PATIENCE, || ask_service(&self.client), &wanted)?.is_some() {
                return Ok(());
            }
        }
        bail!("{}: no packet has left {what}", self.name)
    }
}

/// Sends a few packets to the Service. Nobody answers: what counts is what comes out at the other end.
pub(super) fn ask_service(client: &Namespace) -> Result<()> {
    for _ in 0..5 {
        drop(udp::ask(
            client,
            (WEB[0], 7).into(),
            Ask { patience: Duration::from_millis(200), ..Ask::default() },
        ));
    }
    Ok(())
}

/// Whether a frame is a VXLAN packet whose inner one goes to the Service's backend.
pub(super) fn is_tunnelled_to(frame: &[u8], backend: Ipv4Addr) -> bool {
    // Ethernet, IPv4, UDP, VXLAN, Ethernet: then the inner IPv4 header, and the inner UDP one.
    frame.get(36..38) == Some(&4789_u16.to_be_bytes())
        && frame.get(80..84) == Some(&backend.octets())
        && frame.get(86..88) == Some(&ECHO.to_be_bytes())
}

/// Process numbers of the kernel's threads that receive for devices of this name, in any namespace.
fn napi_threads(device: &str) -> Result<Vec<String>> {
    // The kernel's names are cut to 15 characters; ours are shorter.
    let listed = run("ps", &["-e", "-o", "pid=,comm="])?;
    let prefix = format!("napi/{device}-");
    let of_device = listed.lines().filter_map(|line| line.trim().split_once(' '));
    Ok(of_device
        .filter(|(_, name)| name.trim().starts_with(&prefix))
        .map(|(pid, _)| pid.to_owned())
        .collect())
}
