//! The trace door's kernel features.

use std::io;

use super::check;

fn request(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: the requests used here take integers only.
    check(unsafe { libc::ptrace(request, pid, 0usize, data) }).map(drop)
}

/// Starts to trace a process.
pub fn seize(pid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, pid, libc::PTRACE_O_EXITKILL as usize)
}

/// Makes a traced process stop.
pub fn interrupt(pid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, pid, 0)
}

/// Reads the word at `address` of another process.
pub fn read_word(pid: i32, address: *const u64) -> io::Result<u64> {
    let mut word = 0u64;
    let local = libc::iovec {
        iov_base: (&raw mut word).cast(),
        iov_len: size_of::<u64>(),
    };
    let remote = libc::iovec {
        iov_base: address.cast_mut().cast(),
        iov_len: size_of::<u64>(),
    };
    // SAFETY: the local vector is a live variable of its length; the remote one is the other process's affair.
    let length = check(unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) } as i64)?;
    if length == 8 {
        Ok(word)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
