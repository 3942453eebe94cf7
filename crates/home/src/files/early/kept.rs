//! What programs have asked is kept in a file, so that another agent knows it as well.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::traces::{Ask, Program, Traces};

/// Version of what is in the file. What has another one is not read.
const VERSION: u32 = 1;

/// Most bytes of the file.
const BYTES_MAX: u64 = 32 << 20;

/// The whole file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// By when they were executed, the last one last.
    programs: Vec<(Box<[u8]>, Vec<Ask>)>,
}

/// Reads the file. Whatever is in it is no more than what may be asked.
///
/// # Errors
/// It cannot be read, or makes no sense.
pub fn read(path: &Path) -> io::Result<Traces> {
    let mut traces = Traces::default();
    match std::fs::metadata(path) {
        Ok(found) if found.len() > BYTES_MAX => return Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(traces),
        Err(error) => return Err(error),
    }
    let bytes = std::fs::read(path)?;
    let kept: Kept = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
    if kept.version != VERSION {
        return Ok(traces);
    }
    for (program, asks) in kept.programs {
        let program = Program::from(program);
        for ask in asks {
            traces.add(&program, ask);
        }
        traces.of(&program);
    }
    Ok(traces)
}

/// Writes the file, all of it or nothing.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, traces: &Traces) -> io::Result<()> {
    let programs = traces.all();
    let kept = Kept {
        version: VERSION,
        programs,
    };
    let bytes = postcard::to_stdvec(&kept).map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| std::fs::rename(&fresh, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::traces::What;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = std::env::temp_dir().join(format!("afield-asked-{}", std::process::id()));
        let path = directory.join("in/asked");
        assert!(read(&path).unwrap().all().is_empty());
        let mut traces = Traces::default();
        let program: Program = (*b"/bin/p").into();
        let ask = Ask {
            path: (*b"/etc/hosts").into(),
            what: What::Pieces(0, 3),
        };
        traces.add(&program, ask.clone());
        write(&path, &traces).unwrap();
        let mut again = read(&path).unwrap();
        assert_eq!(*again.of(&program)[0], ask);
        let good = std::fs::read(&path).unwrap();
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path).is_err());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
