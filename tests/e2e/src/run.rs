//! One run of a command: its output, its end, and what to say when it does not end.

use std::fmt;
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::case::Stdin;
use crate::process::{Process, STEP, Watch};
use crate::sys::{Surroundings, prepare};
use crate::tree::Tree;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exit(i32),
    Signal {
        number: i32,
        core: bool,
    },
    /// Not at all, within the time it had.
    Never,
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, Some(number)) => Self::Signal {
                number,
                core: status.core_dumped(),
            },
            (None, None) => Self::Never,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(formatter, "exit status {code}"),
            Self::Signal { number, core: false } => write!(formatter, "signal {number}"),
            Self::Signal { number, core: true } => write!(formatter, "signal {number} with core flag"),
            Self::Never => formatter.write_str("no end within its time"),
        }
    }
}

/// All that can be seen of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub ended: Ended,
    /// From before its setup to after its end: times of files in between are not compared.
    pub window: (SystemTime, SystemTime),
    pub tree: Tree,
    /// What no run may do: hang, hold its output open, leave processes.
    pub trouble: Vec<String>,
}

impl Outcome {
    /// Standard error as text.
    pub fn message(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as text.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics unless the run ended with this exit status and without trouble.
    #[track_caller]
    pub fn expect_exit(&self, code: i32) {
        self.expect(Ended::Exit(code));
    }

    /// Panics unless the run died of this signal, without a core and without trouble.
    #[track_caller]
    pub fn expect_signal(&self, number: i32) {
        self.expect(Ended::Signal { number, core: false });
    }

    #[track_caller]
    fn expect(&self, ended: Ended) {
        let trouble = self.trouble.join("\n");
        assert!(
            self.ended == ended && self.trouble.is_empty(),
            "expected {ended}: {}\n{trouble}\nstdout: {}\nstderr: {}",
            self.ended,
            self.output(),
            self.message()
        );
    }
}

/// A stream of output that is being collected.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, thread }
    }

    /// What has come so far, and whether the stream has ended. Waits for the end until `deadline`.
    fn finish(self, deadline: Instant) -> (Vec<u8>, bool) {
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
        let is_complete = self.thread.is_finished();
        (self.bytes.lock().unwrap().clone(), is_complete)
    }
}

/// A command that has been started.
pub struct Running {
    child: Child,
    stdout: Collector,
    stderr: Collector,
    watch: Watch,
    started: SystemTime,
    deadline: Instant,
}

/// How long output may stay open, and processes may stay, after the job's end.
const GRACE: Duration = Duration::from_secs(5);

impl Running {
    pub(crate) fn start(
        mut command: Command,
        stdin: &Stdin,
        surroundings: &Surroundings,
        watch: &Watch,
        timeout: Duration,
    ) -> Self {
        let started = SystemTime::now();
        prepare(&mut command, surroundings);
        let input = match stdin {
            Stdin::Null => Stdio::null(),
            Stdin::Pipe(_) => Stdio::piped(),
        };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program:?}: {error}"));
        watch.add_session(child.id() as i32);
        if let (Stdin::Pipe(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
            let bytes = bytes.clone();
            std::thread::spawn(move || {
                // The job may not want to read it all.
                let _ = pipe.write_all(&bytes);
            });
        }
        Self {
            stdout: Collector::new(child.stdout.take().unwrap()),
            stderr: Collector::new(child.stderr.take().unwrap()),
            watch: watch.clone(),
            child,
            started,
            deadline: Instant::now() + timeout,
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether the job has not ended yet. It is left to be waited for.
    pub fn is_alive(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let found = waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        found.expect("the child is ours").is_none()
    }

    /// What the job has written to standard output so far.
    pub fn output_so_far(&self) -> Vec<u8> {
        self.stdout.bytes.lock().unwrap().clone()
    }

    /// Waits until the job has written `text`.
    #[track_caller]
    pub fn until_output(&mut self, text: &str) {
        loop {
            // Asked before what there is is looked at: it may be the last thing that the job does.
            let is_over = Instant::now() > self.deadline || self.stdout.thread.is_finished();
            if String::from_utf8_lossy(&self.output_so_far()).contains(text) {
                return;
            }
            assert!(!is_over, "no {text:?} from the job:\n{}", self.watch.describe());
            std::thread::sleep(STEP);
        }
    }

    /// Waits for the end of a process that has been killed and is no job whose leavings are looked for.
    pub fn reap(mut self) {
        let _ = self.child.wait();
        self.watch.forget_session(self.pid());
    }

    /// Waits for the end, and kills everything if it does not come in time.
    pub fn wait(mut self) -> Outcome {
        let pid = self.pid();
        let mut trouble = Vec::new();
        let ended = if wait_until(pid, self.deadline) {
            Ended::from(self.child.wait().expect("the child is ours"))
        } else {
            trouble.push(format!(
                "does not end; what its processes wait for:\n{}",
                self.watch.describe()
            ));
            self.watch.kill_all();
            let _ = self.child.wait();
            Ended::Never
        };
        let deadline = Instant::now() + GRACE;
        let (stdout, is_complete) = self.stdout.finish(deadline);
        let (stderr, is_complete_too) = self.stderr.finish(deadline);
        if !(is_complete && is_complete_too) {
            let who = self.watch.describe();
            trouble.push(format!(
                "output is still held open {GRACE:?} after the end, perhaps by one of:\n{who}"
            ));
        }
        // Deputies are in the job's session, guests in another pid namespace. Whose guest it is shows only when no other
        // job runs.
        let is_alone = self.watch.sessions_count() == 1;
        let is_left = |process: &Process| process.session == pid || is_alone && process.is_guest();
        let left = self.watch.until_none(GRACE, is_left);
        if !left.is_empty() {
            trouble.push(format!("processes left behind:\n{}", crate::process::list(&left)));
            left.iter().for_each(Process::kill);
        }
        self.watch.forget_session(pid);
        let window = (self.started, SystemTime::now());
        Outcome {
            stdout,
            stderr,
            ended,
            window,
            tree: Tree::default(),
            trouble,
        }
    }
}

/// Whether the process ends before the deadline. Does not reap it.
fn wait_until(pid: i32, deadline: Instant) -> bool {
    let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let pidfd = pidfd.expect("a child that was not waited for has a pidfd");
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return count == 1,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
