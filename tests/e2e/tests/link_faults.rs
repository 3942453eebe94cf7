//! Connections between home and node that are cut, stall, stay half-open, or are tampered with, while home's address changes: what runs afield
//! shows nothing of it but pauses. When there is no way any more, both ends say so, and nothing is left.

use std::time::{Duration, Instant};

use afield_e2e::samples::PROJECT;
use afield_e2e::{Arena, Case, Ended, Mode, Pair, Place, Process, Session, check_with, need};

const CUTS: &[&str] = &["cut"];
const DAMAGED: &[&str] = &["damage"];
const ALL: &[&str] = &["cut", "stall", "hole"];

/// Between home and node, for as root and as an ordinary user.
macro_rules! over_a_bad_link {
    ($($name:ident)*) => { $(
        mod $name {
            #[test]
            fn tcp() {
                super::with_tools(stringify!($name), false, super::$name);
            }
            #[test]
            fn tcp_user() {
                super::with_tools(stringify!($name), true, super::$name);
            }
        }
    )* };
}

over_a_bad_link! { build build_stalled sqlite session transfer tampered deaf mute silent frozen grace_over refused_after }

fn with_tools(test: &str, user: bool, run: fn(Mode)) {
    let mode = Mode {
        place: Place::Tcp,
        user,
    };
    if mode.is_wanted(test) && need(test, "python3") {
        run(mode);
    }
}

fn disturb(faults: &'static [&'static str]) -> impl FnOnce(&mut Arena) {
    move |arena| {
        arena.set_grace("60");
        arena.start_relay(faults);
    }
}

/// Nothing is shown by a link that was never lost.
fn resumed(arena: &Arena) -> Vec<String> {
    let listed = arena.run(&arena.afield(&["ps", "--links", "--json"]));
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let count = |line: &str| -> Option<u64> {
        line.trim()
            .trim_end_matches(',')
            .strip_prefix("\"resumes\": ")?
            .parse()
            .ok()
    };
    match text.lines().find_map(count) {
        Some(1..) => Vec::new(),
        _ => vec![format!("no connection was replaced: {text}")],
    }
}

fn check(name: &str, case: Case, mode: Mode, faults: &'static [&'static str]) {
    check_with(name, &case, mode, disturb(faults), resumed);
}

/// A parallel build: forks, executions, small files, pipes of the jobserver.
fn build(mode: Mode) {
    let case = Case::guest(
        "export TMPDIR=$PWD/p; make -s -j2 -C p; echo $?; p/program; make -C p; md5sum p/program; rm -rf p",
    )
    .setup(PROJECT)
    .tools(&["make", "cc"])
    .seconds(240);
    check("build", case, mode, CUTS);
}

fn build_stalled(mode: Mode) {
    let case = Case::guest("export TMPDIR=$PWD/p; make -s -j2 -C p; echo $?; p/program; rm -rf p")
        .setup(PROJECT)
        .tools(&["make", "cc"])
        .seconds(240);
    check("build_stalled", case, mode, ALL);
}

/// A database: locks, ordered writes, synchronous ones.
fn sqlite(mode: Mode) {
    let case = Case::guest(
        "sqlite3 d 'create table t(a integer primary key, b text); create index i on t(b);'; \
         for i in $(seq 1 60); do echo \"insert into t(b) values('row $i'); update t set b = b || ' again' where a % 7 = $i % 7;\"; done | sqlite3 d; \
         sqlite3 d 'select count(*), sum(a), max(length(b)) from t; pragma integrity_check'; sqlite3 d .dump | md5sum; rm d",
    )
    .tools(&["sqlite3"])
    .seconds(240);
    check("sqlite", case, mode, ALL);
}

/// Much data both ways, each byte once.
fn transfer(mode: Mode) {
    let case = Case::guest(
        "seq 1 3000000 > numbers; md5sum numbers; sort -rn numbers | md5sum; tr 0-9 a-j < numbers | gzip -n | md5sum; cat numbers - | wc -c; rm numbers",
    )
    .stdin((0..3_000_000u32).map(|number| number as u8).collect::<Vec<_>>())
    .seconds(240);
    check("transfer", case, mode, CUTS);
}

/// Somebody on the way plays bytes again, or changes them: it costs the connection, and no more.
fn tampered(mode: Mode) {
    let case = Case::guest(
        "for i in 1 2 3 4 5 6 7 8; do seq $i 300000 > numbers; md5sum numbers; sort -rn numbers | md5sum; done; rm numbers",
    )
    .seconds(120);
    check("tampered", case, mode, DAMAGED);
}

/// Nothing reaches the node any more on a connection that still brings home what the node says.
fn deaf(mode: Mode) {
    half_open("deaf", mode, &["deaf"]);
}

/// The other way round.
fn mute(mode: Mode) {
    half_open("mute", mode, &["mute"]);
}

/// As behind an address translator that has forgotten the connection.
fn silent(mode: Mode) {
    half_open("silent", mode, &["silent"]);
}

/// It is noticed although nobody has anything to say, and although somebody has.
fn half_open(name: &str, mode: Mode, faults: &'static [&'static str]) {
    let script =
        "echo begun; sleep 3; echo slept; for i in 1 2 3 4 5; do echo $i >> f; sleep 2; done; cat f; rm f";
    check(
        &format!("{name}_idle"),
        Case::guest(script).seconds(120),
        mode,
        faults,
    );
    let script = "for i in $(seq 12); do echo $i >> f; seq $i 20000 | md5sum; sleep 0.2; done; cat f; rm f";
    check(
        &format!("{name}_busy"),
        Case::guest(script).seconds(120),
        mode,
        faults,
    );
}

/// An interactive shell with its jobs.
fn session(mode: Mode) {
    let Some(pair) = Pair::open_with(mode, "session", &Session::bash(), &["bash"], disturb(CUTS)) else {
        return;
    };
    for round in 0..6 {
        pair.line(
            &format!("echo round $(({round}+10))"),
            &format!("round {}", round + 10),
        );
        pair.line("cat", "$ cat");
        pair.keys("some text\r");
        pair.until("some text\nsome text");
        pair.keys("\x1a");
        pair.until("Stopped                 cat\n$");
        pair.line("fg", "fg\ncat");
        pair.keys("\x04");
        // What is waited for must not be on the screen yet.
        pair.line(
            &format!("clear; echo status $? of $(({round}+20))"),
            &format!("status 0 of {}\n$", round + 20),
        );
    }
    pair.line("exit 7", "exit");
    assert_eq!(pair.end(), Ended::Exit(7));
}

/// While the link is down a guest does not compute; when it is back, it goes on.
fn frozen(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.set_grace("60");
    arena.start_node();
    arena.start_relay(&[]);
    let mut job = arena.start(&arena.afield_script("trap 'exit 5' TERM; echo ready; while :; do :; done"));
    job.until_output("ready");
    let guests = arena.watch().all().into_iter().filter(Process::is_guest);
    let [guest] = &guests.collect::<Vec<_>>()[..] else {
        panic!("one guest was expected: {:?}", arena.watch().all());
    };
    arena.stop_relay();
    let second = Duration::from_secs(1);
    let until = Instant::now() + 20 * second;
    loop {
        let before = guest.ticks();
        std::thread::sleep(second);
        if guest.ticks() == before {
            break;
        }
        assert!(Instant::now() < until, "the guest goes on computing");
    }
    arena.start_relay(&[]);
    let before = guest.ticks();
    let until = Instant::now() + 20 * second;
    while guest.ticks() == before {
        assert!(Instant::now() < until, "the guest does not go on");
        std::thread::sleep(second / 10);
    }
    assert_eq!(resumed(&arena), [""; 0]);
    let pid = rustix::process::Pid::from_raw(job.pid()).expect("a child's");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it has not been waited for");
    job.wait().expect_exit(5);
    arena.expect_clean();
}

/// The way to the node is gone for good: home says so when the grace time is over, and so does the node, which
/// leaves nothing.
fn grace_over(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.set_grace("3");
    arena.start_node();
    arena.start_relay(&[]);
    let mut job = arena.start(&arena.afield_script("echo ready; while :; do :; done"));
    job.until_output("ready");
    let began = Instant::now();
    arena.stop_relay();
    let outcome = job.wait();
    outcome.expect_exit(125);
    let message = outcome.message();
    assert!(
        message.contains("is gone: no connection for 3 s: cannot reach node"),
        "{message}"
    );
    assert!(began.elapsed() >= Duration::from_secs(3));
    let node = arena.node_pid();
    let left = arena.watch().until_none(Duration::from_secs(5), |process| {
        process.is_guest() || process.is_init() || Some(process.parent) == node
    });
    assert!(left.is_empty(), "left on the node: {left:?}");
    arena.expect_clean();
}

/// The node's daemon is another one when home comes back: it does not know the session, and home is told so at once.
fn refused_after(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.set_grace("60");
    arena.start_node();
    arena.start_relay(&[]);
    let mut job = arena.start(&arena.afield_script("echo ready; exec sleep 1000"));
    job.until_output("ready");
    let began = Instant::now();
    arena.restart_node();
    let outcome = job.wait();
    outcome.expect_exit(125);
    assert!(
        outcome.message().contains("is gone: its session has ended"),
        "{}",
        outcome.message()
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    arena.expect_clean();
}
