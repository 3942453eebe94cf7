//! The notify door: calls that the filter sends here instead of executing them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use afield_abi::syscalls::{self, Class, SEEK_AT_HOME, SET_FILE_ATTRIBUTES, SET_FILE_FLAGS, nr};
use afield_link::wire::HandleOp;
use tracing::{debug, warn};

use super::control::SIOCGIFCONF;
use super::descriptors::{Descriptor, Shown, has_room, look_up, shown};
use super::{limits, looks};
use crate::fs::owners::Owner;
use crate::fs::{HANDLE, SPECIAL, mapped};
use crate::session::{self, Shared, Then, Unsent};
use crate::sys::seccomp::{ARCH_X86_64, Answer, Listener, Notification, Received};
use crate::sys::{errno, memory};
use crate::trace::{Order, is_status_call};

/// Serves the listener of a job on a thread of its own, until no process has its filter any more.
pub fn start(shared: &Arc<Shared>, listener: Listener) -> io::Result<()> {
    let door = Door {
        shared: Arc::clone(shared),
        listener: Arc::new(listener),
        reported: HashSet::new(),
    };
    session::start("notify", move || door.serve())
}

pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) listener: Arc<Listener>,
    /// Calls that the user has been told of.
    reported: HashSet<u32>,
}

/// What to do with a notified call at once.
pub(super) enum Verdict {
    Answer(Answer),
    /// Home answers later.
    Later,
}

/// Home has been asked, or could not be.
pub(super) fn later(asked: Result<(), Unsent>) -> Result<Verdict, i32> {
    asked.map(|()| Verdict::Later).map_err(|unsent| unsent.errno)
}

/// `prctl` option.
const PR_SET_NAME: u64 = 15;
/// `waitid` kinds.
const P_PID: u64 = 1;
const P_PIDFD: u64 = 3;

impl Door {
    fn serve(mut self) {
        looks::begin();
        loop {
            let limit = looks::look(&self.shared);
            match self.listener.receive(limit) {
                Ok(Received::Call(notification)) => self.notified(&notification),
                Ok(Received::Nothing) => {}
                Ok(Received::End) => break,
                Err(error) => {
                    warn!("the notify door closes: {error}");
                    break;
                }
            }
        }
        self.shared.installer.remove_listener(self.listener.number());
    }

    fn notified(&mut self, notification: &Notification) {
        let tid = notification.tid as i32;
        let Some(pid) = self.shared.guests.pid_of(tid) else {
            // It has been killed in between.
            return self.answer(notification.id, Answer::Result(-i64::from(libc::ESRCH)));
        };
        // Whoever is told something by this call sees what was stored before it.
        if self.shared.files.mapped.is_active() && notification.number as u32 != nr::MMAP {
            mapped::flush(&self.shared);
        }
        let verdict = match self.decide(notification, tid, pid) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Answer(Answer::Result(-i64::from(error))),
        };
        if let Verdict::Answer(answer) = verdict {
            self.answer(notification.id, answer);
        }
    }

    /// Has a call decided again when what it wants to read of a connection has come.
    pub(super) fn park(&self, notification: &Notification, handle: u64, size: usize) {
        let (listener, notification) = (Arc::clone(&self.listener), *notification);
        let again = Box::new(move |shared: &Arc<Shared>| {
            let mut door = Self {
                shared: Arc::clone(shared),
                listener,
                reported: HashSet::new(),
            };
            // Only who has been killed waits no longer.
            if door.listener.is_waiting(notification.id) {
                door.notified(&notification);
            }
        });
        let streams = &self.shared.files.handles.streams;
        streams.park(&self.shared, handle, size, again);
    }

    pub(super) fn answer(&self, id: u64, answer: Answer) {
        if let Err(error) = self.listener.answer(id, answer) {
            warn!("answering a call: {error}");
        }
    }

    fn decide(&mut self, notification: &Notification, tid: i32, pid: u32) -> Result<Verdict, i32> {
        let number = notification.number as u32;
        let mut arguments = notification.arguments;
        if notification.arch != ARCH_X86_64 {
            self.report(pid, number, libc::ENOSYS);
            return Err(libc::ENOSYS);
        }
        if number == SEEK_AT_HOME {
            return self.seek(notification, tid, pid);
        }
        match syscalls::class_of(number, &arguments) {
            Class::Home => {
                if matches!(number, nr::SETSOCKOPT | nr::GETSOCKOPT)
                    && let Some(verdict) = self.set_option(notification, (tid, pid))?
                {
                    return Ok(verdict);
                }
                if number == nr::WAITID
                    && arguments[0] == P_PIDFD
                    && self.home_handle(tid, arguments[1] as u32).is_none()
                {
                    let descriptor = look_up(tid, arguments[1] as u32).ok_or(libc::EBADF)?;
                    let process = self
                        .shared
                        .guests
                        .process_of_descriptor(&descriptor)
                        .ok_or(libc::EBADF)?;
                    arguments[0] = P_PID;
                    arguments[1] = u64::from(process);
                }
                if matches!(number, nr::KILL | nr::RT_SIGQUEUEINFO)
                    && self.signals_guest(notification, &arguments)
                {
                    return Ok(Verdict::Later);
                }
                if matches!(number, nr::ACCEPT | nr::ACCEPT4)
                    && self.home_handle(tid, arguments[0] as u32).is_some()
                    && !has_room(tid)
                {
                    // Before a connection is taken, that could not be given back.
                    return Err(libc::EMFILE);
                }
                if number == nr::INOTIFY_ADD_WATCH {
                    self.shared.files.coherent.watches();
                }
                if number == nr::GETCWD {
                    return self.working_directory(notification, tid, pid, arguments);
                }
                if number == nr::SETPGID {
                    arguments[2] = u64::from(self.has_executed(arguments[0] as u32));
                }
                if let Some(limit) = limits::of_files(tid, pid, number, &arguments)? {
                    return self.limit_files(notification, (tid, pid), arguments, limit);
                }
                if number == nr::PRLIMIT64 && self.is_limit_of_guest(&arguments) {
                    return Ok(Verdict::Answer(Answer::Continue));
                }
                self.forward(notification, tid, pid, number, arguments, Then::Answer)
            }
            Class::Both if number == nr::RT_SIGACTION => self.set_action(notification, tid, pid, arguments),
            Class::Both => self.forward(notification, tid, pid, number, arguments, Then::Execute),
            Class::Never(error) => {
                self.report(pid, number, error);
                Err(error)
            }
            // Calls that the filter's options send here.
            Class::File | Class::Node if number == nr::LSEEK => self.seek(notification, tid, pid),
            Class::File if is_status_call(u64::from(number)) => {
                self.shared.orders.give(Order::AnswerStopping {
                    tid,
                    listener: Arc::clone(&self.listener),
                    notification: notification.id,
                });
                Ok(Verdict::Later)
            }
            _ => self.local(notification, tid, pid, number, arguments),
        }
    }

    /// Tells the user once that a call is not possible.
    pub(super) fn report(&mut self, pid: u32, call: u32, errno: i32) {
        if self.reported.insert(call)
            && let Err(error) = self.shared.home.unsupported(pid, call, errno)
        {
            debug!("telling home: {error}");
        }
    }

    /// Calls that the session itself has to know of.
    fn local(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Result<Verdict, i32> = Ok(Verdict::Answer(Answer::Continue));
        match number {
            nr::TGKILL | nr::RT_TGSIGQUEUEINFO | nr::TKILL => {
                self.signal_thread(notification, tid, pid, number, arguments)
            }
            nr::CHOWN | nr::LCHOWN | nr::FCHOWN => {
                self.change_owner(pid, number, (arguments[1] as u32, arguments[2] as u32))
            }
            nr::FCHOWNAT => self.change_owner(pid, number, (arguments[2] as u32, arguments[3] as u32)),
            nr::SCHED_SETAFFINITY => self.set_affinity(tid, arguments),
            nr::TIMER_SETTIME | nr::ALARM | nr::SETITIMER => {
                self.shared.note_timer(pid);
                EXECUTE
            }
            // What is wrong with the descriptor, the kernel says best.
            nr::SYNCFS if look_up(tid, arguments[0] as u32).is_some() => {
                self.forward(notification, tid, pid, nr::SYNC, [0; 6], Then::Execute)
            }
            nr::GETXATTRAT | nr::SETXATTRAT | nr::REMOVEXATTRAT => {
                self.attribute_at(notification, (tid, pid), number, &arguments)
            }
            nr::MKNOD => self.make_device(notification, (tid, pid), libc::AT_FDCWD as u32, arguments),
            nr::MKNODAT => {
                let [directory, path, mode, device, ..] = arguments;
                let call = [path, mode, device, 0, 0, 0];
                self.make_device(notification, (tid, pid), directory as u32, call)
            }
            nr::GETXATTR
            | nr::LGETXATTR
            | nr::FGETXATTR
            | nr::SETXATTR
            | nr::LSETXATTR
            | nr::FSETXATTR
            | nr::REMOVEXATTR
            | nr::LREMOVEXATTR
            | nr::FREMOVEXATTR => self.attribute(notification, tid, pid, number, arguments),
            nr::READLINK | nr::READLINKAT => self.read_link(notification, tid, pid, number, &arguments),
            nr::PRCTL if arguments[0] == PR_SET_NAME => {
                let leader = self
                    .shared
                    .guests
                    .lock()
                    .process(pid)
                    .map(|process| process.leader);
                if leader == Some(tid) {
                    let name = memory::read_string(tid, arguments[1], 15).or_else(|_| {
                        let mut name = vec![0; 15];
                        memory::read(tid, arguments[1], &mut name).map(|()| name)
                    });
                    let name = name.map_err(|error| errno(&error))?;
                    if let Err(error) = self.shared.home.name(pid, name) {
                        debug!("telling home: {error}");
                    }
                }
                EXECUTE
            }
            nr::EPOLL_CTL => {
                if arguments[1] as i32 == libc::EPOLL_CTL_ADD && self.is_plain_file(tid, arguments[2] as u32)
                {
                    return Err(libc::EPERM);
                }
                let mut events = [0; 4];
                if memory::read(tid, arguments[3], &mut events).is_ok()
                    && u32::from_ne_bytes(events) & libc::EPOLLET as u32 != 0
                    && let Some(handle) = self.home_handle(tid, arguments[2] as u32)
                {
                    self.shared.files.handles.want_edges(handle);
                }
                EXECUTE
            }
            nr::COPY_FILE_RANGE => {
                let is_stream = |number: u64| {
                    self.home_handle(tid, number as u32)
                        .is_some_and(|handle| !self.shared.files.handles.is_seekable(handle))
                };
                if is_stream(arguments[0]) || is_stream(arguments[2]) {
                    return Err(libc::EINVAL);
                }
                EXECUTE
            }
            nr::MMAP => {
                if look_up(tid, arguments[4] as u32)
                    .is_some_and(|file| file.flags as i32 & libc::O_ACCMODE == libc::O_RDWR)
                {
                    mapped::note(&self.shared);
                }
                EXECUTE
            }
            nr::SPLICE => {
                self.pass_cache_by(tid, pid, arguments[0] as u32);
                EXECUTE
            }
            nr::SENDTO | nr::SENDMSG | nr::SENDMMSG => self.send(notification, (tid, pid)),
            nr::RECVFROM | nr::RECVMSG | nr::RECVMMSG => self.receive(notification, (tid, pid)),
            nr::DUP | nr::DUP2 | nr::DUP3 => {
                self.note_duplicate(tid, pid, arguments[0] as u32);
                EXECUTE
            }
            nr::FCNTL if matches!(arguments[1] as i32, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
                self.note_duplicate(tid, pid, arguments[0] as u32);
                EXECUTE
            }
            nr::FCNTL => match self.home_handle(tid, arguments[0] as u32) {
                Some(handle) if arguments[1] as i32 != libc::F_SETFL => {
                    self.control_owner(notification, (tid, pid), handle)
                }
                Some(handle) => {
                    let change = (arguments[0] as i64, arguments[2], 0);
                    self.operate(
                        notification,
                        (tid, pid),
                        HandleOp::SetFlags,
                        handle,
                        change,
                        (Then::Execute, vec![]),
                    )
                }
                None => EXECUTE,
            },
            nr::IOCTL if arguments[1] as u32 == SIOCGIFCONF => self.interfaces(notification, (tid, pid)),
            nr::IOCTL => match self.home_object(tid, arguments[0] as u32) {
                Some((handle, descriptor)) => {
                    self.control(notification, (tid, pid), handle, &descriptor, &arguments)
                }
                // FUSE would take its argument for an address.
                None if arguments[1] as u32 == libc::TIOCSIG as u32 => {
                    match look_up(tid, arguments[0] as u32) {
                        Some(_) => Err(libc::ENOTTY),
                        None => Err(libc::EBADF),
                    }
                }
                None if matches!(arguments[1] as u32, SET_FILE_FLAGS | SET_FILE_ATTRIBUTES) => {
                    self.set_file_flags(notification, (tid, pid), arguments)
                }
                None => EXECUTE,
            },
            _ => EXECUTE,
        }
    }

    /// A change of owner in a world that knows one: to itself the node's kernel can do it, to others only a privileged
    /// home user could.
    fn change_owner(&mut self, pid: u32, call: u32, owner: Owner) -> Result<Verdict, i32> {
        if self
            .shared
            .files
            .home
            .owners()
            .is_none_or(|owners| owners.are_known(owner))
        {
            return Ok(Verdict::Answer(Answer::Continue));
        }
        self.report(pid, call, libc::EPERM);
        Err(libc::EPERM)
    }

    /// The handle of the home object behind a guest's descriptor: what most calls need to know of it, at a smaller cost.
    pub(super) fn home_handle(&self, tid: i32, number: u32) -> Option<u64> {
        match shown(tid, number)? {
            Shown::Handle(handle) => Some(handle),
            Shown::Private => None,
            Shown::File => self.home_object(tid, number).map(|(handle, _)| handle),
        }
    }

    /// The home object behind a guest's descriptor.
    pub(super) fn home_object(&self, tid: i32, number: u32) -> Option<(u64, Descriptor)> {
        let descriptor = look_up(tid, number)?;
        if descriptor.inode & (HANDLE | SPECIAL) == 0 {
            return None;
        }
        Some((self.shared.files.object_of(descriptor.inode)?, descriptor))
    }
}
