//! What a job inherits: every open descriptor, and what the guest gets for it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use afield_link::wire::{DESCRIPTORS_MAX, Descriptor, Inherited};
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::FdFlags;

use crate::deputy::Handles;
use crate::sys::process;

/// The descriptors that were inherited.
#[derive(Debug)]
pub struct Inventory {
    descriptors: Vec<Descriptor>,
    /// The number that stands for each handle.
    numbers: Vec<RawFd>,
}

impl Inventory {
    /// Looks at all descriptors but those that are close-on-exec, which are this program's own. Handles are numbered
    /// from zero.
    pub fn take() -> io::Result<Self> {
        let mut numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut inventory = Self {
            descriptors: Vec::new(),
            numbers: Vec::new(),
        };
        // Handles by device and inode, to find descriptors of one open file.
        let mut seen: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
        for number in numbers {
            let borrowed = process::borrow(number);
            let own = rustix::io::fcntl_getfd(borrowed).map(|flags| flags.contains(FdFlags::CLOEXEC));
            // The directory that was read is close-on-exec, and closed by now.
            if own.unwrap_or(true) {
                continue;
            }
            let object = inventory.look(number, borrowed, &mut seen)?;
            inventory.descriptors.push(Descriptor {
                number: number as u32,
                object,
            });
        }
        if inventory.descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::other(format!(
                "{} are open; at most {DESCRIPTORS_MAX} can be inherited",
                inventory.descriptors.len()
            )));
        }
        Ok(inventory)
    }

    /// What was found.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    fn look(
        &mut self,
        number: RawFd,
        file: BorrowedFd<'_>,
        seen: &mut HashMap<(u64, u64), Vec<usize>>,
    ) -> io::Result<Inherited> {
        let status = rustix::fs::fstat(file)?;
        let open_flags = rustix::fs::fcntl_getfl(file)?;
        let flags = open_flags.bits();
        let sort = FileType::from_raw_mode(status.st_mode);
        if (open_flags.contains(OFlags::PATH) || sort == FileType::Directory)
            && let Some(path) = path_of(number, &status, sort)
        {
            return Ok(Inherited::Path { path, flags });
        }
        if let (FileType::CharacterDevice, Some(name)) = (sort, device(&status)) {
            return Ok(Inherited::Device {
                name: name.to_owned(),
                flags,
            });
        }
        let stream = sort != FileType::RegularFile;
        let offset = match stream {
            true => 0,
            false => rustix::fs::seek(file, SeekFrom::Current(0)).unwrap_or(0) as i64,
        };
        let same = seen.entry((status.st_dev, status.st_ino)).or_default();
        let known = same
            .iter()
            .copied()
            .find(|&handle| process::same_open_file(self.numbers[handle], number));
        let handle = known.unwrap_or_else(|| {
            self.numbers.push(number);
            same.push(self.numbers.len() - 1);
            self.numbers.len() - 1
        });
        Ok(Inherited::Handle {
            handle: handle as u64,
            flags,
            stream,
            offset,
            size: if stream { 0 } else { status.st_size as u64 },
            terminal: sort == FileType::CharacterDevice && rustix::termios::isatty(file),
            device: sort == FileType::CharacterDevice,
        })
    }

    /// Gives the deputy what stands for handles, and closes everything else but `own`, which is afield's. Also the handle of
    /// standard error.
    pub fn hand_over<'a>(
        &mut self,
        handle_first: u64,
        own: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> (Handles, Option<u64>) {
        let stderr = self
            .descriptors
            .iter()
            .find(|descriptor| descriptor.number == 2)
            .and_then(|descriptor| match descriptor.object {
                Inherited::Handle { handle, .. } => Some(handle_first + handle),
                _ => None,
            });
        let mut keep = self.numbers.clone();
        keep.extend(own.map(|file| file.as_raw_fd()));
        keep.sort_unstable();
        process::close_all_but(&keep);
        let mut handles = Handles::default();
        for (handle, number) in self.numbers.drain(..).enumerate() {
            handles.insert(handle_first + handle as u64, process::adopt(number));
        }
        self.descriptors = Vec::new();
        (handles, stderr)
    }
}

/// The path of a directory or `O_PATH` descriptor, if it still leads there.
fn path_of(number: RawFd, status: &Stat, sort: FileType) -> Option<Vec<u8>> {
    let path = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    let path = path.into_os_string().into_vec();
    let at = Path::new(OsStr::from_bytes(&path));
    let found = match sort {
        FileType::Symlink => rustix::fs::lstat(at).ok()?,
        _ => rustix::fs::stat(at).ok()?,
    };
    let same = (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino);
    (same && at.is_absolute()).then_some(path)
}

/// The devices that are the node's own.
fn device(status: &Stat) -> Option<&'static str> {
    match rustix::fs::major(status.st_rdev) {
        1 => device_named(rustix::fs::minor(status.st_rdev)),
        _ => None,
    }
}

/// The name of such a device, by its minor number.
pub fn device_named(minor: u32) -> Option<&'static str> {
    match minor {
        3 => Some("null"),
        5 => Some("zero"),
        7 => Some("full"),
        8 => Some("random"),
        9 => Some("urandom"),
        _ => None,
    }
}
