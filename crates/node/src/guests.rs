//! Who is in the world: the session's one register of guest processes and threads.
//!
//! The tracer writes it; the doors look up who knocks. Threads go by two names: their id in the session's pid namespace
//! (`tid`, as ptrace and notifications have it) and the one inside the world (`inner`, as FUSE has it). A process goes by
//! its home pid, which is also its leader's inner id.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::door::descriptors::Descriptor;

/// A thread of a guest.
#[derive(Debug)]
pub struct Thread {
    /// Home pid of its process.
    pub pid: u32,
    /// The forwarded call that it waits in, if that may wait at home.
    pub call: Option<u64>,
}

/// A guest.
#[derive(Debug)]
pub struct Process {
    /// Tells it from others that have had, or will have, its pid.
    pub serial: u64,
    /// Its leader, also once that has ended before the other threads.
    pub leader: i32,
    /// All its threads, the leader first.
    pub threads: Vec<i32>,
    /// It has executed its program; before, it is init's child on its way to that.
    pub executed: bool,
    /// It has armed a timer of its own, whose signal nobody announces.
    pub timers: bool,
    /// Its table of descriptors is another process's as well (`CLONE_FILES`).
    pub shares_descriptors: bool,
    /// Digest of the arguments that home shows for it.
    pub title: u64,
    /// Home objects of which it may have several descriptors.
    pub duplicates: Duplicates,
    /// What home knows of its disposition of `SIGCHLD`.
    pub of_children: OfChildren,
}

/// What home's kernel looks at of a disposition of `SIGCHLD`, when children end or stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfChildren {
    /// It is ignored.
    pub ignored: bool,
    /// `SA_NOCLDWAIT` and `SA_NOCLDSTOP`.
    pub flags: u32,
}

impl OfChildren {
    /// Of the kernel's `struct sigaction`: handler, flags.
    pub fn new(handler: u64, flags: u64) -> Self {
        Self {
            ignored: handler == libc::SIG_IGN as u64,
            flags: flags as u32 & (libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP) as u32,
        }
    }

    /// Another program is executed: what was ignored still is, all else begins anew.
    pub fn executed(&mut self) {
        if !self.ignored {
            self.flags = 0;
        }
    }
}

/// Home objects of which a process may have several descriptors: whether one that it closes was the last has to be looked up.
#[derive(Debug, Clone, Default)]
pub struct Duplicates {
    handles: HashSet<u64>,
    /// Of any object: it has got descriptors from others.
    any: bool,
}

/// Most objects that are remembered for one process.
const DUPLICATES_MAX: usize = 4096;

impl Duplicates {
    /// There may be more than one of this.
    pub fn add(&mut self, handle: u64) {
        if self.handles.len() >= DUPLICATES_MAX {
            self.any = true;
        } else {
            self.handles.insert(handle);
        }
    }

    /// There may be more than one of anything.
    pub fn add_any(&mut self) {
        self.any = true;
    }

    /// Whether there may be more than one of this.
    pub fn may_have(&self, handle: u64) -> bool {
        self.any || self.handles.contains(&handle)
    }

    /// The last one is closed.
    pub fn remove(&mut self, handle: u64) {
        self.handles.remove(&handle);
    }
}

/// The register.
#[derive(Debug, Default)]
pub struct Register {
    threads: HashMap<i32, Thread>,
    processes: HashMap<u32, Process>,
    /// Every process there has been.
    all: HashSet<u32>,
    /// How many that were.
    count: u64,
    /// Threads other than leaders, by inner id, as far as someone asked.
    inner: HashMap<u32, i32>,
    /// Processes by the inode of their descriptors (pidfds), which outlives them: to wait by descriptor for a process
    /// that has ended.
    descriptors: HashMap<u64, u32>,
}

/// Most processes that are remembered by their descriptors' inode.
const DESCRIPTORS_MAX: usize = 65536;

/// The register behind its lock. It is held for look-ups only, never across a system call that can wait.
#[derive(Debug, Default)]
pub struct Guests {
    register: Mutex<Register>,
}

impl Guests {
    /// The register, locked.
    pub fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Home pid of a thread's process.
    pub fn pid_of(&self, tid: i32) -> Option<u32> {
        self.lock().threads.get(&tid).map(|thread| thread.pid)
    }

    /// Home pid and leader of every guest.
    pub fn leaders(&self) -> Vec<(u32, i32)> {
        let register = self.lock();
        let processes = register.processes.iter();
        processes.map(|(pid, process)| (*pid, process.leader)).collect()
    }

    /// Whether a process is, or has been, a guest.
    pub fn has_been(&self, pid: u32) -> bool {
        self.lock().all.contains(&pid)
    }

    /// Whether a process is a guest, and if so whether it has executed its program.
    pub fn process(&self, pid: u32) -> Option<bool> {
        self.lock().process(pid).map(|process| process.executed)
    }

    /// A process descriptor for this guest is being made.
    pub fn remember_descriptors_of(&self, pid: u32) {
        let Some(leader) = self.lock().process(pid).map(|process| process.leader) else {
            return;
        };
        let inode = rustix::process::Pid::from_raw(leader)
            .and_then(|leader| rustix::process::pidfd_open(leader, rustix::process::PidfdFlags::empty()).ok())
            .and_then(|descriptor| rustix::fs::fstat(descriptor).ok());
        if let Some(status) = inode {
            let mut register = self.lock();
            if register.descriptors.len() >= DESCRIPTORS_MAX {
                register.descriptors.clear();
            }
            register.descriptors.insert(status.st_ino, pid);
        }
    }

    /// The process that a process descriptor is for, also if it has ended.
    pub fn process_of_descriptor(&self, descriptor: &Descriptor) -> Option<u32> {
        descriptor
            .process
            .or_else(|| self.lock().descriptors.get(&descriptor.inode).copied())
    }

    /// The thread that the world knows as `inner`, and its process.
    pub fn find_inner(&self, inner: u32) -> Option<(i32, u32)> {
        if let Some(found) = self.lock().find_inner(inner) {
            return Some(found);
        }
        // A thread that has not been asked for before: learn the inner ids of those that are new.
        let unknown = self.lock().without_inner();
        for tid in unknown {
            if let Some(inner) = read_inner(tid) {
                let mut register = self.lock();
                if register.threads.contains_key(&tid) {
                    register.inner.insert(inner, tid);
                }
            }
        }
        self.lock().find_inner(inner)
    }
}

/// A thread's id in its own pid namespace, from `/proc/TID/status`.
pub fn read_inner(tid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

impl Register {
    fn find_inner(&self, inner: u32) -> Option<(i32, u32)> {
        if let Some(process) = self.processes.get(&inner) {
            return Some((process.leader, inner));
        }
        let tid = *self.inner.get(&inner)?;
        Some((tid, self.threads.get(&tid)?.pid))
    }

    fn without_inner(&self) -> Vec<i32> {
        let known: std::collections::HashSet<i32> = self.inner.values().copied().collect();
        let is_leader = |tid: &i32, thread: &Thread| {
            self.processes
                .get(&thread.pid)
                .is_some_and(|process| process.leader == *tid)
        };
        self.threads
            .iter()
            .filter(|(tid, thread)| !known.contains(tid) && !is_leader(tid, thread))
            .map(|(tid, _)| *tid)
            .collect()
    }

    /// A guest by its home pid.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// A guest by its home pid.
    pub fn process_mut(&mut self, pid: u32) -> Option<&mut Process> {
        self.processes.get_mut(&pid)
    }

    /// A thread.
    pub fn thread(&self, tid: i32) -> Option<&Thread> {
        self.threads.get(&tid)
    }

    /// A thread.
    pub fn thread_mut(&mut self, tid: i32) -> Option<&mut Thread> {
        self.threads.get_mut(&tid)
    }

    /// Home pids of all guests.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.keys().copied().collect()
    }

    /// A new guest, with one thread.
    pub fn add_process(&mut self, pid: u32, leader: i32, executed: bool, title: u64) {
        self.all.insert(pid);
        self.count += 1;
        self.processes.insert(
            pid,
            Process {
                serial: self.count,
                leader,
                threads: vec![leader],
                executed,
                timers: false,
                shares_descriptors: false,
                duplicates: Duplicates::default(),
                of_children: OfChildren::default(),
                title,
            },
        );
        self.threads.insert(leader, Thread { pid, call: None });
    }

    /// A guest has forked: its child has the same descriptors and dispositions.
    pub fn inherit(&mut self, parent: u32, child: u32) {
        let parents = self
            .processes
            .get(&parent)
            .map(|parent| (parent.duplicates.clone(), parent.of_children));
        if let (Some(parents), Some(child)) = (parents, self.processes.get_mut(&child)) {
            (child.duplicates, child.of_children) = parents;
        }
    }

    /// Two guests have one table of descriptors.
    pub fn note_shared_descriptors(&mut self, pids: [u32; 2]) {
        for pid in pids {
            if let Some(process) = self.processes.get_mut(&pid) {
                process.shares_descriptors = true;
            }
        }
    }

    /// A new thread of a guest.
    pub fn add_thread(&mut self, pid: u32, tid: i32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.push(tid);
            self.threads.insert(tid, Thread { pid, call: None });
        }
    }

    /// A thread has ended. Gives the call it waited in.
    pub fn remove_thread(&mut self, tid: i32) -> Option<u64> {
        let thread = self.threads.remove(&tid)?;
        self.inner.retain(|_, known| *known != tid);
        if let Some(process) = self.processes.get_mut(&thread.pid) {
            process.threads.retain(|other| *other != tid);
        }
        thread.call
    }

    /// A guest has ended; its threads have been removed.
    pub fn remove_process(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }
}
