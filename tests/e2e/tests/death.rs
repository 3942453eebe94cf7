//! Killing any part at any moment leaves nothing behind, and the survivors say what happened.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use afield_e2e::samples::PROJECT;
use afield_e2e::{Arena, Ended, Mode, Process, Random, modes, need};

modes! {
    fifty_kills in kills_at_random;
    as_they_begin in guest_killed_as_it_begins;
    newcomers in jobs_in_a_dying_world;
    words in session_killed_under_children;
    stops in agent_stopped_after_a_job;
    starts in job_killed_while_it_starts;
    changes in session_killed_while_files_change;
}

/// Of a file that is read again and again.
const FILE_BYTES: u64 = 4 << 20;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Deputy,
    Guest,
    Init,
    Agent,
    Node,
    Session,
    /// Sees to the world's end when the session is gone.
    Stage,
}

const PARTS: [Part; 7] = [
    Part::Deputy,
    Part::Guest,
    Part::Init,
    Part::Agent,
    Part::Node,
    Part::Session,
    Part::Stage,
];

impl Part {
    fn of(process: &Process, job: i32) -> Option<Self> {
        if process.is_init() {
            Some(Self::Init)
        } else if process.is_guest() {
            Some(Self::Guest)
        } else if !process.is_afield() {
            None
        } else if process.comm == "afield-stage" {
            Some(Self::Stage)
        } else if process.session == job {
            Some(Self::Deputy)
        } else if process.command_line.contains(" agent") {
            Some(Self::Agent)
        } else if process.command_line.contains(" --listen") && process.parent == std::process::id() as i32 {
            Some(Self::Node)
        } else {
            Some(Self::Session)
        }
    }
}

/// Kills a part that is there, or waits until it is.
fn kill_part(arena: &Arena, part: Part, job: i32) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = arena.watch().all();
        if let Some(victim) = processes
            .iter()
            .find(|process| Part::of(process, job) == Some(part))
        {
            return victim.kill();
        }
        assert!(Instant::now() < until, "no {part:?}: {processes:?}");
    }
}

/// A job that comes while its world dies gets another.
fn newcomers(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    for round in 0..20 {
        arena.run(&arena.afield_script("exit 3")).expect_exit(3);
        kill_part(&arena, if round % 2 == 0 { Part::Init } else { Part::Session }, 0);
        let again = arena.run(&arena.afield_script("exit 9"));
        assert_eq!(again.ended, Ended::Exit(9), "round {round}: {}", again.message());
    }
    arena.expect_clean();
}

/// It is the node that is gone, also to a deputy which hears of its children's end first.
fn words(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    for round in 0..20 {
        let mut job = arena
            .start(&arena.afield_script("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo ready; wait"));
        job.until_output("ready");
        kill_part(&arena, Part::Session, job.pid());
        let outcome = job.wait();
        outcome.expect_exit(125);
        assert!(
            outcome.message().contains("is gone: "),
            "round {round}: {}",
            outcome.message()
        );
    }
    arena.expect_clean();
}

/// What a session keeps of files is being taken from its kernel, which may wait for the guests that read them: it ends all the same.
fn changes(mode: Mode) {
    let mut random = Random::seeded(&format!("changes {mode:?}"));
    let mut arena = Arena::new(mode);
    arena.start_node();
    let file = arena.work().join("file");
    std::fs::write(&file, vec![1; FILE_BYTES as usize]).expect("there is room");
    for round in 0..12 {
        let mut job = arena.start(&arena.afield_script(
            "look() { while :; do cat file > /dev/null; done; }; cat file | wc -c; look & look",
        ));
        job.until_output(&format!("{FILE_BYTES}\n"));
        let until = Instant::now() + Duration::from_micros(100_000 + random.below(200_000));
        while Instant::now() < until {
            let open = std::fs::File::options().write(true).open(&file);
            let written = open.and_then(|open| open.write_at(b"x", random.below(FILE_BYTES)));
            assert!(written.is_ok(), "{written:?}");
            std::thread::sleep(Duration::from_micros(random.below(1000)));
        }
        kill_part(&arena, Part::Session, job.pid());
        let outcome = job.wait();
        assert_eq!(
            outcome.ended,
            Ended::Exit(125),
            "round {round}: {}",
            outcome.message()
        );
    }
    arena.expect_clean();
}

/// A process that is about to end does not keep the agent from being stopped.
fn stops(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    for _ in 0..20 {
        arena
            .run(&arena.afield_script("sleep 0 & (sleep 0; sleep 0); exit 4"))
            .expect_exit(4);
        arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
        assert!(arena.agent().is_none());
    }
    arena.expect_clean();
}

/// A deputy that is killed before its guest is there, while the world is being made, takes it along all the same.
fn starts(mode: Mode) {
    let mut random = Random::seeded(&format!("starts {mode:?}"));
    let mut arena = Arena::new(mode);
    arena.start_node();
    for round in 0..20 {
        let job = arena.start(&arena.afield_script("exec sleep 1000"));
        let until = Instant::now() + Duration::from_micros(random.below(40_000));
        while Instant::now() < until {
            std::thread::yield_now();
        }
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(job.pid()).expect("a child's"),
            rustix::process::Signal::KILL,
        )
        .expect("it has not been waited for");
        job.wait();
        // Where it came too late to be of use, this one comes after it.
        let next = arena.run(&arena.afield_script("exit 3"));
        assert_eq!(next.ended, Ended::Exit(3), "round {round}: {}", next.message());
        let left = arena
            .watch()
            .until_none(Duration::from_secs(20), Process::is_guest);
        assert!(left.is_empty(), "round {round}: {left:?}");
        arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
    }
    arena.expect_clean();
}

/// A guest that is killed before it is one, while it is being prepared or executes its program, is no job that nobody hears of.
fn as_they_begin(mode: Mode) {
    let mut random = Random::seeded(&format!("as_they_begin {mode:?}"));
    let mut arena = Arena::new(mode);
    arena.start_node();
    let mut hits = [0; 2];
    for round in 0..40 {
        let job = arena.start(&arena.afield_script("exec sleep 1000"));
        let pid = job.pid();
        let until = Instant::now() + Duration::from_secs(20);
        let guest = loop {
            let all = arena.watch().all();
            if let Some(guest) = all.into_iter().find(|process| process.inner_pid == Some(pid)) {
                break guest;
            }
            assert!(Instant::now() < until, "round {round}: no guest");
        };
        let moment = Duration::from_micros(random.below(8_000));
        let until = Instant::now() + moment;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        guest.kill();
        let outcome = job.wait();
        let what = format!(
            "round {round}, after {moment:?}: {}\n{}",
            outcome.ended,
            outcome.message()
        );
        assert!(
            outcome.trouble.is_empty(),
            "{what}\n{}",
            outcome.trouble.join("\n")
        );
        let was_guest = match outcome.ended {
            Ended::Signal { number: 9, .. } => true,
            Ended::Exit(125) => {
                assert!(outcome.message().contains("afield: "), "{what}");
                false
            }
            _ => panic!("{what}"),
        };
        hits[usize::from(was_guest)] += 1;
    }
    println!("before they were guests, and as guests: {hits:?}");
    arena.expect_clean();
}

fn fifty_kills(mode: Mode) {
    if !need("fifty_kills", "make") || !need("fifty_kills", "cc") {
        return;
    }
    let name = format!("fifty_kills {mode:?}");
    let mut random = Random::seeded(&name);
    let mut hits = std::collections::BTreeMap::new();
    for round in 0..50 {
        let part = one_kill(mode, &mut random, round);
        *hits.entry(format!("{part:?}")).or_insert(0) += 1;
    }
    println!("{name}: {hits:?}");
}

fn one_kill(mode: Mode, random: &mut Random, round: usize) -> Option<Part> {
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.prepare(PROJECT);
    // A compiler that is killed leaves its own temporary files; those are not what is looked for.
    let job = arena.start(&arena.afield_script("export TMPDIR=$PWD/p; exec make -s -j2 -C p"));
    let job_pid = job.pid();
    // The moment is what is random here; nothing is waited for.
    let moment = Duration::from_micros(random.below(700_000));
    let until = Instant::now() + moment;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let processes = arena.watch().all();
    let of_part = |part: Part| -> Vec<&Process> {
        processes
            .iter()
            .filter(|process| Part::of(process, job_pid) == Some(part))
            .collect()
    };
    let parts: Vec<Part> = PARTS
        .into_iter()
        .filter(|part| !of_part(*part).is_empty())
        .collect();
    let part = random.choose(&parts).copied();
    let victim = part.and_then(|part| random.choose(&of_part(part)).map(|process| (*process).clone()));
    if let Some(victim) = &victim {
        victim.kill();
    }
    let what = format!("round {round}: {part:?} killed after {moment:?}: {victim:?}");

    let outcome = job.wait();
    assert!(
        outcome.trouble.is_empty(),
        "{what}\n{}\n{}",
        outcome.message(),
        outcome.trouble.join("\n")
    );
    let is_done = outcome.ended == Ended::Exit(0);
    let killed = Ended::Signal {
        number: 9,
        core: false,
    };
    let is_root = victim
        .as_ref()
        .is_some_and(|victim| victim.pid == job_pid || victim.inner_pid == Some(job_pid));
    let is_expected = match part {
        // Before it has executed its program, a guest is not the job yet: afield says that it could not be started.
        Some(Part::Guest) if is_root && outcome.ended == Ended::Exit(125) => {
            outcome.message().contains("afield: ")
        }
        Some(Part::Deputy | Part::Guest) if is_root => outcome.ended == killed,
        // A compiler, say: then make fails.
        Some(Part::Deputy | Part::Guest) => matches!(outcome.ended, Ended::Exit(_)),
        Some(Part::Init) => outcome.ended == killed || outcome.ended == Ended::Exit(125),
        Some(Part::Agent | Part::Node | Part::Session) => {
            outcome.ended == Ended::Exit(125) && outcome.message().contains("afield: ")
        }
        // Nobody needs it before the session has ended.
        Some(Part::Stage) => false,
        None => true,
    };
    let message = outcome.message();
    assert!(is_expected || is_done, "{what}\n{}\n{message}", outcome.ended);

    // Whoever survived can be used again.
    if part != Some(Part::Node) {
        let again = arena.run(&arena.afield_script("exit 9"));
        assert_eq!(
            again.ended,
            Ended::Exit(9),
            "{what}, and then: {}\n{}",
            again.message(),
            again.trouble.join("\n")
        );
    }
    // What make had started when it was killed comes to its own end, as natively.
    arena.wait_for_orphans();
    let left = arena.finish();
    assert!(left.is_empty(), "{what}\n{}", left.join("\n"));
    part
}
