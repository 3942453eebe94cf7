//! What a shell does: pipelines, substitutions, here-documents, subshells, traps, jobs.

use afield_e2e::{Case, cases, user_cases};

user_cases! {
    /// A program that does nothing.
    nothing: Case::guest("true");
    pipeline: Case::guest("printf 'c\nb\na\n' | sort | tr a-z A-Z");
    identity: Case::guest("id; id -u -r; pwd; umask; hostname; uname -a; echo \"$HOME $USER\"");
    files_of_its_own: Case::guest("mkdir d; echo x > d/f; chmod 600 d/f; ls -l d | tail -n +2 | cut -c1-10; cat d/f; rm -r d; ls");
}

cases! {
    long_pipeline: Case::guest("seq 1 20000 | grep -v 7 | sed 's/^/n/' | sort -r | head -n 100 | md5sum | cut -c1-32");
    pipeline_of_much: Case::guest("head -c 20000000 /dev/zero | tr '\\0' x | cat | wc -c");
    pipe_status: Case::guest_bash("false | true | exit 3; echo ${PIPESTATUS[@]}; set -o pipefail; false | true; echo $?");
    broken_pipe: Case::guest_bash("yes | head -n 1; echo ${PIPESTATUS[@]}");
    broken_pipe_ignored: Case::guest_bash("trap '' PIPE; (seq 1 1000000; echo $? >&2) 2>err | head -n 1; cat err | tail -n 1");
    here_document: Case::guest("x=1; cat <<END\nline $x $(echo two)\nEND\ncat <<'END'\n$x\nEND\n");
    here_document_large: Case::guest_bash("cat <<END | cksum\n$(seq 1 30000)\nEND\n");
    here_string: Case::guest_bash("tr a-z A-Z <<<'here string'");
    command_substitution: Case::guest("a=$(seq 1 5 | tail -n 1); b=`echo x$(echo y)`; echo $a $b; c=$(exit 3); echo $?");
    process_substitution: Case::guest_bash("diff <(seq 1 5) <(seq 2 6); seq 1 3 | tee >(sort -r > r; : > done) > o; until [ -e done ]; do :; done; cat o r; rm done");
    subshell_status: Case::guest("(exit 5); echo $?; (kill -TERM $(sh -c 'echo $PPID')); echo $?; ! (false); echo $?; (cd /; pwd); pwd");
    functions_and_arithmetic: Case::guest("f() { [ $1 -le 1 ] && echo 1 && return; echo $(($1 * $(f $(($1 - 1))))); }; f 6");
    trap_exit: Case::guest("trap 'echo bye' EXIT; echo hello; exit 3");
    trap_signal: Case::guest("trap 'echo got usr1' USR1; kill -USR1 $$; echo after; trap - USR1; trap 'echo term; exit 9' TERM; kill $$; echo never");
    /// `sh` waits in `sigsuspend`. What came before that would interrupt nothing.
    trap_in_wait: Case::guest("trap 'echo usr1' USR1; p=$$; (until grep -q suspend /proc/$p/wchan; do :; done; kill -USR1 $p; exec sleep 1) & wait $!; echo $?; wait; echo done");
    trap_of_child: Case::guest_bash("exec 2> /dev/null; set -m; trap 'echo child' CHLD; true & wait; trap - CHLD; echo end");
    background_and_wait: Case::guest("(exit 3) & a=$!; (exit 4) & b=$!; wait $b; echo $?; wait $a; echo $?; wait; echo $?");
    many_background: Case::guest("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (echo $i > f$i) & done; wait; cat f* | sort -n | tr '\n' ' '");
    wait_any: Case::guest_bash("sleep 30 & a=$!; (exit 6) & wait -n; echo $?; kill $a; wait $a; echo $?");
    /// When dash tells about a child that was killed depends on when it is told itself.
    /// `sh` lets go of a dead child before each command, and says nothing then; it says "Killed" if it dies during `wait`.
    kill_child: Case::guest("sleep 60 & kill $!; while [ -e /proc/$! ]; do :; done; wait $!; echo $?; sleep 60 & kill -9 $!; while [ -e /proc/$! ]; do :; done; wait $!; echo $?; kill -0 $!; echo $?");
    kill_group: Case::guest_bash("set -m; (sleep 60 & sleep 60 & wait) & kill -TERM -- -$!; wait $!; echo $?");
    stop_and_continue: Case::guest_bash("set -m; sleep 60 & p=$!; kill -STOP $p; until grep -q '^State:.T' /proc/$p/status; do :; done; jobs %1 | tr -s ' '; kill -CONT $p; until jobs -r | grep -q .; do :; done; kill $p; wait $p; echo $?");
    nested_shells: Case::guest("sh -c 'sh -c \"sh -c \\\"exit 42\\\"; echo \\$?; exit 43\"; echo $?; exit 44'; echo $?");
    exec_replaces: Case::guest("echo before; exec sh -c 'echo $0 $1; exit 5' zero one");
    exec_redirects: Case::guest("exec 3>out 4<>rw; echo three >&3; echo four >&4; exec 3>&-; cat out rw; echo x >&3; echo $?");
    many_descriptors: Case::guest_bash("for i in {3..200}; do eval \"exec $i>f$i\"; done; for i in {3..200}; do eval \"echo $i >&$i\"; done; cat f* | sort -n | md5sum");
    read_lines: Case::guest("while read -r a b; do echo \"$b-$a\"; done").stdin("1 one\n2 two\n3 three\n");
    read_exactly: Case::guest("read a; sh -c 'read b; echo child $b'; read c; echo $a $c; cat").stdin("1\n2\n3\n4\n5\n");
    glob: Case::guest("touch a1 a2 b1 .h 'sp ace'; echo *; echo a*; echo [!a]*; echo .*; echo no*pe");
    echo_of_parents: Case::guest("[ $PPID -gt 0 ] && [ $(sh -c 'echo $PPID') = $$ ] && echo the parent is the parent");
    own_pid_in_proc: Case::guest("[ $(readlink /proc/self/cwd) = \"$PWD\" ] && [ -d /proc/$$ ] && tr '\\0' ' ' < /proc/$$/cmdline | cut -c1-20");
    test_files: Case::guest("mkfifo p; ln -s nowhere l; mkdir d; :>f; for x in p l d f n /dev/null; do for t in b c d e f g h k L p r s S u w x; do [ -$t $x ] && printf %s $t; done; echo \" $x\"; done");
    times_of_children: Case::guest_bash("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; times | head -n 1 | grep -c '0m0.000s 0m0.000s'; ( i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done ); times | tail -n 1 | grep -c '^0m0.000s'");
    big_environment: Case::guest_bash("for i in {1..500}; do export V$i=$(printf %0200d $i); done; env | grep ^V | sort | md5sum; sh -c 'echo ${#V500}'");
    long_argument_list: Case::guest_bash("printf '%s\n' {1..40000} | wc -l; /bin/echo {1..20000} | md5sum; /bin/echo $(printf %0200000d 1) 2>&1 | cut -c1-60");
    xargs: Case::guest("seq 1 1000 | xargs -n 50 -P 4 sh -c 'echo $#' x | sort | uniq -c");
    tee_and_fifo: Case::guest("mkfifo p; (tr a-z A-Z < p > out) & seq 1 5 | sed 's/^/line/' > p; wait; cat out");
    sleep_zero: Case::guest("sleep 0; timeout 0.2 sleep 30; echo $?; timeout -s KILL 0.2 sleep 30; echo $?");
    date_within: Case::guest("a=$(date +%s); b=$(date +%s); [ $((b - a)) -le 5 ] && TZ=UTC date -d @0");
    dd_blocks: Case::guest("dd if=/dev/zero bs=1000 count=5 2>/dev/null | dd bs=512 iflag=fullblock 2>&1 >/dev/null | head -n 1 | cut -d+ -f1");
    awk_and_system: Case::guest("awk 'BEGIN { system(\"echo sub\"); \"echo pipe\" | getline x; print x; print \"b\\na\" | \"sort\"; exit 3 }'; echo $?");
    find_exec: Case::guest("mkdir -p a/b; touch a/1 a/b/2; find a -type f -exec sh -c 'echo $# $0' {} + | sort; find a -name '[0-9]' -delete -print | sort; find a -empty");
}
