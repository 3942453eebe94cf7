//! Signal descriptors (`signalfd`): what is read from one has to be put right, as all that shows a siginfo.
//!
//! Reads pass the world's filter unseen. A process that makes its first signal descriptor is therefore given one more filter,
//! by which its reads stop in the tracer, and those of processes that inherit descriptors from it; nobody else pays for that.

use std::io;

use afield_abi::syscalls::TRACERS_FILTER;
use afield_abi::{filter, siginfo};
use tracing::debug;

use super::truths::Truths;
use super::{Resume, Tracer, Within};
use crate::sys::memory;
use crate::sys::ptrace::{self, Registers};
use crate::sys::seccomp;
use crate::sys::signals::{INFO_BYTES, info};

/// The calls by which a signal descriptor can be read.
const READS: [i64; 5] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
];

/// The stack's red zone of the x86-64 ABI.
pub(super) const RED_ZONE_BYTES: u64 = 128;

/// Most signals that are put right in the result of one read; the kernel never has more pending for an ordinary user.
const SIGNALS_MAX: usize = 1 << 16;

/// Most pieces of a `readv`.
const PIECES_MAX: usize = 1024;

/// Offsets in `struct signalfd_siginfo`.
mod shown {
    pub const SIGNAL: usize = 0;
    pub const CODE: usize = 8;
    pub const PID: usize = 12;
    pub const VALUE: usize = 48;
}

/// A read of a signal descriptor.
#[derive(Debug)]
pub(super) struct Read {
    registers: Registers,
}

/// True for calls that may be reads of a signal descriptor.
pub(super) fn is_read(number: u64) -> bool {
    READS.contains(&(number as i64))
}

impl Tracer {
    /// A thread is about to make a signal descriptor.
    pub(super) fn signal_descriptor(&mut self, tid: i32, registers: Registers) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let process = self.processes.get_mut(&thread.pid);
        if process.is_none_or(|process| std::mem::replace(&mut process.reads_stop, true)) {
            return self.go_on(tid, Resume::Run(0));
        }
        let reads = READS.map(|number| number as u32);
        let installing = filter_call(tid, &registers, &reads).and_then(|installing| {
            ptrace::set_registers(
                tid,
                &Registers {
                    orig_rax: libc::SYS_seccomp as u64,
                    rax: -i64::from(libc::ENOSYS) as u64,
                    ..installing
                },
            )
        });
        match installing {
            Ok(()) => {
                thread.within = Some(Within::Installing(registers));
                self.go_on(tid, Resume::ToCallEnd);
            }
            Err(error) => {
                debug!("a filter for the reads of {tid}: {error}");
                self.go_on(tid, Resume::Run(0));
            }
        }
    }

    /// The filter has been installed, as far as the process has let it: now for the call that was to be made.
    pub(super) fn make_again(&self, tid: i32, mut registers: Registers) {
        registers.rax = registers.orig_rax;
        registers.rip -= 2;
        registers.orig_rax = u64::MAX;
        if let Err(error) = ptrace::set_registers(tid, &registers) {
            debug!("registers of {tid}: {error}");
        }
    }

    /// A thread of such a process is about to read something.
    pub(super) fn read_call(&mut self, tid: i32, registers: Registers) {
        let link = std::fs::read_link(format!("/proc/{tid}/fd/{}", registers.rdi as u32));
        let of_signals = link.is_ok_and(|link| link.as_os_str() == "anon_inode:[signalfd]");
        match self.threads.get_mut(&tid) {
            Some(thread) if of_signals => {
                thread.within = Some(Within::Read(Read { registers }));
                self.go_on(tid, Resume::ToCallEnd);
            }
            _ => self.go_on(tid, Resume::Run(0)),
        }
    }

    /// The read has ended.
    pub(super) fn read_ended(&self, tid: i32, pid: u32, read: &Read) {
        let result = ptrace::registers(tid).and_then(|registers| {
            let count = usize::try_from(registers.rax as i64).unwrap_or(0) / INFO_BYTES;
            if count == 0 || count > SIGNALS_MAX {
                return Ok(());
            }
            let pieces = pieces_of(tid, &read.registers, count * INFO_BYTES)?;
            let mut bytes = vec![0; count * INFO_BYTES];
            let mut rest = &mut bytes[..];
            for &(address, length) in &pieces {
                let (piece, after) = rest.split_at_mut(length);
                memory::read(tid, address, piece)?;
                rest = after;
            }
            if !put_right(&self.shared.truths, pid, &mut bytes) {
                return Ok(());
            }
            let mut rest = &bytes[..];
            for &(address, length) in &pieces {
                let (piece, after) = rest.split_at(length);
                memory::write(tid, address, piece)?;
                rest = after;
            }
            Ok(())
        });
        if let Err(error) = result {
            debug!("signals that {tid} has read: {error}");
        }
    }
}

/// Registers with the arguments by which a thread makes these calls stop. The filter goes below its stack.
pub(super) fn filter_call(tid: i32, registers: &Registers, calls: &[u32]) -> io::Result<Registers> {
    let program = filter::tracing(calls);
    // `struct sock_fprog`, and the instructions behind it.
    let mut bytes = vec![0; 16];
    bytes.extend(filter::bytes(&program));
    let place = (registers.rsp - RED_ZONE_BYTES - bytes.len() as u64) & !15;
    bytes[..8].copy_from_slice(&(program.len() as u64).to_ne_bytes());
    bytes[8..16].copy_from_slice(&(place + 16).to_ne_bytes());
    memory::write(tid, place, &bytes)?;
    let mut registers = *registers;
    registers.rdi = seccomp::SET_MODE_FILTER;
    // Some thread may have a filter of its own: then there are more of them, and this thread at least has it.
    registers.rsi = seccomp::FLAG_ALL_THREADS;
    registers.rdx = place;
    registers.r9 = u64::from(TRACERS_FILTER);
    Ok(registers)
}

/// Where the first `total` bytes of a read went.
fn pieces_of(tid: i32, registers: &Registers, total: usize) -> io::Result<Vec<(u64, usize)>> {
    let number = registers.orig_rax as i64;
    if number == libc::SYS_read || number == libc::SYS_pread64 {
        return Ok(vec![(registers.rsi, total)]);
    }
    let count = (registers.rdx as usize).min(PIECES_MAX);
    let mut vector = vec![0; count * 16];
    memory::read(tid, registers.rsi, &mut vector)?;
    let mut pieces = Vec::new();
    let mut left = total;
    for entry in vector.as_chunks::<16>().0 {
        let word = |at: usize| {
            entry[at..at + 8]
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        let length = left.min(word(8) as usize);
        pieces.push((word(0), length));
        left -= length;
    }
    if left > 0 {
        // Another thread has changed it meanwhile.
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(pieces)
}

/// Puts true information in the place of marks. True if there were any.
fn put_right(truths: &Truths, pid: u32, bytes: &mut [u8]) -> bool {
    let mut changed = false;
    for entry in bytes.as_chunks_mut::<INFO_BYTES>().0 {
        let mut asked = [0; INFO_BYTES];
        for (to, from, length) in [
            (info::SIGNAL, shown::SIGNAL, 4),
            (info::CODE, shown::CODE, 4),
            (info::PID, shown::PID, 4),
            (info::VALUE, shown::VALUE, 8),
        ] {
            asked[to..to + length].copy_from_slice(&entry[from..from + length]);
        }
        if let Some(truth) = truths.take(pid, &asked) {
            *entry = siginfo::to_descriptor(&truth);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(words: &[(usize, i32)]) -> [u8; INFO_BYTES] {
        let mut bytes = [0; INFO_BYTES];
        for &(at, value) in words {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn marks_are_found_in_what_is_read() {
        let truths = Truths::default();
        let truth = with(&[(0, libc::SIGCHLD), (8, libc::CLD_KILLED), (16, 4711), (24, 9)]);
        let value = truths.keep(7, libc::SIGCHLD, &truth);
        let own = with(&[(0, 40), (8, libc::SI_QUEUE), (12, 4712), (44, 9), (48, 9)]);
        let mut mark = with(&[(0, libc::SIGCHLD), (8, libc::SI_QUEUE)]);
        mark[48..56].copy_from_slice(&value.to_ne_bytes());
        let mut bytes = [own, mark].concat();
        assert!(put_right(&truths, 7, &mut bytes));
        assert_eq!(bytes, [own, siginfo::to_descriptor(&truth)].concat());
        assert!(!put_right(&truths, 7, &mut bytes));
    }
}
