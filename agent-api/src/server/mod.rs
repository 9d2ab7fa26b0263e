//! A [`Dataplane`] behind gRPC: on a Unix socket, or on a loopback TCP port.
//!
//! ```text
//!   Unix socket ─┐
//!                ├─► gRPC ─► Service (messages → types, Refusal → status) ─► Dataplane
//!   loopback TCP ┘
//! ```
//!
//! * A change (`Apply`, `AddPort`, `RemovePort`) runs to its end although its caller may have gone: a transaction is
//!   not dropped half-way.
//! * On shutdown streams end, open calls have [`GRACE`] to end, the socket is removed. What has not ended by then is
//!   cut off by the end of the process.
//!
//! It is not for: TLS. TCP takes loopback addresses alone until mutual TLS is there.

mod service;
mod socket;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::contract::Dataplane;
use crate::proto::penstock_server::PenstockServer;
use service::Service;
pub use socket::UnixSocket;

/// Longest message in both directions, in bytes: the state of a cluster of 200 000 pods fits.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// How long open calls may take to end after the shutdown signal.
pub const GRACE: Duration = Duration::from_secs(2);
/// Permissions of the Unix socket: its owner and its group may connect.
pub const SOCKET_MODE: u32 = 0o660;

/// Why a server cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process serves on the socket.
    #[error("{}: another process is serving on it", path.display())]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else at the path; it is not touched.
    #[error("{}: is there and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system or the kernel would not.
    #[error("{operation} {}: {source}", path.display())]
    Socket {
        /// What was tried: "bind", "lock", …
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Plaintext on an address that others can reach.
    #[error("{address}: plaintext is for loopback addresses alone, and mutual TLS is not there yet")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The TCP port cannot be had.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The transport failed.
    #[error("serve: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves `dataplane` on a Unix socket at `path` until `shutdown` is ready. See [`UnixSocket::bind`] for what happens
/// to a socket that is there already. The socket is removed at the end.
///
/// # Errors
/// [`ServerError`], before anything is served; the transport's afterwards.
pub async fn serve_unix(
    path: impl AsRef<Path>,
    dataplane: impl Dataplane,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    UnixSocket::bind(path.as_ref(), SOCKET_MODE)?.serve(dataplane, shutdown).await
}

impl UnixSocket {
    /// Serves `dataplane` until `shutdown` is ready, then removes the socket.
    ///
    /// # Errors
    /// The transport's.
    pub async fn serve(
        self,
        dataplane: impl Dataplane,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServerError> {
        let (listener, claim) = self.into_parts();
        let result = run(UnixListenerStream::new(listener), dataplane, shutdown).await;
        drop(claim);
        result
    }
}

/// Serves `dataplane` in plaintext on a loopback `address` until `shutdown` is ready.
///
/// # Errors
/// [`ServerError::NotLoopback`] for any other address, [`ServerError::Listen`] where the port cannot be had, and the
/// transport's.
pub async fn serve_tcp(
    address: SocketAddr,
    dataplane: impl Dataplane,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let listener = listen(address).await?;
    run(TcpListenerStream::new(listener), dataplane, shutdown).await
}

/// Listens on a loopback `address`, for [`serve_listener`].
async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    if !address.ip().is_loopback() {
        return Err(ServerError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

/// Serves `dataplane` in plaintext on a listener that the caller has made (socket activation, port 0).
///
/// # Errors
/// [`ServerError::NotLoopback`] where it listens on any other address, and the transport's.
pub async fn serve_listener(
    listener: TcpListener,
    dataplane: impl Dataplane,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    if let Ok(address) = listener.local_addr()
        && !address.ip().is_loopback()
    {
        return Err(ServerError::NotLoopback { address });
    }
    run(TcpListenerStream::new(listener), dataplane, shutdown).await
}

async fn run<I, C>(
    incoming: I,
    dataplane: impl Dataplane,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError>
where
    I: Stream<Item = io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (stop, stopping) = watch::channel(false);
    let service = PenstockServer::new(Service::new(Arc::new(dataplane), stopping.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let signal = async {
        shutdown.await;
        stop.send_replace(true);
    };
    let serving = Server::builder().serve_with_incoming_shutdown(service, incoming, signal);
    let mut stopped = stopping;
    let patience = async move {
        // The sender outlives this: there is no other error.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = serving => result.map_err(ServerError::from),
        () = patience => Ok(()),
    }
}
