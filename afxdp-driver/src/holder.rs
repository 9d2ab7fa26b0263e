//! Who holds a queue that is busy, as far as it can be known.
//!
//! `sock_diag` would say it exactly, but many kernels are built without it for AF_XDP (`CONFIG_XDP_SOCKETS_DIAG`). What
//! every kernel shows is which processes have rings of an AF_XDP socket mapped: `/proc/PID/maps` has the socket, at
//! offsets that no other socket knows (`XDP_PGOFF_TX_RING`, `XDP_UMEM_PGOFF_FILL_RING`, …).

use std::fs;
use std::path::Path;

/// In words, for an error message: the processes in this network namespace that have AF_XDP rings mapped.
pub(crate) fn describe(device: &str, queue: u32) -> String {
    let holders = holders();
    if holders.is_empty() {
        return format!(
            "nobody in this network namespace has AF_XDP rings mapped, so who holds {device}:{queue} is not known"
        );
    }
    format!("AF_XDP sockets in this network namespace are held by {}", holders.join(", "))
}

/// "pid 123 (penstockd)", in ascending order.
fn holders() -> Vec<String> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let holds = |pid: &u32| {
        let folder = Path::new("/proc").join(pid.to_string());
        maps_rings(&fs::read_to_string(folder.join("maps")).unwrap_or_default())
            && shares_namespace(&folder, own.as_deref())
    };
    let name = |pid: u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("pid {pid} ({})", command.trim())
    };
    pids.into_iter().filter(holds).map(name).collect()
}

/// Whether any thread of a process is in the namespace: a test's threads need not be where its first one is.
fn shares_namespace(folder: &Path, own: Option<&Path>) -> bool {
    let tasks = fs::read_dir(folder.join("task")).into_iter().flatten().flatten();
    own.is_none()
        || tasks.into_iter().any(|task| fs::read_link(task.path().join("ns/net")).ok().as_deref() == own)
}

/// Whether the text of a `maps` file has rings of an AF_XDP socket.
fn maps_rings(maps: &str) -> bool {
    const OFFSETS: [u64; 3] = [
        libc::XDP_PGOFF_TX_RING as u64,
        libc::XDP_UMEM_PGOFF_FILL_RING,
        libc::XDP_UMEM_PGOFF_COMPLETION_RING,
    ];
    maps.lines().filter(|line| line.contains("socket:[")).any(|line| {
        let offset = line.split_whitespace().nth(2).and_then(|offset| u64::from_str_radix(offset, 16).ok());
        offset.is_some_and(|offset| OFFSETS.contains(&offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_told_from_other_mappings() {
        let ring = "7f00-7f01 rw-s 80000000 00:08 4711   socket:[4711]";
        let fill = "7f00-7f01 rw-s 100000000 00:08 4711   socket:[4711]";
        let packet_socket = "7f00-7f01 rw-s 00000000 00:08 4712   socket:[4712]";
        let file = "7f00-7f01 rw-s 80000000 00:08 4711   /tmp/file";
        assert!(maps_rings(ring) && maps_rings(fill));
        assert!(!maps_rings(packet_socket) && !maps_rings(file));
    }
}
