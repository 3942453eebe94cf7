//! A small C project to build: what a compile farm does all day.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Source files of the project.
const FILES: usize = 12;
/// Functions in each.
const FUNCTIONS: usize = 60;

/// A project in a directory of its own, removed when dropped.
#[derive(Debug)]
pub struct Project {
    directory: PathBuf,
}

impl Project {
    /// Writes the project to a new directory for temporary files.
    pub fn new() -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("afield-bench-project-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let project = Self { directory };
        let mut objects = String::new();
        for file in 0..FILES {
            let mut source = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
            for function in 0..FUNCTIONS {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    source,
                    "int f{file}_{function}(const char *text, int n) {{ char *copy = strdup(text); int sum = {function};\n\
                     for (int i = 0; i < n; i++) sum = sum * 31 + copy[i % (strlen(copy) + 1)]; free(copy); return sum; }}"
                );
            }
            fs::write(project.directory.join(format!("part{file}.c")), source)?;
            let _ = write!(objects, " part{file}.o");
        }
        fs::write(project.directory.join("main.c"), "int main(void) { return 0; }\n")?;
        fs::write(
            project.directory.join("Makefile"),
            format!(
                "CFLAGS = -O2\nprogram: main.o{objects}\n\t$(CC) -o $@ $^\nclean:\n\trm -f program *.o\n"
            ),
        )?;
        Ok(project)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes what has been built.
    pub fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "o") || path.ends_with("program") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // A directory that is left among temporary files does no harm.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
