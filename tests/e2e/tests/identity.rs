//! Who a process is, what it is told of others, and what others are told of it.

use afield_e2e::{Case, cases, mask, user_cases};

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
}
