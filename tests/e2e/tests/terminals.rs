//! Programs on a terminal: the same keys typed natively and afield, and screens and modes compared.

use afield_e2e::{Ended, Mode, Pair, Session, sessions};

sessions! {
    bash_jobs;
}

fn open(mode: Mode, test: &str, session: Session, needs: &[&str]) -> Option<Pair> {
    Pair::open(mode, test, &session, needs)
}

/// An interactive shell afield, and what it does with its jobs.
fn bash_jobs(mode: Mode) {
    let Some(pair) = open(mode, "bash_jobs", Session::bash(), &["bash"]) else {
        return;
    };
    pair.until_row("$");
    pair.line("tty >/dev/null && echo on a $((40+2))", "on a 42\n$");
    // Stopped, listed, continued in the foreground, ended.
    pair.line("cat", "$ cat");
    pair.keys("some text\r");
    pair.until("some text\nsome text");
    pair.keys("\x1a");
    pair.until("Stopped                 cat\n$");
    pair.line("jobs", "jobs\n[1]+  Stopped                 cat\n$");
    pair.line("fg", "fg\ncat");
    pair.keys("again\r");
    pair.until("again\nagain");
    pair.keys("\x04");
    pair.line("echo status $?", "status 0\n$");
    pair.line("clear; echo cleared $((1))", "cleared 1\n$");
    pair.until_row("$");
    // Interrupted and quit.
    // (A shell ignores the signal until its child has become the program.)
    pair.line("sh -c 'echo up $((1)); exec sleep 1000'", "up 1");
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.line("echo status $?", "status 130\n$");
    pair.keys("exit 7\r");
    assert_eq!(pair.end(), Ended::Exit(7));
}
