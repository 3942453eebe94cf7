//! What nobody at home is responsible for any more ends.

use std::time::{Duration, Instant};

use afield_e2e::{Arena, Ended, Mode, Process, modes};
use rustix::process::{Pid, Signal, kill_process};

modes! {
    reincarnation in a_new_agent_ends_what_the_old_one_has_left;
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
