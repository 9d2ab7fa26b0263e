//! Captures: sent again (`pktgen replay`), and written from the same options that a run sends by (`pktgen build`).

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use afxdp_driver::PacketIo;
use afxdp_driver::pcap::{ETHERNET, PcapError, PcapReader, PcapWriter};

use crate::check;
use crate::clock::monotonic_ns;
use crate::drive::{Sent, Shared};
use crate::engine::port::PortSender;
use crate::engine::{EngineError, Sender, xdp};
use crate::mix::MAX_FRAME;
use crate::netlink;
use crate::options::{BuildOptions, OptionsError, ReplayOptions, TxEngine};
use crate::place::{self, PlaceError, Role};
use crate::progress::{self, Ends};
use crate::rate::{FCS, Pacer};
use crate::report::{Report, TxReport};
use crate::run::{Failure, sent_report};
use crate::stamp::UNTIMED;

/// Bytes of a capture that are held in memory at most.
const MOST_BYTES: usize = 1 << 30;
/// Bytes of an Ethernet header.
const ETHERNET_HEADER: usize = 14;
/// Bytes of the longest frame that can be sent.
const LONGEST: usize = MAX_FRAME - FCS;
/// How long a wait is slept at a time: what is on its way is looked after in between.
const NAP: Duration = Duration::from_millis(1);
/// Before a packet's time the last of the wait is spun: a sleep may overshoot by as much.
const SPIN: u64 = 100_000;

/// A packet of a capture and its time since the first, in nanoseconds.
struct Packet {
    after: u64,
    frame: Vec<u8>,
}

/// What a capture holds, and what of it cannot be sent.
struct Capture {
    packets: Vec<Packet>,
    /// Cut off when they were captured, shorter than an Ethernet header, or longer than the device or a chunk takes.
    left_out: u64,
}

/// What a replaying thread brings back.
struct Replayed {
    sent: Sent,
    mode: String,
    lost: u64,
    /// Left out of the capture, passes over it not counted.
    left_out: u64,
    /// Packets of one pass.
    packets: u64,
    device_dropped: u64,
}

/// `pktgen replay`: sends a capture, by its own times or at a rate.
///
/// # Errors
/// [`Failure`] where the options are impossible, the file is no capture of Ethernet, or the end fails.
pub fn replay(options: &ReplayOptions, shared: &Shared) -> Result<Report, Failure> {
    check::replaying(options)?;
    let capture = read(options)?;
    let replayed = thread::scope(|scope| {
        let sender = scope.spawn(|| replaying_end(options, capture, shared));
        progress::watch(shared, Ends::Sender, options.output.progress, || sender.is_finished());
        sender.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    let replayed = replayed.map_err(|source| Failure::Engine { end: "sender", source })?;
    let mut report = Report::new("replay", shared.is_interrupted());
    if replayed.left_out > 0 {
        let why = "cut off when captured, no Ethernet frames, or longer than the device takes";
        report.notes.push(format!("{} packets of the capture were left out: {why}", replayed.left_out));
    }
    let asked = options.loops.checked_mul(replayed.packets).filter(|&asked| asked > 0);
    let tx = TxReport {
        asked_rate: options.rate.map_or("the capture's own times".into(), |rate| rate.to_string()),
        asked_pps: pace(options, &replayed.sent)?.flatten(),
        asked_packets: asked,
        lost_at_sender: replayed.lost,
        device_dropped: replayed.device_dropped,
        ..sent_report(TxEngine::Xdp, &options.tx, replayed.mode, &replayed.sent)
    };
    report.notes.extend(tx.notes());
    report.tx = Some(tx);
    Ok(report)
}

/// Reads the packets that can be sent, with the MAC addresses that are asked for.
fn read(options: &ReplayOptions) -> Result<Capture, Failure> {
    let failed = |error: &dyn Error| failure(&options.file, error);
    let file = File::open(&options.file).map_err(|error| failed(&error))?;
    let mut reader = PcapReader::new(BufReader::new(file)).map_err(|error| failed(&error))?;
    if reader.link_type() != ETHERNET {
        return Err(failed(&PcapError::LinkType(reader.link_type())));
    }
    let (mut capture, mut bytes, mut first) = (Capture { packets: Vec::new(), left_out: 0 }, 0, None);
    for record in &mut reader {
        let record = record.map_err(|error| failed(&error))?;
        let mut frame = record.data;
        if frame.len() < (record.original_len as usize).max(ETHERNET_HEADER) || frame.len() > LONGEST {
            capture.left_out += 1;
            continue;
        }
        bytes += frame.len();
        if bytes > MOST_BYTES {
            let reason = format!("more than {MOST_BYTES} bytes of packets");
            return Err(Failure::File { file: options.file.display().to_string(), reason });
        }
        for (mac, at) in [(options.dst_mac, 0), (options.src_mac, 6)] {
            if let (Some(mac), Some(field)) = (mac, frame.get_mut(at..at + 6)) {
                field.copy_from_slice(&mac.0);
            }
        }
        let start = *first.get_or_insert(record.time_ns);
        capture.packets.push(Packet { after: record.time_ns.saturating_sub(start), frame });
    }
    if capture.packets.is_empty() {
        let reason = "it holds no packet that can be sent".into();
        return Err(Failure::File { file: options.file.display().to_string(), reason });
    }
    Ok(capture)
}

/// The whole life of a replaying thread.
fn replaying_end(
    options: &ReplayOptions,
    mut capture: Capture,
    shared: &Shared,
) -> Result<Replayed, EngineError> {
    place::enter(options.tx.tx_netns.as_deref())?;
    place::pin(options.tx.tx_core, Role::Sender)?;
    let missing = OptionsError::Missing { flag: "--tx-device", why: "to send on" };
    let device = options.tx.tx_device.as_deref().ok_or(missing)?;
    let link = netlink::link(device).map_err(PlaceError::from)?;
    let before = capture.packets.len();
    capture.packets.retain(|packet| packet.frame.len() <= link.mtu as usize + ETHERNET_HEADER);
    capture.left_out += (before - capture.packets.len()) as u64;
    let all = Sent {
        packets: capture.packets.len() as u64,
        bytes: capture.packets.iter().map(|packet| packet.frame.len() as u64).sum(),
        ..Sent::default()
    };
    let rate = pace(options, &all)?;
    let (mut sender, mode) = xdp::sender(device, options.tx.tx_queue)?;
    let mut sent = Sent::default();
    let mut passes = 0;
    while !shared.stopping() && all.packets > 0 && (options.loops == 0 || passes < options.loops) {
        pass(&mut sender, &capture.packets, rate, shared, &mut sent)?;
        passes += 1;
    }
    sent.last = sent.first.map(|_| monotonic_ns());
    let lost = Box::new(sender).close();
    let device_dropped = place::dropped_since(device, &link);
    Ok(Replayed { sent, mode, lost, left_out: capture.left_out, packets: all.packets, device_dropped })
}

/// Sends every packet once, each at its time: the rate's, or the capture's own where there is no rate.
fn pass<P: PacketIo>(
    sender: &mut PortSender<P>,
    packets: &[Packet],
    rate: Option<Option<f64>>,
    shared: &Shared,
    sent: &mut Sent,
) -> Result<(), EngineError> {
    let start = monotonic_ns();
    let mut pacer = rate.map(|rate| Pacer::new(rate, start));
    for packet in packets {
        // 1. Its time.
        loop {
            let now = monotonic_ns();
            let at = match &mut pacer {
                Some(pacer) => {
                    if pacer.due(now) > 0 {
                        now
                    } else {
                        pacer.next_at()
                    }
                }
                None => start.saturating_add(packet.after),
            };
            if at <= now || shared.stopping() {
                break;
            }
            sender.settle()?;
            if at - now > SPIN {
                thread::sleep(Duration::from_nanos(at - now - SPIN).min(NAP));
            }
        }
        // 2. Room for it.
        while !shared.stopping() && !sender.send_frame(&packet.frame)? {
            thread::yield_now();
        }
        if shared.stopping() {
            break;
        }
        // 3. The books.
        if let Some(pacer) = &mut pacer {
            pacer.take(1);
        }
        sent.first.get_or_insert_with(monotonic_ns);
        sent.packets += 1;
        sent.bytes += packet.frame.len() as u64;
        shared.sent.store(sent.packets, Ordering::Relaxed);
    }
    sent.forfeited += pacer.map_or(0, |pacer| pacer.forfeited());
    Ok(())
}

/// The rate in packets a second; `None` where the capture's own times are kept, `Some(None)` as fast as possible.
fn pace(options: &ReplayOptions, frames: &Sent) -> Result<Option<Option<f64>>, OptionsError> {
    let mean = frames.bytes as f64 / frames.packets.max(1) as f64;
    let speed = options.link_speed.map(|speed| speed.0);
    Ok(options.rate.map(|rate| rate.packets_per_second(mean, speed)).transpose()?)
}

/// `pktgen build`: writes what a run would send to a capture, its times set by the rate. The stamps carry no send
/// time: whoever receives them takes no latency. Answers how many packets were written.
///
/// # Errors
/// [`Failure`] where the options are impossible or the file cannot be written.
pub fn build(options: &BuildOptions) -> Result<u64, Failure> {
    let nobody = check::nominal_macs(&options.traffic);
    let mut traffic = options.traffic.traffic(None, nobody)?;
    let speed = options.link_speed.map(|speed| speed.0);
    let rate = options.rate.packets_per_second(traffic.mean_frame(), speed).map_err(OptionsError::from)?;
    let failed = |error: &dyn Error| failure(&options.file, error);
    let file = File::create(&options.file).map_err(|error| failed(&error))?;
    let mut writer = PcapWriter::new(BufWriter::new(file)).map_err(|error| failed(&error))?;
    let mut frame = Vec::new();
    while writer.records() < options.count
        && let Some(plan) = traffic.plan()
    {
        frame.resize(traffic.frame_len(&plan), 0);
        // The frame has the plan's own length: `write` has no reason to refuse.
        let written = traffic.write(&plan, UNTIMED, &mut frame);
        debug_assert!(written, "a template of another length");
        let time = rate.map_or(0.0, |rate| writer.records() as f64 * 1e9 / rate);
        writer.write(time as u64, &frame).map_err(|error| failed(&error))?;
    }
    let written = writer.records();
    writer.finish().map_err(|error| failed(&error))?;
    Ok(written)
}

fn failure(file: &Path, error: &dyn Error) -> Failure {
    Failure::File { file: file.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afxdp_driver::memory::MemoryPort;
    use afxdp_driver::{FramePool, HugePages};

    fn packets(times: &[u64]) -> Vec<Packet> {
        let frame = |number: usize| vec![number as u8; 60 + number % 100];
        times
            .iter()
            .enumerate()
            .map(|(number, after)| Packet { after: *after, frame: frame(number) })
            .collect()
    }

    fn replayed(packets: &[Packet], rate: Option<Option<f64>>, shared: &Shared) -> (Sent, Vec<Vec<u8>>) {
        let (port, wire) = MemoryPort::new(16);
        let mut sender = PortSender::new(port, FramePool::anonymous(48, HugePages::Never).unwrap());
        let mut sent = Sent::default();
        pass(&mut sender, packets, rate, shared, &mut sent).unwrap();
        assert_eq!(Box::new(sender).close(), 0);
        (sent, wire.drain())
    }

    #[test]
    fn every_packet_is_sent_once_in_order_with_little_room_on_the_wire() {
        let packets = packets(&[0; 1000]);
        for rate in [None, Some(None), Some(Some(100_000.0))] {
            let (sent, frames) = replayed(&packets, rate, &Shared::default());
            assert_eq!((sent.packets, frames.len()), (1000, 1000));
            assert_eq!(sent.bytes, frames.iter().map(|frame| frame.len() as u64).sum::<u64>());
            assert!(frames.iter().eq(packets.iter().map(|packet| &packet.frame)));
        }
    }

    #[test]
    fn the_captures_own_times_are_kept() {
        let begin = monotonic_ns();
        let (sent, frames) = replayed(&packets(&[0, 10_000_000, 30_000_000]), None, &Shared::default());
        assert_eq!((sent.packets, frames.len()), (3, 3));
        assert!(monotonic_ns() - begin >= 30_000_000);
    }

    #[test]
    fn stopping_ends_a_long_wait() {
        let shared = Shared::default();
        shared.stop();
        let (sent, frames) = replayed(&packets(&[0, 3_600_000_000_000]), None, &shared);
        assert_eq!((sent.packets, frames.len()), (0, 0));
    }
}
