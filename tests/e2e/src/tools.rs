//! What a case needs of the machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where programs are looked for, by the suite and by all that it runs.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Whether `tool` is there; if not, the test is skipped, which fails it under `CI=true`.
pub fn need(test: &str, tool: &str) -> bool {
    let found = find(tool).is_some();
    if !found {
        skip(test, &format!("needs {tool}, which is not installed"));
    }
    found
}

/// Says that a test does not run here. Fails it under `CI=true`.
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{test} cannot run: {reason}"
    );
    // Not `eprintln`, which libtest swallows for tests that pass.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
}

/// The path of a program, or of a file when its name holds a slash.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    if tool.contains('/') {
        return Path::new(tool).exists().then(|| tool.into());
    }
    PATH.split(':')
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.is_file())
}
