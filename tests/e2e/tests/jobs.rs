//! What others at home see of a job, and can do to it.

use std::fs;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Job, Mode, Process, Running, modes};

const BOUND: Duration = Duration::from_secs(20);

modes! {
    listed in a_job_is_listed;
    named in a_job_has_its_programs_name;
    halves in killing_one_half_ends_the_other;
    one_agent in jobs_started_together_share_an_agent;
    no_leak in many_jobs_leave_the_agent_as_it_was;
    signals in signals_reach_the_right_process;
}

fn start(arena: &mut Arena, script: &str) -> Running {
    arena.start_node();
    let job = arena.afield_script(script);
    let mut job = arena.start(&job);
    job.until_output("ready");
    job
}

fn kill(pid: i32, signal: &str, arena: &Arena) {
    let mut job = Job::new(BOUND);
    job.arguments = ["kill", "-s", signal, &pid.to_string()].map(Into::into).to_vec();
    arena.run(&job).expect_exit(0);
}

fn listed(mode: Mode) {
    let mut arena = Arena::new(mode);
    let job = start(&mut arena, "sleep 1001 & echo ready; exec sleep 1000");
    let pid = job.pid().to_string();
    // The exec may be under way still.
    let sleeps = |process: &Process| process.session == job.pid() && process.command_line == "sleep 1000";
    assert!(
        arena.watch().until_some(BOUND, sleeps).is_some(),
        "{}",
        arena.watch().describe()
    );
    let table = arena.run(&arena.afield(&["ps"]));
    table.expect_exit(0);
    let table = table.output();
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&pid));
    let line = line.unwrap_or_else(|| panic!("no {pid} in:\n{table}"));
    assert!(line.contains("sleep 1000"), "{line}");
    let node = if mode.place == afield_e2e::Place::Tcp {
        arena.node_address()
    } else {
        "embedded".into()
    };
    assert!(line.contains(&node), "{line}");
    assert!(table.lines().any(|line| line.contains("sleep 1001")), "{table}");
    let json = arena.run(&arena.afield(&["ps", "--json"]));
    json.expect_exit(0);
    let json: String = json.output().split_whitespace().collect();
    assert!(
        json.contains(&format!("\"pid\":{pid}")) && json.contains("\"state\":\"running\""),
        "{json}"
    );
    let child = arena.watch().until_some(BOUND, |process| {
        process.session == job.pid() && process.command_line == "sleep 1001" && !process.is_guest()
    });
    kill(child.expect("a background job").pid, "TERM", &arena);
    kill(job.pid(), "TERM", &arena);
    job.wait().expect_signal(15);
    let table = arena.run(&arena.afield(&["ps"]));
    table.expect_exit(0);
    assert_eq!(table.output().lines().count(), 1, "{}", table.output());
    arena.expect_clean();
}

fn named(mode: Mode) {
    let mut arena = Arena::new(mode);
    let job = start(&mut arena, "echo ready; exec sleep 1000");
    let read = |name: &str| fs::read(format!("/proc/{}/{name}", job.pid())).unwrap_or_default();
    let deadline = Instant::now() + BOUND;
    while read("comm") != b"sleep\n" {
        assert!(
            Instant::now() < deadline,
            "comm stays {:?}",
            read("comm").escape_ascii().to_string()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(read("cmdline"), b"sleep\x001000\x00");
    let deputy = Process::read(job.pid()).expect("the job runs");
    assert!(deputy.is_afield(), "{deputy:?}");
    assert_eq!(
        fs::read_link(format!("/proc/{}/cwd", job.pid())).unwrap(),
        arena.work()
    );
    let guest = arena
        .watch()
        .until_some(BOUND, Process::is_guest)
        .expect("a guest");
    assert_eq!(
        guest.inner_pid,
        Some(job.pid()),
        "a guest has its deputy's number"
    );
    kill(job.pid(), "KILL", &arena);
    job.wait().expect_signal(9);
    arena.expect_clean();
}

fn halves(mode: Mode) {
    let mut arena = Arena::new(mode);
    for is_guest_killed in [true, false] {
        arena.stop_node();
        let job = start(&mut arena, "echo ready; while :; do :; done");
        let guest = arena
            .watch()
            .until_some(BOUND, Process::is_guest)
            .expect("a guest");
        if is_guest_killed {
            guest.kill();
        } else {
            Process::read(job.pid()).expect("the job runs").kill();
        }
        job.wait().expect_signal(9);
    }
    arena.expect_clean();
}

fn one_agent(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    let jobs: Vec<_> = (0..16)
        .map(|number| arena.start(&arena.afield_script(&format!("echo {number}; exit {number}"))))
        .collect();
    for (number, job) in jobs.into_iter().enumerate() {
        let outcome = job.wait();
        outcome.expect_exit(number as i32);
        assert_eq!(outcome.output(), format!("{number}\n"));
    }
    let is_agent = |process: &Process| process.is_afield() && process.command_line.contains(" agent");
    let more = arena.watch().until_none(BOUND, |process| {
        is_agent(process) && Some(process.pid) != arena.agent().map(|agent| agent.pid)
    });
    assert!(more.is_empty(), "{more:?}");
    arena.expect_clean();
}

fn no_leak(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    let script = "(echo a | cat) > f; sh -c 'kill -9 $$'; exit 3";
    let mut counts = Vec::new();
    for round in 0..40 {
        let outcome = arena.run(&arena.afield_script(script));
        outcome.expect_exit(3);
        if round == 9 || round == 39 {
            counts.push(count(&arena));
        }
    }
    // The first ten are for what is made once.
    for ((what, before), (_, after)) in counts[0].iter().zip(&counts[1]) {
        assert!(
            *after <= before + 5,
            "{what} grew from {before} to {after} in 30 jobs"
        );
    }
    arena.expect_clean();
}

/// Descriptors and threads of agent and node together, once what has ended is gone.
fn count(arena: &Arena) -> [(&'static str, usize); 2] {
    let left = arena.watch().until_none(BOUND, Process::is_guest);
    assert!(left.is_empty(), "{left:?}");
    let sum = |count: &dyn Fn(Process) -> usize| -> usize {
        let afield = arena.watch().all().into_iter().filter(Process::is_afield);
        afield.map(count).sum()
    };
    let threads =
        |process: Process| fs::read_dir(format!("/proc/{}/task", process.pid)).map_or(0, Iterator::count);
    [
        (
            "the number of descriptors",
            sum(&|process| process.open_files().len()),
        ),
        ("the number of threads", sum(&threads)),
    ]
}

fn signals(mode: Mode) {
    let mut arena = Arena::new(mode);
    let script = "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo bye; exit 5' TERM; \
                  echo ready; while :; do sleep 0.01; done";
    let mut job = start(&mut arena, script);
    for (signal, answer) in [("USR1", "usr1"), ("USR2", "usr2")] {
        kill(job.pid(), signal, &arena);
        job.until_output(answer);
    }
    kill(job.pid(), "TERM", &arena);
    let outcome = job.wait();
    outcome.expect_exit(5);
    assert_eq!(outcome.output(), "ready\nusr1\nusr2\nbye\n");
    arena.expect_clean();
}
