//! The home objects that a guest has open, by handle.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::FileType;

use crate::sys::process;

/// What an open file is, as far as operations on it differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Has an offset; reading it does not wait for anybody.
    Regular,
    /// A pipe or socket: can be tried without waiting.
    Stream,
    /// Job control applies.
    Terminal,
    /// A device of another kind.
    Other,
}

/// An open home object.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Kept open by operations in progress.
    pub file: Arc<OwnedFd>,
    /// What it is.
    pub sort: Sort,
    /// The guest has made it, so that only guests have it.
    pub own: bool,
}

impl Handle {
    /// Looks at the file.
    pub fn new(file: OwnedFd) -> Self {
        let sort = match rustix::fs::fstat(&file) {
            Ok(status) => match FileType::from_raw_mode(status.st_mode) {
                FileType::RegularFile => Sort::Regular,
                FileType::Fifo | FileType::Socket => Sort::Stream,
                FileType::CharacterDevice if rustix::termios::isatty(&file) => Sort::Terminal,
                _ => Sort::Other,
            },
            Err(_) => Sort::Other,
        };
        Self {
            file: Arc::new(file),
            sort,
            own: false,
        }
    }
}

/// Handles to open files.
#[derive(Debug, Default)]
pub struct Handles {
    open: HashMap<u64, Handle>,
}

impl Handles {
    /// The object, if it is open.
    pub fn get(&self, handle: u64) -> Option<Handle> {
        self.open.get(&handle).cloned()
    }

    /// Adds an object that others may have.
    pub fn insert(&mut self, handle: u64, file: OwnedFd) {
        self.open.insert(handle, Handle::new(file));
    }

    /// Adds an object that a guest has just made.
    pub fn insert_own(&mut self, handle: u64, file: OwnedFd) {
        let object = Handle {
            own: true,
            ..Handle::new(file)
        };
        self.open.insert(handle, object);
    }

    /// Closes an object as soon as no operation on it is in progress.
    pub fn remove(&mut self, handle: u64) -> Option<Handle> {
        self.open.remove(&handle)
    }

    /// Has another descriptor of the same open file stand for an object. Gives the former.
    pub fn replace(&mut self, handle: u64, file: OwnedFd) -> Option<Arc<OwnedFd>> {
        let object = self.open.get_mut(&handle)?;
        Some(std::mem::replace(&mut object.file, Arc::new(file)))
    }

    /// All that are open.
    pub fn all(&self) -> Vec<(u64, Handle)> {
        self.open
            .iter()
            .map(|(&number, handle)| (number, handle.clone()))
            .collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Numbers of the open files, ascending.
    pub fn numbers(&self) -> Vec<RawFd> {
        let mut numbers: Vec<_> = self.open.values().map(|handle| handle.file.as_raw_fd()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// What a fork has of it. To be taken before the fork and used in the child only.
    pub fn inventory(&self) -> Vec<(u64, RawFd, Sort, bool)> {
        self.open
            .iter()
            .map(|(&id, handle)| (id, handle.file.as_fd().as_raw_fd(), handle.sort, handle.own))
            .collect()
    }

    /// The same in the child, which owns its copies of the descriptors.
    pub fn from_inventory(inventory: &[(u64, RawFd, Sort, bool)]) -> Self {
        let open = inventory
            .iter()
            .map(|&(id, number, sort, own)| {
                let file = Arc::new(process::adopt(number));
                (id, Handle { file, sort, own })
            })
            .collect();
        Self { open }
    }
}
