//! What a guest's descriptor refers to, by `/proc/TID/fdinfo`.

use std::fs;
use std::mem::MaybeUninit;

use crate::world::HIDDEN_DIRECTORY;

/// A descriptor of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Inode number; in the world's root that is the file door's node id.
    pub inode: u64,
    /// File offset.
    pub offset: i64,
    /// Open-file flags.
    pub flags: u64,
    /// Mount it was opened on.
    pub mount: u64,
    /// For a pidfd: the process, as the world knows it.
    pub process: Option<u32>,
}

/// Looks a descriptor up; `None` if it is not open.
pub fn look_up(tid: i32, number: u32) -> Option<Descriptor> {
    parse(&fs::read_to_string(format!("/proc/{tid}/fdinfo/{number}")).ok()?)
}

/// What a descriptor's name says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A home object in the hidden directory, with this handle.
    Handle(u64),
    /// A file by some other name.
    File,
    /// Something without a place: a pipe, a socket of the node's own.
    Private,
}

/// What a descriptor refers to, by its name in `/proc/TID/fd`; `None` if it is not open.
pub fn shown(tid: i32, number: u32) -> Option<Shown> {
    const LENGTH_MAX: usize = 64;
    let mut room = [MaybeUninit::uninit(); LENGTH_MAX];
    let path = format!("/proc/{tid}/fd/{number}");
    let (name, _) = rustix::fs::readlinkat_raw(rustix::fs::CWD, path, &mut room).ok()?;
    Some(read_name(name))
}

/// Names that guests can give do not lead into the hidden directory: there everything is the file door's.
fn read_name(name: &[u8]) -> Shown {
    let Some(path) = name.strip_prefix(b"/") else {
        return Shown::Private;
    };
    let handle = path
        .strip_prefix(HIDDEN_DIRECTORY.as_bytes())
        .and_then(|path| path.strip_prefix(b"/"))
        .and_then(|name| str::from_utf8(name).ok()?.parse().ok());
    handle.map_or(Shown::File, Shown::Handle)
}

/// True if the process has a descriptor for the file door's node.
pub fn has_node(tid: i32, node: u64) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{tid}/fdinfo")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read_to_string(entry.path())
            .ok()
            .and_then(|text| parse(&text))
            .is_some_and(|descriptor| descriptor.inode == node)
    })
}

/// True if the process may have one more descriptor.
pub fn has_room(tid: i32) -> bool {
    let Some(limit) = fs::read_to_string(format!("/proc/{tid}/limits"))
        .ok()
        .and_then(|text| limit_of(&text))
    else {
        return true;
    };
    let Some(last) = limit.checked_sub(1) else {
        return false;
    };
    // New descriptors get the lowest number: while the last is free there is room.
    if fs::symlink_metadata(format!("/proc/{tid}/fd/{last}")).is_err() {
        return true;
    }
    let Ok(entries) = fs::read_dir(format!("/proc/{tid}/fd")) else {
        return true;
    };
    let below = entries.flatten().filter(|entry| {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        number.is_some_and(|number: u64| number < limit)
    });
    (below.count() as u64) < limit
}

/// The soft limit of open files in `/proc/TID/limits`.
fn limit_of(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn parse(text: &str) -> Option<Descriptor> {
    let mut descriptor = Descriptor::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key {
            "pos" => descriptor.offset = value.parse().ok()?,
            "flags" => descriptor.flags = u64::from_str_radix(value, 8).ok()?,
            "mnt_id" => descriptor.mount = value.parse().ok()?,
            "ino" => descriptor.inode = value.parse().ok()?,
            // Zero or -1 once the process has ended.
            "NSpid" => {
                let inner = value.split_whitespace().last().and_then(|pid| pid.parse().ok());
                descriptor.process = inner.filter(|&pid| pid != 0);
            }
            _ => {}
        }
    }
    Some(descriptor)
}

/// The system call that a waiting thread is in, and its arguments, by `/proc/TID/syscall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentCall {
    /// Number.
    pub number: u64,
    /// Argument registers.
    pub arguments: [u64; 6],
}

/// The system call that a thread waits in; `None` if it runs, or waits outside of one (a page fault).
pub fn current_call(tid: i32) -> Option<CurrentCall> {
    let text = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some(CurrentCall { number, arguments })
}
