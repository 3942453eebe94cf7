//! Contents of homes' files, kept on the node's disk from session to session.
//!
//! The unit is the [piece](afield_link::contents), a file named by its BLAKE3 hash:
//!
//! ```text
//! DIRECTORY/total                   bytes of all pieces; its lock is held while pieces are added or removed
//! DIRECTORY/HOME/xx/yyyy…           a piece whose hash is xxyyyy…
//! ```
//!
//! Each home has its own pieces, so that to know a hash is no way to anything that another home has sent. What is on the disk is
//! believed only if its hash is its name: it may have been damaged, cut short by a crash, or written by somebody else. Nothing is
//! ever synchronised, since what is lost is fetched again.
//!
//! Several sessions, each a process, use one store. When it is full, pieces go that have not been used for the longest time.

mod room;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use afield_link::contents::{Hash, PIECE_BYTES, hash};
use thiserror::Error;
use tracing::{debug, warn};

use room::Room;

/// A piece that was used so lately is not marked as used again.
const USED_LATELY: Duration = Duration::from_secs(60);

/// Why there is no store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("{}: {}", path.display(), afield_link::wire::plain_error(crate::sys::errno(source)))]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others than its owner could read or change what is kept.
    #[error("{} belongs to another user, or others have access to it", .0.display())]
    Shared(PathBuf),
}

/// What a node does about keeping contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where they are kept.
    pub directory: PathBuf,
    /// Most bytes of them; 0: none are kept.
    pub most_bytes: u64,
}

/// The pieces of one home.
#[derive(Debug)]
pub struct Store {
    /// The home's.
    directory: PathBuf,
    room: Room,
    /// For names of files that are being written.
    next: AtomicU64,
}

impl Store {
    /// The pieces of `home`, which is a name that no other home can have, and a file's name.
    ///
    /// # Errors
    /// The directory cannot be made, or is not its user's alone.
    pub fn open(policy: &Policy, home: &str) -> Result<Self, StoreError> {
        let directory = policy.directory.join(home);
        for path in [&policy.directory, &directory] {
            let failed = |source| StoreError::Directory {
                path: path.clone(),
                source,
            };
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(path).map_err(failed)?;
            let status = fs::symlink_metadata(path).map_err(failed)?;
            let own = status.uid() == rustix::process::geteuid().as_raw();
            if !own || !status.is_dir() || status.mode() & 0o077 != 0 {
                return Err(StoreError::Shared(path.clone()));
            }
        }
        let room = Room::open(&policy.directory, policy.most_bytes).map_err(|source| {
            let path = policy.directory.clone();
            StoreError::Directory { path, source }
        })?;
        Ok(Self {
            directory,
            room,
            next: AtomicU64::new(0),
        })
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(&text[..2]).join(&text[2..])
    }

    /// The piece with this hash, if it is there.
    pub fn read(&self, wanted: &Hash) -> Option<Vec<u8>> {
        let path = self.path(wanted);
        match read_piece(&path) {
            Ok(piece) if hash(&piece) == *wanted => Some(piece),
            Ok(_) => {
                warn!("{} is damaged, and removed", path.display());
                let _ = fs::remove_file(&path);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                debug!("{}: {error}", path.display());
                None
            }
        }
    }

    /// Keeps pieces, and says how many of them are new.
    ///
    /// # Errors
    /// The disk is full, say. Those that are there are whole.
    pub fn add<'a>(&self, pieces: impl IntoIterator<Item = (Hash, &'a [u8])>) -> io::Result<usize> {
        // What is there may be damaged: somebody has fetched it again for a reason.
        let missing: Vec<_> = pieces
            .into_iter()
            .filter(|(hash, _)| self.read(hash).is_none())
            .map(|(hash, piece)| (self.path(&hash), piece))
            .collect();
        if missing.is_empty() {
            return Ok(0);
        }
        let mut room = self.room.lock()?;
        for (path, piece) in &missing {
            room.make(piece.len() as u64)?;
            self.write(path, piece)?;
            room.take(piece.len() as u64)?;
        }
        Ok(missing.len())
    }

    fn write(&self, path: &Path, piece: &[u8]) -> io::Result<()> {
        let Some(folder) = path.parent() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = folder.join(format!("{}{}-{number}", room::UNFINISHED, std::process::id()));
        let create = || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)
        };
        let mut file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                create()?
            }
            // Left by a process that had this one's id, in another namespace or before.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&unfinished)?;
                create()?
            }
            other => other?,
        };
        let written = file
            .write_all(piece)
            .and_then(|()| file.set_permissions(Permissions::from_mode(0o600)))
            .and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

/// The bytes of a piece's file, and marks it as used.
fn read_piece(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::Error::other("no file"));
    }
    let mut piece = Vec::with_capacity(status.len().min(PIECE_BYTES as u64) as usize + 1);
    Read::by_ref(&mut file)
        .take(PIECE_BYTES as u64 + 1)
        .read_to_end(&mut piece)?;
    mark_used(&file, &status);
    Ok(piece)
}

/// The time of modification says when a piece was last used: it is never modified.
fn mark_used(file: &File, status: &fs::Metadata) {
    let now = SystemTime::now();
    let lately = status
        .modified()
        .is_ok_and(|used| now.duration_since(used).is_ok_and(|since| since < USED_LATELY));
    if !lately {
        // On a disk that is read-only now, it does not matter.
        let _ = file.set_modified(now);
    }
}

#[cfg(test)]
mod tests;
