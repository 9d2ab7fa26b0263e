//! [`Live`]: a connection over which both ends go on speaking; both are held here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Result, ensure};

use crate::lab::Pod;
use crate::stage::PATIENCE;

/// An established TCP connection.
#[derive(Debug)]
pub struct Live {
    /// Who opened it.
    pub client: TcpStream,
    /// Who took it.
    pub server: TcpStream,
}

impl Live {
    /// From a pod to an address that leads to the listener; they have spoken once.
    ///
    /// # Errors
    /// Where it is not established, or nothing comes by.
    pub fn open(listener: &TcpListener, from: &Pod, to: SocketAddr) -> Result<Self> {
        let client = from.namespace.run(move || TcpStream::connect_timeout(&to, PATIENCE))??;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_nodelay(true)?;
        }
        let mut live = Live { client, server };
        live.talk()?;
        Ok(live)
    }

    /// A byte there and one back.
    ///
    /// # Errors
    /// Where one does not arrive, or is another.
    pub fn talk(&mut self) -> Result<()> {
        let mut byte = [0];
        self.client.write_all(b"?")?;
        self.server.read_exact(&mut byte)?;
        self.server.write_all(b"!")?;
        self.client.read_exact(&mut byte)?;
        ensure!(&byte == b"!", "the answer is {byte:?}");
        Ok(())
    }
}
