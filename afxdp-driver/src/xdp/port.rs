//! [`AfXdpPort`]: one queue of a device.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use xsk_rs::config::BindFlags;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::config::{AttachConfig, AttachError, AttachMode, Steering, ZeroCopy};
use super::program::{DeviceProgram, RETRY_PAUSE, Slot};
use crate::frame::{BATCH_SIZE, CHUNK_SIZE};
use crate::held::Held;
use crate::steering::SteeringTable;
use crate::txring::TxRing;
use crate::umem::{Anchor, Queues, UmemHandle, socket_config};
use crate::{Batch, FramePool, PacketIo, PortCounters, PortError, cpu, holder, sockopt};

/// What one `sendto` takes without `XDP_MAX_TX_SKB_BUDGET` (the kernel's `TX_BATCH_SIZE`).
const KERNEL_TX_BATCH: u32 = 32;
/// What the longest frame counts for in a send buffer: the next power of two above it, and the kernel's own part.
const TRUESIZE: u32 = 4096 + 256;
/// How long a closing port waits for frames that the kernel is still sending.
const DRAIN: Duration = Duration::from_millis(50);
/// Bytes of an Ethernet header: less is no frame.
const ETHERNET_HEADER: usize = 14;

/// One queue of a device as batches of frames. Made by [`attach`](Self::attach), on any thread; then moved to the
/// worker that owns the pool.
///
/// Dropped without [`close`](PacketIo::close) or [`finish`](Self::finish) it detaches and closes as well, but the
/// chunks that the kernel held are lost to the pool.
pub struct AfXdpPort {
    device: String,
    mode: AttachMode,
    counters: PortCounters,
    umem: UmemHandle,
    held: Held,
    /// Chunks that the kernel has to receive into, and how many it should have.
    filled: u32,
    fill_target: u32,
    /// Of those, the ones that came from the pool's reserve without the pool's knowing yet.
    unbooked: u32,
    /// Within a packet of several fragments, the last of which has not come.
    in_fragments: bool,
    scratch: Box<[FrameDesc; BATCH_SIZE]>,
    rings: Rings,
}

/// In the order in which they are to be dropped.
struct Rings {
    slot: Slot,
    sending: Sending,
    rx: RxQueue,
    fill: FillQueue,
}

/// The kernel's own counters of a socket (`XDP_STATISTICS`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct XdpStats {
    /// Packets dropped for other reasons than the next two, such as a packet too long for its chunk.
    pub rx_dropped: u64,
    /// Descriptors in the fill ring that were not of the UMEM.
    pub rx_invalid_descs: u64,
    /// Descriptors in the transmit ring that the kernel refused.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Packets dropped because the fill ring was empty: the pool is too small, or leaks.
    pub rx_fill_ring_empty_descs: u64,
    /// Kicks that found the transmit ring empty.
    pub tx_ring_empty_descs: u64,
}

impl XdpStats {
    fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let stats: libc::xdp_statistics = sockopt::read(socket, libc::SOL_XDP, libc::XDP_STATISTICS)?;
        Ok(XdpStats {
            rx_dropped: stats.rx_dropped,
            rx_invalid_descs: stats.rx_invalid_descs,
            tx_invalid_descs: stats.tx_invalid_descs,
            rx_ring_full: stats.rx_ring_full,
            rx_fill_ring_empty_descs: stats.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: stats.tx_ring_empty_descs,
        })
    }
}

/// Reads a port's [`XdpStats`] from any thread. It keeps the socket, and so the queue, taken: to be dropped before the
/// port is closed.
#[derive(Debug)]
pub struct StatsReader {
    socket: OwnedFd,
}

impl StatsReader {
    /// The kernel's counters of the port's socket.
    ///
    /// # Errors
    /// What `getsockopt` says.
    pub fn read(&self) -> io::Result<XdpStats> {
        XdpStats::of(self.socket.as_fd())
    }
}

/// What a closed port leaves: the chunks that the kernel held, to be given to
/// [`FramePool::take_home`](crate::FramePool::take_home) by the pool's thread.
#[must_use = "the chunks are lost to the pool unless it takes them home"]
#[derive(Debug)]
pub struct ClosedPort {
    pub(crate) umem: UmemHandle,
    pub(crate) chunks: Vec<u32>,
    /// Of those, the ones that came from the pool's reserve without the pool's knowing yet.
    pub(crate) unbooked: u32,
    /// The port's counters at its end.
    pub counters: PortCounters,
}

impl AfXdpPort {
    /// Loads and attaches the XDP program to a device, and binds a socket to one queue. For devices with one queue;
    /// see [`join`](Self::join) for more. To be called on a control thread, in the device's network namespace; a
    /// busy queue or device is tried again for [`busy_retry`](AttachConfig::busy_retry).
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left behind.
    pub fn attach(config: &AttachConfig, umem: &UmemHandle) -> Result<Self, AttachError> {
        config.check()?;
        let program = DeviceProgram::load(&config.device, config.steering)?;
        let port = AfXdpPort::bind(config, umem, &program)?;
        // Last, when the kernel has chunks to receive into: what arrives from here on is not lost.
        match program.link(config.mode, config.busy_retry) {
            Ok(()) => Ok(port.announced()),
            Err(error) => {
                umem.deposit(port.finish().chunks);
                Err(error)
            }
        }
    }

    /// Binds a socket to one more queue of a device whose program is attached already
    /// ([`DeviceProgram::attach`]); `mode` and `steering` of the configuration are the program's.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left behind.
    pub fn join(
        config: &AttachConfig,
        umem: &UmemHandle,
        program: &DeviceProgram,
    ) -> Result<Self, AttachError> {
        config.check()?;
        AfXdpPort::bind(config, umem, program).map(AfXdpPort::announced)
    }

    /// Binds a socket to one queue for sending alone: no XDP program is attached to the device, and all that it
    /// receives stays with the kernel. For the other end of a Penstock port, which must have no program (a pod's
    /// own device). `mode` and `steering` of the configuration mean nothing here; [`mode`](Self::mode) says generic.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left behind.
    pub fn send_only(config: &AttachConfig, umem: &UmemHandle) -> Result<Self, AttachError> {
        config.check()?;
        let program = DeviceProgram::load(&config.device, Steering::All)?;
        AfXdpPort::bind(config, umem, &program).map(AfXdpPort::announced)
    }

    /// The device's name at the time of attaching.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How the port is attached.
    pub fn mode(&self) -> AttachMode {
        AttachMode { native: self.program().is_native(), ..self.mode }
    }

    /// The device's program, to join further queues or read its verdicts.
    pub fn program(&self) -> &DeviceProgram {
        self.rings.slot.program()
    }

    /// The table that steers a port with [`Steering::Uplink`](super::Steering); to be kept by the control thread.
    pub fn steering(&self) -> Option<SteeringTable> {
        self.program().steering()
    }

    /// The kernel's counters of this socket.
    ///
    /// # Errors
    /// What `getsockopt` says.
    pub fn kernel_stats(&self) -> io::Result<XdpStats> {
        XdpStats::of(self.socket_fd())
    }

    /// The same counters for another thread, while the port is with its worker.
    ///
    /// # Errors
    /// Where no further descriptor can be had.
    pub fn stats_reader(&self) -> io::Result<StatsReader> {
        Ok(StatsReader { socket: self.socket_fd().try_clone_to_owned()? })
    }

    /// Ends the port on whatever thread: detaches the program, waits up to 50 ms for frames still being sent,
    /// closes the socket (which may take some 30 ms more). A worker that cannot wait moves the port to a control
    /// thread for this and takes the result home afterwards.
    pub fn finish(mut self) -> ClosedPort {
        // 1. No more packets are steered here.
        let Rings { slot, mut sending, rx, fill } = self.rings;
        drop(slot);
        // 2. What is being sent leaves, or time is up.
        let mut chunks = Vec::with_capacity(self.held.count());
        let deadline = Instant::now() + DRAIN;
        while sending.in_flight > 0 && Instant::now() < deadline {
            let kicked = sending.kick(&mut self.counters);
            let done =
                sending.reap(&mut self.scratch, &self.umem, &mut self.held, |chunk| chunks.push(chunk));
            if kicked.is_err() {
                break; // The device is gone; nothing more will leave.
            }
            if done == 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.counters.tx_discarded += u64::from(sending.tx.pending().saturating_sub(sending.unseen_losses));
        // 3. Rings unmapped and socket closed: the kernel touches no chunk after this.
        drop((sending, rx, fill));
        // 4. So all that it held is ours.
        chunks.extend(self.held.take_all());
        ClosedPort { umem: self.umem, chunks, unbooked: self.unbooked, counters: self.counters }
    }

    fn bind(config: &AttachConfig, umem: &UmemHandle, program: &DeviceProgram) -> Result<Self, AttachError> {
        let Queues { tx: socket, rx, mut fill, completion } = bind_queue(config, umem)?;
        let failed = |operation| {
            let (device, queue) = (config.device.clone(), config.queue);
            move |source| AttachError::Socket { device, queue, operation, source }
        };
        let fd = raw_socket(&socket);
        let options: u32 =
            sockopt::read(fd, libc::SOL_XDP, libc::XDP_OPTIONS).map_err(failed("reading XDP_OPTIONS"))?;
        let zero_copy = options & libc::XDP_OPTIONS_ZEROCOPY != 0;
        if config.zero_copy == ZeroCopy::Require && !zero_copy {
            let reason = "the kernel bound the socket in copy mode".into();
            return Err(AttachError::ZeroCopy { device: config.device.clone(), reason });
        }
        let budget = match sockopt::write(fd, libc::SOL_XDP, sockopt::XDP_MAX_TX_SKB_BUDGET, config.tx_ring) {
            Ok(()) => config.tx_ring,
            Err(_) => KERNEL_TX_BATCH, // before Linux 6.17
        };
        if config.holds_up && budget != KERNEL_TX_BATCH {
            // A kernel that knows the budget also holds the sender up. Whoever may attach may do this.
            sockopt::write(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, config.tx_ring * TRUESIZE / 2)
                .map_err(failed("raising the send buffer (SO_SNDBUFFORCE)"))?;
        }
        let tx = TxRing::map(fd, config.tx_ring).map_err(failed("mapping the transmit ring"))?;
        let mut held = Held::new(umem.chunks());
        let filled = prefill(&mut fill, umem, &mut held, config.fill);
        let slot = match program.insert(config.queue, fd) {
            Ok(slot) => slot,
            Err(source) => {
                // Closed first: the kernel touches no chunk after that.
                drop((tx, socket, rx, fill, completion));
                umem.deposit(held.take_all());
                return Err(failed("entering the socket into the program's map")(source));
            }
        };
        let sending = Sending {
            tx,
            socket,
            completion,
            in_flight: 0,
            kicks: config.tx_ring.div_ceil(budget) + 4,
            unseen_losses: 0,
            zero_copy,
        };
        Ok(AfXdpPort {
            device: config.device.clone(),
            mode: AttachMode { native: program.is_native(), zero_copy },
            counters: PortCounters::default(),
            umem: umem.clone(),
            held,
            filled,
            fill_target: config.fill,
            unbooked: filled,
            in_fragments: false,
            scratch: Box::new([FrameDesc::default(); BATCH_SIZE]),
            rings: Rings { slot, sending, rx, fill },
        })
    }

    fn announced(self) -> Self {
        tracing::info!(device = self.device, queue = self.queue(), mode = %self.mode(), "port attached");
        self
    }

    fn queue(&self) -> u32 {
        self.rings.slot.queue()
    }

    fn socket_fd(&self) -> BorrowedFd<'_> {
        raw_socket(&self.rings.sending.socket)
    }

    /// Takes one received descriptor: a whole packet becomes a frame, anything else goes home.
    #[inline]
    fn accept(&mut self, descriptor: FrameDesc, pool: &mut FramePool, batch: &mut Batch) -> bool {
        let (address, len) = (descriptor.addr(), descriptor.lengths().data());
        let Some(chunk) = self.umem.chunk_at(address).filter(|&chunk| self.held.remove(chunk)) else {
            // Not a chunk that the kernel had of this port: nothing is known of its owner, so it is left alone.
            self.counters.rx_invalid += 1;
            return false;
        };
        self.filled = self.filled.saturating_sub(1);
        let head = address % CHUNK_SIZE;
        let (continues, was_continued) = (descriptor.has_more_frames(), self.in_fragments);
        self.in_fragments = continues;
        if continues || was_continued {
            self.counters.rx_oversize += u64::from(!continues);
            pool.return_chunk(chunk);
            return false;
        }
        if len > CHUNK_SIZE - head {
            self.counters.rx_invalid += 1;
            pool.return_chunk(chunk);
            return false;
        }
        self.counters.rx_packets += 1;
        self.counters.rx_bytes += len as u64;
        let frame = pool.frame(chunk, head, len);
        // The kernel has written it on another core, or long ago: the batch is read only when all of it is here.
        frame.prefetch();
        batch.push(frame);
        true
    }

    /// Gives the kernel chunks until it has as many as it should, or the pool has none.
    fn refill(&mut self, pool: &mut FramePool) {
        while self.filled < self.fill_target {
            let wanted = (self.fill_target - self.filled).min(BATCH_SIZE as u32);
            let room = self.rings.fill.nb_free(wanted).min(wanted) as usize;
            let mut count = 0;
            while count < room
                && let Some(chunk) = pool.take_chunk()
            {
                self.held.insert(chunk);
                self.scratch[count] = self.umem.descriptor(chunk);
                count += 1;
            }
            // SAFETY: each descriptor is of this UMEM (the pool is, see `receive`), and its chunk was just taken
            // from the free list, so no frame and no other ring has it.
            let produced = unsafe { self.rings.fill.produce(&self.scratch[..count]) };
            // `produce` takes all or, without room, none; there was room.
            for descriptor in &self.scratch[produced.min(count)..count] {
                let chunk = self.umem.chunk_at(descriptor.addr());
                if let Some(chunk) = chunk.filter(|&chunk| self.held.remove(chunk)) {
                    pool.return_chunk(chunk);
                }
            }
            self.filled += produced as u32;
            if produced < wanted as usize {
                break;
            }
        }
        if self.rings.sending.zero_copy && self.rings.fill.needs_wakeup() {
            wake_receiver(self.socket_fd());
        }
    }
}

impl PacketIo for AfXdpPort {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        if !pool.is_of(&self.umem) {
            debug_assert!(false, "a port was given a pool that is not its own");
            return 0;
        }
        if self.unbooked > 0 {
            pool.book(std::mem::take(&mut self.unbooked));
            pool.restock();
        }
        let room = batch.remaining_capacity().min(most);
        // SAFETY: the descriptors are plain output; the ring is that of the UMEM the port was attached to.
        let count = unsafe { self.rings.rx.consume(&mut self.scratch[..room]) };
        let mut received = 0;
        for index in 0..count {
            received += usize::from(self.accept(self.scratch[index], pool, batch));
        }
        self.refill(pool);
        received
    }

    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        if !pool.is_of(&self.umem) {
            debug_assert!(false, "a port was given a pool that is not its own");
            return 0;
        }
        let sending = &mut self.rings.sending;
        let room = (sending.tx.room(batch.len() as u32) as usize).min(batch.len());
        for frame in batch.drain(..room) {
            let (head, len) = (frame.headroom(), frame.len());
            if len < ETHERNET_HEADER {
                // The kernel would refuse it without ever giving the chunk back.
                self.counters.tx_lost += 1;
                pool.free(frame);
                continue;
            }
            let Some(chunk) = pool.reclaim(frame) else {
                self.counters.tx_lost += 1;
                continue;
            };
            self.held.insert(chunk);
            sending.tx.push((chunk as usize * CHUNK_SIZE + head) as u64, len as u32);
            sending.in_flight += 1;
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += len as u64;
        }
        sending.tx.publish();
        room
    }

    fn flush(&mut self, pool: &mut FramePool) -> Result<(), PortError> {
        if !pool.is_of(&self.umem) {
            debug_assert!(false, "a port was given a pool that is not its own");
            return Ok(());
        }
        let sending = &mut self.rings.sending;
        if sending.in_flight == 0 {
            return Ok(());
        }
        let began = cpu::cycles();
        let kicked = sending.kick(&mut self.counters);
        self.counters.kernel_cycles += cpu::cycles().wrapping_sub(began);
        sending.reap(&mut self.scratch, &self.umem, &mut self.held, |chunk| pool.return_chunk(chunk));
        kicked.map_err(|source| {
            let device = self.device.clone();
            match source.raw_os_error() {
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => PortError::Gone { device, source },
                _ => PortError::Io { device, operation: "sendto", source },
            }
        })
    }

    fn in_flight(&self) -> usize {
        self.rings.sending.in_flight
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket_fd())
    }

    fn close(self, pool: &mut FramePool) {
        pool.take_home(self.finish());
    }
}

/// The transmitting half. In the order in which the fields are to be dropped.
struct Sending {
    tx: TxRing,
    socket: TxQueue,
    completion: CompQueue,
    /// Frames sent and not completed.
    in_flight: usize,
    /// Kicks in one flush at most.
    kicks: u32,
    /// Frames lost (`EBUSY`) since the consumer index last moved: the kernel shows them only with the next one sent.
    unseen_losses: u32,
    zero_copy: bool,
}

impl Sending {
    /// Makes the kernel take what is in the ring, as far as it does so within a bounded number of calls:
    /// EAGAIN with progress → again; without → the next turn; EBUSY → one frame lost, again.
    fn kick(&mut self, counters: &mut PortCounters) -> io::Result<()> {
        for _ in 0..self.kicks {
            if self.tx.pending() == self.unseen_losses || !self.tx.needs_wakeup() {
                break;
            }
            let before = self.tx.consumer();
            let result = send_ring(raw_socket(&self.socket));
            let after = self.tx.consumer();
            if after != before {
                self.unseen_losses = 0;
            }
            match result.as_ref().err().map(io::Error::raw_os_error) {
                None if self.zero_copy => break,
                None => {}
                Some(Some(libc::EINTR)) => {}
                Some(Some(libc::EAGAIN | libc::ENOBUFS)) if after != before => {}
                Some(Some(libc::EAGAIN | libc::ENOBUFS)) => break,
                Some(Some(libc::EBUSY)) if self.zero_copy => break,
                Some(Some(libc::EBUSY)) => self.count_loss(before, after, counters),
                Some(_) => return result,
            }
        }
        Ok(())
    }

    /// Books the frame that the last call consumed and lost. It is the last one consumed; where the call sent
    /// nothing before it, the kernel has not yet shown that it consumed it.
    fn count_loss(&mut self, before: u32, after: u32, counters: &mut PortCounters) {
        let lost = if after == before {
            self.unseen_losses += 1;
            before.wrapping_add(self.unseen_losses - 1)
        } else {
            after.wrapping_sub(1)
        };
        counters.tx_lost += 1;
        counters.tx_packets = counters.tx_packets.saturating_sub(1);
        counters.tx_bytes = counters.tx_bytes.saturating_sub(u64::from(self.tx.len_at(lost)));
    }

    /// Brings home what the kernel has completed; returns how many.
    fn reap(
        &mut self,
        scratch: &mut [FrameDesc; BATCH_SIZE],
        umem: &UmemHandle,
        held: &mut Held,
        mut home: impl FnMut(u32),
    ) -> usize {
        let mut total = 0;
        loop {
            // SAFETY: the descriptors are plain output; the ring is that of the UMEM the port was attached to.
            let count = unsafe { self.completion.consume(scratch) };
            for descriptor in &scratch[..count] {
                // A chunk that this port has not given to the kernel is left alone: its owner is unknown.
                if let Some(chunk) = umem.chunk_at(descriptor.addr()).filter(|&chunk| held.remove(chunk)) {
                    home(chunk);
                }
            }
            total += count;
            if count < scratch.len() {
                break;
            }
        }
        self.in_flight = self.in_flight.saturating_sub(total);
        total
    }
}

/// Binds a socket, trying again while the queue is busy.
fn bind_queue(config: &AttachConfig, umem: &UmemHandle) -> Result<Queues, AttachError> {
    let started = Instant::now();
    loop {
        let error = match bind_once(config, umem)? {
            Ok(queues) => return Ok(queues),
            Err(error) => error,
        };
        let (device, queue, waited) = (config.device.clone(), config.queue, started.elapsed());
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(AttachError::Socket { device, queue, operation: "bind", source: error });
        }
        if waited >= config.busy_retry {
            let holder = holder::describe(&config.device, queue);
            return Err(AttachError::Busy { device, queue, waited, holder });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Gives the kernel chunks of the pool's reserve; returns how many. For a fresh fill ring.
fn prefill(fill: &mut FillQueue, umem: &UmemHandle, held: &mut Held, target: u32) -> u32 {
    let mut chunks = umem.withdraw(target as usize);
    let descriptors: Vec<FrameDesc> = chunks.iter().map(|&chunk| umem.descriptor(chunk)).collect();
    // SAFETY: each descriptor is of this UMEM, and its chunk was just taken from the reserve, so no frame, no free list
    // and no other ring has it.
    let produced = unsafe { fill.produce(&descriptors) };
    umem.deposit(chunks.drain(produced.min(descriptors.len())..));
    chunks.iter().for_each(|&chunk| held.insert(chunk));
    chunks.len() as u32
}

/// The outer error is final, the inner one the kernel's.
fn bind_once(config: &AttachConfig, umem: &UmemHandle) -> Result<io::Result<Queues>, AttachError> {
    let with = |copy_mode: BindFlags| {
        let flags = copy_mode | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG;
        let socket = socket_config(config.rx_ring, config.tx_ring, flags)?;
        umem.bind(&config.device, config.queue, socket)
    };
    let refuse = |reason: String| Err(AttachError::ZeroCopy { device: config.device.clone(), reason });
    match (umem.anchor(), config.zero_copy) {
        (Anchor::Private, ZeroCopy::Require) => refuse(
            "the pool's anchor is private, which means copy mode: make it with Anchor::FirstPort".into(),
        ),
        (Anchor::Private, _) | (_, ZeroCopy::Never) => Ok(with(BindFlags::XDP_COPY)),
        (Anchor::FirstPort, ZeroCopy::Require) => match with(BindFlags::XDP_ZEROCOPY) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => refuse(error.to_string()),
            other => Ok(other),
        },
        (Anchor::FirstPort, ZeroCopy::Auto) => match with(BindFlags::XDP_ZEROCOPY) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                tracing::debug!(device = config.device, %error, "no zero-copy here: using copy mode");
                Ok(with(BindFlags::XDP_COPY))
            }
            other => Ok(other),
        },
    }
}

fn raw_socket(queue: &TxQueue) -> BorrowedFd<'_> {
    // SAFETY: the queue owns the socket and keeps it open as long as the borrow lasts.
    unsafe { BorrowedFd::borrow_raw(queue.fd().as_raw_fd()) }
}

/// Makes the kernel work on the transmit ring.
fn send_ring(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let code = unsafe {
        libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a zero-copy driver look at the fill ring. Its answer tells nothing that the rings do not.
fn wake_receiver(socket: BorrowedFd<'_>) {
    // SAFETY: no buffer and no address are passed.
    unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
    }
}
