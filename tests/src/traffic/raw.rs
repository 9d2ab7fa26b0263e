//! Frames as bytes, put on and taken from a device: for what no kernel would send.

use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::Namespace;

/// Sends the frames, in their order, out of `device` of `namespace`.
///
/// # Errors
/// When there is no such device or the kernel refuses a frame.
pub fn send(namespace: &Namespace, device: &str, frames: Vec<Vec<u8>>) -> Result<()> {
    let device = device.to_owned();
    namespace.run(move || -> Result<()> {
        let address = link(&device)?;
        let out = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("packet socket")?;
        for frame in &frames {
            sendto(out.as_raw_fd(), frame, &address, MsgFlags::empty())
                .with_context(|| format!("a frame of {} bytes on {device}", frame.len()))?;
        }
        Ok(())
    })?
}

/// The MAC address of `device`.
///
/// # Errors
/// When there is no such device.
pub fn mac(namespace: &Namespace, device: &str) -> Result<[u8; 6]> {
    let device = device.to_owned();
    namespace.run(move || link(&device)?.addr().context("a device without a MAC address"))?
}

/// Runs `act`, then returns the first frame within `patience` that arrives at a device of `namespace` and that
/// `wanted` accepts; `None` when there is none.
///
/// # Errors
/// When the kernel gives no packet socket.
pub fn expect(
    namespace: &Namespace,
    patience: Duration,
    act: impl FnOnce() -> Result<()>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Option<Vec<u8>>> {
    let tap = namespace.run(|| -> Result<_> {
        let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
        Ok(tap)
    })??;
    act()?;
    let deadline = Instant::now() + patience;
    let mut buffer = vec![0_u8; 1 << 16];
    while Instant::now() < deadline {
        match recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut buffer) {
            Ok((length, _)) if wanted(&buffer[..length]) => return Ok(Some(buffer[..length].to_vec())),
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn link(device: &str) -> Result<LinkAddr> {
    let mut addresses = getifaddrs()?.filter(|entry| entry.interface_name == device);
    let found = addresses.find_map(|entry| entry.address.and_then(|address| address.as_link_addr().copied()));
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no device {device}")).into())
}
