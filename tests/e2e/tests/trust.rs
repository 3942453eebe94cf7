//! Who may compute where: keys, what a node says to homes that it does not know, and what it lets others have.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use afield_e2e::{Arena, Ended, Job, Mode, Outcome, Place, Random, need};
use afield_link::carrier::{Carrier, Dial, Redial};
use afield_link::frame::Kind;
use afield_link::preamble::{self, SessionId};
use afield_link::resume::Limits;
use afield_link::secure::{self, Identity, SecureStream};
use afield_link::stream::{self, Reader, Socket, Writer};
use afield_link::wire::{self, Hello, Welcome};

/// Each test on a node beyond the cable, as root and as an ordinary user.
macro_rules! over_the_cable {
    ($($function:ident in $name:ident;)*) => { $(
        mod $name {
            over_the_cable!(@ $function tcp false);
            over_the_cable!(@ $function tcp_user true);
        }
    )* };
    (@ $function:ident $name:ident $user:literal) => {
        #[test]
        fn $name() {
            let mode = afield_e2e::Mode { place: afield_e2e::Place::Tcp, user: $user };
            if mode.is_wanted(stringify!($function)) {
                let mut arena = afield_e2e::Arena::new(mode);
                arena.start_node();
                super::$function(&mut arena);
                arena.expect_clean();
            }
        }
    };
}

over_the_cable! {
    unknown in unknown_key;
    other in wrong_fingerprint;
    revoked in revoked_while_running;
    modes in key_file_modes;
    writable in admission_file_modes;
    mistaken in line_that_makes_no_sense;
    counted in guests_are_counted;
    hours in hours_are_kept;
    cpus in cpus_are_lent;
    memory in memory_is_bounded;
    asked in key_is_asked_for;
    commands in commands_of_trust;
}

/// Nobody's key.
const KEY: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// On the node, a command that is there natively.
fn run(arena: &Arena, script: &str) -> Outcome {
    arena.run(&arena.afield_script(script))
}

/// A run that cannot be: status 125, and a message with these words.
#[track_caller]
fn refused(outcome: &Outcome, words: &[&str]) {
    outcome.expect_exit(125);
    let message = outcome.message();
    assert!(
        message.starts_with("afield: ") && outcome.stdout.is_empty(),
        "{message}"
    );
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

fn home_key(arena: &Arena) -> String {
    arena.fingerprint(arena.afield(&[]))
}

fn node_key(arena: &Arena) -> String {
    arena.fingerprint(arena.afield_at_node(&[]))
}

fn unknown(arena: &mut Arena) {
    let key = home_key(arena);
    arena.admit(&format!("{KEY} somebody else\n"));
    refused(
        &run(arena, "true"),
        &[
            "does not admit this home's key",
            &format!("afield trust admit {key}"),
        ],
    );
    arena
        .run(&arena.afield_at_node(&["trust", "admit", &key, "the", "home"]))
        .expect_exit(0);
    run(arena, "exit 3").expect_exit(3);
}

fn other(arena: &mut Arena) {
    let address = arena.node_address();
    let key = node_key(arena);
    arena.trust(&address, KEY);
    refused(
        &run(arena, "true"),
        &[&format!("its key is {key}, not {KEY}"), "afield trust remove"],
    );
    fs::remove_file(arena.config().join("afield/trusted_nodes")).unwrap();
    refused(
        &run(arena, "true"),
        &[
            "not trusted yet",
            &format!("afield trust add NAME {address} --ask"),
        ],
    );
    arena.trust(&address, &key);
    run(arena, "exit 4").expect_exit(4);
}

fn revoked(arena: &mut Arena) {
    let key = home_key(arena);
    let mut job = arena.start(&arena.afield_script("echo begun; sleep 1000"));
    job.until_output("begun");
    let node = arena.node_pid().unwrap();
    arena
        .run(&arena.afield_at_node(&["trust", "revoke", &key]))
        .expect_exit(0);
    let since = Instant::now();
    let outcome = job.wait();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    outcome.expect_exit(125);
    let message = outcome.message();
    assert!(
        message.contains("is gone: it does not admit this home's key"),
        "{message}"
    );
    let left = arena
        .watch()
        .until_none(Duration::from_secs(10), |process| process.parent == node);
    assert!(left.is_empty(), "{left:?}");
    refused(&run(arena, "true"), &["does not admit"]);
    arena.admit(&format!("{key}\n"));
    run(arena, "exit 5").expect_exit(5);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn modes(arena: &mut Arena) {
    let path = arena.config().join("afield/key");
    let shown = path.to_str().unwrap();
    for mode in [0o640, 0o604, 0o660] {
        set_mode(&path, mode);
        let mode = format!("mode {mode:04o}");
        let remedy = format!("chmod 600 {shown}");
        refused(&run(arena, "true"), &[shown, &mode, &remedy]);
        refused(&arena.run(&arena.afield(&["key"])), &[shown, &mode, &remedy]);
        let doctor = arena.run(&arena.afield(&["doctor"]));
        assert_eq!(doctor.ended, Ended::Exit(1));
        assert!(doctor.output().contains(&remedy), "{}", doctor.output());
    }
    set_mode(&path, 0o600);
    run(arena, "exit 6").expect_exit(6);
    let path = arena.node_config().join("afield/key");
    set_mode(&path, 0o644);
    refused(
        &arena.run(&arena.afield_at_node(&["node", "--listen", "127.0.0.1:0"])),
        &[path.to_str().unwrap(), "chmod 600"],
    );
    set_mode(&path, 0o600);
}

fn writable(arena: &mut Arena) {
    let path = arena.node_config().join("afield/authorized_homes");
    set_mode(&path, 0o666);
    refused(&run(arena, "true"), &["cannot tell whom it admits"]);
    refused(
        &arena.run(&arena.afield_at_node(&["node", "--listen", "127.0.0.1:0"])),
        &[path.to_str().unwrap(), "chmod go-w"],
    );
    set_mode(&path, 0o644);
    let path = arena.config().join("afield/trusted_nodes");
    set_mode(&path, 0o646);
    refused(&run(arena, "true"), &[path.to_str().unwrap(), "chmod go-w"]);
    set_mode(&path, 0o644);
    run(arena, "exit 7").expect_exit(7);
}

fn mistaken(arena: &mut Arena) {
    let key = home_key(arena);
    arena.admit(&format!("# homes\n\ncpu=1 {key} the home\n{key}\n"));
    refused(&run(arena, "true"), &["authorized_homes:3: no option `cpu`"]);
    let listed = arena.run(&arena.afield_at_node(&["trust", "list"]));
    assert!(
        listed.output().contains("authorized_homes:3: no option `cpu`"),
        "{}",
        listed.output()
    );
}

fn counted(arena: &mut Arena) {
    let key = home_key(arena);
    arena.admit(&format!("guests=3 {key} the home\n"));
    // The shell is the first.
    let script = "sleep 1000 & sleep 1000 & echo two; (true) || echo refused; kill %1; wait %1; (true) && echo one more; kill %2";
    let outcome = run(arena, script);
    let message = outcome.message();
    assert!(
        message.contains("no more than 3 guests of this home"),
        "{message}"
    );
    assert!(outcome.output().starts_with("two\n"), "{}", outcome.output());
    // Counted over jobs, and given back by those that have ended.
    let mut jobs: Vec<_> = (0..3)
        .map(|_| {
            let mut job = arena.start(&arena.afield_script("echo there; exec sleep 1000"));
            job.until_output("there");
            job
        })
        .collect();
    refused(&run(arena, "true"), &["no more than 3 guests"]);
    let ended = jobs.pop().unwrap();
    kill(ended.pid());
    ended.wait();
    run(arena, "exit 3").expect_exit(3);
    for job in jobs {
        kill(job.pid());
        job.wait();
    }
    for _ in 0..20 {
        run(arena, "(true); (true)").expect_exit(0);
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// `HH:MM`, so many hours from now, by the clock that the node is given (UTC).
fn hour_from_now(hours: u64) -> String {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let minute = (seconds / 60 + hours * 60) % (24 * 60);
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn hours(arena: &mut Arena) {
    let key = home_key(arena);
    let closed = format!("hours={}-{}", hour_from_now(2), hour_from_now(5));
    let open = format!("hours={}-{}", hour_from_now(22), hour_from_now(3));
    let agent_stop = arena.afield(&["agent", "stop"]);
    arena.admit(&format!("{closed} {key}\n"));
    refused(&run(arena, "true"), &["only at certain hours", &closed[6..]]);
    arena.admit(&format!("{closed},{open} {key}\n"));
    run(arena, "exit 8").expect_exit(8);
    arena.run(&agent_stop).expect_exit(0);
}

fn cpus(arena: &mut Arena) {
    if !need("cpus", "taskset") {
        return;
    }
    let key = home_key(arena);
    arena.admit(&format!("cpus=1 {key}\n"));
    let outcome = run(
        arena,
        "nproc; taskset -p ffffffff $$ > /dev/null; nproc; (taskset -p ffffffff $$ > /dev/null; nproc); taskset -c 0-1000 nproc",
    );
    assert_eq!(outcome.output(), "1\n1\n1\n1\n", "{}", outcome.message());
    // Every CPU is lent to somebody: the next session gets another one.
    let first = run(arena, "taskset -cp $$").output();
    arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
    let second = run(arena, "taskset -cp $$").output();
    let cpu = |text: &str| text.trim().rsplit(' ').next().map(str::to_owned);
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert_ne!(cpu(&first), cpu(&second));
    }
}

fn memory(arena: &mut Arena) {
    if !need("memory", "perl") {
        return;
    }
    let key = home_key(arena);
    arena.admit(&format!("memory=80M {key}\n"));
    run(arena, "exec perl -e '$x = \"x\" x 20_000_000; sleep 1; exit 9'").expect_exit(9);
    // Two that are small enough by themselves; the larger one goes.
    let script = "perl -e '$x = \"x\" x 30_000_000; sleep 1000' & perl -e '$x = \"x\" x 20_000_000; sleep 5' & wait %1; echo $?; wait %2; echo $?";
    let outcome = run(arena, script);
    assert_eq!(outcome.output(), "137\n0\n", "{}", outcome.message());
    assert!(
        outcome.message().contains("guests may have 83886080 bytes"),
        "{}",
        outcome.message()
    );
}

fn asked(arena: &mut Arena) {
    let address = arena.node_address();
    let key = node_key(arena);
    let trusted = arena.config().join("afield/trusted_nodes");
    fs::remove_file(&trusted).unwrap();
    let ask = arena.afield(&["trust", "add", "there", &address, "--ask"]);
    refused(&arena.run(&ask), &["no terminal", "afield key"]);
    for (answer, code) in [("no\r", 125), ("\r", 125), ("yes\r", 0)] {
        assert!(!trusted.exists());
        let terminal = arena.open_terminal(&ask, &arena.work(), (24, 100));
        terminal.until("(yes/no)");
        assert!(terminal.text().contains(&key), "{}", terminal.text());
        terminal.keys(answer);
        let (ended, trouble) = terminal.wait();
        assert_eq!(ended, Ended::Exit(code));
        assert!(trouble.is_empty(), "{trouble:?}");
    }
    arena
        .run(&arena.afield(&["run", "--on", "there", "sh", "-c", "exit 3"]))
        .expect_exit(3);
}

fn commands(arena: &mut Arena) {
    let address = arena.node_address();
    let (home, node) = (home_key(arena), node_key(arena));
    let at_home = |words: &[&str]| arena.run(&arena.afield(words));
    let at_node = |words: &[&str]| arena.run(&arena.afield_at_node(words));
    at_home(&["trust", "add", "there", &address, &node]).expect_exit(0);
    at_home(&["trust", "add", "there", &address, &node]).expect_exit(0);
    refused(
        &at_home(&["trust", "add", "there", &address, KEY]),
        &["another key", "trust remove there"],
    );
    refused(
        &at_home(&["trust", "add", "home", &address, KEY]),
        &["meaning of its own"],
    );
    refused(&at_home(&["trust", "add", "x", "nowhere", KEY]), &["HOST:PORT"]);
    refused(
        &at_home(&["trust", "add", "x", &address, "SHA256:x"]),
        &["not a fingerprint"],
    );
    at_home(&["run", "--on", "there", "sh", "-c", "exit 3"]).expect_exit(3);
    let listed = at_home(&["trust", "list"]).output();
    assert!(
        listed.contains(&format!("node there {address} {node}\n")),
        "{listed}"
    );
    at_home(&["trust", "remove", "there"]).expect_exit(0);
    refused(&at_home(&["trust", "remove", "there"]), &["`there`"]);
    refused(
        &at_home(&["run", "--on", "there", "true"]),
        &["unknown node `there`"],
    );

    at_node(&["trust", "revoke", "the home"]).expect_exit(0);
    refused(&at_node(&["trust", "revoke", "the home"]), &["`the home`"]);
    refused(
        &at_node(&["trust", "admit", &home, "--options", "cpus=0"]),
        &["`cpus`"],
    );
    at_node(&[
        "trust",
        "admit",
        &home,
        "me",
        "again",
        "--options",
        "guests=9,hours=00:00-24:00",
    ])
    .expect_exit(0);
    refused(&at_node(&["trust", "admit", &home]), &["stands in"]);
    let listed = at_node(&["trust", "list"]).output();
    assert_eq!(
        listed,
        format!("home guests=9,hours=00:00-24:00 {home} me again\n")
    );
    run(arena, "exit 4").expect_exit(4);
}

const EMBEDDED: Mode = Mode {
    place: Place::Embedded,
    user: false,
};

/// A node on loopback, to which tests can speak themselves.
fn node_here() -> (Arena, String) {
    let mut arena = Arena::new(EMBEDDED);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    arena.start_node_at(&address, port);
    (arena, address)
}

fn link(address: &str, identity: &Identity) -> (Reader, Writer) {
    let mut socket = TcpStream::connect(address).unwrap();
    preamble::ask(&mut socket, SessionId::default()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let secured = secure::connect(socket, identity, None, deadline).unwrap();
    let stream = Arc::new(SecureStream::new(secured).unwrap());
    let dial: Dial = Box::new(|_, _| Err(Redial::Never("one connection is enough".to_owned())));
    let carrier = Carrier::begin_at_home(stream, Limits::default(), dial, deadline).unwrap();
    carrier.keep().unwrap();
    let (mut reader, writer) = stream::split(Socket::Carried(carrier)).unwrap();
    reader.set_timeout(Some(Duration::from_secs(20))).unwrap();
    (reader, writer)
}

fn refusal(reader: &mut Reader) -> String {
    let frame = reader.read_frame().unwrap();
    assert_eq!(frame.kind, Kind::Welcome);
    let welcome: Welcome = wire::decode(&frame.payload).unwrap();
    welcome.refusal.unwrap()
}

/// A home that is not admitted hears why, whatever it says, and before it says anything.
#[test]
fn unknown_home_that_says_something() {
    let (mut arena, address) = node_here();
    let mut random = Random::seeded("unknown_home_that_says_something");
    for length in [0, 100, 70_000] {
        let (mut reader, writer) = link(&address, &Identity::ephemeral().unwrap());
        let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
        let _ = writer.write_frame(Kind::File, 7, &[&bytes]);
        assert!(refusal(&mut reader).contains("does not admit this home's key"));
        assert!(reader.read_frame().is_err());
    }
    arena
        .run(&arena.afield(&["run", "--on", &address, "true"]))
        .expect_exit(0);
    arena.expect_clean();
}

#[test]
fn home_of_another_version() {
    let (mut arena, address) = node_here();
    let identity = Identity::ephemeral().unwrap();
    arena.admit(&format!("{}\n", identity.fingerprint()));
    let (mut reader, writer) = link(&address, &identity);
    let hello = Hello {
        protocol: afield_link::PROTOCOL + 1,
        version: "99.0".into(),
        uid: 1,
        gid: 1,
        groups: Vec::new(),
        uname: [const { String::new() }; 6],
        monotonic_ns: 0,
        boottime_ns: 0,
        home: 1,
        epoch: 1,
        mounts: vec![],
        interfaces: Vec::new(),
    };
    writer
        .write_frame(Kind::Hello, 0, &[&wire::encode(&hello).unwrap()])
        .unwrap();
    let why = refusal(&mut reader);
    assert!(why.contains("99.0") && why.contains("protocol"), "{why}");
    arena.expect_clean();
}

/// Connections that prove nothing cost little, and do not keep a node from serving when they have gone.
#[test]
fn strangers_are_bounded() {
    let (mut arena, address) = node_here();
    let node = arena.node_pid().unwrap();
    let strangers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let sessions = || {
        let processes = arena.watch().all();
        processes.iter().filter(|process| process.parent == node).count()
    };
    // Those that are too many are hung up on.
    let mut open = 0;
    for stranger in &strangers {
        stranger
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let got = std::io::Read::read(&mut &*stranger, &mut [0]);
        open += usize::from(got.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!((1..=16).contains(&open), "{open}");
    assert!(sessions() <= 16);
    drop(strangers);
    arena
        .watch()
        .until_none(Duration::from_secs(10), |process| process.parent == node);
    arena
        .run(&arena.afield(&["run", "--on", &address, "true"]))
        .expect_exit(0);
    arena.expect_clean();
}

/// A job is not kept waiting for ever by a node that does not finish the handshake.
#[test]
fn key_of_a_node_that_says_nothing() {
    let mut arena = Arena::new(EMBEDDED);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    arena.trust(&address, KEY);
    let since = Instant::now();
    let job: Job = arena.afield(&["run", "--on", &address, "true"]);
    refused(&arena.run(&job), &[&address, "not finished in time"]);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    arena.expect_clean();
}
