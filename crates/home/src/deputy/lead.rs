//! The main loop of a deputy.

use std::os::fd::AsFd;
use std::sync::Arc;

use afield_link::frame::{Frame, Kind};
use afield_link::sys::Area;
use afield_link::wire;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::mirror::Mirror;
use super::{Deputy, lock};
use crate::channel::{ChannelError, Incoming, Received};
use crate::messages::{FromDeputy, ToDeputy};
use crate::proc;
use crate::runtime::RuntimeDir;
use crate::sys::process::{self, Title};

/// Exit status when afield itself is why the job cannot go on.
const EXIT_OWN_FAILURE: i32 = 125;

/// What only the main thread has.
#[derive(Debug)]
pub struct Lead {
    pub(super) incoming: Incoming,
    title: Option<Title>,
    pub(super) mirror: Mirror,
}

/// What a message leads to.
pub(super) enum Next {
    /// The same deputy goes on.
    Same,
    /// This is a child now.
    Child(Arc<Deputy>, Box<Lead>),
}

impl Lead {
    /// `incoming` is the channel's, in which something may have been received already.
    pub fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            title: Title::of_this_process(),
            mirror: Mirror::default(),
        }
    }

    /// What a forked child has of it.
    pub(super) fn of_child(&mut self) -> Self {
        Self {
            incoming: Incoming::default(),
            title: self.title.take(),
            // The node tells what a child has as of a process that is new.
            mirror: Mirror::default(),
        }
    }

    /// Serves until the guest's end, which is the process's.
    pub fn serve(mut self, mut deputy: Arc<Deputy>) -> ! {
        loop {
            match self.turn(&deputy) {
                Ok(Next::Same) => {}
                Ok(Next::Child(child, lead)) => {
                    // What the parent's memory had belongs to the parent: nothing of it may be closed here.
                    std::mem::forget(std::mem::replace(&mut deputy, child));
                    std::mem::forget(std::mem::replace(&mut self, *lead));
                }
                Err(error) => {
                    let text = self.last_words(&deputy).unwrap_or_else(|| {
                        let why = match error {
                            ChannelError::Closed => "the agent died".to_owned(),
                            error => error.to_string(),
                        };
                        let name = deputy.root.as_ref().map_or("job", |root| &root.name);
                        format!("{why}; {name} ({}) cannot continue", deputy.pid)
                    });
                    deputy.give_up(&text);
                    process::exit(EXIT_OWN_FAILURE);
                }
            }
        }
    }

    /// Why the agent closed the channel, if it has said so: sending may have failed before that was read.
    fn last_words(&mut self, deputy: &Deputy) -> Option<String> {
        loop {
            while let Ok(Some(frame)) = self.incoming.next_frame() {
                if let (Kind::Control, Ok(ToDeputy::Gone(text))) = (frame.kind, wire::decode(&frame.payload))
                {
                    return Some(text);
                }
            }
            match self.incoming.receive(deputy.channel.as_fd(), false) {
                Ok(Received::Some) => {}
                _ => return None,
            }
        }
    }

    /// One frame, or one wait.
    fn turn(&mut self, deputy: &Arc<Deputy>) -> Result<Next, ChannelError> {
        if let Some(frame) = self.incoming.next_frame()? {
            return self.handle(deputy, frame);
        }
        // Without one yet, the channel stands in: it is looked at anyway.
        let watched = deputy.readiness.as_fd().unwrap_or(deputy.channel.as_fd());
        let mut polls = [
            PollFd::from_borrowed_fd(deputy.channel.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(deputy.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(watched, PollFlags::IN),
        ];
        match poll(&mut polls, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [channel, signal, ready] = polls.map(|poll| !poll.revents().is_empty());
        if signal {
            let _sending = lock(&deputy.sending);
            deputy.forward_signals()?;
        }
        if ready {
            let file = |handle| lock(&deputy.handles).get(handle).map(|handle| handle.file);
            for news in deputy.readiness.take(file) {
                deputy.tell(0, &news);
            }
        }
        if channel && self.incoming.receive(deputy.channel.as_fd(), false)? == Received::End {
            return Err(ChannelError::Closed);
        }
        Ok(Next::Same)
    }

    fn handle(&mut self, deputy: &Arc<Deputy>, frame: Frame) -> Result<Next, ChannelError> {
        match frame.kind {
            Kind::Call => deputy.begin_call(frame.id, &frame.payload)?,
            Kind::Handle => deputy.begin_operation(frame.id, frame.payload)?,
            Kind::Cancel => deputy.cancel(frame.id),
            Kind::Control => return self.control(deputy, frame.id, wire::decode(&frame.payload)?),
            _ => deputy.log(format!("frame of kind {:?} to a deputy", frame.kind)),
        }
        Ok(Next::Same)
    }

    fn control(&mut self, deputy: &Arc<Deputy>, id: u64, message: ToDeputy) -> Result<Next, ChannelError> {
        match message {
            ToDeputy::Fork { exit_signal, sibling } => {
                return Ok(deputy.fork(self, id, exit_signal, sibling));
            }
            ToDeputy::Born { pid } => deputy.children.born(pid),
            ToDeputy::Unfork { pid } => deputy.unfork(pid),
            ToDeputy::Exec { name, arguments } => {
                lock(&deputy.dispositions).reset();
                self.show(deputy, &name, &arguments);
            }
            ToDeputy::Ignores { signal, ignored } => {
                if let Err(error) = lock(&deputy.dispositions).set_ignored(signal as i32, ignored, 0) {
                    deputy.log(format!("disposition of signal {signal}: {error}"));
                }
            }
            ToDeputy::Name(name) => show_name(&name),
            ToDeputy::Title(arguments) => self.show_arguments(deputy, &arguments),
            ToDeputy::Exit { status } => deputy.die(status),
            ToDeputy::Stop { signal } => deputy.stop(signal),
            ToDeputy::ChildUsage { pid, usage } => deputy.children.ended(pid, usage),
            ToDeputy::Open {
                handle,
                flags,
                offset,
            } => {
                let file = self.incoming.take_descriptor()?;
                deputy.open(id, handle, (flags, offset), file);
            }
            ToDeputy::Directory => {
                let directory = self.incoming.take_descriptor()?;
                if let Err(errno) = rustix::process::fchdir(&directory) {
                    deputy.log(format!("working directory: {errno}"));
                }
            }
            ToDeputy::Area => {
                let file = self.incoming.take_descriptor()?;
                let mut area = lock(&deputy.area);
                // A child has it from its parent.
                if area.is_none() {
                    match Area::map(file.as_fd()) {
                        Ok(mapped) => *area = Some(Arc::new(mapped)),
                        Err(error) => deputy.log(format!("shared memory: {error}")),
                    }
                }
            }
            ToDeputy::Lock(request) => {
                let file = match request.descriptor {
                    true => Some(self.incoming.take_descriptor()?),
                    false => None,
                };
                deputy.record_lock(id, request, file);
            }
            ToDeputy::Share { handle } => {
                let file = lock(&deputy.handles).get(handle).map(|handle| handle.file);
                let answer = FromDeputy::Shared(file.as_ref().map(|_| ()).ok_or(libc::EBADF));
                deputy.tell_with(id, &answer, file.as_deref());
            }
            ToDeputy::Ahead { handle } => {
                let file = lock(&deputy.handles).get(handle).map(|handle| handle.file);
                let answer = match &file {
                    Some(file) => FromDeputy::Ahead(deputy.readiness.leave(handle, file.as_fd())),
                    None => FromDeputy::Shared(Err(libc::EBADF)),
                };
                deputy.tell_with(id, &answer, file.as_deref());
            }
            ToDeputy::Take { handle } => {
                let file = self.incoming.take_descriptor()?;
                let mut handles = lock(&deputy.handles);
                // It may have it already: from its parent, or because it is who gave it away.
                if handles.get(handle).is_none() {
                    handles.insert(handle, file);
                }
            }
            ToDeputy::Unlock { node } => {
                lock(&deputy.locks).remove(node);
                deputy.tell(id, &FromDeputy::Unlocked);
            }
            ToDeputy::Descriptors(changes) => self.mirror.change(deputy, &changes),
            ToDeputy::Reached(found) => {
                let way = match found {
                    true => Some(self.incoming.take_descriptor()?),
                    false => None,
                };
                self.mirror.reached(deputy, way);
            }
            ToDeputy::Notice(text) => deputy.tell_user(&text),
            ToDeputy::Gone(text) => {
                deputy.give_up(&text);
                process::exit(EXIT_OWN_FAILURE);
            }
            ToDeputy::Accepted { .. } | ToDeputy::Refused(_) | ToDeputy::Asks(_) | ToDeputy::Spawned(_) => {
                deputy.log("message of a job's start to a deputy".to_owned());
            }
        }
        Ok(Next::Same)
    }

    /// Shows name and arguments of the guest as the process's own.
    pub fn show(&mut self, deputy: &Deputy, name: &[u8], arguments: &[u8]) {
        self.show_arguments(deputy, arguments);
        show_name(name);
    }

    fn show_arguments(&mut self, deputy: &Deputy, arguments: &[u8]) {
        if let Some(title) = &mut self.title {
            // Nobody else may change the program break meanwhile.
            deputy.await_starting();
            let _alone = deputy.gate.write();
            let _queue = deputy.workers.hold();
            title.show(arguments);
        }
    }
}

/// Sets the main thread's command name.
fn show_name(name: &[u8]) {
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let _ = proc::write("self/comm", &name[..name.len().min(15)]);
}

impl Deputy {
    /// Dies as the guest has.
    fn die(&self, status: i32) -> ! {
        // A core dump would be of the deputy, and written where the guest's own may be. The agent removes it.
        if libc::WIFSIGNALED(status) && libc::WCOREDUMP(status) {
            let place = RuntimeDir::at(&**self.dump_directory).dump_of(self.pid);
            let _ = std::fs::create_dir(&place);
            let _ = std::env::set_current_dir(&place);
        }
        process::die(status)
    }

    /// Stops as the guest would.
    fn stop(&self, signal: u32) {
        let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        if let Some(&signal) = stops.iter().find(|&&stop| stop as u32 == signal) {
            let ignored = lock(&self.dispositions).ignores(signal);
            process::stop(signal, ignored);
        }
        self.tell(0, &FromDeputy::Released);
    }
}
