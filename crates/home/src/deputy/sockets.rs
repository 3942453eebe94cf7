//! Sending and receiving messages.
//!
//! As all operations, they are first tried without waiting. What has to wait goes on in a worker, from where the trial came to.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_abi::sockets;
use afield_link::message::{self, Incoming, Object, Outgoing, Passed, Place, Room, Wanted};
use afield_link::wire::{NODE_HANDLE, WireError, note};
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SeekFrom};

use super::operations::{Operation, Outcome, never_waits};
use super::workers::Worker;
use super::{Deputy, lock};
use crate::sys::interrupt::Flag;
use crate::sys::message::{Letterbox, Parcel, attach_filter, has_timeout, receive, send, take_descriptors};
use crate::sys::signals;

const DONTWAIT: u32 = libc::MSG_DONTWAIT as u32;
const WAITALL: u32 = libc::MSG_WAITALL as u32;
const WAITFORONE: u32 = libc::MSG_WAITFORONE as u32;

/// How far an operation has come.
enum Step<T> {
    Done(T),
    /// The rest has to wait.
    Waits,
}

/// Messages on their way out.
struct Sending {
    /// Files that go along.
    files: Vec<Arc<OwnedFd>>,
    /// Whole messages that are gone: what the kernel said of their lengths.
    counts: Vec<u32>,
    /// Bytes of the next one that are gone.
    done: usize,
}

/// Messages that have come.
#[derive(Default)]
struct Receiving {
    boxes: Vec<(Letterbox, usize)>,
    objects: Vec<Object>,
    files: Vec<OwnedFd>,
}

impl Deputy {
    pub(super) fn begin_send(self: &Arc<Self>, operation: Operation) -> Result<(), WireError> {
        let (messages, objects) = message::decode_outgoing(operation.data())?;
        if operation.is_shared() && (messages.len() != 1 || !messages[0].data.is_empty()) {
            self.answer_object(&operation, Outcome::error(libc::EINVAL));
            return Ok(());
        }
        let files: Result<Vec<_>, i32> = objects.iter().map(|object| self.passed(object)).collect();
        let files = match files {
            Ok(files) => files,
            Err(errno) => {
                self.answer_object(&operation, Outcome::error(errno));
                return Ok(());
            }
        };
        let mut sending = Sending {
            files,
            counts: Vec::new(),
            done: 0,
        };
        let waits = operation.argument as u32 & DONTWAIT == 0 && !never_waits(operation.file());
        match sending.go_on(&operation, &Flag::default(), DONTWAIT) {
            Step::Waits if waits => {}
            Step::Waits => {
                let outcome = sending.outcome(&operation, libc::EAGAIN);
                self.answer_object(&operation, outcome);
                return Ok(());
            }
            Step::Done(outcome) => {
                self.answer_object(&operation, outcome);
                return Ok(());
            }
        }
        self.in_worker(operation, move |_, worker, operation| {
            let waited = wait(worker, |flag| match sending.go_on(operation, flag, 0) {
                Step::Done(outcome) => outcome,
                // Only with a time-out on the socket.
                Step::Waits => sending.outcome(operation, libc::EAGAIN),
            });
            interrupted(waited, operation, libc::SO_SNDTIMEO)
        });
        Ok(())
    }

    /// What goes along with a message.
    fn passed(&self, object: &Passed) -> Result<Arc<OwnedFd>, i32> {
        match object {
            Passed::Handle(handle) => {
                let handle = lock(&self.handles).get(*handle).ok_or(libc::EBADF)?;
                Ok(handle.file)
            }
            Passed::File { path, flags, offset } => {
                let kept = libc::O_ACCMODE
                    | libc::O_APPEND
                    | libc::O_NONBLOCK
                    | libc::O_DIRECTORY
                    | libc::O_PATH
                    | libc::O_NOFOLLOW;
                let flags = OFlags::from_bits_retain(*flags & kept as u32) | OFlags::CLOEXEC | OFlags::NOCTTY;
                // What could wait for a partner does not: it has been opened before.
                let opened = rustix::fs::open(path.as_slice(), flags | OFlags::NONBLOCK, Mode::empty())
                    .map_err(rustix::io::Errno::raw_os_error)?;
                if !flags.contains(OFlags::NONBLOCK | OFlags::PATH) {
                    let _ = rustix::fs::fcntl_setfl(&opened, flags & (OFlags::APPEND | OFlags::NONBLOCK));
                }
                if *offset > 0 {
                    let _ = rustix::fs::seek(&opened, SeekFrom::Start(*offset as u64));
                }
                Ok(Arc::new(opened))
            }
            Passed::Promise(promise) => {
                let name = message::stand_in_name(*promise);
                rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
                    .map(Arc::new)
                    .map_err(rustix::io::Errno::raw_os_error)
            }
        }
    }

    pub(super) fn begin_receive(self: &Arc<Self>, operation: Operation) -> Result<(), WireError> {
        let wanted = message::decode_wanted(operation.data())?;
        if wanted.rooms.is_empty()
            || operation.is_shared() && wanted.rooms.len() != 1
            || !wanted.handles.iter().all(|handle| handle & NODE_HANDLE != 0)
            || wanted
                .handles
                .iter()
                .any(|&handle| lock(&self.handles).get(handle).is_some())
        {
            self.answer_object(&operation, Outcome::error(libc::EINVAL));
            return Ok(());
        }
        let mut receiving = Receiving::default();
        let flags = operation.argument as u32;
        let waits = flags & DONTWAIT == 0 && !never_waits(operation.file());
        // What was taken of a message that has to be whole could not be given back.
        let trial = if waits && flags & WAITALL != 0 {
            Step::Waits
        } else {
            receiving.go_on(&operation, &wanted, &Flag::default(), DONTWAIT)
        };
        match trial {
            Step::Waits if waits => {}
            Step::Waits => {
                let outcome = self.deliver(&wanted, receiving, libc::EAGAIN);
                self.answer_object(&operation, outcome);
                return Ok(());
            }
            Step::Done(errno) => {
                let outcome = self.deliver(&wanted, receiving, errno);
                self.answer_object(&operation, outcome);
                return Ok(());
            }
        }
        self.in_worker(operation, move |deputy, worker, operation| {
            let errno = wait(worker, |flag| {
                match receiving.go_on(operation, &wanted, flag, 0) {
                    Step::Done(errno) => errno,
                    Step::Waits => libc::EAGAIN,
                }
            });
            let outcome = deputy.deliver(&wanted, std::mem::take(&mut receiving), errno);
            interrupted(outcome, operation, libc::SO_RCVTIMEO)
        });
        Ok(())
    }

    /// What was received, as the reply; without anything, the error.
    fn deliver(&self, wanted: &Wanted, receiving: Receiving, errno: i32) -> Outcome {
        let Receiving {
            boxes,
            objects,
            files,
        } = receiving;
        let Some((_, first)) = boxes.first() else {
            return Outcome::error(errno);
        };
        {
            let mut handles = lock(&self.handles);
            for (object, file) in objects.iter().zip(files).filter(|(object, _)| !object.promise) {
                self.tell_of_connection(object.handle, file.as_fd(), false);
                handles.insert(object.handle, file);
            }
        }
        let result = if wanted.many { boxes.len() } else { *first };
        let incoming: Vec<_> = boxes
            .iter()
            .map(|(letter, count)| Incoming {
                name_length: letter.name_length,
                name: letter.name.as_deref().unwrap_or_default(),
                control: &letter.control,
                data: &letter.data[..letter.data.len().min(*count)],
                flags: letter.flags,
                count: *count as u32,
            })
            .collect();
        Outcome {
            result: Ok(result as i64),
            data: message::encode_incoming(&incoming, &objects),
            notes: 0,
        }
    }

    pub(super) fn filter(&self, operation: &Operation) {
        let (level, name) = ((operation.argument >> 32) as i32, operation.argument as i32);
        let result = match sockets::option_value(level, name, true) {
            sockets::OptionValue::Filter => attach_filter(operation.file(), level, name, operation.data()),
            _ => Err(libc::ENOPROTOOPT),
        };
        self.answer_object(operation, Outcome::plain(result));
    }
}

/// Makes calls until one is not interrupted for nothing.
fn wait<T: Interruptible>(worker: &mut Worker<'_>, mut call: impl FnMut(&Flag) -> T) -> T {
    loop {
        let outcome = worker.wait(&mut call);
        if !outcome.is_interrupted() || worker.cancelled() {
            return outcome;
        }
    }
}

trait Interruptible {
    fn is_interrupted(&self) -> bool;
}

impl Interruptible for Outcome {
    fn is_interrupted(&self) -> bool {
        self.result == Err(libc::EINTR)
    }
}

impl Interruptible for i32 {
    fn is_interrupted(&self) -> bool {
        *self == libc::EINTR
    }
}

/// The kernel does not make a call again whose socket has a time-out.
fn interrupted(mut outcome: Outcome, operation: &Operation, direction: i32) -> Outcome {
    if outcome.is_interrupted() && has_timeout(operation.file(), direction) {
        outcome.notes |= note::NO_RESTART;
    }
    outcome
}

impl Sending {
    /// Sends as much as can be sent with these additional flags.
    fn go_on(&mut self, operation: &Operation, flag: &Flag, additional: u32) -> Step<Outcome> {
        // The frame has been decoded before.
        let (messages, _) = message::decode_outgoing(operation.data()).unwrap_or_default();
        let many = operation.size == 1;
        while let Some(message) = messages.get(self.counts.len()) {
            match self.send_one(operation, flag, message, additional) {
                Ok(count) => {
                    self.done += count;
                    let whole = self.done >= operation.contents(message.data).length();
                    // A blocking call sends everything.
                    if !whole && additional & DONTWAIT != 0 {
                        return Step::Waits;
                    }
                    self.counts.push(self.done as u32);
                    self.done = 0;
                }
                Err(libc::EAGAIN) if additional & DONTWAIT != 0 => return Step::Waits,
                Err(errno) => return Step::Done(self.outcome(operation, errno)),
            }
        }
        let result = match (many, self.counts.first()) {
            (false, Some(&count)) => i64::from(count),
            _ => self.counts.len() as i64,
        };
        Step::Done(Outcome {
            result: Ok(result),
            data: self.lengths(),
            notes: 0,
        })
    }

    fn lengths(&self) -> Vec<u8> {
        self.counts.iter().flat_map(|count| count.to_le_bytes()).collect()
    }

    /// What it comes to if nothing more can be sent.
    fn outcome(&mut self, operation: &Operation, errno: i32) -> Outcome {
        if self.done > 0 {
            self.counts.push(std::mem::take(&mut self.done) as u32);
        }
        let result = match (operation.size == 1, self.counts.first()) {
            (_, None) => {
                let raised =
                    errno == libc::EPIPE && signals::take_pending(signals::only(libc::SIGPIPE)).is_some();
                return Outcome {
                    notes: if raised { note::PIPE_SIGNAL } else { 0 },
                    ..Outcome::error(errno)
                };
            }
            (false, Some(&count)) => i64::from(count),
            (true, _) => self.counts.len() as i64,
        };
        if errno == libc::EPIPE {
            // The next call raises it again.
            let _ = signals::take_pending(signals::only(libc::SIGPIPE));
        }
        Outcome {
            result: Ok(result),
            data: self.lengths(),
            notes: 0,
        }
    }

    fn send_one(
        &self,
        operation: &Operation,
        flag: &Flag,
        message: &Outgoing<'_>,
        additional: u32,
    ) -> Result<usize, i32> {
        // Ancillary data goes with the first byte.
        let control = if self.done == 0 {
            self.control(message)?
        } else {
            Vec::new()
        };
        let parcel = Parcel {
            name: message.name,
            control: &control,
            data: operation.contents(message.data).after(self.done),
        };
        send(
            flag,
            operation.file(),
            &parcel,
            operation.argument as u32 & !WAITFORONE | additional,
        )
    }

    /// Ancillary data with this process's descriptors in the places of indices.
    fn control(&self, message: &Outgoing<'_>) -> Result<Vec<u8>, i32> {
        let mut control = message.control.to_vec();
        for piece in sockets::controls(message.control)? {
            if !piece.has_descriptors() {
                continue;
            }
            let (places, _) = control[piece.data()].as_chunks_mut::<4>();
            for place in places {
                let file = usize::try_from(i32::from_ne_bytes(*place))
                    .ok()
                    .and_then(|index| self.files.get(index))
                    .ok_or(libc::EBADF)?;
                *place = file.as_raw_fd().to_ne_bytes();
            }
        }
        Ok(control)
    }
}

impl Receiving {
    /// Receives as much as can be had with these additional flags; then the errno if there is nothing.
    fn go_on(&mut self, operation: &Operation, wanted: &Wanted, flag: &Flag, additional: u32) -> Step<i32> {
        let began = Instant::now();
        let mut flags = operation.argument as u32 & !WAITFORONE | additional;
        while let Some(room) = wanted.rooms.get(self.boxes.len()) {
            if !self.boxes.is_empty() && operation.argument as u32 & WAITFORONE != 0 {
                flags |= DONTWAIT;
            }
            match self.receive_one(operation, wanted, room, flag, flags) {
                Ok(()) => {}
                Err(libc::EAGAIN) if additional & DONTWAIT != 0 && self.goes_on_waiting(operation) => {
                    return Step::Waits;
                }
                Err(errno) => return Step::Done(errno),
            }
            let over = wanted.timeout.is_some_and(|(seconds, nanoseconds)| {
                let limit = Duration::from_secs(seconds.max(0) as u64)
                    + Duration::from_nanos(nanoseconds.clamp(0, 999_999_999) as u64);
                began.elapsed() >= limit
            });
            let urgent = |(letter, _): &(Letterbox, usize)| letter.flags & libc::MSG_OOB as u32 != 0;
            if over || self.boxes.last().is_some_and(urgent) {
                break;
            }
        }
        Step::Done(libc::EAGAIN)
    }

    /// `MSG_WAITFORONE` waits for the first message only.
    fn goes_on_waiting(&self, operation: &Operation) -> bool {
        self.boxes.is_empty() || operation.argument as u32 & WAITFORONE == 0
    }

    fn receive_one(
        &mut self,
        operation: &Operation,
        wanted: &Wanted,
        room: &Room,
        flag: &Flag,
        flags: u32,
    ) -> Result<(), i32> {
        let mut letter = Letterbox {
            name: room.name.map(|bytes| vec![0; bytes]),
            control: vec![0; room.control],
            data: vec![0; if operation.is_shared() { 0 } else { room.data }],
            ..Letterbox::default()
        };
        let count = receive(flag, operation.file(), &mut letter, operation.room(), flags)?;
        if flags & libc::MSG_TRUNC as u32 != 0 && discards(operation.file()) {
            letter.data.clear();
        }
        let files = take_descriptors(&mut letter.control, self.objects.len());
        for file in files {
            let handle = wanted
                .handles
                .get(self.objects.len())
                .copied()
                .unwrap_or_default();
            self.objects.push(describe(handle, &file));
            self.files.push(file);
        }
        if self.objects.len() > wanted.handles.len() {
            // The node asked for room for descriptors without handles for them: it loses them all.
            letter.control.clear();
            letter.flags |= libc::MSG_CTRUNC as u32;
            self.objects.clear();
            self.files.clear();
        }
        self.boxes.push((letter, count));
        Ok(())
    }
}

/// With `MSG_TRUNC`, TCP throws away what is received.
fn discards(socket: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_protocol(socket)
        .is_ok_and(|protocol| protocol == Some(rustix::net::ipproto::TCP))
}

/// What the node has to know of a descriptor that came with a message.
fn describe(handle: u64, file: &OwnedFd) -> Object {
    let status = rustix::fs::fstat(file);
    let kind = status.as_ref().map_or(FileType::Unknown, |status| {
        FileType::from_raw_mode(status.st_mode)
    });
    let flags = rustix::fs::fcntl_getfl(file).map_or(0, |flags| flags.bits());
    let only_path = flags & libc::O_PATH as u32 != 0;
    let regular = kind == FileType::RegularFile && !only_path;
    let link = crate::proc::link(&format!("self/fd/{}", file.as_raw_fd())).unwrap_or_default();
    let promise = message::promise_of(&link);
    let is_way = only_path && matches!(kind, FileType::RegularFile | FileType::Symlink);
    let size = status.as_ref().map_or(0, |status| status.st_size as u64);
    let place = match status {
        Ok(status) if (kind == FileType::Directory || is_way) && link.len() <= message::PATH_BYTES_MAX => {
            Some(Place {
                device: status.st_dev,
                inode: status.st_ino,
                path: link,
            })
        }
        _ => None,
    };
    Object {
        handle: promise.unwrap_or(handle),
        promise: promise.is_some(),
        flags,
        seekable: regular,
        terminal: rustix::termios::isatty(file),
        place,
        size: if regular { size } else { 0 },
        offset: if regular {
            rustix::fs::tell(file.as_fd()).map_or(0, |offset| offset as i64)
        } else {
            0
        },
    }
}
