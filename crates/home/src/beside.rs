//! For tests of what the kernel tells about files: what this process starts has, until it is executed, this process's descriptors.
//!
//! A file that one test writes is therefore still open for writing, and closed by somebody else, if another test beside it starts
//! a program at that moment. So nothing is started while something is written.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program: it is executed when this returns.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let _turn = turn();
    command.spawn()
}

/// Starts a program and waits for its end.
pub fn run(command: &mut Command) -> io::Result<ExitStatus> {
    start(command)?.wait()
}

/// Writes a file, which nobody has open afterwards.
pub fn write(path: &Path, text: &str) {
    let _turn = turn();
    fs::write(path, text).unwrap();
}
