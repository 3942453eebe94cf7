//! What comes from the deputies: one thread listens to all of a session's and writes to the link.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afield_link::frame::{Frame, Kind};
use afield_link::wire;
use afield_rpc::CallError;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::deputies::DeputyEntry;
use super::lock;
use super::session::{Outstanding, STREAMS, Session, SessionError};
use super::streams::canonical;
use crate::channel::{ChannelError, Received};
use crate::messages::{FromDeputy, ToDeputy};

/// How often is looked whether somebody has stopped a deputy. Nothing tells of it.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// How soon what could not be told of connections is tried again.
const UNFINISHED_PERIOD: Duration = Duration::from_millis(1);

/// How often the file service may close what it has not needed.
const TRIM_PERIOD: Duration = Duration::from_secs(5);

/// Longest wait for deputies to take the news that the session is over.
pub(super) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How often is looked whether every guest has its deputy.
const OWNERS_PERIOD: Duration = Duration::from_secs(15);

const EVENTS: usize = 64;

impl Session {
    /// Listens until the session is over.
    pub(super) fn listen(self: &Arc<Self>) {
        let mut watched = Instant::now();
        let mut trimmed = Instant::now();
        let mut owned = Instant::now();
        while !self.is_over() {
            let period = match self.deputy_count() {
                _ if self.streams.is_unfinished() => UNFINISHED_PERIOD,
                0 => TRIM_PERIOD,
                _ => WATCH_PERIOD,
            };
            let result = self.listen_once(period).and_then(|()| {
                if self.streams.is_unfinished() {
                    self.hear_streams()?;
                }
                if watched.elapsed() >= WATCH_PERIOD {
                    watched = Instant::now();
                    self.watch()?;
                }
                Ok(())
            });
            self.node.tick();
            let result = result.and_then(|()| match owned.elapsed() >= OWNERS_PERIOD {
                true => {
                    owned = Instant::now();
                    self.check_owners()
                }
                false => Ok(()),
            });
            if trimmed.elapsed() >= TRIM_PERIOD {
                trimmed = Instant::now();
                self.files.trim();
            }
            if let Err(error) = result {
                self.end(&error);
            }
        }
        self.say_farewell();
    }

    fn listen_once(self: &Arc<Self>, period: Duration) -> Result<(), SessionError> {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let timeout = Timespec {
            tv_sec: period.as_secs() as i64,
            tv_nsec: i64::from(period.subsec_nanos()),
        };
        let (events, _) = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok(events) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for event in events.iter() {
            // A deputy that ended since has left nothing to do, nor has what only wakes.
            if event.data.u64() == STREAMS {
                self.hear_streams()?;
                continue;
            }
            let pid = u32::try_from(event.data.u64());
            let Some(deputy) = pid.ok().and_then(|pid| self.deputy(pid)) else {
                continue;
            };
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) && self.flush(&deputy) {
                epoll::modify(
                    &self.epoll,
                    deputy.channel(),
                    epoll::EventData::new_u64(u64::from(deputy.pid)),
                    epoll::EventFlags::IN,
                )?;
                // Something may have been left over between the two.
                if deputy.has_pending() {
                    epoll::modify(
                        &self.epoll,
                        deputy.channel(),
                        epoll::EventData::new_u64(u64::from(deputy.pid)),
                        epoll::EventFlags::IN | epoll::EventFlags::OUT,
                    )?;
                }
            }
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                self.hear(&deputy)?;
            }
        }
        Ok(())
    }

    /// True if nothing is left.
    fn flush(&self, deputy: &DeputyEntry) -> bool {
        // Errors show as the channel's end.
        deputy.flush().unwrap_or(true)
    }

    /// Takes what a deputy has said.
    fn hear(self: &Arc<Self>, deputy: &Arc<DeputyEntry>) -> Result<(), SessionError> {
        let mut incoming = lock(&deputy.incoming);
        let received = match incoming.receive(deputy.channel(), false) {
            Ok(received) => received,
            Err(ChannelError::Io(_)) => Received::End,
            Err(error) => return self.distrust(deputy, &error),
        };
        if received == Received::End {
            drop(incoming);
            self.unregister_this(deputy);
            return self.bury(deputy);
        }
        loop {
            let frame = match incoming.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => return self.distrust(deputy, &error),
            };
            match frame.kind {
                Kind::CallReply | Kind::HandleReply => self.pass_reply(deputy, &frame)?,
                Kind::Control => {
                    let message = match wire::decode(&frame.payload) {
                        Ok(message) => message,
                        Err(error) => return self.distrust(deputy, &error.into()),
                    };
                    let descriptor = match &message {
                        FromDeputy::Forked(Ok(_)) | FromDeputy::Shared(Ok(())) | FromDeputy::Ahead(_) => {
                            match incoming.take_descriptor() {
                                Ok(descriptor) => Some(descriptor),
                                Err(error) => return self.distrust(deputy, &error),
                            }
                        }
                        _ => None,
                    };
                    self.hear_message(deputy, frame.id, message, descriptor)?;
                }
                kind => tracing::warn!(pid = deputy.pid, ?kind, "unexpected frame from a deputy"),
            }
        }
    }

    /// A deputy that makes no sense (somebody has tampered with it) is given up.
    fn distrust(&self, deputy: &Arc<DeputyEntry>, error: &ChannelError) -> Result<(), SessionError> {
        tracing::warn!(pid = deputy.pid, %error, "a deputy is given up");
        self.unregister_this(deputy);
        self.bury(deputy)
    }

    fn pass_reply(&self, deputy: &Arc<DeputyEntry>, frame: &Frame) -> Result<(), SessionError> {
        let asked = self.with_outstanding(frame.id, |what| {
            let (kind, of, operation) = match what? {
                Outstanding::Call(of, operation) => (Kind::CallReply, of, *operation),
                Outstanding::Handle(of, operation) => (Kind::HandleReply, of, *operation),
                _ => return None,
            };
            (frame.kind == kind && Arc::ptr_eq(of, deputy)).then_some(operation)
        });
        let Some(operation) = asked else {
            tracing::warn!(
                pid = deputy.pid,
                id = frame.id,
                "a deputy answers what was not asked"
            );
            return Ok(());
        };
        self.answered(frame.id);
        deputy.count_answer(operation, frame.payload.len());
        self.streams.answered(frame.id);
        Ok(self.writer.write_frame(frame.kind, frame.id, &[&frame.payload])?)
    }

    fn hear_message(
        self: &Arc<Self>,
        deputy: &Arc<DeputyEntry>,
        id: u64,
        message: FromDeputy,
        descriptor: Option<std::os::fd::OwnedFd>,
    ) -> Result<(), SessionError> {
        let pid = deputy.pid;
        match message {
            FromDeputy::Forked(result) => return self.forked(deputy, id, result, descriptor),
            FromDeputy::Signal(info) => self.node.signal(pid, info)?,
            FromDeputy::Released => {
                {
                    let mut status = lock(&deputy.status);
                    status.stopping = false;
                    status.held = false;
                }
                self.node.release(pid)?;
            }
            FromDeputy::Ready { handle, events, look } => {
                self.node.ready(pid, handle, events, look)?;
            }
            FromDeputy::Shared(result) => self.keep_shared(deputy, id, result, descriptor)?,
            FromDeputy::Ahead(course) => self.begin_stream(deputy, id, course, descriptor)?,
            FromDeputy::Connected { handle, local, own } => {
                self.streams.connected(pid, handle, canonical(local), own);
            }
            FromDeputy::Locked(result) => self.finish_lock(id, result)?,
            FromDeputy::Unlocked => self.finish_unlock(id)?,
            FromDeputy::Reach { node } => {
                let way = self.files.way_at_hand(node);
                self.tell(deputy, 0, &ToDeputy::Reached(way.is_some()), way)?;
            }
            FromDeputy::Reaped { pid } => {
                let mut status = lock(&deputy.status);
                if let Some(usage) = status.ended_children.remove(&pid) {
                    crate::deputy::add_usage(&mut status.children_usage, &usage);
                }
            }
            FromDeputy::Log(text) => tracing::warn!(pid, "{text}"),
        }
        Ok(())
    }

    fn forked(
        &self,
        parent: &Arc<DeputyEntry>,
        id: u64,
        result: Result<u32, i32>,
        descriptor: Option<std::os::fd::OwnedFd>,
    ) -> Result<(), SessionError> {
        let Some(Outstanding::Fork {
            deputy,
            sibling,
            answer,
        }) = self.answered(id)
        else {
            return Ok(());
        };
        self.streams
            .forked(id, result.ok().filter(|_| descriptor.is_some()));
        if !Arc::ptr_eq(&deputy, parent) {
            return Ok(());
        }
        let result = match (result, descriptor) {
            (Ok(pid), Some(channel)) => {
                let of = if sibling { parent.parent } else { Some(parent.pid) };
                let mut child = DeputyEntry::new(
                    pid,
                    Arc::clone(&parent.job_record),
                    of,
                    channel,
                    Default::default(),
                );
                child.verbose = parent.verbose;
                child.maker = Some(parent.pid);
                {
                    let mut status = lock(&child.status);
                    status.started = true;
                    let parents = lock(&parent.status);
                    status.command = parents.command.clone();
                    status.program = parents.program.clone();
                    status.directory = parents.directory.clone();
                }
                // If the session is over nobody needs to know.
                self.register(&Arc::new(child))?;
                if let (true, Some(of)) = (sibling, of.and_then(|of| self.deputy(of))) {
                    self.tell(&of, 0, &ToDeputy::Born { pid }, None)?;
                }
                Ok(pid)
            }
            (Ok(_), None) => Err(libc::EAGAIN),
            (Err(errno), _) => Err(errno),
        };
        Ok(answer.send(&result)?)
    }

    /// Looks for deputies that somebody has stopped or continued, or given another priority.
    fn watch(&self) -> Result<(), SessionError> {
        for deputy in self.all_deputies() {
            let pid = deputy.pid;
            {
                let status = lock(&deputy.status);
                // One that has been asked to stop itself says when it runs again.
                if status.stopping || !status.started {
                    continue;
                }
            }
            let Some((stopped, nice)) = deputy.look() else {
                continue;
            };
            let (other_nice, other_stop) = {
                let mut status = lock(&deputy.status);
                let other_nice = std::mem::replace(&mut status.nice, nice) != nice;
                // It may have been asked to stop itself since.
                let other_stop = !status.stopping && status.held != stopped;
                if other_stop {
                    status.held = stopped;
                }
                (other_nice, other_stop)
            };
            if other_nice {
                self.node.priority(pid, nice)?;
            }
            if other_stop {
                match stopped {
                    true => self.node.hold(pid)?,
                    false => self.node.release(pid)?,
                }
            }
        }
        Ok(())
    }

    /// Ends guests whose deputies are no more. Each was told of at the time; this is for what nobody can have thought of.
    pub(super) fn check_owners(self: &Arc<Self>) -> Result<(), SessionError> {
        let session = Arc::downgrade(self);
        let asked = self.node.guests_then(move |guests| {
            let (Some(session), Ok(guests)) = (session.upgrade(), guests) else {
                return;
            };
            // A deputy is there before its guest.
            for pid in guests.into_iter().filter(|&pid| session.deputy(pid).is_none()) {
                tracing::warn!(pid, "a guest without a deputy is ended");
                if let Err(error) = session.node.kill(pid) {
                    session.end(&error.into());
                }
            }
        });
        match asked {
            Ok(()) | Err(CallError::TooMany) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The session is over. What nobody may see half done is done in the order in which a kernel does it at a process's end: what
    /// guests had written is written, whole requests of it; then their files are closed, and locks with them; then
    /// their deputies end, which is when others see that they are gone.
    fn say_farewell(&self) {
        let deadline = Instant::now() + FAREWELL_MAX;
        while self.serving.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // What waits for a lock must not get it now.
        for what in lock(&self.outstanding).values() {
            if let Outstanding::File(waiting) = what {
                waiting.interrupt();
            }
        }
        self.files.close_all();
        for deputy in self.all_deputies() {
            self.dismiss(&deputy);
        }
        while Instant::now() < deadline && self.all_deputies().iter().any(|deputy| !self.flush(deputy)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        for deputy in self.all_deputies() {
            self.unregister(deputy.pid);
        }
        // What is still asked of deputies keeps their channels open, and with them those of children they have just
        // made, which nobody knows of yet and which would wait for ever.
        let left: Vec<_> = lock(&self.outstanding).drain().collect();
        drop(left);
    }
}
