//! A connected stream of bytes, which a link between machines runs over.
//!
//! The link reads and writes it from several threads. Only [`ByteStream::read`] with `wait` may wait; it ends when the
//! stream is [shut down](ByteStream::shutdown).

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

/// A connected stream of bytes: TCP as it is, or encrypted.
///
/// Reading and writing are independent: one thread may read while another writes.
pub trait ByteStream: fmt::Debug + Send + Sync {
    /// Reads what is there, at most `buffer.len()` bytes. 0 is the end of the stream. If nothing is there it waits, or
    /// fails with `WouldBlock` if it may not.
    fn read(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize>;

    /// Takes bytes to be sent, without waiting: how many it took of `slices` in their order, at least one. `WouldBlock` if
    /// there is no room for any.
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Goes on sending what [`write`](Self::write) has taken but the kernel had no room for (an encrypted stream's records),
    /// without waiting. True if nothing of it is left.
    fn flush(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// True if there are bytes to read that polling [`socket`](Self::socket) does not show.
    fn has_buffered(&self) -> bool {
        false
    }

    /// To poll: readable when there may be something to read, writable when there may be room.
    fn socket(&self) -> BorrowedFd<'_>;

    /// Ends the stream in both directions, at once and for good; whoever waits in [`read`](Self::read) comes back.
    fn shutdown(&self);
}

/// Turns a connected socket into the stream that the link runs over, within a deadline.
///
/// It is called in the process that owns the session, when the [preamble](crate::preamble) has been exchanged, for the first
/// connection as for each that resumes the session. The socket is a blocking one.
pub type Secure = Arc<dyn Fn(TcpStream, Instant) -> io::Result<Arc<dyn ByteStream>> + Send + Sync>;

/// TCP as it is.
#[derive(Debug)]
pub struct Plain {
    socket: TcpStream,
}

impl Plain {
    /// Adopts a connected, blocking socket.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket })
    }
}

impl ByteStream for Plain {
    fn read(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        let flags = match wait {
            true => RecvFlags::empty(),
            false => RecvFlags::DONTWAIT,
        };
        let (count, _) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut *buffer, flags))?;
        Ok(count)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::io::retry_on_intr(|| {
            sendmsg(&self.socket, slices, &mut SendAncillaryBuffer::default(), flags)
        })?)
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn shutdown(&self) {
        // It may be closed already; there is nothing to do about any error.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// TCP as it is, for [`Secure`].
pub fn plain() -> Secure {
    Arc::new(|socket, _| Ok(Arc::new(Plain::new(socket)?)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn nothing_but_a_read_that_may_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let left = Plain::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let right = Arc::new(Plain::new(listener.accept().unwrap().0).unwrap());
        let mut buffer = [0; 16];
        let nothing = left.read(&mut buffer, false).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let reading = Arc::clone(&right);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            let got = reading.read(&mut buffer, true).unwrap();
            (buffer[..got].to_vec(), reading.read(&mut buffer, true).unwrap())
        });
        assert_eq!(
            left.write(&[IoSlice::new(b"he"), IoSlice::new(b"llo")]).unwrap(),
            5
        );
        // A peer that does not read.
        let much = vec![0; 1 << 20];
        loop {
            match right.write(&[IoSlice::new(&much)]) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        right.shutdown();
        let (heard, end) = reader.join().unwrap();
        assert!(heard.starts_with(b"h"));
        assert!(end == 0 || heard.len() < 5);
    }
}
