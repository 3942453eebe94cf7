//! What a guest has open, for home to show it as its deputy's own.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

use afield_link::control::{DESCRIPTORS_TOLD, DescriptorChange, Held};
use afield_rpc::CallError;
use rustix::fs::FileType;

use crate::fs::{HANDLE, OWN, SPECIAL};
use crate::session::Shared;
use crate::sys::inodes::fuse_node;

/// What home has been told of one guest.
#[derive(Debug, Default)]
pub struct Holdings {
    told: BTreeMap<u32, Held>,
}

impl Holdings {
    /// Looks at what the process of a thread has open, and tells home what is not as it was.
    ///
    /// # Errors
    /// The link's.
    pub fn tell(&mut self, shared: &Shared, pid: u32, thread: i32) -> Result<(), CallError> {
        let Some(now) = held_by(shared, thread) else {
            return Ok(());
        };
        let gone = self.told.keys().filter(|number| !now.contains_key(number));
        let gone = gone.map(|&number| (number, Held::Nothing));
        let other = now
            .iter()
            .filter(|(number, held)| self.told.get(number) != Some(held));
        let other = other.map(|(&number, &held)| (number, held));
        let changes: Vec<_> = gone
            .chain(other)
            .map(|(number, now)| DescriptorChange { number, now })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.told = now;
        shared.home.descriptors(pid, changes)
    }
}

/// Whether a guest executes the program that a node of home's is.
pub fn is_executed(shared: &Shared, node: u64) -> bool {
    shared.guests.leaders().into_iter().any(|(_, thread)| {
        let path = CString::new(format!("/proc/{thread}/exe")).unwrap_or_default();
        fuse_node(&path)
            .is_some_and(|(mount, program)| program == node && shared.files.places.is_mount(mount))
    })
}

/// What home has of what a process has open; `None` if the process is gone.
fn held_by(shared: &Shared, thread: i32) -> Option<BTreeMap<u32, Held>> {
    let path = |rest: &str| CString::new(format!("/proc/{thread}/{rest}")).unwrap_or_default();
    let mut held = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{thread}/fd")).ok()?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|&number| number < DESCRIPTORS_TOLD) else {
            continue;
        };
        // What was closed just now is nothing, and so is what the node has made itself.
        let file = path(&format!("fd/{number}"));
        let what = match fuse_node(&file) {
            Some((mount, node)) if shared.files.places.is_mount(mount) => what_home_has(shared, node),
            Some(_) => None,
            None => device(&file),
        };
        if let Some(what) = what {
            held.insert(number, what);
        }
    }
    Some(held)
}

/// A device that is the node's own and home's: of those that hold nothing, which go by one major number.
fn device(path: &CStr) -> Option<Held> {
    let status = rustix::fs::stat(path).ok()?;
    let is_one = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && rustix::fs::major(status.st_rdev) == 1;
    is_one.then(|| Held::Device(rustix::fs::minor(status.st_rdev)))
}

/// What a node of the file door is at home.
fn what_home_has(shared: &Shared, node: u64) -> Option<Held> {
    match node {
        _ if node & (HANDLE | SPECIAL) != 0 => shared.files.object_of(node).map(Held::Object),
        _ if node & OWN != 0 => None,
        _ => Some(Held::File(node)),
    }
}
