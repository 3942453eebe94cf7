//! Finding what a test has started, wherever it hides: by `/proc`, an environment marker, and session numbers.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The variable that marks everything a test starts; its value is the test's directory.
pub(crate) const MARKER: &str = "AFIELD_E2E";

/// How often a condition is looked at again.
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// A process as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    pub comm: String,
    /// Arguments, joined by spaces.
    pub command_line: String,
    pub executable: PathBuf,
    /// Its number in the innermost pid namespace, if that is not the suite's.
    pub inner_pid: Option<i32>,
}

impl Process {
    /// Reads `/proc/PID`. `None` for a process that has gone or is a zombie.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (head, tail) = stat.rsplit_once(") ")?;
        let comm = head.split_once('(')?.1.to_owned();
        let mut fields = tail.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&arguments)
            .trim_end_matches('\0')
            .replace('\0', " ");
        let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap_or_default();
        let inner_pid = numbers
            .split_whitespace()
            .skip(1)
            .last()
            .and_then(|number| number.parse().ok());
        Some(Self {
            pid,
            parent,
            session,
            comm,
            command_line,
            executable,
            inner_pid,
        })
    }

    /// A program's half on the node.
    pub fn is_guest(&self) -> bool {
        self.inner_pid.is_some_and(|pid| pid != 1)
    }

    /// The first process of a world.
    pub fn is_init(&self) -> bool {
        self.inner_pid == Some(1)
    }

    /// A process of afield's own, on either side, that runs no program: deputies, agent, node, sessions.
    pub fn is_afield(&self) -> bool {
        self.inner_pid.is_none() && self.executable.file_name().is_some_and(|name| name == "afield")
    }

    /// Processor time of a living process so far, in ticks.
    pub fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("the process lives");
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        // The twelfth and thirteenth after the state's.
        let times = fields.split_ascii_whitespace().skip(11).take(2);
        times.map(|time| time.parse::<u64>().expect("a number")).sum()
    }

    /// What it has open, in the table of whichever thread has most.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid))
            .into_iter()
            .flatten()
            .flatten();
        let table = |thread: fs::DirEntry| -> Vec<PathBuf> {
            let links = fs::read_dir(thread.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            links.filter_map(|link| fs::read_link(link.path()).ok()).collect()
        };
        threads.map(table).max_by_key(Vec::len).unwrap_or_default()
    }

    pub fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Everything that tells where each thread hangs.
    fn describe(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "  pid {} (inside: {:?}) parent {} session {} {}: {}",
            self.pid, self.inner_pid, self.parent, self.session, self.comm, self.command_line
        );
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return;
        };
        for task in tasks.flatten() {
            let path = task.path();
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            let status = read("status");
            let wanted = [
                "Name:",
                "State:",
                "TracerPid:",
                "SigPnd:",
                "ShdPnd:",
                "SigBlk:",
                "SigIgn:",
                "SigCgt:",
            ];
            let lines: Vec<_> = status
                .lines()
                .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
                .collect();
            let thread = task.file_name().into_string().unwrap_or_default();
            let summary = lines.join(" ").replace('\t', " ");
            let _ = writeln!(text, "    thread {thread} {summary}");
            let _ = writeln!(
                text,
                "      wchan {} syscall {}",
                read("wchan").trim(),
                read("syscall").trim()
            );
            for line in read("stack").lines() {
                let _ = writeln!(text, "      {line}");
            }
        }
    }
}

/// Sees all processes that belong to one test.
#[derive(Clone, Debug)]
pub struct Watch {
    marker: Vec<u8>,
    /// Sessions of the jobs that have not been accounted for yet.
    sessions: Arc<Mutex<Vec<i32>>>,
}

impl Watch {
    pub(crate) fn new(value: &str) -> Self {
        Self {
            marker: format!("{MARKER}={value}\0").into_bytes(),
            sessions: Arc::default(),
        }
    }

    pub(crate) fn add_session(&self, session: i32) {
        self.sessions.lock().unwrap().push(session);
    }

    pub(crate) fn sessions_count(&self) -> usize {
        self.sessions.lock().unwrap().len()
    }

    pub(crate) fn forget_session(&self, session: i32) {
        self.sessions.lock().unwrap().retain(|known| *known != session);
    }

    /// All living processes of this test.
    pub fn all(&self) -> Vec<Process> {
        let sessions = self.sessions.lock().unwrap().clone();
        let pids = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| {
                let process = Process::read(pid)?;
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let is_marked = contains(&environment, &self.marker);
                (is_marked || sessions.contains(&process.session)).then_some(process)
            })
            .collect()
    }

    /// Waits until no process of this test satisfies `condition`. Returns those that still do when `bound` is over.
    pub fn until_none(&self, bound: Duration, condition: impl Fn(&Process) -> bool) -> Vec<Process> {
        let deadline = Instant::now() + bound;
        loop {
            let left: Vec<_> = self.all().into_iter().filter(&condition).collect();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(STEP);
        }
    }

    /// Waits until some process of this test satisfies `condition`.
    pub fn until_some(&self, bound: Duration, condition: impl Fn(&Process) -> bool) -> Option<Process> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(process) = self.all().into_iter().find(&condition) {
                return Some(process);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(STEP);
        }
    }

    /// What each process and thread of this test waits for.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for process in self.all() {
            process.describe(&mut text);
        }
        text
    }

    /// Ends everything that this test has started.
    pub(crate) fn kill_all(&self) {
        for session in self.sessions.lock().unwrap().iter() {
            if let Some(group) = Pid::from_raw(*session) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.all();
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            left.iter().for_each(Process::kill);
            std::thread::sleep(STEP);
        }
    }
}

pub(crate) fn list(processes: &[Process]) -> String {
    let lines = processes.iter().map(|process| {
        let Process {
            pid,
            inner_pid,
            parent,
            session,
            comm,
            command_line,
            ..
        } = process;
        format!(
            "  pid {pid} (inside: {inner_pid:?}) parent {parent} session {session} {comm}: {command_line}"
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
