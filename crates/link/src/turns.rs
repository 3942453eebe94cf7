//! Several threads that read one link in turn.
//!
//! One at a time takes frames, in the link's order; a thread that has something longer to do with one leaves the turn, and
//! the next frames are another thread's. All that have nothing to do sleep in one edge-triggered `epoll`, so that each arrival wakes one of them:
//! threads that slept until the one before them is done would have to be woken by it, which is one switch more for every frame.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, MutexGuard, TryLockError};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

use crate::frame::Frame;
use crate::stream::{LinkError, Reader};

/// What follows a frame.
#[derive(Debug)]
pub enum Next<T> {
    /// The next one.
    More,
    /// Something that is done outside of the turn.
    Leave(T),
    /// Nothing is read any more, by no thread.
    Stop,
}

/// A link's reading half, shared by threads.
#[derive(Debug)]
pub struct Turns {
    reader: Mutex<Reader>,
    epoll: OwnedFd,
    /// Wakes a thread for what has arrived earlier.
    wake: OwnedFd,
    /// A thread that was woken found another one reading, which therefore looks once more.
    missed: AtomicBool,
    /// The peer has closed its end: its last bytes and the end itself may have come with one wake.
    closing: AtomicBool,
    /// Nothing is read any more.
    over: AtomicBool,
}

impl Turns {
    /// Of what this reader reads.
    pub fn new(reader: Reader) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let socket = edge | epoll::EventFlags::RDHUP;
        epoll::add(&epoll, reader.socket(), epoll::EventData::new_u64(0), socket)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(1), edge)?;
        Ok(Self {
            reader: Mutex::new(reader),
            epoll,
            wake,
            missed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// Waits for frames and gives each, in the link's order, to `each`, until that leaves. `None` once nothing is read any more.
    pub fn next<T>(&self, mut each: impl FnMut(Result<Frame, LinkError>) -> Next<T>) -> Option<T> {
        // Who comes back from something longer has been told of nothing: of what has arrived since, others have been.
        let mut told = false;
        loop {
            while let Some(reader) = self.try_turn() {
                if self.over.load(Ordering::SeqCst) {
                    return self.stop(reader);
                }
                match self.read(reader, told, &mut each) {
                    Next::More => {}
                    Next::Leave(what) => return Some(what),
                    Next::Stop => return None,
                }
                if !self.missed.swap(false, Ordering::SeqCst) {
                    break;
                }
                told = true;
            }
            self.wait();
            told = true;
        }
    }

    /// One turn: all that is there. If somebody has been `told` that something has arrived, what the one before found does not count.
    fn read<T>(
        &self,
        mut reader: MutexGuard<'_, Reader>,
        told: bool,
        each: &mut impl FnMut(Result<Frame, LinkError>) -> Next<T>,
    ) -> Next<T> {
        let mut trusts = !told;
        loop {
            trusts &= !self.closing.load(Ordering::SeqCst);
            let next = match reader.read_frame_now(trusts) {
                Ok(None) => break,
                Ok(Some(frame)) => each(Ok(frame)),
                Err(error) => {
                    each(Err(error));
                    Next::Stop
                }
            };
            trusts = true;
            match next {
                Next::More => {}
                Next::Leave(what) => {
                    let left = !reader.is_drained();
                    drop(reader);
                    fence(Ordering::SeqCst);
                    if left || self.missed.swap(false, Ordering::SeqCst) {
                        // What was read ahead tells nobody that it is there.
                        self.pass_on();
                    }
                    return Next::Leave(what);
                }
                Next::Stop => {
                    self.over.store(true, Ordering::SeqCst);
                    self.stop::<T>(reader);
                    return Next::Stop;
                }
            }
        }
        drop(reader);
        fence(Ordering::SeqCst);
        Next::More
    }

    fn stop<T>(&self, reader: MutexGuard<'_, Reader>) -> Option<T> {
        drop(reader);
        // The others have to see it, too.
        self.pass_on();
        None
    }

    /// The turn, if nobody has it. If somebody has, that thread looks once more.
    fn try_turn(&self) -> Option<MutexGuard<'_, Reader>> {
        let now = || match self.reader.try_lock() {
            Ok(reader) => Some(reader),
            Err(TryLockError::Poisoned(reader)) => Some(reader.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        now().or_else(|| {
            self.missed.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            now()
        })
    }

    /// Wakes one more thread.
    fn pass_on(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Sleeps until there is something for this thread.
    fn wait(&self) {
        let mut events = [MaybeUninit::<epoll::Event>::uninit()];
        let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        match epoll::wait(&self.epoll, &mut events[..], None) {
            Ok((events, _)) => {
                if events.iter().any(|event| {
                    let flags = event.flags;
                    flags.intersects(ends)
                }) {
                    self.closing.store(true, Ordering::SeqCst);
                }
            }
            Err(Errno::INTR) => {}
            // It cannot fail on descriptors of its own; if it does, reading shows what is the matter.
            Err(_) => self.closing.store(true, Ordering::SeqCst),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::frame::Kind;
    use crate::stream::{Socket, split};

    #[test]
    fn what_comes_while_one_is_away_is_taken_by_another() {
        let (left, right) = UnixStream::pair().unwrap();
        let (_, writer) = split(Socket::Unix(left)).unwrap();
        let (reader, _keep) = split(Socket::Unix(right)).unwrap();
        let turns = Turns::new(reader).unwrap();
        let (taken, takes) = std::sync::mpsc::channel();
        let together = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (turns, together, taken) = (&turns, &together, taken.clone());
                scope.spawn(move || {
                    while let Some(id) = turns.next(|frame| match frame {
                        Ok(frame) => Next::Leave(frame.id),
                        Err(_) => Next::Stop,
                    }) {
                        taken.send(id).unwrap();
                        // Nobody comes back before the next frame has been taken.
                        together.wait();
                    }
                });
            }
            for id in 0..1000 {
                writer.write_frame(Kind::Control, id, &[b"x"]).unwrap();
                let took = takes.recv_timeout(std::time::Duration::from_secs(20));
                assert_eq!(took, Ok(id), "nobody has taken it");
            }
            drop(writer);
        });
    }

    #[test]
    fn every_frame_is_taken_once_and_in_order() {
        const FRAMES: u64 = 20_000;
        let (left, right) = UnixStream::pair().unwrap();
        let (_, writer) = split(Socket::Unix(left)).unwrap();
        let (reader, _keep) = split(Socket::Unix(right)).unwrap();
        let turns = Turns::new(reader).unwrap();
        let expected = AtomicU64::new(0);
        let left_with = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(id) = turns.next(|frame| match frame {
                        Ok(frame) => {
                            assert_eq!(frame.id, expected.fetch_add(1, Ordering::SeqCst));
                            assert!(frame.payload.iter().all(|&byte| byte == frame.id as u8));
                            if frame.id % 7 == 0 {
                                Next::Leave(frame.id)
                            } else {
                                Next::More
                            }
                        }
                        Err(error) => {
                            assert!(matches!(error, LinkError::Closed), "{error}");
                            Next::Stop
                        }
                    }) {
                        left_with.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(id % 7, 0);
                    }
                });
            }
            let payload = vec![0u8; 70_000];
            for id in 0..FRAMES {
                let length = if id % 97 == 0 { 70_000 } else { (id % 300) as usize };
                let mut payload = payload[..length].to_vec();
                payload.fill(id as u8);
                writer.write_frame(Kind::Call, id, &[&payload]).unwrap();
            }
            writer.shutdown();
        });
        assert_eq!(expected.into_inner(), FRAMES);
        assert_eq!(left_with.into_inner(), FRAMES.div_ceil(7));
    }
}
