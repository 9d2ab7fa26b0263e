//! Transfers that go on while the world around them changes: how much has arrived, and when what arrived was sent.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::clock_ns;
use crate::netns::Namespace;

/// Sequence number and time of sending, each eight bytes, and padding up to here.
const RECORD: usize = 64;

/// How fast records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One record, then a rest of this length: each goes out as a segment of its own, and its stamp is the time it
    /// was handed to TCP.
    Every(Duration),
    /// This many records in one write, without a rest: a bulk transfer.
    Bulk(usize),
}

/// A TCP connection from one namespace to another with an endless stream of stamped records on it.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    socket: TcpStream,
    sender: JoinHandle<std::io::Result<u64>>,
    receiver: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    finish: AtomicBool,
    received: AtomicU64,
    newest_ns: AtomicU64,
    arrived_ns: AtomicU64,
}

/// What has arrived so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Records, each in its place: a gap or an exchange is an error of the stream.
    pub records: u64,
    /// When the newest of them was sent, on [`clock_ns`]'s clock.
    pub newest_ns: u64,
    /// When the newest of them arrived.
    pub arrived_ns: u64,
}

impl Stream {
    /// Connects `from` to `address`, which must be one of `to`'s (or lead there), and starts to send.
    ///
    /// # Errors
    /// When it cannot connect within `patience`.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        listen_port: u16,
        address: SocketAddr,
        pace: Pace,
        patience: Duration,
    ) -> Result<Self> {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let listener = to.run(move || TcpListener::bind((any, listen_port)))??;
        listener.set_nonblocking(true)?;
        let socket = from.run(move || TcpStream::connect_timeout(&address, patience))??;
        let (peer, _) =
            crate::wait_for("the connection at the server", patience, || Ok(listener.accept().ok()))?;
        peer.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        let shared = Arc::new(Shared::default());
        let (mut out, sending) = (socket.try_clone()?, Arc::clone(&shared));
        let sender = std::thread::spawn(move || send(&mut out, &sending, pace));
        let receiving = Arc::clone(&shared);
        let receiver = std::thread::spawn(move || receive(peer, &receiving));
        Ok(Stream { shared, socket, sender, receiver })
    }

    /// What has arrived so far.
    pub fn progress(&self) -> Progress {
        Progress {
            records: self.shared.received.load(Ordering::Acquire),
            newest_ns: self.shared.newest_ns.load(Ordering::Acquire),
            arrived_ns: self.shared.arrived_ns.load(Ordering::Acquire),
        }
    }

    /// Waits until something sent after now has arrived.
    ///
    /// # Errors
    /// When nothing has after `patience`.
    pub fn wait_flow(&self, patience: Duration) -> Result<()> {
        let now = clock_ns();
        crate::wait_for("new data at the receiver", patience, || {
            Ok((self.progress().newest_ns > now).then_some(()))
        })
    }

    /// Stops sending, lets what is on its way arrive and checks that all of it has, in order. Returns the number
    /// of records.
    ///
    /// # Errors
    /// When the connection broke, or the stream that arrived is not the one sent.
    pub fn finish(self) -> Result<u64> {
        self.shared.finish.store(true, Ordering::Relaxed);
        let sent = self
            .sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))?
            .context("the sender's connection")?;
        self.socket.shutdown(Shutdown::Write)?;
        self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?.context("the receiver")?;
        let received = self.shared.received.load(Ordering::Acquire);
        ensure!(sent == received, "{sent} records sent, {received} arrived");
        Ok(received)
    }

    /// Breaks the connection off, whatever state it is in.
    pub fn abandon(self) {
        self.shared.finish.store(true, Ordering::Relaxed);
        // It may be broken already: that is what is wanted.
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.sender.join();
        drop(self.receiver);
    }
}

fn send(socket: &mut TcpStream, shared: &Shared, pace: Pace) -> std::io::Result<u64> {
    let count = match pace {
        Pace::Every(_) => 1,
        Pace::Bulk(count) => count,
    };
    let mut buffer = vec![0_u8; RECORD * count];
    let mut next = 0_u64;
    while !shared.finish.load(Ordering::Relaxed) {
        for record in buffer.chunks_exact_mut(RECORD) {
            record[..8].copy_from_slice(&next.to_be_bytes());
            record[8..16].copy_from_slice(&clock_ns().to_be_bytes());
            next += 1;
        }
        socket.write_all(&buffer)?;
        if let Pace::Every(rest) = pace {
            std::thread::sleep(rest);
        }
    }
    Ok(next)
}

fn receive(mut peer: TcpStream, shared: &Shared) -> Result<()> {
    // A cut may last: what matters then is what has not arrived, not that the socket gave up.
    peer.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut buffer = vec![0_u8; 1 << 16];
    let (mut filled, mut next) = (0, 0_u64);
    loop {
        let length = peer.read(&mut buffer[filled..])?;
        if length == 0 {
            ensure!(filled == 0, "the stream ends within a record");
            return Ok(());
        }
        filled += length;
        let whole = filled - filled % RECORD;
        let mut newest = 0;
        for record in buffer[..whole].chunks_exact(RECORD) {
            let sequence = u64::from_be_bytes(record[..8].try_into()?);
            ensure!(sequence == next, "record {sequence} in the place of {next}");
            next += 1;
            newest = u64::from_be_bytes(record[8..16].try_into()?);
        }
        if whole > 0 {
            shared.newest_ns.store(newest, Ordering::Release);
            shared.arrived_ns.store(clock_ns(), Ordering::Release);
            shared.received.store(next, Ordering::Release);
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}
