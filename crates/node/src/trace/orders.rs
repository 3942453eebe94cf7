//! What other threads ask of the tracer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use afield_link::control::Statistics;
use afield_rpc::Answer;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::{Correction, Received};
use crate::admission::Seat;
use crate::fs::HomeReply;
use crate::sys::seccomp::Listener;

/// An order to the tracer. Threads are named by their id in the session's pid namespace, processes by home pid.
#[derive(Debug)]
pub enum Order {
    /// A first guest will be started: what comes for it until then is not to be lost.
    Expect { pid: u32 },
    /// It could not be started.
    Unexpect { pid: u32 },
    /// It is executing its program, or has ended in that: nobody else will tell home of it.
    Executing { pid: u32 },
    /// Trace this process, which init has just made.
    Seize {
        pid: u32,
        tid: i32,
        /// Its place among those that this home may have.
        seat: Seat,
        answer: SyncSender<io::Result<()>>,
    },
    /// Home's answer to a fork.
    Forked { id: u64, result: Result<u32, i32> },
    /// A signal from home for a guest that has not executed its program yet.
    EarlySignal { pid: u32, info: Box<[u8; 128]> },
    /// A signal from home is pending for a guest.
    Signalled { pid: u32, signal: i32 },
    /// End a guest at once.
    Kill { pid: u32 },
    /// Keep a guest from computing.
    Hold { pid: u32 },
    /// Let it compute again.
    Release { pid: u32 },
    /// Answer a notified call that was interrupted at home: the thread stops on its way out, so that the kernel looks at
    /// `error` (`-ERESTARTSYS` and its kin) as it does for a signal.
    AnswerInterrupted {
        tid: i32,
        listener: Arc<Listener>,
        notification: u64,
        error: i64,
    },
    /// Let the node execute a notified `stat`, and correct the owner it shows.
    AnswerStopping {
        tid: i32,
        listener: Arc<Listener>,
        notification: u64,
    },
    /// Give the file door's `reply`, an `EINTR`, to a thread whose call is to be restarted as natively.
    ReplyInterrupted { tid: i32, reply: Vec<u8> },
    /// Give the file door's `reply` to a thread, and correct the result of its call.
    Correct {
        tid: i32,
        correction: Correction,
        reply: Vec<u8>,
    },
    /// A guest's files have a new limit: put it in force, then answer the call that set it.
    LimitFiles {
        process: u32,
        soft: u64,
        answer: Answered,
    },
    /// Answer a call by which descriptors were received, with which something is left to be done.
    AnswerReceived { received: Received, answer: Answered },
    /// A thread's process has got files whose offset is home's: when its call ends, it is given a filter for seeks.
    WatchSeeks { tid: i32 },
    /// A signal may have become pending for a thread that waits in a forwarded call.
    Look { tid: i32 },
    /// Nothing goes to home or comes from there: no guest may compute until that is different.
    Freeze,
    /// Home can be reached again.
    Thaw,
    /// Whoever stops from now on stays so: the kernel is being told of changed files.
    Hush,
    /// It has been told: they go on.
    Unhush,
    /// Give the file door's `reply` to a thread, which is to stop before it gets to know it.
    ReplyHushed { tid: i32, reply: HomeReply },
    /// Tell home who is here.
    Guests { answer: Answer<Vec<u32>> },
    /// Tell home how the session is.
    Statistics { answer: Answer<Statistics> },
    /// The world has ended: report what is left to report, and end the session.
    End,
}

/// A notified call and its result.
#[derive(Debug)]
pub struct Answered {
    /// The calling thread.
    pub tid: i32,
    /// Where it was notified.
    pub listener: Arc<Listener>,
    /// As what.
    pub notification: u64,
    /// A value or a negated errno.
    pub result: i64,
}

/// The queue of orders, and the two descriptors the tracer waits on.
#[derive(Debug)]
pub struct Orders {
    sender: Sender<Order>,
    receiver: Mutex<Receiver<Order>>,
    /// Readable while there may be orders.
    event: OwnedFd,
    /// Readable when a guest has stopped or ended (`SIGCHLD`).
    children: OwnedFd,
}

impl Orders {
    /// An empty queue. `SIGCHLD` must be blocked in the calling thread and all others of the process.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = channel();
        Ok(Self {
            sender,
            receiver: Mutex::new(receiver),
            event: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            children: crate::sys::signals::child_descriptor()?,
        })
    }

    /// Gives an order. Each comes from a request, a notification or a frame that is in flight, so their number is
    /// bounded by what these are bounded by.
    pub fn give(&self, order: Order) {
        // The receiver lives as long as we do.
        let _ = self.sender.send(order);
        // Full only if the counter is at its maximum, in which case it is readable anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// The next order, if any.
    pub(super) fn next(&self) -> Option<Order> {
        self.receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_recv()
            .ok()
    }

    /// Waits for an order or a stop, at most for `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        let mut polls = [
            PollFd::new(&self.event, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        match rustix::event::poll(&mut polls, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // What they say is not needed: the queue and the kernel are asked anyway.
        let mut drain = [0; 256];
        for descriptor in [self.event.as_fd(), self.children.as_fd()] {
            let _ = rustix::io::read(descriptor, &mut drain);
        }
        Ok(())
    }
}
