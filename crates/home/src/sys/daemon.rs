//! What makes a daemon, and what it starts.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::process::{close_all_but, default_signals, end_with_parent};
use super::signals::{self, Disposition, set_disposition};

/// Takes on a name of its own, and takes off what the job that happened to start it was bound to.
pub fn free_of_its_starter() {
    let _ = std::fs::write("/proc/self/comm", "afield-agent");
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU {
        all.set(cpu);
    }
    let _ = sched_setaffinity(None, &all);
    free_of_limits();
    // Of those it cannot get rid of, a job's file operation is told; it is not a reason to end all jobs.
    let _ = set_disposition(libc::SIGXFSZ, Disposition::Ignore, 0);
}

/// Limits that would hold for all later jobs. Only a privileged process can get rid of hard ones.
fn free_of_limits() {
    let files_max = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1 << 20);
    for resource in [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::As,
        Resource::Memlock,
        Resource::Nproc,
        Resource::Nofile,
    ] {
        let most = (resource == Resource::Nofile).then_some(files_max);
        let free = Rlimit {
            current: most,
            maximum: most,
        };
        if setrlimit(resource, free).is_err() {
            let maximum = getrlimit(resource).maximum;
            let raised = Rlimit {
                current: maximum,
                maximum,
            };
            let _ = setrlimit(resource, raised);
        }
    }
}

/// Does the work in a thread of its own, with a table of descriptors of its own. What the work opens is not among the process's descriptors
/// as others see them, which are those of its first thread (`/proc/PID/fd`): the files that an agent has open are its guests', and who
/// ends all who have a file open (`fuser -k`) means the guests. Should be called while the process has one thread.
///
/// In the work, `/proc/self/fd` is not what it seems; `/proc/thread-self/fd` is.
pub fn out_of_sight<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new()
            .name("agent".to_owned())
            .spawn_scoped(scope, work)?;
        // Signals are the worker's.
        let mask = signals::set_blocked(signals::ALL);
        // SAFETY: takes a number. Afterwards this thread shares no table with any other, and does nothing but wait.
        if unsafe { libc::unshare(libc::CLONE_FILES) } == 0 {
            // Where the end is told why.
            close_all_but(&[0, 1, 2]);
        }
        let outcome = worker.join();
        signals::set_blocked(mask);
        outcome.map_err(|_| io::Error::other("it has failed"))
    })
}

/// How many files this process may have open.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Has a command start with default signals, in a session of its own, and end with the thread that starts it.
pub fn end_with_starter(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        default_signals();
        end_with_parent(libc::SIGKILL);
        // SAFETY: no pointers.
        unsafe {
            libc::setsid();
            if libc::getppid() as u32 != parent {
                libc::_exit(125);
            }
        }
        Ok(())
    };
    // SAFETY: between fork and execution only system calls are made.
    unsafe { command.pre_exec(prepare) };
}

/// Executes this program anew as an embedded node, which gets the link and dies with the calling thread.
pub fn start_node(arguments: &[OsString], link: OwnedFd) -> io::Result<Child> {
    let number = link.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("afield")
        .args(arguments)
        .arg(number.to_string())
        .env_remove("AFIELD_READY_FD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let parent = std::process::id();
    let prepare = move || {
        default_signals();
        end_with_parent(libc::SIGKILL);
        // SAFETY: take and give numbers. The link is to stay open across the execution.
        unsafe {
            if libc::getppid() as u32 != parent {
                libc::_exit(125);
            }
            if libc::fcntl(number, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and execution only system calls are made.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
