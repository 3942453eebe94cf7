//! The servers.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::net::SocketFlags;

use super::{BLOCK_BYTES, END, EVENTS, IDLE, IDLE_SECONDS, REQUEST_BYTES, wait};

/// Mark of the listener among the connections' numbers.
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    request: [u8; REQUEST_BYTES],
    /// Bytes of the request that are there.
    length: usize,
}

/// What follows from what a connection brought.
enum Next {
    More,
    Close,
    End,
}

impl Connection {
    fn answer(&mut self) -> io::Result<Next> {
        match self.stream.read(&mut self.request[self.length..]) {
            Ok(0) => Ok(Next::Close),
            Ok(length) if self.length + length < REQUEST_BYTES => {
                self.length += length;
                Ok(Next::More)
            }
            Ok(_) if self.request[0] == END[0] => Ok(Next::End),
            Ok(_) => {
                self.length = 0;
                // There is one request at a time, so its reply finds room.
                self.stream.write_all(&self.request)?;
                Ok(Next::More)
            }
            Err(error) if is_for_later(&error) => Ok(Next::More),
            Err(error) => Err(error),
        }
    }
}

/// Answers requests on any number of connections, from one thread, until one of them says that it is the end.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(LISTENER);
    epoll::add(&epoll, listener, data, epoll::EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        wait(&epoll, &mut events)?;
        for event in events.drain(..) {
            let mark = event.data.u64();
            if mark == LISTENER {
                let Some(stream) = accept(listener)? else {
                    continue;
                };
                let free = connections.iter().position(Option::is_none);
                let number = free.unwrap_or_else(|| {
                    connections.push(None);
                    connections.len() - 1
                });
                let data = epoll::EventData::new_u64(number as u64);
                epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
                connections[number] = Some(Connection {
                    stream,
                    request: END,
                    length: 0,
                });
                continue;
            }
            let Some(place) = connections.get_mut(mark as usize) else {
                continue;
            };
            // An event of a connection that has just been closed may still be in the list.
            let Some(connection) = place else { continue };
            match connection.answer() {
                Ok(Next::More) => {}
                Ok(Next::End) => return Ok(()),
                // What happens to a connection is not the server's affair.
                Ok(Next::Close) | Err(_) => *place = None,
            }
        }
    }
}

/// Whether a call on a non-blocking descriptor is just to be made again.
pub fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Accepts a connection, non-blocking. `None` if there is none any more.
pub fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(error) => {
            let error = error.into();
            if is_for_later(&error) {
                Ok(None)
            } else {
                Err(error)
            }
        }
    }
}

/// Accepts one connection, blocking.
fn accept_one(listener: &TcpListener) -> io::Result<TcpStream> {
    let bound = Timespec {
        tv_sec: IDLE_SECONDS as i64,
        tv_nsec: 0,
    };
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&bound))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    Ok(stream)
}

/// Accepts one connection and sends that many bytes on it, once it has been asked to by one.
pub fn send(listener: &TcpListener, bytes: u64) -> io::Result<()> {
    let mut stream = accept_one(listener)?;
    stream.read_exact(&mut [0])?;
    let block = vec![42; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64) as usize;
        stream.write_all(&block[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// Accepts one connection, reads that many bytes from it, and then says so by one.
pub fn receive(listener: &TcpListener, bytes: u64) -> io::Result<()> {
    let mut stream = accept_one(listener)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut block)? as u64 {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => left = left.saturating_sub(length),
        }
    }
    stream.write_all(&[1])
}

/// Accepts one connection and sends everything back, until its end.
pub fn echo(listener: &TcpListener) -> io::Result<()> {
    let mut stream = accept_one(listener)?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            length => stream.write_all(&block[..length])?,
        }
    }
}
