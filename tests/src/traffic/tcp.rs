//! TCP: who answers, whether anyone answers, and bulk data whose every byte is checked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Digest, Outcome, fill};
use crate::netns::Namespace;

/// How long a server's threads wait for a peer before they look whether they should end.
const TICK: Duration = Duration::from_millis(50);

/// A server that answers each line with its name and the client's address as it sees it. Ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// Listens inside `namespace` on `port` of every address, of both families.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace, port: u16, name: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let listener = namespace.run(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let listener = listener.with_context(|| format!("{name}: TCP port {port}"))?;
        listener.set_nonblocking(true)?;
        let (name, stopping) = (name.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || accept_until(&listener, &stopping, &name));
        Ok(NameServer { stop, threads: vec![thread] })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has printed why; the client's check fails by itself.
            let _ = thread.join();
        }
    }
}

/// What a [`NameServer`] has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client's address as the server saw it.
    pub seen: IpAddr,
}

/// Opens one connection and asks `requests` times who is there.
///
/// # Errors
/// With the outcome, where it cannot connect or an answer stays away for `patience`.
pub fn who(
    namespace: &Namespace,
    to: SocketAddr,
    requests: usize,
    patience: Duration,
) -> Result<Vec<Answer>, Outcome> {
    let asked = namespace.run(move || -> std::io::Result<Vec<Answer>> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut answers = Vec::with_capacity(requests);
        for _ in 0..requests {
            stream.write_all(b"who?\n")?;
            let mut line = String::new();
            lines.read_line(&mut line)?;
            answers.push(parse_answer(&line)?);
        }
        Ok(answers)
    });
    match asked {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(Outcome::of(&error)),
        Err(error) => Err(Outcome::Failed(error.to_string())),
    }
}

/// Whether a [`NameServer`] at `to` answers one question within `patience`.
pub fn probe(namespace: &Namespace, to: SocketAddr, patience: Duration) -> Outcome {
    match who(namespace, to, 1, patience) {
        Ok(_) => Outcome::Answered,
        Err(outcome) => outcome,
    }
}

/// Sends `bytes` of pseudo-random data from one namespace to the other and compares both ends' digests.
/// Returns bytes a second.
///
/// # Errors
/// Where the data does not arrive whole within `patience`.
pub fn bulk(
    from: &Namespace,
    to: &Namespace,
    address: SocketAddr,
    bytes: u64,
    patience: Duration,
) -> Result<f64> {
    let listener = to.run(move || TcpListener::bind((unspecified(address.ip()), address.port())))??;
    listener.set_nonblocking(true)?;
    let receiver = std::thread::spawn(move || receive_whole(&listener, patience));
    let begin = Instant::now();
    let sent = from.run(move || send_whole(address, bytes, patience))?;
    let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
    let (sent, (count, got)) = (sent.context("sending")?, received.context("receiving")?);
    ensure!(count == bytes, "{count} of {bytes} bytes arrived");
    ensure!(sent == got, "the bytes that arrived are not those that were sent");
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

fn accept_until(listener: &TcpListener, stop: &Arc<AtomicBool>, name: &str) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                let (name, stop) = (name.to_owned(), Arc::clone(stop));
                connections.push(std::thread::spawn(move || {
                    // A client that goes away mid-line is a client's business.
                    let _ = answer(stream, peer, &name, &stop);
                }));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        connections.retain(|connection| !connection.is_finished());
    }
}

fn answer(mut stream: TcpStream, peer: SocketAddr, name: &str, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_nodelay(true)?;
    let mut buffer = [0_u8; 512];
    while !stop.load(Ordering::Relaxed) {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if Outcome::of(&error) == Outcome::Silent => continue,
            Err(error) => return Err(error),
        };
        let questions = buffer.iter().take(length).filter(|&&byte| byte == b'\n').count();
        for _ in 0..questions {
            writeln!(stream, "{name} {}", peer.ip().to_canonical())?;
        }
    }
    Ok(())
}

fn parse_answer(line: &str) -> std::io::Result<Answer> {
    let parsed = line
        .trim()
        .split_once(' ')
        .and_then(|(name, seen)| Some(Answer { name: name.to_owned(), seen: seen.parse().ok()? }));
    parsed.ok_or_else(|| {
        if line.is_empty() {
            std::io::Error::from(std::io::ErrorKind::ConnectionReset)
        } else {
            std::io::Error::other(format!("not an answer: {line:?}"))
        }
    })
}

fn receive_whole(listener: &TcpListener, patience: Duration) -> Result<(u64, u64)> {
    let (mut stream, _) = crate::wait_for("a connection", patience, || Ok(listener.accept().ok()))?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    let (mut digest, mut count, mut buffer) = (Digest::default(), 0_u64, vec![0_u8; 1 << 16]);
    loop {
        let length = stream.read(&mut buffer).with_context(|| format!("after {count} bytes"))?;
        if length == 0 {
            return Ok((count, digest.value()));
        }
        digest.add(&buffer[..length]);
        count += length as u64;
    }
}

fn send_whole(to: SocketAddr, bytes: u64, patience: Duration) -> Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_write_timeout(Some(patience))?;
    let (mut digest, mut state, mut left) = (Digest::default(), bytes | 1, bytes);
    let mut buffer = vec![0_u8; 1 << 16];
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = &mut buffer[..length];
        fill(&mut state, chunk);
        stream.write_all(chunk).with_context(|| format!("with {left} bytes to go"))?;
        digest.add(chunk);
        left -= length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(digest.value())
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
