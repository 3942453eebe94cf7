//! `flock` of directories: the node's kernel does not ask the file door for such locks, but keeps them to itself.
//!
//! It does ask about device control of a directory. So the call is made one for its duration ([`FLOCK_DIRECTORY`]).

use afield_abi::fuse::FLOCK_DIRECTORY;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tracing::debug;

use super::{Resume, Tracer, Within};
use crate::sys::ptrace::{self, Registers};

impl Tracer {
    /// A thread is about to take or drop a lock.
    pub(super) fn lock_call(&mut self, tid: i32, registers: Registers) {
        let known = [libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN];
        let operation = registers.rsi as i32;
        if !known.contains(&(operation & !libc::LOCK_NB)) || !is_directory(tid, registers.rdi as u32) {
            return self.go_on(tid, Resume::Run(0));
        }
        let control = Registers {
            orig_rax: libc::SYS_ioctl as u64,
            rsi: u64::from(FLOCK_DIRECTORY),
            rdx: registers.rsi & 0xffff_ffff,
            ..registers
        };
        match (ptrace::set_registers(tid, &control), self.threads.get_mut(&tid)) {
            (Ok(()), Some(thread)) => {
                thread.within = Some(Within::Locking(Box::new(registers)));
                self.go_on(tid, Resume::ToCallEnd);
            }
            (Err(error), _) => {
                debug!("registers of {tid}: {error}");
                self.go_on(tid, Resume::Run(0));
            }
            (Ok(()), None) => {}
        }
    }

    /// The call has ended: its caller finds its registers as they were. If it is made again, it is as a lock's.
    pub(super) fn lock_ended(&self, tid: i32, before: &Registers) {
        let restored = ptrace::registers(tid).and_then(|after| {
            let registers = Registers {
                orig_rax: before.orig_rax,
                rsi: before.rsi,
                rdx: before.rdx,
                ..after
            };
            ptrace::set_registers(tid, &registers)
        });
        if let Err(error) = restored {
            debug!("registers of {tid}: {error}");
        }
    }
}

/// Whether a descriptor is a directory's. The kernel tells without asking the file door: who is not in the world may not search a directory of
/// it, but anything else is none in the first place.
fn is_directory(tid: i32, number: u32) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(format!("/proc/{tid}/fd/{number}/."), flags, Mode::empty());
    matches!(opened, Ok(_) | Err(Errno::ACCESS))
}
