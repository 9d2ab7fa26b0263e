//! AF_XDP ports for the generator: for sending, a socket without any XDP program on the device; for receiving, a
//! socket on every queue and a program that takes the device's IP unicast and leaves ARP and neighbour discovery to
//! the kernel, so that the other side can still find this one.

use std::net::IpAddr;
use std::time::Duration;

use afxdp_driver::xdp::{AttachError, DeviceProgram, Steering, XdpMode as DriverMode, ZeroCopy};
use afxdp_driver::{AfXdpPort, AttachConfig, FramePool, HugePages, PacketIo};

use super::EngineError;
use super::port::{PortReceiver, PortSender};
use crate::locate::Look;
use crate::netlink::Link;
use crate::options::XdpMode;

/// Frames on their way to the kernel at most.
const TX_RING: u32 = 2048;

/// Frames waiting for the receiver at most, on each queue.
const RX_RING: u32 = 4096;

/// How long a device or queue that is busy is tried again: a crashed predecessor's is freed within 30 ms.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// What of IP goes to the receiver: all of IPv4, and the unicast of IPv6 that is not link-local (fe80::/10 and
/// ff00::/8 carry neighbour discovery).
const UNICAST: [(IpAddr, u8); 3] = [
    (IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
    (IpAddr::V6(std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0)), 3),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
];

/// A sender on one queue of `device`, in the calling thread's network namespace, and how it is attached.
///
/// # Errors
/// [`EngineError`] where the device, the queue or the memory cannot be had.
pub fn sender(device: &str, queue: u32) -> Result<(PortSender<AfXdpPort>, String), EngineError> {
    let pool = FramePool::umem(2 * TX_RING as usize, HugePages::Prefer)?;
    let config = AttachConfig { queue, tx_ring: TX_RING, rx_ring: 64, fill: 1, ..base(device) };
    let umem = pool.umem_handle().ok_or_else(no_umem)?;
    let port =
        AfXdpPort::send_only(&config, &umem).map_err(|error| refused("attaching for sending", &error))?;
    let copy = if port.mode().zero_copy { "zero-copy" } else { "copy" };
    Ok((PortSender::new(port, pool), format!("send only, no XDP program, {copy}")))
}

/// A receiver on all queues of `device`, in the calling thread's network namespace, and how it is attached.
///
/// # Errors
/// [`EngineError`] where the device, a queue or the memory cannot be had.
pub fn receiver(
    device: &str,
    link: &Link,
    mode: XdpMode,
    look: Look,
) -> Result<(PortReceiver<AfXdpPort>, String), EngineError> {
    let queues = link.rx_queues.clamp(1, 64);
    let pool = FramePool::umem((RX_RING * queues + 1024) as usize, HugePages::Prefer)?;
    let umem = pool.umem_handle().ok_or_else(no_umem)?;
    let mode = match mode {
        XdpMode::Auto => DriverMode::Auto,
        XdpMode::Native => DriverMode::Native,
        XdpMode::Generic => DriverMode::Generic,
    };
    let attach = |error: AttachError| refused("attaching for receiving", &error);
    let program = DeviceProgram::attach(device, Steering::Uplink, mode, BUSY_RETRY).map_err(attach)?;
    let steering = program.steering().ok_or_else(no_umem)?;
    steering.set_prefixes(&UNICAST).map_err(|error| refused("steering", &error))?;
    let mut ports = Vec::new();
    for queue in 0..queues {
        let config = AttachConfig { queue, rx_ring: RX_RING, tx_ring: 64, fill: RX_RING, ..base(device) };
        match AfXdpPort::join(&config, &umem, &program) {
            Ok(port) => ports.push(port),
            // The device has fewer queues in use than it was made with.
            Err(AttachError::Socket { operation: "bind", source, .. })
                if queue > 0 && source.kind() == std::io::ErrorKind::InvalidInput =>
            {
                break;
            }
            Err(error) => return Err(attach(error)),
        }
    }
    let native = if program.is_native() { "native" } else { "generic" };
    let described = format!("{native}, copy, {} queues", ports.len());
    Ok((PortReceiver::new(ports, pool, look, overflow), described))
}

/// What the kernel had no room for on a port, and what was too long for a chunk. A packet that finds the fill ring
/// empty counts as dropped too.
fn overflow(port: &AfXdpPort) -> u64 {
    let kernel = port.kernel_stats().unwrap_or_default();
    kernel.rx_dropped + kernel.rx_ring_full + port.counters().rx_oversize
}

fn base(device: &str) -> AttachConfig {
    AttachConfig { zero_copy: ZeroCopy::Never, busy_retry: BUSY_RETRY, ..AttachConfig::new(device) }
}

fn refused(operation: &'static str, error: &dyn std::error::Error) -> EngineError {
    EngineError::Driver { operation, reason: error.to_string() }
}

fn no_umem() -> EngineError {
    EngineError::Driver {
        operation: "registering packet memory",
        reason: "the driver gave no handle for it".into(),
    }
}
