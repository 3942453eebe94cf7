//! Files that decide who is trusted: nobody but their owner may have written them, nor, if they are secret, read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

/// Most bytes of such a file.
const BYTES_MAX: u64 = 1 << 20;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else may do with it what only its owner should.
    #[error("{}: {why}: {remedy}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What helps.
        remedy: String,
    },
    /// What it says makes no sense.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why, with the line if there is one.
        why: String,
    },
}

impl FileError {
    /// True if there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }
}

/// What others may do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    Nothing,
    /// Read it.
    Read,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    move |source| FileError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Refuses a file whose owner or permissions are not as they should be.
fn check(path: &Path, file: &File, others: Others) -> Result<(), FileError> {
    let found = file.metadata().map_err(failed(path))?;
    let uid = rustix::process::geteuid().as_raw();
    let shown = path.display();
    let (why, remedy) = if !found.is_file() {
        ("not a regular file".to_owned(), "put one in its place".to_owned())
    } else if found.uid() != uid && (others == Others::Nothing || found.uid() != 0) {
        (
            format!("belongs to user {}, not to you ({uid})", found.uid()),
            format!("chown {uid} {shown}"),
        )
    } else if others == Others::Nothing && found.mode() & 0o077 != 0 {
        (
            format!("others may use it (mode {:04o})", found.mode() & 0o7777),
            format!("chmod 600 {shown}, and if somebody may have read it, remove it and make a new key"),
        )
    } else if found.mode() & 0o022 != 0 {
        (
            format!("others may write to it (mode {:04o})", found.mode() & 0o7777),
            format!("chmod go-w {shown}"),
        )
    } else {
        return Ok(());
    };
    Err(FileError::Unsafe {
        path: path.to_owned(),
        why,
        remedy,
    })
}

/// Reads a file that is as it should be.
pub fn read(path: &Path, others: Others) -> Result<String, FileError> {
    let mut options = OpenOptions::new();
    // A FIFO in its place must not be waited for.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed(path))?;
    check(path, &file, others)?;
    let mut text = String::new();
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed(path))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(FileError::Content {
            path: path.to_owned(),
            why: format!("longer than {BYTES_MAX} bytes"),
        });
    }
    Ok(text)
}

/// Makes the folder of a file that is to be written, for its owner alone if it was missing.
fn make_folder(path: &Path) -> Result<(), FileError> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(folder)
        .map_err(failed(folder))
}

/// Writes a new file beside `path`, readable for its owner alone.
fn write_beside(path: &Path, text: &str) -> Result<PathBuf, FileError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    make_folder(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(
        ".{}.{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    let beside = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    if let Err(source) = written {
        let _ = fs::remove_file(&beside);
        return Err(FileError::Io { path: beside, source });
    }
    Ok(beside)
}

/// Makes a file that is not there yet. Whoever is first wins; true if it was this call.
pub fn create(path: &Path, text: &str) -> Result<bool, FileError> {
    let beside = write_beside(path, text)?;
    let linked = fs::hard_link(&beside, path);
    let _ = fs::remove_file(&beside);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Puts a new text in a file's place, at once.
pub fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let beside = write_beside(path, text)?;
    fs::rename(&beside, path).map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(path)(error)
    })
}

/// Changes a file that may be missing: `change` gets its text. One change at a time, over all processes.
pub fn change<T>(
    path: &Path,
    change: impl FnOnce(&str) -> Result<(String, T), FileError>,
) -> Result<T, FileError> {
    make_folder(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(&lock_path).map_err(failed(&lock_path))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive))
        .map_err(|errno| failed(&lock_path)(errno.into()))?;
    let old = match read(path, Others::Read) {
        Err(error) if error.is_missing() => String::new(),
        other => other?,
    };
    let (new, result) = change(&old)?;
    if new != old {
        replace(path, &new)?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_of_others_are_refused() {
        let folder = std::env::temp_dir().join(format!("afield-files-{}", std::process::id()));
        let path = folder.join("deep/secret");
        assert!(read(&path, Others::Read).unwrap_err().is_missing());
        assert!(create(&path, "one").unwrap());
        assert!(!create(&path, "two").unwrap());
        assert_eq!(read(&path, Others::Nothing).unwrap(), "one");
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(0o640);
        let message = read(&path, Others::Nothing).unwrap_err().to_string();
        assert!(
            message.contains("mode 0640") && message.contains("chmod 600"),
            "{message}"
        );
        assert_eq!(read(&path, Others::Read).unwrap(), "one");
        set(0o620);
        let message = read(&path, Others::Read).unwrap_err().to_string();
        assert!(message.contains("chmod go-w"), "{message}");
        set(0o600);
        assert_eq!(change(&path, |old| Ok((format!("{old}+"), 7))).unwrap(), 7);
        assert_eq!(read(&path, Others::Nothing).unwrap(), "one+");
        assert!(
            read(&folder, Others::Read)
                .unwrap_err()
                .to_string()
                .contains("regular")
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
