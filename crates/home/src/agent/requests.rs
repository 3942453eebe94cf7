//! What comes from the node: threads that read the link in turn.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use afield_abi::errno;
use afield_abi::fuse::{Opcode, ReplyHeader, RequestHeader};
use afield_abi::syscalls::{self, Arg, nr};
use afield_link::control::dispatch_home;
use afield_link::frame::{FILE_ID, Frame, Kind};
use afield_link::message::{self, Passed};
use afield_link::turns::Next;
use afield_link::wire::{self, CallHeader, HandleHeader, HandleOp, Usage};
use rustix::process::Pid;
use zerocopy::FromBytes;

use super::deputies::DeputyEntry;
use super::lock;
use super::record_locks::Waiting;
use super::server::Server;
use super::session::{Outstanding, Session, SessionError};
use super::streams::Passing;
use super::trips::{Cause, Operation, cause_of_file};
use crate::messages::ToDeputy;

/// Most calls of one job of which its user is told.
const TOLD_MAX: usize = 512;

/// Most words of a node that are passed on to the user of one job.
const NOTICES_MAX: usize = 16;

impl Session {
    /// Reads and serves until the session is over; several threads do so.
    pub(super) fn read_link(self: &Arc<Self>) {
        let mut reply = Vec::new();
        while let Some(request) = self.next_file_request() {
            if let Err(error) = self.serve_file(request, &mut reply) {
                self.end(&error);
            }
        }
    }

    /// Outside of the turn. `reply` is room for one.
    fn serve_file(self: &Arc<Self>, request: Frame, reply: &mut Vec<u8>) -> Result<(), SessionError> {
        reply.clear();
        let promise = self.files.begin();
        let outcome = self.files.handle(&request.payload, reply);
        let promise = self.files.promised(&request.payload, promise);
        self.serving.fetch_sub(1, Ordering::Release);
        self.count_file(&request, reply);
        self.go_ahead(&request.payload, reply)?;
        let (id, asker) = (request.id, asker_of(&request.payload));
        if let Some(program) = self.files.unreadable_program(&request.payload, reply) {
            self.tell_unreadable(asker, &program)?;
        }
        drop(request);
        self.finish_file(id, asker, outcome, promise, reply)
    }

    /// Reads until there is a file request; everything else is done meanwhile, in the link's order. `None` when the session is over.
    fn next_file_request(self: &Arc<Self>) -> Option<Frame> {
        self.turns.next(|frame| {
            if self.is_over() {
                return Next::Stop;
            }
            match frame
                .map_err(SessionError::from)
                .and_then(|frame| self.take(frame))
            {
                Ok(None) => Next::More,
                Ok(Some(request)) => {
                    self.serving.fetch_add(1, Ordering::Acquire);
                    Next::Leave(request)
                }
                Err(error) => {
                    // In the turn, so that no other thread reads on.
                    self.end(&error);
                    match self.is_over() {
                        true => Next::Stop,
                        // Only an answer could not be sent.
                        false => Next::More,
                    }
                }
            }
        })
    }

    /// In the reader's turn: everything but file requests is done here.
    fn take(self: &Arc<Self>, frame: Frame) -> Result<Option<Frame>, SessionError> {
        match frame.kind {
            Kind::File => {
                self.note_file(&frame)?;
                if !self.files.is_in_order(&frame.payload) {
                    return Ok(Some(frame));
                }
                let mut reply = Vec::new();
                self.serving.fetch_add(1, Ordering::Acquire);
                let promise = self.files.begin();
                let outcome = self.files.handle(&frame.payload, &mut reply);
                self.serving.fetch_sub(1, Ordering::Release);
                self.count_file(&frame, &reply);
                self.finish_file(frame.id, asker_of(&frame.payload), outcome, promise, &mut reply)?;
            }
            Kind::Call => self.pass_call(&frame)?,
            Kind::Handle => self.pass_operation(&frame)?,
            Kind::Cancel => self.cancel(frame.id)?,
            Kind::Control => {
                if let Some(execution) = self.calls.receive(&frame.payload)? {
                    dispatch_home(&Server { session: self }, execution)?;
                }
            }
            Kind::Hello
            | Kind::Welcome
            | Kind::CallReply
            | Kind::FileReply
            | Kind::HandleReply
            | Kind::Invalidate
            | Kind::Early
            | Kind::Streams => {
                return Err(SessionError::Violation(format!("frame of kind {:?}", frame.kind)));
            }
        }
        Ok(None)
    }

    /// Counts a file request that a guest waits for.
    fn count_file(&self, request: &Frame, reply: &[u8]) {
        let Some(deputy) = self.deputy(asker_of(&request.payload)) else {
            return;
        };
        if let Some((cause, operation)) = cause_of_file(&self.files, &request.payload, reply) {
            if tracing::enabled!(tracing::Level::TRACE) {
                trace_file(deputy.pid, cause, &request.payload, reply);
            }
            lock(&deputy.tally).add(cause, operation, request.payload.len() + reply.len());
        }
    }

    /// Those that may wait for long are noted in the turn, so that a cancellation finds them.
    fn note_file(&self, frame: &Frame) -> Result<(), SessionError> {
        if frame.id & FILE_ID == 0 {
            return Err(SessionError::Violation(format!(
                "file request with id {:#x}",
                frame.id
            )));
        }
        let opcode = RequestHeader::ref_from_prefix(&frame.payload)
            .ok()
            .and_then(|(header, _)| Opcode::from_wire(header.opcode));
        match opcode {
            Some(Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait) => {
                self.expect(frame.id, Outstanding::File(Waiting::Beginning(false)))
            }
            _ => Ok(()),
        }
    }

    fn pass_call(&self, frame: &Frame) -> Result<(), SessionError> {
        let (header, _) = wire::split::<CallHeader>(&frame.payload, "call")?;
        // A guest may call while its deputy has just been killed.
        let Some(deputy) = self.deputy(header.pid.get()) else {
            return self.fail_call(frame.id, libc::EINTR);
        };
        let operation = Operation::call(header.number.get());
        let passing = self.streams.pass_call(header, frame.id, &frame.payload);
        match passing {
            Passing::Kept => return Ok(()),
            Passing::TooMuch => return Err(flooded()),
            _ => {}
        }
        deputy.count_home_call(operation, frame.payload.len());
        if changes_rights(header.number.get())
            && let Some(session) = self.files.coherence()
        {
            session.mix();
        }
        if header.number.get() == nr::SETPGID
            && let Some(errno) = self.refuse_group(&deputy, header)
        {
            return self.fail_call(frame.id, errno);
        }
        if !self.shared.is_empty() {
            let arguments = header.arguments.map(|argument| argument.get());
            let shape = syscalls::row(header.number.get()).map(|row| row.shape(&arguments));
            for (argument, handle) in shape.into_iter().flatten().zip(arguments) {
                if *argument == Arg::Fd {
                    self.lend(&deputy, handle)?;
                }
            }
        }
        self.expect(frame.id, Outstanding::Call(Arc::clone(&deputy), operation))?;
        self.deliver(&deputy, Kind::Call, frame.id, &frame.payload)
    }

    /// Home's kernel does not see that a child has executed a program, after which its parent may not give it a group. The
    /// session says so in a third argument.
    fn refuse_group(&self, deputy: &DeputyEntry, header: &CallHeader) -> Option<i32> {
        let [target, group] = [0, 1].map(|index: usize| header.arguments[index].get() as i32);
        let child = self.deputy(u32::try_from(target).ok()?)?;
        if child.parent != Some(deputy.pid) || header.arguments[2].get() == 0 {
            return None;
        }
        let session = |pid: u32| rustix::process::getsid(Pid::from_raw(pid as i32)).ok();
        Some(match () {
            () if group < 0 => libc::EINVAL,
            () if session(child.pid) != session(deputy.pid) => libc::EPERM,
            () => libc::EACCES,
        })
    }

    fn pass_operation(&self, frame: &Frame) -> Result<(), SessionError> {
        let (header, data) = wire::split::<HandleHeader>(&frame.payload, "operation")?;
        let op = HandleOp::from_wire(header.op.get());
        let handle = header.handle.get();
        match op {
            Some(HandleOp::Consume) => {
                if self.streams.consume(handle, header.argument.get()) {
                    self.tell_streams()?;
                }
                return Ok(());
            }
            Some(HandleOp::Append) => {
                let appended = self.streams.append(handle, data);
                if appended.map_err(|error| SessionError::Violation(error.to_string()))? {
                    self.tell_streams()?;
                }
                return Ok(());
            }
            Some(HandleOp::Close) if self.streams.pass_close(handle, header.pid.get(), &frame.payload) => {
                return Ok(());
            }
            _ => {}
        }
        let answered = op.is_none_or(HandleOp::is_answered);
        let Some(deputy) = self.deputy(header.pid.get()) else {
            return match answered {
                true => self.fail_operation(frame.id, libc::EINTR),
                false => Ok(()),
            };
        };
        let operation = Operation::Object(header.op.get());
        let mut passing = Passing::On;
        if let Some(op) = op.filter(|_| answered) {
            passing = self.streams.pass_operation(op, handle, frame.id, &frame.payload);
            match passing {
                Passing::Kept => return Ok(()),
                Passing::TooMuch => return Err(flooded()),
                _ => {}
            }
        }
        if answered {
            deputy.count_home_call(operation, frame.payload.len());
        }
        if header.area_length.get() > 0 {
            self.give_area(&deputy)?;
        }
        if op == Some(HandleOp::Open) {
            // The deputy does not know the file service's nodes; it gets a way to this one.
            return match self.files.path_descriptor(header.handle.get()) {
                Err(errno) => self.fail_operation(frame.id, errno),
                Ok(descriptor) => {
                    self.expect(frame.id, Outstanding::Handle(Arc::clone(&deputy), operation))?;
                    let message = ToDeputy::Open {
                        handle: self.new_handles(1),
                        flags: header.argument.get() as u32,
                        offset: header.offset.get(),
                    };
                    self.tell(&deputy, frame.id, &message, Some(descriptor))
                }
            };
        }
        if !self.shared.is_empty() {
            if op == Some(HandleOp::Close) {
                lock(&deputy.status).lent.remove(&header.handle.get());
            } else {
                self.lend(&deputy, header.handle.get())?;
            }
            if op == Some(HandleOp::Send) {
                for object in message::decode_outgoing(data)?.1 {
                    if let Passed::Handle(handle) = object {
                        self.lend(&deputy, handle)?;
                    }
                }
            }
        }
        if op == Some(HandleOp::Share) {
            return self.share(&deputy, frame.id, header.handle.get());
        }
        if op == Some(HandleOp::Send) && !self.streams.is_empty() {
            for object in message::decode_outgoing(data)?.1 {
                if let Passed::Handle(handle) = object {
                    self.streams.give_away(handle);
                }
            }
        }
        if answered {
            self.expect(frame.id, Outstanding::Handle(Arc::clone(&deputy), operation))?;
        }
        self.deliver(&deputy, Kind::Handle, frame.id, &frame.payload)?;
        match passing {
            Passing::Begin => self.want_stream(&deputy, handle),
            _ => Ok(()),
        }
    }

    /// Passes on what has waited for what was written before it.
    pub(super) fn pass_on(
        self: &Arc<Self>,
        kind: Kind,
        id: u64,
        payload: Vec<u8>,
    ) -> Result<(), SessionError> {
        self.take(Frame { kind, id, payload }).map(drop)
    }

    /// Tells the user why a program is not executed that natively is.
    fn tell_unreadable(&self, pid: u32, program: &Path) -> Result<(), SessionError> {
        let program = wire::presentable(&program.to_string_lossy());
        let text = format!(
            "execve: {program} may be executed but not read, and a node has to read what it executes (EACCES); \
             `afield run --on home` runs it at home"
        );
        self.notice_once(pid, text)
    }

    /// Passes the node's words on to the user of a guest's job, each once.
    pub(super) fn notice(&self, pid: u32, text: &str) -> Result<(), SessionError> {
        self.notice_once(pid, format!("node {}: {}", self.name, wire::presentable(text)))
    }

    fn notice_once(&self, pid: u32, text: String) -> Result<(), SessionError> {
        let Some(root) = self.deputy(pid).and_then(|deputy| self.deputy(deputy.job)) else {
            return Ok(());
        };
        {
            let mut status = lock(&root.status);
            if status.noticed.len() >= NOTICES_MAX || !status.noticed.insert(text.clone()) {
                return Ok(());
            }
        }
        self.tell(&root, 0, &ToDeputy::Notice(text), None)
    }

    /// Sees to it that a deputy has the memory that the node shares.
    fn give_area(&self, deputy: &DeputyEntry) -> Result<(), SessionError> {
        let Some(area) = &self.area else {
            return Err(SessionError::Violation(
                "contents in memory that is not shared".to_owned(),
            ));
        };
        if std::mem::replace(&mut lock(&deputy.status).has_area, true) {
            return Ok(());
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(area, 3)?;
        self.tell(deputy, 0, &ToDeputy::Area, Some(copy))
    }

    pub(super) fn unfork(&self, parent: u32, pid: u32) -> Result<(), SessionError> {
        let Some(child) = self.deputy(pid) else {
            return Ok(());
        };
        if child.maker != Some(parent) {
            return Err(SessionError::Violation(format!("{pid} was not made by {parent}")));
        }
        {
            let mut status = lock(&child.status);
            status.ending = true;
            status.hidden = true;
        }
        // A sibling's parent may be no deputy. All that can be done then is to end it.
        let keeper = child.parent.unwrap_or(parent);
        match self.deputy(keeper).filter(|keeper| !lock(&keeper.status).ending) {
            // The child's channel stays open until its end: otherwise it would end by itself, and be seen.
            Some(keeper) => self.tell(&keeper, 0, &ToDeputy::Unfork { pid }, None),
            // Nobody is left to see it.
            None => {
                self.unregister(pid);
                Ok(())
            }
        }
    }

    pub(super) fn exit(&self, pid: u32, status: i32, usage: Usage) -> Result<(), SessionError> {
        let Some(deputy) = self.deputy(pid) else {
            return Ok(());
        };
        let total = {
            let mut own = lock(&deputy.status);
            own.ending = true;
            own.dumps = libc::WIFSIGNALED(status) && libc::WCOREDUMP(status);
            let mut total = usage;
            crate::deputy::add_usage(&mut total, &own.children_usage);
            total
        };
        if let Some(parent) = deputy.parent.and_then(|parent| self.deputy(parent)) {
            lock(&parent.status).ended_children.insert(pid, total);
            let message = ToDeputy::ChildUsage { pid, usage: total };
            self.tell(&parent, 0, &message, None)?;
        }
        // Before anybody sees that it is gone.
        self.streams.left(pid);
        self.tell(&deputy, 0, &ToDeputy::Exit { status }, None)
    }

    pub(super) fn unsupported(&self, pid: u32, call: u32, number: i32) -> Result<(), SessionError> {
        let Some(deputy) = self.deputy(pid) else {
            return Ok(());
        };
        let Some(root) = self.deputy(deputy.job).filter(|root| root.verbose) else {
            return Ok(());
        };
        {
            let mut status = lock(&root.status);
            if status.told.len() >= TOLD_MAX || !status.told.insert(call) {
                return Ok(());
            }
        }
        let name =
            syscalls::row(call).map_or_else(|| format!("system call {call}"), |row| row.name.to_owned());
        let error = errno::name(number).map_or_else(|| number.to_string(), str::to_owned);
        let command = lock(&deputy.status).command.clone();
        let program = command.split(' ').next().unwrap_or_default();
        let text = format!("{program} ({pid}): {name} is not possible afield, it fails with {error}");
        self.tell(&root, 0, &ToDeputy::Notice(text), None)
    }
}

/// More requests than guests have in flight.
fn flooded() -> SessionError {
    SessionError::Violation("too many requests about a connection".to_owned())
}

/// Calls after which a guest's rights to files may differ from other guests'.
fn changes_rights(number: u32) -> bool {
    matches!(
        number,
        nr::SETUID
            | nr::SETGID
            | nr::SETREUID
            | nr::SETREGID
            | nr::SETRESUID
            | nr::SETRESGID
            | nr::SETFSUID
            | nr::SETFSGID
            | nr::SETGROUPS
    )
}

/// Whose file request it is, as far as the node says.
pub(super) fn asker_of(request: &[u8]) -> u32 {
    RequestHeader::ref_from_prefix(request).map_or(0, |(header, _)| header.pid)
}

/// NUL-separated arguments as one line.
pub(super) fn words_of(arguments: &[u8]) -> String {
    let arguments = arguments.strip_suffix(b"\0").unwrap_or(arguments);
    let line: Vec<u8> = arguments
        .iter()
        .map(|&byte| if byte == 0 { b' ' } else { byte })
        .collect();
    String::from_utf8_lossy(&line).into_owned()
}

/// Says what a guest waits for, to whoever wants to know why.
fn trace_file(pid: u32, cause: Cause, request: &[u8], reply: &[u8]) {
    let Ok((header, body)) = RequestHeader::ref_from_prefix(request) else {
        return;
    };
    let error = ReplyHeader::read_from_prefix(reply).map_or(0, |(reply, _)| reply.error);
    tracing::trace!(
        pid,
        ?cause,
        opcode = ?Opcode::from_wire(header.opcode),
        node = header.node,
        error,
        "waits: {}",
        body[..body.len().min(64)].escape_ascii()
    );
}
