//! [`LiveFrames`]: packets out of a device at XDP speed, for the generator.
//!
//! `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18) runs an XDP program over and over on the
//! caller's CPU, each time on a real frame, and carries out its verdict: `XDP_TX`, so the frame leaves by the device,
//! without an skb. On veth the other end must be able to receive such frames: an XDP program there (a Penstock port
//! has one), or GRO switched on.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, libbpf_sys};

use crate::bpf;

/// Bytes that [`LiveFrames::run`] writes at the stamp's offset.
pub const LIVE_STAMP_LEN: usize = 12;

/// The longest packet: the kernel keeps it in one page, with its own book-keeping.
pub const MAX_LIVE_PACKET: usize = 3500;

/// Frames of one batch at most (`TEST_XDP_MAX_BATCH`).
pub const MAX_LIVE_BATCH: u32 = 256;

const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// One call's repetitions: a signal ends a call, and what it had sent is counted.
const REPEAT: u64 = 1 << 20;
const HEADERS: usize = 64;

/// Live frames could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// No such device in this network namespace.
    #[error("live frames: no device {device} in this network namespace: {source}")]
    Device {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program could not be loaded.
    #[error("live frames: loading the XDP program: {0}")]
    Load(#[source] io::Error),
    /// The packet is too short or too long.
    #[error("live frames: a packet of {0} bytes: from 14 to {MAX_LIVE_PACKET} can be sent")]
    Length(usize),
    /// The stamp does not fit.
    #[error("live frames: a stamp of {LIVE_STAMP_LEN} bytes at {offset} does not fit a packet of {len}")]
    Stamp {
        /// Where it was to be.
        offset: usize,
        /// The packet's length.
        len: usize,
    },
    /// The batch is out of range.
    #[error("live frames: a batch of {0}: from 1 to {MAX_LIVE_BATCH}")]
    Batch(u32),
    /// Several flows were asked for, but the packet is not UDP over IPv4 without options or IPv6.
    #[error(
        "live frames: {0} flows need a UDP packet (IPv4 without options, or IPv6), whose source port varies"
    )]
    Flows(u16),
    /// The kernel refused a run.
    #[error("live frames on {device}: {operation}: {source}")]
    Run {
        /// The device's name.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The engine for one device. Runs on the calling thread, in the device's network namespace.
#[derive(Debug)]
pub struct LiveFrames {
    device: String,
    ifindex: u32,
    program: OwnedFd,
    runs: MapHandle,
    sequence: u64,
}

impl LiveFrames {
    /// Loads the program.
    ///
    /// # Errors
    /// [`LiveError::Device`], [`LiveError::Load`] (also without `CAP_NET_ADMIN` and `CAP_BPF`).
    pub fn open(device: &str) -> Result<Self, LiveError> {
        let ifindex = nix::net::if_::if_nametoindex(device)
            .map_err(|errno| LiveError::Device { device: device.into(), source: errno.into() })?;
        let object = bpf::load(bpf::live_frames(), &["live_frame"], &["runs"]).map_err(LiveError::Load)?;
        Ok(LiveFrames {
            device: device.into(),
            ifindex,
            program: bpf::program(&object, "live_frame").map_err(LiveError::Load)?,
            runs: bpf::map(&object, "runs").map_err(LiveError::Load)?,
            sequence: 0,
        })
    }

    /// Sets the number of the next packet; it runs on from one [`run`](Self::run) to the next.
    pub fn set_sequence(&mut self, next: u64) {
        self.sequence = next;
    }

    /// Sends `packet` out of the device `count` times, `batch` at a time, and returns how many were injected (fewer
    /// only where a signal interrupted it). Whether the other end had room for each, its counters tell.
    ///
    /// At `stamp_offset` from the packet's first byte it writes [`LIVE_STAMP_LEN`] bytes: the packet's sequence
    /// number and then `CLOCK_MONOTONIC` in nanoseconds, of each the low 48 bits, big-endian; with offset 0,
    /// nothing. With `flows` above 1 the UDP source port of packet `n` is the packet's own plus `n mod flows`. The
    /// packet's transport checksum must allow for both: zero (UDP over IPv4), or not looked at.
    ///
    /// # Errors
    /// [`LiveError`]: a packet, stamp, batch or flow count that cannot be, before anything is sent; or the kernel's
    /// refusal.
    pub fn run(
        &mut self,
        packet: &[u8],
        stamp_offset: usize,
        flows: u16,
        count: u64,
        batch: u32,
    ) -> Result<u64, LiveError> {
        let setup = self.check(packet, stamp_offset, flows, batch)?;
        let first = self.sequence;
        self.store(&setup)?;
        while self.sequence - first < count {
            let before = self.sequence;
            let repeat = (first + count - before).min(REPEAT);
            let result = self.inject(packet, repeat as i32, batch);
            self.sequence = self.load_sequence()?;
            match result {
                Ok(()) if self.sequence > before => {}
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => break,
                Err(source) => return Err(self.failed("BPF_PROG_TEST_RUN", source)),
            }
        }
        Ok(self.sequence - first)
    }

    fn check(&self, packet: &[u8], stamp_offset: usize, flows: u16, batch: u32) -> Result<Setup, LiveError> {
        let len = packet.len();
        if !(14..=MAX_LIVE_PACKET).contains(&len) {
            return Err(LiveError::Length(len));
        }
        if stamp_offset != 0 && stamp_offset.saturating_add(LIVE_STAMP_LEN) > len {
            return Err(LiveError::Stamp { offset: stamp_offset, len });
        }
        if !(1..=MAX_LIVE_BATCH).contains(&batch) {
            return Err(LiveError::Batch(batch));
        }
        let port =
            if flows > 1 { Some(udp_source_port(packet).ok_or(LiveError::Flows(flows))?) } else { None };
        let (port_offset, first_port) = port.unwrap_or((0, 0));
        let mut headers = [0; HEADERS];
        let copied = len.min(HEADERS);
        headers[..copied].copy_from_slice(&packet[..copied]);
        Ok(Setup {
            stamp_offset: stamp_offset as u32,
            port_offset: port_offset as u32,
            first_port,
            flows,
            headers,
        })
    }

    /// Writes `struct run` of `bpf/live_frames.bpf.c`.
    fn store(&self, setup: &Setup) -> Result<(), LiveError> {
        let mut value = Vec::with_capacity(24 + HEADERS);
        value.extend(self.sequence.to_ne_bytes());
        value.extend(setup.stamp_offset.to_ne_bytes());
        value.extend(setup.port_offset.to_ne_bytes());
        value.extend(u32::from(setup.first_port).to_ne_bytes());
        value.extend(u32::from(setup.flows).to_ne_bytes());
        value.extend(setup.headers);
        let stored = self.runs.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY);
        stored.map_err(|error| self.failed("writing the run's map", bpf::os_error(error)))
    }

    fn load_sequence(&self) -> Result<u64, LiveError> {
        let loaded = self.runs.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
        let value = loaded.map_err(|error| self.failed("reading the run's map", bpf::os_error(error)))?;
        let sequence =
            value.as_deref().and_then(|value| value.first_chunk()).map(|bytes| u64::from_ne_bytes(*bytes));
        sequence.ok_or_else(|| self.failed("reading the run's map", io::ErrorKind::InvalidData.into()))
    }

    fn inject(&self, packet: &[u8], repeat: i32, batch: u32) -> io::Result<()> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u32; 6] = [0, packet.len() as u32, 0, self.ifindex, 0, 0];
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            data_in: packet.as_ptr().cast(),
            data_size_in: packet.len() as u32,
            ctx_in: context.as_ptr().cast(),
            ctx_size_in: size_of_val(&context) as u32,
            repeat,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: batch,
            ..Default::default()
        };
        // SAFETY: `options` says its own size; the two inputs live through the call and have the lengths given;
        // there are no outputs.
        let code = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &mut options) };
        if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> LiveError {
        LiveError::Run { device: self.device.clone(), operation, source }
    }
}

/// What the program is told for one run.
struct Setup {
    stamp_offset: u32,
    port_offset: u32,
    first_port: u16,
    flows: u16,
    headers: [u8; HEADERS],
}

/// Offset and value of the UDP source port of an untagged packet.
fn udp_source_port(packet: &[u8]) -> Option<(usize, u16)> {
    let offset = match (packet.get(12..14)?, packet.get(14)?) {
        ([0x08, 0x00], 0x45) if *packet.get(23)? == 17 => 34,
        ([0x86, 0xdd], version) if version >> 4 == 6 && *packet.get(20)? == 17 => 54,
        _ => return None,
    };
    let port = packet.get(offset..offset + 2)?;
    Some((offset, u16::from_be_bytes([port[0], port[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_source_port_is_found_where_it_is() {
        let mut v4 = vec![0u8; 60];
        v4[12..15].copy_from_slice(&[8, 0, 0x45]);
        v4[23] = 17;
        v4[34..36].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(udp_source_port(&v4), Some((34, 0x1234)));
        v4[23] = 6;
        assert_eq!(udp_source_port(&v4), None);
        let mut v6 = vec![0u8; 60];
        v6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        v6[20] = 17;
        v6[54..56].copy_from_slice(&[0xab, 0xcd]);
        assert_eq!(udp_source_port(&v6), Some((54, 0xabcd)));
        assert_eq!(udp_source_port(&v6[..55]), None);
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = udp_source_port(&packet);
        }
    }
}
