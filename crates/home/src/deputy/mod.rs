//! A process that stands for a guest: it makes the guest's system calls, holds its descriptors, gets its signals, and
//! dies as it dies.
//!
//! The main thread *leads*: it waits for messages and signals, and does at once what cannot wait. What may wait is first
//! tried without waiting; if it has to wait it goes to a worker. The main thread never waits for anything else,
//! so that cancelling, signals and forks are never held up. It is also the thread to which signals for this pid are
//! sent, and the one that forks, so that a child's main thread has the stack which a main thread has.
//!
//! | file | what it does |
//! |---|---|
//! | [`lead`] | the main loop |
//! | [`workers`] | threads for what waits, and cancelling it |
//! | [`calls`], [`waits`] | forwarded system calls |
//! | [`handles`], [`operations`] | descriptors, and operations on them |
//! | [`sockets`] | messages |
//! | [`readiness`] | what polling programs have to know |
//! | [`signals`] | from the kernel to the guest |
//! | [`terminal`] | the terminal, for its user to have back |
//! | [`locks`] | record locks |
//! | [`mirror`] | what the guest has open, for others to see |
//! | [`forks`] | children |

mod calls;
mod forks;
mod handles;
mod lead;
mod locks;
mod mirror;
mod operations;
mod places;
mod readiness;
mod signals;
mod sockets;
mod terminal;
#[cfg(test)]
mod tests;
mod waits;
mod workers;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use afield_link::frame::Kind;
use afield_link::wire::{CallReply, HandleReply};
use zerocopy::IntoBytes;

pub use handles::Handles;
pub use lead::Lead;
pub use places::out_of_the_way;
pub use readiness::{course_of, ready_for};
pub use terminal::Terminal;
pub use waits::add as add_usage;

use afield_link::sys::Area;

use crate::channel::{self, ChannelError};
use crate::messages::FromDeputy;
use crate::sys::call::Prepared;
use locks::LockFiles;
use readiness::{Known, Readiness};
use signals::{Dispositions, SignalDescriptor};
use waits::Children;
use workers::Workers;

/// What `afield run` knows of the job, for messages to the user.
#[derive(Debug)]
pub struct Root {
    /// The command's name.
    pub name: String,
    /// The job's standard error, if it is a home object.
    pub stderr: Option<u64>,
}

/// What all threads of a deputy share.
#[derive(Debug)]
pub struct Deputy {
    /// Its process id.
    pid: u32,
    /// To the agent.
    channel: OwnedFd,
    /// Held while frames are written, so that they do not mix, and so that a signal which is taken goes ahead of a
    /// reply that is ready.
    sending: Mutex<()>,
    /// Gives the signals.
    signals: SignalDescriptor,
    dispositions: Mutex<Dispositions>,
    handles: Mutex<Handles>,
    readiness: Readiness,
    workers: Workers,
    children: Children,
    locks: Mutex<LockFiles>,
    /// Memory shared with an embedded node, once it has been used.
    area: Mutex<Option<Arc<Area>>>,
    /// Workers hold it for reading except while they are in a call that waits; who has it for writing knows that no
    /// other thread is anywhere in this program's own code.
    gate: RwLock<()>,
    /// The C library does not know all about this process's threads, because it was forked without it.
    raw: bool,
    /// Set in the job's first process.
    root: Option<Root>,
    /// The job's terminal.
    terminal: Option<Arc<Terminal>>,
    /// Where a core dump of the deputy (not the guest's, which is on its way) does no harm.
    dump_directory: Arc<PathBuf>,
}

/// What a deputy is made from.
#[derive(Debug)]
pub struct Parts {
    /// Connected to the agent.
    pub channel: OwnedFd,
    /// What the guest has from home.
    pub handles: Handles,
    /// Signals that the process ignores.
    pub ignored: u64,
    /// Set in the job's first process.
    pub root: Option<Root>,
    /// The job's terminal, as it was at first.
    pub terminal: Option<Arc<Terminal>>,
    /// Where a core dump of the deputy does no harm.
    pub dump_directory: Arc<PathBuf>,
}

impl Deputy {
    /// A deputy in a process of one thread. Every signal must be blocked already.
    pub fn new(parts: Parts) -> std::io::Result<Arc<Self>> {
        Self::build(parts, Dispositions::default(), false)
    }

    fn build(parts: Parts, mut dispositions: Dispositions, raw: bool) -> std::io::Result<Arc<Self>> {
        dispositions.add_ignored(parts.ignored);
        Ok(Arc::new(Self {
            pid: std::process::id(),
            channel: parts.channel,
            sending: Mutex::new(()),
            signals: SignalDescriptor::new()?,
            dispositions: Mutex::new(dispositions),
            handles: Mutex::new(parts.handles),
            readiness: Readiness::default(),
            workers: Workers::default(),
            children: Children::default(),
            locks: Mutex::new(LockFiles::default()),
            area: Mutex::default(),
            gate: RwLock::new(()),
            raw,
            root: parts.root,
            terminal: parts.terminal,
            dump_directory: parts.dump_directory,
        }))
    }

    /// Sends a frame, after the signals that are here. Errors are the main thread's to find: it sees the channel's end.
    fn send(&self, kind: Kind, id: u64, parts: &[&[u8]]) {
        let _sending = lock(&self.sending);
        let _ = self.forward_signals();
        let _ = channel::send(self.channel.as_fd(), kind, id, parts, None);
    }

    fn tell(&self, id: u64, message: &FromDeputy) {
        self.tell_with(id, message, None);
    }

    fn tell_with(&self, id: u64, message: &FromDeputy, descriptor: Option<&OwnedFd>) {
        let _sending = lock(&self.sending);
        let _ = self.forward_signals();
        let descriptor = descriptor.map(AsFd::as_fd);
        let _ = channel::send_control(self.channel.as_fd(), id, message, descriptor);
    }

    /// Passes on the signals that are here. The caller holds `sending`.
    fn forward_signals(&self) -> Result<(), ChannelError> {
        self.signals.take(|info| self.forward(info))
    }

    /// Passes one on. The caller holds `sending`.
    fn forward(&self, info: &[u8; 128]) -> Result<(), ChannelError> {
        let message = FromDeputy::Signal(info.to_vec());
        channel::send_control(self.channel.as_fd(), 0, &message, None)
    }

    fn log(&self, text: String) {
        self.tell(0, &FromDeputy::Log(text));
    }

    /// Answers a call.
    fn answer_call(&self, id: u64, result: i64, call: &Prepared) {
        let head = CallReply {
            result: result.into(),
        };
        let mut parts: Vec<&[u8]> = vec![head.as_bytes()];
        if result >= 0 {
            parts.extend(call.output());
        }
        self.send(Kind::CallReply, id, &parts);
    }

    /// Answers a call that failed without having been made.
    fn fail_call(&self, id: u64, errno: i32) {
        let head = CallReply {
            result: (-i64::from(errno)).into(),
        };
        self.send(Kind::CallReply, id, &[head.as_bytes()]);
    }

    /// Answers an operation on a home object.
    fn answer_operation(&self, id: u64, result: Result<i64, i32>, data: &[u8]) {
        self.answer_operation_with(id, result, data, Known::default());
    }

    /// Answers an operation, and says what is known of the object now.
    fn answer_operation_with(&self, id: u64, result: Result<i64, i32>, data: &[u8], known: Known) {
        let (result, data) = match result {
            Ok(value) => (value, data),
            Err(errno) => (-i64::from(errno), &[][..]),
        };
        let head = HandleReply {
            result: result.into(),
            ready: known.ready.into(),
            notes: known.notes.into(),
            look: known.look.into(),
        };
        self.send(Kind::HandleReply, id, &[head.as_bytes(), data]);
    }

    /// Tells the job's user, if this is the job's first process and its standard error is still open.
    fn tell_user(&self, text: &str) {
        let Some(stderr) = self.root.as_ref().and_then(|root| root.stderr) else {
            return;
        };
        if let Some(handle) = lock(&self.handles).get(stderr) {
            let line = format!("afield: {text}\n");
            let _ = rustix::io::write(&*handle.file, line.as_bytes());
        }
    }
}

/// Locks; what a thread that panicked left behind is as good as anything here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
