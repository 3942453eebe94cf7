//! Operations on home objects.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use afield_abi::fuse::{FileLock, LOCK_FLOCK, LockRequest, SetAttributesRequest, set_flag};
use afield_link::frame::PAYLOAD_BYTES_MAX;
use afield_link::sys::{Area, Data, Room};
use afield_link::wire::{self, HandleHeader, HandleOp, WireError, note};
use rustix::event::{PollFlags, Timespec};
use rustix::fs::{Gid, Mode, OFlags, SeekFrom, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::handles::{Handle, Sort};
use super::readiness::{Known, ready_for};
use super::workers::{Work, Worker};
use super::{Deputy, lock};
use crate::proc;
use crate::sys::interrupt::Flag;
use crate::sys::object::Operand;
use crate::sys::signals::Set;
use crate::sys::{message, object, signals};

/// Most bytes read at once: what fits a frame with its head.
const READ_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 64;

/// An operation on an object that is open.
pub(super) struct Operation {
    id: u64,
    number: u64,
    handle: Handle,
    /// -1 is the shared one.
    offset: i64,
    pub(super) argument: u64,
    pub(super) size: usize,
    /// The guest's file does not wait.
    pub(super) nonblocking: bool,
    /// On a terminal: the signals of background access that the caller would get.
    hears: Set,
    /// The frame; what follows its header is the operation's data.
    payload: Vec<u8>,
    /// Where its contents are instead, in memory shared with the node: place and bytes.
    shared: Option<(Arc<Area>, usize, usize)>,
}

/// What has come of an operation.
pub(super) struct Outcome {
    /// A value or an errno.
    pub(super) result: Result<i64, i32>,
    /// What goes along.
    pub(super) data: Vec<u8>,
    /// Bits of [`note`].
    pub(super) notes: u32,
}

impl Outcome {
    /// Without data.
    pub(super) fn plain(result: Result<i64, i32>) -> Self {
        Self {
            result,
            data: Vec::new(),
            notes: 0,
        }
    }

    /// A failure.
    pub(super) fn error(errno: i32) -> Self {
        Self::plain(Err(errno))
    }

    /// What was read.
    fn read(data: Vec<u8>) -> Self {
        Self {
            result: Ok(data.len() as i64),
            data,
            notes: 0,
        }
    }

    /// A failure to write. Of the signal that goes with it the node is told, which raises it.
    fn write_error(errno: i32) -> Self {
        let (signal, note) = match errno {
            libc::EPIPE => (libc::SIGPIPE, note::PIPE_SIGNAL),
            libc::EFBIG => (libc::SIGXFSZ, note::SIZE_SIGNAL),
            _ => return Self::error(errno),
        };
        let raised = signals::take_pending(signals::only(signal)).is_some();
        Self {
            notes: if raised { note } else { 0 },
            ..Self::error(errno)
        }
    }
}

impl Operation {
    pub(super) fn data(&self) -> &[u8] {
        &self.payload[size_of::<HandleHeader>()..]
    }

    pub(super) fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        self.handle.file.as_fd()
    }

    /// What is to be written or sent, if it is in shared memory; the message's own otherwise.
    pub(super) fn contents<'a>(&'a self, own: &'a [u8]) -> Data<'a> {
        let shared = self.shared.as_ref();
        shared
            .and_then(|(area, place, length)| area.data(*place, *length))
            .unwrap_or_else(|| own.into())
    }

    /// Where in shared memory what is read or received is to go.
    pub(super) fn room(&self) -> Option<Room<'_>> {
        let (area, place, length) = self.shared.as_ref()?;
        area.room(*place, *length)
    }

    /// Whether its contents are in shared memory.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    fn position(&self) -> Option<i64> {
        (self.offset >= 0).then_some(self.offset)
    }
}

impl Deputy {
    /// Executes an operation, or has a worker do it. It is always answered, but for `Close`.
    pub(super) fn begin_operation(self: &Arc<Self>, id: u64, payload: Vec<u8>) -> Result<(), WireError> {
        let (header, _) = wire::split::<HandleHeader>(&payload, "operation")?;
        let header = *header;
        let number = header.handle.get();
        let Some(op) = HandleOp::from_wire(header.op.get()) else {
            self.answer_operation(id, Err(libc::EINVAL), &[]);
            return Ok(());
        };
        if op == HandleOp::Close {
            let closed = lock(&self.handles).remove(number);
            if let Some(handle) = closed {
                self.readiness.forget(number, handle.file.as_fd());
            }
            return Ok(());
        }
        let Some(handle) = lock(&self.handles).get(number) else {
            self.answer_operation(id, Err(libc::EBADF), &[]);
            return Ok(());
        };
        let shared = match self.shared_memory(&header, op, &handle) {
            Ok(shared) => shared,
            Err(errno) => {
                self.answer_operation(id, Err(errno), &[]);
                return Ok(());
            }
        };
        let operation = Operation {
            id,
            number,
            shared,
            handle,
            offset: header.offset.get(),
            argument: header.argument.get(),
            size: (header.size.get() as usize).min(READ_BYTES_MAX),
            nonblocking: header.flags.get() & libc::O_NONBLOCK as u32 != 0,
            hears: hears(header.flags.get()),
            payload,
        };
        match op {
            HandleOp::Read => self.begin_read(operation),
            HandleOp::Write => self.begin_write(operation),
            HandleOp::Poll => self.poll(&operation),
            HandleOp::Ioctl if operation.argument == libc::SIOCGIFCONF => {
                match object::interfaces(operation.file(), operation.size) {
                    Ok((length, list)) => self.answer_operation(id, Ok(length), &list),
                    Err(errno) => self.answer_operation(id, Err(errno), &[]),
                }
            }
            HandleOp::Ioctl => self.in_worker(operation, Deputy::control),
            HandleOp::Sync => self.in_worker(operation, |_, worker, operation| {
                let data_only = operation.argument == 1;
                Outcome::plain(worker.wait(|flag| object::sync(flag, operation.file(), data_only)))
            }),
            HandleOp::Allocate => self.in_worker(operation, |_, worker, operation| {
                let length = operation.data().first_chunk::<8>();
                let result = length.ok_or(libc::EINVAL).and_then(|length| {
                    let length = i64::from_le_bytes(*length);
                    worker.wait(|flag| {
                        object::allocate(
                            flag,
                            operation.file(),
                            operation.argument,
                            operation.offset,
                            length,
                        )
                    })
                });
                result.map_or_else(Outcome::write_error, |done| Outcome::plain(Ok(done)))
            }),
            HandleOp::Seek => {
                let result = object::seek(operation.file(), operation.offset, operation.argument);
                self.answer_operation(id, result, &[]);
            }
            HandleOp::Stat => match object::status(operation.file()) {
                Ok(status) => self.answer_operation(id, Ok(0), &status),
                Err(errno) => self.answer_operation(id, Err(errno), &[]),
            },
            HandleOp::SetFlags => {
                let result = object::set_flags(operation.file(), operation.argument);
                if result.is_ok() && operation.argument & libc::O_ASYNC as u64 != 0 {
                    self.signals.name(operation.file(), operation.offset as i32);
                }
                self.answer_operation(id, result, &[]);
            }
            HandleOp::GetFlags => self.answer_operation(id, object::flags(operation.file()), &[]),
            HandleOp::SetAttributes => {
                let outcome = match set_attributes(&operation) {
                    Ok(()) => Outcome::plain(Ok(0)),
                    Err(errno) => Outcome::write_error(errno.raw_os_error()),
                };
                self.answer_object(&operation, outcome);
            }
            HandleOp::Name => match proc::link(&format!("self/fd/{}", operation.file().as_raw_fd())) {
                Ok(name) => {
                    self.answer_operation(id, Ok(name.len() as i64), &name);
                }
                Err(error) => {
                    self.answer_operation(id, Err(error.raw_os_error().unwrap_or(libc::EIO)), &[]);
                }
            },
            HandleOp::Lock => {
                self.in_worker(operation, |_, worker, operation| lock_object(worker, operation))
            }
            HandleOp::Send => self.begin_send(operation)?,
            HandleOp::Receive => self.begin_receive(operation)?,
            HandleOp::Filter => self.filter(&operation),
            HandleOp::PeerProcess => {
                let result = if self.may_become(operation.argument) {
                    object::peer_process(operation.file()).map(|process| {
                        lock(&self.handles).insert(operation.argument, process);
                        0
                    })
                } else {
                    Err(libc::EINVAL)
                };
                self.answer_operation(id, result, &[]);
            }
            HandleOp::Control => {
                let mut memory = [0; 8];
                if let Some(data) = operation.data().first_chunk::<8>() {
                    memory = *data;
                }
                let result = message::control(
                    operation.file(),
                    operation.argument as i32,
                    operation.offset,
                    &mut memory,
                );
                self.answer_operation(id, result, &memory[..operation.size.min(8)]);
            }
            // The agent makes these into messages of their own.
            HandleOp::Open | HandleOp::Share | HandleOp::Close | HandleOp::Consume | HandleOp::Append => {
                self.answer_operation(id, Err(libc::EINVAL), &[])
            }
        }
        Ok(())
    }

    /// Has a worker do something whose result is answered, made again when it was interrupted for nothing.
    pub(super) fn in_worker(
        self: &Arc<Self>,
        operation: Operation,
        mut execute: impl FnMut(&Deputy, &mut Worker<'_>, &Operation) -> Outcome + Send + 'static,
    ) {
        let id = operation.id;
        self.employ_or_fail(
            id,
            Box::new(move |worker| {
                let deputy = worker.deputy;
                let outcome = loop {
                    let catches = signals::catches();
                    let outcome = execute(deputy, worker, &operation);
                    if outcome.result != Err(libc::EINTR) || worker.cancelled() {
                        break outcome;
                    }
                    if signals::catches() != catches {
                        break Outcome::error(wire::RESTART);
                    }
                };
                deputy.answer_object(&operation, outcome);
            }),
        );
    }

    /// Answers an operation, and tells what the object is ready for now.
    pub(super) fn answer_object(&self, operation: &Operation, outcome: Outcome) {
        let known = self.readiness.after(operation.number, operation.file());
        let known = Known {
            notes: known.notes | outcome.notes,
            ..known
        };
        self.answer_operation_with(operation.id, outcome.result, &outcome.data, known);
    }

    fn employ_or_fail(self: &Arc<Self>, id: u64, work: Work) {
        if let Err(errno) = self.employ(id, work) {
            self.answer_operation(id, Err(errno), &[]);
        }
    }

    /// Where in shared memory an operation has its contents. Files with an offset do not have them there.
    fn shared_memory(
        &self,
        header: &HandleHeader,
        op: HandleOp,
        handle: &Handle,
    ) -> Result<Option<(Arc<Area>, usize, usize)>, i32> {
        let (place, length) = (
            header.area_place.get() as usize,
            header.area_length.get() as usize,
        );
        if length == 0 {
            return Ok(None);
        }
        let moves = matches!(
            op,
            HandleOp::Read | HandleOp::Write | HandleOp::Send | HandleOp::Receive
        );
        if !moves || handle.sort == Sort::Regular {
            return Err(libc::EINVAL);
        }
        // Without it there was no memory left to map it.
        let area = lock(&self.area).clone().ok_or(libc::ENOMEM)?;
        match area.data(place, length) {
            Some(_) => Ok(Some((area, place, length))),
            None => Err(libc::EINVAL),
        }
    }

    /// Reads from a stream into shared memory.
    fn begin_shared_read(self: &Arc<Self>, operation: Operation) {
        let counted = |result: Result<usize, i32>| Outcome::plain(result.map(|count| count as i64));
        let read = |operation: &Operation, flag: Option<&Flag>| {
            let room = operation.room().unwrap_or_else(|| Room::from(&mut [][..]));
            match flag {
                None => object::read_now(operation.file(), &room, None),
                Some(flag) => object::read(flag, operation.file(), &room, None),
            }
        };
        let outcome = match read(&operation, None) {
            Err(libc::EOPNOTSUPP) if operation.nonblocking && never_waits(operation.file()) => {
                counted(read(&operation, Some(&Flag::default())))
            }
            Err(libc::EAGAIN | libc::EOPNOTSUPP) => {
                if !operation.nonblocking || !ready_for(operation.file(), PollFlags::IN).is_empty() {
                    return self.in_worker(operation, move |_, worker, operation| {
                        counted(worker.wait(|flag| read(operation, Some(flag))))
                    });
                }
                Outcome::error(libc::EAGAIN)
            }
            result => counted(result),
        };
        self.answer_object(&operation, outcome);
    }

    fn begin_read(self: &Arc<Self>, operation: Operation) {
        if operation.handle.sort == Sort::Terminal {
            return self.read_terminal(operation);
        }
        if operation.is_shared() {
            return self.begin_shared_read(operation);
        }
        let mut bytes = vec![0u8; operation.size];
        let mut done = 0;
        match object::read_now(
            operation.file(),
            &Room::from(&mut bytes[..]),
            operation.position(),
        ) {
            // Of a file it may be only the part that is in memory.
            Ok(count) if operation.handle.sort != Sort::Regular || count == bytes.len() => {
                bytes.truncate(count);
                return self.answer_object(&operation, Outcome::read(bytes));
            }
            Ok(count) => done = count,
            Err(libc::EOPNOTSUPP) if operation.nonblocking && never_waits(operation.file()) => {
                // A FIFO that was opened so. What its end looks like only it can say.
                let outcome = match rustix::io::read(operation.file(), &mut bytes[..]) {
                    Ok(count) => {
                        bytes.truncate(count);
                        Outcome::read(bytes)
                    }
                    Err(errno) => Outcome::error(errno.raw_os_error()),
                };
                return self.answer_object(&operation, outcome);
            }
            Err(libc::EAGAIN | libc::EOPNOTSUPP) => {
                if operation.nonblocking
                    && operation.handle.sort != Sort::Regular
                    && ready_for(operation.file(), PollFlags::IN).is_empty()
                {
                    return self.answer_object(&operation, Outcome::error(libc::EAGAIN));
                }
            }
            Err(errno) => return self.answer_object(&operation, Outcome::error(errno)),
        }
        // What was read already has moved the shared offset, and is kept.
        bytes.truncate(done);
        bytes.shrink_to_fit();
        self.in_worker(operation, move |_, worker, operation| {
            // Fresh memory is not touched before the kernel fills it.
            let kept = &bytes;
            let mut bytes = vec![0u8; operation.size];
            bytes[..done].copy_from_slice(kept);
            let position = operation.position().map(|offset| offset + done as i64);
            let result = worker
                .wait(|flag| object::read(flag, operation.file(), &Room::from(&mut bytes[done..]), position));
            match result {
                Ok(count) => {
                    bytes.truncate(done + count);
                    Outcome::read(bytes)
                }
                Err(_) if done > 0 => {
                    bytes.truncate(done);
                    Outcome::read(bytes)
                }
                Err(errno) => Outcome::error(errno),
            }
        });
    }

    /// Whether the terminal may be used at all comes before whether there is something to read: the kernel decides both.
    fn read_terminal(self: &Arc<Self>, operation: Operation) {
        self.in_worker(operation, move |deputy, worker, operation| {
            if operation.nonblocking
                && !never_waits(operation.file())
                && ready_for(operation.file(), PollFlags::IN).is_empty()
            {
                return Outcome::error(libc::EAGAIN);
            }
            let mut bytes = match operation.is_shared() {
                true => Vec::new(),
                false => vec![0u8; operation.size],
            };
            let result = deputy.with_terminal(operation, || {
                worker.wait(|flag| {
                    let room = operation.room().unwrap_or_else(|| Room::from(&mut bytes[..]));
                    object::read(flag, operation.file(), &room, operation.position())
                })
            });
            match result {
                Ok(count) if operation.is_shared() => Outcome::plain(Ok(count as i64)),
                Ok(count) => {
                    bytes.truncate(count);
                    Outcome::read(bytes)
                }
                Err(errno) => Outcome::error(errno),
            }
        });
    }

    fn begin_write(self: &Arc<Self>, operation: Operation) {
        if operation.size == 1 {
            return self.in_worker(operation, write_stored);
        }
        if operation.handle.sort == Sort::Terminal {
            return self.write_in_worker(operation, 0);
        }
        let data = operation.contents(operation.data());
        let length = data.length();
        let mut done = 0;
        match object::write_now(operation.file(), data, operation.position()) {
            Ok(count)
                if count == length || operation.nonblocking && operation.handle.sort != Sort::Regular =>
            {
                return self.answer_object(&operation, Outcome::plain(Ok(count as i64)));
            }
            Ok(count) => done = count,
            Err(libc::EAGAIN | libc::EOPNOTSUPP) => {
                if operation.nonblocking
                    && operation.handle.sort != Sort::Regular
                    && ready_for(operation.file(), PollFlags::OUT).is_empty()
                {
                    return self.answer_object(&operation, Outcome::error(libc::EAGAIN));
                }
            }
            Err(errno) => return self.answer_object(&operation, Outcome::write_error(errno)),
        }
        self.write_in_worker(operation, done);
    }

    fn write_in_worker(self: &Arc<Self>, operation: Operation, done: usize) {
        let id = operation.id;
        self.employ_or_fail(
            id,
            Box::new(move |worker| {
                let deputy = worker.deputy;
                let outcome = deputy.write_all(worker, &operation, done);
                deputy.answer_object(&operation, outcome);
            }),
        );
    }

    /// Writes as a blocking `write` does: all of it, unless there is an error or an interruption.
    fn write_all(&self, worker: &mut Worker<'_>, operation: &Operation, mut done: usize) -> Outcome {
        let data = operation.contents(operation.data());
        loop {
            let catches = signals::catches();
            let position = operation.position().map(|offset| offset + done as i64);
            let result = self.with_terminal(operation, || {
                worker.wait(|flag| object::write(flag, operation.file(), data.after(done), position))
            });
            match result {
                Ok(count) => {
                    done += count;
                    // A file that takes less is full or at a limit, which the next write will tell the guest.
                    let whole = done == data.length() || count == 0;
                    if whole || operation.nonblocking || worker.cancelled() {
                        return Outcome::plain(Ok(done as i64));
                    }
                }
                Err(libc::EINTR) if !worker.cancelled() && signals::catches() == catches => {}
                Err(errno) if done > 0 => {
                    // The next call raises it again.
                    let _ = Outcome::write_error(errno);
                    return Outcome::plain(Ok(done as i64));
                }
                Err(libc::EINTR) if !worker.cancelled() => return Outcome::error(wire::RESTART),
                Err(errno) => return Outcome::write_error(errno),
            }
        }
    }

    /// Does something with the object; if it is a terminal, as a process to which job control applies.
    fn with_terminal<T>(&self, operation: &Operation, access: impl FnOnce() -> T) -> T {
        if operation.handle.sort != Sort::Terminal {
            return access();
        }
        self.signals.with_job_control(operation.hears, access)
    }

    fn control(&self, worker: &mut Worker<'_>, operation: &Operation) -> Outcome {
        let command = operation.argument as u32;
        let mut memory = operation.data().to_vec();
        match object::operand(command) {
            None => self.log(format!("ioctl {command:#x} is not one that home executes")),
            Some(Operand::Memory(bytes)) if memory.len() < bytes => memory.resize(bytes, 0),
            Some(_) => {}
        }
        let result = self.with_terminal(operation, || {
            worker.wait(|flag| {
                object::control(
                    flag,
                    operation.file(),
                    command,
                    operation.offset as u64,
                    &mut memory,
                )
            })
        });
        memory.resize(operation.size, 0);
        Outcome {
            result,
            data: memory,
            notes: 0,
        }
    }

    fn poll(&self, operation: &Operation) {
        let events = PollFlags::from_bits_truncate(operation.argument as u16);
        let (notify, edge) = (operation.size > 0, operation.size == 2);
        let (found, known) = self
            .readiness
            .ask(operation.number, operation.file(), events, notify, edge);
        let found = found & (events | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        self.answer_operation_with(operation.id, Ok(i64::from(found.bits())), &[], known);
    }

    /// Opens a file, which may wait for a partner.
    pub(super) fn open(self: &Arc<Self>, id: u64, handle: u64, (flags, offset): (u32, i64), file: OwnedFd) {
        let work = move |worker: &mut Worker<'_>| {
            let deputy = worker.deputy;
            let result = open_way(worker, file, flags).inspect(|opened| {
                if let Ok(offset) = u64::try_from(offset) {
                    // What has no offset needs none.
                    let _ = rustix::fs::seek(opened, SeekFrom::Start(offset));
                }
            });
            let mut kind = 0;
            let result = result.map(|opened| {
                let mut handles = lock(&deputy.handles);
                handles.insert(handle, opened);
                kind = match handles.get(handle).map(|opened| opened.sort) {
                    Some(Sort::Terminal) => 1,
                    Some(Sort::Regular) => 2,
                    _ => 0,
                };
                handle as i64
            });
            deputy.answer_operation(id, result, &[kind]);
        };
        self.employ_or_fail(id, Box::new(work));
    }
}

/// Opens the file to which a descriptor is a way. To be a way may be all that is wanted of it.
fn open_way(worker: &mut Worker<'_>, way: OwnedFd, flags: u32) -> Result<OwnedFd, i32> {
    if flags & libc::O_PATH as u32 != 0 {
        return Ok(way);
    }
    let (directory, path) = proc::place(&format!("self/fd/{}", way.as_raw_fd()));
    loop {
        match worker.wait(|flag| object::open(flag, directory, &path, flags)) {
            Err(libc::EINTR) if !worker.cancelled() => {}
            result => return result,
        }
    }
}

/// Writes what was stored into a mapping: as far as the file reaches, whoever has cut it since.
fn write_stored(_: &Deputy, worker: &mut Worker<'_>, operation: &Operation) -> Outcome {
    let data = operation.contents(operation.data());
    let length = data.length();
    let flags = rustix::fs::fcntl_getfl(operation.file()).unwrap_or(OFlags::APPEND);
    let Some(position) = operation.position().filter(|_| !flags.contains(OFlags::APPEND)) else {
        // It would go to the file's end.
        return Outcome::error(libc::EIO);
    };
    let size = rustix::fs::fstat(operation.file()).map_or(0, |status| status.st_size);
    let reaches = usize::try_from(size.saturating_sub(position)).unwrap_or(0);
    let mut rest = data.cut(length.min(reaches));
    let mut position = position;
    while rest.length() > 0 {
        match worker.wait(|flag| object::write(flag, operation.file(), rest, Some(position))) {
            Ok(count) => {
                rest = rest.after(count);
                position += count as i64;
            }
            Err(errno) => return Outcome::write_error(errno),
        }
    }
    Outcome::plain(Ok(length as i64))
}

/// The signals of background access that a caller with these flags would get.
fn hears(flags: u32) -> Set {
    let mut set = 0;
    for (signal, deaf) in [
        (libc::SIGTTIN, wire::deaf::TO_INPUT),
        (libc::SIGTTOU, wire::deaf::TO_OUTPUT),
    ] {
        if flags & deaf == 0 {
            set |= signals::only(signal);
        }
    }
    set
}

/// Tests, takes or drops a lock of the object's, by the deputy itself, so that it is the process's.
fn lock_object(worker: &mut Worker<'_>, operation: &Operation) -> Outcome {
    let Ok((request, _)) = LockRequest::read_from_prefix(operation.data()) else {
        return Outcome::error(libc::EINVAL);
    };
    let (test, wait) = (operation.argument == 0, operation.argument == 2);
    if request.flags & LOCK_FLOCK != 0 {
        let result = worker.wait(|flag| object::flock(flag, operation.file(), request.lock.kind, wait));
        return Outcome::plain(result);
    }
    let length = match request.lock.end {
        // To the end of the file, however long it gets.
        end if end >= i64::MAX as u64 => 0,
        end => end.saturating_sub(request.lock.start) as i64 + 1,
    };
    let mut record = libc::flock {
        l_type: request.lock.kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: request.lock.start as i64,
        l_len: length,
        l_pid: 0,
    };
    let command = match (test, wait) {
        (true, _) => libc::F_GETLK,
        (false, true) => libc::F_SETLKW,
        (false, false) => libc::F_SETLK,
    };
    let result = worker.wait(|flag| object::record_lock(flag, operation.file(), command, &mut record));
    let found = FileLock {
        start: record.l_start as u64,
        end: match record.l_len {
            0 => i64::MAX as u64,
            length => (record.l_start + length - 1) as u64,
        },
        kind: record.l_type as u32,
        pid: record.l_pid as u32,
    };
    Outcome {
        result,
        data: if test {
            found.as_bytes().to_vec()
        } else {
            Vec::new()
        },
        notes: 0,
    }
}

/// True if the open file itself is non-blocking.
pub(super) fn never_waits(file: std::os::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
}

fn set_attributes(operation: &Operation) -> Result<(), Errno> {
    let request = SetAttributesRequest::ref_from_prefix(operation.data())
        .map(|(request, _)| *request)
        .map_err(|_| Errno::INVAL)?;
    let file = operation.file();
    let has = |flag: u32| request.valid & flag != 0;
    if has(set_flag::SIZE) {
        rustix::fs::ftruncate(file, request.size)?;
    }
    if has(set_flag::UID | set_flag::GID) {
        let uid = has(set_flag::UID).then(|| Uid::from_raw(request.uid));
        let gid = has(set_flag::GID).then(|| Gid::from_raw(request.gid));
        rustix::fs::fchown(file, uid, gid)?;
    }
    if has(set_flag::MODE) {
        rustix::fs::fchmod(file, Mode::from_raw_mode(request.mode & 0o7777))?;
    }
    let time = |set: u32, now: u32, seconds: u64, nanoseconds: u32| Timespec {
        tv_sec: seconds as i64,
        tv_nsec: match (has(set), has(now)) {
            (_, true) => UTIME_NOW,
            (true, false) => i64::from(nanoseconds),
            (false, false) => UTIME_OMIT,
        },
    };
    let times = [
        set_flag::ACCESS_TIME,
        set_flag::ACCESS_TIME_NOW,
        set_flag::MODIFY_TIME,
        set_flag::MODIFY_TIME_NOW,
    ];
    if times.iter().any(|&flag| has(flag)) {
        let stamps = Timestamps {
            last_access: time(
                set_flag::ACCESS_TIME,
                set_flag::ACCESS_TIME_NOW,
                request.atime,
                request.atime_nanoseconds,
            ),
            last_modification: time(
                set_flag::MODIFY_TIME,
                set_flag::MODIFY_TIME_NOW,
                request.mtime,
                request.mtime_nanoseconds,
            ),
        };
        rustix::fs::futimens(file, &stamps)?;
    }
    Ok(())
}
