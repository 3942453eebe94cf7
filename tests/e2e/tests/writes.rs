//! Writes: what they give, who sees them when, and where their errors come up.

use afield_e2e::{Case, cases, user_cases};

user_cases! {
    /// A program that is being executed is not written to, nor cut by who opens it to read.
    busy_program: Case::guest("cp /bin/sleep prog; ./prog 1000 & python3 -c 'import os, time\nwhile os.readlink(f\"/proc/{os.sys.argv[1]}/exe\") != os.path.realpath(\"prog\"): time.sleep(0.01)\nfor flags in os.O_RDONLY | os.O_TRUNC, os.O_WRONLY, os.O_RDWR | os.O_TRUNC:\n    try: print(os.open(\"prog\", flags))\n    except OSError as error: print(error)' $!; cmp prog /bin/sleep && echo whole; kill $!; wait; python3 -c 'import os; os.open(\"prog\", os.O_RDONLY | os.O_TRUNC)'; wc -c < prog").tools(&["python3"]);
    writing: Case::program("writing");
    /// Whoever hears of a write sees it, by whatever way he hears.
    told: Case::home_bash("mkfifo to from; $AF sh -c 'exec 3>f; while read n; do head -c $n /dev/zero >&3; echo done; done' < to > from & exec 4>to 5<from; for n in 1 5000 100000 3000000 7 70000; do echo $n >&4; read x <&5; stat -c %s f; done; exec 4>&-; wait $!; echo $?; md5sum < f");
    /// Of what is written in small pieces nobody says anything, nor does the guest ever again: it is seen at home all the same.
    small_pieces: Case::home_bash("$AF python3 -c 'import os\nfor flags in 0, os.O_APPEND:\n    fd = os.open(\"f\", os.O_WRONLY | os.O_CREAT | flags)\n    for i in range(1000): os.write(fd, b\"%05d\" % i)\nwhile True: pass' & until [ \"$(stat -c %s f 2> /dev/null)\" = 10000 ]; do sleep 0.01; done; kill $!; wait $!; echo $?; md5sum < f").tools(&["python3"]);
    /// A writer of home and a guest append in turn.
    appended_by_both: Case::home_bash("mkfifo to from; $AF sh -c 'exec 3>>f; while read n; do echo guest $n >&3; echo done; done' < to > from & exec 4>to 5<from; for n in 1 2 3 4 5 6 7 8 9; do echo $n >&4; read x <&5; echo home $n >> f; done; exec 4>&-; wait $!; cat f");
    truncated_by_home: Case::home_bash("mkfifo to from; $AF sh -c 'exec 3>f; while read n; do printf %05d $n >&3; echo done; done' < to > from & exec 4>to 5<from; for n in 1 2 3 4; do echo $n >&4; read x <&5; : > f; echo $n >&4; read x <&5; od -An -c f; done; rm f; echo 9 >&4; read x <&5; exec 4>&-; wait $!; ls");
    /// What a guest has written it reads again, by what it has open and by what it opens, and what somebody at home has made of it.
    read_again: Case::home_bash(READ_AGAIN).tools(&["python3"]).seconds(60);
    /// Its output is whole when it is seen to have ended, however it ends.
    ended: Case::home("for end in 'exit 3' 'kill -9 $$' 'kill -TERM $$' 'exec true'; do $AF sh -c \"for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/zero; done >> f; seq 1 2000 >> g; exec 3>>h; echo last >&3; $end\"; echo $?; stat -c %s f g h; done; md5sum f g h");
}

cases! {
    /// While a file is open its file system loses its room: some call says so, and what is there is what could be written.
    room_vanishes: Case::home_bash("mkdir t; unshare -m bash -c 'mount -t tmpfs -o size=3g none t || exit; cd t; mkfifo ../to ../from; $AF \"$BIN\"/outgrown big < ../to > ../from 2> ../behind & exec 4>../to 5<../from; read x <&5; echo $x; mount -o remount,size=1m .; echo go >&4; cat <&5; wait $!; echo $?; stat -c %s big'; rm to from behind").with_program("outgrown").tools(&["unshare"]);
    /// A file system on which nobody may write any more: the next open fails, what is open still writes.
    read_only: Case::home_bash("mkdir t; unshare -m bash -c 'mount -t tmpfs -o size=3g none t || exit; cd t; mkfifo ../to ../from; echo x > f; $AF sh -c \"while read x; do echo y >> f; echo \\$? \\$(cat f); done 2>&1\" < ../to > ../from & exec 4>../to 5<../from; echo go >&4; read x <&5; echo $x; mount -o remount,ro .; echo go >&4; read x <&5; echo $x; read x <&5; echo $x; mount -o remount,rw .; echo go >&4; read x <&5; echo $x; exec 4>&-; wait $!'; rm to from").tools(&["unshare"]);
}

/// A guest writes to small files that it has made, here and there, and reads them after each change of its own and of home's.
const READ_AGAIN: &str = r#"
mkfifo to from; cat > guest.py <<'END'
import os, sys
def attempt(what):
    try: return what()
    except OSError as error: return error.strerror
def of(path): return attempt(lambda: open(path, 'rb').read())
files = {}
for name in 'fgh':
    file = open(name, 'w+b', 0); files[name] = file
    file.write(b'one two'); file.seek(4); file.write(b'TWO three'); file.seek(20); file.write(b'end of ' + name.encode())
    early = open(name, 'rb', 0); files[name + 'r'] = early
    if name == 'g': os.ftruncate(file.fileno(), 6); file.seek(9); file.write(b'tail')
    if name == 'h': os.write(os.open(name, os.O_WRONLY | os.O_APPEND), b'appended')
def see():
    for name, file in files.items():
        print(name, os.pread(file.fileno(), 100, 0), os.pread(file.fileno(), 4, 5), os.fstat(file.fileno()).st_size)
    for name in 'fgh': print(name, of(name), attempt(lambda: os.stat(name).st_size))
    print('seen', flush=True)
see()
for line in sys.stdin: exec(line); see()
END
$AF python3 guest.py < to > from & exec 4>to 5<from
hear() { while read -r x <&5 && [ "$x" != seen ]; do echo "$x"; done; }
hear
for change in 'printf HOME | dd of=f bs=1 seek=2 conv=notrunc status=none' 'echo more >> g; : > h' 'echo new > n; mv n f' 'rm g; chmod 400 h' 'chmod 600 h; echo last > g'; do
    eval "$change"; echo >&4; hear
done
for change in "files['h'].write(b'guest')" "os.pwrite(files['f'].fileno(), b'unseen', 3); print(of('f'))" "os.truncate('h', 3)" "os.rename('h', 'g')" "open('h', 'xb').write(b'anew'); os.unlink('g')" \
    "open('t', 'wb').write(b'first'); r = open('t', 'rb', 0); os.unlink('t'); print(r.read(), r.read())" \
    "open('t', 'wb').write(b'second'); r = open('t', 'rb', 0); open('t', 'wb').close(); print(r.read(), of('t'))" \
    "open('t', 'wb').write(b'third'); os.chmod('t', 0o200); print(of('t') if os.geteuid() else ''); os.unlink('t')"; do
    echo "$change" >&4; hear
done
exec 4>&-; wait $!; echo $?; rm to from guest.py
"#;

/// A guest stores into a mapped file and tells of it; home looks at once.
fn told_of_a_store(way: &str, hears: &str) -> Case {
    let script = format!(
        "head -c 8200 /dev/zero > mapped; : > log; mkfifo to; got=0; trap 'got=1' USR1; \
         $AF \"$BIN\"/storing {way} $$ < to > out & exec 4>to; \
         for n in 11111 2222222 333 44444 55; do echo $n >&4; {hears}; od -An -c -N 8 mapped; od -An -c -j 4096 -N 8 mapped; tail -c 8 mapped; stat -c %s mapped; done; \
         exec 4>&-; wait $!; echo $?; md5sum < mapped; rm -f to out log flag"
    );
    Case::home_bash(&script).with_program("storing")
}

user_cases! {
    mapped: Case::program("mapped");
    store_told_by_output: told_of_a_store("output", "until [ -e out ] && [ $(wc -l < out) -gt $((i + 0)) ]; do :; done; i=$((i + 1))");
}

cases! {
    store_told_by_file: told_of_a_store("file", "until [ $(grep -c told log) -gt $((i + 0)) ]; do :; done; i=$((i + 1))");
    store_told_by_name: told_of_a_store("name", "until [ -L flag ]; do :; done; rm flag");
    store_told_by_signal: told_of_a_store("signal", "until [ $got = 1 ]; do sleep 0.01; done; got=0");
    store_told_by_msync: told_of_a_store("msync", "until [ $(wc -l < log) -gt $((i + 0)) ]; do :; done; i=$((i + 1))");
    store_told_by_munmap: told_of_a_store("munmap", "until [ $(wc -l < log) -gt $((i + 0)) ]; do :; done; i=$((i + 1))");
    /// More than the bounded window of writes that are under way.
    much_is_stored: Case::home_bash("mkfifo to from; $AF \"$BIN\"/storing_much < to > from & exec 4>to 5<from; for n in 1 2 3; do echo $n >&4; read x <&5; md5sum < much; done; exec 4>&-; wait $!; echo $?; md5sum < much; rm to from").with_program("storing_much");
    /// Databases whose index of the write-ahead log is a mapped file, with locks.
    mapped_database: Case::guest("for i in 1 2 3; do sqlite3 -cmd '.timeout 20000' db 'pragma journal_mode=wal; create table if not exists t (n); insert into t values ('$i'); select count(*) from t'; done; for w in 1 2 3; do (for i in 1 2 3 4 5 6 7 8; do sqlite3 -cmd '.timeout 20000' db \"insert into t values ($i)\"; done) & done; wait; sqlite3 db 'select count(*), sum(n) from t; pragma integrity_check'; rm db*").tools(&["sqlite3"]);
    linked_by_mapping: Case::guest("printf 'int f(void); int main(void) { return f(); }' > a.c; echo 'int f(void) { return 7; }' > b.c; cc -c a.c b.c && for ld in bfd gold lld; do cc -fuse-ld=$ld -o p a.o b.o 2> /dev/null && { ./p; echo $?; }; rm -f p; done; rm *.o").tools(&["cc"]);
    executable_replaced: Case::guest("cp /bin/sleep s; ./s 0.3 & cp /bin/true t; mv t s; wait $!; echo $?; ./s; echo $?; cp /bin/false s; ./s; echo $?; rm s");
}
