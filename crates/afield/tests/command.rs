//! The command as a user meets it: exit codes, messages, and what it leaves as it found it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A command that finds no configuration but what the test gives it.
fn afield(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afield"));
    let folder = env!("CARGO_TARGET_TMPDIR");
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", folder)
        .env("AFIELD_RUNTIME_DIR", format!("{folder}/no-agent-here"))
        .stdin(Stdio::null());
    command
}

/// A shell script in which `$1` is the program, for what Rust's `Command` cannot do.
fn shell(script: &str) -> Output {
    let command = afield(&[]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_afield")])
        .env_clear();
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn check(command: &mut Command, code: i32, stdout: &str, stderr: &str) {
    let output = command.output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout), text(&output.stderr)),
        (Some(code), stdout, stderr)
    );
}

#[test]
fn at_home_a_command_is_itself() {
    check(
        &mut afield(&[
            "run",
            "--on",
            "home",
            "sh",
            "-c",
            "echo \"$@\"; exit 3",
            "-v",
            "--on",
            "--",
        ]),
        3,
        "--on --\n",
        "",
    );
    let output = afield(&["run", "--on", "home", "--", "sh", "-c", "kill -9 $$"])
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(9));
    let odd = OsStr::from_bytes(b"\xff\xfe");
    let output = afield(&["run", "--on", "home", "printf", "%s"])
        .arg(odd)
        .output()
        .unwrap();
    assert_eq!(output.stdout, odd.as_bytes());
}

#[test]
fn exit_codes_are_those_of_env() {
    check(
        &mut afield(&["run", "--on", "home", "no-such-command"]),
        127,
        "",
        "afield: no-such-command: No such file or directory\n",
    );
    check(
        &mut afield(&["run", "--on", "home", "/etc/passwd"]),
        126,
        "",
        "afield: /etc/passwd: Permission denied\n",
    );
    for arguments in [
        &["run"][..],
        &["no-such-command"],
        &["run", "--no-such-option", "ls"],
        &[],
    ] {
        let output = afield(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(!output.stderr.is_empty());
        assert!(output.stdout.is_empty());
    }
    assert_eq!(afield(&["--help"]).output().unwrap().status.code(), Some(0));
}

#[test]
fn mistakes_are_named() {
    check(
        &mut afield(&["run", "--on", "nowhere", "ls"]),
        125,
        "",
        "afield: unknown node `nowhere`: known are embedded, home; or give HOST:PORT\n",
    );
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mistake.toml");
    std::fs::write(&file, "on = \"home\"\n\nverbos = true\n").unwrap();
    check(
        afield(&["run", "ls"]).env("AFIELD_CONFIG", &file),
        125,
        "",
        &format!(
            "afield: {}:3: unknown key `verbos`: known are on, verbose, log, runtime_dir, agent, link, files, contents, node\n",
            file.display()
        ),
    );
    check(
        &mut afield(&["syscalls", "no_such_call"]),
        125,
        "",
        "afield: no system call `no_such_call` (a call without a row is refused)\n",
    );
    check(
        &mut afield(&["node", "--embedded-fd", "99"]),
        125,
        "",
        "afield: --embedded-fd 99: Bad file descriptor\n",
    );
}

#[test]
fn a_job_finds_dispositions_and_descriptors_as_they_were() {
    // SIGPIPE is number 13, bit 0x1000; others may be ignored by whoever runs the tests. Rust's test harness ignores
    // SIGPIPE, and `Command` resets it for the shell.
    let ignores_broken_pipes = |script: &str| {
        let output = shell(script);
        let set = text(&output.stdout).trim().trim_start_matches("SigIgn:").trim();
        let set = u64::from_str_radix(set, 16).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        set & 0x1000 != 0
    };
    let job = "\"$1\" run --on home grep SigIgn /proc/self/status";
    assert!(ignores_broken_pipes(&format!("trap '' PIPE; {job}")));
    assert!(!ignores_broken_pipes(job));
    // Standard input stays closed, so that the first file that the command opens gets its number.
    let output = shell("\"$1\" run --on home readlink /proc/self/fd/0 <&-; echo $?");
    assert_eq!(text(&output.stdout), "1\n");
}

#[test]
fn output_that_cannot_be_written_is_a_failure_unless_nobody_reads_it() {
    let output = shell("\"$1\" syscalls > /dev/full; echo $?");
    assert_eq!(text(&output.stdout), "125\n");
    assert_eq!(
        text(&output.stderr),
        "afield: standard output: No space left on device\n"
    );
    let output = shell("trap '' PIPE; { \"$1\" syscalls; echo $? >&2; } | :");
    assert_eq!(text(&output.stderr), "0\n");
    let output = shell("\"$1\" version >&-; echo $?");
    assert_eq!(text(&output.stdout), "0\n");
}

#[test]
fn without_an_agent_there_is_nothing_to_tell() {
    check(&mut afield(&["ps", "--json"]), 0, "[]\n", "");
    check(&mut afield(&["agent", "status"]), 0, "no agent is running\n", "");
    check(&mut afield(&["agent", "status", "--json"]), 0, "null\n", "");
    check(&mut afield(&["agent", "stop"]), 0, "", "");
}

#[test]
fn the_doctor_is_readable_by_programs() {
    let output = afield(&["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_healthy = report["home"] == true && report["node"] == true;
    assert_eq!(output.status.code(), Some(i32::from(!is_healthy)), "{report:#}");
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["remedy"].is_null(), check["status"] == "ok", "{check:#}");
    }
}

#[test]
fn the_published_list_can_be_printed() {
    let output = afield(&["syscalls", "--markdown"]).output().unwrap();
    assert!(text(&output.stdout) == afield_abi::syscalls::markdown());
}
