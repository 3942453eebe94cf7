//! What a program starts with, and how its end is seen: arguments, environment, limits, descriptors, statuses.

use afield_e2e::{Case, cases, user_cases};

user_cases! {
    /// The whole environment arrives, and nothing else.
    environment: Case::guest("env | sort");
    limits: Case::guest_bash("ulimit -a; ulimit -Ha");
    directory_removed: Case::home("mkdir gone; cd gone; rmdir ../gone; $AF sh -c '/bin/pwd; ls -a; touch x; echo $?; cd ..; /bin/pwd' 2>/dev/null; echo $?; mkdir ../gone; $AF sh -c '/bin/pwd; ls -a; echo $?; cd ../gone && /bin/pwd' 2>/dev/null; rmdir ../gone; mkdir -p ../a/b; cd ../a/b; rm -r ../../a; $AF sh -c '/bin/pwd; cd ../..; /bin/pwd' 2>/dev/null; echo $?");
    /// At home the process is where the guest is, from its first directory on, and makes files as the guest would.
    directory_and_umask_at_home: Case::home("export d=$PWD; mkfifo at go; mkdir -p a/b c; ln -s a/b l; echo 'echo $$ > $d/at; read x < $d/go' > next; $AF sh -c '. $d/next; cd a/b; umask 027; . $d/next; cd ../../c; umask 0; . $d/next; cd ../l; . $d/next; (cd -P ..; umask 77; exec sh -c \". $d/next; cd ..; . $d/next\"); . $d/next; cd /nowhere; cd /proc/self/fd; /bin/pwd | tr -d 0-9; cd /sys/devices/system/cpu; /bin/pwd; cd; . $d/next' 2>/dev/null & for i in 1 2 3 4 5 6 7 8; do read p < at; readlink /proc/$p/cwd | sed s,$PWD,.,; grep Umask /proc/$p/status; echo > go; done; wait");
    directory_renamed: Case::home("mkfifo at go; mkdir -p a/b; $AF sh -c 'd=$PWD; cd a/b; echo > ../../at; read x < $d/go; /bin/pwd; echo > $d/at; read x < $d/go; /bin/pwd; cd ..; /bin/pwd; readlink /proc/$$/cwd' & read x < at; mv a/b c; echo > go; read x < at; rmdir c; echo > go; wait");
    ids_of_groups: Case::guest("id; cat /proc/self/loginuid >/dev/null 2>&1; grep -E '^(Uid|Gid|Groups):' /proc/self/status");
}

cases! {
    umask: Case::home("umask 027; $AF sh -c 'umask; touch f; mkdir d'; umask 0; $AF sh -c 'umask; touch g; mkdir e'");
    directory: Case::home("mkdir -p a/b; cd a/b; $AF sh -c 'pwd; /bin/pwd; cd ..; /bin/pwd; touch here'");
    /// The agent comes first, for the same reason as below.
    limits_changed: Case::home_bash("$AF true; ulimit -n 100; ulimit -S -s 4096; ulimit -c unlimited; ulimit -f 1000; ulimit -t 100; $AF bash -c 'ulimit -a; ulimit -Ha'");
    few_descriptors: Case::home_bash("ulimit -S -n 10; $AF bash -c 'ulimit -n; ulimit -Hn; exec 9</dev/null; exec 5</dev/null; echo ok; (true 10</dev/null) 2>/dev/null || echo no more'");
    /// An agent cannot be started under this limit, which it could not get rid of.
    few_descriptors_for_good: Case::home_bash("$AF true; ulimit -n 10; $AF bash -c 'ulimit -n; ulimit -Hn; exec 9</dev/null; exec 5</dev/null; echo ok; (true 10</dev/null) 2>/dev/null || echo no more'");
    nohup: Case::home("$AF nohup sh -c 'kill -HUP $$; echo alive' 2>/dev/null; trap '' INT QUIT; $AF sh -c 'kill -INT $$; kill -QUIT $$; echo alive too'");
    ignored_signals: Case::home("trap '' USR1 TERM; $AF sh -c 'grep SigIgn /proc/self/status; kill $$; kill -USR1 $$; echo alive'");
    nice: Case::home("nice -n 7 $AF sh -c 'nice; nice -n 3 nice'");
    argument_zero: Case::home_bash("(exec -a odd $AF sh -c 'echo $0') | wc -l; $AF sh -c 'echo $0 $# \"$@\"' zero '' 'a b' \"$(printf 'new\nline')\" '*'");
    odd_arguments: Case::home_bash("$AF printf '%s|' $'\\xff\\xfe' '' ' ' '--' '-n' '$HOME' \"'\" '\"'");
    variable_without_name: Case::home_bash("env -i AFIELD_E2E=$AFIELD_E2E AFIELD_RUNTIME_DIR=$AFIELD_RUNTIME_DIR XDG_CONFIG_HOME=$XDG_CONFIG_HOME 'A=1=2' 'B=' \"$(printf 'C=x\ny')\" ${AF:-env} env | sort").mask(|bytes| without_lines(bytes, b"AFIELD"));
    every_exit_status: Case::home("for i in $(seq 0 255); do $AF sh -c \"exit $i\"; [ $? = $i ] || echo $i gave $?; done; echo done").seconds(180);
    some_exit_statuses: Case::guest("i=0; while [ $i -le 255 ]; do (exit $i); [ $? = $i ] || echo $i; i=$((i+1)); done; echo done");
    death_by_each_signal: Case::home_bash("for s in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 24 25 26 27 29 30 31 34 50 64; do $AF sh -c \"kill -$s \\$\\$; sleep 10\" 2>/dev/null; echo $s $?; done 2>&1 | grep -v bash:").seconds(120);
    death_of_children: Case::guest_bash("for s in 1 2 3 4 6 8 9 11 13 14 15 31 34 64; do sh -c \"kill -$s \\$\\$; sleep 10\"; echo $s $?; done 2>/dev/null");
    signals_that_are_ignored: Case::guest_bash("for s in CHLD URG WINCH CONT; do sh -c \"kill -$s \\$\\$; echo alive\"; done");
    not_found: Case::home("$AF nosuchprogram 2>/dev/null; echo $?; $AF ./nosuchprogram 2>/dev/null; echo $?; $AF '' 2>/dev/null; echo $?");
    not_executable: Case::home("echo true > f; $AF ./f 2>/dev/null; echo $?; mkdir d; $AF ./d 2>/dev/null; echo $?");
    script: Case::home("printf '#!/bin/sh -e\\necho $0 $1; false; echo no' > s; chmod +x s; $AF ./s arg; echo $?; PATH=$PWD:$PATH; $AF s arg; echo $?");
    script_without_line: Case::home("printf 'echo $0 $1\\n' > s; chmod +x s; $AF sh -c './s arg'; echo $?");
    /// The job asks for another program in place of the first, whose guest is just about to end.
    /// Jobs get pids that a guest's threads could have had. (Without root nobody can choose what pids come next.)
    beside_threads: Case::home_bash("mkfifo go; $AF python3 -c 'import os, threading\nthreading.stack_size(65536)\nfor _ in range(1500): threading.Thread(target=threading.Event().wait, daemon=True).start()\nprint(\"up\", flush=True); open(\"go\").read(); os._exit(0)' > up & until [ -s up ]; do sleep 0.05; done; { echo 400 > /proc/sys/kernel/ns_last_pid; } 2> /dev/null; for i in $(seq 40); do $AF true || echo $?; done; echo > go; wait; rm go up").tools(&["python3"]);
    /// Jobs get the very pids that a guest's threads have. In a pid namespace of its own this user can choose them.
    beside_threads_of_that_pid: Case::home_bash("cat > choose <<'END'\necho 4194304 > /proc/sys/kernel/pid_max\nmkfifo go\n$AF python3 threads.py > up & until [ -s up ]; do sleep 0.05; done\nfor i in $(cat up); do echo $((i - 1)) > /proc/sys/kernel/ns_last_pid; $AF true || echo $?; done\necho > go; wait\n${AF:+${AF%% run*} agent stop}\nEND\nunshare -Urpf --mount-proc bash choose; echo $?; rm go up choose").setup("cat > threads.py <<'END'\nimport os, threading\nall = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(20)]\nfor one in all: one.start()\nprint(*(one.native_id for one in all), flush=True); open('go').read(); os._exit(0)\nEND\n").tools(&["python3", "unshare"]);
    script_without_line_itself: Case::home("printf 'echo $0 $1\\n' > s; chmod +x s; for i in $(seq 40); do $AF ./s $i || echo $?; done");
    script_interpreter_missing: Case::home("printf '#!/no/such\\n' > s; chmod +x s; $AF sh -c './s; echo $?' 2>&1; $AF sh -c 'exec ./s' 2>/dev/null; echo $?");
    null_input: Case::home("$AF cat < /dev/null; echo $?; $AF sh -c '[ -c /dev/stdin ] && stat -L -c %F /dev/stdin' < /dev/null");
    null_output: Case::home("$AF sh -c 'echo x; echo y >&2; ls -l /proc/self/fd/1 | sed s/.*-.//' > /dev/null; $AF seq 1 100000 > /dev/null; echo $?");
    closed_input: Case::home("$AF cat <&- 2>/dev/null; echo $?; $AF sh -c 'cat 2>/dev/null; echo $?' <&-; $AF sh -c 'exec 5<f && echo opened' <&- 2>/dev/null; echo $?").setup("echo x > f");
    closed_output: Case::home("$AF echo x >&- 2>/dev/null; echo $?; $AF sh -c 'echo x; echo $? >&2' >&- 2>err; tail -n 1 err");
    closed_error: Case::home("$AF sh -c 'echo x >&2; echo $?' 2>&-; $AF ls nosuch 2>&-; echo $?");
    closed_all: Case::home("$AF sh -c 'echo x > f; exec 3< f; read y <&3; echo $y$y > g' <&- >&- 2>&-; echo $?; cat f g");
    first_descriptor: Case::home_bash("$AF python3 -c 'import os; print(os.open(\"/dev/null\", 0), sorted(os.listdir(\"/proc/self/fd\")))'; $AF python3 -c 'import os; os.write(2, b\"%d\" % os.open(\"/dev/null\", 0))' <&-").tools(&["python3"]);
    inherited_descriptors: Case::home_bash("exec 3<in 4>out 7>>add; $AF sh -c 'cat <&3; echo four >&4; echo seven >&7; for i in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$i ] && echo $i; done; :'; echo more >&4; cat out add").setup("echo in > in; echo old > add");
    shared_input_file: Case::home("($AF head -n 1; cat) < f; ($AF sh -c 'read a; read b; echo $a$b'; $AF dd bs=1 count=3 2>/dev/null; cat) < f").setup("seq 1 200 > f");
    shared_input_pipe: Case::home("($AF sh -c 'read a; echo $a'; $AF dd bs=1 count=4 2>/dev/null; cat)").stdin("one\ntwo\nthree\nfour\n");
    shared_output_file: Case::home("(echo a; $AF echo b; echo c; $AF sh -c 'echo d; (echo e); echo f'; echo g) > f; cat f");
    shared_output_append: Case::home("for i in 1 2 3 4; do (for j in 1 2 3 4 5 6 7 8 9 10; do echo $i-$j; done >> f) & $AF sh -c 'for j in 1 2 3 4 5 6 7 8 9 10; do echo g'$i'-$j; done' >> f & done; wait; wc -l < f; sort f | md5sum").volatile("f");
    read_write_input: Case::home("$AF sh -c 'read a; echo new >&0; echo $a' 0<> f; cat f").setup("printf 'line1\nline2\nline3\n' > f");
    output_to_pipe_of_home: Case::home("$AF seq 1 100000 | md5sum; seq 1 100000 | $AF md5sum; $AF seq 1 1000 | $AF sort -rn | $AF head -n 3");
    /// Jobs that begin while others do: what comes for a deputy as it becomes one is not lost.
    pipes_one_after_the_other: Case::home("for i in $(seq 40); do $AF seq 1 1000 | $AF sort -rn | $AF head -n 1; done; for i in $(seq 40); do $AF cat < f | $AF wc -c & done; wait").setup("seq 1 100 > f");
    two_to_one: Case::home("$AF sh -c 'echo out; echo err >&2; echo out2' 2>&1 | cat; $AF sh -c 'echo out; echo err >&2; echo out2' > f 2>&1; cat f");
    broken_pipe_at_home: Case::home_bash("$AF yes | head -n 1; echo ${PIPESTATUS[@]}; $AF sh -c 'trap \"\" PIPE; yes 2>&1 >&3 | cut -c1-60 >&2' 3>&1 2>err | head -n 1; cat err");
    /// When a guest has ended, home's kernel has closed what it had open: its programs can be executed, its locks be had.
    files_closed_at_the_end: Case::home("for i in $(seq 40); do $AF sh -c 'cat /bin/true > prog; chmod +x prog'; ./prog || echo $?; rm prog; $AF flock f true; flock -n f true || echo held; done; echo done").tools(&["flock"]);
    /// The same while the guest lives: who is told after a file was closed finds it closed.
    files_closed_before_a_message: Case::home("mkfifo told go; $AF sh -c 'for i in $(seq 40); do exec 9> f; flock 9; exec 9>&-; echo > told; read x < go; done' & for i in $(seq 40); do read x < told; flock -n f true || echo held; echo > go; done; wait; echo done").tools(&["flock"]);
    fifo_of_home: Case::home("mkfifo p; $AF sh -c 'cat p; echo end' & echo through > p; wait; (cat p > got) & $AF sh -c 'echo back > p'; wait; cat got");
    large_input: Case::home("head -c 50000000 /dev/zero | $AF wc -c; $AF head -c 30000000 /dev/zero | wc -c");
    pid_is_the_jobs: Case::home("$AF sh -c 'echo $$ > pid' & p=$!; wait $p; [ $(cat pid) = $p ] && echo same; rm pid");
    parent_is_the_shell: Case::home("$AF sh -c 'echo $PPID > ppid'; [ $(cat ppid) = $$ ] && echo same; rm ppid");
    kill_from_home: Case::home("mkfifo p; $AF sh -c 'trap \"echo got it; exit 3\" TERM; echo ready > p; while :; do sleep 0.05; done' & read x < p; kill $!; wait $!; echo $?; $AF sh -c 'echo ready > p; exec sleep 60' & read x < p; kill -9 $!; while [ -e /proc/$! ]; do :; done; wait $!; echo $?");
    stop_from_home: Case::home_bash("set -m; $AF sh -c 'echo $$ > ready; while :; do :; done' & p=$!; until [ -s ready ]; do :; done; kill -STOP $p; until grep -q '^State:.T' /proc/$p/status; do :; done; jobs -s | grep -c Stopped; kill -CONT $p; until jobs -r | grep -q .; do :; done; kill -TERM $p; wait $p; echo $?; rm ready");
    exec_into_afield: Case::home("exec $AF sh -c 'echo $1; exit 9' x y");
    afield_in_subshells: Case::home("x=$($AF echo one; $AF echo two); echo $x; ( $AF false ) || echo failed; $AF true && echo worked");
    many_at_once: Case::home("for i in $(seq 1 16); do $AF sh -c \"echo $i > f$i; exit $i\" & done; wait; cat f* | sort -n | tr '\\n' ' '");
    terminal_is_none: Case::home("$AF sh -c '[ -t 0 ] || echo not; [ -t 1 ] || echo not; tty; : < /dev/tty' 2>/dev/null; echo $?");
    types_of_standard: Case::home("echo | $AF stat -L -c '%F' /dev/stdin | cat; $AF stat -L -c '%F %s' /dev/stdin < f; $AF sh -c 'stat -L -c %F /dev/stdout >&2' 2>o >> f; cat o; stat -c %F,%a f").setup("echo hello > f");
}

fn without_lines(bytes: &[u8], start: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.starts_with(start))
        .flatten()
        .copied()
        .collect()
}
