//! Sockets when things go wrong: peers that reset, tables that are full, guests that leak, halves that die.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Case, Mode, Process, Running, cases, modes, need, user_cases};

const BOUND: Duration = Duration::from_secs(20);

fn python(script: &str) -> Case {
    Case::guest("python3 script.py; echo $?")
        .setup(&format!("cat > script.py <<'END'\n{script}\nEND\n"))
        .tools(&["python3"])
        .seconds(120)
}

/// A peer at home, native in both runs, and a guest: `peer.py` serves, `guest.py` is given its port.
fn against_peer(peer: &str, guest: &str) -> Case {
    Case::home("python3 peer.py & while ! [ -s port ]; do sleep 0.01; done; $AF python3 guest.py $(cat port); s=$?; wait; echo $s; rm port")
        .setup(&format!("cat > peer.py <<'END'\nimport os, socket, struct, time\nl = socket.create_server((\"127.0.0.1\", 0))\nopen(\"p\", \"w\").write(str(l.getsockname()[1])); os.rename(\"p\", \"port\"); c, _ = l.accept()\n{peer}\nEND\ncat > guest.py <<'END'\nimport os, select, signal, socket, sys, time\nc = socket.create_connection((\"127.0.0.1\", int(sys.argv[1])))\n{guest}\nEND\n"))
        .tools(&["python3"])
}

const RESET: &str = "c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(\"ii\", 1, 0)); c.close()";

user_cases! {
    /// The table is full at the same count as natively: nothing of what serves a guest is counted as its own.
    full_table: Case::home("$AF true; for n in 8 20 64; do ulimit -Sn $n; $AF python3 script.py; done; exec 9</dev/null; $AF python3 script.py").setup(&format!("cat > script.py <<'END'\n{FULL}\nEND\n")).tools(&["python3"]);
    many_sockets: python("import resource, socket\nresource.setrlimit(resource.RLIMIT_NOFILE, (3000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\nl = socket.create_server((\"127.0.0.1\", 0), backlog=1000); pairs = []\nfor i in range(1000):\n    c = socket.create_connection(l.getsockname()); s, _ = l.accept(); pairs.append((c, s))\nfor i, (c, s) in enumerate(pairs): c.send(b\"%d\" % i)\nprint(sum(s.recv(10) == b\"%d\" % i for i, (c, s) in enumerate(pairs)))\nimport selectors\nwith selectors.DefaultSelector() as e:\n    for c, s in pairs: e.register(s, 1)\n    print(len(e.select(0)))\n    for c, s in pairs[::3]: c.send(b\"x\")\n    print(len(e.select(5)) > 0)\nfor c, s in pairs: c.close()\nprint(sum(len(s.recv(10)) for c, s in pairs))");
}

cases! {
    reset_while_reading: against_peer(&format!("c.sendall(b\"x\" * 10000); time.sleep(0.05); {RESET}"), "p = select.poll(); p.register(c, select.POLLRDHUP)\nprint([e for _, e in p.poll(10000)]); n = 0\ntry:\n    while b := c.recv(3000): n += len(b)\nexcept OSError as error: print(n, error)\nprint(c.recv(10))\ntry: c.send(b\"x\")\nexcept OSError as error: print(error)");
    reset_while_waiting: against_peer(&format!("time.sleep(0.2); {RESET}"), "try: print(c.recv(10))\nexcept OSError as error: print(error)\nprint(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))");
    reset_while_writing: against_peer(&format!("n = 0\nwhile n < 1000000: n += len(c.recv(65536))\n{RESET}"), "try:\n    while True: c.sendall(b\"x\" * 50000)\nexcept OSError as error: print(error)\ntry: c.sendall(b\"x\")\nexcept OSError as error: print(error)\nprint(c.recv(10))");
    reset_under_a_shell: Case::home_bash("python3 peer.py & while ! [ -s port ]; do sleep 0.01; done; $AF bash -c 'exec 3<>/dev/tcp/127.0.0.1/$1; (trap - PIPE; yes >&3); echo $?' _ $(cat port) 2>&1 | sed 's/.*: //'; wait; rm port").setup("cat > peer.py <<'END'\nimport os, socket, struct\nl = socket.create_server((\"127.0.0.1\", 0))\nopen(\"p\", \"w\").write(str(l.getsockname()[1])); os.rename(\"p\", \"port\"); c, _ = l.accept(); n = 0\nwhile n < 500000: n += len(c.recv(65536))\nc.shutdown(socket.SHUT_RDWR); c.close()\nEND\n").tools(&["python3"]);
    /// The peer is slow: what does not fit waits, and nothing is lost.
    slow_peer: against_peer("import hashlib; h = hashlib.md5()\nwhile b := c.recv(20000): h.update(b); time.sleep(0.002)\nc.send(h.hexdigest().encode())", "import hashlib; data = os.urandom(1) * 0 + b\"0123456789abcdef\" * 300000; c.sendall(data); c.shutdown(1); print(c.recv(100).decode() == hashlib.md5(data).hexdigest())");
    /// One after the other: nothing is used up.
    connections_in_turn: python("import socket, threading\nl = socket.create_server((\"127.0.0.1\", 0), backlog=100)\ndef serve():\n    for _ in range(2000):\n        c, _ = l.accept(); c.sendall(c.recv(10)); c.close()\nt = threading.Thread(target=serve); t.start(); good = 0\nfor i in range(2000):\n    with socket.create_connection(l.getsockname()) as c: c.send(b\"%d\" % i); good += c.recv(10) == b\"%d\" % i\nt.join(); print(good)");
    peer_killed: against_peer("os.kill(os.getpid(), 9)", "print(c.recv(10)); c.send(b\"x\"); time.sleep(0.05)\ntry: c.send(b\"x\")\nexcept OSError as error: print(error)");
    guest_killed: against_peer("print(c.recv(100), c.recv(100)); s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)", "c.send(b\"last words\"); time.sleep(0.1); os.kill(os.getpid(), signal.SIGKILL)");
}

const FULL: &str = r#"
import errno, os, socket
kept = []; count = 0
try:
    while True: kept.append(socket.socket()); count += 1
except OSError as error: print(count, errno.errorcode[error.errno])
kept.pop().close(); kept.append(os.open("/dev/null", os.O_RDONLY))
for call in (lambda: os.open("/dev/null", os.O_RDONLY), lambda: os.pipe(), lambda: os.dup(0), lambda: socket.socketpair()):
    try: call(); print("works")
    except OSError as error: print(errno.errorcode[error.errno])
os.close(kept.pop()); [s.close() for s in kept]; kept = []
if count > 6:
    l = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(l.getsockname())
    try:
        while True: kept.append(socket.socket())
    except OSError as error: print(errno.errorcode[error.errno])
    try: l.accept()
    except OSError as error: print(errno.errorcode[error.errno])
    kept.pop().close(); s, _ = l.accept(); s.send(b"accepted after all"); print(c.recv(100))
"#;

modes! {
    leak in ten_thousand_are_left_by_one_that_dies;
    listeners in a_killed_job_frees_its_ports;
    connections in connections_end_with_the_node;
}

/// How many sockets a process at home has open.
fn sockets_of(process: &Process) -> usize {
    let is_socket = |target: &PathBuf| target.to_string_lossy().starts_with("socket:");
    process
        .open_files()
        .iter()
        .filter(|target| is_socket(target))
        .count()
}

fn sockets_of_agent(arena: &Arena) -> usize {
    sockets_of(&arena.agent().expect("a job ran"))
}

fn leak(mode: Mode) {
    const COUNT: usize = 10_000;
    if !need("leak", "python3") {
        return;
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    arena.run(&arena.afield_script("exit 3")).expect_exit(3);
    let before = sockets_of_agent(&arena);
    let script = format!(
        "ulimit -n {limit} || exit 9; exec python3 -c 'import socket, time\nkept = [socket.socket() for _ in range({COUNT})]\nprint(\"ready\", flush=True); time.sleep(1000)'",
        limit = COUNT + 1000
    );
    for round in 0..2 {
        let mut job = arena.start(&arena.afield_script(&script));
        job.until_output("ready");
        let pid = job.pid();
        let count = sockets_of(&Process::read(pid).expect("a deputy"));
        assert!(count >= COUNT, "round {round}: {count}");
        let is_half = |process: &Process| process.pid == pid || process.is_guest();
        let half = arena
            .watch()
            .all()
            .into_iter()
            .find(|process| {
                if round == 0 {
                    process.pid == pid
                } else {
                    process.is_guest()
                }
            })
            .expect("both halves live");
        half.kill();
        job.wait().expect_signal(9);
        assert!(
            arena.watch().until_none(BOUND, is_half).is_empty(),
            "round {round}"
        );
    }
    arena.run(&arena.afield_script("exit 5")).expect_exit(5);
    // The agent hears of the last job's end after the job has ended.
    let until = Instant::now() + BOUND;
    loop {
        let after = sockets_of_agent(&arena);
        if after <= before {
            break;
        }
        assert!(Instant::now() < until, "{before} sockets before, {after} after");
        std::thread::sleep(Duration::from_millis(10));
    }
    arena.expect_clean();
}

const LISTENER: &str = "exec python3 -c 'import socket, time\nl = socket.create_server((\"127.0.0.1\", PORT))\nprint(\"ready\", l.getsockname()[1], flush=True)\nc, _ = l.accept(); c.recv(1); time.sleep(1000)'";

/// The port that a job has told.
fn port_of(job: &Running) -> u16 {
    let output = String::from_utf8_lossy(&job.output_so_far()).into_owned();
    output
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("told with `ready`")
}

fn listeners(mode: Mode) {
    if !need("listeners", "python3") {
        return;
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    let mut port = "0".to_owned();
    for _ in 0..5 {
        let mut job = arena.start(&arena.afield_script(&LISTENER.replace("PORT", &port)));
        job.until_output("ready");
        port = port_of(&job).to_string();
        let pid = job.pid();
        arena
            .watch()
            .all()
            .iter()
            .filter(|process| process.pid == pid)
            .for_each(Process::kill);
        job.wait().expect_signal(9);
    }
    arena.expect_clean();
}

/// A peer at home sees its connection end when the node is gone, as when a process dies.
fn connections(mode: Mode) {
    if !need("connections", "python3") {
        return;
    }
    let mut arena = Arena::new(mode);
    arena.start_node();
    let mut job = arena.start(&arena.afield_script(&LISTENER.replace("PORT", "0")));
    job.until_output("ready");
    let mut peer = afield_e2e::Job::new(BOUND);
    let script = format!(
        "import socket\nc = socket.create_connection((\"127.0.0.1\", {}), timeout=15)\nprint(\"ready\", flush=True)\nprint(c.recv(10))",
        port_of(&job)
    );
    peer.arguments = vec!["python3".into(), "-c".into(), script.into()];
    let mut peer = arena.start(&peer);
    peer.until_output("ready");
    let sessions = arena.watch().all();
    let session = sessions
        .iter()
        .find(|process| process.is_init())
        .expect("the job has a world");
    session.kill();
    let outcome = peer.wait();
    outcome.expect_exit(0);
    assert!(outcome.output().contains("b''"), "{}", outcome.output());
    // Guests die with their world's init, and their deputies as they do.
    job.wait().expect_signal(9);
    arena.expect_clean();
}
