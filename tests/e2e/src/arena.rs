//! The place of one test: its directories, environment, network, agent and node.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::case::Stdin;
use crate::network::{HOME_ADDRESSES, NODE_ADDRESS, Network, is_listening};
use crate::process::{MARKER, Process, Watch, list};
use crate::run::{Outcome, Running};
use crate::sys::Surroundings;
use crate::terminal::Terminal;
use crate::tree::Tree;
use crate::{Mode, Place, product, tools};

const NODE_PORT: u16 = 7700;
const RELAY_PORT: u16 = 7701;
/// Seconds for which sessions wait for a lost connection, unless a test says otherwise.
const LINK_GRACE: &str = "2";
/// The ordinary user, which needs no entry in `/etc/passwd`.
const USER: u32 = 64123;
/// For agent and node to start or stop.
const DAEMON_BOUND: Duration = Duration::from_secs(10);

/// What to run in an [`Arena`].
#[derive(Clone, Debug)]
pub struct Job {
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub stdin: Stdin,
    pub timeout: Duration,
}

impl Job {
    pub fn new(timeout: Duration) -> Self {
        Self {
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Stdin::Null,
            timeout,
        }
    }
}

/// Directories, environment, network, agent and node of one test. Its parts go when it does.
pub struct Arena {
    base: PathBuf,
    mode: Mode,
    network: Option<Network>,
    node: Option<Running>,
    /// A relay that fails connections, by which home reaches the node.
    relay: Option<Running>,
    /// As `AFIELD_LINK_GRACE_SECONDS`.
    grace: &'static str,
    watch: Watch,
}

impl Arena {
    pub fn new(mode: Mode) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::temp_dir().join(format!("afield-e2e-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let network = (mode.place == Place::Tcp).then(Network::new);
        let watch = Watch::new(base.to_str().expect("a temporary directory with a plain name"));
        let arena = Self {
            base,
            mode,
            network,
            node: None,
            relay: None,
            grace: LINK_GRACE,
            watch,
        };
        for folder in [
            "",
            "bin",
            "run",
            "node-run",
            "config",
            "node-config",
            "node-cache",
            "home",
            "tmp",
            "work",
        ] {
            arena.make_folder(&arena.base.join(folder));
        }
        if mode.place != Place::Native {
            product::install(product::binary(), arena.bin(), "afield");
        }
        arena
    }

    /// Makes a folder that belongs to whoever is at home.
    pub fn make_folder(&self, path: &Path) {
        let private = path.ends_with("run") || path.ends_with("node-run");
        let mode = if private { 0o700 } else { 0o755 };
        fs::DirBuilder::new()
            .mode(mode)
            .create(path)
            .expect("the temporary directory is writable");
        if self.mode.user {
            chown(path, Some(USER), Some(USER)).expect("root may");
        }
    }

    pub fn bin(&self) -> &'static Path {
        // A test makes few arenas, and every caller wants to keep this beside a mutable borrow.
        Box::leak(self.base.join("bin").into_boxed_path())
    }

    /// The scratch directory of the runs.
    pub fn work(&self) -> PathBuf {
        self.base.join("work")
    }

    /// The folder with the agent's sockets.
    pub fn runtime(&self) -> PathBuf {
        self.base.join("run")
    }

    /// The folder for configuration (`XDG_CONFIG_HOME`).
    pub fn config(&self) -> PathBuf {
        self.base.join("config")
    }

    /// The same for the node's side.
    pub fn node_config(&self) -> PathBuf {
        self.base.join("node-config")
    }

    /// The folder with what the node keeps of homes' files.
    pub fn node_cache(&self) -> PathBuf {
        self.base.join("node-cache/afield/contents")
    }

    /// Puts this into the node's configuration; for nodes that are started afterwards.
    pub fn configure_node(&self, text: &str) {
        self.put(&self.node_config().join("afield"), "config.toml", text);
    }

    /// `afield` with these arguments as whoever runs the node, as a job.
    pub fn afield_at_node(&self, arguments: &[&str]) -> Job {
        let mut job = self.afield(arguments);
        job.environment = vec![
            ("XDG_CONFIG_HOME".into(), self.node_config().into()),
            ("XDG_CACHE_HOME".into(), self.base.join("node-cache").into()),
            ("AFIELD_RUNTIME_DIR".into(), self.base.join("node-run").into()),
        ];
        job
    }

    /// The fingerprint of the key that `afield key` shows or makes.
    pub fn fingerprint(&self, mut key: Job) -> String {
        key.arguments.extend(["key".into(), "--fingerprint".into()]);
        let outcome = self.run(&key);
        outcome.expect_exit(0);
        outcome.output().trim().to_owned()
    }

    /// Has home and node trust each other's keys.
    pub fn introduce(&self, address: &str) {
        let (home, node) = (
            self.fingerprint(self.afield(&[])),
            self.fingerprint(self.afield_at_node(&[])),
        );
        self.trust(address, &node);
        self.admit(&format!("{home} the home\n"));
    }

    /// Has home trust whoever has this key at an address, and nobody else.
    pub fn trust(&self, address: &str, key: &str) {
        self.put(
            &self.config().join("afield"),
            "trusted_nodes",
            &format!("node {address} {key}\n"),
        );
    }

    /// Puts these lines into the file of homes that the node admits.
    pub fn admit(&self, lines: &str) {
        self.put(&self.node_config().join("afield"), "authorized_homes", lines);
    }

    /// Puts a file in place at once.
    fn put(&self, folder: &Path, name: &str, text: &str) {
        if !folder.exists() {
            self.make_folder(folder);
        }
        let beside = folder.join("new");
        fs::write(&beside, text).expect("the folder is ours");
        fs::rename(&beside, folder.join(name)).expect("both are in it");
    }

    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The node's address, as `--on` takes it.
    pub fn node_address(&self) -> String {
        match self.relay {
            None => format!("{NODE_ADDRESS}:{NODE_PORT}"),
            Some(_) => format!("{}:{RELAY_PORT}", HOME_ADDRESSES[0]),
        }
    }

    /// Has sessions wait for so many seconds for a lost connection.
    pub fn set_grace(&mut self, seconds: &'static str) {
        self.grace = seconds;
    }

    /// Pulls the cable between home and node, or puts it back; in the modes that have one. Nobody is told: what is sent is lost.
    pub fn set_cable(&self, carries: bool) {
        if let Some(network) = &self.network {
            network.set_cable(carries);
        }
    }

    /// Puts a relay between home and the node, which has been started: every few hundred milliseconds a connection has one of these
    /// faults: `cut`, `stall` (of one direction, for up to a second), `hole` (one connection stays half-open), `damage` (something comes
    /// again, or is changed). All of them come to the node from changing addresses.
    pub fn start_relay(&mut self, faults: &[&str]) {
        let script = include_str!("relay.py");
        let [near, _] = HOME_ADDRESSES;
        let ports = [RELAY_PORT, NODE_PORT].map(|port| port.to_string());
        let mut job = Job::new(Duration::from_secs(3600));
        job.arguments = ["python3", "-c", script, near, &ports[0], NODE_ADDRESS, &ports[1]]
            .into_iter()
            .chain(faults.iter().copied())
            .map(Into::into)
            .collect();
        self.go_through(&job);
    }

    /// Puts a relay between home and the node, which has been started: everything takes so much longer, each way.
    pub fn start_delay(&mut self, delay: Duration) {
        let [near, _] = HOME_ADDRESSES;
        let addresses = [
            format!("{near}:{RELAY_PORT}"),
            format!("{NODE_ADDRESS}:{NODE_PORT}"),
        ];
        let microseconds = delay.as_micros().to_string();
        let mut job = self.afield(&["bench-delay", &addresses[0], &addresses[1], &microseconds]);
        job.timeout = Duration::from_secs(3600);
        self.go_through(&job);
    }

    /// Starts a relay, by which home reaches the node from now on.
    fn go_through(&mut self, job: &Job) {
        let relay = self.start(job);
        self.watch.forget_session(relay.pid());
        assert!(
            is_listening(relay.pid(), RELAY_PORT, DAEMON_BOUND),
            "the relay does not listen"
        );
        self.relay = Some(relay);
        let node = self.fingerprint(self.afield_at_node(&[]));
        self.trust(&self.node_address(), &node);
    }

    /// Ends the relay: no connection can be made any more.
    pub fn stop_relay(&mut self) {
        if let Some(relay) = self.relay.take() {
            if let Some(pid) = Pid::from_raw(relay.pid()) {
                let _ = kill_process(pid, Signal::KILL);
            }
            relay.reap();
        }
    }

    /// The words that send a command afield.
    pub fn prefix(&self) -> Vec<OsString> {
        let mut words = vec![self.bin().join("afield").into(), "run".into()];
        if self.mode.place == Place::Tcp {
            words.extend(["--on".into(), self.node_address().into()]);
        }
        words.push("--".into());
        words
    }

    /// Puts a program of `programs/` into [`Arena::bin`].
    pub fn install_program(&self, name: &'static str) {
        crate::programs::install(name, false, self.bin());
    }

    /// `afield` with these arguments, as a job.
    pub fn afield(&self, arguments: &[&str]) -> Job {
        let mut job = Job::new(Duration::from_secs(30));
        job.arguments.push(self.bin().join("afield").into());
        job.arguments.extend(arguments.iter().map(Into::into));
        job
    }

    /// `afield run` of a shell script, on this mode's node, as a job.
    pub fn afield_script(&self, script: &str) -> Job {
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = self.prefix();
        job.arguments.extend(["sh".into(), "-c".into(), script.into()]);
        job
    }

    /// Whoever is at home in this mode, in its network namespace.
    fn at_home(&self) -> Surroundings {
        Surroundings {
            user: self.mode.user.then_some(USER),
            namespaces: self
                .network
                .as_ref()
                .map(|network| network.home.clone())
                .unwrap_or_default(),
            ..Surroundings::default()
        }
    }

    fn command(&self, job: &Job) -> Command {
        let (program, arguments) = job.arguments.split_first().expect("a job has a program");
        let path = program
            .to_str()
            .and_then(tools::find)
            .unwrap_or_else(|| program.into());
        let mut command = Command::new(path);
        command
            .arg0(program)
            .args(arguments)
            .current_dir(self.work())
            .env_clear();
        command
            .env("PATH", tools::PATH)
            .env("HOME", self.base.join("home"))
            .env("LANG", "C.UTF-8");
        command
            .env("TZ", "UTC")
            .env("TMPDIR", self.base.join("tmp"))
            .env("USER", "afield");
        command
            .env("XDG_CONFIG_HOME", self.config())
            .env("AFIELD_RUNTIME_DIR", self.runtime())
            .env("AFIELD_LINK_GRACE_SECONDS", self.grace)
            .env("AFIELD_FILES_ASKED", self.base.join("asked"));
        if let Some(cache) = std::env::var_os("AFIELD_FILES_CACHE") {
            command.env("AFIELD_FILES_CACHE", cache);
        }
        command.env(MARKER, &self.base);
        command.envs(job.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a job at home.
    pub fn start(&self, job: &Job) -> Running {
        Running::start(
            self.command(job),
            &job.stdin,
            &self.at_home(),
            &self.watch,
            job.timeout,
        )
    }

    /// Starts a job at home on a terminal of its own, in this folder.
    pub fn open_terminal(&self, job: &Job, folder: &Path, size: (u16, u16)) -> Terminal {
        let mut command = self.command(job);
        command.current_dir(folder);
        let surroundings = Surroundings {
            terminal: true,
            ..self.at_home()
        };
        Terminal::start(command, &surroundings, &self.watch, size)
    }

    /// Runs a job at home to its end.
    pub fn run(&self, job: &Job) -> Outcome {
        self.start(job).wait()
    }

    /// Runs a job in a fresh scratch directory, after `setup`, and reads what it left there.
    pub(crate) fn run_fresh(&mut self, setup: &str, job: &Job) -> Outcome {
        let start = SystemTime::now();
        self.remove_scratch();
        for folder in ["work", "home", "tmp"] {
            self.make_folder(&self.base.join(folder));
        }
        if !setup.is_empty() {
            let mut first = Job::new(job.timeout.max(Duration::from_secs(60)));
            first.arguments = vec!["bash".into(), "-euc".into(), setup.into()];
            first.environment.clone_from(&job.environment);
            self.run(&first).expect_exit(0);
        }
        let mut outcome = self.run(job);
        outcome.window.0 = start;
        outcome.tree = Tree::read(&self.work(), outcome.window);
        outcome
    }

    fn remove_scratch(&self) {
        for folder in ["work", "home", "tmp"] {
            // By `rm`, which knows its way out of any depth.
            let path = self.base.join(folder);
            let status = Command::new("rm")
                .arg("-rf")
                .arg(&path)
                .status()
                .expect("rm runs");
            assert!(status.success(), "cannot remove {}", path.display());
        }
    }

    /// Runs a setup script at home, natively.
    pub fn prepare(&self, script: &str) {
        let mut job = Job::new(Duration::from_secs(60));
        job.arguments = vec!["bash".into(), "-euc".into(), script.into()];
        self.run(&job).expect_exit(0);
    }

    /// Panics, with all that is known, if the test left anything behind.
    #[track_caller]
    pub fn expect_clean(&mut self) {
        let report = self.finish();
        assert!(report.is_empty(), "{}\n{}", report.join("\n"), self.logs());
    }

    /// Starts the node daemon, in the modes that have one.
    pub fn start_node(&mut self) {
        let Some(network) = &self.network else { return };
        let namespaces = network.node.clone();
        let address = self.node_address();
        self.start_node_in(namespaces, &address, NODE_PORT);
    }

    /// Starts a node daemon beside the home, at an address with this port.
    pub fn start_node_at(&mut self, address: &str, port: u16) {
        self.start_node_in(self.at_home().namespaces, address, port);
    }

    fn start_node_in(&mut self, namespaces: Vec<(i32, Arc<OwnedFd>)>, address: &str, port: u16) {
        self.introduce(address);
        let mut job = self.afield_at_node(&["node", "--listen", address]);
        job.timeout = Duration::from_secs(3600);
        let surroundings = Surroundings {
            namespaces,
            ..self.at_home()
        };
        let node = Running::start(
            self.command(&job),
            &job.stdin,
            &surroundings,
            &self.watch,
            job.timeout,
        );
        // No job: the marker in its environment is enough to find it.
        self.watch.forget_session(node.pid());
        if !is_listening(node.pid(), port, DAEMON_BOUND) {
            let is_alive = node.is_alive();
            let hint = self.watch.describe();
            self.watch.kill_all();
            let outcome = node.wait();
            let message = outcome.message();
            panic!(
                "afield node does not listen (alive: {is_alive}; {})\n{message}{hint}",
                outcome.ended
            );
        }
        self.node = Some(node);
    }

    /// Kills the node daemon, and starts another one in its place.
    pub fn restart_node(&mut self) {
        if let Some(pid) = self.node_pid().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.stop_node();
        let relay = self.relay.take();
        self.start_node();
        self.relay = relay;
        let node = self.fingerprint(self.afield_at_node(&[]));
        self.trust(&self.node_address(), &node);
    }

    /// Tells the node daemon to end, if there is one, and says what it left behind.
    pub fn stop_node(&mut self) -> Vec<String> {
        let Some(node) = self.node.take() else {
            return Vec::new();
        };
        if let Some(pid) = Pid::from_raw(node.pid()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let session = node.pid();
        let is_its = |process: &Process| process.session == session || process.parent == session;
        let left = self.watch.until_none(DAEMON_BOUND, is_its);
        let mut report = Vec::new();
        if !left.is_empty() {
            report.push(format!(
                "left by a node that was told to end:\n{}",
                self.watch.describe()
            ));
            left.iter().for_each(Process::kill);
        }
        report.extend(node.wait().trouble);
        report
    }

    /// The agent, if there is one.
    pub fn agent(&self) -> Option<Process> {
        let is_agent = |process: &Process| process.is_afield() && process.command_line.contains(" agent");
        self.watch.all().into_iter().find(is_agent)
    }

    /// The node daemon, if there is one.
    pub fn node_pid(&self) -> Option<i32> {
        self.node.as_ref().map(Running::pid)
    }

    /// Stops agent and node, and says what they left behind.
    pub fn finish(&mut self) -> Vec<String> {
        let mut report = Vec::new();
        if self.agent().is_some() {
            let outcome = self.run(&self.afield(&["agent", "stop"]));
            if outcome.ended != crate::Ended::Exit(0) {
                report.push(format!("agent stop: {}: {}", outcome.ended, outcome.message()));
            }
        }
        if self.mode.place != Place::Native {
            let node = self.node_pid();
            let relay = self.relay.as_ref().map(Running::pid);
            let left = self.watch.until_none(DAEMON_BOUND, |process| {
                node.is_none_or(|node| process.session != node && process.parent != node)
                    && relay != Some(process.pid)
            });
            if !left.is_empty() {
                report.push(format!("left by agent stop:\n{}", list(&left)));
            }
        }
        self.stop_relay();
        report.extend(self.stop_node());
        let left = self.watch.until_none(DAEMON_BOUND, |_| true);
        if !left.is_empty() {
            report.push(format!("left at the end:\n{}", list(&left)));
            self.watch.kill_all();
        }
        report.extend(self.dirt());
        report
    }

    /// A job that was killed may leave children, as natively; they come to their own ends. While there are any, the agent
    /// does not let itself be stopped.
    pub fn wait_for_orphans(&self) {
        let until = std::time::Instant::now() + DAEMON_BOUND;
        while std::time::Instant::now() < until {
            let listed = self.run(&self.afield(&["ps", "--json"]));
            if listed.stdout.trim_ascii() == b"[]" {
                return;
            }
        }
    }

    /// Mounts, sockets and temporary files that should not be there when nothing runs.
    pub fn dirt(&self) -> Vec<String> {
        let mut report = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let base = self.base.to_str().unwrap();
        report.extend(
            mounts
                .lines()
                .filter(|line| line.contains(base))
                .map(|line| format!("mount left: {line}")),
        );
        for folder in ["run", "node-run", "tmp"] {
            for entry in fs::read_dir(self.base.join(folder))
                .expect("made by this")
                .flatten()
            {
                let kind = entry.file_type().expect("just listed");
                let is_log = kind.is_file() && entry.path().extension().is_some_and(|name| name == "log");
                // A node's journal stays, as its log does.
                let is_journal = folder == "node-run" && entry.file_name() == "sessions";
                if is_journal {
                    continue;
                }
                if kind.is_socket() || kind.is_fifo() || kind.is_dir() || (folder == "tmp" && !is_log) {
                    report.push(format!("left in {folder}: {:?}", entry.file_name()));
                }
            }
        }
        report
    }

    /// What agent and node wrote down, for a report.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for folder in ["run", "node-run"] {
            for entry in fs::read_dir(self.base.join(folder))
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.path().extension().is_some_and(|name| name == "log") {
                    let log = fs::read_to_string(entry.path()).unwrap_or_default();
                    let lines: Vec<_> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(30)..].join("\n");
                    text += &format!("{folder}/{:?}:\n{last}\n", entry.file_name());
                }
            }
        }
        text
    }

    /// Keeps the directories if that was asked for, and says where.
    pub(crate) fn keep_if_wanted(&mut self) -> String {
        if std::env::var_os("AFIELD_E2E_KEEP").is_none() {
            return String::new();
        }
        let place = format!("kept in {}", self.base.display());
        self.base = PathBuf::new();
        place
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.watch.kill_all();
        if !self.base.as_os_str().is_empty() {
            let _ = Command::new("rm").arg("-rf").arg(&self.base).status();
        }
    }
}
