//! The notify door: calls that the filter sends here instead of executing them.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use afield_abi::syscalls::{self, Arg, Class, Len, Restart, nr};
use afield_link::frame::Kind;
use afield_link::wire::{self, Buffer, CallHeader, HandleOp, ToHome};
use tracing::{debug, warn};
use zerocopy::IntoBytes;

use super::calls;
use super::descriptors::{Descriptor, has_room, look_up};
use crate::fs::handles::{self, HIDDEN_PROC};
use crate::fs::owners::Owner;
use crate::fs::{HANDLE, SPECIAL};
use crate::installer::Gift;
use crate::session::{self, Call, Shared, Then, Unsent};
use crate::sys::seccomp::{ARCH_X86_64, Answer, Listener, Notification};
use crate::sys::{errno, memory};
use crate::trace::{Order, is_status_call};
use crate::world::{HIDDEN_DIRECTORY, NODE_DIRECTORIES};

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
    listener: Arc<Listener>,
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

/// Lists the network's interfaces.
const SIOCGIFCONF: u32 = 0x8912;
/// Longest such list.
const INTERFACES_BYTES_MAX: usize = 64 << 10;

/// `prctl` option.
const PR_SET_NAME: u64 = 15;
/// `waitid` kinds.
const P_PID: u64 = 1;
const P_PIDFD: u64 = 3;

/// The process and descriptor that a link's path names, if it is one in `/proc`.
fn descriptor_of_link(tid: i32, pid: u32, path: &[u8], directory: Option<u32>) -> Option<(u32, u32)> {
    let path = std::str::from_utf8(path).ok()?;
    let (directory, name) = match path.rsplit_once('/') {
        Some((directory, name)) => (directory.to_owned(), name),
        // Relative to the working directory, or to a directory that is open.
        None => {
            let base = match directory? as i32 {
                libc::AT_FDCWD => "cwd".to_owned(),
                number => format!("fd/{number}"),
            };
            let base = std::fs::read_link(format!("/proc/{tid}/{base}")).ok()?;
            (base.to_str()?.to_owned(), path)
        }
    };
    let number = name.parse().ok()?;
    if directory == "/dev/fd" {
        return Some((pid, number));
    }
    let own = directory.strip_suffix("/fd")?;
    let hidden = format!("/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}");
    let process = own
        .strip_prefix(&hidden)
        .or_else(|| own.strip_prefix("/proc"))?
        .strip_prefix('/')?;
    let process = match process {
        "self" | "thread-self" => pid,
        process => process.parse().ok()?,
    };
    Some((process, number))
}

/// Signals that stop, continue or end a process whatever it does about them, or the terminal's: they are home's to send.
/// So is the question whether a process is there.
fn is_homes(signal: i32) -> bool {
    [
        0,
        libc::SIGKILL,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ]
    .contains(&signal)
}

impl Door {
    fn serve(mut self) {
        loop {
            match self.listener.receive() {
                Ok(Some(notification)) => self.notified(&notification),
                Ok(None) => break,
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
        let verdict = match self.decide(notification, tid, pid) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Answer(Answer::Result(-i64::from(error))),
        };
        if let Verdict::Answer(answer) = verdict {
            self.answer(notification.id, answer);
        }
    }

    fn answer(&self, id: u64, answer: Answer) {
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
        match syscalls::class_of(number, &arguments) {
            Class::Home => {
                if matches!(number, nr::SETSOCKOPT | nr::GETSOCKOPT)
                    && let Some(verdict) = self.set_option(notification, (tid, pid))?
                {
                    return Ok(verdict);
                }
                if number == nr::WAITID
                    && arguments[0] == P_PIDFD
                    && self.home_object(tid, arguments[1] as u32).is_none()
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
                    && self.home_object(tid, arguments[0] as u32).is_some()
                    && !has_room(tid)
                {
                    // Before a connection is taken, that could not be given back.
                    return Err(libc::EMFILE);
                }
                if number == nr::GETCWD {
                    return self.working_directory(notification, tid, pid, arguments);
                }
                if number == nr::SETPGID {
                    arguments[2] = u64::from(self.has_executed(arguments[0] as u32));
                }
                if number == nr::PRLIMIT64 && self.is_limit_of_guest(&arguments) {
                    return Ok(Verdict::Answer(Answer::Continue));
                }
                self.forward(notification, tid, pid, number, arguments, Then::Answer)
            }
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
            && let Err(error) = self
                .shared
                .writer
                .write_control(0, &ToHome::Unsupported { pid, call, errno })
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
            nr::TIMER_SETTIME | nr::ALARM | nr::SETITIMER => {
                self.shared.note_timer(pid);
                EXECUTE
            }
            // What is wrong with the descriptor, the kernel says best.
            nr::SYNCFS if look_up(tid, arguments[0] as u32).is_some() => {
                self.forward(notification, tid, pid, nr::SYNC, [0; 6], Then::Execute)
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
                    if let Err(error) = self.shared.writer.write_control(0, &ToHome::Name { pid, name }) {
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
                    && let Some((handle, _)) = self.home_object(tid, arguments[2] as u32)
                {
                    self.shared.files.handles.want_edges(handle);
                }
                EXECUTE
            }
            nr::COPY_FILE_RANGE => {
                let is_stream = |number: u64| {
                    self.home_object(tid, number as u32)
                        .is_some_and(|(handle, _)| !self.shared.files.handles.is_seekable(handle))
                };
                if is_stream(arguments[0]) || is_stream(arguments[2]) {
                    return Err(libc::EINVAL);
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
            nr::FCNTL => match self.home_object(tid, arguments[0] as u32) {
                Some((handle, _)) if arguments[1] as i32 != libc::F_SETFL => {
                    self.control_owner(notification, (tid, pid), handle)
                }
                Some((handle, _)) => {
                    let change = (0, arguments[2], 0);
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
                None => EXECUTE,
            },
            _ => EXECUTE,
        }
    }

    /// An `ioctl` on a home object that the file door cannot have.
    fn control(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        handle: u64,
        descriptor: &Descriptor,
        arguments: &[u64; 6],
    ) -> Result<Verdict, i32> {
        let command = arguments[1] & 0xffff_ffff;
        let argument = arguments[2];
        let (op, what, answer) = match command {
            // The file's flags, at home and here.
            libc::FIONBIO | libc::FIOASYNC => {
                let mut on = [0; 4];
                memory::read(tid, argument, &mut on).map_err(|error| errno(&error))?;
                let (flag, then) = match command {
                    libc::FIONBIO => (libc::O_NONBLOCK, Then::Execute),
                    // A file system in user space has no such thing.
                    _ => (libc::O_ASYNC, Then::Answer),
                };
                let flags = descriptor.flags & !(flag as u64);
                let flags = if on == [0; 4] { flags } else { flags | flag as u64 };
                (HandleOp::SetFlags, (0, flags, 0), (then, vec![]))
            }
            // The signal is its argument, whatever its number says.
            libc::TIOCSIG => (
                HandleOp::Ioctl,
                (argument as i64, command, 0),
                (Then::Answer, vec![]),
            ),
            _ => (
                HandleOp::Ioctl,
                (argument as i64, command, 4),
                (Then::Answer, vec![(argument, 4)]),
            ),
        };
        self.operate(notification, (tid, pid), op, handle, what, answer)
    }

    /// The kernel splices files by way of its cache, where a stream is always at its end, unless they are opened with `O_DIRECT`.
    fn pass_cache_by(&self, tid: i32, pid: u32, number: u32) {
        let Some((handle, descriptor)) = self.home_object(tid, number) else {
            return;
        };
        if descriptor.flags & libc::O_DIRECT as u64 != 0 || self.shared.files.handles.is_seekable(handle) {
            return;
        }
        if let Err(error) = self.shared.installer.set_direct(pid, number) {
            debug!("a descriptor of {pid}: {error}");
        }
    }

    /// The process is about to have one more descriptor of the object.
    fn note_duplicate(&self, tid: i32, pid: u32, number: u32) {
        if let Some((handle, _)) = self.home_object(tid, number)
            && let Some(process) = self.shared.guests.lock().process_mut(pid)
        {
            process.duplicates.add(handle);
        }
    }

    /// `fcntl` about who gets an object's signals: the kernel that sends them is home's.
    fn control_owner(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        handle: u64,
    ) -> Result<Verdict, i32> {
        const F_SETOWN_EX: i32 = 15;
        const F_GETOWN_EX: i32 = 16;
        let arguments = notification.arguments;
        let command = arguments[1] as i32;
        let mut data = Vec::new();
        let mut outputs = Vec::new();
        match command {
            F_SETOWN_EX => {
                data = vec![0; 8];
                memory::read(tid, arguments[2], &mut data).map_err(|error| errno(&error))?;
            }
            F_GETOWN_EX => outputs.push((arguments[2], 8)),
            _ => {}
        }
        let size = outputs.first().map_or(0, |(_, bytes)| *bytes);
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Answer, outputs),
            Restart::Never,
            Some(handle),
        );
        let what = (arguments[2] as i64, u64::from(command as u32), size);
        let send = |id| {
            handles::send_operation_with(
                &self.shared,
                id,
                pid,
                (HandleOp::Control, handle),
                what,
                (&data, 0),
            )
        };
        later(self.shared.begin(call, false, send))
    }

    /// `ioctl(SIOCGIFCONF)`: the only one for sockets whose structure has a pointer.
    fn interfaces(&mut self, notification: &Notification, (tid, pid): (i32, u32)) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        let Some((handle, _)) = self.home_object(tid, arguments[0] as u32) else {
            return Ok(Verdict::Answer(Answer::Continue));
        };
        // `struct ifconf`: an `int` of bytes, and the address.
        let place = arguments[2];
        let mut structure = [0; 16];
        memory::read(tid, place, &mut structure).map_err(|error| errno(&error))?;
        let length = i32::from_ne_bytes([structure[0], structure[1], structure[2], structure[3]]);
        let address = u64::from_ne_bytes(structure[8..16].try_into().map_err(|_| libc::EINVAL)?);
        let room = if address == 0 {
            0
        } else {
            usize::try_from(length)
                .map_err(|_| libc::EINVAL)?
                .min(INTERFACES_BYTES_MAX)
        };
        let go_on = move |shared: &Arc<Shared>, call: session::Call, reply: session::Reply| {
            let mut result = reply.result;
            if result >= 0 {
                let put = memory::write(tid, address, &reply.data).and_then(|()| {
                    let count = if address == 0 {
                        result as i32
                    } else {
                        reply.data.len() as i32
                    };
                    memory::write(tid, place, &count.to_ne_bytes())
                });
                result = put.map_or_else(|error| -i64::from(errno(&error)), |()| 0);
            }
            calls::settle(shared, call, &session::Reply { result, ..reply });
        };
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Continue(Box::new(go_on)), Vec::new()),
            Restart::Never,
            Some(handle),
        );
        let what = (0, u64::from(SIOCGIFCONF), room);
        let send = |id| handles::send_operation(&self.shared, id, pid, HandleOp::Ioctl, handle, what);
        later(self.shared.begin(call, false, send))
    }

    /// Whether a guest has executed a program of its own since it was forked, by the flags in `/proc/PID/stat`.
    fn has_executed(&self, pid: u32) -> bool {
        const FORKED_WITHOUT_EXECUTING: u64 = 0x40;
        let leader = self
            .shared
            .guests
            .lock()
            .process(pid)
            .map(|process| process.leader);
        let stat = leader.and_then(|leader| std::fs::read_to_string(format!("/proc/{leader}/stat")).ok());
        // The command's name is in parentheses and may hold anything.
        stat.as_ref()
            .and_then(|stat| stat.rsplit_once(')'))
            .and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u64>().ok())
            .is_some_and(|flags| flags & FORKED_WITHOUT_EXECUTING == 0)
    }

    /// A signal from a guest to a guest is the node's kernel's own, so that it says who sent it; true if this was one. What
    /// stops, continues or ends a process is home's, and so is every process that is not (or no longer) in the world.
    fn signals_guest(&self, notification: &Notification, arguments: &[u64; 6]) -> bool {
        let (target, signal) = (arguments[0] as i32, arguments[1] as i32);
        if target <= 0 || is_homes(signal) || self.shared.guests.process(target as u32) != Some(true) {
            return false;
        }
        self.signal_natively(notification.id, target as u32);
        true
    }

    /// A signal to a thread: of a guest, or of a process that home has.
    fn signal_thread(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        mut arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        let (target, signal) = match number {
            nr::TKILL => (arguments[0] as u32, arguments[1] as i32),
            _ => (arguments[1] as u32, arguments[2] as i32),
        };
        match self.shared.guests.find_inner(target) {
            Some((_, owner)) if number != nr::TKILL && owner != arguments[0] as u32 => Err(libc::ESRCH),
            Some((_, owner)) if owner == pid || !is_homes(signal) => {
                self.signal_natively(notification.id, owner);
                Ok(Verdict::Later)
            }
            Some((_, owner)) => {
                // Home knows each guest's first thread, and this is for the whole process whichever gets it.
                let place = if number == nr::TKILL { 0 } else { 1 };
                arguments[place] = u64::from(owner);
                self.forward(notification, tid, pid, number, arguments, Then::Answer)
            }
            None if number != nr::TKILL && arguments[0] as u32 == pid => Err(libc::ESRCH),
            None => self.forward(notification, tid, pid, number, arguments, Then::Answer),
        }
    }

    /// Has the node's kernel send a signal to a guest, and sees to it that it wakes a thread that waits at home.
    fn signal_natively(&self, notification: u64, target: u32) {
        // The signal is pending some time after this answer.
        self.answer(notification, Answer::Continue);
        let waiting = {
            let register = self.shared.guests.lock();
            let threads = register
                .process(target)
                .map(|process| process.threads.as_slice())
                .unwrap_or_default();
            threads
                .iter()
                .copied()
                .find(|tid| register.thread(*tid).is_some_and(|thread| thread.call.is_some()))
        };
        if let Some(tid) = waiting {
            self.shared.note_timer(target);
            self.shared.orders.give(Order::Look { tid });
        }
    }

    /// Limits of a guest are its node's kernel's to hold, but for those that concern what is at home.
    fn is_limit_of_guest(&self, arguments: &[u64; 6]) -> bool {
        let at_home = [libc::RLIMIT_NPROC, libc::RLIMIT_NICE].contains(&(arguments[1] as u32));
        !at_home && self.shared.guests.process(arguments[0] as u32).is_some()
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

    /// A link in `/proc/PID/fd` to a home object shows what it shows at home.
    fn read_link(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: &[u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Verdict = Verdict::Answer(Answer::Continue);
        let (path, buffer, size, directory) = if number == nr::READLINK {
            (arguments[0], arguments[1], arguments[2], None)
        } else {
            (
                arguments[1],
                arguments[2],
                arguments[3],
                Some(arguments[0] as u32),
            )
        };
        // What is wrong with the call, the kernel says best.
        let Ok(path) = memory::read_string(tid, path, libc::PATH_MAX as usize) else {
            return Ok(EXECUTE);
        };
        let Some((owner, descriptor)) = descriptor_of_link(tid, pid, &path, directory) else {
            return Ok(EXECUTE);
        };
        let Some((place, owner)) = self.readable_guest(tid, owner) else {
            return Ok(EXECUTE);
        };
        let size = (size as i32).max(0) as usize;
        if size == 0 {
            return Ok(EXECUTE);
        }
        if let Some((handle, _)) = self.home_object(place, descriptor) {
            let call = self.call(
                notification,
                (tid, pid),
                (Then::Answer, vec![(buffer, size)]),
                Restart::Restart,
                None,
            );
            // Its owner's deputy has it.
            let what = (0, 0, size);
            let send = |id| handles::send_operation(&self.shared, id, owner, HandleOp::Name, handle, what);
            return later(self.shared.begin(call, false, send));
        }
        // What is in the world's own `/proc` shows the name by which it was opened.
        let hidden = format!("/{HIDDEN_DIRECTORY}");
        let target = std::fs::read_link(format!("/proc/{place}/fd/{descriptor}")).ok();
        let bytes = target.map(|target| target.into_os_string().into_vec());
        match bytes
            .as_deref()
            .and_then(|target| target.strip_prefix(hidden.as_bytes()))
        {
            Some(shown) if shown.starts_with(b"/proc/") => {
                let shown = &shown[..shown.len().min(size)];
                memory::write(tid, buffer, shown).map_err(|error| errno(&error))?;
                Ok(Verdict::Answer(Answer::Result(shown.len() as i64)))
            }
            _ => Ok(EXECUTE),
        }
    }

    /// Access lists as extended attributes: the node's kernel does not ask the file door for them, so the deputy reads and sets
    /// them, by the path that the guest gives or that its descriptor has.
    fn attribute(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Result<Verdict, i32> = Ok(Verdict::Answer(Answer::Continue));
        let name = memory::read_string(tid, arguments[1], 255).unwrap_or_default();
        if !name.starts_with(b"system.posix_acl_") {
            return EXECUTE;
        }
        let by_path = match number {
            nr::FGETXATTR => nr::GETXATTR,
            nr::FSETXATTR => nr::SETXATTR,
            nr::FREMOVEXATTR => nr::REMOVEXATTR,
            _ => return self.forward(notification, tid, pid, number, arguments, Then::Answer),
        };
        let link = std::fs::read_link(format!("/proc/{tid}/fd/{}", arguments[0] as u32));
        let path = link.unwrap_or_default().into_os_string().into_encoded_bytes();
        if !path.starts_with(b"/") || path.ends_with(b" (deleted)") {
            return EXECUTE;
        }
        self.forward_named(
            notification,
            (tid, pid),
            by_path,
            arguments,
            Some(path),
            Then::Answer,
        )
    }

    /// `getcwd`: the deputy's, unless the guest is in one of the few places that are the node's.
    fn working_directory(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        mut arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        let link = std::fs::read_link(format!("/proc/{tid}/cwd"));
        let path = link
            .map_err(|error| errno(&error))?
            .into_os_string()
            .into_encoded_bytes();
        let hidden = format!("/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}");
        if let Some(rest) = path.strip_prefix(hidden.as_bytes()) {
            if rest.ends_with(b" (deleted)") {
                return Err(libc::ENOENT);
            }
            let name = [b"/proc", rest, b"\0"].concat();
            if (arguments[1] as usize) < name.len() {
                return Err(libc::ERANGE);
            }
            memory::write(tid, arguments[0], &name).map_err(|error| errno(&error))?;
            return Ok(Verdict::Answer(Answer::Result(name.len() as i64)));
        }
        if NODE_DIRECTORIES
            .iter()
            .any(|own| path.starts_with(own.as_bytes()))
        {
            return Ok(Verdict::Answer(Answer::Continue));
        }
        // There is no longer answer, and the length is a whole register.
        arguments[1] = arguments[1].min(libc::PATH_MAX as u64);
        self.forward(notification, tid, pid, nr::GETCWD, arguments, Then::Answer)
    }

    /// The first thread and the pid of a guest whose descriptors a thread may look at, which the kernel lets those of the
    /// same user do.
    fn readable_guest(&self, tid: i32, pid: u32) -> Option<(i32, u32)> {
        let (leader, owner) = self.shared.guests.find_inner(pid)?;
        let user = |tid: i32| {
            std::fs::metadata(format!("/proc/{tid}"))
                .ok()
                .map(|data| data.uid())
        };
        (self.shared.guests.pid_of(tid) == Some(owner) || user(tid)? == user(leader)?)
            .then_some((leader, owner))
    }

    /// The home object behind a guest's descriptor.
    pub(super) fn home_object(&self, tid: i32, number: u32) -> Option<(u64, Descriptor)> {
        let descriptor = look_up(tid, number)?;
        if descriptor.inode & (HANDLE | SPECIAL) == 0 {
            return None;
        }
        Some((self.shared.files.object_of(descriptor.inode)?, descriptor))
    }

    /// True for files that `epoll` refuses at home, but that every FUSE file system lets it have.
    fn is_plain_file(&self, tid: i32, number: u32) -> bool {
        let Some(descriptor) = look_up(tid, number) else {
            return false;
        };
        if descriptor.inode & (HANDLE | SPECIAL) != 0 {
            let handle = self.shared.files.object_of(descriptor.inode);
            return handle.is_some_and(|handle| self.shared.files.handles.is_seekable(handle));
        }
        let root = std::fs::read_to_string(format!("/proc/{tid}/mountinfo"))
            .ok()
            .and_then(|text| {
                let line = text.lines().find(|line| line.split(' ').nth(4) == Some("/"))?;
                line.split(' ').next()?.parse::<u64>().ok()
            });
        root == Some(descriptor.mount)
    }

    /// `lseek` on a file whose offset is shared with home.
    fn seek(&mut self, notification: &Notification, tid: i32, pid: u32) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        match self.home_object(tid, arguments[0] as u32) {
            Some((handle, descriptor)) if self.shared.files.handles.is_seekable(handle) => {
                // The node's own offset stays as it is: the next read must not be taken for a move of it.
                self.shared.files.handles.set_offset(handle, descriptor.offset);
                let target = (arguments[1] as i64, arguments[2], 0);
                self.operate(
                    notification,
                    (tid, pid),
                    HandleOp::Seek,
                    handle,
                    target,
                    (Then::Answer, vec![]),
                )
            }
            _ => Ok(Verdict::Answer(Answer::Continue)),
        }
    }

    /// A notified call that home is asked about.
    pub(super) fn call(
        &self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        (then, outputs): (Then, Vec<(u64, usize)>),
        restart: Restart,
        object: Option<u64>,
    ) -> Call {
        Call {
            pid,
            tid,
            listener: Arc::clone(&self.listener),
            notification: notification.id,
            outputs,
            measured: None,
            then,
            number: notification.number as u32,
            restart,
            cancelled: false,
            object: object.map(|handle| self.shared.files.handles.ask(handle)),
        }
    }

    /// An operation on a home object in place of the call.
    fn operate(
        &mut self,
        notification: &Notification,
        who: (i32, u32),
        op: HandleOp,
        handle: u64,
        what: (i64, u64, usize),
        then: (Then, Vec<(u64, usize)>),
    ) -> Result<Verdict, i32> {
        let call = self.call(notification, who, then, Restart::Restart, Some(handle));
        let send = |id| handles::send_operation(&self.shared, id, who.1, op, handle, what);
        later(self.shared.begin(call, false, send))
    }

    /// Sends a call home.
    fn forward(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: [u64; 6],
        then: Then,
    ) -> Result<Verdict, i32> {
        self.forward_named(notification, (tid, pid), number, arguments, None, then)
    }

    /// As [`forward`](Self::forward), with another path than the guest's as the first argument.
    fn forward_named(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        number: u32,
        arguments: [u64; 6],
        first: Option<Vec<u8>>,
        then: Then,
    ) -> Result<Verdict, i32> {
        let row = syscalls::row(number).ok_or(libc::ENOSYS)?;
        let mut payload = Vec::with_capacity(256);
        payload.resize(size_of::<CallHeader>(), 0);
        let mut outputs = Vec::new();
        let mut buffers = 0u32;
        let mut sent = arguments;
        let mut then = then;
        let mut object = None;
        let mut measured = None;
        let mut places = [usize::MAX; 6];
        for (index, arg) in row.shape(&arguments).iter().enumerate() {
            let address = arguments[index];
            let data = match arg {
                Arg::None => {
                    sent[index] = 0;
                    continue;
                }
                Arg::Value => continue,
                Arg::Fd => {
                    let Some((handle, _)) = self.home_object(tid, address as u32) else {
                        return self.on_private((tid, pid), number, address as u32);
                    };
                    object = Some(handle);
                    sent[index] = handle;
                    continue;
                }
                Arg::String if let (0, Some(path)) = (index, &first) => [path, &b"\0"[..]].concat(),
                Arg::String => {
                    let mut path = memory::read_string(tid, address, libc::PATH_MAX as usize - 1)
                        .map_err(|error| errno(&error))?;
                    path.push(0);
                    path
                }
                Arg::Out(Len::Pointee { index: counter, max }) => {
                    if address == 0 {
                        sent[index] = 0;
                        continue;
                    }
                    let mut count = [0; 4];
                    memory::read(tid, arguments[*counter as usize], &mut count)
                        .map_err(|error| errno(&error))?;
                    vec![0; (i32::from_ne_bytes(count).max(0) as u32).min(*max) as usize]
                }
                Arg::In(_) | Arg::Out(_) | Arg::InOut(_) => {
                    let length = arg.bytes(index, &arguments).unwrap_or(0) as usize;
                    if length == 0 {
                        sent[index] = 0;
                        continue;
                    }
                    if length > afield_link::frame::PAYLOAD_BYTES_MAX / 2 {
                        return Err(libc::EINVAL);
                    }
                    let mut data = vec![0; length];
                    if arg.is_input() {
                        memory::read(tid, address, &mut data).map_err(|error| errno(&error))?;
                    }
                    data
                }
            };
            sent[index] = 0;
            if arg.is_output() {
                places[index] = outputs.len();
                outputs.push((address, data.len()));
            }
            buffers += 1;
            wire::encode_buffer(
                &mut payload,
                &Buffer {
                    argument: index as u8,
                    input: arg.is_input(),
                    output: arg.is_output(),
                    length: data.len(),
                    data: &data,
                },
            );
        }
        for (index, arg) in row.shape(&arguments).iter().enumerate() {
            if let Arg::Out(Len::Pointee { index: counter, .. }) = arg
                && places[index] != usize::MAX
            {
                measured = Some((places[index], places[*counter as usize]));
            }
        }
        let mut result = 0;
        if let Some(opens) = row.opens {
            result = self.shared.installer.new_handles(1);
            self.shared.files.handles.add(result, true, 0);
            let mut access = libc::O_RDWR as u32;
            if number == nr::IOCTL {
                // The other side of a pseudo-terminal.
                self.shared.files.handles.mark_terminal(result);
                access = arguments[2] as u32 & libc::O_ACCMODE as u32;
            }
            then = Then::Install(Gift {
                handle: result,
                flags: access | opens.flags(&arguments),
                offset: None,
                answers: true,
            });
        }
        if !self.listener.is_waiting(notification.id) {
            return Ok(Verdict::Later);
        }
        let header = CallHeader {
            pid: pid.into(),
            tid: notification.tid.into(),
            number: number.into(),
            buffers: buffers.into(),
            arguments: sent.map(Into::into),
            result: result.into(),
        };
        payload[..size_of::<CallHeader>()].copy_from_slice(header.as_bytes());
        let call = Call {
            measured,
            ..self.call(notification, (tid, pid), (then, outputs), row.restart, object)
        };
        let send = |id| {
            if self.shared.files.home.has_locks() {
                // If the mount is gone there is nothing to tell.
                let _ = crate::fs::settle(&self.shared);
            }
            self.shared
                .writer
                .write_frame(Kind::Call, id, &[&payload])
                .map_err(|error| {
                    debug!("forwarding {}: {error}", row.name);
                    libc::EIO
                })
        };
        later(self.shared.begin(call, row.blocks, send))
    }

    /// A call on a descriptor that is not home's is the node's kernel's, but must not give an address to what home knows nothing of.
    fn on_private(&mut self, (tid, pid): (i32, u32), number: u32, descriptor: u32) -> Result<Verdict, i32> {
        if matches!(number, nr::BIND | nr::CONNECT) && is_socket(tid, descriptor) {
            self.report(pid, number, libc::EOPNOTSUPP);
            return Err(libc::EOPNOTSUPP);
        }
        Ok(Verdict::Answer(Answer::Continue))
    }
}

/// True for a socket of the node's own kernel.
fn is_socket(tid: i32, descriptor: u32) -> bool {
    std::fs::read_link(format!("/proc/{tid}/fd/{descriptor}"))
        .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
}
