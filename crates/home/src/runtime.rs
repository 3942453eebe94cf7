//! The directory where the agent and its clients meet: `$XDG_RUNTIME_DIR/afield`, or `/tmp/afield-UID` where there is
//! no runtime directory. `AFIELD_RUNTIME_DIR` overrides both.
//!
//! It holds the agent's socket, the lock that makes starting it race-free, and its log. Only its owner may use it: it
//! is made with mode 0700, and a directory of another owner or with other permissions is refused.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Names of the directories for dumps begin so.
const DUMP_PREFIX: &str = "dump.";

/// Names of ssh's connections begin so.
const SSH_PREFIX: &str = "ssh-";

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// It could not be made or looked at.
    #[error("{}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else could have put it there.
    #[error("{}: not a directory that only user {uid} may use (set AFIELD_RUNTIME_DIR to another)", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
}

/// The directory where agent and clients of one user meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// The usual place, as the environment has it. Nothing is touched.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = if let Some(path) = set("AFIELD_RUNTIME_DIR") {
            PathBuf::from(path)
        } else if let Some(path) = set("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_absolute()) {
            PathBuf::from(path).join("afield")
        } else {
            let uid = rustix::process::getuid().as_raw();
            PathBuf::from(format!("/tmp/afield-{uid}"))
        };
        Self { path }
    }

    /// A given directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("agent.sock")
    }

    /// Held by the agent while it lives, and by whoever is about to start one.
    pub fn lock(&self) -> PathBuf {
        self.path.join("agent.lock")
    }

    /// What the agent has to say.
    pub fn log(&self) -> PathBuf {
        self.path.join("agent.log")
    }

    /// Where ssh keeps a connection that it had to ask the user for.
    pub fn ssh_connection(&self, url: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        url.hash(&mut hasher);
        self.path.join(format!("{SSH_PREFIX}{:016x}", hasher.finish()))
    }

    /// All of them.
    pub fn ssh_connections(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let is_one = |entry: &fs::DirEntry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(SSH_PREFIX.as_bytes())
        };
        entries.filter(is_one).map(|entry| entry.path()).collect()
    }

    /// Where the deputy `pid` leaves the dump without which its death would not show that there was one.
    pub fn dump_of(&self, pid: u32) -> PathBuf {
        self.path.join(format!("{DUMP_PREFIX}{pid}"))
    }

    /// Removes what deputies have left whose agent had died.
    pub fn remove_dumps(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(DUMP_PREFIX.as_bytes())
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Makes the directory if it is missing, and refuses one that others could use.
    pub fn prepare(&self) -> Result<(), RuntimeError> {
        let io = |source| RuntimeError::Io {
            path: self.path.clone(),
            source,
        };
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        self.check()
    }

    /// Refuses a directory that others could use.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let found = fs::symlink_metadata(&self.path).map_err(|source| RuntimeError::Io {
            path: self.path.clone(),
            source,
        })?;
        let uid = rustix::process::geteuid().as_raw();
        if found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0 {
            Ok(())
        } else {
            Err(RuntimeError::Unsafe {
                path: self.path.clone(),
                uid,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let path = std::env::temp_dir().join(format!("afield-runtime-{}", std::process::id()));
        let directory = RuntimeDir::at(&path);
        directory.prepare().unwrap();
        directory.prepare().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(directory.check(), Err(RuntimeError::Unsafe { .. })));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(matches!(directory.prepare(), Err(RuntimeError::Unsafe { .. })));
        fs::remove_file(&path).unwrap();
    }
}
