//! Who a process is, what it is told of others, and what others are told of it.

use afield_e2e::{Case, cases, mask, user_cases};

/// A job `$S` of Python that executes lines, each when the one before is done, and what home's tools say of it. What they see follows within
/// a second or so: `settled` waits until they see what has been done before, of the job; `shows` and `hides` until a process has a file open,
/// or not any more; `listed` tells of all below number 197 but of what the node has made for itself.
const HELD: &str = r#"exec 2> /dev/null; echo text > f; mkdir d marks; mkfifo cmd; : > out
cat > server.py <<'END'
import os, socket, subprocess, sys, time
def mark(number):
    mark = os.open("marks/%d" % number, os.O_CREAT)
    os.dup2(mark, 198)
    os.close(mark)
home = os.open(".", os.O_PATH)
os.dup2(home, 197)
os.close(home)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
END
$AF python3 server.py < cmd > out & S=$!
exec 7> cmd; N=0
run() { echo "$1" >&7; N=$((N + 1)); for i in $(seq 400); do [ "$(grep -c done out)" -ge $N ] && return; sleep 0.05; done; echo "never done: $1"; }
open_of() { fuser "$1" 2> /dev/null | tr -s ' ' '\n' | grep -qx "$2"; }
shows() { for i in $(seq 200); do open_of "$1" ${2:-$S} && return; sleep 0.1; done; echo "$1 never shown"; }
hides() { for i in $(seq 200); do open_of "$1" ${2:-$S} || return; sleep 0.1; done; echo "$1 ever shown"; }
settled() { run "os.fchdir(197); mark($N)"; shows marks/$((N - 1)); }
seen() { open_of $1 $S && echo "$1: seen" || echo "$1: not seen"; }
listed() { lsof -nP -p ${1:-$S} -a -d 0-196 -F ftn | grep -v '^p' | sed 's|/pts/.*|/pts/N|' | tr '\n' ' ' | sed 's/ f/\nf/g' | sed 's/ *$//' | grep -v -e a_inode -e npipe; }
end() { exec 7>&-; wait $S; echo $?; rm -rf f d marks cmd out server.py "$@"; }
"#;

fn held(script: &str) -> Case {
    Case::home_bash(&format!("{HELD}{script}"))
        .tools(&["fuser", "lsof", "python3"])
        .mask(mask::numbers)
}

/// A child to look at, whose number is in `$S`.
const CHILD: &str =
    "sleep 100 & S=$!; until [ \"$(cut -d' ' -f2,3 /proc/$S/stat)\" = '(sleep) S' ]; do sleep 0.01; done; ";

user_cases! {
    names: Case::guest("uname -a; hostname; cat /proc/sys/kernel/hostname /proc/sys/kernel/osrelease /proc/version; id; id -G; groups; whoami; tty; umask");
    own_entry: Case::guest("cd /usr/bin; cat /proc/$$/comm; tr '\\0' ' ' < /proc/$$/cmdline; readlink /proc/$$/exe /proc/$$/cwd /proc/$$/root /proc/self /proc/self/exe; cut -d' ' -f1,3 /proc/self/stat; cut -d' ' -f2,4-8,19,20,38 /proc/$$/stat; \
        read p rest < /proc/self/stat; echo $((p == $$)); grep -E '^(Name|Umask|Tgid|Pid|PPid|TracerPid|Uid|Gid|Groups|Threads|CapEff|NoNewPrivs|Seccomp):' /proc/$$/status; grep -E '^(State|SigP|SigB|SigI|SigC|Cap|Threads|NoNew|Seccomp:)' /proc/self/status").mask(mask::numbers);
    entry_of_a_child: Case::guest(&format!("{CHILD} cd /; ls /proc/$S; tr '\\0' ' ' < /proc/$S/cmdline; readlink /proc/$S/exe /proc/$S/cwd /proc/$S/root /proc/$S/fd/0 /proc/$S/fd/1; tr '\\0' '\\n' < /proc/$S/environ | grep ^PATH; \
        cut -d' ' -f2-8,19,20,38 /proc/$S/stat; grep -E '^(Name|State|Tgid|Pid|PPid|TracerPid|Uid|Gid|Groups|Threads|SigPnd|SigBlk|SigIgn|SigCgt|CapEff|NoNewPrivs|Seccomp):' /proc/$S/status; \
        cut -d' ' -f6- /proc/$S/maps | sort -u; cat /proc/$S/wchan /proc/$S/limits; ls /proc/$S/task | wc -l; stat -c '%F %a %U' /proc/$S /proc/$S/fd /proc/$S/maps /proc/$S/exe; stat -Lc '%F %a' /proc/$S/fd /proc/$S/maps /proc/$S/exe; kill $S; wait")).mask(mask::numbers);
    /// The bytes of a file that is made of two are there at any offset.
    pieces: Case::guest("cat /proc/self/stat | wc -w; dd if=/proc/$$/stat bs=7 2>/dev/null | cut -d' ' -f1,2,4-8; tail -c 5 /proc/$$/status | wc -c; cat /proc/$$/status | wc -l; dd if=/proc/$$/status bs=1 2>/dev/null | head -n 2").mask(mask::numbers);
    mounts: Case::guest("cat /proc/mounts | sort; cut -d' ' -f3- /proc/self/mountinfo | sort; df -P . | tail -n 1 | cut -d' ' -f1; cat /proc/self/cgroup; head -n 1 /proc/net/route; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups");
    limits: Case::guest(&format!("{CHILD} prlimit -p $S --nofile=100:200; prlimit -p $S --nofile --noheadings; grep open /proc/$S/limits; prlimit -p $$ --core=0; ulimit -c; ulimit -n 50; sh -c 'ulimit -n'; prlimit -p 1 --nofile --noheadings > /dev/null; echo $?; prlimit -p $S --nofile=300; echo $?; kill $S; wait")).tools(&["prlimit"]).mask(mask::numbers);
    priorities: Case::guest("nice; nice -n 5 nice; nice -n 5 sh -c 'nice; nice -n 3 cut -d\" \" -f18,19 /proc/self/stat; renice -n 9 $$ > /dev/null; nice; cut -d\" \" -f18,19 /proc/self/stat'; (sleep 100 & renice -n 4 $! > /dev/null; cut -d' ' -f18,19 /proc/$!/stat; kill $!); renice -n -5 $$ > /dev/null 2>&1; echo $?; nice; ionice; ionice -c 3 ionice; chrt -b 0 chrt -p 0 | cut -d\"'\" -f2").tools(&["renice", "ionice", "chrt"]);
    tools: Case::guest(&format!("{CHILD} ps -o comm,args,nice,stat,tty,user -p $S; ps -o comm,args -p $$; pgrep -x sleep | grep -cx $S; pidof sleep | tr ' ' '\\n' | grep -cx $S; pgrep -P $$ -x sleep | wc -l; ps -o ppid= -p $S | grep -c $$; kill $S; wait")).tools(&["ps", "pgrep", "pidof"]);
}

cases! {
    processors: Case::guest("nproc; getconf _NPROCESSORS_ONLN; grep -c ^processor /proc/cpuinfo; taskset -c 0 nproc; taskset -p $$ | cut -d: -f2; ls -d /sys/devices/system/cpu/cpu[0-9]*");
    /// Home's tools see guests as what they are.
    seen_from_home: Case::home_bash("$AF sleep 100 < /dev/null & S=$!; until [ \"$(cut -d' ' -f2,3 /proc/$S/stat)\" = '(sleep) S' ]; do sleep 0.01; done; ps -o comm,args,stat,nice -p $S; pgrep -x sleep | grep -cx $S; pidof sleep | tr ' ' '\\n' | grep -cx $S; pkill -x -P $$ sleep; wait; echo $?").tools(&["ps", "pgrep", "pidof"]);
    /// A name that is written to `/proc`.
    named: Case::home_bash("mkfifo p; $AF bash -c 'echo another > /proc/$$/comm; cat /proc/$$/comm; echo ready; exec 3<>p; read <&3' > out & S=$!; until grep -qs ready out; do sleep 0.01; done; for i in $(seq 100); do grep -qx another /proc/$S/comm && echo renamed && break; sleep 0.1; done; echo > p; wait $S; echo $?; cat out; rm p");
    /// A program that writes over its arguments; home is told within a second or two.
    renamed: Case::home_bash("$AF perl -e '$| = 1; $0 = \"another name\"; print \"ready\\n\"; sleep 100' > out & S=$!; until grep -qs ready out; do sleep 0.01; done; cat /proc/$S/comm; for i in $(seq 100); do [ \"$(tr -d '\\0' < /proc/$S/cmdline)\" = 'another name' ] && echo renamed && break; sleep 0.1; done; kill $S; wait $S; echo $?").tools(&["perl"]);
    /// All sorts of descriptors, under their own numbers; of a file twice; the working directory.
    /// An ordinary user who has subordinate ids, by an `/etc` of their own: owners are shown as they are. (The last line: more than one id is
    /// mapped on the node.)
    subordinate_ids: Case::home_bash("[ $(id -u) = 0 ] || exit 0; cp -a /etc etc; echo subject:x:64200:64200::/:/bin/sh >> etc/passwd; echo subject:300000:65536 | tee etc/subuid > etc/subgid; mkdir -m 777 d; echo x > d/zero; echo y > d/high; chown 5:70000 d/high; chmod 666 d/high; unshare -m bash -c 'mount --bind etc /etc; exec setpriv --reuid=64200 --regid=64200 --clear-groups env HOME=$PWD/d XDG_CONFIG_HOME=$PWD/d/config AFIELD_RUNTIME_DIR=$PWD/d/run bash subject'; rm -rf etc d").setup("cat > subject <<'END'\ncd d; AF=${AF:+${AF%% run*} run}\n$AF sh -c 'id; echo z >> high; cat high; : > own; stat -c %n:%u:%g:%U:%G zero own . /etc/passwd; ls -ln own | cut -d\" \" -f 3,4; chown 64200 own && echo mine; chown 0 own; chgrp 5 own'\n$AF sleep 1000.$$ & for i in $(seq 200); do pgrep -f \"^sleep 1000.$$\" > /dev/null && break; sleep 0.05; done\nmapped=$(for i in $(pgrep -f \"^sleep 1000.$$\"); do grep -c . /proc/$i/uid_map; done | sort -n | tail -n 1)\n[ $mapped -gt 1 -o -z \"$AF\" ] && echo mapped; kill %1; wait; ${AF:+${AF%% run*} agent stop}\nEND\n").tools(&["newuidmap", "setpriv", "unshare"]);
    held_files: held("run 'a = open(\"f\"); os.open(\"d\", os.O_RDONLY); w = open(\"w\", \"w\"); n = open(\"/dev/null\"); os.dup2(a.fileno(), 20); os.dup2(1, 21); os.dup2(0, 22); os.open(\"f\", os.O_PATH)'; settled; listed; seen f; seen d; seen w; lsof -t f | grep -cx $S; \
        run 'os.chdir(\"d\")'; fuser d | tr -s ' ' '\\n' | grep -cx $S; lsof -a -p $S -d cwd -F n | grep ^n; run 'os.close(20); a.close(); w.close(); os.dup2(1, 20)'; settled; listed; seen w; end w");
    held_objects: held("run 's = socket.create_server((\"127.0.0.1\", 0)); c = socket.create_connection(s.getsockname()); p, _ = s.accept(); u = socket.socket(socket.AF_UNIX); u.bind(\"u\"); u.listen(); t, v = os.openpty(); os.dup2(p.fileno(), 30); w = open(\"w\", \"w\")'; settled; listed; P=$(lsof -nP -p $S -a -d 3 -F n | sed -n 's/^n127.*://p'); fuser $P/tcp | tr -s ' ' '\\n' | grep -cx $S; \
        run 's.close(); a = open(\"f\"); w.close(); q, r = c.detach(), p.detach(); os.dup2(q, 40); os.dup2(r, q); os.dup2(40, r); os.close(40)'; settled; listed; run 'c, p = socket.socket(fileno=r), socket.socket(fileno=q); c.send(b\"x\"); print(os.read(30, 9)); p.close(); c.shutdown(socket.SHUT_WR); print(os.read(30, 9)); os.close(30); print(c.recv(9))'; settled; listed; cat out; end w u");
    /// What is polled goes on being told of when its descriptor is moved at home.
    held_and_polled: held("run 'import select, threading; a = open(\"f\"); s = socket.create_server((\"127.0.0.1\", 0)); a.close(); b = open(\"d/x\", \"w\"); e = select.epoll(); e.register(s, select.EPOLLIN); l = select.epoll(); l.register(s, select.EPOLLIN | select.EPOLLET); print(e.poll(0), l.poll(0)); x = socket.create_server((\"127.0.0.1\", 0)); os.dup2(x.fileno(), 60); os.close(x.detach()); e.register(60, select.EPOLLIN)'; settled; listed; \
        run 'c = socket.create_connection(s.getsockname()); print(len(e.poll(9)), len(l.poll(9))); p, _ = s.accept(); print(e.poll(0)); e.register(p, select.EPOLLIN); os.dup2(p.fileno(), 50); e.register(50, select.EPOLLIN); os.close(p.detach())'; settled; listed; run 'threading.Timer(0.2, lambda: c.send(b\"x\")).start(); print(e.poll(9), os.read(50, 1), e.poll(0)); y = socket.socket(fileno=60); k = socket.create_connection(y.getsockname()); print(e.poll(9)); y.accept()[0].close(); print(k.recv(1))'; settled; listed; cat out; end");
    /// What is not open any more is not shown, and what has no name is; nobody waits for home's tools to see an end.
    held_no_longer: held("run 'a = open(\"f\"); g = open(\"g\", \"w\")'; settled; seen f; seen g; rm g; lsof -nP -p $S -a -d 4 -F n | grep ^n; run 'a.close()'; settled; seen f; run 'b = open(\"f\")'; settled; seen f; run 'b.close(); g.close()'; settled; seen f; listed; \
        mkfifo q; { cat q; echo ended; } > ended & W=$!; run 'o = os.open(\"q\", os.O_WRONLY); w = open(\"w\", \"w\"); os.dup2(o, 33)'; settled; listed; run 'os.write(o, b\"word\"); os.close(33); os.close(o)'; wait $W; cat ended; \
        run 'x = os.open(\"x\", os.O_WRONLY | os.O_CREAT, 0o755); os.write(x, b\"#!/bin/sh\\necho executed\\n\")'; settled; seen x; run 'os.close(x)'; ./x; end q w x ended");
    held_by_children: held("run 'a = open(\"f\"); i, o = os.pipe(); os.dup2(i, 180); os.dup2(o, 181); pid = os.fork() or (os.read(180, 1), a.close(), os.read(180, 1), os._exit(3)); open(\"pid\", \"w\").write(str(pid))'; C=$(cat pid); settled; seen f; shows f $C; listed $C | grep REG; run 'a.close()'; settled; seen f; shows f $C; run 'os.write(o, b\"x\")'; hides f $C; run 'os.write(o, b\"x\"); print(os.waitstatus_to_exitcode(os.wait()[1]))'; \
        run 'a = open(\"f\"); b = open(\"w\", \"w\"); os.set_inheritable(b.fileno(), True); k = subprocess.Popen([\"sleep\", \"100\"], close_fds=False); open(\"pid\", \"w\").write(str(k.pid))'; C=$(cat pid); shows w $C; hides f $C; listed $C | grep REG; run 'k.kill(); k.wait()'; cat out; end pid w");
    held_much: held("run 'import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (12000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); m = [open(\"f\") for _ in range(10000)]'; settled; seen f; run 'print(len(m), m[9999].read()); s = socket.create_server((\"127.0.0.1\", 0)); print(socket.create_connection(s.getsockname()).getsockname()[0]); del m; s.close()'; settled; seen f; listed; cat out; end");
    /// Who ends all that have a file open ends the guests that have, and nobody else.
    held_and_ended: held("$AF sleep 1000 & T=$!; $AF true; run 'a = open(\"f\")'; settled; fuser -k f 2> /dev/null | tr -s ' ' '\\n' | grep -c .; wait $S; echo $?; kill -0 $T && kill $T; wait $T; echo $?; hides f; end");
    held_and_killed: held("run 'a = open(\"f\")'; settled; fuser f | tr -s ' ' '\\n' | grep -x $S | xargs kill -KILL; wait $S; echo $?; hides f; end");
}
