//! Small programs of `programs/`, compiled when they are first needed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use crate::product;

/// Compiles `programs/NAME.c` and puts it into `folder`.
pub(crate) fn install(name: &'static str, is_static: bool, folder: &Path) {
    static DONE: LazyLock<Mutex<HashSet<(&str, bool)>>> = LazyLock::new(Mutex::default);
    let cache = cache();
    let file = cache.join(if is_static {
        format!("{name}.static")
    } else {
        name.to_owned()
    });
    let mut done = DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !done.contains(&(name, is_static)) {
        compile(name, is_static, &file);
        done.insert((name, is_static));
    }
    drop(done);
    product::install(&file, folder, name);
}

/// Beside the test itself, for this process alone: two test programs may compile the same source at once.
fn cache() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let family = test.file_name().expect("a name").to_owned();
    let cache = test.with_file_name("afield-e2e-programs").join(family);
    std::fs::create_dir_all(&cache).expect("the target directory is writable");
    cache
}

fn compile(name: &str, is_static: bool, file: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let mut command = Command::new("cc");
    command.args(["-std=gnu17", "-O1", "-pthread", "-o"]);
    command
        .arg(file)
        .arg(sources.join(format!("{name}.c")))
        .arg("-lm");
    if is_static {
        command.arg("-static");
    }
    let output = command.output().expect("cc runs");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "programs/{name}.c does not compile:\n{messages}"
    );
}
