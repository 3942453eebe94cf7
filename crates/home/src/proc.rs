//! Home's `/proc`, also for a deputy that has changed its root directory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};

/// Opened before the root directory is changed for the first time. Children have it as well.
static KEPT: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps it at hand: the root directory is about to be changed.
pub fn keep(out_of_the_way: impl FnOnce(OwnedFd) -> OwnedFd) -> io::Result<()> {
    if KEPT.get().is_none() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, "/proc", flags, Mode::empty())?;
        let _ = KEPT.set(out_of_the_way(opened));
    }
    Ok(())
}

/// The descriptor by which it is kept at hand, if it is. It must not be closed.
pub fn kept() -> Option<RawFd> {
    KEPT.get().map(AsRawFd::as_raw_fd)
}

/// Where an entry is: a directory and a path from there.
pub fn place(entry: &str) -> (BorrowedFd<'static>, CString) {
    let (directory, path) = match KEPT.get() {
        Some(kept) => (kept.as_fd(), entry.to_owned()),
        None => (CWD, format!("/proc/{entry}")),
    };
    // Entries are named by this program, without NUL.
    (directory, CString::new(path).unwrap_or_default())
}

/// What a link says.
pub fn link(entry: &str) -> io::Result<Vec<u8>> {
    let (directory, path) = place(entry);
    Ok(rustix::fs::readlinkat(directory, path, Vec::new())?.into_bytes())
}

fn open(entry: &str, flags: OFlags) -> io::Result<std::fs::File> {
    let (directory, path) = place(entry);
    Ok(rustix::fs::openat(directory, path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// What a file says.
pub fn read(entry: &str) -> io::Result<String> {
    io::read_to_string(open(entry, OFlags::RDONLY)?)
}

/// Writes to a file.
pub fn write(entry: &str, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut open(entry, OFlags::WRONLY)?, bytes)
}
