//! [`Echoes`]: servers that answer with their name and what they were sent, TCP and UDP, in any namespace. One runtime
//! serves all of them: hundreds cost nothing while nobody asks.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use policy_compiler::evaluate::ProbeProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::conformance::case::{Flow, Place};
use crate::netns::Namespace;

/// Longest question.
const LONGEST: usize = 512;
/// After a failed accept: the system is short of something.
const PAUSE: Duration = Duration::from_millis(10);

/// Servers by where they are and what they listen on.
#[derive(Debug, Default)]
pub(super) struct Echoes(BTreeMap<(Place, bool, u16), JoinHandle<()>>);

impl Echoes {
    /// Somebody listens for this flow. ICMP is the kernel's own to answer.
    ///
    /// # Errors
    /// Where the port is taken.
    pub(super) fn start(&mut self, runtime: &Runtime, namespace: &Namespace, flow: &Flow) -> Result<()> {
        let tcp = match flow.protocol {
            ProbeProtocol::Tcp => true,
            ProbeProtocol::Udp => false,
            ProbeProtocol::Sctp | ProbeProtocol::Icmp => return Ok(()),
        };
        let key = (flow.to.place.clone(), tcp, flow.port);
        if self.0.contains_key(&key) {
            return Ok(());
        }
        let (name, port) = (flow.to.place.to_string(), flow.port);
        let task = if tcp {
            serve_tcp(runtime, namespace, port, name)
        } else {
            serve_udp(runtime, namespace, port, name)
        };
        let task = task.with_context(|| format!("a server of {}, port {port}", flow.to.place))?;
        self.0.insert(key, task);
        Ok(())
    }

    /// The servers of a place that has gone end.
    pub(super) fn stop(&mut self, place: &Place) {
        self.0.retain(|(at, ..), task| {
            if at == place {
                task.abort();
            }
            at != place
        });
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}

fn serve_tcp(runtime: &Runtime, namespace: &Namespace, port: u16, name: String) -> Result<JoinHandle<()>> {
    let listener = namespace.run(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
    listener.set_nonblocking(true)?;
    let _inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(runtime.spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let name = name.clone();
                    tokio::spawn(async move {
                        let mut buffer = vec![0; LONGEST];
                        // A client that goes away is a client's business.
                        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                            if stream.write_all(&answer(&name, &buffer[..length])).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }))
}

fn serve_udp(runtime: &Runtime, namespace: &Namespace, port: u16, name: String) -> Result<JoinHandle<()>> {
    let socket = namespace.run(move || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))??;
    socket.set_nonblocking(true)?;
    let _inside = runtime.enter();
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    Ok(runtime.spawn(async move {
        let mut buffer = vec![0; LONGEST];
        loop {
            match socket.recv_from(&mut buffer).await {
                // The peer may have gone; it is the one that judges.
                Ok((length, peer)) => drop(socket.send_to(&answer(&name, &buffer[..length]), peer).await),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }))
}

/// The server's name, a blank, and what it was sent.
pub(super) fn answer(name: &str, question: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b" ", question].concat()
}
