//! Descriptors and identities over Unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Sends bytes with one descriptor.
pub fn send_with(socket: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::empty(),
        )
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// A socket in which a descriptor waits, to be received with one byte.
pub fn holding(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (to, from) = UnixStream::pair()?;
    send_with(&to, b"d", descriptor)?;
    Ok(from.into())
}

/// What came with some bytes.
#[derive(Debug, Default)]
pub struct Received {
    /// Count of bytes, 0 at the end.
    pub count: usize,
    /// A descriptor, if one was sent.
    pub descriptor: Option<OwnedFd>,
    /// The sender's pid in our pid namespace, if the socket passes credentials.
    pub sender: Option<i32>,
}

/// Receives bytes with at most one descriptor and the sender's identity.
pub fn receive_with(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<Received> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut received = Received {
        count: message.bytes,
        ..Received::default()
    };
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(descriptors) => received.descriptor = descriptors.last(),
            RecvAncillaryMessage::ScmCredentials(identity) => {
                received.sender = Some(identity.pid.as_raw_nonzero().get());
            }
            _ => {}
        }
    }
    Ok(received)
}

/// Copies what has come on a connection, without taking it or waiting for it.
pub fn peek(connection: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    Ok(rustix::net::recv(connection, bytes, flags)?.0)
}

/// Takes as many bytes as `room` has that have come on a TCP connection, which are not copied there.
pub fn discard(connection: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let (copied, taken) = rustix::net::recv(connection, room, flags)?;
    Ok(copied.max(taken))
}

/// Asks the kernel to attach the sender's identity to what is received.
pub fn pass_credentials(socket: &UnixStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_passcred(socket, true)?)
}
