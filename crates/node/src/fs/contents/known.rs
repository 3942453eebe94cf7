//! What is known of one file's contents.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use afield_link::contents::{Contents, Hash, PIECE_BYTES, Told, hash, piece_count};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::ahead::Ahead;
use super::{Wanted, lock};

/// What of the node's own system can be the same as home's.
const SYSTEM: &str = "/usr/";

/// The same file in the node's own system.
#[derive(Debug)]
enum Local {
    /// There may be one, at this path below [`SYSTEM`].
    Possible(Vec<u8>),
    /// It is there, and has been the same as far as it was compared.
    There(File),
    /// There is none.
    None,
}

/// Contents, as home has described them. What describes other contents is another value.
#[derive(Debug)]
pub struct Known {
    size: u64,
    /// By piece.
    hashes: Mutex<Box<[Option<Hash>]>>,
    local: Mutex<Local>,
    /// What is on its way, and which reads wait for it.
    pub ahead: Mutex<Ahead<Wanted>>,
    /// The disk has not all of it.
    absent: AtomicBool,
    /// It says nothing about the file any more.
    ended: AtomicBool,
}

impl Known {
    /// A file of `size` bytes, which is at `path` if the node's system has it, too.
    pub fn new(size: u64, path: &[u8]) -> Self {
        let local = match path.strip_prefix(SYSTEM.as_bytes()) {
            Some(path) => Local::Possible(path.to_vec()),
            None => Local::None,
        };
        Self {
            size,
            hashes: Mutex::new(vec![None; piece_count(size) as usize].into()),
            local: Mutex::new(local),
            ahead: Mutex::default(),
            absent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pieces of the file.
    pub fn piece_count(&self) -> usize {
        piece_count(self.size) as usize
    }

    /// The contents are others now, or may be.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether they are.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A piece was looked for on the disk in vain.
    pub fn note_absent(&self) {
        self.absent.store(true, Ordering::Relaxed);
    }

    /// Whether one was.
    pub fn is_absent(&self) -> bool {
        self.absent.load(Ordering::Relaxed)
    }

    /// The hash of a piece.
    pub fn hash_of(&self, index: u64) -> Option<Hash> {
        *lock(&self.hashes).get(index as usize)?
    }

    /// Home has told all hashes.
    pub fn told(&self, hashes: &[Hash]) {
        for (slot, hash) in lock(&self.hashes).iter_mut().zip(hashes) {
            *slot = Some(*hash);
        }
    }

    /// Whether what home says now is nothing else than what it has said before. If it says nothing about what is in it, that still holds.
    pub fn is_as(&self, said: &Contents<'_>) -> bool {
        let is_known = |told: &[Hash]| {
            let known = lock(&self.hashes);
            known.iter().flatten().eq(told) && known.len() == told.len()
        };
        self.size == said.size
            && match said.told {
                Told::Nothing => true,
                Told::Hashes(hashes) => is_known(hashes),
                Told::Whole(whole) => is_known(&[hash(whole)]),
            }
    }

    /// A piece that has come has this hash. False if it is another than home has told: what came belongs to other contents.
    pub fn learn(&self, index: u64, hash: &Hash) -> bool {
        match lock(&self.hashes).get_mut(index as usize) {
            Some(slot) => slot.get_or_insert(*hash) == hash,
            None => false,
        }
    }

    /// The hashes of the pieces with `size` bytes at `offset`, as far as the file goes, if all are known.
    pub fn hashes(&self, offset: u64, size: usize) -> Option<Vec<(u64, Hash)>> {
        let end = offset.checked_add(size as u64)?.min(self.size);
        if offset >= end {
            // Nothing is there.
            return Some(Vec::new());
        }
        let hashes = lock(&self.hashes);
        let indices = offset / PIECE_BYTES as u64..=(end - 1) / PIECE_BYTES as u64;
        indices
            .map(|index| Some((index, (*hashes.get(index as usize)?)?)))
            .collect()
    }

    /// Bytes of a piece.
    fn bytes_of(&self, index: u64) -> usize {
        let begin = index * PIECE_BYTES as u64;
        self.size.saturating_sub(begin).min(PIECE_BYTES as u64) as usize
    }

    /// The whole pieces in `bytes` from the file's offset `from`.
    pub fn whole_pieces<'a>(&self, from: u64, bytes: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
        let first = from.div_ceil(PIECE_BYTES as u64);
        let skipped = (first * PIECE_BYTES as u64 - from) as usize;
        // More than the file has: it is not this file as it was described.
        let fits = from.saturating_add(bytes.len() as u64) <= self.size;
        let pieces = bytes.get(skipped..).filter(|_| fits).unwrap_or_default();
        (first..)
            .zip(pieces.chunks(PIECE_BYTES))
            .filter(|(index, piece)| piece.len() == self.bytes_of(*index))
    }

    /// Whether the node's system has the file.
    pub fn is_local(&self) -> bool {
        matches!(*lock(&self.local), Local::There(_))
    }

    /// A piece from the node's own system.
    pub fn local(&self, index: u64, wanted: &Hash) -> Option<Vec<u8>> {
        let mut local = lock(&self.local);
        if let Local::Possible(path) = &*local {
            *local = open(path, self.size).map_or(Local::None, Local::There);
        }
        let Local::There(file) = &*local else { return None };
        let mut piece = vec![0; self.bytes_of(index)];
        let read = file.read_exact_at(&mut piece, index * PIECE_BYTES as u64);
        if read.is_ok() && hash(&piece) == *wanted {
            return Some(piece);
        }
        // Another version: it is not worth looking further.
        *local = Local::None;
        None
    }
}

/// The file at a path below [`SYSTEM`], if everybody on this machine may read it and only root may change it.
fn open(path: &[u8], size: u64) -> Option<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let system = rustix::fs::open(SYSTEM, flags, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(&system, path, flags, Mode::empty(), within).ok()?);
    let status = file.metadata().ok()?;
    let public = status.uid() == 0 && status.mode() & 0o004 != 0 && status.mode() & 0o022 == 0;
    (status.is_file() && public && status.len() == size).then_some(file)
}
