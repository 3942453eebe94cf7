//! What a run leaves in its directory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Everything below a directory, by relative path.
#[derive(Clone, Debug, Default)]
pub struct Tree(pub(crate) BTreeMap<PathBuf, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Type and permissions, as `st_mode` has them.
    pub mode: u32,
    pub owner: (u32, u32),
    pub links: u64,
    pub device: u64,
    /// In seconds and nanoseconds, unless it lies in the run.
    pub modified: Option<(i64, i64)>,
    /// The first path of the same file, in order of names, if it is not this one.
    pub same_as: Option<PathBuf>,
    pub extended: BTreeMap<Vec<u8>, Vec<u8>>,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Small files whole, so that a difference can be shown.
    Bytes(Vec<u8>),
    Hash {
        size: u64,
        hash: u64,
        has_holes: bool,
    },
    Target(PathBuf),
    Unreadable(String),
    Nothing,
}

const SHOWN: u64 = 4096;

impl Tree {
    /// Reads everything below `top`, and `top` itself as the empty path.
    pub(crate) fn read(top: &Path, window: (SystemTime, SystemTime)) -> Self {
        let mut tree = Self::default();
        let mut files = HashMap::new();
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let full = top.join(&path);
            let metadata = match fs::symlink_metadata(&full) {
                Ok(metadata) => metadata,
                Err(error) => panic!("{}: {error}", full.display()),
            };
            if metadata.is_dir() {
                let mut children: Vec<_> = fs::read_dir(&full)
                    .map(|entries| {
                        entries
                            .map(|entry| path.join(entry.unwrap().file_name()))
                            .collect()
                    })
                    .unwrap_or_default();
                children.sort();
                left.extend(children.into_iter().rev());
            }
            let mut entry = Entry::read(&full, &metadata, window);
            if !metadata.is_dir() {
                let first = files
                    .entry((metadata.dev(), metadata.ino()))
                    .or_insert_with(|| path.clone());
                if *first != path {
                    entry.same_as = Some(first.clone());
                }
            }
            tree.0.insert(path, entry);
        }
        tree
    }
}

impl Entry {
    fn read(full: &Path, metadata: &fs::Metadata, window: (SystemTime, SystemTime)) -> Self {
        let content = if metadata.is_file() {
            read_file(full, metadata).unwrap_or_else(|error| Content::Unreadable(error.to_string()))
        } else if metadata.is_symlink() {
            fs::read_link(full).map_or_else(|error| Content::Unreadable(error.to_string()), Content::Target)
        } else {
            Content::Nothing
        };
        Self {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: metadata.nlink(),
            device: metadata.rdev(),
            modified: fixed_time(metadata, window),
            same_as: None,
            extended: extended(full),
            content,
        }
    }
}

/// The time of the last change of contents, unless it lies in the run.
fn fixed_time(metadata: &fs::Metadata, (start, end): (SystemTime, SystemTime)) -> Option<(i64, i64)> {
    // The kernel's file times lag behind its clock by a tick.
    const SLACK: Duration = Duration::from_millis(50);
    let time = (metadata.mtime(), metadata.mtime_nsec());
    let since_epoch = |time: SystemTime| {
        let duration = time.duration_since(UNIX_EPOCH).unwrap();
        (duration.as_secs() as i64, i64::from(duration.subsec_nanos()))
    };
    let is_recent = time >= since_epoch(start - SLACK) && time <= since_epoch(end + SLACK);
    (!is_recent).then_some(time)
}

fn read_file(full: &Path, metadata: &fs::Metadata) -> std::io::Result<Content> {
    let mut file = fs::File::open(full)?;
    if metadata.len() <= SHOWN {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        return Ok(Content::Bytes(bytes));
    }
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        buffer[..filled].hash(&mut hasher);
        size += filled as u64;
    }
    // Whether much of it is not allocated; how much exactly is the file system's business.
    let has_holes = metadata.blocks() * 512 + (64 << 10) < metadata.len();
    Ok(Content::Hash {
        size,
        hash: hasher.finish(),
        has_holes,
    })
}

fn extended(full: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(full, &mut names[..]).unwrap_or(0);
    let names = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let key = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(full, key, &mut value[..]).unwrap_or(0);
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}
