//! Sending by XDP live frames: the kernel runs a program of the driver's over one packet again and again, which
//! numbers and times each copy and sends it from the device without an skb. IPv4 UDP of one size, one stream, flows
//! by source port; without a UDP checksum, since the program could not keep one up to date.

use afxdp_driver::live::{LiveError, LiveFrames};

use super::{EngineError, Sender, Taken};
use crate::traffic::Traffic;

/// Packets in one call to the kernel at most: a tenth of a second at full speed, so that what a call costs by itself
/// (see [`catch_up`](Sender::catch_up)) is the lesser part.
const CALL: u64 = 1 << 18;

/// Frames of one kernel batch.
const KERNEL_BATCH: u32 = 64;

/// Where the sequence number lies in the stamp (see [`stamp`](crate::stamp)): what the program writes begins there.
const SEQUENCE_IN_STAMP: usize = 6;

/// Sends through the live-frame mode of one device.
#[derive(Debug)]
pub struct LiveSender {
    frames: LiveFrames,
    packet: Vec<u8>,
    flows: u16,
}

impl LiveSender {
    /// Loads the program for `device`, in the calling thread's network namespace, for packets of `flows` flows.
    ///
    /// # Errors
    /// [`EngineError::Driver`] where the driver or the kernel refuses.
    pub fn open(device: &str, flows: u16) -> Result<Self, EngineError> {
        Ok(LiveSender { frames: LiveFrames::open(device).map_err(refused)?, packet: Vec::new(), flows })
    }
}

impl Sender for LiveSender {
    fn batch(&self) -> u64 {
        CALL
    }

    /// A call to the kernel costs some 30 ms to begin and to end, whatever it sends: a paced load goes out in bursts.
    fn catch_up(&self) -> u64 {
        100_000_000
    }

    fn send(&mut self, traffic: &mut Traffic, count: u64) -> Result<Taken, EngineError> {
        let Some(plan) = traffic.plan_run(count) else { return Ok(Taken::default()) };
        self.packet.resize(traffic.frame_len(&plan), 0);
        let Some(stamp_at) = traffic.write_unsummed(&plan, &mut self.packet) else {
            traffic.unsent(&plan, count);
            return Err(EngineError::Driver {
                operation: "live frames",
                reason: "only plain UDP over IPv4 can be sent: see --protocol, --dst-ip and --vxlan".into(),
            });
        };
        self.frames.set_sequence(plan.stamp.sequence);
        let result =
            self.frames.run(&self.packet, stamp_at + SEQUENCE_IN_STAMP, self.flows, count, KERNEL_BATCH);
        let sent = *result.as_ref().unwrap_or(&0);
        traffic.unsent(&plan, count.saturating_sub(sent));
        result.map_err(refused)?;
        Ok(Taken { packets: sent, bytes: sent * self.packet.len() as u64 })
    }

    fn settle(&mut self) -> Result<usize, EngineError> {
        Ok(0)
    }

    fn lost(&self) -> u64 {
        0
    }

    fn close(self: Box<Self>) -> u64 {
        0
    }
}

fn refused(error: LiveError) -> EngineError {
    EngineError::Driver { operation: "live frames", reason: error.to_string() }
}
