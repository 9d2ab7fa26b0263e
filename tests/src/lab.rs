//! The laboratory: one run at a time, an underlay switch, nodes and plain hosts on it, pods behind the nodes.
//!
//! ```text
//!   pod a1  pod a2            pod b1
//!    eth0    eth0              eth0         pod end: address/32 and /128, default route by the link-local gateway
//!      │      │                  │
//!   pod-a1  pod-a2             pod-b1       node end: no address; becomes a port of penstockd
//!   ┌─ node-a ──┐            ┌─ node-b ─┐
//!   │  uplink   │            │  uplink  │   the node's own address is on it, with the kernel
//!   └────┬──────┘            └───┬──────┘
//!        └───── underlay ────────┘          a bridge in a namespace of its own
//!                   └── host                a plain Linux host
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use crate::netns::{self, Namespace};

/// The IPv4 gateway of every pod: link-local, answered for by the dataplane.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway of every pod.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// One run: the lock that keeps others of the same tag out, its folder and the underlay.
///
/// Fields are dropped in their order: namespaces before the folder, the lock last.
#[derive(Debug)]
pub struct Lab {
    underlay: Namespace,
    folder: PathBuf,
    tag: String,
    _lock: Flock<File>,
}

/// A node or a plain host: a namespace with `uplink` on the underlay.
#[derive(Debug)]
pub struct Site {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name, such as `node-a`.
    pub name: String,
    /// Its IPv4 address on the underlay.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on the underlay.
    pub v6: Ipv6Addr,
}

/// A pod: a namespace with `eth0`, whose other end is `device` in its node's namespace.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Namespace,
    /// `namespace/name`, as Kubernetes says.
    pub name: String,
    /// The node's end of its link.
    pub device: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Site {
    /// Both of its addresses on the underlay.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

impl Pod {
    /// Both of its addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

impl Lab {
    /// Takes the lock for `tag`, sweeps away what an earlier run left behind, makes the underlay.
    ///
    /// Where another run is going on it waits if `patient`, else refuses.
    ///
    /// # Errors
    /// When not root, when another run holds the lock, or when the kernel refuses.
    pub fn open(tag: &str, patient: bool) -> Result<Self> {
        ensure!(
            Uid::effective().is_root(),
            "network namespaces need root: run this as root (sudo make test)"
        );
        let lock = take_lock(tag, patient)?;
        for name in netns::sweep(&prefix(tag))? {
            crate::say(&format!("removed {name}, left behind by an earlier run"));
        }
        let folder = folder(tag);
        remove_folder(&folder)?;
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let underlay = Namespace::create(&format!("{}underlay", prefix(tag)))?;
        // No spanning tree and no forward delay: frames pass from the first moment on.
        underlay.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        underlay.ip("link set br0 up")?;
        Ok(Lab { underlay, folder, tag: tag.to_owned(), _lock: lock })
    }

    /// The run's folder, under `/run`: sockets, configuration and manifests. Gone with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What tells this run from others.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The namespace with the bridge between the nodes.
    pub fn underlay(&self) -> &Namespace {
        &self.underlay
    }

    /// Adds a node or plain host to the underlay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn site(&self, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Site> {
        let namespace = Namespace::create(&format!("{}{name}", prefix(&self.tag)))?;
        let site = Site { namespace, name: name.to_owned(), v4, v6 };
        let inside = &site.namespace;
        // One queue: a socket on queue 0 alone would miss what the kernel hashes to the others.
        inside.ip(&format!(
            "link add uplink numrxqueues 1 numtxqueues 1 type veth \
             peer name {name} netns {} numrxqueues 1 numtxqueues 1",
            self.underlay.name()
        ))?;
        inside.ip(&format!("addr add {v4}/24 dev uplink"))?;
        inside.ip(&format!("addr add {v6}/64 dev uplink nodad"))?;
        inside.ip("link set dev uplink up")?;
        // Ping sockets for all groups.
        inside.sysctl("ipv4/ping_group_range", "0 2147483647")?;
        self.underlay.ip(&format!("link set dev {name} master br0 up"))?;
        Ok(site)
    }

    /// Adds a pod behind `site`, as a CNI plug-in would: link, addresses, routes, complete checksums.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pod(&self, site: &Site, name: &str, device: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Pod> {
        let namespace = Namespace::create(&format!("{}{device}", prefix(&self.tag)))?;
        let pod = Pod { namespace, name: name.to_owned(), device: device.to_owned(), v4, v6 };
        site.namespace.ip(&format!(
            "link add {device} numrxqueues 1 numtxqueues 1 type veth \
             peer name eth0 netns {} numrxqueues 1 numtxqueues 1",
            pod.namespace.name()
        ))?;
        // The node does not talk on the link itself: no address, no router solicitations, no multicast reports.
        site.namespace.sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
        site.namespace.ip(&format!("link set dev {device} up"))?;
        let inside = &pod.namespace;
        inside.ip("link set eth0 up")?;
        inside.ip(&format!("addr add {v4}/32 dev eth0"))?;
        inside.ip(&format!("addr add {v6}/128 dev eth0 nodad"))?;
        inside.ip(&format!("route add default via {GATEWAY_V4} dev eth0 onlink"))?;
        inside.ip(&format!("-6 route add default via {GATEWAY_V6} dev eth0"))?;
        inside.sysctl("ipv4/ping_group_range", "0 2147483647")?;
        // penstockd sees only its own end: with offloads left on, the kernel would hand over half-made checksums.
        inside.command("ethtool", &["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"])?;
        Ok(pod)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.folder) {
            crate::say(&format!("{error:#}"));
        }
    }
}

/// Removes everything a run with `tag` has made, for a process that is about to end and cannot unwind.
///
/// # Errors
/// When something cannot be removed.
pub fn clean_up(tag: &str) -> Result<()> {
    netns::sweep_for_good(&prefix(tag))?;
    remove_folder(&folder(tag))
}

/// What the names of all namespaces of a run begin with.
pub fn prefix(tag: &str) -> String {
    format!("penstock-{tag}-")
}

/// Where a run keeps its sockets: short, because a Unix socket's path may have 108 bytes.
pub fn folder(tag: &str) -> PathBuf {
    PathBuf::from(format!("/run/penstock-{tag}"))
}

fn take_lock(tag: &str, patient: bool) -> Result<Flock<File>> {
    let path = format!("/run/lock/penstock-{tag}.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&path);
    let file = file.with_context(|| path.clone())?;
    let how = if patient { FlockArg::LockExclusive } else { FlockArg::LockExclusiveNonblock };
    let mut lock = match Flock::lock(file, how) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            bail!("another run of \"{tag}\" is going on (process {})", holder.trim());
        }
        Err((_, error)) => return Err(error).context(path),
    };
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
