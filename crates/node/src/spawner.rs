//! Starting first guests, together with init.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use afield_link::wire::{Inherited, MountPoint, Spawn, SpawnError};
use tracing::debug;

use crate::admission::{self, Seat};
use crate::door::notify;
use crate::session::Shared;
use crate::sys::{seccomp, sockets};
use crate::trace::Order;
use crate::world::{World, WorldError};

/// What is done together with init.
#[derive(Debug)]
pub enum Task {
    /// A guest is started.
    Start(Box<Spawn>),
    /// Home's file systems are mounted like this now.
    Mount(Vec<MountPoint>),
}

/// Starts guests one after the other.
pub struct Spawner {
    shared: Arc<Shared>,
    world: World,
    /// Whether the world can be lived in.
    ready: Result<(), WorldError>,
}

impl Spawner {
    /// A spawner for a world that was, or was not, mounted.
    pub fn new(shared: Arc<Shared>, world: World, ready: Result<(), WorldError>) -> Self {
        Self { shared, world, ready }
    }

    /// Does what home has asked for.
    pub fn run(&self, task: Task) {
        match task {
            Task::Start(spawn) => self.spawn(&spawn),
            Task::Mount(points) => self.mount(points),
        }
    }

    fn mount(&self, points: Vec<MountPoint>) {
        if self.ready.is_err() {
            return;
        }
        let places = &self.shared.files.places;
        places.begin(&points);
        let made = self.world.mount(points);
        places.end(
            made.inspect_err(|error| debug!("mounting home's file systems: {error}"))
                .ok(),
        );
    }

    /// Starts a guest, or tells home why not. That it was started, the tracer tells.
    fn spawn(&self, spawn: &Spawn) {
        let result = match &self.ready {
            Ok(()) => self.admit().and_then(|seat| self.start(spawn, seat)),
            Err(error) => Err(failure(&format!("making the world: {error}"), libc::EIO)),
        };
        if let Err(error) = result {
            self.shared.orders.give(Order::Unexpect { pid: spawn.pid });
            if !self.is_dying() {
                self.shared.started(spawn.pid, Err(error));
            }
        }
        if self.ready.is_err() {
            // The job has been told why; the next one gets another session, whose world may do better.
            self.shared.writer.shutdown();
        }
    }

    /// Whether the world ends, and the session with it: a job that has come too late is for home to try again.
    fn is_dying(&self) -> bool {
        matches!(self.ready, Err(WorldError::Died)) || (self.ready.is_ok() && self.world.has_lost_init())
    }

    /// Whether this home may have one more job now.
    fn admit(&self) -> Result<Seat, SpawnError> {
        if let Some(why) = self.shared.limits.closed(crate::sys::wall::moment()) {
            return Err(failure(&why, libc::EPERM));
        }
        let seat = self.shared.quota.take();
        seat.map_err(|most| failure(&admission::too_many(most), libc::EAGAIN))
    }

    fn start(&self, spawn: &Spawn, seat: Seat) -> Result<(), SpawnError> {
        let mut seekable = Vec::new();
        for descriptor in &spawn.descriptors {
            if let Inherited::Handle {
                handle,
                stream,
                offset,
                size,
                terminal,
                device,
                ..
            } = descriptor.object
            {
                self.shared.files.handles.add(handle, stream, offset);
                self.shared.files.handles.set_size(handle, size);
                if terminal {
                    self.shared.files.handles.mark_terminal(handle);
                } else if !device {
                    self.shared.files.handles.mark_no_terminal(handle);
                }
                if !stream {
                    seekable.push(descriptor.number);
                }
            }
        }
        let step = |step: &'static str| move |error: std::io::Error| failed(step, &error);
        let (mut ours, theirs) = UnixStream::pair().map_err(step("socketpair"))?;
        sockets::pass_credentials(&ours).map_err(step("SO_PASSCRED"))?;
        self.world
            .spawn(spawn, &seekable, &theirs)
            .map_err(|error| failure("asking the world's init", crate::sys::errno(&error)))?;
        drop(theirs);

        let mut tag = [0; 1];
        let hello = sockets::receive_with(&ours, &mut tag).map_err(step("hello of the guest"))?;
        if hello.count == 0 || tag[0] != b'H' {
            return Err(said_failure(&mut ours, hello.count == 1 && tag[0] == b'E'));
        }
        let tid = hello
            .sender
            .ok_or_else(|| failure("identity of the guest", libc::EIO))?;
        let (answer, answered) = sync_channel(1);
        self.shared.orders.give(Order::Seize {
            pid: spawn.pid,
            tid,
            seat,
            answer,
        });
        answered
            .recv()
            .map_err(|_| failure("tracing the guest", libc::ESRCH))?
            .map_err(step(
                "tracing the guest (is ptrace restricted by kernel.yama.ptrace_scope or a sandbox?)",
            ))?;
        self.note_inherited(spawn);
        ours.write_all(b"s").map_err(step("start of the guest"))?;

        ours.read_exact(&mut tag).map_err(step("preparing the guest"))?;
        if tag[0] != b'F' {
            return Err(said_failure(&mut ours, tag[0] == b'E'));
        }
        let mut number = [0; 4];
        ours.read_exact(&mut number)
            .map_err(step("preparing the guest"))?;
        let listener = self
            .take_listener(tid, RawFd::from_le_bytes(number))
            .map_err(step("taking the filter's listener"))?;
        notify::start(&self.shared, listener).map_err(step("starting a thread"))?;
        ours.write_all(b"x").map_err(step("start of the guest"))?;

        // The end of the channel is its execve.
        match ours.read(&mut tag) {
            Ok(0) => {
                // Or its end.
                self.shared.orders.give(Order::Executing { pid: spawn.pid });
                Ok(())
            }
            Ok(_) => Err(said_failure(&mut ours, tag[0] == b'E')),
            Err(error) => Err(step("execve")(error)),
        }
    }

    /// Several of a job's descriptors may be of one object, and it may ignore signals from the start.
    fn note_inherited(&self, spawn: &Spawn) {
        let mut seen = HashSet::new();
        let mut register = self.shared.guests.lock();
        let Some(process) = register.process_mut(spawn.pid) else {
            return;
        };
        process.of_children.ignored = spawn.ignored & 1 << (libc::SIGCHLD - 1) != 0;
        for descriptor in &spawn.descriptors {
            if let Inherited::Handle { handle, .. } = descriptor.object
                && !seen.insert(handle)
            {
                process.duplicates.add(handle);
            }
        }
    }

    fn take_listener(&self, tid: i32, number: RawFd) -> std::io::Result<seccomp::Listener> {
        let pid = rustix::process::Pid::from_raw(tid).ok_or(std::io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let listener = seccomp::steal_descriptor(pidfd.as_fd(), number)?;
        let number = self.shared.installer.add_listener(listener.try_clone()?)?;
        Ok(seccomp::Listener::new(listener, number))
    }
}

/// What fails with a guest at the other end fails because that has been killed, whatever it was at.
fn failed(step: &str, error: &std::io::Error) -> SpawnError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => died(),
        _ => match crate::sys::errno(error) {
            libc::ESRCH => died(),
            errno => failure(step, errno),
        },
    }
}

fn failure(step: &str, errno: i32) -> SpawnError {
    SpawnError {
        step: step.to_owned(),
        errno,
    }
}

/// Reads the error that a guest said before it ended.
fn said_failure(channel: &mut UnixStream, said: bool) -> SpawnError {
    let mut text = Vec::new();
    if said && let Err(error) = channel.take(4096).read_to_end(&mut text) {
        debug!("a guest's last words: {error}");
    }
    afield_link::wire::decode(&text).unwrap_or_else(|_| died())
}

/// Somebody has killed a guest before it was one.
pub fn died() -> SpawnError {
    failure("the guest died while it was being prepared", libc::EIO)
}
