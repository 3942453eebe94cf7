//! What the programs work on, in a directory of its own that is removed when dropped.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directories of the tree, and files in each.
const DIRECTORIES: usize = 20;
const FILES: usize = 100;
/// Functions of the source file.
const FUNCTIONS: usize = 100;

/// The directory.
pub struct Tree {
    place: PathBuf,
}

impl Tree {
    /// Makes a repository, an archive of it, and a source file.
    pub fn new() -> io::Result<Self> {
        let place = std::env::temp_dir().join(format!("afield-bench-files-{}", std::process::id()));
        fs::create_dir(&place)?;
        let tree = Self { place };
        for directory in 0..DIRECTORIES {
            let directory = tree.place.join(format!("tree/d{directory}"));
            fs::create_dir_all(&directory)?;
            for file in 0..FILES {
                let text = format!("{file} of {}\n", directory.display()).repeat(20);
                fs::write(directory.join(format!("f{file}")), text)?;
            }
        }
        let mut source = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
        for function in 0..FUNCTIONS {
            // Writing to a string cannot fail.
            let _ = writeln!(
                source,
                "int f{function}(const char *text) {{ char *copy = strdup(text); int sum = {function};\n\
                 for (size_t i = 0; i < strlen(copy); i++) sum = sum * 31 + copy[i]; free(copy); return sum; }}"
            );
        }
        fs::write(tree.place.join("source.c"), source)?;
        tree.program(&["tar", "-cf", "tree.tar", "tree"])?;
        tree.program(&["git", "-C", "tree", "init", "-q"])?;
        tree.program(&["git", "-C", "tree", "add", "-A"])?;
        tree.program(&[
            "git",
            "-C",
            "tree",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "-qm",
            "x",
        ])?;
        Ok(tree)
    }

    /// Where it is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    fn program(&self, words: &[&str]) -> io::Result<()> {
        let status = Command::new(words[0])
            .args(&words[1..])
            .current_dir(&self.place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("{words:?} ended with {status}"))),
        }
    }

    /// Makes a directory with nothing in it.
    pub fn empty(&self, name: &str) -> io::Result<()> {
        let path = self.place.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(path)
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.place.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a file anew.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        File::create(self.place.join(name))
    }

    /// Makes a file of so many bytes that have never been there.
    pub fn new_data(&self, bytes: u64) -> io::Result<()> {
        let mut file = File::create(self.place.join("data"))?;
        let mut random = File::open("/dev/urandom")?;
        let copied = io::copy(&mut io::Read::take(&mut random, bytes), &mut file)?;
        debug_assert_eq!(copied, bytes);
        file.flush()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // A directory that is left among temporary files does no harm.
        let _ = fs::remove_dir_all(&self.place);
    }
}
