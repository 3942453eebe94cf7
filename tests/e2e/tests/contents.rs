//! What a node keeps of homes' files: a later session need not fetch it again, and nothing wrong ever comes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use afield_e2e::{Arena, Job, Mode, Place, need, skip};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Each test on a node beyond the cable, as root and as an ordinary user.
macro_rules! over_the_cable {
    ($($name:ident)*) => { $(
        mod $name {
            #[test]
            fn tcp() {
                super::with_file(stringify!($name), false, super::$name);
            }
            #[test]
            fn tcp_user() {
                super::with_file(stringify!($name), true, super::$name);
            }
        }
    )* };
}

over_the_cable! { ahead warm system tampered other_home bounded none full changed }

/// Bytes of the file that is read.
const FILE_BYTES: u64 = 3_000_000;

/// What everything else in a session takes, at most.
const REST_BYTES: u64 = 400_000;

fn with_file(test: &str, user: bool, run: fn(&mut Arena, &str)) {
    let mode = Mode {
        place: Place::Tcp,
        user,
    };
    if !mode.is_wanted(test) {
        return;
    }
    let mut arena = Arena::new(mode);
    // Where a store to a mapping does not show, no hashes are remembered.
    let kind = Command::new("stat")
        .args(["-f", "-c", "%t"])
        .arg(arena.work())
        .output();
    let kind = String::from_utf8(kind.expect("stat runs").stdout).expect("a number");
    if !["ef53", "58465342", "9123683e", "f2f52010", "ca451a4e"].contains(&kind.trim()) {
        return skip(test, "the temporary directory's file system");
    }
    arena.prepare(&format!(
        "head -c {FILE_BYTES} /dev/urandom > data; md5sum < data > sum"
    ));
    let sum = fs::read_to_string(arena.work().join("sum")).expect("just written");
    run(&mut arena, &sum);
    arena.expect_clean();
}

/// Reads the file in a session of its own, and says how many bytes have come to the node.
#[track_caller]
fn read(arena: &Arena, sum: &str) -> u64 {
    read_as(arena, sum, &[])
}

#[track_caller]
fn read_as(arena: &Arena, sum: &str, environment: &[(&str, &Path)]) -> u64 {
    let at_home = |mut job: Job| {
        let own = environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        job.environment.extend(own);
        arena.run(&job)
    };
    let outcome = at_home(script(arena, "md5sum < data; md5sum < data"));
    outcome.expect_exit(0);
    assert_eq!(outcome.output(), format!("{sum}{sum}"), "{}", outcome.message());
    let listed = at_home(arena.afield(&["ps", "--links", "--json"])).output();
    at_home(arena.afield(&["agent", "stop"])).expect_exit(0);
    let count = |line: &str| -> Option<u64> {
        line.trim()
            .trim_end_matches(',')
            .strip_prefix("\"bytes_out\": ")?
            .parse()
            .ok()
    };
    listed.lines().find_map(count).expect("one link")
}

/// A script on the node, which may keep what it knows of files.
fn script(arena: &Arena, script: &str) -> Job {
    let mut job = arena.afield_script(script);
    job.environment.push(("AFIELD_FILES_CACHE".into(), "true".into()));
    job
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// The pieces that the node has kept.
fn pieces(arena: &Arena) -> Vec<PathBuf> {
    let mut files = files(&arena.node_cache());
    files.retain(|path| !path.ends_with("total"));
    files
}

/// Once the session has ended, what it was about to keep is kept or will not be.
#[track_caller]
fn settled(arena: &Arena) {
    let node = arena.node_pid();
    let is_session = |process: &afield_e2e::Process| Some(process.parent) == node;
    let left = arena
        .watch()
        .until_none(std::time::Duration::from_secs(10), is_session);
    assert!(left.is_empty(), "{left:?}");
}

/// Who reads a file from its beginning to its end waits for home a few times, not for each part.
fn ahead(arena: &mut Arena, sum: &str) {
    arena.start_node();
    let mut job = arena.start(&script(arena, "md5sum < data; exec sleep 1000"));
    job.until_output(sum);
    let pid = job.pid().to_string();
    let explained = arena.run(&arena.afield(&["explain", "--json", &pid]));
    let explained: Value = serde_json::from_slice(&explained.stdout).expect("JSON");
    let reads = explained["all"]["causes"]["miss"]["operations"]["read"]["trips"].as_u64();
    // The kernel asks for 128 KiB at a time: that would be 23 for this file alone, beside those of the programs.
    let programs = fs::metadata("/bin/sh").expect("it is there").len() / (128 << 10);
    assert!(reads.is_some_and(|reads| reads < 10 + programs), "{explained:#}");
    kill_process(Pid::from_raw(job.pid()).expect("a child's"), Signal::TERM).expect("it lives");
    job.wait();
}

/// The second session has it from the disk, and so has one of a node that was started anew.
fn warm(arena: &mut Arena, sum: &str) {
    arena.start_node();
    let cold = read(arena, sum);
    assert!(cold > FILE_BYTES, "{cold}");
    settled(arena);
    let warm = read(arena, sum);
    assert!(warm < REST_BYTES, "{warm} bytes after {cold}");
    settled(arena);
    arena.restart_node();
    let again = read(arena, sum);
    assert!(again < REST_BYTES, "{again} bytes after {cold}");
}

/// Home is the same machine here: what is in `/usr` is not fetched at all, nor kept.
fn system(arena: &mut Arena, _: &str) {
    if !need("system", "perl") {
        return;
    }
    let program = fs::canonicalize("/usr/bin/perl").expect("it is there");
    let bytes = fs::metadata(&program).expect("it is there").len();
    arena.prepare(
        &format!("md5sum < {0} > sum; ln -s {0} data", program.display())
            .replace("> sum; ln", "> sum; ln -f"),
    );
    let sum = fs::read_to_string(arena.work().join("sum")).expect("just written");
    arena.start_node();
    let cold = read(arena, &sum);
    assert!(
        bytes > REST_BYTES && cold < REST_BYTES,
        "{cold} bytes for {bytes}"
    );
}

/// Every piece on the disk is damaged in some way: all are fetched again, and kept again.
fn tampered(arena: &mut Arena, sum: &str) {
    arena.start_node();
    read(arena, sum);
    settled(arena);
    let kept = pieces(arena);
    assert!(kept.len() as u64 >= FILE_BYTES / 65536, "{}", kept.len());
    for (number, path) in kept.iter().enumerate() {
        let mut piece = fs::read(path).expect("the test may");
        match number % 3 {
            0 => piece.truncate(number),
            1 => piece[0] ^= 1,
            _ => piece.extend_from_slice(b"more"),
        }
        fs::write(path, piece).expect("the test may");
    }
    let again = read(arena, sum);
    assert!(again > FILE_BYTES, "{again}");
    settled(arena);
    let warm = read(arena, sum);
    assert!(warm < REST_BYTES, "{warm}");
}

/// A home with another key has nothing of what the first has sent, and the other way round.
fn other_home(arena: &mut Arena, sum: &str) {
    arena.start_node();
    let config = arena.work().join("other-config");
    arena.make_folder(&config);
    arena.make_folder(&config.join("afield"));
    let trusted = fs::read(arena.config().join("afield/trusted_nodes")).expect("the node was started");
    fs::write(config.join("afield/trusted_nodes"), trusted).expect("the folder is ours");
    let other = [("XDG_CONFIG_HOME", config.as_path())];
    let mut key = arena.afield(&[]);
    key.environment
        .push(("XDG_CONFIG_HOME".into(), config.clone().into()));
    let keys = [arena.fingerprint(arena.afield(&[])), arena.fingerprint(key)];
    assert_ne!(keys[0], keys[1]);
    arena.admit(&format!("{}\n{}\n", keys[0], keys[1]));
    read(arena, sum);
    settled(arena);
    let first = read_as(arena, sum, &other);
    assert!(
        first > FILE_BYTES,
        "{first} bytes came of what another home has sent"
    );
    settled(arena);
    let second = read_as(arena, sum, &other);
    assert!(second < REST_BYTES, "{second}");
}

/// No more is kept than may be, and what is read is right all the same.
fn bounded(arena: &mut Arena, sum: &str) {
    arena.configure_node("[contents]\nbytes_max = 1000000\n");
    arena.start_node();
    for _ in 0..2 {
        read(arena, sum);
        settled(arena);
        let kept = pieces(arena);
        let bytes: u64 = kept
            .iter()
            .map(|path| fs::metadata(path).expect("just listed").len())
            .sum();
        assert!((500_000..=1_000_000).contains(&bytes), "{bytes}");
    }
}

/// Nothing is kept if nothing may be.
fn none(arena: &mut Arena, sum: &str) {
    arena.configure_node("[contents]\nbytes_max = 0\n");
    arena.start_node();
    for _ in 0..2 {
        let bytes = read(arena, sum);
        assert!(bytes > FILE_BYTES, "{bytes}");
    }
    assert_eq!(pieces(arena), [""; 0].map(PathBuf::from));
}

/// The disk has less room than what may be kept.
fn full(arena: &mut Arena, sum: &str) {
    let folder = arena.node_cache();
    fs::create_dir_all(&folder).expect("the test may");
    let mount = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let owner = fs::metadata(arena.work()).map(|status| std::os::unix::fs::MetadataExt::uid(&status));
    let options = format!("size=1M,mode=700,uid={}", owner.expect("it is there"));
    if !mount(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&folder),
    ) {
        return skip("full", "the right to mount");
    }
    arena.start_node();
    for _ in 0..2 {
        let bytes = read(arena, sum);
        assert!(bytes > FILE_BYTES - (1 << 20), "{bytes}");
        settled(arena);
    }
    assert!(!pieces(arena).is_empty());
    arena.stop_node();
    assert!(mount(Command::new("umount").arg(&folder)));
}

/// Whoever changes the file, and whether or not its size and times show it: what is read is what is there.
fn changed(arena: &mut Arena, sum: &str) {
    arena.start_node();
    read(arena, sum);
    settled(arena);
    let data = arena.work().join("data");
    // Between sessions.
    arena.prepare("touch -r data times; printf other | dd of=data bs=1 seek=100000 conv=notrunc status=none; touch -r times data; md5sum < data > sum");
    let other = fs::read_to_string(arena.work().join("sum")).expect("just written");
    assert_ne!(sum, other);
    read(arena, &other);
    settled(arena);
    // While a session reads it: by home, and by the guest itself, which also maps it.
    let words = "md5sum < data; printf a | dd of=data bs=1 seek=5 conv=notrunc status=none; md5sum < data; \
                  echo now; read line; md5sum < data; truncate -s 2999999 data; md5sum < data; cat data data | md5sum";
    let mut job = script(arena, words);
    job.stdin = afield_e2e::Stdin::Pipe(b"go\n".to_vec());
    let mut native = arena.afield(&[]);
    native.arguments = vec!["sh".into(), "-c".into(), words.into()];
    native.stdin = job.stdin.clone();
    let before = fs::read(&data).expect("it is there");
    let afield = arena.run(&job).output();
    fs::write(&data, &before).expect("the test may");
    assert_eq!(afield, arena.run(&native).output());
    fs::write(&data, &before).expect("the test may");
    read(arena, &other);
}
