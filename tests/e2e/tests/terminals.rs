//! Programs on a terminal: the same keys typed natively and afield, and screens and modes compared.

use std::time::Duration;

use afield_e2e::{
    Arena, Case, Ended, Job, Mode, Pair, Process, Session, Terminal, modes, need, sessions, user_cases,
};

user_cases! {
    each_call: Case::program("terminals");
}

sessions! {
    bash_jobs;
    bash_pipelines;
    bash_background;
    home_shell;
    vim;
    less;
    top;
    stty;
    script;
    python_pty;
    expect;
    resized;
    hung_up;
    hung_up_raw;
    tmux;
    htop;
    threads;
}

modes! {
    node_killed in node_killed;
}

fn open(mode: Mode, test: &str, session: Session, needs: &[&str]) -> Option<Pair> {
    Pair::open(mode, test, &session, needs)
}

/// The foreground is not the shell's: a job has the terminal.
fn job_has_terminal(terminal: &Terminal) -> bool {
    terminal.foreground() != Some(terminal.pid())
}

/// An interactive shell afield, and what it does with its jobs.
fn bash_jobs(mode: Mode) {
    let Some(pair) = open(mode, "bash_jobs", Session::bash(), &["bash"]) else {
        return;
    };
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
    // Interrupted and quit. (A shell ignores the signals until its child has become the program.)
    pair.line("sh -c 'echo up $((1)); exec sleep 1000'", "up 1");
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.line("echo status $?", "status 130\n$");
    pair.line("sh -c 'echo up $((2)); exec sleep 1000'", "up 2");
    pair.keys("\x1c");
    pair.until("^\\Quit\n$");
    pair.line("echo status $?", "status 131\n$");
    // A shell function and a loop are jobs too.
    pair.line("while :; do sh -c 'echo turn $((1)); exec cat'; done", "turn 1");
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.line("(echo in $((3)); exec cat)", "in 3");
    pair.keys("\x1a");
    pair.until("Stopped                 ( echo in $((3)); exec cat )\n$");
    pair.line(
        "kill -KILL %1; until [ -z \"$(jobs -s)\" ]; do :; done; echo ended $((4))",
        "ended 4\n",
    );
    pair.until("Killed                  ( echo in $((3)); exec cat )\n$");
    pair.line("echo $(stty -a | tr -d '\\n' | cksum)", "\n$");
    pair.line("clear; echo cleared $((2))", "cleared 2\n$");
    // A program that handles the keys itself.
    let program = "trap \"echo got int; exit 4\" INT; echo up $((4)); while :; do sleep 0.05; done";
    pair.line(&format!("sh -c '{program}'; echo status $?"), "up 4");
    pair.keys("\x03");
    pair.until("got int\nstatus 4\n$");
    pair.keys("exit 7\r");
    assert_eq!(pair.end(), Ended::Exit(7));
}

/// Pipelines as jobs, in foreground and background.
fn bash_pipelines(mode: Mode) {
    let Some(pair) = open(mode, "bash_pipelines", Session::bash(), &["bash"]) else {
        return;
    };
    pair.line(
        "sed -u s/x/X/ | sed -u s/z/Z/ | (echo up $((1)) >&2; exec sed -u s/X/Y/)",
        "up 1",
    );
    // A shell's child ignores the key until it has executed its program: all must have.
    pair.keys("xyz\r");
    pair.until("xyz\nYyZ");
    pair.keys("\x1a");
    pair.until("Stopped                 sed -u s/x/X/ | sed -u s/z/Z/ | ( echo");
    pair.until_row("$");
    pair.line("jobs -l | wc -l", "wc -l\n3\n$");
    pair.line("fg >/dev/null", "fg >/dev/null");
    pair.until_that("a job", job_has_terminal);
    pair.keys("zyx\r\x04");
    pair.until("zyx\nZyY\n$");
    pair.line("echo ${PIPESTATUS[*]}-$((1))", "-1\n$");
    pair.line("sleep 1000 | sleep 1001 &", "[1] ");
    pair.line("jobs", "Running                 sleep 1000 | sleep 1001 &\n$");
    pair.line(
        "kill -STOP %1; while jobs | grep -q Running; do :; done; jobs",
        "Stopped                 sleep 1000 | sleep 1001\n$",
    );
    pair.until_row("$");
    pair.line("bg", "[1]+ sleep 1000 | sleep 1001 &\n");
    pair.line("kill %1; wait %1; echo ended $?", "ended 143\n$");
    pair.until_row("$");
    pair.line("clear; jobs; echo cleared $((1))", "cleared 1\n$");
    // A pipeline whose first part ends by a signal of its own.
    pair.line("yes | head -n 1; echo ${PIPESTATUS[*]}", "141 0\n$");
    pair.line(
        "set -o pipefail; yes | head -n 1; echo status $?",
        "status 141\n$",
    );
    // Interrupting ends them all.
    pair.line(
        "sh -c 'echo > r; exec cat' | sh -c 'until [ -e r ]; do :; done; echo up $((2)); exec cat'",
        "up 2",
    );
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.line("echo ${PIPESTATUS[*]}-$((3))", "130 130-3\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// Jobs in the background, which may write but not read, and their end.
fn bash_background(mode: Mode) {
    let Some(pair) = open(mode, "bash_background", Session::bash(), &["bash"]) else {
        return;
    };
    pair.line(
        "cat & until jobs -s | grep -q cat; do :; done; jobs; echo listed $((1))",
        "listed 1\n$",
    );
    pair.line("fg", "fg\ncat");
    pair.keys("to it\r");
    pair.until("to it\nto it");
    pair.keys("\x03");
    pair.until("^C\n$");
    // The terminal is set so that writing is not allowed either.
    pair.line("stty tostop; echo set $((1))", "set 1\n$");
    pair.line(
        "(echo from behind) & until jobs -s | grep -q behind; do :; done; jobs; echo listed $((2))",
        "listed 2\n$",
    );
    pair.line("stty -tostop; fg; echo after $((2))", "from behind\nafter 2\n$");

    pair.line("clear; echo cleared $((2))", "cleared 2\n$");
    // Changing the terminal's modes from behind.
    pair.line(
        "stty -echo & until jobs -s | grep -q echo; do :; done; jobs; echo listed $((3))",
        "listed 3\n$",
    );
    pair.line(
        "kill -KILL %1; until [ -z \"$(jobs -s)\" ]; do :; done; echo gone $((3))",
        "gone 3",
    );
    // Jobs without numbers.
    pair.line(
        "sleep 1000 & disown; jobs; kill $!; echo disowned $((4))",
        "disowned 4\n$",
    );
    pair.line("sleep 0.1 & wait $!; echo waited $?", "waited 0\n$");
    pair.line("sh -c 'exit 9' & wait -n; echo waited $?", "waited 9\n$");
    pair.line("clear; echo cleared $((5))", "cleared 5\n$");
    // Leaving with stopped jobs.
    pair.line("sh -c 'echo up $((8)); kill -STOP $$'", "up 8");
    pair.until("Stopped                 sh -c 'echo up $((8)); kill -STOP $$'\n$");
    pair.line("exit", "There are stopped jobs.");
    pair.until_row("$");
    pair.keys("exit 0\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// A shell at home with jobs that are afield: one of many kinds, `afield run` itself in the background, stopped, resumed.
fn home_shell(mode: Mode) {
    let Some(pair) = open(mode, "home_shell", Session::home_bash(), &["bash"]) else {
        return;
    };
    pair.line("$AF sh -c 'echo up $((2)); exec cat'", "up 2");
    pair.keys("text\r");
    pair.until("text\ntext");
    pair.keys("\x1a");
    pair.until("Stopped                 $AF");
    pair.until_row("$");
    pair.line(
        "bg; until jobs -s | grep -q cat; do :; done; jobs; echo listed $((1))",
        "listed 1\n$",
    );
    pair.line("fg", "fg\n$AF");
    pair.until_that("a job", job_has_terminal);
    pair.keys("more\r");
    pair.until("more\nmore");
    pair.keys("\x04");
    pair.line("echo status $?", "status 0\n$");
    pair.line("clear; echo cleared $((3))", "cleared 3\n$");
    // Started in the background.
    pair.line(
        "$AF cat & until jobs -s | grep -q cat; do :; done; jobs; echo listed $((2))",
        "listed 2\n$",
    );
    pair.line("fg", "fg\n$AF cat");
    pair.until_that("a job", job_has_terminal);
    pair.keys("line\r");
    pair.until("line\nline");
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.line("echo status $?", "status 130\n$");
    // In pipelines with what is native.
    pair.line("$AF echo through | tr a-z A-Z | $AF sed s/T/D/", "DHROUGH\n$");
    pair.line(
        "$AF sh -c 'echo one; echo two >&2' 2>&1 | cat | $AF sort -r",
        "two\none\n$",
    );
    // The shell has the terminal again.
    pair.line("$AF sh -c 'kill -TSTP $$; echo went on'", "echo went on'\n$");
    pair.line("fg", "went on\n$");
    pair.line(
        "$AF sh -c 'stty -echo -icanon; kill -KILL $$'; echo status $?",
        "status 137\n$",
    );
    // Those that are not waited for.
    pair.line("clear; $AF sleep 0.2 & wait $!; echo waited $?", "waited 0\n$");
    pair.line(
        "$AF sleep 1000 & kill $!; wait $!; echo waited $?",
        "waited 143\n$",
    );
    pair.keys("exit 3\r");
    assert_eq!(pair.end(), Ended::Exit(3));
}

fn status_line_is_at(terminal: &Terminal, row: usize) -> bool {
    let text = terminal.text();
    text.lines()
        .nth(row)
        .is_some_and(|line| line.starts_with("text "))
}

/// An editor: insert, save, suspend, resume, resize, a command, quit.
fn vim(mode: Mode) {
    let Some(pair) = open(mode, "vim", Session::bash(), &["vim"]) else {
        return;
    };
    pair.line("vim -u NONE -N -i NONE text", "\"text\" [New");
    pair.keys("ifirst line\rsecond line\x1b");
    pair.until("first line\nsecond line");
    pair.keys(":w\r");
    pair.until("written");
    pair.keys(":set laststatus=2\r");
    pair.until_that("a status line", |terminal| status_line_is_at(terminal, 22));
    pair.keys("\x1a");
    pair.until("Stopped ");
    pair.until_row("$");
    pair.line("cat text; fg", "second line\n~");
    // All of it is drawn: what is drawn for one size and read by a terminal of another may scroll.
    pair.until_that("a status line", |terminal| status_line_is_at(terminal, 22));
    // (An editor that is told of its size while it reads drops what it has read, and one that is just about to wait looks at it
    // after the next key.)
    pair.resize(12, 50);
    pair.keys("\x0c");
    pair.until_that("a status line", |terminal| status_line_is_at(terminal, 10));
    pair.keys("ggOresized\x1b");
    pair.until("resized\nfirst line");
    pair.keys(":set number\r");
    pair.until("  1 resized");
    pair.keys("yyp:%s/line/row/\r");
    pair.until("second row");
    pair.keys(":!echo from a $((1+1)) shell\r");
    pair.until("from a 2 shell");
    pair.keys("\r");
    pair.until("  1 resized");
    pair.keys(":set mouse=a\r/second\r");
    pair.until("second row");
    pair.keys(":wq\r");
    pair.until_row("$");
    pair.line("cat text; echo read $((3))", "read 3\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

fn less(mode: Mode) {
    let session = Session::bash()
        .setup("seq 1 300 > numbers")
        .variable("LESSHISTFILE", "-");
    let Some(pair) = open(mode, "less", session, &["less"]) else {
        return;
    };
    pair.line("less numbers", "\n23\nnumbers");
    pair.keys(" ");
    pair.until("46\n:");
    pair.keys("/123\r");
    pair.until("123\n");
    pair.keys("G");
    pair.until("(END)");
    pair.keys("g");
    // It has drawn all, and waits for keys: it forgets a new size that comes before.
    pair.until("\n22\n23\n:");
    pair.resize(10, 40);
    pair.until("8\n9\n:");
    pair.keys("50p");
    pair.until("164\n");
    pair.keys("\x1a");
    pair.until("Stopped ");
    pair.until_row("$");
    pair.line("fg", "164\n");
    pair.keys("q");
    pair.until_row("$");
    // Its input is a pipe: keys come from /dev/tty.
    pair.line("seq 1 50 | less", "1\n2\n");
    pair.keys("q");
    pair.until_row("$");
    pair.line("seq 1 50 | less -X +G", "(END)");
    pair.keys("q");
    pair.until_row("$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// The screen of `top` is full of what differs from run to run: what is compared is what there is without it.
fn top(mode: Mode) {
    let session = Session::bash().variable("HOME", "/nonexistent").only_layout();
    let Some(pair) = open(mode, "top", session, &["top"]) else {
        return;
    };
    // Its own layout, colours and all, of processes of which there are none.
    pair.line(
        "top -b -n 1 -w 80 -p 1 | sed -n 7p; echo listed $((1))",
        "COMMAND\nlisted 1\n$",
    );
    pair.line("top -p 1 -d 100", "Tasks:");
    pair.until("COMMAND");
    pair.keys("q");
    pair.until_row("$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// Every mode by `stty`, and back.
fn stty(mode: Mode) {
    let Some(pair) = open(mode, "stty", Session::bash(), &["stty"]) else {
        return;
    };
    pair.line("save=$(stty -g); echo ${#save} $save", "\n$");
    for flags in [
        "raw -echo",
        "-raw echo",
        "cbreak",
        "-cbreak",
        "sane",
        "-opost",
        "opost -onlcr onlcr",
        "igncr -igncr inlcr -inlcr",
        "-isig isig -ixon ixany ixoff",
        "intr ^G eof ^E susp ^Y",
        "erase ^H kill ^K",
        "min 3 time 2",
        "rows 30 cols 90",
        "speed 9600",
        "ispeed 19200 ospeed 19200",
        "parenb cs7",
        "cs8 -parenb cstopb -cstopb",
        "evenp",
        "-evenp",
        "ek",
        "crt",
        "dec",
        "tostop flusho noflsh",
        "-tostop -flusho -noflsh",
    ] {
        pair.line(
            &format!("clear; stty {flags}; stty -a > modes; stty $save; cat modes; echo was {flags}"),
            &format!("\nwas {flags}\n$"),
        );
    }
    pair.line(
        "clear; stty size; stty speed; stty nonsense; echo status $?",
        "status 1\n$",
    );
    pair.line(
        "stty -a < /dev/null; stty -F /dev/tty size; echo status $?",
        "status 0\n$",
    );
    pair.line("reset -Q; tput cols; tput lines; echo status $?", "status 0\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// A terminal within the terminal.
fn script(mode: Mode) {
    let Some(pair) = open(mode, "script", Session::bash(), &["script"]) else {
        return;
    };
    pair.line(
        "script -q -c 'tty >/dev/null && echo on one $((1)); stty size; exit 5' -e log; echo status $?",
        "status 5\n$",
    );
    pair.line(
        "script -q -c \"env PS1='$ ' bash --norc --noprofile\" log",
        "log\n$",
    );
    pair.line("echo inside $((2)); cat", "inside 2");
    pair.keys("abc\r");
    pair.until("abc\nabc");
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.keys("exit\r");
    pair.until("exit\n$");
    pair.line("grep -c inside log; echo counted $((3))", "counted 3\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

fn python_pty(mode: Mode) {
    let program = r#"
import os, pty, sys, termios, tty, select, signal
def child(argv):
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)
    out = b''
    while True:
        try:
            data = os.read(fd, 1000)
        except OSError as error:
            print('error', error.errno)
            break
        if not data: break
        out += data
    os.close(fd)
    return out, os.waitpid(pid, 0)[1]
print(child(['sh', '-c', 'tty > /dev/null && stty size && echo hello']))
print(child(['sh', '-c', 'kill -9 $$']))
master, slave = os.openpty()
print(os.isatty(master), os.isatty(slave), os.ttyname(slave).startswith('/dev/pts/'))
tty.setraw(slave)
os.write(master, b'raw\x03')
print(os.read(slave, 10))
print(select.select([master], [], [], 0)[0])
os.write(slave, b'x')
print(select.select([master], [], [], 5)[0] == [master], os.read(master, 10))
print(os.get_terminal_size(0))
os.close(slave)
poll = select.poll(); poll.register(master, select.POLLIN)
print(poll.poll(5000)[0][1] == select.POLLHUP)
pty.spawn(['sh', '-c', 'echo spawned; read a; echo got $a'])
print('end', 1 + 1)
"#;
    let session = Session::bash().setup(&format!("cat > p.py <<'END'\n{program}\nEND"));
    let Some(pair) = open(mode, "python_pty", session, &["python3"]) else {
        return;
    };
    pair.line("python3 p.py", "spawned");
    pair.keys("answer\r");
    pair.until("end 2\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

fn expect(mode: Mode) {
    let program = r#"
set timeout 20
spawn bash --norc --noprofile
expect "$ "
send "echo up \$((1)); cat\r"
expect "up 1"
send "hello\r"
expect "hello\r\nhello"
send "\003"
expect -ex "^C"
expect "$ "
send "stty -echo; read -p w\$((1)): w; stty echo; echo got \$w\r"
expect "w1:"
send "secret\r"
expect -ex "got secret\r\n"
expect "$ "
send "exit 4\r"
expect eof
puts "ended [lindex [wait] 3]"
spawn sleep 1000
exec kill -HUP [exp_pid]
expect eof
puts "killed [lrange [wait] 4 end]"
interact_not_used_here
"#;
    let session = Session::bash().setup(&format!(
        "cat > p.exp <<'END'\n{}\nEND",
        program.replace(
            "interact_not_used_here",
            "spawn -noecho sh -c {echo talk; read x; echo $x}\ninteract\nputs \"left [expr 1+1]\""
        )
    ));
    let Some(pair) = open(mode, "expect", session, &["expect"]) else {
        return;
    };
    pair.line("expect p.exp", "talk");
    pair.keys("words\r");
    pair.until("left 2\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// Changes of size reach whoever has the foreground, and nobody else.
fn resized(mode: Mode) {
    // (A signal that comes just before `pause` would not end it.)
    let watch = "import os, signal\n\
        resized = {signal.SIGWINCH}\n\
        signal.signal(signal.SIGWINCH, lambda *_: None)\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, resized)\n\
        print('up', 1 + 1, flush=True)\n\
        while True: signal.sigwait(resized); print(*os.get_terminal_size(), flush=True)";
    let session = Session::bash().setup(&format!("cat > watch.py <<'END'\n{watch}\nEND"));
    let Some(pair) = open(mode, "resized", session, &["python3"]) else {
        return;
    };
    pair.line("shopt -s checkwinsize; stty size; echo $((1))", "24 80\n1\n$");
    pair.resize(20, 60);
    pair.line("stty size; echo $COLUMNS $((2))", "20 60\n60 2\n$");
    pair.line("python3 watch.py", "up 2");
    pair.resize(18, 70);
    pair.until("70 18");
    pair.resize(22, 72);
    pair.until("72 22");
    pair.keys("\x1c");
    pair.until("Quit\n$");
    pair.line("stty rows 15; stty size", "15 72\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// The terminal goes while a shell with jobs is on it.
fn hung_up(mode: Mode) {
    let session = Session::bash();
    let Some(pair) = open(mode, "hung_up", session, &["bash"]) else {
        return;
    };
    pair.line(
        "(trap 'echo hup > behind; exit' HUP; echo > ready; while :; do sleep 0.05; done) &",
        "[1] ",
    );
    pair.line(
        "until [ -e ready ]; do :; done; trap 'echo exit > end' EXIT; echo ready $((1))",
        "ready 1\n$",
    );
    pair.line("sh -c 'echo up $((2)); exec cat'", "up 2");
    pair.hang_up();
}

/// The terminal goes while a program has it in raw mode.
fn hung_up_raw(mode: Mode) {
    let Some(pair) = open(
        mode,
        "hung_up_raw",
        Session::guest(&["vim", "-u", "NONE", "-N", "-n", "text"]),
        &["vim"],
    ) else {
        return;
    };
    pair.until("\"text\" [New");
    pair.keys("ione two\x1b");
    pair.until("one two");
    pair.hang_up();
}

/// The node dies while a program has the terminal in raw mode: the user's shell has it back as it was, and goes on.
fn node_killed(mode: Mode) {
    if !need("node_killed", "vim") {
        return;
    }
    for agent in [false, true] {
        let mut arena = Arena::new(mode);
        arena.start_node();
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = ["bash", "--norc", "--noprofile", "-i"].map(Into::into).into();
        let prefix = arena.prefix();
        let words: Vec<_> = prefix.iter().map(|word| word.to_str().unwrap()).collect();
        for (name, value) in [("PS1", "$ "), ("TERM", "xterm"), ("AF", &words.join(" "))] {
            job.environment.push((name.into(), value.into()));
        }
        let terminal = arena.open_terminal(&job, &arena.work(), (24, 80));
        terminal.until("$ ");
        terminal.keys("stty -a > before; echo noted $((1))\r");
        terminal.until("noted 1");
        // A shell afield, and in it a job in a group of its own.
        terminal.keys("$AF bash --norc --noprofile -i\r");
        terminal.until("--noprofile -i\n$ ");
        terminal.keys("vim -u NONE -N -n text\r");
        terminal.until("\"text\" [New");
        terminal.keys("ihello\x1b");
        terminal.until("hello");
        let victim = if agent {
            arena.agent()
        } else {
            let init = arena.watch().all().into_iter().find(Process::is_init);
            init.and_then(|init| Process::read(init.parent))
        };
        victim.expect("it runs").kill();
        terminal.until("afield: ");
        terminal.keys("echo status $?; stty -a > after; cmp before after && echo same $((2))\r");
        terminal.until("status 125");
        terminal.until("same 2");
        // The next job finds all it needs.
        terminal.keys("clear; $AF stty size\r");
        terminal.until("24 80");
        terminal.keys("exit\r");
        let (ended, trouble) = terminal.wait();
        assert_eq!(ended, Ended::Exit(0));
        assert!(trouble.is_empty(), "{}", trouble.join("\n"));
        arena.expect_clean();
    }
}

/// A server of terminals, its client, and what runs in its windows.
fn tmux(mode: Mode) {
    let session = Session::bash()
        .setup("printf '%s\\n' 'set -g assume-paste-time 0' 'setw -g automatic-rename off' 'set -g status-right \"\"' 'set -g default-command \"env PS1=\\\"$ \\\" bash --norc --noprofile -i\"' > conf")
        .variable("TMUX_TMPDIR", ".");
    let Some(pair) = open(mode, "tmux", session, &["tmux"]) else {
        return;
    };
    pair.line("tmux -L t -f conf new", "[0] 0:env*");
    pair.until_row("$");
    pair.line(
        "stty size; tty >/dev/null && echo inside $((1))",
        "23 80\ninside 1\n$",
    );
    // A second window, and back.
    pair.keys("\x02c");
    pair.until("1:env*");
    pair.line("echo window $((2))", "window 2\n$");
    pair.keys("\x02p");
    pair.until("0:env*");
    pair.until("inside 1");
    // Two panes.
    pair.keys("\x02\"");
    pair.until("──");
    pair.line("stty size; echo below $((3))", "below 3\n$");
    pair.line("sh -c 'echo up $((4)); exec cat'", "up 4");
    pair.keys("\x03");
    pair.until("^C\n$");
    pair.line("exit", "inside 1");
    pair.until_that("one pane", |terminal| !terminal.text().contains("──"));
    pair.resize(15, 60);
    pair.until_that("a status line", |terminal| {
        let text = terminal.text();
        text.lines().nth(14).is_some_and(|line| line.starts_with("[0] "))
    });
    // (It tells what runs in it a little later.)
    pair.line(
        "until [ \"$(stty size)\" = \"14 60\" ]; do sleep 0.05; done; echo resized $((5))",
        "resized 5\n$",
    );
    // Detached, and attached again.
    pair.keys("\x02d");
    pair.until("[detached (from session 0)]");
    pair.line(
        "tmux -L t ls -F 'session #S' | cat; tmux -L t list-windows -F '#I'",
        "session 0\n0\n1\n$",
    );
    // (What a terminal has not taken yet when tmux attaches to it, tmux drops: it comes when all has been, by a key without echo.)
    pair.line(
        "stty -echo; clear; echo cleared $((6)); read -rsn1; stty echo; tmux -L t attach",
        "cleared 6",
    );
    pair.keys("x");
    pair.until("resized 5");
    pair.keys("\x02d");
    pair.until("[detached (from session 0)]");
    pair.line("tmux -L t kill-server; echo over $?", "over 0\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// What it shows differs from run to run; that it draws, takes keys and gives the terminal back does not.
fn htop(mode: Mode) {
    let session = Session::bash().variable("HTOPRC", "htoprc").only_layout();
    let Some(pair) = open(mode, "htop", session, &["htop"]) else {
        return;
    };
    pair.until_row("$");
    pair.keys("htop --readonly\r");
    pair.until_both("F10Quit");
    pair.keys("h");
    pair.until("syscalls with strace");
    pair.keys(" ");
    pair.until_both("F10Quit");
    pair.keys("q");
    pair.until_row("$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}

/// A program of which one thread reads the terminal while others compute: stopped, continued, interrupted.
fn threads(mode: Mode) {
    let program = r#"
import os, sys, threading, time
def compute():
    while True: sum(range(1000)); time.sleep(0.001)
threading.Thread(target=compute, daemon=True).start()
def read():
    for line in sys.stdin:
        print('read', line.strip().upper(), flush=True)
    print('end of input', flush=True)
    os._exit(5)
threading.Thread(target=read, daemon=True).start()
print('up', 1 + 1, flush=True)
while True: time.sleep(100)
"#;
    let session = Session::bash().setup(&format!("cat > p.py <<'END'\n{program}\nEND"));
    let Some(pair) = open(mode, "threads", session, &["python3"]) else {
        return;
    };
    pair.line("python3 p.py", "up 2");
    pair.keys("one\r");
    pair.until("read ONE");
    pair.keys("\x1a");
    pair.until("Stopped                 python3 p.py\n$");
    pair.line("fg", "fg\npython3 p.py");
    pair.until_that("a job", job_has_terminal);
    pair.keys("two\r");
    pair.until("read TWO");
    pair.keys("\x1a");
    pair.until("Stopped                 python3 p.py\n$");
    // In the background its reader has it stopped again.
    pair.line(
        "clear; bg; until jobs -s | grep -q p.py; do :; done; echo stopped $((3))",
        "stopped 3\n$",
    );
    pair.line("fg", "fg\npython3 p.py");
    pair.until_that("a job", job_has_terminal);
    pair.keys("three\r");
    pair.until("read THREE");
    pair.keys("\x04");
    pair.until("end of input\n$");
    pair.line("echo status $?", "status 5\n$");
    pair.keys("exit\r");
    assert_eq!(pair.end(), Ended::Exit(0));
}
