//! No surprise: what cannot be done afield fails as on a kernel without it, programs that try it go on or say why not, and
//! `afield run -v` names each call once.

use std::time::Duration;

use afield_abi::syscalls::{self, Class};
use afield_e2e::{Arena, Job, Mode, Outcome, modes, need};

modes! {
    refused in every_refused_call_fails_as_the_table_says;
    tools in tools_are_told_what_is_not_possible;
    odd in odd_forks_are_refused;
}

fn run_verbosely(arena: &Arena, words: &[String]) -> Outcome {
    let mut job = Job::new(Duration::from_secs(30));
    job.arguments = arena.prefix();
    job.arguments.insert(2, "-v".into());
    job.arguments.extend(words.iter().map(Into::into));
    arena.run(&job)
}

fn refused(mode: Mode) {
    if !need("refused", "cc") {
        return;
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.install_program("probes");
    let rows: Vec<_> = syscalls::rows()
        .filter(|row| matches!(row.class, Class::Never(_)) && row.rules.is_empty())
        .collect();
    assert!(rows.len() > 50, "{}", rows.len());
    let mut words = vec![arena.bin().join("probes").display().to_string()];
    words.extend(rows.iter().map(|row| row.number.to_string()));
    let outcome = run_verbosely(&arena, &words);
    outcome.expect_exit(0);
    let mut expected = String::new();
    for row in &rows {
        let Class::Never(errno) = row.class else {
            continue;
        };
        expected += &format!("{} {errno}\n{0} {errno}\n", row.number);
    }
    assert_eq!(outcome.output(), expected);
    let message = outcome.message();
    for row in &rows {
        let told = format!(": {} is not possible afield, it fails with ", row.name);
        assert_eq!(message.matches(&told).count(), 1, "{}: {message}", row.name);
    }
    assert_eq!(message.lines().count(), rows.len(), "{message}");
    arena.expect_clean();
}

/// A tool, what is to be run, its exit status, what it says, and which call is named.
const TOOLS: [(&str, &str, i32, &str, &str); 8] = [
    (
        "strace",
        "strace true",
        1,
        "ptrace(PTRACE_TRACEME, ...): Operation not permitted",
        "ptrace",
    ),
    (
        "unshare",
        "unshare -m true",
        1,
        "unshare failed: Operation not permitted",
        "unshare",
    ),
    ("bwrap", "bwrap --ro-bind / / true", 1, "new namespace", "clone"),
    (
        "keyctl",
        "keyctl newring x @s",
        1,
        "Function not implemented",
        "add_key",
    ),
    (
        "fio",
        "fio --name=a --ioengine=io_uring --size=64k --rw=write --filename=f",
        1,
        "kernel doesn't support io_uring",
        "io_uring_setup",
    ),
    (
        "gdb",
        "gdb -q -nx -batch -ex run /bin/true",
        1,
        "During startup program exited with code 127",
        "ptrace",
    ),
    // They go on without.
    (
        "node",
        "UV_USE_IO_URING=1 node -e 'require(\"fs\").readFile(\"/etc/hostname\", error => process.exit(error ? 1 : 7))'",
        7,
        "",
        "",
    ),
    (
        "python3",
        "python3 -c 'import os; os.memfd_create(\"x\"); os.posix_fadvise(0, 0, 0, 0)' < /etc/passwd && exit 7",
        7,
        "",
        "",
    ),
];

/// What the tools themselves say. A notice comes when it comes, even between two writes that make one line.
fn without_notices(message: &str) -> String {
    let mut rest = message;
    let mut plain = String::new();
    while let Some((before, notice)) = rest.split_once("afield: ") {
        plain.push_str(before);
        rest = notice.split_once('\n').map_or("", |(_, after)| after);
    }
    plain + rest
}

fn tools(mode: Mode) {
    let mut arena = Arena::new(mode);
    arena.start_node();
    for (tool, script, status, says, call) in TOOLS {
        if !need("tools", tool) {
            continue;
        }
        let words = ["sh", "-c", script].map(str::to_owned);
        let outcome = run_verbosely(&arena, &words);
        outcome.expect_exit(status);
        let message = outcome.message() + &outcome.output();
        assert!(without_notices(&message).contains(says), "{script}: {message}");
        let told = format!(": {call} is not possible afield, it fails with ");
        let count = message.matches(&told).count();
        assert_eq!(count, usize::from(!call.is_empty()), "{script}: {message}");
    }
    arena.expect_clean();
}

/// Namespaces, chosen pids and control groups cannot be had.
fn odd(mode: Mode) {
    if !need("odd", "python3") {
        return;
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    let script = "import ctypes, errno, struct
libc = ctypes.CDLL(None, use_errno=True)
def clone3(flags, tids=0, size=88):
    pids = (ctypes.c_int * 1)(4000000)
    place = ctypes.addressof(pids) if tids else 0
    arguments = struct.pack('11Q', flags, 0, 0, 0, 17, 0, 0, 0, place, tids, 0)
    result = libc.syscall(435, arguments, size)
    if result == 0:
        libc._exit(0)
    print(errno.errorcode[ctypes.get_errno()] if result < 0 else 'made')
for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80, 1 << 33):
    clone3(bit)
clone3(0, tids=1)
clone3(0, size=40)
clone3(0, size=5000)
clone3(0)
";
    let words = ["python3", "-c", script].map(str::to_owned);
    let outcome = run_verbosely(&arena, &words);
    outcome.expect_exit(0);
    let expected = "EPERM\n".repeat(10) + "EINVAL\nE2BIG\nmade\n";
    assert_eq!(outcome.output(), expected, "{}", outcome.message());
    arena.expect_clean();
}
