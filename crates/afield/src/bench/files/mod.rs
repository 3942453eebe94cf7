//! Programs that work with files: natively, and afield on a node that may be far away.
//!
//! What is warm has run twice before: after the first run, which has read, the kernel asks for times of last access. What is cold meets a node that has kept nothing. A file that is read or written from end to end is
//! compared with its bytes going over a connection of the same length, too: more than that cannot be had. Where sshfs can be used,
//! the same is done natively in the directory mounted by it ([`sshfs`]), too.

mod sshfs;
mod tree;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::delay::Line;
use super::far::{self, Far};
use super::{Name, own, own_program};
use crate::failure::Failure;
use sshfs::{Mount, Sshfs};
use tree::Tree;

/// Runs before one that is warm.
const RUNS_BEFORE: usize = 2;
/// Bytes of the file that is read or written from end to end.
const STREAM_BYTES: u64 = 256 << 20;
/// Reads of 4 KiB at random places of that.
const READS: u64 = 2000;
/// Files that are made, renamed and removed.
const STORM_FILES: u64 = 500;

/// Where a program works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Native,
    Sshfs,
    Afield,
}

/// What is measured with, for as long as it lives.
pub struct Files<'a> {
    /// Before what it shows.
    sshfs: Option<Sshfs>,
    tree: Tree,
    far: Option<&'a Far>,
    on: &'a str,
}

impl<'a> Files<'a> {
    /// Prepares everything. The node is `on`, which `far` knows if there is one.
    pub fn new(on: &'a str, far: Option<&'a Far>) -> Result<Self, Failure> {
        let tree = Tree::new().map_err(Failure::own)?;
        // From a node on another machine home is not reached so.
        let sshfs = match on == "embedded" || far.is_some() {
            true => Sshfs::new(tree.place(), far.map(|far| far.line))
                .inspect_err(|error| eprintln!("afield: sshfs is left out: {error}"))
                .ok(),
            false => None,
        };
        Ok(Self { sshfs, tree, far, on })
    }

    /// What is measured besides afield, in that order.
    pub fn floors(&self, name: Name) -> Vec<&'static str> {
        let sshfs = self.sshfs.as_ref().map(|_| "sshfs");
        name.floors().iter().copied().chain(sshfs).collect()
    }

    /// Values of the floors, and of afield, in nanoseconds.
    pub fn measure(&self, name: Name) -> Result<Vec<f64>, Failure> {
        let mut values = Vec::new();
        if name.is_stream() {
            let line = self.far.map_or_else(Line::default, |far| far.line);
            let into = match name {
                Name::Fill => Some(self.tree.create("copy").map_err(Failure::own)?),
                _ => None,
            };
            values.push(far::copy(STREAM_BYTES, line, into).map_err(Failure::own)?);
        }
        values.push(self.measure_on(name, Side::Native)?);
        if self.sshfs.is_some() {
            values.push(self.measure_on(name, Side::Sshfs)?);
        }
        values.push(self.measure_on(name, Side::Afield)?);
        Ok(values)
    }

    fn measure_on(&self, name: Name, side: Side) -> Result<f64, Failure> {
        let words = self.words(name)?;
        let is_warm = match name {
            Name::Session | Name::ColdPython | Name::ColdCompile => false,
            Name::Read | Name::Fill | Name::Random => false,
            // These begin with something new at home, which sshfs sees late where it knows something older.
            Name::Untar | Name::Storm => side != Side::Sshfs,
            _ => true,
        };
        self.prepare(name)?;
        // One that has just been made knows nothing.
        let mount = match &self.sshfs {
            Some(sshfs) if side == Side::Sshfs => Some(sshfs.mount().map_err(Failure::own)?),
            _ => None,
        };
        let place = mount.as_ref().map_or(self.tree.place(), Mount::point);
        for _ in 0..if is_warm { RUNS_BEFORE } else { 0 } {
            self.run(&words, side, place)?;
            self.prepare(name)?;
        }
        if side == Side::Afield && matches!(name, Name::Session | Name::ColdPython | Name::ColdCompile) {
            self.forget()?;
            if name != Name::Session {
                self.run(&["true".into()], side, place)?;
            }
        }
        let start = Instant::now();
        self.run(&words, side, place)?;
        Ok(start.elapsed().as_nanos() as f64)
    }

    fn words(&self, name: Name) -> Result<Vec<OsString>, Failure> {
        let fixed: &[&str] = match name {
            Name::Session => &["true"],
            Name::Python | Name::ColdPython => &["python3", "-c", "pass"],
            Name::Compile | Name::ColdCompile => &["cc", "-O2", "-c", "source.c"],
            Name::Untar => &["tar", "-xf", "tree.tar", "-C", "unpacked"],
            Name::Status => &["git", "-C", "tree", "status", "--short"],
            Name::Grep => &["grep", "-rq", "nosuch", "tree"],
            Name::Read => &["dd", "if=data", "of=/dev/null", "bs=1M", "status=none"],
            Name::Fill => {
                let mut words = [
                    "dd",
                    "if=/dev/zero",
                    "of=copy",
                    "bs=1M",
                    "conv=fsync",
                    "status=none",
                ]
                .map(OsString::from)
                .to_vec();
                words.push(format!("count={}", STREAM_BYTES >> 20).into());
                return Ok(words);
            }
            _ => return own(name),
        };
        Ok(fixed.iter().map(OsString::from).collect())
    }

    /// Brings about what the work begins with.
    fn prepare(&self, name: Name) -> Result<(), Failure> {
        let prepared = match name {
            Name::Untar => self.tree.empty("unpacked"),
            Name::Storm => self.tree.empty("storm"),
            // Nobody has seen these bytes.
            Name::Read | Name::Random => self.tree.new_data(STREAM_BYTES),
            Name::Fill => self.tree.remove("copy"),
            _ => Ok(()),
        };
        prepared.map_err(Failure::own)
    }

    /// Makes the node one that knows nothing, without a session.
    fn forget(&self) -> Result<(), Failure> {
        run(self.command(&["agent", "stop"])?)?;
        if let Some(far) = self.far {
            far.forget().map_err(Failure::own)?;
        }
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Result<Command, Failure> {
        let mut command = Command::new(own_program()?);
        command.args(words);
        if let Some(far) = self.far {
            far.enter(&mut command);
        }
        Ok(command)
    }

    fn run(&self, words: &[OsString], side: Side, place: &Path) -> Result<(), Failure> {
        let mut command = if side == Side::Afield {
            let mut command = self.command(&["run", "--on", self.on, "--"])?;
            command.args(words);
            command
        } else {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        };
        command.current_dir(place);
        run(command)
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        // The far node's agent is nobody else's; it would end by itself some time.
        if self.far.is_some()
            && let Ok(command) = self.command(&["agent", "stop", "--force"])
        {
            let _ = run(command);
        }
    }
}

fn run(mut command: Command) -> Result<(), Failure> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| Failure::own(format!("{}: {error}", command.get_program().display())))?;
    // `grep` finds nothing.
    match status.code() {
        Some(0) => Ok(()),
        Some(1)
            if command
                .get_args()
                .chain([command.get_program()])
                .any(|word| word == "grep") =>
        {
            Ok(())
        }
        _ => Err(Failure::own(format!("{command:?} ended with {status}"))),
    }
}

/// Reads 4 KiB at many places of the file, none of which can be foreseen.
pub fn read_at_random() -> io::Result<()> {
    let file = File::open("data")?;
    let pages = file.metadata()?.len() / 4096;
    let mut buffer = [0; 4096];
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..READS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.read_exact_at(&mut buffer, state % pages.max(1) * 4096)?;
    }
    Ok(())
}

/// Makes, looks at, renames and removes many small files.
pub fn storm() -> io::Result<()> {
    let directory = Path::new("storm");
    for number in 0..STORM_FILES {
        let (before, after) = (
            directory.join(format!("a{number}")),
            directory.join(format!("b{number}")),
        );
        File::create(&before)?.write_all(b"text")?;
        fs::metadata(&before)?;
        fs::rename(&before, &after)?;
        fs::metadata(&after)?;
    }
    for number in 0..STORM_FILES {
        fs::remove_file(directory.join(format!("b{number}")))?;
    }
    Ok(())
}
