//! The stream that a link runs over between machines.

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use afield_rpc::stages::{Stage, mark};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::SecureError;
use super::handshake::Secured;
use super::record::{Opener, PLAIN_BYTES_MAX, Sealer};
use crate::byte_stream::ByteStream;

/// Most bytes that are made records of at a time.
const TAKEN_BYTES_MAX: usize = 16 * PLAIN_BYTES_MAX;

/// An authenticated and encrypted stream.
#[derive(Debug)]
pub struct SecureStream {
    socket: TcpStream,
    sending: Mutex<Sending>,
    opener: Mutex<Opener>,
}

#[derive(Debug)]
struct Sending {
    sealer: Sealer,
    /// Records, from `sent` on not yet with the kernel.
    records: Vec<u8>,
    sent: usize,
}

impl Sending {
    /// Gives the kernel what it has room for. True if nothing is left.
    fn push(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while self.sent < self.records.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::io::retry_on_intr(|| send(socket, &self.records[self.sent..], flags)) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
        self.records.clear();
        self.sent = 0;
        Ok(true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SecureStream {
    /// The stream of a connection whose handshake is done.
    pub fn new(secured: Secured) -> io::Result<Self> {
        secured.socket.set_nodelay(true)?;
        Ok(Self {
            socket: secured.socket,
            sending: Mutex::new(Sending {
                sealer: secured.sealer,
                records: Vec::new(),
                sent: 0,
            }),
            opener: Mutex::new(secured.opener),
        })
    }
}

impl ByteStream for SecureStream {
    fn read(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        let flags = match wait {
            true => RecvFlags::empty(),
            false => RecvFlags::DONTWAIT,
        };
        let receive = |room: &mut [u8]| {
            let (count, _) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut *room, flags))?;
            mark(Stage::Arrived);
            Ok(count)
        };
        let read = lock(&self.opener).read(buffer, receive);
        if read.is_ok() {
            mark(Stage::Decrypted);
        }
        read
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut sending = lock(&self.sending);
        let sending = &mut *sending;
        if !sending.push(&self.socket)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut room = TAKEN_BYTES_MAX;
        let parts = slices.iter().map(|slice| {
            let taken = slice.len().min(room);
            room -= taken;
            &slice[..taken]
        });
        let taken = sending
            .sealer
            .seal(parts, &mut sending.records)
            .map_err(io::Error::other)?;
        mark(Stage::Encrypted);
        sending.push(&self.socket)?;
        Ok(taken)
    }

    fn flush(&self) -> io::Result<bool> {
        lock(&self.sending).push(&self.socket)
    }

    fn has_buffered(&self) -> bool {
        match self.opener.try_lock() {
            Ok(opener) => opener.has_buffered(),
            Err(TryLockError::Poisoned(opener)) => opener.into_inner().has_buffered(),
            // Whoever reads takes it.
            Err(TryLockError::WouldBlock) => false,
        }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn shutdown(&self) {
        // It may be closed already; there is nothing to do about any error.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl From<SecureError> for io::Error {
    fn from(error: SecureError) -> Self {
        match error {
            SecureError::Io(error) => error,
            SecureError::Timeout => Self::new(io::ErrorKind::TimedOut, error.to_string()),
            error => Self::other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::{Identity, accept, connect};
    use super::*;

    #[test]
    fn much_goes_both_ways_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        let (home, node) = (Identity::ephemeral().unwrap(), Identity::ephemeral().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        let serving = std::thread::spawn(move || accept(far, &node, deadline).unwrap());
        let near = connect(near, &home, None, deadline).unwrap();
        let ends = [near, serving.join().unwrap()].map(|end| Arc::new(SecureStream::new(end).unwrap()));
        assert_eq!(
            ends[0].read(&mut [0; 8], false).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        const TOTAL: usize = 3 << 20;
        let mut threads = Vec::new();
        for (writing, reading) in [(0, 1), (1, 0)] {
            let (writer, reader) = (Arc::clone(&ends[writing]), Arc::clone(&ends[reading]));
            threads.push(std::thread::spawn(move || {
                let piece: Vec<u8> = (0..100_000_u32).map(|number| (number % 253) as u8).collect();
                let mut sent = 0;
                while sent < TOTAL {
                    let from = sent % piece.len();
                    let end = piece.len().min(from + TOTAL - sent);
                    let (left, right) = piece[from..end].split_at((end - from) / 2);
                    match writer.write(&[IoSlice::new(left), IoSlice::new(right)]) {
                        Ok(count) => sent += count,
                        Err(error) => {
                            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                            std::thread::yield_now();
                        }
                    }
                }
                while !writer.flush().unwrap() {
                    std::thread::yield_now();
                }
            }));
            threads.push(std::thread::spawn(move || {
                let (mut buffer, mut got) = (vec![0; 30_000], 0);
                while got < TOTAL {
                    let count = reader.read(&mut buffer, true).unwrap();
                    assert!(count > 0);
                    for (place, byte) in buffer[..count].iter().enumerate() {
                        assert_eq!(usize::from(*byte), (got + place) % 100_000 % 253);
                    }
                    got += count;
                }
            }));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        ends[0].shutdown();
        assert_eq!(ends[1].read(&mut [0; 8], true).unwrap(), 0);
        assert!(ends[1].has_buffered());
    }
}
