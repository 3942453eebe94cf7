//! The bound on what a store keeps, over all homes and all sessions.
//!
//! How much there is stands in a file, changed under its lock with every piece, so that nobody has to look through the directories.
//! A process that dies in between, or a user who removes files, makes it wrong; it is counted anew whenever room has to be made.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tracing::debug;

/// What the names of unfinished files begin with.
pub const UNFINISHED: &str = ".unfinished-";

/// An unfinished file that has not been written to for so long is left over.
const LEFT_OVER: Duration = Duration::from_secs(600);

/// Room is made for as much more, in parts of the whole, as that it is not soon needed again.
const SPARE_PART: u64 = 10;

/// The bound.
#[derive(Debug)]
pub struct Room {
    directory: PathBuf,
    total: File,
    most_bytes: u64,
}

impl Room {
    /// The bound on what is in `directory`.
    pub fn open(directory: &Path, most_bytes: u64) -> io::Result<Self> {
        let total = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join("total"))?;
        Ok(Self {
            directory: directory.to_owned(),
            total,
            most_bytes,
        })
    }

    /// Waits until nobody else adds pieces.
    pub fn lock(&self) -> io::Result<Locked<'_>> {
        rustix::io::retry_on_intr(|| flock(&self.total, FlockOperation::LockExclusive))?;
        let mut bytes = [0; 8];
        let mut locked = Locked { room: self, bytes: 0 };
        match self.total.read_exact_at(&mut bytes, 0) {
            Ok(()) => locked.bytes = u64::from_le_bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                locked.bytes = locked.all()?.iter().map(|piece| piece.bytes).sum();
            }
            Err(error) => return Err(error),
        }
        Ok(locked)
    }
}

/// The right to add pieces.
#[derive(Debug)]
pub struct Locked<'a> {
    room: &'a Room,
    bytes: u64,
}

/// A piece as it is on the disk.
struct Kept {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl Locked<'_> {
    /// Makes room for a piece.
    ///
    /// # Errors
    /// `StorageFull` if there can be none.
    pub fn make(&mut self, bytes: u64) -> io::Result<()> {
        let most = self.room.most_bytes;
        if self.bytes.saturating_add(bytes) <= most {
            return Ok(());
        }
        let mut all = self.all()?;
        self.bytes = all.iter().map(|piece| piece.bytes).sum();
        let target = most.saturating_sub(bytes.max(most / SPARE_PART));
        all.sort_by_key(|piece| piece.used);
        let mut oldest = all.into_iter();
        while self.bytes > target
            && let Some(piece) = oldest.next()
        {
            match fs::remove_file(&piece.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.bytes -= piece.bytes;
        }
        self.save()?;
        match self.bytes.saturating_add(bytes) <= most {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    /// A piece has been added.
    pub fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.bytes += bytes;
        self.save()
    }

    fn save(&self) -> io::Result<()> {
        self.room.total.write_all_at(&self.bytes.to_le_bytes(), 0)
    }

    /// All pieces. Removes what unfinished files are left over.
    fn all(&self) -> io::Result<Vec<Kept>> {
        let mut all = Vec::new();
        for home in folders(&self.room.directory)? {
            for folder in folders(&home)? {
                for entry in fs::read_dir(folder)? {
                    let entry = entry?;
                    // A session may have removed a damaged one in between.
                    let Ok(status) = entry.metadata() else { continue };
                    let used = status.modified()?;
                    if !entry
                        .file_name()
                        .as_encoded_bytes()
                        .starts_with(UNFINISHED.as_bytes())
                    {
                        all.push(Kept {
                            used,
                            bytes: status.len(),
                            path: entry.path(),
                        });
                    } else if used.elapsed().is_ok_and(|since| since > LEFT_OVER) {
                        debug!("{} is left over", entry.path().display());
                        let _ = fs::remove_file(entry.path());
                    }
                }
            }
        }
        Ok(all)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It cannot fail on an open file; if it did, closing would unlock.
        let _ = flock(&self.room.total, FlockOperation::Unlock);
    }
}

/// The directories in one.
fn folders(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}
