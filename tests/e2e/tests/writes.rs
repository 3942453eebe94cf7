//! Writes: what they give, who sees them when, and where their errors come up.

use afield_e2e::{Case, cases, user_cases};

user_cases! {
    writing: Case::program("writing");
    /// Whoever hears of a write sees it, by whatever way he hears.
    told: Case::home_bash("mkfifo to from; $AF sh -c 'exec 3>f; while read n; do head -c $n /dev/zero >&3; echo done; done' < to > from & exec 4>to 5<from; for n in 1 5000 100000 3000000 7 70000; do echo $n >&4; read x <&5; stat -c %s f; done; exec 4>&-; wait $!; echo $?; md5sum < f");
    /// A writer of home and a guest append in turn.
    appended_by_both: Case::home_bash("mkfifo to from; $AF sh -c 'exec 3>>f; while read n; do echo guest $n >&3; echo done; done' < to > from & exec 4>to 5<from; for n in 1 2 3 4 5 6 7 8 9; do echo $n >&4; read x <&5; echo home $n >> f; done; exec 4>&-; wait $!; cat f");
    truncated_by_home: Case::home_bash("mkfifo to from; $AF sh -c 'exec 3>f; while read n; do printf %05d $n >&3; echo done; done' < to > from & exec 4>to 5<from; for n in 1 2 3 4; do echo $n >&4; read x <&5; : > f; echo $n >&4; read x <&5; od -An -c f; done; rm f; echo 9 >&4; read x <&5; exec 4>&-; wait $!; ls");
    /// Its output is whole when it is seen to have ended, however it ends.
    ended: Case::home("for end in 'exit 3' 'kill -9 $$' 'kill -TERM $$' 'exec true'; do $AF sh -c \"for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/zero; done >> f; seq 1 2000 >> g; exec 3>>h; echo last >&3; $end\"; echo $?; stat -c %s f g h; done; md5sum f g h");
}

cases! {
    /// While a file is open its file system loses its room: some call says so, and what is there is what could be written.
    room_vanishes: Case::home_bash("mkdir t; unshare -m bash -c 'mount -t tmpfs -o size=3g none t || exit; cd t; mkfifo ../to ../from; $AF \"$BIN\"/outgrown big < ../to > ../from 2> ../behind & exec 4>../to 5<../from; read x <&5; echo $x; mount -o remount,size=1m .; echo go >&4; cat <&5; wait $!; echo $?; stat -c %s big'; rm to from behind").with_program("outgrown").tools(&["unshare"]);
    /// A file system on which nobody may write any more: the next open fails, what is open still writes.
    read_only: Case::home_bash("mkdir t; unshare -m bash -c 'mount -t tmpfs -o size=3g none t || exit; cd t; mkfifo ../to ../from; echo x > f; $AF sh -c \"while read x; do echo y >> f; echo \\$? \\$(cat f); done 2>&1\" < ../to > ../from & exec 4>../to 5<../from; echo go >&4; read x <&5; echo $x; mount -o remount,ro .; echo go >&4; read x <&5; echo $x; read x <&5; echo $x; mount -o remount,rw .; echo go >&4; read x <&5; echo $x; exec 4>&-; wait $!'; rm to from").tools(&["unshare"]);
}
