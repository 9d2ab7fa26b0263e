//! Sending and receiving whole frames through any [`PacketIo`].

use std::time::{Duration, Instant};

use afxdp_driver::{BATCH_SIZE, Batch, FramePool, PacketIo};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{EngineError, Receiver, Sender, Taken};
use crate::clock::monotonic_ns;
use crate::locate::{Look, locate};
use crate::meter::Meter;
use crate::traffic::Traffic;

/// How long a closing port is given to bring its last frames home.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Sends through one port.
pub struct PortSender<P> {
    port: P,
    pool: FramePool,
    /// Written, and not yet taken by the port. Goes before anything new.
    pending: Batch,
}

impl<P: PacketIo> PortSender<P> {
    /// A sender through `port`, which gets its frames from `pool`.
    pub fn new(port: P, pool: FramePool) -> Self {
        PortSender { port, pool, pending: Batch::new() }
    }

    /// Sends one frame as it is. False where there is no room for it at the moment, or it is longer than a chunk.
    ///
    /// # Errors
    /// [`EngineError`] where the engine cannot go on.
    pub fn send_frame(&mut self, bytes: &[u8]) -> Result<bool, EngineError> {
        if self.pending.is_full() {
            self.push()?;
        }
        let frame = if self.pending.is_full() { None } else { self.pool.alloc() };
        let Some(mut frame) = frame else {
            self.push()?;
            return Ok(false);
        };
        if !frame.fill(bytes) {
            self.pool.free(frame);
            return Ok(false);
        }
        self.pending.push(frame);
        if self.pending.is_full() {
            self.push()?;
        }
        Ok(true)
    }

    fn push(&mut self) -> Result<(), EngineError> {
        self.port.send(&mut self.pool, &mut self.pending);
        if self.port.in_flight() > 0 {
            self.port.flush(&mut self.pool)?;
        }
        Ok(())
    }
}

impl<P: PacketIo> Sender for PortSender<P> {
    fn send(&mut self, traffic: &mut Traffic, count: u64) -> Result<Taken, EngineError> {
        let mut taken = Taken::default();
        if !self.pending.is_empty() {
            self.push()?;
            if !self.pending.is_empty() {
                return Ok(taken);
            }
        }
        let now = monotonic_ns();
        while taken.packets < count && !self.pending.is_full() {
            let Some(mut frame) = self.pool.alloc() else { break };
            let Some(plan) = traffic.plan() else {
                self.pool.free(frame);
                break;
            };
            // Options are checked against the chunk's size; a frame that does not fit would be sent empty, not wrong.
            let len = traffic.frame_len(&plan);
            let written = frame.resize(len) && traffic.write(&plan, now, &mut frame);
            debug_assert!(written, "a template longer than a chunk");
            taken.packets += 1;
            taken.bytes += len as u64;
            self.pending.push(frame);
        }
        self.push()?;
        Ok(taken)
    }

    fn settle(&mut self) -> Result<usize, EngineError> {
        self.push()?;
        Ok(self.pending.len() + self.port.in_flight())
    }

    fn lost(&self) -> u64 {
        self.port.counters().tx_lost
    }

    fn close(mut self: Box<Self>) -> u64 {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while Instant::now() < deadline && matches!(self.settle(), Ok(left) if left > 0) {
            std::thread::yield_now();
        }
        let lost = self.pending.len() as u64 + self.port.in_flight() as u64 + self.port.counters().tx_lost;
        let PortSender { port, mut pool, pending } = *self;
        pending.into_iter().for_each(|frame| pool.free(frame));
        port.close(&mut pool);
        lost
    }
}

/// Receives from the ports of one device, a port a queue.
pub struct PortReceiver<P> {
    ports: Vec<P>,
    pool: FramePool,
    batch: Batch,
    look: Look,
    overflow: fn(&P) -> u64,
}

impl<P: PacketIo> PortReceiver<P> {
    /// A receiver from `ports`, which all get their frames from `pool`; `overflow` says of a port how many frames
    /// it had no room for. From here on, what comes has a place.
    pub fn new(mut ports: Vec<P>, mut pool: FramePool, look: Look, overflow: fn(&P) -> u64) -> Self {
        let mut batch = Batch::new();
        for port in &mut ports {
            // Receives nothing, and gives the kernel chunks to receive into.
            port.receive(&mut pool, &mut batch, 0);
        }
        PortReceiver { ports, pool, batch, look, overflow }
    }
}

impl<P: PacketIo> Receiver for PortReceiver<P> {
    fn receive(&mut self, meter: &mut Meter, patience: Duration) -> Result<usize, EngineError> {
        let mut received = 0;
        for port in &mut self.ports {
            received += port.receive(&mut self.pool, &mut self.batch, BATCH_SIZE);
            let now = monotonic_ns();
            for frame in self.batch.drain(..) {
                meter.observe(locate(&frame, self.look), now, frame.len());
                self.pool.free(frame);
            }
        }
        if received == 0 && !patience.is_zero() {
            wait(&self.ports, patience)?;
        }
        Ok(received)
    }

    fn overflow(&self) -> u64 {
        self.ports.iter().map(self.overflow).sum()
    }

    fn close(mut self: Box<Self>) {
        for port in self.ports.drain(..) {
            port.close(&mut self.pool);
        }
    }
}

/// Waits until one of the ports has something, or `patience` is over. A port that cannot be waited on is looked at
/// again soon.
fn wait<P: PacketIo>(ports: &[P], patience: Duration) -> Result<(), EngineError> {
    let fds: Option<Vec<_>> =
        ports.iter().map(|port| port.poll_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN))).collect();
    let Some(mut fds) = fds else {
        std::thread::sleep(patience.min(Duration::from_micros(200)));
        return Ok(());
    };
    match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(EngineError::Poll(errno.into())),
    }
}
