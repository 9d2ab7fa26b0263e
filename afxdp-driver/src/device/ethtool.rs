//! The ethtool `ioctl` (`include/uapi/linux/ethtool.h`): features, channels, driver.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// A feature of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    TxChecksum,
    Tso,
    Gso,
    Gro,
}

impl Feature {
    /// What a veth or NIC leaves undone in packets which XDP then sees, in the order in which it is switched off. Checksumming last: without it the kernel holds the others off.
    pub(crate) const UNDONE: [Feature; 3] = [Feature::Gso, Feature::Tso, Feature::TxChecksum];
    /// All that are known here.
    pub(crate) const ALL: [Feature; 4] = [Feature::Gso, Feature::Tso, Feature::TxChecksum, Feature::Gro];

    /// The word of `ethtool -K`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Feature::TxChecksum => "tx",
            Feature::Tso => "tso",
            Feature::Gso => "gso",
            Feature::Gro => "gro",
        }
    }

    /// `ETHTOOL_GTXCSUM` and its like; the command that sets follows the one that reads.
    fn read_command(self) -> u32 {
        match self {
            Feature::TxChecksum => 0x16,
            Feature::Tso => 0x1e,
            Feature::Gso => 0x23,
            Feature::Gro => 0x2b,
        }
    }
}

/// Whether a feature is on.
pub(crate) fn feature(device: &str, feature: Feature) -> io::Result<bool> {
    let mut value = [feature.read_command(), 0];
    call(device, &mut value)?;
    Ok(value[1] != 0)
}

/// Switches a feature.
pub(crate) fn set_feature(device: &str, feature: Feature, on: bool) -> io::Result<()> {
    call(device, &mut [feature.read_command() + 1, u32::from(on)])
}

/// Receive queues in use; `None` where the driver does not say.
pub(crate) fn receive_queues(device: &str) -> Option<u32> {
    // struct ethtool_channels: cmd, max rx, tx, other, combined; then the same four, in use.
    let mut channels = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    call(device, &mut channels).ok()?;
    Some(channels[5] + channels[8]).filter(|&count| count > 0)
}

/// The driver's name; `None` where there is none to ask.
pub(crate) fn driver(device: &str) -> Option<String> {
    // struct ethtool_drvinfo: cmd, then 32 bytes of the driver's name, and more: 196 bytes in all.
    let mut info = [0u32; 49];
    info[0] = ETHTOOL_GDRVINFO;
    call(device, &mut info).ok()?;
    let name: Vec<u8> =
        info[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|&byte| byte != 0).collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

/// One request; the kernel reads and writes `request`, whose first word is the command.
fn call<const WORDS: usize>(device: &str, request: &mut [u32; WORDS]) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= interface.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    interface.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: `interface` names a device and points at a request as large as its command's structure (two words for
    // features, nine for channels, 49 for the driver), which outlives the call.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut interface) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; its result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
