//! Connections that home hands to a node on its own machine, beside the link: a socket on which each message is the number of an
//! object and its descriptor. What may be done with them, and when, the link says ([`streams`](crate::streams)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// One end. Nothing waits: what does not fit is refused.
#[derive(Debug)]
pub struct Hatch(OwnedFd);

impl From<OwnedFd> for Hatch {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Hatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Hatch {
    /// Both ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Hands over an object.
    ///
    /// # Errors
    /// The kernel's; `EAGAIN` if too much waits already.
    pub fn give(&self, handle: u64, object: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let objects = [object];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&objects)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let bytes = handle.to_le_bytes();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
        Ok(())
    }

    /// The next object; `None` if no more have come. One for which this process has no descriptor left comes without.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` if the other end says what it must not.
    pub fn take(&self) -> io::Result<Option<(u64, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 8];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
                Err(Errno::AGAIN) => return Ok(None),
                received => received?,
            };
        if received.bytes != bytes.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let object = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut objects) => objects.next(),
            _ => None,
        });
        Ok(Some((u64::from_le_bytes(bytes), object)))
    }
}

/// A guest's connection, of which this process has a descriptor, too.
#[derive(Debug)]
pub struct Connection(Option<OwnedFd>);

impl From<OwnedFd> for Connection {
    fn from(socket: OwnedFd) -> Self {
        Self(Some(socket))
    }
}

impl Connection {
    /// The descriptor, for as long as this is there.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(close);
    }
}

/// Closes a descriptor of a guest's connection. If that is the last of it, and its guest wanted that to wait, it waits in a thread of its own.
pub fn close(socket: OwnedFd) {
    let waits = matches!(rustix::net::sockopt::socket_linger(&socket), Ok(Some(time)) if !time.is_zero());
    if waits {
        // Without a thread it waits here.
        let _ = std::thread::Builder::new().spawn(move || drop(socket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_with_their_numbers() {
        let (home, node) = Hatch::pair().unwrap();
        assert!(node.take().unwrap().is_none());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        home.give(7, writer.as_fd()).unwrap();
        home.give(u64::MAX, reader.as_fd()).unwrap();
        drop(reader);
        let (handle, there) = node.take().unwrap().unwrap();
        rustix::io::write(there.unwrap(), b"x").unwrap();
        assert_eq!(handle, 7);
        let (handle, there) = node.take().unwrap().unwrap();
        assert_eq!(rustix::io::read(there.unwrap(), &mut [0; 2]).unwrap(), 1);
        assert_eq!(handle, u64::MAX);
        drop(node);
        assert!(home.give(7, writer.as_fd()).is_err());
    }

    #[test]
    fn what_lingers_holds_up_nobody() {
        use std::io::Write;
        let time = std::time::Duration::from_secs(100);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (guest, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_linger(&guest, Some(time)).unwrap();
        // More than the peer, who does not read, has room for.
        guest.set_nonblocking(true).unwrap();
        while (&guest).write(&[0; 65536]).is_ok() {}
        let start = std::time::Instant::now();
        let connection = Connection::from(OwnedFd::from(guest));
        assert!(connection.socket().is_some());
        drop(connection);
        assert!(start.elapsed() < time / 2);
        drop(peer);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_makes_no_sense_too() {
        let (home, node) = Hatch::pair().unwrap();
        let any = std::io::stdin();
        let given = (0..10_000)
            .take_while(|&handle| home.give(handle, any.as_fd()).is_ok())
            .count();
        assert!(given > 0 && given < 10_000);
        for _ in 0..given {
            assert!(node.take().unwrap().is_some());
        }
        rustix::io::write(&home, b"short").unwrap();
        assert!(node.take().is_err());
        rustix::io::write(&home, &7u64.to_le_bytes()).unwrap();
        assert!(matches!(node.take(), Ok(Some((7, None)))));
        drop(home);
        assert!(node.take().is_err());
    }
}
