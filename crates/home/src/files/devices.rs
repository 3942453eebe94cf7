//! Home's file systems: unique inode numbers under mounts that have several of them, and what kind each is.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{PoisonError, RwLock};

use crate::coherence::FileSystem;

/// Above this bit of an inode number goes the index of a file system that guests do not tell apart from the one around it.
const INDEX_SHIFT: u32 = 48;

/// How the sizes of files on a file system are to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A real one: sizes are true.
    Real,
    /// One whose files have contents made up as they are read: sizes mean nothing.
    Made,
    /// Any other: a size of zero may mean nothing.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Device {
    index: u64,
    class: Option<Class>,
    /// Whether changes on it are told, once that is known.
    watchable: Option<Option<FileSystem>>,
}

/// The file systems seen in a session.
#[derive(Debug)]
pub struct Devices {
    /// Device number of the root's.
    first: u64,
    /// Those that guests tell apart from all others: their inode numbers stay, as the root's do.
    told_apart: RwLock<Vec<u64>>,
    table: RwLock<HashMap<u64, Device>>,
}

impl Devices {
    /// `first` is the root's.
    pub fn new(first: u64) -> Self {
        let device = Device {
            index: 0,
            class: None,
            watchable: None,
        };
        Self {
            first,
            told_apart: RwLock::default(),
            table: RwLock::new(HashMap::from([(first, device)])),
        }
    }

    /// Guests tell these apart.
    pub fn tell_apart(&self, devices: Vec<u64>) {
        *self.told_apart.write().unwrap_or_else(PoisonError::into_inner) = devices;
    }

    /// The inode number under the mount. Unique as long as home's numbers are below 2^48, which they are on every local
    /// file system.
    pub fn inode(&self, device: u64, inode: u64) -> u64 {
        let told_apart = self.told_apart.read().unwrap_or_else(PoisonError::into_inner);
        if device == self.first || told_apart.contains(&device) {
            return inode;
        }
        drop(told_apart);
        inode ^ (self.device(device).index << INDEX_SHIFT)
    }

    /// What kind of file system a file, given by any descriptor, is on.
    pub fn class(&self, device: u64, file: impl AsFd) -> Class {
        if let Some(class) = self.device(device).class {
            return class;
        }
        let Ok(figures) = rustix::fs::fstatfs(file) else {
            return Class::Unknown;
        };
        let class = classify(figures.f_type as u32);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.get_mut(&device) {
            entry.class = Some(class);
        }
        class
    }

    /// What a file, given by any descriptor, is on, if changes there are told.
    pub fn watchable(&self, device: u64, file: impl AsFd) -> Option<FileSystem> {
        if let Some(known) = self.device(device).watchable {
            return known;
        }
        let watchable = FileSystem::of(file);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.get_mut(&device) {
            entry.watchable = Some(watchable);
        }
        watchable
    }

    fn device(&self, device: u64) -> Device {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(&found) = table.get(&device) {
            return found;
        }
        drop(table);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let index = table.len() as u64;
        *table.entry(device).or_insert(Device {
            index,
            class: None,
            watchable: None,
        })
    }
}

/// By the magic numbers of `statfs`.
fn classify(kind: u32) -> Class {
    match kind {
        // ext, XFS, btrfs, tmpfs, ramfs, overlay, F2FS, squashfs, EROFS, bcachefs, ZFS, NFS, CIFS, SMB2, Ceph, 9p, JFS,
        // NILFS, FAT, exFAT, NTFS, ISO, UDF, hugetlbfs
        0xef53 | 0x5846_5342 | 0x9123_683e | 0x0102_1994 | 0x8584_58f6 | 0x794c_7630 | 0xf2f5_2010
        | 0x7371_7368 | 0xe0f5_e1e2 | 0xca45_1a4e | 0x2fc1_2fc1 | 0x6969 | 0xff53_4d42 | 0xfe53_4d42
        | 0x00c3_6400 | 0x0102_1997 | 0x3153_464a | 0x3434 | 0x4d44 | 0x2011_bab0 | 0x7366_746e | 0x9660
        | 0x1501_3346 | 0x9584_58f6 => Class::Real,
        // proc, sysfs, debugfs, tracefs, cgroup, cgroup2, securityfs, SELinux, SMACK, BPF, pstore, efivarfs, configfs,
        // binfmt_misc, devpts, RPC pipes, nsfs, mqueue, resctrl
        0x9fa0 | 0x6265_6572 | 0x6462_6720 | 0x7472_6163 | 0x0027_e0eb | 0x6367_7270 | 0x7363_6673
        | 0xf97c_ff8c | 0x4341_5d53 | 0xcafe_4a11 | 0x6165_676c | 0xde5e_81e4 | 0x6265_6570 | 0x4249_4e4d
        | 0x1cd1 | 0x6759_6969 | 0x6e73_6673 | 0x1980_0202 | 0x0765_5821 => Class::Made,
        _ => Class::Unknown,
    }
}
