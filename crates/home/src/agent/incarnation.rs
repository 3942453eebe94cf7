//! Which home this is, and in which incarnation.
//!
//! Every agent is an incarnation of its home, with an epoch that is higher than that of all before it. A node that hears of a new one
//! ends what the old ones have left. The epoch is on the disk before anybody hears of it, so a crash cannot bring an old one
//! back. A home is an agent's directory on a machine: what was there is lost with it, and the next agent is another home,
//! whose predecessor's guests end with their link.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// A home's incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// Which home: a random number.
    pub home: u64,
    /// Which incarnation of it.
    pub epoch: u64,
}

/// The file's name in the agent's directory.
const FILE: &str = "incarnation";

/// This process's.
static OURS: OnceLock<Incarnation> = OnceLock::new();

impl Incarnation {
    /// This process is an incarnation of the home that keeps its state in `directory`.
    pub fn become_next(directory: &Path) -> io::Result<()> {
        let next = Self::begin(directory)?;
        // A process is only one.
        let _ = OURS.set(next);
        tracing::info!(home = next.home, epoch = next.epoch, "incarnation");
        Ok(())
    }

    /// What this process is; home 0 if it is none.
    pub fn ours() -> Self {
        OURS.get().copied().unwrap_or(Self { home: 0, epoch: 0 })
    }

    /// The next incarnation of the home that keeps its state in `directory`. Only one process at a time may do this.
    fn begin(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        let next = match fs::read_to_string(&path).ok().as_deref().and_then(Self::read) {
            Some(last) if last.epoch < u64::MAX => Self {
                epoch: last.epoch + 1,
                ..last
            },
            // There was none, or it cannot be read: nobody knows what has been, so this is a home of its own.
            _ => Self {
                home: random()?,
                epoch: 1,
            },
        };
        let part = directory.join(format!("{FILE}.part"));
        let mut file = fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&part)?;
        writeln!(file, "{:016x} {}", next.home, next.epoch)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        fs::File::open(directory)?.sync_all()?;
        Ok(next)
    }

    fn read(text: &str) -> Option<Self> {
        let (home, epoch) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(Self {
            home: u64::from_str_radix(home, 16).ok()?,
            epoch: epoch.parse().ok()?,
        })
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_grow_and_damage_makes_another_home() {
        let directory = std::env::temp_dir().join(format!("afield-incarnation-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let first = Incarnation::begin(&directory).unwrap();
        assert_eq!(first.epoch, 1);
        for epoch in 2..5 {
            let next = Incarnation::begin(&directory).unwrap();
            assert_eq!((next.home, next.epoch), (first.home, epoch));
        }
        // A crash between the two steps leaves the old file.
        fs::write(directory.join("incarnation.part"), "0 0").unwrap();
        assert_eq!(Incarnation::begin(&directory).unwrap().epoch, 5);
        for damage in ["", "7", "xyz 4\n", "12 99", "12 -1\n", "12 3 4\n"] {
            fs::write(directory.join(FILE), damage).unwrap();
            let other = Incarnation::begin(&directory).unwrap();
            assert_eq!(other.epoch, 1, "{damage}");
            assert_ne!(other.home, first.home);
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
