//! Programs in several languages, and what their run-time systems ask of a kernel.

use afield_e2e::{Case, cases, user_cases};

/// A script of Python as a whole job.
fn python(script: &str) -> Case {
    let case = Case::guest("exec python3 -u script.py")
        .tools(&["python3"])
        .seconds(120);
    case.setup(&format!("cat > script.py <<'END'\n{script}\nEND\n"))
}

const PYTHON_THREADS: &str = r#"
import threading, queue
q, results = queue.Queue(), []
def work():
    while (item := q.get()) is not None:
        results.append(item * item)
threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads: t.start()
for i in range(1000): q.put(i)
for t in threads: q.put(None)
for t in threads: t.join()
print(sum(results), len(results))
event = threading.Event()
timer = threading.Timer(0.05, event.set); timer.start()
print(event.wait(10)); timer.join()
print(threading.active_count())
"#;

const PYTHON_SUBPROCESS: &str = r#"
import subprocess, sys, os
os.mkdir("d")
print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"given", capture_output=True))
p = subprocess.Popen(["sort"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(p.communicate("c\nb\na\n"), p.returncode)
try:
    subprocess.run(["sleep", "60"], timeout=0.2)
except subprocess.TimeoutExpired as e:
    print("timeout", e.cmd)
try:
    subprocess.run(["/no/such"])
except OSError as e:
    print(e)
p = subprocess.Popen(["sleep", "60"]); p.terminate(); print(p.wait())
p = subprocess.Popen([sys.executable, "-c", "import os; print(os.getpgrp() == os.getpid())"], start_new_session=True, stdout=subprocess.PIPE)
print(p.communicate())
print(subprocess.check_output("echo $((6*7)) | tee f; pwd; env", shell=True, cwd="d", env={"A": "b"}), os.system("exit 4") >> 8)
procs = [subprocess.Popen(["sh", "-c", f"exit {i}"]) for i in range(20)]
print([p.wait() for p in procs])
with open("out", "wb") as f:
    subprocess.run(["seq", "1", "5"], stdout=f); f.write(b"after\n")
print(open("out").read())
print(os.popen("echo popen").read())
"#;

const PYTHON_MULTIPROCESSING: &str = r#"
import multiprocessing as mp, os, signal, time
def square(x): return x * x
def child(conn):
    while (x := conn.recv()) is not None: conn.send((x, len(str(x))))
    conn.close()
def put(q, n):
    for i in range(n): q.put(i)
def add(value, lock):
    for _ in range(1000):
        with lock: value.value += 1
def main(method):
    ctx = mp.get_context(method)
    with ctx.Pool(4) as pool:
        print(method, sum(pool.map(square, range(1000), chunksize=10)))
    a, b = ctx.Pipe()
    p = ctx.Process(target=child, args=(b,)); p.start()
    for x in ("text", 5, b"x" * 200000 == b"x" * 200000): a.send(x); print(a.recv())
    a.send(None); p.join(); print(p.exitcode)
    q = ctx.Queue()
    ps = [ctx.Process(target=put, args=(q, 100)) for _ in range(3)]
    for p in ps: p.start()
    print(sum(q.get() for _ in range(300)))
    for p in ps: p.join()
    value, lock = ctx.Value("i", 0), ctx.Lock()
    ps = [ctx.Process(target=add, args=(value, lock)) for _ in range(4)]
    for p in ps: p.start()
    for p in ps: p.join()
    print(value.value)
    p = ctx.Process(target=time.sleep, args=(60,)); p.start(); p.kill(); p.join(); print(p.exitcode)
if __name__ == "__main__":
    main("fork"); main("spawn")
"#;

const PYTHON_SIGNALS: &str = r#"
import signal, os, time, select, threading, errno
got = []
signal.signal(signal.SIGUSR1, lambda n, f: got.append(n))
os.kill(os.getpid(), signal.SIGUSR1); print(got)
signal.signal(signal.SIGALRM, lambda n, f: (_ for _ in ()).throw(TimeoutError()))
signal.setitimer(signal.ITIMER_REAL, 0.1)
try: time.sleep(30)
except TimeoutError: print("timed out")
r, w = os.pipe()
signal.signal(signal.SIGALRM, lambda n, f: os.write(w, b"late"))
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(os.read(r, 10))
print(select.select([r], [w], [], 0)[0], len(select.select([], [w], [], 5)[1]))
poll = select.poll(); poll.register(r, select.POLLIN); print(poll.poll(10))
ep = select.epoll(); ep.register(r, select.EPOLLIN); os.write(w, b"x"); print(len(ep.poll(5)), os.read(r, 1))
pid = os.fork()
if pid == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); os.write(w, b"r"); print(signal.sigwait([signal.SIGTERM]), flush=True); os._exit(5)
os.read(r, 1); os.kill(pid, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try: os.waitpid(-1, 0)
except ChildProcessError as e: print(errno.errorcode[e.errno])
try: os.kill(os.getpid(), signal.SIGINT); time.sleep(1)
except KeyboardInterrupt: print("interrupted")
signal.raise_signal(signal.SIGKILL)
"#;

const PYTHON_FILES: &str = r#"
import os, mmap, fcntl, tempfile, shutil, pathlib, stat, struct, errno, glob
with open("m", "w+b") as f:
    f.truncate(10000)
    with mmap.mmap(f.fileno(), 0) as m:
        m[0:5] = b"hello"; m[9999:10000] = b"!"; m.flush(); print(m.find(b"!"))
    f.seek(0); print(f.read(5))
with open("l", "w") as f:
    fcntl.lockf(f, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        with open("l", "w") as g:
            try: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e: print(errno.errorcode[e.errno], flush=True)
            lock = fcntl.fcntl(g, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            print(struct.unpack("hhqqi4x", lock)[4] == os.getppid(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
d = tempfile.mkdtemp(dir="."); t = tempfile.TemporaryFile(dir=d); t.write(b"x"); os.rmdir(d) if not os.listdir(d) else print(os.listdir(d))
os.makedirs("a/b/c"); pathlib.Path("a/b/x").write_text("é\n"); print(sorted(glob.glob("a/**", recursive=True)))
shutil.copytree("a", "z"); shutil.move("z", "y"); shutil.rmtree("y/b"); print(os.listdir("y"))
print([sorted(x[1] + x[2]) for x in os.walk("a")])
os.utime("a/b/x", ns=(123456789123456789, 987654321987654321)); s = os.stat("a/b/x"); print(s.st_atime_ns, s.st_mtime_ns, stat.filemode(s.st_mode), s.st_size)
fd = os.open("s", os.O_RDWR | os.O_CREAT); print(os.pwrite(fd, b"data", 10), os.pread(fd, 20, 5), os.lseek(fd, 0, os.SEEK_END)); os.ftruncate(fd, 3); print(os.fstat(fd).st_size)
print(os.sendfile(os.open("o", os.O_WRONLY | os.O_CREAT), fd, 0, 3), open("o", "rb").read())
with open("w", "w", buffering=1) as f:
    for i in range(1000): print(i, file=f)
print(sum(map(int, open("w"))), sum(1 for _ in os.scandir(".")))
for name in ("\udcff\udcfe", "né", "a" * 255): open(name, "w").close()
print(sorted(os.listdir(b"."))[-3:])
print(os.access("w", os.X_OK), os.path.realpath("a/../w") == os.getcwd() + "/w", os.get_blocking(fd), os.cpu_count() == len(os.sched_getaffinity(0)))
"#;

const PERL: &str = r#"
use strict; use warnings; use POSIX qw(:sys_wait_h); use Fcntl qw(:flock SEEK_SET); use Socket;
$| = 1;
my @pids = map { my $n = $_; my $p = fork; exit $n unless $p; $p } 1..10;
print join(",", map { waitpid $_, 0; $? >> 8 } @pids), "\n";
open my $in, "-|", "printf 'a\\nb\\n'"; print map { uc } <$in>; close $in;
open my $out, "|-", "sort -r"; print $out "$_\n" for 1..3; close $out; print $?, "\n";
$SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; sleep 10; }; print $@;
$SIG{USR1} = sub { print "usr1\n" }; kill USR1 => $$; sleep 0;
$SIG{CHLD} = sub { while ((my $p = waitpid -1, WNOHANG) > 0) { print "reaped ", $? >> 8, "\n" } };
my $pid = fork; if (!$pid) { exit 9 } select undef, undef, undef, 5 while kill 0, $pid;
$SIG{CHLD} = "DEFAULT";
open my $f, "+>", "f" or die; flock $f, LOCK_EX or die; print $f "line $_\n" for 1..5; seek $f, 7, SEEK_SET; print scalar <$f>;
socketpair my $x, my $y, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die; syswrite $x, "over"; sysread $y, my $got, 10; print "$got\n";
mkdir "d"; rename "f", "d/g"; print join(",", glob("d/*")), -s "d/g", "\n"; symlink "g", "d/l"; print readlink "d/l", "\n";
print `echo back; exit 3`, $? >> 8, "\n"; my @s = stat "d/g"; printf "%o %d\n", $s[2], $s[7];
printf "%s\n", join ",", sort { $a cmp $b } map { s/.*\///r } <d/.* d/*>; %ENV = (A => 1); print `/usr/bin/env`; exec "sh", "-c", "exit 11";
"#;

const NODE: &str = r#"
const fs = require('fs'), cp = require('child_process'), { Worker, isMainThread, parentPort } = require('worker_threads'), zlib = require('zlib'), crypto = require('crypto');
if (!isMainThread) { parentPort.on('message', n => { parentPort.postMessage(n * 2); parentPort.close(); }); }
else (async () => {
  fs.mkdirSync('d'); fs.writeFileSync('d/f', 'x'.repeat(100000)); console.log(fs.statSync('d/f').size, fs.readdirSync('d'));
  await Promise.all([...Array(50).keys()].map(i => fs.promises.writeFile('d/p' + i, String(i))));
  const texts = await Promise.all([...Array(50).keys()].map(i => fs.promises.readFile('d/p' + i, 'utf8'))); console.log(texts.reduce((a, b) => a + +b, 0));
  console.log(cp.execSync('echo sub; cat', { input: 'given' }).toString());
  await new Promise(done => { const p = cp.spawn('sh', ['-c', 'read x; echo got $x; kill -TERM $$']); p.stdout.on('data', d => console.log(String(d))); p.on('close', (code, signal) => { console.log(code, signal); done(); }); p.stdin.end('line\n'); });
  await new Promise(done => { const p = cp.fork(__dirname + '/child.js'); p.on('message', m => { console.log(m); p.disconnect(); }); p.on('exit', code => { console.log('exit', code); done(); }); p.send({ a: [1, 2] }); });
  await new Promise(done => { const w = new Worker(__filename); w.on('message', console.log); w.on('exit', done); w.postMessage(21); });
  const z = await new Promise(done => zlib.gzip('y'.repeat(1e6), (e, b) => done(zlib.gunzipSync(b).length))); console.log(z);
  console.log(await new Promise(done => crypto.pbkdf2('a', 'b', 1000, 16, 'sha256', (e, k) => done(k.toString('hex')))));
  await new Promise(done => fs.createReadStream('d/f').pipe(fs.createWriteStream('d/g')).on('finish', done)); console.log(fs.statSync('d/g').size);
  process.on('SIGUSR2', () => { console.log('usr2'); clearInterval(keep); process.exitCode = 6; }); const keep = setInterval(() => {}, 1000); process.kill(process.pid, 'SIGUSR2');
})();
"#;

const GO: &str = r#"
package main
import ("fmt"; "os"; "os/exec"; "os/signal"; "sync"; "syscall"; "time"; "bufio"; "io"; "sort"; "runtime"; "path/filepath")
func main() {
	var wg sync.WaitGroup; var mu sync.Mutex; sum := 0
	for i := 0; i < 100; i++ { wg.Add(1); go func(n int) { defer wg.Done(); os.WriteFile(fmt.Sprintf("f%d", n), []byte(fmt.Sprint(n)), 0644); mu.Lock(); sum += n; mu.Unlock() }(i) }
	wg.Wait(); names, _ := filepath.Glob("f*"); fmt.Println(sum, len(names), runtime.NumCPU() > 0)
	out, err := exec.Command("sh", "-c", "echo out; exit 3").Output(); fmt.Printf("%q %v\n", out, err)
	cmd := exec.Command("sort"); in, _ := cmd.StdinPipe(); o, _ := cmd.StdoutPipe(); cmd.Start(); io.WriteString(in, "b\na\n"); in.Close(); b, _ := io.ReadAll(o); fmt.Printf("%q %v\n", b, cmd.Wait())
	c := make(chan os.Signal, 1); signal.Notify(c, syscall.SIGUSR1); syscall.Kill(os.Getpid(), syscall.SIGUSR1); fmt.Println(<-c)
	long := exec.Command("sleep", "60"); long.Start(); long.Process.Kill(); fmt.Println(long.Wait())
	select { case <-time.After(20 * time.Millisecond): fmt.Println("timer"); case <-c: }
	r, w, _ := os.Pipe(); go func() { for i := 0; i < 1000; i++ { fmt.Fprintln(w, i) }; w.Close() }(); n := 0; for s := bufio.NewScanner(r); s.Scan(); { n++ }; fmt.Println(n)
	var es []string; d, _ := os.ReadDir("."); for _, e := range d { es = append(es, e.Name()) }; sort.Strings(es); fmt.Println(len(es), es[0])
	work := make(chan int); done := make(chan int); for i := 0; i < 4; i++ { go func() { t := 0; for x := range work { t += x }; done <- t }() }
	for i := 0; i < 100000; i++ { work <- i }; close(work); t := 0; for i := 0; i < 4; i++ { t += <-done }; fmt.Println(t)
	_, err = os.Open("nosuch"); fmt.Println(err, os.IsNotExist(err)); fmt.Fprintln(os.Stderr, "err"); var p *int; defer func() { fmt.Println(recover()); os.Exit(4) }(); fmt.Println(*p)
}
"#;

user_cases! {
    python_subprocess: python(PYTHON_SUBPROCESS);
}

cases! {
    python_threads: python(PYTHON_THREADS);
    python_multiprocessing: python(PYTHON_MULTIPROCESSING);
    python_signals: python(PYTHON_SIGNALS);
    python_files: python(PYTHON_FILES);
    python_modules: Case::guest("python3 -c 'import json, sqlite3, ssl, asyncio, ctypes, decimal; print(json.dumps({1: [2, None]})); print(asyncio.run(asyncio.sleep(0.01, 5)))'; python3 -m compileall -q . ; echo 'print(7)' > m.py; python3 -m m; python3 -c 'import m'; ls; rm -r __pycache__").tools(&["python3"]);
    python_asyncio: python("import asyncio, sys\nasync def main():\n    p = await asyncio.create_subprocess_exec('sh', '-c', 'cat; exit 3', stdin=-1, stdout=-1)\n    print(await p.communicate(b'x' * 100000) == (b'x' * 100000, None), p.returncode)\n    print(await asyncio.gather(*(asyncio.sleep(0.01 * (5 - i), i) for i in range(5))))\n    loop = asyncio.get_running_loop(); print(await loop.run_in_executor(None, sum, range(1000)))\n    try: await asyncio.wait_for(asyncio.sleep(30), 0.05)\n    except asyncio.TimeoutError: print('timeout')\nasyncio.run(main())");
    perl: Case::guest("exec perl script.pl").setup(&format!("cat > script.pl <<'END'\n{PERL}\nEND\n")).tools(&["perl"]);
    node: Case::guest("node main.js; echo $?").tools(&["node"]).seconds(120)
        .setup(&format!("cat > main.js <<'END'\n{NODE}\nEND\necho \"process.on('message', m => process.send({{ got: m, connected: process.connected }}))\" > child.js"));
    go: Case::guest("./program; echo $?").tools(&["go"]).seconds(120)
        .setup(&format!("cat > main.go <<'END'\n{GO}\nEND\nexport HOME=$PWD GOCACHE=${{TMPDIR%/*}}/go GO111MODULE=off GOFLAGS=-trimpath; go build -o program main.go"));
    awk_sed_bc: Case::guest("seq 1 1000 | awk '{s+=$1} END {print s}'; echo 'a b c' | sed 's/\\(.\\) \\(.\\)/\\2 \\1/'; seq 1 10 | paste -sd+ | { read x; echo $(($x)); }; printf '%s\\n' b a | sort | join - /dev/null; comm -12 /etc/passwd /etc/passwd | head -n 1");
    busybox: Case::guest("busybox sh -c 'busybox seq 1 5 | busybox tac | busybox head -n 2; busybox ls; echo $?; busybox sha1sum /etc/passwd'").tools(&["busybox"]);
    dynamic_loading: Case::guest("printf 'int f(int x) { return x + 1; }' > f.c; cc -shared -fPIC -o libf.so f.c; printf '#include <dlfcn.h>\\n#include <stdio.h>\\nint main() { int (*f)(int) = dlsym(dlopen(\"./libf.so\", 2), \"f\"); printf(\"%%d\\\\n\", f(4)); }' > m.c; cc -o m m.c; ./m; LD_PRELOAD=./libf.so ./m; ldd ./m | wc -l").tools(&["cc"]);
    compile: Case::guest("printf '#include <iostream>\\n#include <vector>\\nint main() { std::vector<int> v{1,2,3}; for (int x : v) std::cout << x; try { throw 5; } catch (int e) { std::cout << e << std::endl; } }' > m.cc; c++ -O2 -g -o m m.cc && ./m; strip m; md5sum < m; ./m").tools(&["c++"]).seconds(120);
}
