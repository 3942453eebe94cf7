//! Processes of `programs/coherence.c` at home and on two nodes, each with a channel over which it is told what to do.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Job, Running};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

/// For anything that a worker does.
const BOUND: Duration = Duration::from_secs(60);

/// Where a worker computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    Home,
    Embedded,
    Tcp,
}

/// How a worker learns that there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// It reads a FIFO.
    Fifo,
    /// It polls the FIFO first.
    Poll,
    /// It reads a socket.
    Socket,
    /// It waits for a signal, and reads a file.
    Signal,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Poll => "poll",
            Self::Socket => "socket",
            Self::Signal => "signal",
        }
    }
}

/// A process that does what it is told.
pub struct Worker {
    pub site: Site,
    pub channel: Channel,
    job: Running,
    to: File,
    from: File,
    /// What has come and was not taken.
    received: Vec<u8>,
}

impl Worker {
    /// Tells it to do something.
    pub fn tell(&mut self, line: &str) {
        if self.channel == Channel::Signal {
            let mut bytes = [0; 256];
            bytes[..line.len()].copy_from_slice(line.as_bytes());
            bytes[line.len()] = b'\n';
            self.to.write_all_at(&bytes, 0).expect("the file is ours");
            self.signal();
        } else {
            self.send(&format!("{line}\n"));
        }
    }

    /// Sends it lines as they are; not for one that waits for signals.
    pub fn send(&mut self, lines: &str) {
        self.to
            .write_all(lines.as_bytes())
            .unwrap_or_else(|error| panic!("a worker {:?} is gone: {error}", self.site));
    }

    fn signal(&self) {
        let pid = Pid::from_raw(self.job.pid()).expect("a pid");
        kill_process(pid, Signal::USR1).expect("it is alive");
    }

    /// What it answers.
    pub fn answer(&mut self) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line = self.received.drain(..=end).collect::<Vec<_>>();
                return String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut polls = [PollFd::new(&self.from, PollFlags::IN)];
            let ready = poll(&mut polls, Some(&left));
            assert!(
                ready != Ok(0),
                "{:?} {:?} does not answer",
                self.site,
                self.channel
            );
            let mut bytes = [0; 1 << 14];
            match self.from.read(&mut bytes) {
                Ok(0) => panic!("a worker {:?} has ended", self.site),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("a worker {:?} is gone: {error}", self.site),
            }
        }
    }

    /// Tells it to do something, and gives what it answers.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// Has it end by itself.
    fn end(mut self) {
        match self.channel {
            Channel::Signal => {
                self.to.set_len(0).expect("the file is ours");
                self.signal();
            }
            Channel::Socket => {
                let socket = UnixStream::from(std::os::fd::OwnedFd::from(self.to));
                socket.shutdown(std::net::Shutdown::Write).expect("connected");
                self.to = File::from(std::os::fd::OwnedFd::from(socket));
            }
            Channel::Fifo | Channel::Poll => {
                self.to = File::open("/dev/null").expect("there is one");
            }
        }
        self.job.wait().expect_exit(0);
    }
}

/// Workers that have a directory in common.
pub struct Fleet {
    pub workers: Vec<Worker>,
    /// Where the directories of rounds are.
    base: PathBuf,
}

impl Fleet {
    /// Starts workers that share the folder `name` of the arena. `remote` is the address of the node that is reached by TCP.
    pub fn start(arena: &Arena, name: &str, kinds: &[(Site, Channel)], remote: &str) -> Self {
        let folder = arena.work().join(name);
        let count = kinds.len();
        arena.prepare(&format!(
            "mkdir {name} {name}/tree {name}/messages {name}/channels; cd {name}; for i in $(seq 0 {last}); do \
             mkfifo channels/$i.in channels/$i.out; : > channels/$i.file; for k in $(seq 0 {last}); do mkfifo messages/$i.$k; done; done; chmod 777 channels",
            last = count - 1
        ));
        let workers = kinds
            .iter()
            .enumerate()
            .map(|(number, &(site, channel))| start(arena, &folder, number, count, site, channel, remote))
            .collect();
        Self {
            workers,
            base: folder.join("tree"),
        }
    }

    /// Has all go to a fresh directory in which `setup` has been done.
    pub fn begin(&mut self, name: &str, setup: &[String]) {
        for worker in &mut self.workers {
            for line in ["leave", "@leave"] {
                worker.ask(line);
            }
        }
        self.remove(name);
        let maker = &mut self.workers[0];
        assert_eq!(maker.ask(&format!("mkdir {name}")), "0");
        for worker in &mut self.workers {
            for line in ["round", "@round"] {
                assert_eq!(worker.ask(&format!("{line} {name}")), "0", "{:?}", worker.site);
            }
        }
        for line in setup {
            self.workers[0].ask(line);
        }
    }

    fn remove(&self, name: &str) {
        let path = self.base.join(name);
        if !path.exists() {
            return;
        }
        if fs::remove_dir_all(&path).is_err() {
            // Somebody has taken rights away.
            let mut command = std::process::Command::new("chmod");
            command.args(["-R", "u+rwx"]).arg(&path);
            assert!(command.status().expect("chmod runs").success());
            fs::remove_dir_all(&path).expect("it is ours now");
        }
    }

    /// Has all end.
    pub fn end(self) {
        for worker in self.workers {
            worker.end();
        }
    }
}

fn both_ways(path: &Path) -> File {
    let file = File::options().read(true).write(true).open(path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn start(
    arena: &Arena,
    folder: &Path,
    number: usize,
    count: usize,
    site: Site,
    channel: Channel,
    remote: &str,
) -> Worker {
    let place = |name: &str| folder.join(format!("channels/{number}.{name}"));
    let mut job = Job::new(Duration::from_secs(24 * 3600));
    let program = arena.bin().join("afield");
    match site {
        Site::Home => {}
        Site::Embedded => job.arguments.extend([program.into(), "run".into(), "--".into()]),
        Site::Tcp => job.arguments.extend([
            program.into(),
            "run".into(),
            "--on".into(),
            remote.into(),
            "--".into(),
        ]),
    }
    let input = match channel {
        Channel::Fifo | Channel::Poll => place("in"),
        Channel::Socket => place("socket"),
        Channel::Signal => place("file"),
    };
    let listener = (channel == Channel::Socket).then(|| {
        let listener = UnixListener::bind(&input).expect("a short path");
        fs::set_permissions(&input, fs::Permissions::from_mode(0o777)).expect("it is ours");
        listener
    });
    let script = "cd \"$0\"; exec \"$@\"";
    job.arguments.extend(["sh", "-c", script].map(Into::into));
    job.arguments.push(folder.join("tree").into());
    job.arguments.push(arena.bin().join("coherence").into());
    job.arguments.push(channel.name().into());
    job.arguments.extend([input.clone().into(), place("out").into()]);
    job.arguments
        .extend([number.to_string().into(), count.to_string().into()]);
    let (to, from) = match &listener {
        None => (both_ways(&input), both_ways(&place("out"))),
        Some(_) => (both_ways(&place("file")), both_ways(&place("out"))),
    };
    let running = arena.start(&job);
    let (to, from) = match listener {
        None => (to, from),
        Some(listener) => {
            let (socket, _) = listener.accept().expect("it connects");
            let copy = socket.try_clone().expect("a descriptor");
            let file = |socket| File::from(std::os::fd::OwnedFd::from(socket));
            (file(socket), file(copy))
        }
    };
    let mut worker = Worker {
        site,
        channel,
        job: running,
        to,
        from,
        received: Vec::new(),
    };
    assert_eq!(worker.answer(), "ready");
    worker
}
