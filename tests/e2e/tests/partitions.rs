//! Home and node in network namespaces between which nothing gets through any more, and nobody is told.

use std::time::{Duration, Instant};

use afield_e2e::{Arena, Job, Mode, Process, Running, need};
use rustix::process::{Pid, Signal, kill_process};

/// On a node beyond the cable, as root and as an ordinary user.
macro_rules! over_the_cable {
    ($($function:ident in $name:ident;)*) => { $(
        mod $name {
            #[test]
            fn tcp() {
                super::when_wanted(false, super::$function);
            }
            #[test]
            fn tcp_user() {
                super::when_wanted(true, super::$function);
            }
        }
    )* };
}

over_the_cable! {
    heals in guests_do_nothing_until_it_heals;
    lasts in both_sides_give_up_when_it_lasts;
}

fn when_wanted(user: bool, run: fn(Mode)) {
    let mode = Mode {
        place: afield_e2e::Place::Tcp,
        user,
    };
    if mode.is_wanted("partitions") && need("partitions", "python3") {
        run(mode);
    }
}

/// Until what was lost is noticed, on either side; or until it is found again.
const NOTICED_MAX: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// One guest computes, another one counts in a file of home's.
const COUNT: &str = "(while :; do :; done) & busy=$!; trap 'kill $busy; exit 5' TERM; i=0; \
     while :; do i=$((i+1)); echo $i >> counted; done";

/// Guests neither compute nor change anything, and afterwards go on where they were.
fn heals(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.set_grace("60");
    arena.start_node();
    let job = arena.start(&arena.afield_script(COUNT));
    let counted = arena.work().join("counted");
    let until = Instant::now() + NOTICED_MAX;
    while std::fs::metadata(&counted).map_or(0, |file| file.len()) < 100 {
        assert!(Instant::now() < until, "{}", arena.watch().describe());
        std::thread::sleep(SECOND / 100);
    }
    let guests: Vec<_> = arena
        .watch()
        .all()
        .into_iter()
        .filter(Process::is_guest)
        .collect();
    assert_eq!(guests.len(), 2, "{guests:?}");
    let done = || {
        let bytes = std::fs::metadata(&counted).expect("it was there").len();
        (guests[0].ticks(), guests[1].ticks(), bytes)
    };

    arena.set_cable(false);
    let until = Instant::now() + NOTICED_MAX;
    let mut before = done();
    loop {
        std::thread::sleep(SECOND);
        let now = done();
        if now == before {
            break;
        }
        assert!(Instant::now() < until, "guests go on: {before:?}, {now:?}");
        before = now;
    }
    std::thread::sleep(SECOND);
    assert_eq!(done(), before, "guests go on after they were frozen");

    arena.set_cable(true);
    let until = Instant::now() + NOTICED_MAX;
    loop {
        let now = done();
        if now.0 + now.1 > before.0 + before.1 && now.2 > before.2 {
            break;
        }
        assert!(
            Instant::now() < until,
            "guests do not go on: {before:?}, {now:?}\n{}",
            arena.watch().describe()
        );
        std::thread::sleep(SECOND / 100);
    }
    let pid = Pid::from_raw(job.pid()).expect("a child's");
    kill_process(pid, Signal::TERM).expect("it has not been waited for");
    job.wait().expect_exit(5);
    let text = std::fs::read_to_string(&counted).expect("it was there");
    let in_turn = text
        .lines()
        .enumerate()
        .all(|(index, line)| line == (index + 1).to_string());
    assert!(in_turn, "something was lost, or done twice: {text}");
    arena.expect_clean();
}

/// Holds a lock of either kind, and writes the same records to two files, to one after the other.
const HOLD: &str = r#"
import fcntl, os
flocked = open("flocked", "w"); fcntl.flock(flocked, fcntl.LOCK_EX)
recorded = open("recorded", "w"); fcntl.lockf(recorded, fcntl.LOCK_EX)
first, second = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for name in ("first", "second"))
print("ready", flush=True)
while True:
    for file in (first, second): os.write(file, b"x" * 4096)
"#;

/// Says how long the files are when it has the lock.
const WAIT: &str = r#"
import fcntl, os, sys
lock = open(sys.argv[1], "r+"); print("waits", flush=True)
getattr(fcntl, sys.argv[2])(lock, fcntl.LOCK_EX)
print("got", *(os.stat(name).st_size for name in ("first", "second")), flush=True)
"#;

const RECORD_BYTES: u64 = 4096;

/// Somebody at home who waits for a lock.
fn waiter(arena: &Arena, arguments: [&str; 2]) -> Running {
    let mut job = Job::new(Duration::from_secs(60));
    job.arguments = ["python3", "-c", WAIT]
        .iter()
        .chain(&arguments)
        .map(Into::into)
        .collect();
    let mut running = arena.start(&job);
    running.until_output("waits");
    running
}

/// Home and node both say that the session is dead, on their own. Who gets an orphan's lock sees all that was written under it.
fn lasts(mode: Mode) {
    let mut arena = Arena::new(mode);
    let grace = 2 * SECOND;
    arena.set_grace("2");
    arena.start_node();
    let script = format!("exec python3 -c '{HOLD}'");
    let mut job = arena.start(&arena.afield_script(&script));
    job.until_output("ready");
    let waiters = [["flocked", "flock"], ["recorded", "lockf"]].map(|lock| waiter(&arena, lock));
    let sizes = || {
        ["first", "second"].map(|name| {
            std::fs::metadata(arena.work().join(name))
                .expect("made before")
                .len()
        })
    };

    arena.set_cable(false);
    let began = Instant::now();
    let said = waiters.map(|mut waiter| {
        waiter.until_output("got");
        assert!(
            began.elapsed() >= grace,
            "a lock was given away before the grace time was over"
        );
        let outcome = waiter.wait();
        outcome.expect_exit(0);
        outcome.output()
    });
    let outcome = job.wait();
    outcome.expect_exit(125);
    let message = outcome.message();
    assert!(message.contains("is gone: no connection for 2 s: "), "{message}");
    let node = arena.node_pid();
    let left = arena.watch().until_none(NOTICED_MAX, |process| {
        process.is_guest() || process.is_init() || Some(process.parent) == node
    });
    assert!(left.is_empty(), "left on the node: {left:?}");

    arena.set_cable(true);
    arena.run(&arena.afield_script("exit 7")).expect_exit(7);
    let [first, second] = sizes();
    for said in said {
        assert!(
            said.ends_with(&format!("got {first} {second}\n")),
            "{said}, and in the end {first} {second}"
        );
    }
    assert!(first % RECORD_BYTES == 0 && (first == second || first == second + RECORD_BYTES));
    arena.expect_clean();
}
