//! `afield explain` and `afield ps`: the round trips of programs that make a known number of them.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Job, Mode, Place, Running, modes};
use serde_json::Value;

modes! {
    by_cause in round_trips_are_counted;
    unknown in others_are_not_explained;
}

/// As the program has it.
const COUNT: u64 = 20;

fn json(arena: &Arena, arguments: &[&str]) -> Value {
    let outcome = arena.run(&arena.afield(arguments));
    outcome.expect_exit(0);
    serde_json::from_slice(&outcome.stdout).expect("JSON")
}

fn explain(arena: &Arena, pid: i32) -> Value {
    json(arena, &["explain", "--json", &pid.to_string()])
}

fn trips(explained: &Value, whose: &str, cause: &str, operation: &str) -> u64 {
    explained[whose]["causes"][cause]["operations"][operation]["trips"]
        .as_u64()
        .unwrap_or(0)
}

/// A job that goes on when it is told.
struct Stepped {
    job: Running,
    go: File,
    last: Value,
}

impl Stepped {
    /// With a node that keeps what it knows of files, or one that does not.
    fn start(arena: &Arena, keeps: bool) -> Self {
        arena.prepare("mkfifo go; for i in $(seq 0 19); do echo $i > old$i; done");
        arena.install_program("trips");
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = arena.prefix();
        job.arguments.push(arena.bin().join("trips").into());
        job.environment
            .push(("AFIELD_FILES_CACHE".into(), keeps.to_string().into()));
        let go = File::options()
            .read(true)
            .write(true)
            .open(arena.work().join("go"));
        let mut job = arena.start(&job);
        job.until_output("ready\n");
        let last = explain(arena, job.pid());
        Self {
            job,
            go: go.expect("just made"),
            last,
        }
    }

    /// Has it do what comes next, and gives how often each of these was counted: `whose cause operation`.
    fn step<const N: usize>(&mut self, arena: &Arena, done: &str, what: [[&str; 3]; N]) -> [u64; N] {
        self.go.write_all(b"x").expect("the FIFO is open");
        self.job.until_output(&format!("{done}\n"));
        let now = explain(arena, self.job.pid());
        let before = std::mem::replace(&mut self.last, now);
        what.map(|[whose, cause, operation]| {
            trips(&self.last, whose, cause, operation) - trips(&before, whose, cause, operation)
        })
    }
}

fn by_cause(mode: Mode) {
    count(mode, false);
    count(mode, true);
}

fn count(mode: Mode, keeps: bool) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    let mut job = Stepped::start(&arena, keeps);
    let made = job.step(&arena, "made", [["process", "change", "mkdir"]]);
    assert_eq!(made, [COUNT]);
    let renamed = job.step(
        &arena,
        "renamed",
        [["process", "change", "rename"], ["all", "change", "rename"]],
    );
    assert_eq!(renamed, [COUNT; 2]);
    assert_eq!(
        job.step(&arena, "called", [["process", "home_call", "getppid"]]),
        [COUNT]
    );
    let lookups = [
        ["process", "miss", "lookup"],
        ["process", "revalidation", "lookup"],
    ];
    let [missed, revalidated] = job.step(&arena, "seen", lookups);
    assert_eq!(revalidated, 0);
    // A node that is far away may have been told of all names in the directory before.
    let is_told = keeps && mode.place == Place::Tcp;
    assert!(missed == COUNT || is_told && missed < COUNT, "{missed}");
    let again = if keeps { 0 } else { COUNT };
    assert_eq!(job.step(&arena, "seen again", lookups), [0, again]);
    let born = job.step(
        &arena,
        "born",
        [
            ["process", "change", "mkdir"],
            ["all", "change", "mkdir"],
            ["process", "home_call", "fork"],
        ],
    );
    assert_eq!(born, [0, COUNT, 1]);
    assert_eq!(job.last["processes"], 2);

    let pid = job.job.pid();
    let listed = json(&arena, &["ps", "--json"]);
    let changes = &job.last["process"]["causes"]["change"]["trips"];
    assert_eq!(&listed[0]["round_trips"]["change"], changes, "{listed:#}");

    let table = arena.run(&arena.afield(&["explain", &pid.to_string()]));
    table.expect_exit(0);
    let table = table.output();
    assert!(
        table.contains("synchronous change") && table.contains("mkdir"),
        "{table}"
    );

    job.go.write_all(b"x").expect("the FIFO is open");
    job.job.wait().expect_exit(0);
    // It can be asked about after its end.
    arena.wait_for_orphans();
    let ended = explain(&arena, pid);
    assert_eq!(
        (&ended["ended"], &ended["process"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert_eq!(trips(&ended, "all", "change", "mkdir"), 2 * COUNT);
    arena.expect_clean();
}

fn unknown(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    for _ in 0..2 {
        let outcome = arena.run(&arena.afield(&["explain", "1"]));
        outcome.expect_exit(125);
        assert!(
            outcome.message().contains("no process 1 is afield"),
            "{}",
            outcome.message()
        );
        // Once without an agent, and once with one.
        arena.run(&arena.afield_script("true")).expect_exit(0);
    }
    arena.expect_clean();
}

mod on_a_long_link {
    use super::*;

    #[test]
    fn tcp() {
        let mode = Mode {
            place: Place::Tcp,
            user: false,
        };
        if mode.is_wanted("on_a_long_link") {
            super::delayed(mode);
        }
    }
}

/// A round trip on a longer link takes so much longer.
fn delayed(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.start_delay(Duration::from_millis(20));
    let mut job = Stepped::start(&arena, true);
    let made = job.step(&arena, "made", [["process", "change", "mkdir"]]);
    assert_eq!(made, [COUNT]);
    let pid = job.job.pid();
    // As soon as one has been measured.
    let deadline = Instant::now() + Duration::from_secs(20);
    let measured = loop {
        match explain(&arena, pid)["rtt_seconds"].as_f64() {
            None => assert!(Instant::now() < deadline, "no round trip is measured"),
            Some(seconds) => break seconds,
        }
    };
    assert!(measured >= 0.04, "{measured} s");
    drop(job.go);
    job.job.wait().expect_exit(1);
    arena.expect_clean();
}
