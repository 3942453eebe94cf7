//! From init's fork to the program: what a first guest does before its `execve`.
//!
//! It speaks with the session over a channel of its own: `H` (hello; the kernel tells the session who speaks), then, once
//! the tracer has it, everything that a program inherits is put in place; `F` and the number of the filter's listener;
//! and once the session has taken that, `execve`, which closes the channel. `E` and an error end it earlier.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use afield_abi::filter::{self, FilterOptions};
use afield_link::wire::{Descriptor, Inherited, Spawn, SpawnError};
use rustix::fs::{CWD, Mode, OFlags};

use crate::sys::{self, credentials, namespaces, process, seccomp};

/// Says why there is no guest.
pub(super) fn report(answers: &UnixStream, error: &SpawnError) {
    if let Ok(mut text) = afield_link::wire::encode(error) {
        text.insert(0, b'E');
        // If nobody listens any more, nobody needs to know.
        let _ = write_all(answers, &text);
    }
}

/// Writes as a file: once the filter is in force, calls for sockets are notified, and here nobody answers them.
fn write_all(channel: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(channel, bytes))?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Becomes the program, or reports why not and ends.
pub(super) fn become_program(
    spawn: &Spawn,
    seekable: Vec<u32>,
    correct_owners: bool,
    hidden: &OwnedFd,
    answers: UnixStream,
) -> ! {
    // Even this process's small memory is let go of only by `execve`; `answers` closes with it.
    if let Err(error) = prepare_and_execute(spawn, seekable, correct_owners, hidden, answers) {
        let (answers, error) = *error;
        report(&answers, &error);
    }
    process::exit_now(127)
}

type Failure = Box<(UnixStream, SpawnError)>;

fn prepare_and_execute(
    spawn: &Spawn,
    seekable: Vec<u32>,
    correct_owners: bool,
    hidden: &OwnedFd,
    answers: UnixStream,
) -> Result<(), Failure> {
    let mut answers = match out_of_the_way(answers, spawn) {
        Ok(answers) => answers,
        Err(answers) => {
            return Err(fail(
                answers,
                "moving descriptors",
                &io::Error::from_raw_os_error(libc::EMFILE),
            ));
        }
    };
    let mut step = String::new();
    match prepare(spawn, seekable, correct_owners, hidden, &mut answers, &mut step) {
        Ok(()) => {}
        Err(error) => return Err(fail(answers, &step, &error)),
    }
    let error = process::execute(&spawn.program, &spawn.arguments, &spawn.environment);
    Err(fail(answers, "execve", &error))
}

fn fail(answers: UnixStream, step: &str, error: &io::Error) -> Failure {
    Box::new((
        answers,
        SpawnError {
            step: step.to_owned(),
            errno: sys::errno(error),
        },
    ))
}

/// The lowest descriptor number that the job does not use, and above all that it does.
fn first_free(spawn: &Spawn) -> RawFd {
    let highest = spawn.descriptors.iter().map(|descriptor| descriptor.number).max();
    highest
        .map_or(3, |number| number.saturating_add(1).max(3))
        .min(1 << 20) as RawFd
}

/// Moves the channel above the job's numbers.
fn out_of_the_way(answers: UnixStream, spawn: &Spawn) -> Result<UnixStream, UnixStream> {
    match rustix::io::fcntl_dupfd_cloexec(&answers, first_free(spawn)) {
        Ok(moved) => Ok(moved.into()),
        Err(_) => Err(answers),
    }
}

fn prepare(
    spawn: &Spawn,
    seekable: Vec<u32>,
    correct_owners: bool,
    hidden: &OwnedFd,
    answers: &mut UnixStream,
    step: &mut String,
) -> io::Result<()> {
    "hello".clone_into(step);
    say_and_wait(answers, b"H")?;

    let base = first_free(spawn);
    let mut opened: Vec<(RawFd, OwnedFd)> = Vec::with_capacity(spawn.descriptors.len());
    let mut handles = HashMap::new();
    for descriptor in &spawn.descriptors {
        *step = format!("descriptor {}", descriptor.number);
        let handle = match descriptor.object {
            Inherited::Handle { handle, .. } => Some(handle),
            _ => None,
        };
        // Descriptors that share an open file at home share one here.
        let shared = handle
            .and_then(|handle| handles.get(&handle))
            .and_then(|&index: &usize| opened.get(index));
        let file = match shared {
            Some((_, file)) => rustix::io::fcntl_dupfd_cloexec(file, base)?,
            None => open(descriptor, hidden, base)?,
        };
        if let Some(handle) = handle {
            handles.entry(handle).or_insert(opened.len());
        }
        opened.push((descriptor.number as RawFd, file));
    }
    "descriptors".clone_into(step);
    // Nothing that owns a descriptor below `base` is used from here on.
    process::close_range(0, base as u32 - 1)?;
    for (number, descriptor) in &opened {
        process::place(descriptor, *number)?;
    }
    for (_, descriptor) in opened {
        drop(descriptor);
    }

    *step = format!("chdir {}", String::from_utf8_lossy(&spawn.directory));
    namespaces::change_directory(std::path::Path::new(std::ffi::OsStr::from_bytes(
        &spawn.directory,
    )))?;
    rustix::process::umask(Mode::from_raw_mode(spawn.umask));
    let mut limit_files = false;
    for (resource, &(soft, hard)) in spawn.limits.iter().enumerate() {
        // How many processes a user may have is home's to limit: that is where they are.
        *step = format!("setrlimit {resource}");
        match resource as u32 {
            libc::RLIMIT_NPROC => {}
            libc::RLIMIT_FSIZE => {
                limit_files = soft != credentials::UNLIMITED;
                credentials::set_file_limit(0, soft)?;
            }
            resource => credentials::set_limit(resource, soft, hard)?,
        }
    }
    "credentials".clone_into(step);
    credentials::set_ids_if_changed(spawn.ids)?;
    process::set_dispositions(spawn.ignored);

    "the system-call filter".clone_into(step);
    let program = filter::build(&FilterOptions {
        seekable,
        correct_owners,
        limit_files,
    });
    // Capabilities first: from the filter on, changing them is a call that home judges.
    credentials::keep_guest_capabilities()?;
    credentials::gain_nothing()?;
    let listener = seccomp::install(&program)?;
    let mut message = vec![b'F'];
    message.extend_from_slice(&listener.as_raw_fd().to_le_bytes());
    say_and_wait(answers, &message)?;
    drop(listener);
    process::set_blocked(spawn.blocked)
}

fn say_and_wait(answers: &UnixStream, message: &[u8]) -> io::Result<()> {
    write_all(answers, message)?;
    match rustix::io::retry_on_intr(|| rustix::io::read(answers, &mut [0]))? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn open(descriptor: &Descriptor, hidden: &OwnedFd, base: RawFd) -> io::Result<OwnedFd> {
    const KEPT: u32 = (libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK) as u32;
    let opened = match &descriptor.object {
        Inherited::Handle {
            handle,
            flags,
            stream,
            offset,
            ..
        } => {
            let flags = OFlags::from_bits_retain(flags & KEPT) | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(hidden, handle.to_string(), flags, Mode::empty())?;
            if !stream {
                rustix::fs::seek(&opened, rustix::fs::SeekFrom::Start((*offset).max(0) as u64))?;
            }
            opened
        }
        Inherited::Device { name, flags } => {
            if !super::mounts::OWN_DEVICES.contains(&name.as_str()) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let flags = OFlags::from_bits_retain(flags & KEPT) | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, format!("/dev/{name}"), flags, Mode::empty())?
        }
        Inherited::Path { path, flags } => {
            let kept = KEPT | (libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW) as u32;
            let flags = OFlags::from_bits_retain(flags & kept) | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path.as_slice(), flags, Mode::empty())?
        }
    };
    Ok(rustix::io::fcntl_dupfd_cloexec(&opened, base)?)
}
