//! Nodes that ssh leads to: a real server, which has nothing of afield's.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Ended, Mode, Outcome, Running, need};

/// An arena with an OpenSSH server in it.
struct Site {
    arena: Arena,
    server: Running,
    url: String,
}

/// As root and, where the suite is run by root, as an ordinary user.
macro_rules! by_ssh {
    ($($function:ident in $name:ident;)*) => { $(
        mod $name {
            by_ssh!(@ $function root false);
            by_ssh!(@ $function user true);
        }
    )* };
    (@ $function:ident $name:ident $user:literal) => {
        #[test]
        fn $name() {
            let mode = afield_e2e::Mode { place: afield_e2e::Place::Embedded, user: $user };
            if let Some(site) = super::Site::open(stringify!($function), mode) {
                super::$function(&site);
                site.close();
            }
        }
    };
}

by_ssh! {
    copied in copied_once;
    together in several_at_once;
    unable in what_cannot_be_is_said;
    asked in questions_on_a_terminal;
    cut in connection_cut;
    killed in node_killed;
}

/// A server that takes logins of its own user by `key`, and one line of whose configuration is the test's.
const SERVER: &str = "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; mkdir cache tools
printf \"Port $PORT\\nListenAddress 127.0.0.1\\nHostKey $PWD/host\\nAuthorizedKeysFile $PWD/key.pub\\nStrictModes no\\nUsePAM no\\nPidFile none\\nSetEnv PATH=$PWD/tools:/usr/bin:/bin XDG_CACHE_HOME=$PWD/cache AFIELD_E2E=$AFIELD_E2E\\n\" > sshd_config
printf \"IdentityFile $PWD/key\\nIdentitiesOnly yes\\nUserKnownHostsFile $PWD/known\\nGlobalKnownHostsFile none\\nLogLevel ERROR\\n\" > config
printf \"[127.0.0.1]:$PORT $(cut -d ' ' -f 1-2 host.pub)\\n\" > known
printf '#!/bin/sh\\nexec /usr/bin/ssh -F %s/config \"$@\"\\n' $PWD > ssh; chmod 755 ssh";

impl Site {
    fn open(name: &str, mode: Mode) -> Option<Self> {
        Self::open_in(name, mode, None)
    }

    /// One whose server is in namespaces of its own, in which this was done before.
    fn open_in(name: &str, mode: Mode, setup: Option<&str>) -> Option<Self> {
        let server = "/usr/sbin/sshd";
        if !mode.is_wanted(name) || !need(name, "ssh") || !need(name, "ssh-keygen") || !need(name, server) {
            return None;
        }
        let by_root = !mode.user && rustix::process::getuid().is_root();
        // Its user has to have a name, which only root's is sure to have.
        if mode.user && !need(name, "/usr/lib/x86_64-linux-gnu/libnss_wrapper.so") {
            return None;
        }
        if by_root {
            // Of the package's; the server insists.
            let _ = fs::create_dir("/run/sshd");
        }
        let mut arena = Arena::new(mode);
        // A login takes its time.
        arena.set_grace("30");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let named = match mode.user {
            true => {
                "printf \"afield:x:$(id -u):$(id -g)::$PWD:/bin/sh\\n\" > passwd; printf \"afield:x:$(id -g):\\n\" > group; export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libnss_wrapper.so NSS_WRAPPER_PASSWD=$PWD/passwd NSS_WRAPPER_GROUP=$PWD/group\n"
            }
            false => "",
        };
        arena.prepare(&format!("PORT={port}\n{named}{SERVER}"));
        let mut job = arena.afield(&[]);
        job.arguments = match setup {
            None => [server, "-D", "-e", "-f", "sshd_config"].map(Into::into).to_vec(),
            Some(setup) => {
                // What makes an ordinary user able to do it, the server and its logins must not have.
                let script = format!(
                    "BIN={} ; {setup} && exec setpriv {} {server} -D -e -f sshd_config",
                    arena.bin().display(),
                    if by_root {
                        "--no-new-privs"
                    } else {
                        "--ambient-caps=-all --inh-caps=-all"
                    }
                );
                let namespaces = if by_root { "-m" } else { "-cm" };
                let words = ["unshare", namespaces, "--keep-caps", "sh", "-c", &script];
                words.map(Into::into).to_vec()
            }
        };
        job.timeout = Duration::from_secs(600);
        job.environment = wrapped(&arena, mode.user);
        let server = arena.start(&job);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let user = if mode.user { "afield@" } else { "" };
        Some(Self {
            url: format!("ssh://{user}127.0.0.1:{port}"),
            arena,
            server,
        })
    }

    fn job(&self, command: &[&str]) -> afield_e2e::Job {
        let mut words = vec!["run", "--on", self.url.as_str(), "--"];
        words.extend(command);
        let mut job = self.arena.afield(&words);
        let user = self.url.contains("afield@");
        job.environment = wrapped(&self.arena, user);
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", self.arena.work().display());
        job.environment.push(("PATH".into(), path.into()));
        job
    }

    fn run(&self, script: &str) -> Outcome {
        self.arena.run(&self.job(&["sh", "-c", script]))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.arena.work().join(name), text).unwrap();
    }

    fn agent_stop(&self) {
        let mut stop = self.arena.afield(&["agent", "stop"]);
        stop.environment = self.job(&[]).environment;
        self.arena.run(&stop).expect_exit(0);
    }

    fn close(mut self) {
        self.agent_stop();
        expect_no_node(&self);
        let pid = rustix::process::Pid::from_raw(self.server.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.server.wait();
        self.arena.expect_clean();
    }
}

/// The environment in which an ordinary user has a name.
fn wrapped(arena: &Arena, user: bool) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    if !user {
        return Vec::new();
    }
    vec![
        (
            "LD_PRELOAD".into(),
            "/usr/lib/x86_64-linux-gnu/libnss_wrapper.so".into(),
        ),
        ("NSS_WRAPPER_PASSWD".into(), arena.work().join("passwd").into()),
        ("NSS_WRAPPER_GROUP".into(), arena.work().join("group").into()),
    ]
}

fn copies(site: &Site) -> Vec<(String, u64)> {
    let folder = site.arena.work().join("cache/afield");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.metadata().unwrap().is_file())
        .map(|entry| {
            let modified = entry.metadata().unwrap().modified().unwrap();
            let since = modified
                .duration_since(std::time::SystemTime::UNIX_EPOCH)
                .unwrap();
            (entry.file_name().into_string().unwrap(), since.as_nanos() as u64)
        })
        .collect();
    found.sort();
    found
}

fn copied(site: &Site) {
    let outcome = site.run("echo $$; pwd; seq 1 100000 | tail -n 1; cat config | head -n 1; exit 7");
    outcome.expect_exit(7);
    let output = outcome.output();
    assert!(
        output.contains(site.arena.work().to_str().unwrap()) && output.contains("100000\nIdentityFile"),
        "{output}"
    );
    let first = copies(site);
    assert_eq!(first.len(), 1, "{first:?}");
    site.agent_stop();
    site.run("exit 8").expect_exit(8);
    assert_eq!(copies(site), first, "it was copied again");
    // A copy that is not what it should be is not used.
    site.agent_stop();
    // While it runs it cannot be written to.
    expect_no_node(site);
    let path = site.arena.work().join("cache/afield").join(&first[0].0);
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(1000);
    fs::write(&path, bytes).unwrap();
    site.run("exit 9").expect_exit(9);
    assert_eq!(copies(site).len(), 1);
}

fn together(site: &Site) {
    let mut jobs = Vec::new();
    for number in 0..4 {
        let mut job = site.job(&["sh", "-c", "echo here; exit 5"]);
        // Agents of their own, so that they log in at the same time.
        let runtime = site.arena.work().join(format!("run{number}"));
        site.arena.make_folder(&runtime);
        fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        job.environment
            .push(("AFIELD_RUNTIME_DIR".into(), runtime.into()));
        jobs.push((site.arena.start(&job), job));
    }
    for (running, job) in jobs {
        running.wait().expect_exit(5);
        let mut stop = site.arena.afield(&["agent", "stop"]);
        stop.environment = job.environment;
        site.arena.run(&stop).expect_exit(0);
    }
    assert_eq!(copies(site).len(), 1);
}

fn unable(site: &Site) {
    let refused = |words: &[&str]| {
        let outcome = site.run("true");
        outcome.expect_exit(125);
        for word in words {
            assert!(
                outcome.message().contains(word),
                "no {word:?} in {}",
                outcome.message()
            );
        }
    };
    let known = fs::read_to_string(site.arena.work().join("known")).unwrap();
    site.write("known", "");
    refused(&[
        "ssh does not know that machine's key",
        &format!("`ssh {} true`", site.url),
    ]);
    site.write("known", &known);
    let key = fs::read_to_string(site.arena.work().join("key.pub")).unwrap();
    site.write("key.pub", "");
    refused(&["ssh could not log in without a question", "ssh-add"]);
    site.write("key.pub", &key);
    // A folder in whose place there is a file.
    let cache = site.arena.work().join("cache/afield");
    fs::write(&cache, "").unwrap();
    refused(&["cache/afield cannot be made or written to", "XDG_CACHE_HOME"]);
    fs::remove_file(&cache).unwrap();
    // A machine of another kind.
    let uname = site.arena.work().join("tools/uname");
    site.write(
        "tools/uname",
        "#!/bin/sh\n[ $1 = -m ] && echo riscv64 || echo Linux\n",
    );
    fs::set_permissions(&uname, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    refused(&["its machine is Linux riscv64", "build afield there"]);
    fs::remove_file(&uname).unwrap();
    // What is to be the daemon's directory is none.
    site.run("exit 2").expect_exit(2);
    site.agent_stop();
    expect_no_node(site);
    let folder = fs::read_dir(&cache)
        .unwrap()
        .flatten()
        .find(|entry| {
            entry.metadata().unwrap().is_dir() && entry.file_name().to_string_lossy().starts_with("node-")
        })
        .unwrap();
    fs::remove_dir_all(folder.path()).unwrap();
    fs::write(folder.path(), "").unwrap();
    refused(&["it could not begin there", "remove it"]);
    fs::remove_file(folder.path()).unwrap();
    let mut job = site.job(&["true"]);
    job.environment.push(("PATH".into(), "/nonexistent".into()));
    job.arguments.pop();
    job.arguments.push("/bin/true".into());
    let outcome = site.arena.run(&job);
    outcome.expect_exit(125);
    assert!(
        outcome.message().contains("no program `ssh`"),
        "{}",
        outcome.message()
    );
    // A port where nobody listens.
    let mut job = site.arena.afield(&["run", "--on", "ssh://127.0.0.1:1", "true"]);
    job.environment = site.job(&[]).environment;
    let outcome = site.arena.run(&job);
    outcome.expect_exit(125);
    assert!(outcome.message().contains("refused"), "{}", outcome.message());
    site.run("exit 3").expect_exit(3);
}

/// A key with a passphrase: ssh asks for it on the job's terminal, once for all jobs.
fn asked(site: &Site) {
    let mut change = site.job(&[]);
    change.arguments = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", "key"]
        .map(Into::into)
        .to_vec();
    site.arena.run(&change).expect_exit(0);
    let outcome = site.run("true");
    outcome.expect_exit(125);
    let job = site.job(&["sh", "-c", "echo there; exit 6"]);
    let terminal = site.arena.open_terminal(&job, &site.arena.work(), (24, 200));
    terminal.until("passphrase");
    terminal.keys("secret\r");
    terminal.until("there");
    let (ended, trouble) = terminal.wait();
    assert_eq!(ended, Ended::Exit(6), "{trouble:?}");
    site.run("exit 7").expect_exit(7);
}

fn the_ssh(site: &Site) -> Option<afield_e2e::Process> {
    let is_ssh = |process: &afield_e2e::Process| process.command_line.contains("BatchMode=yes");
    site.arena.watch().all().into_iter().find(is_ssh)
}

/// Of what ssh leads to, nothing is left soon after nobody needs it.
fn expect_no_node(site: &Site) {
    let left = site.arena.watch().until_none(Duration::from_secs(20), |process| {
        process.command_line.contains("node --bridge")
    });
    assert!(left.is_empty(), "{left:?}");
}

/// A lost connection is replaced by another login, and the job notices nothing, twice.
fn cut(site: &Site) {
    let mut job = site.arena.start(&site.job(&[
        "sh",
        "-c",
        "echo begun; for n in 1 2; do while [ ! -e go$n ]; do sleep 0.01; done; echo went $n; done; exit 6",
    ]));
    job.until_output("begun");
    for number in 1..=2 {
        let before = the_ssh(site).unwrap();
        before.kill();
        let until = Instant::now() + Duration::from_secs(30);
        while the_ssh(site).is_none_or(|ssh| ssh.pid == before.pid) {
            assert!(Instant::now() < until, "nobody logs in again");
            std::thread::sleep(Duration::from_millis(5));
        }
        site.write(&format!("go{number}"), "");
        job.until_output(&format!("went {number}"));
    }
    let outcome = job.wait();
    outcome.expect_exit(6);
    assert_eq!(outcome.output(), "begun\nwent 1\nwent 2\n");
    site.agent_stop();
    expect_no_node(site);
    site.run("exit 4").expect_exit(4);
}

/// When the node's side is killed, the job's user hears of it, and nothing is left there.
fn killed(site: &Site) {
    let mut job = site
        .arena
        .start(&site.job(&["sh", "-c", "echo begun; sleep 1000"]));
    job.until_output("begun");
    // Its session, its world and whoever carries bytes as well.
    for process in site.arena.watch().all() {
        if process.command_line.contains("node --bridge") {
            process.kill();
        }
    }
    let outcome = job.wait();
    outcome.expect_exit(125);
    assert!(outcome.message().contains("is gone"), "{}", outcome.message());
    expect_no_node(site);
    site.run("exit 4").expect_exit(4);
}

/// Machines that lack something: what is done in namespaces of its own before the server starts, and what a job's user is told.
macro_rules! poor_machines {
    ($($(#[$meta:meta])* $name:ident: $setup:literal, $words:expr;)*) => { $(
        $(#[$meta])*
        mod $name {
            poor_machines!(@ $name root false $setup, $words);
            poor_machines!(@ $name user true $setup, $words);
        }
    )* };
    (@ $name:ident $who:ident $user:literal $setup:literal, $words:expr) => {
        #[test]
        fn $who() {
            let mode = afield_e2e::Mode { place: afield_e2e::Place::Embedded, user: $user };
            super::poor(stringify!($name), mode, $setup, &$words);
        }
    };
}

poor_machines! {
    other_device_there: "mount --bind /dev/null /dev/fuse", ["/dev/fuse", "FUSE"];
    no_device_there: "mkdir dev; for name in null zero random urandom tty ptmx; do : > dev/$name; mount --bind /dev/$name dev/$name; done; mkdir dev/pts; mount --bind /dev/pts dev/pts && mount --rbind dev /dev", ["/dev/fuse", "load the fuse module"];
    noexec_there: "mount -t tmpfs -o noexec,mode=700 none cache", ["noexec", "XDG_CACHE_HOME"];
    no_room_there: "mount -t tmpfs -o size=1m,mode=700 none cache", ["no room", "XDG_CACHE_HOME"];
    /// Room for the program, but not for what it makes: its directory's first file, its daemon's first words, the session's entry.
    no_files_there: "mount -t tmpfs -o nr_inodes=4,mode=700 none cache", ["it could not begin there", "No space left"];
    no_log_there: "mount -t tmpfs -o nr_inodes=8,mode=700 none cache", ["it could not begin there", "No space left"];
    no_session_there: "mount -t tmpfs -o nr_inodes=12,mode=700 none cache", ["No space left"];
    read_only_there: "mount -t tmpfs -o ro none cache", ["cannot be made or written to", "XDG_CACHE_HOME"];
}

/// Root's own could only be forbidden for the whole machine.
#[test]
fn no_user_namespaces_there() {
    let user = rustix::process::getuid().is_root();
    let mode = Mode {
        place: afield_e2e::Place::Embedded,
        user,
    };
    let setup = "echo 0 > /proc/sys/user/max_user_namespaces";
    poor(
        "no_user_namespaces_there",
        mode,
        setup,
        &["user namespace", "max_user_namespaces"],
    );
}

fn poor(name: &str, mode: Mode, setup: &str, words: &[&str]) {
    let Some(site) = Site::open_in(name, mode, Some(setup)) else {
        return;
    };
    let outcome = site.run("true");
    outcome.expect_exit(125);
    let message = outcome.message();
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
    expect_no_node(&site);
    // A copy that is whole, and what belongs to it, may stay; in a place where it is of no use nothing does.
    let mut look = site.job(&[]);
    let ssh = site.arena.work().join("ssh").into_os_string();
    look.arguments = vec![ssh, (&site.url).into(), "ls -A $XDG_CACHE_HOME/afield".into()];
    let found = site.arena.run(&look);
    let names = found.output();
    let is_part = |name: &&str| {
        name.rsplit_once('.')
            .is_some_and(|(_, end)| end.parse::<u32>().is_ok())
    };
    assert_eq!(names.lines().find(is_part), None, "{names}");
    let is_useless = message.contains("XDG_CACHE_HOME");
    assert_eq!(names.is_empty(), is_useless, "{names}{}", found.message());
    site.close();
}
