//! What nobody at home is responsible for any more ends.

use std::io::Write as _;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Ended, Job, Mode, Process, modes};
use rustix::process::{Pid, Signal, kill_process};

modes! {
    reincarnation in a_new_agent_ends_what_the_old_one_has_left;
    farewell in an_agent_that_is_stopped_tells_its_node;
}

fn session_of(arena: &Arena, job: i32) -> Process {
    let is_session = |process: &Process| {
        process.is_afield()
            && !process.is_init()
            && !process.is_guest()
            && process.session != job
            && !process.command_line.contains(" agent")
            && process.parent != std::process::id() as i32
    };
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(session) = arena.watch().all().into_iter().find(is_session) {
            return session;
        }
        assert!(Instant::now() < until, "no session");
    }
}

/// The agent is killed while the session's process is stopped, so that it does not notice. The next agent's first job finds a node on
/// which nothing of the old one is left.
fn reincarnation(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    for round in 0..5 {
        let mut job = arena.start(&arena.afield_script("echo ready; exec sleep 1000"));
        job.until_output("ready");
        let session = session_of(&arena, job.pid());
        kill_process(Pid::from_raw(session.pid).unwrap(), Signal::STOP).unwrap();
        arena.agent().expect("an agent").kill();
        // What is left behind is what this is about.
        assert_eq!(job.wait().ended, Ended::Exit(125));
        arena.run(&arena.afield_script("exit 7")).expect_exit(7);
        let left = arena.watch().all();
        let same = |process: &&Process| process.pid == session.pid && process.is_afield();
        assert!(left.iter().find(same).is_none(), "round {round}: {left:?}");
    }
    arena.expect_clean();
}

/// Another home beside the arena's, with a key of its own.
struct Neighbour<'a> {
    arena: &'a Arena,
}

impl<'a> Neighbour<'a> {
    /// One that the node admits as well.
    fn new(arena: &'a Arena) -> Self {
        for folder in ["neighbour", "neighbour/run"] {
            arena.make_folder(&arena.work().join(folder));
        }
        let neighbour = Self { arena };
        if arena.node_pid().is_some() {
            let homes = [arena.afield(&[]), neighbour.own(arena.afield(&[]))];
            let [first, second] = homes.map(|key| arena.fingerprint(key));
            arena.admit(&format!("{first}\n{second}\n"));
            let node = arena.fingerprint(arena.afield_at_node(&[]));
            let address = arena.node_address();
            let trust = arena.afield(&["trust", "add", "there", &address, &node]);
            arena.run(&neighbour.own(trust)).expect_exit(0);
        }
        neighbour
    }

    /// The job, in this home.
    fn own(&self, mut job: Job) -> Job {
        let folder = self.arena.work().join("neighbour");
        job.environment = vec![
            ("XDG_CONFIG_HOME".into(), folder.clone().into()),
            ("AFIELD_RUNTIME_DIR".into(), folder.join("run").into()),
        ];
        job
    }
}

/// However its agent is told to end, a home's guests end with it, long before the grace time does, and only this home's.
fn farewell(mode: Mode) {
    const BOUND: Duration = Duration::from_secs(20);
    let mut arena = Arena::new(mode);
    arena.set_grace("60");
    arena.start_node();
    let neighbour = Neighbour::new(&arena);
    arena.prepare("mkfifo go");
    // It starts nothing, so that all that is new is this home's.
    let script = "echo ready; read line < go; echo $line; exit 6";
    let mut other = arena.start(&neighbour.own(arena.afield_script(script)));
    other.until_output("ready");
    let others: Vec<_> = arena.watch().all().iter().map(|process| process.pid).collect();
    for by_signal in [false, true, false, true] {
        let mut job = arena.start(&arena.afield_script("sleep 1000 & echo ready; wait"));
        job.until_output("ready");
        let is_agent = |process: &Process| {
            process.is_afield() && process.command_line.contains(" agent") && !others.contains(&process.pid)
        };
        let agent = arena.watch().until_some(BOUND, is_agent).expect("an agent");
        if by_signal {
            kill_process(Pid::from_raw(agent.pid).unwrap(), Signal::TERM).unwrap();
        } else {
            let stop = arena.afield(&["agent", "stop", "--force"]);
            arena.run(&stop).expect_exit(0);
        }
        // All that has come since the neighbour's job began: agent, deputies, session, world, guests.
        let is_new = |process: &Process| !others.contains(&process.pid);
        let left = arena.watch().until_none(BOUND, is_new);
        assert!(left.is_empty(), "by signal: {by_signal}: {left:?}");
        let outcome = job.wait();
        assert_eq!(outcome.ended, Ended::Exit(125), "{}", outcome.message());
        assert!(
            outcome.message().contains("the agent was stopped"),
            "{}",
            outcome.message()
        );
        assert!(other.is_alive());
    }
    // Open for both, so that nobody has to be waited for.
    let mut go = std::fs::File::options()
        .read(true)
        .write(true)
        .open(arena.work().join("go"))
        .expect("made before");
    go.write_all(b"goes on\n").expect("there is room");
    let outcome = other.wait();
    outcome.expect_exit(6);
    assert_eq!(outcome.output(), "ready\ngoes on\n");
    let stop = arena.afield(&["agent", "stop"]);
    arena.run(&neighbour.own(stop)).expect_exit(0);
    arena.expect_clean();
}
