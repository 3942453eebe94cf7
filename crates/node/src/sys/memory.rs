//! Guest memory, read and written from outside.
//!
//! A page of it may be a page of a home file that is not here yet: touching it then waits for the file door. No thread
//! that the file door needs may call anything in this module.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use afield_link::sys::{Data, Room};

/// Reads guest memory at `address` into all of `target`.
///
/// # Errors
/// `EFAULT` if any byte cannot be read.
pub fn read(tid: i32, address: u64, target: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < target.len() {
        let rest = &mut target[done..];
        let local = libc::iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        };
        let remote = libc::iovec {
            iov_base: (address.wrapping_add(done as u64)) as *mut libc::c_void,
            iov_len: rest.len(),
        };
        // SAFETY: `local` describes memory that is ours for writing; the kernel checks the remote side.
        let count = unsafe { libc::process_vm_readv(tid, &local, 1, &remote, 1, 0) };
        match super::check(count as libc::c_long)? {
            0 => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
            count => done += count as usize,
        }
    }
    Ok(())
}

/// Reads guest memory at `address` into all of `room`.
///
/// # Errors
/// `EFAULT` if any byte cannot be read.
pub fn read_to(tid: i32, address: u64, room: &Room<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < room.length() {
        let local = libc::iovec {
            iov_base: room.start().wrapping_add(done).cast(),
            iov_len: room.length() - done,
        };
        let remote = libc::iovec {
            iov_base: (address.wrapping_add(done as u64)) as *mut libc::c_void,
            iov_len: room.length() - done,
        };
        // SAFETY: `local` is what is left of the room; the kernel checks the remote side.
        let count = unsafe { libc::process_vm_readv(tid, &local, 1, &remote, 1, 0) };
        match super::check(count as libc::c_long)? {
            0 => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
            count => done += count as usize,
        }
    }
    Ok(())
}

/// Writes all of `source` to guest memory at `address`.
///
/// # Errors
/// `EFAULT` if any byte cannot be written.
pub fn write(tid: i32, address: u64, source: &[u8]) -> io::Result<()> {
    write_from(tid, address, source.into())
}

/// The same from anywhere.
///
/// # Errors
/// `EFAULT` if any byte cannot be written.
pub fn write_from(tid: i32, address: u64, source: Data<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < source.length() {
        let rest = source.after(done);
        let local = libc::iovec {
            iov_base: rest.start().cast_mut().cast(),
            iov_len: rest.length(),
        };
        let remote = libc::iovec {
            iov_base: (address.wrapping_add(done as u64)) as *mut libc::c_void,
            iov_len: rest.length(),
        };
        // SAFETY: `local` is only read by this call; the kernel checks the remote side.
        let count = unsafe { libc::process_vm_writev(tid, &local, 1, &remote, 1, 0) };
        match super::check(count as libc::c_long)? {
            0 => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
            count => done += count as usize,
        }
    }
    Ok(())
}

/// Reads a NUL-terminated string of at most `length_max` bytes (without the NUL).
///
/// # Errors
/// `EFAULT` if it cannot be read, `ENAMETOOLONG` if no NUL is found in time.
pub fn read_string(tid: i32, address: u64, length_max: usize) -> io::Result<Vec<u8>> {
    const PAGE: u64 = 4096;
    let mut string = Vec::new();
    let mut at = address;
    while string.len() <= length_max {
        // One page at a time, as the next one need not be mapped.
        let mut chunk = vec![0; (PAGE - at % PAGE) as usize];
        read(tid, at, &mut chunk)?;
        if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
            string.extend_from_slice(&chunk[..end]);
            if string.len() > length_max {
                break;
            }
            return Ok(string);
        }
        string.extend_from_slice(&chunk);
        at = at.wrapping_add(chunk.len() as u64);
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// Reads into a head, and what does not fit there into a room, both by one call: as a FUSE device gives its requests.
pub fn read_both(file: BorrowedFd<'_>, head: &mut [u8], room: &Room<'_>) -> io::Result<usize> {
    let pieces = [
        libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: room.start().cast(),
            iov_len: room.length(),
        },
    ];
    // SAFETY: both pieces are alive during the call, which writes no more to them than their lengths.
    let count = unsafe { libc::readv(file.as_raw_fd(), pieces.as_ptr(), 2) };
    super::check(count as libc::c_long).map(|count| count as usize)
}

/// Writes a head and data to a descriptor, both by one call: as a FUSE device wants its replies.
pub fn write_both(file: BorrowedFd<'_>, head: &[u8], data: Data<'_>) -> io::Result<()> {
    let pieces = [
        libc::iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: data.start().cast_mut().cast(),
            iov_len: data.length(),
        },
    ];
    loop {
        // SAFETY: both pieces are alive during the call, which only reads them.
        let count = unsafe { libc::writev(file.as_raw_fd(), pieces.as_ptr(), 2) };
        match super::check(count as libc::c_long) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
