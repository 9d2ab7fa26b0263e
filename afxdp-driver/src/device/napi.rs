//! Threaded NAPI: a device's receive work in kernel threads of its own, in place of its sender's system call.
//!
//! By the generic netlink family `netdev` (`include/uapi/linux/netdev.h`; setting needs Linux 6.17). Not by sysfs:
//! that shows the namespace it was mounted in.

use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::netlink::{self, Attributes, attribute, word};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const NETDEV_CMD_NAPI_GET: u8 = 11;
const NETDEV_CMD_NAPI_SET: u8 = 14;
const NETDEV_A_NAPI_IFINDEX: u16 = 1;
const NETDEV_A_NAPI_ID: u16 = 2;
const NETDEV_A_NAPI_PID: u16 = 4;
const NETDEV_A_NAPI_THREADED: u16 = 8;

/// `struct genlmsghdr`: command, version, padding.
const GENERIC_HEADER: usize = 4;

/// One NAPI context: the receive work of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Napi {
    id: u32,
    pub(super) threaded: bool,
    /// Its thread's process number in the first PID namespace.
    thread: Option<u32>,
}

/// The NAPI contexts of a device of the calling thread's namespace; none of a veth without GRO and XDP.
pub(super) fn of(ifindex: u32) -> io::Result<Vec<Napi>> {
    let wanted = attribute(NETDEV_A_NAPI_IFINDEX, &ifindex.to_ne_bytes());
    let answers = ask(family()?, NETDEV_CMD_NAPI_GET, libc::NLM_F_DUMP, &wanted)?;
    Ok(answers.iter().filter_map(|body| parse(body)).collect())
}

/// Gives a NAPI context a thread, or takes it away.
pub(super) fn set_threaded(napi: Napi, threaded: bool) -> io::Result<()> {
    let mut body = attribute(NETDEV_A_NAPI_ID, &napi.id.to_ne_bytes());
    body.extend(attribute(NETDEV_A_NAPI_THREADED, &u32::from(threaded).to_ne_bytes()));
    ask(family()?, NETDEV_CMD_NAPI_SET, libc::NLM_F_ACK, &body).map(drop)
}

/// Lets a NAPI context's thread run on these CPUs alone.
pub(super) fn pin(napi: Napi, cpus: &CpuSet) -> io::Result<()> {
    let thread = napi.thread.ok_or_else(|| io::Error::other("it has no thread"))?;
    // In a PID namespace of our own the number would be another process's.
    let name = std::fs::read_to_string(format!("/proc/{thread}/comm"))?;
    if !name.starts_with("napi/") {
        return Err(io::Error::other(format!("process {thread} is not its thread: another PID namespace")));
    }
    sched_setaffinity(Pid::from_raw(thread as i32), cpus)?;
    Ok(())
}

fn parse(attributes: &[u8]) -> Option<Napi> {
    let (mut id, mut napi) = (None, Napi { id: 0, threaded: false, thread: None });
    for (kind, value) in Attributes(attributes) {
        match kind {
            NETDEV_A_NAPI_ID => id = word(value),
            NETDEV_A_NAPI_THREADED => napi.threaded = word(value)? != 0,
            NETDEV_A_NAPI_PID => napi.thread = word(value),
            _ => {}
        }
    }
    Some(Napi { id: id?, ..napi })
}

/// The number that the family `netdev` has on this machine.
fn family() -> io::Result<u16> {
    let answers = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0"))?;
    let number = answers.first().and_then(|body| {
        let (_, value) = Attributes(body).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
        netlink::short(value)
    });
    number.ok_or_else(|| io::Error::other("no generic netlink family netdev"))
}

/// Sends a request to a family and returns the attributes of each message of its answer.
fn ask(family: u16, command: u8, flags: libc::c_int, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut body = vec![command, 1, 0, 0];
    body.extend(attributes);
    let messages = netlink::request(libc::NETLINK_GENERIC, family, flags, &body)?;
    Ok(messages
        .iter()
        .map(|message| message.body.get(GENERIC_HEADER..).unwrap_or_default().to_vec())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_device_has_no_napi() {
        assert_eq!(of(1).unwrap(), []);
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
