//! Finding the program as `execvp` does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use thiserror::Error;

/// Where programs are if the environment does not say.
const PATH_DEFAULT: &[u8] = b"/bin:/usr/bin";

/// Why there is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name}: {}", std::io::Error::from(*errno))]
pub struct ProgramError {
    name: String,
    errno: Errno,
}

impl ProgramError {
    /// Exit status, as `env(1)` has it.
    pub fn status(&self) -> i32 {
        if self.errno == Errno::NOENT { 127 } else { 126 }
    }
}

/// The path to execute. A name with a slash in it is that path; others are looked for in `path`.
pub fn find(name: &[u8], path: Option<&[u8]>) -> Result<Vec<u8>, ProgramError> {
    let error = |errno| ProgramError {
        name: String::from_utf8_lossy(name).into_owned(),
        errno,
    };
    if name.is_empty() {
        return Err(error(Errno::NOENT));
    }
    if name.contains(&b'/') {
        return executable(name).map(|()| name.to_vec()).map_err(error);
    }
    let mut refused = None;
    for directory in path.unwrap_or(PATH_DEFAULT).split(|&byte| byte == b':') {
        let mut candidate = directory.to_vec();
        if !candidate.is_empty() {
            candidate.push(b'/');
        }
        candidate.extend_from_slice(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => refused = Some(Errno::ACCESS),
            Err(_) => {}
        }
    }
    Err(error(refused.unwrap_or(Errno::NOENT)))
}

fn executable(path: &[u8]) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(path));
    let status = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_execvp_does() {
        assert_eq!(find(b"/bin/sh", None).unwrap(), b"/bin/sh");
        assert!(find(b"sh", None).unwrap().ends_with(b"bin/sh"));
        assert_eq!(find(b"sh", Some(b"/nowhere:/bin")).unwrap(), b"/bin/sh");
        for (name, path, status) in [
            (&b"no-such-program"[..], &b"/bin"[..], 127),
            (b"", b"/bin", 127),
            (b"/no/such", b"/bin", 127),
            (b"/etc", b"/bin", 126),
            (b"/etc/passwd/x", b"/bin", 126),
            (b"passwd", b"/nowhere:/etc", 126),
        ] {
            if name == b"passwd" && rustix::process::geteuid().is_root() {
                // No execute bit at all: not even root may.
            }
            assert_eq!(find(name, Some(path)).unwrap_err().status(), status, "{name:?}");
        }
    }
}
