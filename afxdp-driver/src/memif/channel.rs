//! [`Channel`], [`Listener`]: the control socket (`AF_UNIX`, `SOCK_SEQPACKET`). Nothing here blocks.

use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};

use super::message::{MESSAGE_LEN, Message, MessageError};
use super::refusal::Refusal;

/// Descriptors that a single message can carry (`SCM_MAX_FD`): with room for all of them none is lost unseen.
const MAX_DESCRIPTORS: usize = 253;
/// Clients that wait to be accepted.
const BACKLOG: i32 = 16;
/// Who may connect: owner and group.
const SOCKET_MODE: u32 = 0o660;

/// A connected control socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Connects to a server.
    pub(crate) fn connect(socket: &str) -> io::Result<Self> {
        let fd = new_socket()?;
        connect(&fd, &address(socket)?)?;
        Ok(Channel { socket: fd })
    }

    /// Sends a message, with a descriptor where there is one. A peer that does not read is at fault: its socket's
    /// buffer has room for the few messages that there are.
    pub(crate) fn send(&self, message: &Message, attached: Option<BorrowedFd<'_>>) -> Result<(), Refusal> {
        let bytes = message.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = attached.map(|fd| [fd]);
        if let Some(descriptors) = &descriptors {
            // There is room for it.
            let _ = control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(Refusal::Hangup),
            Err(error) => Err(Refusal::Socket { operation: "sendmsg", source: error.into() }),
        }
    }

    /// The next message and what came along with it; `None` where none waits.
    pub(crate) fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, Refusal> {
        // One byte more than a message: a longer one is seen to be.
        let mut bytes = [0; MESSAGE_LEN + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(rustix::io::Errno::CONNRESET) => return Err(Refusal::Hangup),
            Err(error) => return Err(Refusal::Socket { operation: "recvmsg", source: error.into() }),
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|part| match part {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Err(Refusal::Hangup);
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            let source = io::Error::other("descriptors were lost: is RLIMIT_NOFILE reached?");
            return Err(Refusal::Socket { operation: "recvmsg", source });
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(MessageError::Length(received.bytes.max(MESSAGE_LEN + 1)).into());
        }
        Ok(Some((Message::decode(bytes.get(..received.bytes).unwrap_or_default())?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A server's socket. A path is removed again when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// Where it is, and as which file: it may have been replaced when it is to be removed.
    path: Option<(PathBuf, FileIdentity)>,
}

/// Device and inode.
type FileIdentity = (u64, u64);

impl Listener {
    /// Listens on `socket`. A path on which nobody listens any more is taken over.
    pub(crate) fn bind(socket: &str) -> Result<Self, (&'static str, io::Error)> {
        let fd = new_socket().map_err(|error| ("socket", error))?;
        let address = address(socket).map_err(|error| ("address", error))?;
        let path = (!socket.starts_with('@')).then(|| PathBuf::from(socket));
        // The mode that the path is made with, less the umask: nobody gets in between bind and chmod.
        fchmod(&fd, Mode::from_raw_mode(SOCKET_MODE)).map_err(|error| ("fchmod", error.into()))?;
        let mut bound = bind(&fd, &address);
        if let (Err(rustix::io::Errno::ADDRINUSE), Some(path)) = (bound, &path)
            && is_socket(path)
            && is_abandoned(&address)
        {
            std::fs::remove_file(path).map_err(|error| ("removing the abandoned socket", error))?;
            bound = bind(&fd, &address);
        }
        bound.map_err(|error| ("bind", error.into()))?;
        if let Some(path) = &path {
            let mode = Permissions::from_mode(SOCKET_MODE);
            std::fs::set_permissions(path, mode).map_err(|error| ("chmod", error))?;
        }
        let path = path.and_then(|path| identity(&path).map(|identity| (path, identity)));
        let listener = Listener { socket: fd, path };
        listen(&listener.socket, BACKLOG).map_err(|error| ("listen", error.into()))?;
        Ok(listener)
    }

    /// The next client that waits.
    pub(crate) fn accept(&self) -> io::Result<Option<Channel>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Channel { socket })),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, made)) = &self.path
            && identity(path) == Some(*made)
        {
            // Someone may have removed it by now.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> Option<FileIdentity> {
    let facts = std::fs::symlink_metadata(path).ok()?;
    Some((facts.dev(), facts.ino()))
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
}

/// Whether a path is a socket that nobody listens on.
fn is_abandoned(address: &SocketAddrUnix) -> bool {
    new_socket().is_ok_and(|probe| connect(&probe, address) == Err(rustix::io::Errno::CONNREFUSED))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(socket: &str) -> io::Result<SocketAddrUnix> {
    Ok(match socket.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(socket)?,
    })
}
