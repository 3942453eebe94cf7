//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `afield` to test: `AFIELD_BIN`, or what cargo builds beside this test (nothing, if it is fresh already).
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("AFIELD_BIN") {
        Some(path) => PathBuf::from(&path)
            .canonicalize()
            .expect("AFIELD_BIN names a program"),
        None => build(),
    })
}

fn build() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    // This test is TARGET/TRIPLE/PROFILE/deps/NAME.
    let test = std::env::current_exe().expect("a test knows its own path");
    let triple = test.ancestors().nth(3).expect("cargo's layout");
    let target = triple.parent().expect("cargo's layout");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(workspace)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "afield",
            "--bin",
            "afield",
            "--target-dir",
        ])
        .arg(target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo could not build afield");
    triple.join("release/afield")
}

/// Puts `file` into `folder` without ever holding it open for writing here: a thread that forks meanwhile would keep it
/// open, and it could not be executed ("text file busy").
pub(crate) fn install(file: &Path, folder: &Path, name: &str) {
    let to = folder.join(name);
    if std::fs::hard_link(file, &to).is_err() {
        let status = Command::new("cp").arg(file).arg(&to).status().expect("cp runs");
        assert!(
            status.success(),
            "cannot copy {} to {}",
            file.display(),
            to.display()
        );
    }
}
