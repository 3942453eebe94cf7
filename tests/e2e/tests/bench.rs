//! `afield bench files`: what it compares with is there, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use afield_e2e::{Arena, Mode, Place, need, skip};
use serde_json::Value;

/// Measures with these options, and expects all floors.
fn compares(name: &str, options: &[&str]) {
    let mode = Mode {
        place: Place::Embedded,
        user: false,
    };
    let tools = [
        "git",
        "fusermount3",
        "setpriv",
        "sshfs",
        "ssh",
        "ssh-keygen",
        "sshd",
    ];
    if !mode.is_wanted(name) || !tools.iter().all(|tool| need(name, tool)) {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        return skip(name, "needs /dev/fuse");
    }
    let mut arena = Arena::new(mode);
    let mut job = arena.afield(&["bench", "--json", "--runs", "1"]);
    job.arguments
        .extend(options.iter().chain(&["status"]).map(Into::into));
    job.timeout = Duration::from_secs(120);
    let outcome = arena.run(&job);
    outcome.expect_exit(0);
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
    let figures: Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let floors = figures[0]["floors"].as_array().expect("an array");
    let what: Vec<_> = floors.iter().map(|floor| floor["what"].as_str()).collect();
    assert_eq!(what, [Some("native"), Some("sshfs")]);
    assert!(
        floors.iter().all(|floor| floor["value"].as_f64() > Some(0.0)),
        "{figures}"
    );
    // No mount, no program, and no directory.
    arena.expect_clean();
}

#[test]
fn files_near() {
    compares("files_near", &[]);
}

#[test]
fn files_far() {
    compares("files_far", &["--delay", "2"]);
}
