//! What makes a daemon, and what it starts.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::process::{default_signals, end_with_parent};

/// Takes on a name of its own, and takes off what the job that happened to start it was bound to.
pub fn free_of_its_starter() {
    let _ = std::fs::write("/proc/self/comm", "afield-agent");
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU {
        all.set(cpu);
    }
    let _ = sched_setaffinity(None, &all);
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
