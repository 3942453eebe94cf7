//! A plain relay: for each connection it gets it makes one, and passes bytes both ways by `read` and `write`.
//!
//! One thread, edge-triggered. A direction holds at most one block, and reads no more before that is written.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use rustix::event::epoll;

use super::server::{accept, is_for_later};
use super::{BLOCK_BYTES, EVENTS, local, wait};

/// Mark of the listener. The two sockets of pair N are 2N and 2N+1.
const LISTENER: u64 = u64::MAX;

/// Bytes on their way from one socket of a pair to the other.
struct Direction {
    block: Vec<u8>,
    /// The part of the block that is still to be written.
    from: usize,
    to: usize,
    /// There may be more to read, of which no event will tell.
    readable: bool,
    /// The source has ended, and the other socket been told so.
    ended: bool,
}

impl Direction {
    fn new() -> Self {
        Self {
            block: vec![0; BLOCK_BYTES],
            from: 0,
            to: 0,
            readable: false,
            ended: false,
        }
    }

    /// Passes on what can be. `closing`: the source's end has been seen, so that it is to be read up to it.
    fn pass(&mut self, source: &mut TcpStream, target: &mut TcpStream, closing: bool) -> io::Result<()> {
        while !self.ended {
            while self.from < self.to {
                match target.write(&self.block[self.from..self.to]) {
                    Ok(length) => self.from += length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if is_for_later(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if !self.readable {
                return Ok(());
            }
            match source.read(&mut self.block) {
                Ok(0) => {
                    self.ended = true;
                    target.shutdown(Shutdown::Write)?;
                }
                Ok(length) => {
                    (self.from, self.to) = (0, length);
                    // A short read has emptied the socket; what comes next is told of.
                    self.readable = length == self.block.len() || closing;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if is_for_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Pair {
    sockets: [TcpStream; 2],
    /// From the first to the second, and back.
    directions: [Direction; 2],
    /// Which of the sockets have said that their peer sends no more.
    closing: [bool; 2],
}

impl Pair {
    fn handle(&mut self, side: usize, flags: epoll::EventFlags) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        self.closing[side] |= flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
        self.directions[side].readable |= self.closing[side] || flags.contains(Flags::IN);
        let [first, second] = &mut self.sockets;
        let [there, back] = &mut self.directions;
        there.pass(first, second, self.closing[0])?;
        back.pass(second, first, self.closing[1])
    }
}

/// Relays whatever connects to the listener to a port of the same host, until nothing has come for a while.
pub fn relay(listener: &TcpListener, port: u16) -> io::Result<()> {
    use epoll::EventFlags as Flags;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let add = |socket: std::os::fd::BorrowedFd<'_>, mark, flags| {
        epoll::add(&epoll, socket, epoll::EventData::new_u64(mark), flags)
    };
    add(std::os::fd::AsFd::as_fd(listener), LISTENER, Flags::IN)?;
    let mut pairs = HashMap::new();
    let mut number = 0;
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        wait(&epoll, &mut events)?;
        for event in events.drain(..) {
            let mark = event.data.u64();
            if mark == LISTENER {
                let Some(caller) = accept(listener)? else {
                    continue;
                };
                let called = TcpStream::connect(local(port))?;
                called.set_nodelay(true)?;
                called.set_nonblocking(true)?;
                let sockets = [caller, called];
                for (socket, mark) in sockets.iter().zip(2 * number..) {
                    let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
                    add(std::os::fd::AsFd::as_fd(socket), mark, flags)?;
                }
                let pair = Pair {
                    sockets,
                    directions: [Direction::new(), Direction::new()],
                    closing: [false; 2],
                };
                pairs.insert(number, pair);
                number += 1;
                continue;
            }
            // Else an event of a pair that has just ended.
            let Some(pair) = pairs.get_mut(&(mark / 2)) else {
                continue;
            };
            // One that fails ends alone, and its ends see that.
            let failed = pair.handle((mark % 2) as usize, event.flags).is_err();
            if failed || pair.directions.iter().all(|direction| direction.ended) {
                pairs.remove(&(mark / 2));
            }
        }
    }
}
