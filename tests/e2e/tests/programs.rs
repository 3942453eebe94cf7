//! One small program of `programs/` per family of system calls.

use afield_e2e::{Case, cases, mask, user_cases};

user_cases! {
    files: Case::program("files");
    names: Case::program("names");
    attributes: Case::program("attributes");
    privileged: Case::program("privileged");
    children: Case::program("children");
    senders: Case::program("senders");
    file_sizes: Case::program("file_sizes");
    roots: Case::program("roots");
    /// A user who may have no more processes goes on with those that there are.
    last_process: Case::home_bash("$AF bash -c 'ulimit -u 1; echo one; /bin/true; echo $?; exec /bin/echo two' > out 2>&1; echo $?; cat out").mask(mask::numbers);
}

cases! {
    children_static: Case::static_program("children");
    descent: Case::program("descent");
    descriptors_of_processes: Case::program("descriptors_of_processes");
    /// Of a home process, and by one of a guest.
    descriptor_of_a_home_process: Case::home_bash("sleep 100 & p=$!; $AF $BIN/descriptors_of_processes $p; wait $p; echo $?").with_program("descriptors_of_processes");
    descriptor_of_a_guest: Case::home_bash("$AF sleep 100 & p=$!; until [ \"$(cat /proc/$p/comm)\" = sleep ]; do sleep 0.01; done; $BIN/descriptors_of_processes $p; wait $p; echo $?").with_program("descriptors_of_processes");
    devices: Case::program("devices");
    devices_with_pipe: Case::program("devices").stdin("");
    direct: Case::program("direct");
    directories: Case::program("directories");
    execute: Case::program("execute");
    execute_static: Case::static_program("execute");
    faults: Case::program("faults");
    files_static: Case::static_program("files");
    groups: Case::program("groups");
    locks: Case::program("locks");
    mapping: Case::program("mapping");
    private: Case::program("private");
    /// From a home process to a guest, and the other way round.
    senders_at_home: Case::home_bash("$AF $BIN/senders take > out & p=$!; until [ -s out ]; do sleep 0.01; done; $BIN/senders send $p; wait $p; echo $?; cat out").with_program("senders");
    senders_afield: Case::home_bash("$BIN/senders take > out & p=$!; until [ -s out ]; do sleep 0.01; done; $AF $BIN/senders send $p; wait $p; echo $?; cat out").with_program("senders");
    signals: Case::program("signals");
    signals_static: Case::static_program("signals");
    stops: Case::program("stops");
    threads: Case::program("threads");
    threads_static: Case::static_program("threads");
    timers: Case::program("timers");
    watches: Case::program("watches").mask(looked_at_once);
    /// A guest watches what home processes change, and a home process what a guest does.
    watches_of_home: Case::home_bash("mkdir d; $AF inotifywait -q -m --format '%e %f' d > out 2> err & p=$!; until $AF true && grep -qs inotify /proc/$p/fdinfo/*; do sleep 0.01; done; echo x > d/a; mv d/a d/b; chmod 600 d/b; rm d/b; until grep -qs DELETE out; do sleep 0.01; done; kill $p; wait $p; echo $?; grep -v ISDIR out; cat err; rm out").tools(&["inotifywait"]);
    watches_of_guests: Case::home_bash("mkdir d; inotifywait -q -m -e create,modify,close_write,move,attrib,delete --format '%e %f' d > out & p=$!; until grep -qs inotify /proc/$p/fdinfo/*; do sleep 0.01; done; $AF sh -c 'echo x > d/a; mv d/a d/b; chmod 600 d/b; rm d/b'; until grep -qs DELETE out; do sleep 0.01; done; kill $p; wait $p; cat out").tools(&["inotifywait"]);
    /// What a guest does not ask for is not opened, if somebody has just been at work with it.
    watches_of_guesses: Case::home_bash("$AF sh -c 'echo > up; until [ -e go ]; do sleep 0.01; done; test -d d; test -e d/none' & j=$!; until [ -e up ]; do sleep 0.01; done; mkdir d; inotifywait -q -m --format '%e %f' d > out & p=$!; until grep -qs inotify /proc/$p/fdinfo/*; do sleep 0.01; done; echo x > d/a; echo > go; wait $j; mkdir d/z; rmdir d/z; until grep -qs DELETE out; do sleep 0.01; done; kill $p; wait $p; grep -v ISDIR out; rm out").tools(&["inotifywait"]);
    /// Each as a child of a shell, so that none is the job's first process.
    below_a_shell: Case::guest("for p in files names locks children signals stops; do mkdir $p; (cd $p && $BIN/$p > ../$p.out 2>&1; echo $p $?); done; cat *.out | md5sum")
        .with_program("files").with_program("names").with_program("locks")
        .with_program("children").with_program("signals").with_program("stops").seconds(120);
    /// With `ulimit -c` a death by signal says that memory was dumped, and where it was.
    core_flag: Case::home_bash("ulimit -c unlimited; $AF bash -c 'kill -ABRT $$'; echo $?; ls; readelf -h core* | grep -E 'Class|Type|Machine|program headers:'; readelf -nW core* | grep -oE 'NT_[A-Z_0-9]+|/[^ ]+$' | sort | uniq -c; rm -f core*; ulimit -c 0; $AF bash -c 'kill -ABRT $$'; echo $?; ls").tools(&["readelf"]).mask(mask::numbers);
    /// Deputies leave nothing of their own.
    core_directory: Case::home_bash("ulimit -c unlimited; for i in 1 2 3; do $AF sh -c 'sh -c \"kill -QUIT \\$\\$\"; echo $?; kill -SEGV $$'; echo $?; done 2>/dev/null; rm -f core*; while ls $AFIELD_RUNTIME_DIR | grep -q dump; do :; done");
    core_flag_of_child: Case::guest("ulimit -c unlimited; perl -e '$p = fork; if (!$p) { kill 6, $$ } waitpid $p, 0; print $? >> 7 & 1, $? & 127, \"\\n\"'; rm -f core*").tools(&["perl"]);
}

/// Home may look at what is read, too (docs/compatibility.md).
fn looked_at_once(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let mut seen = Vec::new();
    for line in text.split_inclusive('\n') {
        if !line.starts_with("read: ") || !seen.contains(&line) {
            seen.push(line);
        }
    }
    seen.concat().into_bytes()
}
