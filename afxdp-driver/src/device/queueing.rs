//! Queueing disciplines (`include/uapi/linux/rtnetlink.h`, `pkt_sched.h`): a `pfifo` at a device's root in place of none.
//!
//! AF_XDP never queues in it. It is there because a veth whose receiver is full stops its sender only where there is
//! a discipline to stop (Linux 6.16); without one it throws the frame away and nobody is told.

use std::io;

use super::netlink::{self, attribute};

/// What a device without a discipline says it has.
pub(super) const NONE: &str = "noqueue";
/// What is put in its place.
pub(super) const OURS: &str = "pfifo";

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = u32::MAX;
/// "PS:": tells ours from one that somebody else has put there since.
const HANDLE: u32 = 0x5053_0000;
/// Packets of the kernel's own (a node's uplink has such) that wait at most.
const LIMIT: u32 = 1000;

/// Puts the discipline at the root of a device of the calling thread's namespace.
pub(super) fn add(ifindex: u32) -> io::Result<()> {
    let mut body = header(ifindex);
    body.extend(attribute(TCA_KIND, b"pfifo\0"));
    body.extend(attribute(TCA_OPTIONS, &LIMIT.to_ne_bytes()));
    change(RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
}

/// Takes it away again; the kernel puts its default there. One that is not ours stays.
pub(super) fn remove(ifindex: u32) -> io::Result<()> {
    if netlink::link(ifindex)?.queueing != OURS {
        return Ok(());
    }
    match change(RTM_DELQDISC, 0, &header(ifindex)) {
        // Another handle: somebody else's.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// `struct tcmsg`
fn header(ifindex: u32) -> Vec<u8> {
    let mut body = vec![0; 4]; // family, padding
    for word in [ifindex, HANDLE, TC_H_ROOT, 0] {
        body.extend(word.to_ne_bytes());
    }
    body
}

fn change(kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
    netlink::request(libc::NETLINK_ROUTE, kind, flags | libc::NLM_F_ACK, body).map(drop)
}
