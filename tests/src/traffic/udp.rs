//! UDP: echo with the server's name, and what the network says about a datagram.

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Outcome, fill};
use crate::netns::Namespace;

/// A server that sends each datagram back with its name and a blank before it. Ends when dropped.
#[derive(Debug)]
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Listens inside `namespace` on `port` of every address, of both families.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace, port: u16, name: &str) -> Result<Self> {
        let socket = namespace.run(move || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let socket = socket.with_context(|| format!("{name}: UDP port {port}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, name) = (Arc::clone(&stop), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0_u8; 1 << 16];
            while !stopping.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let mut reply = format!("{name} ").into_bytes();
                    reply.extend_from_slice(&buffer[..length]);
                    // The peer may have gone; it is the one that judges.
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        Ok(EchoServer { stop, thread: Some(thread) })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has printed why; the client's check fails by itself.
            let _ = thread.join();
        }
    }
}

/// How a datagram is sent.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Bytes of payload.
    pub size: usize,
    /// TTL or hop limit; `None` for the system's.
    pub ttl: Option<u32>,
    /// How long to wait for the answer.
    pub patience: Duration,
}

impl Default for Ask {
    fn default() -> Self {
        Ask { size: 64, ttl: None, patience: Duration::from_secs(2) }
    }
}

/// Sends one datagram of pseudo-random bytes and waits for the same from an [`EchoServer`]; its name is returned.
///
/// # Errors
/// With the outcome; ICMP errors that quote the datagram come as [`Outcome::Refused`], [`Outcome::Unreachable`] or
/// [`Outcome::Failed`] ("Message too long").
pub fn ask(namespace: &Namespace, to: SocketAddr, how: Ask) -> Result<String, Outcome> {
    match namespace.run(move || exchange(to, how)) {
        Ok(Ok(name)) => Ok(name),
        Ok(Err(error)) => Err(Outcome::of(&error)),
        Err(error) => Err(Outcome::Failed(error.to_string())),
    }
}

fn exchange(to: SocketAddr, how: Ask) -> std::io::Result<String> {
    let local: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local)?;
    // Every ICMP error that quotes us is wanted, also those the kernel takes for passing.
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    match (how.ttl, to.is_ipv4()) {
        (Some(ttl), true) => socket.set_ttl(ttl)?,
        (Some(ttl), false) => setsockopt(&socket, sockopt::Ipv6Ttl, &i32::try_from(ttl).unwrap_or(64))?,
        (None, _) => {}
    }
    socket.connect(to)?;
    socket.set_read_timeout(Some(how.patience))?;
    let mut payload = vec![0_u8; how.size];
    fill(&mut (how.size as u64 | 1), &mut payload);
    socket.send(&payload)?;
    let mut buffer = vec![0_u8; 1 << 16];
    let length = socket.recv(&mut buffer)?;
    let reply = &buffer[..length];
    let blank = reply.iter().position(|&byte| byte == b' ').ok_or(Error::from(ErrorKind::InvalidData))?;
    let (name, echoed) = reply.split_at(blank);
    if echoed.get(1..) != Some(payload.as_slice()) {
        return Err(Error::new(
            ErrorKind::InvalidData,
            "the datagram that came back is not the one that was sent",
        ));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
