//! What a node is told before it asks: how often programs still wait for home when the node knows nothing, and that nothing of it is out
//! of date when it is used. And what it says without being asked: how many frames that takes.

use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use afield_e2e::{Arena, Job, Mode, Place, need};
use serde_json::Value;

/// Each test on a node beyond the cable, as root and as an ordinary user.
macro_rules! over_the_cable {
    ($($name:ident)*) => { $(
        mod $name {
            #[test]
            fn tcp() {
                super::run(stringify!($name), false, super::$name);
            }
            #[test]
            fn tcp_user() {
                super::run(stringify!($name), true, super::$name);
            }
        }
    )* };
}

over_the_cable! { cold changed filled small_writes }

fn run(test: &str, user: bool, test_of: fn(&mut Arena)) {
    let mode = Mode {
        place: Place::Tcp,
        user,
    };
    if !mode.is_wanted(test) || !["gcc", "python3"].iter().all(|tool| need(test, tool)) {
        return;
    }
    let mut arena = Arena::new(mode);
    test_of(&mut arena);
    arena.expect_clean();
}

/// Programs, and how often they may ask home for what the node has not or may not have: on a node that knows nothing, for the first time
/// ever, and later.
const PROGRAMS: &[(&[&str], u64, u64)] = &[
    (&["python3", "-c", "pass"], 80, 3),
    (&["gcc", "-c", "a.c"], 320, 10),
    (&["sh", "-c", "exec true"], 15, 3),
];

/// Runs a program in a session of its own, and says how often it has asked.
#[track_caller]
fn asks(arena: &Arena, program: &[&str]) -> (u64, Value) {
    let job = |words: &[&str]| {
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = arena.prefix();
        job.arguments.extend(words.iter().map(Into::into));
        job.environment.push(("AFIELD_FILES_CACHE".into(), "true".into()));
        job
    };
    let running = arena.start(&job(program));
    let pid = running.pid().to_string();
    running.wait().expect_exit(0);
    let explained = arena.run(&arena.afield(&["explain", "--json", &pid]));
    explained.expect_exit(0);
    let explained: Value = serde_json::from_slice(&explained.stdout).expect("JSON");
    arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
    let of = |cause: &str| {
        explained["all"]["causes"][cause]["trips"]
            .as_u64()
            .expect("a count")
    };
    (of("miss") + of("revalidation"), explained)
}

/// A program that has been executed once, wherever, starts on a node that knows nothing with few questions.
fn cold(arena: &mut Arena) {
    arena.start_node();
    arena.prepare(
        "printf '#include <stdio.h>\\n#include <stdlib.h>\\nint main(void) { return puts(\"x\"); }\\n' > a.c",
    );
    let mut report = Vec::new();
    for (program, first_max, later_max) in PROGRAMS {
        for most in [first_max, later_max] {
            let (count, explained) = asks(arena, program);
            if count > *most {
                report.push(format!("{program:?}: {count} of {most}\n{:#}", explained["all"]));
            }
        }
    }
    assert!(report.is_empty(), "{}", report.join("\n"));
}

/// Small writes that follow each other go home together.
fn small_writes(arena: &mut Arena) {
    const WRITES: u64 = 20_000;
    arena.start_node();
    let mut job = Job::new(Duration::from_secs(60));
    job.arguments = arena.prefix();
    let script = format!(
        "import os\nfd = os.open('f', os.O_WRONLY | os.O_CREAT)\nfor i in range({WRITES}): os.write(fd, b'%07d' % i)"
    );
    job.arguments.extend(["python3", "-c", &script].map(Into::into));
    arena.run(&job).expect_exit(0);
    let all: String = (0..WRITES).map(|number| format!("{number:07}")).collect();
    assert!(fs::read_to_string(arena.work().join("f")).is_ok_and(|text| text == all));
    let links = arena.run(&arena.afield(&["ps", "--links", "--json"]));
    links.expect_exit(0);
    let links: Value = serde_json::from_slice(&links.stdout).expect("JSON");
    let frames = links[0]["frames_in"].as_u64().expect("a count");
    assert!(frames < WRITES / 2, "{frames} frames for {WRITES} writes");
    arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
}

/// A shell that has nothing of others' to execute, and so asks for all of this itself; it looks when it is told to.
const LOOK: &str = r#"
cp "$(readlink -f "$(command -v bash)")" shell; mkdir d d/e; for i in written replaced removed kept; do echo $i > $i; done
echo g > d/g; echo h > d/h; ln -s kept link; chmod +x kept; echo program > rights; chmod +x rights; mkfifo to
cat > look <<'END'
echo ready
while read -r word <&3; do
    for i in written replaced removed kept made link d/g d/h d/n d/e/n; do [ -e $i ] && echo "$i $(<$i)" || echo "no $i"; done
    [ -x rights ] && echo executable; echo d/*; echo looked
done
END
"#;

/// What home has answered before anybody asked is not used once home has changed it, and told the guest so by a pipe.
fn changed(arena: &mut Arena) {
    arena.start_node();
    arena.prepare(LOOK);
    let before = "written written\nreplaced replaced\nremoved removed\nkept kept\nno made\nlink kept\nd/g g\nd/h h\n\
        no d/n\nno d/e/n\nexecutable\nd/e d/g d/h\nlooked\n";
    let after = "written more\nreplaced other\nno removed\nkept kept\nmade made\nlink g\nd/g g\nno d/h\nd/n h\nd/e/n n\nd/e d/g d/n\nlooked\n";
    // Learns, then has it all ahead; then home changes it before it is used.
    for (change, seen) in [("", before), ("", before), (CHANGE, after)] {
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = arena.prefix();
        job.arguments
            .extend(["./shell", "-c", ". ./look 3< to"].map(Into::into));
        job.environment.push(("AFIELD_FILES_CACHE".into(), "true".into()));
        let go = File::options()
            .read(true)
            .write(true)
            .open(arena.work().join("to"));
        let mut go = go.expect("just made");
        let mut running = arena.start(&job);
        running.until_output("ready\n");
        arena.prepare(change);
        writeln!(go, "go").expect("the FIFO is open");
        running.until_output("looked\n");
        drop(go);
        let outcome = running.wait();
        outcome.expect_exit(0);
        assert_eq!(outcome.output(), format!("ready\n{seen}"), "after {change:?}");
        arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
    }
    assert!(fs::metadata(arena.work().join("made")).is_ok());
}

const CHANGE: &str = "echo more > written; echo other > new; mv new replaced; rm removed; echo made > made; ln -sfn d/g link; \
    chmod -x rights; mv d/h d/n; echo n > d/e/n";

/// Makes a directory and fills it; then home changes names there, and it looks again.
const FILL: &str = r#"
mkfifo to; cat > fill.py <<'END'
import os
def see(): print(*(name + '+' * os.path.exists('made/' + name) for name in ('home', 'a7', 'b7', 'b8', 'new')), flush=True)
os.mkdir('made'); os.mkdir('made/in')
for i in range(200):
    with open(f'made/a{i}', 'x') as file: file.write('text')
    os.stat(f'made/a{i}')
    os.rename(f'made/a{i}', f'made/b{i}')
    os.stat(f'made/b{i}')
see(); print(len(os.listdir('made')), flush=True)
open('to').read()
see(); open('made/a7', 'x').close(); os.rename('made/b8', 'made/in/b8'); see()
print(len(os.listdir('made')), os.listdir('made/in'), 'done', flush=True)
END
"#;

/// Who fills a directory that it has made is not asked what else might be in it, and sees what home puts there.
fn filled(arena: &mut Arena) {
    const FILES: u64 = 200;
    arena.start_node();
    arena.prepare(FILL);
    for _ in 0..2 {
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = arena.prefix();
        job.arguments.extend(["python3", "fill.py"].map(Into::into));
        job.environment.push(("AFIELD_FILES_CACHE".into(), "true".into()));
        let mut running = arena.start(&job);
        running.until_output("201\n");
        arena.prepare("echo x > made/home; rm made/b7; echo x > made/new; : > to");
        let pid = running.pid().to_string();
        running.until_output("done\n");
        let outcome = running.wait();
        outcome.expect_exit(0);
        assert_eq!(
            outcome.output(),
            "home a7 b7+ b8+ new\n201\nhome+ a7 b7 b8+ new+\nhome+ a7+ b7 b8 new+\n202 ['b8'] done\n"
        );
        let explained = arena.run(&arena.afield(&["explain", "--json", &pid]));
        explained.expect_exit(0);
        let explained: Value = serde_json::from_slice(&explained.stdout).expect("JSON");
        let trips = |cause: &str| {
            explained["all"]["causes"][cause]["trips"]
                .as_u64()
                .expect("a count")
        };
        // The program is new to the node the first time.
        assert!(trips("miss") + trips("revalidation") < FILES, "{explained:#}");
        // Making, closing and renaming each file.
        assert!(trips("change") < 3 * FILES + 20, "{explained:#}");
        arena.prepare("rm -r made");
        arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
    }
}
