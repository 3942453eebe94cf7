//! Programs that run again, with what nodes keep of home's files: they ask home about no file a second time, also when they have been
//! idle for a while. Round trips are counted, not timed.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use afield_e2e::{Arena, Job, Mode, modes, need};
use serde_json::Value;

modes! {
    warm in programs_that_run_again_ask_little;
    served in requests_to_a_server_ask_nobody;
    begun in a_job_waits_for_nothing_but_its_start;
}

/// Files in the tree that `git` and `grep` look at.
const FILES: u64 = 2000;

/// (Older than its index, or `git` looks into files again and writes another index whenever it finds the time right.)
const TREE: &str = "mkfifo go; mkdir tree; cd tree; for i in $(seq 20); do mkdir d$i; for k in $(seq 100); do echo $i.$k > d$i/f$k; done; done; \
    find . -type f -exec touch -d '1 hour ago' {} +; git init -q; git add -A; git -c user.name=a -c user.email=a@b commit -qm x; git status > /dev/null; \
    printf '#include <stdio.h>\\n#include <stdlib.h>\\nint main(void) { return puts(\"x\"); }\\n' > ../a.c";

/// A command, and how often it may ask home when it runs for the third time: for what was not there or may have changed, contents
/// apart; for changes; and to make children and wait for them, the shell's own among them (which waits once more to hear that there is no other).
///
/// Of `gcc` all that is synchronous by its nature, but for one or two. It asks whether it may write to the directory of its temporary file (that
/// depends on what nobody tells the changes of); makes that, opens it to write, closes and removes it; removes, makes and closes the other
/// file; and has two children.
const COMMANDS: &[(&str, u64, u64, u64)] = &[
    ("python3 -c pass", 0, 0, 3),
    ("git -C tree status", 1, 4, 3),
    ("grep -r --exclude-dir=.git nosuch tree", 4, 0, 3),
    ("gcc -c a.c", 2, 7, 7),
];

/// How often it may read: what it has written, and what the node's kernel has given up since, as it does whenever it likes (on virtual
/// machines that are to use little memory, all the time: `kdamond`). A run with nothing kept reads more often by far.
const READS_MAX: u64 = 100;

/// Longer than home keeps a file open that nobody uses.
const IDLE: Duration = Duration::from_secs(7);

fn trips(arena: &Arena, pid: i32) -> Value {
    let outcome = arena.run(&arena.afield(&["explain", "--json", &pid.to_string()]));
    outcome.expect_exit(0);
    serde_json::from_slice(&outcome.stdout).expect("JSON")
}

fn of(explained: &Value, cause: &str) -> u64 {
    explained["all"]["causes"][cause]["trips"]
        .as_u64()
        .expect("a count")
}

/// How often contents have been asked for: of files, directories and links, all of which are pages of the kernel's.
fn reads(explained: &Value) -> u64 {
    let operations = &explained["all"]["causes"]["miss"]["operations"];
    ["read", "readdir", "readlink"]
        .iter()
        .filter_map(|operation| operations[operation]["trips"].as_u64())
        .sum()
}

/// How often home has made a child, or has been asked what became of one.
fn children(explained: &Value) -> u64 {
    let operations = &explained["all"]["causes"]["home_call"]["operations"];
    ["fork", "wait4"]
        .iter()
        .filter_map(|operation| operations[operation]["trips"].as_u64())
        .sum()
}

fn warm(mode: Mode) {
    for tool in ["gcc", "git", "python3"] {
        if !need("warm", tool) {
            return;
        }
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.prepare(TREE);
    let mut job = Job::new(Duration::from_secs(200));
    job.arguments = arena.prefix();
    let script =
        "exec 3< go; echo ready; while read -r n line <&3; do eval \"$line\" > /dev/null; echo done $n; done";
    job.arguments.extend(["sh", "-c", script].map(Into::into));
    let go = File::options()
        .read(true)
        .write(true)
        .open(arena.work().join("go"));
    let mut go = go.expect("just made");
    let mut job = arena.start(&job);
    job.until_output("ready\n");
    let pid = job.pid();
    let mut report = Vec::new();
    let mut run = |turn: usize, number: usize, command: &str| {
        writeln!(go, "{number}.{turn} {command}").expect("the FIFO is open");
        job.until_output(&format!("done {number}.{turn}\n"));
    };
    for turn in 0..2 {
        for (number, (command, ..)) in COMMANDS.iter().enumerate() {
            run(turn, number, command);
        }
    }
    std::thread::sleep(IDLE);
    for (number, (command, asks_max, changes_max, children_max)) in COMMANDS.iter().enumerate() {
        let before = trips(&arena, pid);
        run(2, number, command);
        let after = trips(&arena, pid);
        let more = |cause| of(&after, cause) - of(&before, cause);
        let again = reads(&after) - reads(&before);
        let (asks, changes) = (more("miss") + more("revalidation") - again, more("change"));
        let children = children(&after) - children(&before);
        if asks > *asks_max || again > READS_MAX || changes > *changes_max || children > *children_max {
            report.push(format!(
                "{command}: {asks} misses and revalidations, {again} reads, {changes} changes, {children} forks and waits; before\n{:#}\nafter\n{:#}",
                before["all"], after["all"]
            ));
        }
    }
    assert!(COMMANDS.iter().all(|(_, asks, ..)| *asks < FILES / 10));
    drop(go);
    job.wait().expect_exit(0);
    assert!(report.is_empty(), "{}", report.join("\n"));
    arena.expect_clean();
}

/// A server with an event loop, of one connection.
const SERVER: &str = r#"
import select, socket
l = socket.create_server(("127.0.0.1", 0)); print(l.getsockname()[1], flush=True)
s, _ = l.accept(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); s.setblocking(False)
poller = select.epoll(); poller.register(s, select.EPOLLIN)
while True:
    poller.poll()
    try:
        data = s.recv(65536)
        if not data: break
        s.send(data)
    except BlockingIOError: pass
"#;

/// Its client at home, which makes some requests, waits for a word, and makes those that are counted.
const CLIENT: &str = r#"
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def request(number):
    sent = bytes([number % 256]) * 64
    s.sendall(sent)
    assert s.recv(64, socket.MSG_WAITALL) == sent
for number in range(20): request(number)
print("begun", flush=True)
go = open("go"); go.readline()
for number in range(int(sys.argv[2])): request(number)
print("done", flush=True)
go.readline()
"#;

/// Requests that are counted.
const REQUESTS: u64 = 200;

/// What comes from home is there before it is asked for, and what goes home needs no answer.
fn served(mode: Mode) {
    if !need("served", "python3") {
        return;
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.prepare("mkfifo go");
    let mut job = Job::new(Duration::from_secs(100));
    job.arguments = arena.prefix();
    job.arguments.extend(["python3", "-c", SERVER].map(Into::into));
    let mut server = arena.start(&job);
    server.until_output("\n");
    let port = String::from_utf8_lossy(&server.output_so_far()).trim().to_owned();
    let mut job = Job::new(Duration::from_secs(100));
    job.arguments
        .extend(["python3", "-c", CLIENT, &port, &REQUESTS.to_string()].map(Into::into));
    let mut client = arena.start(&job);
    client.until_output("begun\n");
    let asked = || of(&trips(&arena, server.pid()), "home_call");
    let before = asked();
    let go = File::options()
        .read(true)
        .write(true)
        .open(arena.work().join("go"));
    let mut go = go.expect("just made");
    writeln!(go, "go").expect("the FIFO is open");
    client.until_output("done\n");
    let more = asked() - before;
    assert!(more < REQUESTS / 20, "{more} for {REQUESTS} requests");
    writeln!(go, "end").expect("the FIFO is open");
    client.wait().expect_exit(0);
    server.wait().expect_exit(0);
    drop(go);
    arena.expect_clean();
}

/// How often the shortest job is made.
const JOBS: usize = 6;

/// Home says one thing to the node: that the job is to be started. All else that its start and its end take comes from there, and waits for nothing.
fn begun(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.prepare("mkfifo go");
    let job = |words: &[&str]| {
        let mut job = Job::new(Duration::from_secs(100));
        job.arguments = arena.prefix();
        job.arguments.extend(words.iter().map(Into::into));
        job
    };
    // The session stays.
    let mut first = arena.start(&job(&["sh", "-c", "echo up; read x < go"]));
    first.until_output("up\n");
    // Nothing, if they are on one machine.
    let said = || -> Option<u64> {
        let links = arena.run(&arena.afield(&["ps", "--links", "--json"]));
        let links: Value = serde_json::from_slice(&links.stdout).expect("JSON");
        links[0]["frames_out"].as_u64()
    };
    let mut least = None;
    for number in 0..JOBS {
        let before = said();
        let running = arena.start(&job(&["true"]));
        let pid = running.pid();
        running.wait().expect_exit(0);
        let more = said().zip(before).map(|(after, before)| after - before);
        // Besides, home may close what has not been used for a while, and says then that it has.
        least = more.min(least.or(more));
        let explained = trips(&arena, pid);
        let waited = ["miss", "revalidation", "change", "home_call"].map(|cause| of(&explained, cause));
        assert!(number < JOBS / 2 || waited == [0; 4], "{explained:#}");
    }
    assert!(least.is_none_or(|least| least == 1), "{least:?}");
    arena.prepare("echo go > go");
    first.wait().expect_exit(0);
    arena.expect_clean();
}
