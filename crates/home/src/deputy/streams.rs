//! Streams (TCP) that one guest alone has: what can be read is sent ahead, and what is written is acknowledged ahead.
//!
//! Nothing is taken out of the kernel before the guest has read it: the deputy looks (`MSG_PEEK`) and tells, and takes what the
//! node says has been read. Nothing is acknowledged that the kernel would not take at once: the node knows how much room there
//! is. So what home's kernel and the peer see is what they would see of a process of home.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use afield_link::frame::Kind;
use afield_link::wire::{PUSH_BYTES_MAX, PushHeader};
use rustix::net::{AddressFamily, SocketType, sockopt};
use zerocopy::IntoBytes;

use super::handles::Handle;
use super::workers::Worker;
use super::{Deputy, channel, lock};
use crate::sys::{message, object, signals};

/// Longest wait of a dying deputy for what it has acknowledged.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// The streams of a deputy, by handle.
#[derive(Debug, Default)]
pub struct Streams {
    flows: Mutex<HashMap<u64, Flow>>,
    /// A backlog has come to its end.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Flow {
    /// Bytes that have been read.
    consumed: u64,
    /// Where what has been sent ahead ends.
    pushed: u64,
    /// Bytes that have been written.
    written: u64,
    /// What can be read is to be sent ahead.
    pushing: bool,
    /// Acknowledged, but not taken by the kernel, which had less room than it said. Nothing may overtake it.
    backlog: Option<VecDeque<Vec<u8>>>,
    /// What became of something acknowledged.
    error: Option<i32>,
}

/// How an operation moves a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moves {
    /// It reads as many bytes as its result says.
    Reads,
    /// It writes as many.
    Writes,
    /// Neither.
    Nothing,
}

impl Streams {
    /// A guest has opened this.
    pub fn opened(&self, handle: u64, file: BorrowedFd<'_>) {
        let stream = sockopt::socket_type(file) == Ok(SocketType::STREAM)
            && matches!(
                sockopt::socket_domain(file),
                Ok(AddressFamily::INET | AddressFamily::INET6)
            );
        if stream {
            lock(&self.flows).insert(handle, Flow::default());
        }
    }

    /// It is closed.
    pub fn closed(&self, handle: u64) {
        lock(&self.flows).remove(&handle);
    }

    /// Somebody else has it too now.
    pub fn shared(&self, handle: u64) {
        if let Some(flow) = lock(&self.flows).get_mut(&handle) {
            flow.pushing = false;
        }
    }

    /// A child has all of them now.
    pub fn all_shared(&self) {
        for flow in lock(&self.flows).values_mut() {
            flow.pushing = false;
        }
    }

    /// What can be read is to be sent ahead.
    pub fn start_pushing(&self, handle: u64) {
        if let Some(flow) = lock(&self.flows).get_mut(&handle) {
            flow.pushing = true;
        }
    }

    /// An operation has come to this result.
    pub fn moved(&self, handle: u64, moves: Moves, result: &Result<i64, i32>) {
        let (Ok(count @ 1..), Moves::Reads | Moves::Writes) = (result, moves) else {
            return;
        };
        if let Some(flow) = lock(&self.flows).get_mut(&handle) {
            match moves {
                Moves::Reads => {
                    flow.consumed += *count as u64;
                    flow.pushed = flow.pushed.max(flow.consumed);
                }
                Moves::Writes => flow.written += *count as u64,
                Moves::Nothing => {}
            }
        }
    }

    /// The error of something acknowledged, once.
    pub fn take_error(&self, handle: u64) -> Option<i32> {
        lock(&self.flows).get_mut(&handle)?.error.take()
    }

    /// How many bytes have been written, and how many more the kernel would take at once.
    pub fn room(&self, handle: u64, file: BorrowedFd<'_>) -> (u64, u32) {
        match lock(&self.flows).get(&handle) {
            Some(flow) if flow.backlog.is_none() => (flow.written, message::room(file)),
            _ => (0, 0),
        }
    }

    /// Whether something acknowledged is still on its way.
    pub fn has_backlog(&self, handle: u64) -> bool {
        lock(&self.flows)
            .get(&handle)
            .is_some_and(|flow| flow.backlog.is_some())
    }

    /// Waits until that is not so; false if the worker was interrupted first.
    pub fn await_backlog(&self, handle: u64, worker: &Worker<'_>) -> bool {
        let mut flows = lock(&self.flows);
        while flows.get(&handle).is_some_and(|flow| flow.backlog.is_some()) {
            if worker.cancelled() {
                return false;
            }
            // Cancelling does not wake the condition.
            flows = match self.settled.wait_timeout(flows, Duration::from_millis(20)) {
                Ok((flows, _)) => flows,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// Waits, before the end, for what has been acknowledged.
    pub fn await_all(&self) {
        let flows = lock(&self.flows);
        let _ = self.settled.wait_timeout_while(flows, FAREWELL_MAX, |flows| {
            flows.values().any(|flow| flow.backlog.is_some())
        });
    }
}

impl Deputy {
    /// Something has arrived: sends it ahead, if it is to be. False if the guest has to be told in another way.
    pub(super) fn push(&self, number: u64, file: BorrowedFd<'_>) -> bool {
        let mut flows = lock(&self.streams.flows);
        let Some(flow) = flows.get_mut(&number).filter(|flow| flow.pushing) else {
            return false;
        };
        if flow.pushed > flow.consumed {
            // The guest has something to read, and will be told of more when it has read that.
            return true;
        }
        let mut bytes = vec![0u8; PUSH_BYTES_MAX];
        let Ok(count @ 1..) = message::peek(file, &mut bytes) else {
            // An end, or an error, which only a read can take.
            return false;
        };
        flow.pushed = flow.consumed + count as u64;
        let room = match flow.backlog {
            None => message::room(file),
            Some(_) => 0,
        };
        let head = PushHeader {
            pid: self.pid.into(),
            room: room.into(),
            handle: number.into(),
            position: flow.consumed.into(),
            written: flow.written.into(),
        };
        // Under the lock, so that positions go up.
        let _sending = lock(&self.sending);
        let _ = self.forward_signals();
        let _ = channel::send(
            self.channel.as_fd(),
            Kind::Push,
            0,
            &[head.as_bytes(), &bytes[..count]],
            None,
        );
        true
    }

    /// The guest has read what was sent ahead.
    pub(super) fn consume(&self, number: u64, handle: &Handle, count: u64) {
        {
            let mut flows = lock(&self.streams.flows);
            let Some(flow) = flows.get_mut(&number) else {
                return;
            };
            // Never more than the node knows of.
            let count = count.min(flow.pushed.saturating_sub(flow.consumed));
            flow.consumed += count;
            message::discard(handle.file.as_fd(), count as usize);
            if flow.pushed > flow.consumed {
                return;
            }
        }
        self.look_again(number, handle);
    }

    /// The node has nothing to read any more: what there is now is sent, what comes is watched for.
    pub(super) fn look_again(&self, number: u64, handle: &Handle) {
        let known = self.readiness.after(number, handle.file.as_fd());
        let readable = known.notes == 0 || known.ready & libc::POLLIN as u32 != 0;
        if readable && !self.push(number, handle.file.as_fd()) {
            self.tell_ready(number, libc::POLLIN as u32 | known.ready);
        }
    }

    /// Writes what the guest has been told is written.
    pub(super) fn write_acknowledged(self: &Arc<Self>, number: u64, handle: &Handle, data: &[u8]) {
        let rest = {
            let mut flows = lock(&self.streams.flows);
            let Some(flow) = flows.get_mut(&number) else {
                return;
            };
            flow.written += data.len() as u64;
            if let Some(backlog) = &mut flow.backlog {
                return backlog.push_back(data.to_vec());
            }
            let done = match object::write_now(handle.file.as_fd(), data, None) {
                Ok(count) => count,
                Err(libc::EAGAIN | libc::EINTR) => 0,
                Err(errno) => return flow.fail(errno),
            };
            if done == data.len() {
                return;
            }
            flow.backlog = Some(VecDeque::new());
            data[done..].to_vec()
        };
        let file = Arc::clone(&handle.file);
        let work = Box::new(move |worker: &mut Worker<'_>| {
            let deputy = worker.deputy;
            deputy.write_backlog(worker, number, &file, rest);
        });
        if let Err(errno) = self.employ(0, work)
            && let Some(flow) = lock(&self.streams.flows).get_mut(&number)
        {
            flow.backlog = None;
            flow.fail(errno);
        }
    }

    fn write_backlog(&self, worker: &mut Worker<'_>, number: u64, file: &OwnedFd, first: Vec<u8>) {
        let mut next = Some(first);
        let mut failed = None;
        while let Some(data) = next {
            let mut done = 0;
            while failed.is_none() && done < data.len() {
                match worker.wait(|flag| object::write(flag, file.as_fd(), &data[done..], None)) {
                    Ok(count) => done += count,
                    Err(libc::EINTR) => {}
                    // The socket itself does not wait.
                    Err(libc::EAGAIN) => worker.wait(|_| object::wait_writable(file.as_fd())),
                    Err(errno) => failed = Some(errno),
                }
            }
            let mut flows = lock(&self.streams.flows);
            let Some(flow) = flows.get_mut(&number) else {
                // Closed: everything is on its way that was acknowledged before.
                return;
            };
            next = flow.backlog.as_mut().and_then(VecDeque::pop_front);
            if next.is_none() {
                flow.backlog = None;
                if let Some(errno) = failed {
                    flow.fail(errno);
                }
            }
        }
        self.streams.settled.notify_all();
    }
}

impl Flow {
    fn fail(&mut self, errno: i32) {
        if errno == libc::EPIPE {
            // The next operation raises it again.
            let _ = signals::take_pending(signals::only(libc::SIGPIPE));
        }
        self.error = Some(errno);
    }
}
