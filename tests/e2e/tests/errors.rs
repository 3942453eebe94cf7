//! Bad input and bad peers: a clear message, the right exit status, and nothing changed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Case, Mode, Outcome, Place, Random, cases, user_cases};
use afield_link::carrier::Carrier;
use afield_link::frame::{Kind, encode_head};
use afield_link::preamble::{Answer, PREAMBLE_BYTES, SessionId};
use afield_link::resume::Limits;
use afield_link::secure::{self, Identity, SecureStream};
use afield_link::stream::{self, Socket};
use afield_link::wire::{self, Welcome};

const EMBEDDED: Mode = Mode {
    place: Place::Embedded,
    user: false,
};

user_cases! {
    /// An ordinary user cannot read it, at home or elsewhere. The user is told what can be done; what natively runs is refused as if it could not.
    execute_only: Case::home("cp /bin/true e; chmod 111 e; if [ -z \"$AF\" ] && [ $(id -u) != 0 ]; then echo 126; echo 126; echo told; else $AF ./e 2> 1; echo $?; $AF sh -c ./e 2> 2; echo $?; [ $(id -u) = 0 ] || { grep -q 'e may be executed but not read.*afield run --on home' 1 && grep -q 'e may be executed but not read' 2 && echo told; }; fi; rm -f 1 2; chmod 755 e");
    unreadable_working_directory: Case::home("mkdir -p d/e; cd d/e; chmod 0 ..; $AF sh -c '/bin/pwd; ls; echo $?' 2>/dev/null; cd ../..; chmod 700 d 2>/dev/null; true");
    unreadable_directory: Case::guest("mkdir d; echo x > d/f; chmod 0 d; ls d; cat d/f; (cd d); echo $?; chmod 700 d; cat d/f; ls /root >/dev/null; echo $?");
}

cases! {
    /// A tmpfs of one megabyte, in a mount namespace of its own.
    full_disk: Case::home("[ $(id -u) = 0 ] || r=-r; mkdir t; unshare $r -m sh -c 'mount -t tmpfs -o size=1m,nr_inodes=20 none t && cd t && $AF sh -c \"head -c 3000000 /dev/zero > big; echo \\$?; stat -c %s big; echo x > small; echo \\$?; echo more >> big; echo \\$?; rm big; echo x > small; echo \\$?; cat small; for i in \\$(seq 30); do : > n\\$i || break; done; ls | wc -l; cp small n1; dd if=/dev/zero of=d bs=64k count=40 conv=fsync 2>&1 | head -n 1\"; ls | wc -l'").tools(&["unshare"]);
    file_size_limit: Case::home("ulimit -f 8; $AF sh -c 'seq 1 100000 > f'; echo $?; stat -c %s f; $AF sh -c 'trap \"\" XFSZ; seq 1 100000 > g; echo $?'; stat -c %s g; $AF sh -c 'head -c 4096 /dev/zero > h; echo $?; truncate -s 1M h; echo $?'; $AF true");
    file_size_limit_on_output: Case::home("ulimit -f 8; $AF seq 1 100000 > f; echo $?; stat -c %s f; $AF sh -c 'trap \"\" XFSZ; seq 1 100000' > g; echo $?");
    /// What is appended, or written where others have written, has its place at home.
    file_size_limit_on_appended: Case::home("head -c 7000 /dev/zero > f; ulimit -f 16; $AF seq 1 100000 >> f; echo $?; stat -c %s f; $AF sh -c 'trap \"\" XFSZ; echo x; truncate -s 5000 /dev/stdout; head -c 200 /dev/zero; echo $?; truncate -s 9000 /dev/stdout; echo $? >&2' >> f; echo $?; stat -c %s f; (head -c 100 /dev/zero; $AF seq 1 100000; echo $?) > g; stat -c %s g");
    /// Pipes are not files. The agent is there before the limit, which an ordinary one cannot get rid of.
    file_size_limit_on_pipes: Case::home_bash("$AF true; ulimit -f 0; $AF seq 1 100000 | md5sum; seq 1 100000 | $AF sh -c 'cat; echo x > f; echo $?' 2> /dev/null | tail -n 1; $AF true; echo $?");
    memory_limit: Case::home("ulimit -v 200000; $AF perl -e '$x = \"x\" x 500_000_000' 2>&1 | head -c 14; $AF true; echo $?").tools(&["perl"]);
}

/// Runs `afield run` with these arguments, which cannot work: status 125, a message with these words, nothing else.
#[track_caller]
fn refused(arena: &Arena, arguments: &[&str], words: &[&str]) -> Outcome {
    let started = Instant::now();
    let outcome = arena.run(&arena.afield(arguments));
    outcome.expect_exit(125);
    let message = outcome.message();
    assert!(outcome.stdout.is_empty(), "{}", outcome.output());
    assert!(
        message.starts_with("afield: ") && message.lines().count() <= 3,
        "{message}"
    );
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "took {:?}",
        started.elapsed()
    );
    outcome
}

#[test]
fn unknown_node() {
    let mut arena = Arena::new(EMBEDDED);
    refused(&arena, &["run", "--on", "nowhere", "true"], &["nowhere"]);
    refused(&arena, &["run", "--on", "", "true"], &[]);
    arena.expect_clean();
}

#[test]
fn unreachable_node() {
    let mut arena = Arena::new(EMBEDDED);
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    arena.trust(&address, KEY);
    refused(&arena, &["run", "--on", &address, "true"], &[&address]);
    arena.trust("no-such-host.invalid:7070", KEY);
    refused(
        &arena,
        &["run", "--on", "no-such-host.invalid:7070", "true"],
        &["no-such-host.invalid"],
    );
    // The agent goes on.
    arena.run(&arena.afield(&["run", "true"])).expect_exit(0);
    arena.expect_clean();
}

#[test]
fn unreachable_node_over_the_cable() {
    let mode = Mode {
        place: Place::Tcp,
        user: false,
    };
    if !mode.is_wanted("unreachable_node_over_the_cable") {
        return;
    }
    let mut arena = Arena::new(mode);
    let address = arena.node_address();
    arena.introduce(&address);
    refused(&arena, &["run", "--on", &address, "true"], &[&address]);
    arena.start_node();
    arena
        .run(&arena.afield(&["run", "--on", &address, "true"]))
        .expect_exit(0);
    arena.expect_clean();
}

/// Nobody's key.
const KEY: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A peer on loopback that does `serve` with its one connection, and the message that a job gets.
fn peer(serve: impl FnOnce(TcpStream) + Send + 'static) {
    peer_with_key(KEY, serve);
}

/// The same for a peer whose key is this.
fn peer_with_key(key: &str, serve: impl FnOnce(TcpStream) + Send + 'static) {
    let mut arena = Arena::new(EMBEDDED);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || serve(listener.accept().expect("the agent connects").0));
    arena.trust(&address, key);
    refused(&arena, &["run", "--on", &address, "true"], &[&address]);
    thread.join().unwrap();
    arena.run(&arena.afield(&["run", "true"])).expect_exit(0);
    arena.expect_clean();
}

#[test]
fn peer_of_another_version() {
    let identity = Identity::ephemeral().unwrap();
    peer_with_key(&identity.fingerprint().to_string(), move |mut socket| {
        let deadline = Instant::now() + Duration::from_secs(20);
        socket.read_exact(&mut [0; PREAMBLE_BYTES]).unwrap();
        Answer::Go.write(&mut socket).unwrap();
        let secured = secure::accept(socket, &identity, deadline).unwrap();
        let stream = Arc::new(SecureStream::new(secured).unwrap());
        let carrier =
            Carrier::begin_on_node(stream, Limits::default(), SessionId([7; 16]), deadline).unwrap();
        carrier.keep().unwrap();
        let (mut reader, writer) = stream::split(Socket::Carried(carrier)).unwrap();
        let welcome = Welcome {
            protocol: afield_link::PROTOCOL + 1,
            version: "99.0".into(),
            refusal: None,
            name: "future".into(),
            cpus: 1,
            keeps_contents: false,
            file_systems: 1,
            interfaces: vec![],
        };
        let payload = wire::encode(&welcome).unwrap();
        writer.write_frame(Kind::Welcome, 0, &[&payload]).unwrap();
        while reader.read_frame().is_ok() {}
    });
}

/// An agent that ends while a node thinks about its session tells that node.
#[test]
fn agent_that_ends_meanwhile() {
    let mut arena = Arena::new(EMBEDDED);
    let identity = Identity::ephemeral().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    arena.trust(&address, &identity.fingerprint().to_string());
    let job = arena.start(&arena.afield(&["run", "--on", &address, "true"]));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut socket = listener.accept().unwrap().0;
    socket.read_exact(&mut [0; PREAMBLE_BYTES]).unwrap();
    Answer::Go.write(&mut socket).unwrap();
    let secured = secure::accept(socket, &identity, deadline).unwrap();
    let stream = Arc::new(SecureStream::new(secured).unwrap());
    let carrier = Carrier::begin_on_node(stream, Limits::default(), SessionId([7; 16]), deadline).unwrap();
    carrier.keep().unwrap();
    let (mut reader, _writer) = stream::split(Socket::Carried(carrier)).unwrap();
    reader.set_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(reader.read_frame().unwrap().kind, Kind::Hello);
    arena.run(&arena.afield(&["agent", "stop"])).expect_exit(0);
    // Not that nothing was heard any more: that it is over.
    let ended = reader.read_frame();
    assert!(matches!(ended, Err(stream::LinkError::Closed)), "{ended:?}");
    job.wait().expect_exit(125);
    arena.expect_clean();
}

/// A node whose connections begin with another protocol says so before anything else.
#[test]
fn peer_of_another_protocol() {
    peer(|mut socket| {
        socket.read_exact(&mut [0; PREAMBLE_BYTES]).unwrap();
        let mut answer = Answer::Refused("99.0".to_owned()).encode();
        answer[8..12].copy_from_slice(&(afield_link::PROTOCOL + 1).to_le_bytes());
        socket.write_all(&answer).unwrap();
    });
}

#[test]
fn peer_that_sends_garbage() {
    let mut random = Random::seeded("peer_that_sends_garbage");
    for length in [1, 16, 100, 1 << 20] {
        let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
        peer(move |mut stream| {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
    }
}

#[test]
fn peer_that_hangs_up() {
    peer(drop);
}

#[test]
fn peer_that_says_nothing() {
    peer(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

/// A node survives what is no home, and serves the next one.
#[test]
fn garbage_for_a_node() {
    let mut arena = Arena::new(EMBEDDED);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    arena.start_node_at(&address, port);
    let mut random = Random::seeded("garbage_for_a_node");
    for length in [0, 1, 16, 24, 1000, 1 << 20] {
        let mut stream = TcpStream::connect(&address).unwrap();
        let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
        let _ = stream.write_all(&bytes);
    }
    let mut hello = encode_head(Kind::Hello, 0, 5).unwrap().to_vec();
    hello.extend([0xff; 5]);
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(&hello).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It answers with a refusal or hangs up, but soon.
    assert!(
        stream.read_to_end(&mut Vec::new()).is_ok(),
        "the node keeps a stranger's connection"
    );
    arena
        .run(&arena.afield(&["run", "--on", &address, "true"]))
        .expect_exit(0);
    arena.expect_clean();
}

#[test]
fn node_at_no_address_of_its_machine() {
    let mut arena = Arena::new(EMBEDDED);
    refused(&arena, &["node", "--listen", "nonsense"], &["nonsense"]);
    refused(&arena, &["node", "--listen", "192.0.2.1:7070"], &["192.0.2.1"]);
    arena.expect_clean();
}

#[test]
fn address_in_use() {
    let mut arena = Arena::new(EMBEDDED);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    refused(&arena, &["node", "--listen", &address], &[&address]);
    arena.expect_clean();
}

/// Without `/dev/fuse` nothing can run afield; the message says what is missing.
#[test]
fn no_fuse_device() {
    let mut arena = Arena::new(EMBEDDED);
    let user = if rustix::process::getuid().is_root() {
        ""
    } else {
        "-r"
    };
    let script = format!(
        "exec unshare {user} -m sh -c 'mount --bind /dev/null /dev/fuse && exec \"$0\" run true' \"$0\""
    );
    let mut job = arena.afield(&[]);
    let binary = job.arguments.remove(0);
    job.arguments = vec!["sh".into(), "-c".into(), script.into(), binary];
    let outcome = arena.run(&job);
    outcome.expect_exit(125);
    assert!(outcome.message().contains("fuse"), "{}", outcome.message());
    arena.expect_clean();
}

#[test]
fn runtime_directory_of_others() {
    let mut arena = Arena::new(EMBEDDED);
    let path = arena.work().join("open");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut job = arena.afield(&["run", "true"]);
    job.environment
        .push(("AFIELD_RUNTIME_DIR".into(), path.clone().into()));
    let outcome = arena.run(&job);
    outcome.expect_exit(125);
    assert!(
        outcome.message().contains(path.to_str().unwrap()),
        "{}",
        outcome.message()
    );
    arena.expect_clean();
}
