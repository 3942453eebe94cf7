//! Programs that run again, with what nodes keep of home's files: they ask home about no file a second time. Round trips are
//! counted, not timed.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use afield_e2e::{Arena, Job, Mode, modes, need};
use serde_json::Value;

modes! {
    warm in programs_that_run_again_ask_little;
}

/// Files in the tree that `git` and `grep` look at.
const FILES: u64 = 2000;

const TREE: &str = "mkfifo go; mkdir tree; cd tree; for i in $(seq 20); do mkdir d$i; for k in $(seq 100); do echo $i.$k > d$i/f$k; done; done; \
    git init -q; git add -A; git -c user.name=a -c user.email=a@b commit -qm x; git status > /dev/null; \
    printf '#include <stdio.h>\\n#include <stdlib.h>\\nint main(void) { return puts(\"x\"); }\\n' > ../a.c";

/// A command, and how often it may ask home when it runs for the third time: for what was not there or may have changed, and for changes.
const COMMANDS: &[(&str, u64, u64)] = &[
    ("python3 -c pass", 3, 0),
    ("git -C tree status", 4, 4),
    ("grep -r --exclude-dir=.git nosuch tree", 7, 0),
    ("gcc -c a.c", 9, 7),
];

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
    let mut report = Vec::new();
    for (number, (command, asks_max, changes_max)) in COMMANDS.iter().enumerate() {
        let mut before = Value::Null;
        for turn in 0..3 {
            before = trips(&arena, job.pid());
            writeln!(go, "{number}.{turn} {command}").expect("the FIFO is open");
            job.until_output(&format!("done {number}.{turn}\n"));
        }
        let after = trips(&arena, job.pid());
        let more = |cause| of(&after, cause) - of(&before, cause);
        let (asks, changes) = (more("miss") + more("revalidation"), more("change"));
        if asks > *asks_max || changes > *changes_max {
            report.push(format!(
                "{command}: {asks} misses and revalidations, {changes} changes; before\n{:#}\nafter\n{:#}",
                before["all"], after["all"]
            ));
        }
    }
    assert!(COMMANDS.iter().all(|(_, asks, _)| *asks < FILES / 10));
    drop(go);
    job.wait().expect_exit(0);
    assert!(report.is_empty(), "{}", report.join("\n"));
    arena.expect_clean();
}
