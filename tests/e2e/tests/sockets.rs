//! Sockets of every family: what one program sees of them, and what programs afield and at home say to each other.

use afield_e2e::{Case, cases, mask, user_cases};

user_cases! {
    connecting: Case::program("connecting");
    messages: Case::program("messages").seconds(120);
    names_of_sockets: Case::program("names_of_sockets");
    options: Case::program("options");
    readiness: Case::program("readiness").seconds(120);
    all_options: Case::program("options").arguments(&["all"]);
    passing_privately: Case::program("passing").arguments(&["private"]);
    passing_by_name: Case::program("passing").arguments(&["named"]);
    passing_edges: Case::program("passing").arguments(&["edges"]);
    credentials: Case::program("passing").arguments(&["credentials"]);
    sharing: Case::program("sharing").arguments(&["processes"]);
    sharing_signals: Case::program("sharing").arguments(&["signals"]);
    sharing_threads: Case::program("sharing").arguments(&["threads"]);
    sharing_asynchronous: Case::program("sharing").arguments(&["asynchronous"]);
    moving_files: Case::program("moving").arguments(&["files"]);
    moving_pipes: Case::program("moving").arguments(&["pipes"]);
    socket_controls: Case::program("moving").arguments(&["controls"]);
    families: Case::program("families");
}

/// The two halves of a conversation, each sent afield or kept at home; both outputs, one after the other.
fn meeting(server: &str, caller: &str, kind: &str) -> Case {
    Case::home(&format!(
        "{server} $BIN/meeting serve {kind} place > served 2>&1 & {caller} $BIN/meeting call {kind} place > called 2>&1; echo $?; wait $!; echo $?; cat served called; ls"
    ))
    .with_program("meeting")
}

/// The two halves of handing over an open file, each sent afield or kept at home; what each has said, and what there is afterwards.
fn handing(giver: &str, taker: &str, kind: &str) -> Case {
    Case::home(&format!(
        "{giver} $BIN/handing give {kind} place > given 2>&1 & {taker} $BIN/handing take {kind} place > taken 2>&1; echo $?; wait $!; echo $?; cat given taken"
    ))
    .with_program("handing")
}

user_cases! {
    offsets_handed_on: handing("$AF", "$AF", "offsets");
    offsets_handed_from_home: handing("", "$AF", "offsets");
    flags_handed_on: handing("$AF", "$AF", "flags");
    placed_handed_on: handing("$AF", "$AF", "placed");
    placed_handed_home: handing("$AF", "", "placed");
    placed_handed_from_home: handing("", "$AF", "placed");
    written_handed_on: handing("$AF", "$AF", "written");
    written_handed_home: handing("$AF", "", "written");
    written_handed_from_home: handing("", "$AF", "written");
    output_handed_home: Case::home("$AF sh -c '{ echo first; $BIN/handing give output place; echo last; } > given' & $BIN/handing take output place; wait $!; cat given").with_program("handing");
    mapped_handed_on: handing("$AF", "$AF", "mapped");
    mapped_handed_from_home: handing("", "$AF", "mapped");
    changed_handed_on: handing("$AF", "$AF", "changed");
    directories_handed_on: handing("$AF", "$AF", "directories");
    directories_handed_home: handing("$AF", "", "directories");
    directories_handed_from_home: handing("", "$AF", "directories");
}

cases! {
    server_at_home: meeting("", "$AF", "plain");
    caller_at_home: meeting("$AF", "", "plain");
    both_afield: meeting("$AF", "$AF", "plain");
    tcp_server_at_home: meeting("", "$AF", "tcp");
    tcp_caller_at_home: meeting("$AF", "", "tcp");
    tcp_both_afield: meeting("$AF", "$AF", "tcp");
    /// Both in one job: the pid of either is known to the other's kernel.
    both_in_one_job: Case::guest("$BIN/meeting serve plain place > served & $BIN/meeting call plain place > called; echo $?; wait $!; echo $?; cat served called").with_program("meeting");
    /// Inherited from home: the connection is the program's standard input and output.
    inherited: Case::home_bash("$BIN/meeting serve tcp place > served & while ! [ -e place ]; do sleep 0.01; done; exec 3<>/dev/tcp/127.0.0.1/$(cat place); $AF python3 -c 'import socket\ns = socket.socket(fileno=3)\nprint(s.family, s.type, s.getpeername()[0], s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))\ns.shutdown(socket.SHUT_WR)\n'; exec 3>&-; wait; tail -n 1 served").with_program("meeting").tools(&["python3"]);
}

/// Connections between two programs, either afield or at home, and what each sees when the other has told what it has done. What is done
/// depends on the seed.
fn flowing(peer: &str, guest: &str, seed: u32) -> Case {
    Case::home(&format!(
        "{peer} python3 flowing.py peer place & {guest} python3 flowing.py guest place {seed} 1500; wait; rm place"
    ))
    .setup(&format!("cat > flowing.py <<'END'\n{FLOWING}\nEND\n"))
    .tools(&["python3"])
    .seconds(240)
}

const FLOWING: &str = include_str!("../programs/flowing.py");

/// Both ends of a connection in one program, each written by a thread of its own until both are full, read, and at their end.
const BOTH_WAYS: &str = r#"
import socket, threading, os, struct
N = 3000000
data = b"".join(struct.pack(">I", i) for i in range(N // 4))
def tx(s):
    at = 0
    while at < N: at += os.write(s.fileno(), data[at:at + 7777])
    s.shutdown(socket.SHUT_WR)
for _ in range(10):
    l = socket.create_server(("127.0.0.1", 0)); a = socket.create_connection(l.getsockname()); b, _ = l.accept()
    ts = [threading.Thread(target=tx, args=(s,)) for s in (a, b)]
    for t in ts: t.start()
    for s in (a, b):
        got = bytearray()
        while piece := os.read(s.fileno(), 10000): got += piece
        print(bytes(got) == data, len(got))
    for t in ts: t.join()
"#;

cases! {
    both_ways: Case::guest("python3 script.py").setup(&format!("cat > script.py <<'END'\n{BOTH_WAYS}\nEND\n")).tools(&["python3"]).seconds(240);
    flowing_from_home: flowing("", "$AF", 1);
    flowing_from_home_2: flowing("", "$AF", 2);
    flowing_from_home_3: flowing("", "$AF", 3);
    flowing_to_home: flowing("$AF", "", 4);
    flowing_between_jobs: flowing("$AF", "$AF", 5);
    flowing_in_one_job: Case::guest("python3 flowing.py peer place & python3 flowing.py guest place 6 1500; wait; rm place").setup(&format!("cat > flowing.py <<'END'\n{FLOWING}\nEND\n")).tools(&["python3"]).seconds(240);
}

cases! {
    /// Addresses and routes are home's.
    ip_tool: Case::guest("ip -o addr; ip route; ip -6 route; ip -o link | cut -d: -f1,2; ip neigh show nud permanent; ip rule").tools(&["ip"]);
    /// Home's tables name the guest, under its own pid and name. A child has the socket until it executes something, so it has ended before.
    shown_by_ss: Case::home("mkfifo go; $AF python3 -c 'import socket, subprocess, os\ns = socket.socket(); s.bind((\"127.0.0.1\", 0)); s.listen(5)\nprint(subprocess.run([\"ss\", \"-Hltnp\", \"sport = \" + str(s.getsockname()[1])], stdout=-1, text=True).stdout.split(\"users\")[1].replace(str(os.getpid()), \"PID\").split(\",fd\")[0], flush=True)\nopen(\"port\", \"w\").write(str(s.getsockname()[1])); open(\"pid\", \"w\").write(str(os.getpid()))\nopen(\"go\").read()' & while ! [ -s pid ]; do sleep 0.01; done; ss -Hltnp \"sport = $(cat port)\" | sed \"s/pid=$(cat pid),fd=[0-9]*/PID/; s/.*users//\"; p=$(printf :%04X $(cat port)); grep -c \"^ *[0-9]*: [0-9A-F]*$p \" /proc/net/tcp; grep -c \"^ *[0-9]*: [0-9A-F]*$p \" /proc/$(cat pid)/net/tcp; echo > go; wait; rm go port pid").tools(&["ss", "python3"]);
    left_to_a_child: Case::home("$AF python3 left.py serve > served 2>&1 & python3 left.py call; wait; cat served; rm port").setup(&format!("cat > left.py <<'END'\n{LEFT}\nEND\n")).tools(&["python3", "ss"]).seconds(60);
    proc_net: Case::guest("head -n 1 /proc/net/tcp /proc/net/udp /proc/net/unix /proc/self/net/tcp; grep -c : /proc/net/dev; cat /proc/sys/net/ipv4/ip_local_port_range; cat /proc/sys/net/core/somaxconn; hostname");
    bash_tcp: Case::home_bash("$BIN/meeting serve tcp place > served & while ! [ -e place ]; do sleep 0.01; done; $AF bash -c 'exec 3<>/dev/tcp/127.0.0.1/$(cat place) && echo connected; exec 3>&-'; wait; head -c 0 served; (exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep -o refused; $AF bash -c '(exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep -o refused'").with_program("meeting");
    perl_sockets: Case::guest("perl -MIO::Socket::INET -MIO::Socket::UNIX -MIO::Select -e '$| = 1; my $l = IO::Socket::INET->new(Listen => 5, LocalAddr => \"127.0.0.1\") or die $!; my $p = fork; if (!$p) { my $c = IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => $l->sockport) or die $!; print $c \"line $_\\n\" for 1..3; $c->shutdown(1); print <$c>; exit 3 } my $c = $l->accept; while (<$c>) { print $c uc } close $c; waitpid $p, 0; print $? >> 8, \"\\n\"; my $u = IO::Socket::UNIX->new(Local => \"u\", Listen => 1); my $d = IO::Socket::UNIX->new(Peer => \"u\"); my $e = $u->accept; my $s = IO::Select->new($e, $u); print scalar($s->can_read(0.1)), \"\\n\"; print $d \"x\\n\"; $d->flush; print scalar($s->can_read(5)), \"\\n\"'; rm u").tools(&["perl"]);
    many_connections_of_python: Case::guest("python3 script.py").setup(&format!("cat > script.py <<'END'\n{MANY}\nEND\n")).tools(&["python3"]).seconds(120);
    names_of_hosts: Case::guest("python3 -c 'import socket\nfor name in (\"localhost\", \"127.1\"):\n  try: print(sorted({x[4][0] for x in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}))\n  except socket.gaierror: print(\"not known\")'; getent hosts localhost; getent services http").tools(&["python3"]).mask(mask::numbers);
}

/// A server whose connection is its child's as well, then the child's alone, who is ended while there is something to read; and who at
/// home is seen to have it meanwhile.
const LEFT: &str = r#"
import hashlib, os, re, signal, socket, subprocess, sys

def serve():
    l = socket.create_server(("127.0.0.1", 0))
    open("port.new", "w").write(str(l.getsockname()[1])), os.rename("port.new", "port")
    c = l.accept()[0]
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer(c, 8)
    c.recv(1), c.send(str(os.getpid()).encode())
    answer(c, 1)
    child = os.fork()
    if child:
        c.close(), l.close()
        return print("ended by", os.waitpid(child, 0)[1])
    answer(c, 8)
    rest, all = 3 << 20, hashlib.sha256()
    while rest:
        some = c.recv(min(rest, 100_000))
        all.update(some)
        rest -= len(some)
    c.send(all.hexdigest().encode())
    answer(c, 8)
    c.recv(1), c.send(str(os.getpid()).encode())
    signal.pause()

def answer(c, count):
    for _ in range(count):
        c.sendall(c.recv(100).upper())

def call():
    while not os.path.exists("port"): pass
    s = socket.create_connection(("127.0.0.1", int(open("port").read())))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def ask(count):
        for i in range(count):
            s.send(b"word %d" % i)
            assert s.recv(100) == b"WORD %d" % i
    ask(8)
    s.send(b"p")
    pid = s.recv(100).decode()
    what = ["ss", "-Htnp", f"sport = {s.getpeername()[1]} and dport = {s.getsockname()[1]}"]
    users = subprocess.run(what, stdout=-1, text=True).stdout.split("users:")[1]
    print(re.sub("fd=[0-9]+", "fd", users.replace(pid, "PID").strip()))
    ask(9)
    all = bytes(i * 7 + (i >> 9) & 255 for i in range(3 << 20))
    s.sendall(all)
    print(s.recv(100).decode() == hashlib.sha256(all).hexdigest())
    ask(8)
    s.send(b"p")
    child = int(s.recv(100))
    s.sendall(b"not read"), s.sendall(b"either")
    os.kill(child, signal.SIGKILL)
    try: print(s.recv(100))
    except OSError as error: print(error.strerror)

serve() if sys.argv[1] == "serve" else call()
"#;

const MANY: &str = r#"
import socket, threading, hashlib
l = socket.create_server(("127.0.0.1", 0), backlog=500)
def serve(c):
    with c:
        h = hashlib.sha256()
        while b := c.recv(65536): h.update(b)
        c.sendall(h.digest())
def loop():
    for _ in range(200): threading.Thread(target=serve, args=(l.accept()[0],)).start()
t = threading.Thread(target=loop); t.start(); good = []
def call(i):
    data = bytes([i]) * (i * 1000 + 1)
    with socket.create_connection(l.getsockname()) as c:
        c.sendall(data); c.shutdown(socket.SHUT_WR); got = b""
        while b := c.recv(100): got += b
    good.append(got == hashlib.sha256(data).digest())
ts = [threading.Thread(target=call, args=(i,)) for i in range(200)]
[x.start() for x in ts]; [x.join() for x in ts]; t.join(); print(sum(good))
"#;
