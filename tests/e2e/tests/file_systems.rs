//! Where one file system of home's ends and another begins, as programs see it.

use afield_e2e::{Case, cases, user_cases};

/// Mounts within mounts, of directories and files, of parts of file systems seen elsewhere, and one that cannot be written.
const MOUNTS: &str = r#"
cat > make <<'END'
mkdir t; cd t
mkdir a over later; mount -t tmpfs one a; mkdir a/in a/sub a/back 'a/odd name'; mount -t tmpfs two a/in; echo f > a/file; echo g > g
mount --bind a/file g; mount --bind a/sub over; touch a/in/deep; mount --bind later a/back; mount -t tmpfs -o ro none a/sub; mount -t tmpfs odd 'a/odd name'
$AF bash ../look
${AF:+${AF%% run*} agent stop}
cd ..; umount -R t/a t/g t/over; rm -r t
END
cat > look <<'END'
number() { stat -c %d "$1"; }
for p in . a a/in a/in/deep a/file g a/sub over a/back later 'a/odd name' a/in/.. a/in/../..; do
    echo "$p" $([ $(number .) = $(number "$p") ] && echo home) $([ $(number a) = $(number "$p") ] && echo one) $(stat -c '%h %s %F' "$p")
    [ $(number .) = $(number "$p") ] || stat -c %i "$p"
done
find . -xdev | LC_ALL=C sort; find a -xdev | LC_ALL=C sort; find a -mount -type f
tar --one-file-system -cf - a | tar tf - | LC_ALL=C sort; du -x a | cut -f 2
cat g; echo more >> g; cat a/file
for p in a a/in a/back over g; do mountpoint $p; rmdir $p 2>&1; done; rm g; ls g
ln a/file x; ln a/file a/in/x; ln a/file a/x && stat -c %h a/file g; rm a/x
mv a/file a/in/ && cat a/in/file g && mv a/in/file a/file && cat a/file; echo x > a/sub/x; echo x > over/x; cat over/x a/sub/x
cd a/in; pwd; cd ..; pwd; cd ..; pwd -P; cd a/back; pwd -P; cd ../..
stat -c %m a/in/deep a/file . 'a/odd name' | sed "s|$PWD|here|"; df --output=target a/in/deep a | sed "s|$PWD|here|"
END
cat > renames <<'END'
import os
for one, other in ('a/file', 'a/in/x'), ('a/in/deep', 'a/deep'), ('a/back', 'z'), ('a', 'zz'), ('a/in', 'a/out'), ('g', 'gg'), ('later', 'a/later'):
    try:
        os.rename(one, other)
        print(one, other)
        os.rename(other, one)
    except OSError as error:
        print(error)
for p in ('a', 'a/in', 'over', 'later', 'a/back', 'g'):
    print(p, os.path.ismount(p))
END
echo python3 ../renames >> look"#;

/// File systems come and go while a guest looks.
const CHANGES: &str = r#"
cat > change <<'END'
mkdir t; cd t; mkdir m n o; mkfifo to from
mount -t tmpfs one m; echo 1 > m/one; mount -t tmpfs other o
$AF bash ../look < to > from & exec 3>to 4<from
look() { echo look >&3; while read x <&4 && [ "$x" != . ]; do echo "$x"; done; }
look
$AF bash ../job
for i in $(seq 1200); do umount m 2> no && break; sleep 0.05; done; cat no; rm no; echo under > m/under
look
$AF bash ../job
mount -t tmpfs two m; echo 2 > m/two; mount -t tmpfs three n; mkdir n/in; mount -t tmpfs four n/in
$AF bash ../job
umount -l m; mount -t tmpfs five m; echo 5 > m/five
$AF bash ../job
exec 3>&- 4<&-; wait
${AF:+${AF%% run*} agent stop}
umount -R m n o; cd ..; rm -r t
END
cat > names <<'END'
ls m n o
END
cat > look <<'END'
while read x; do bash ../names; echo .; done
END
cat > job <<'END'
bash ../names
for p in m n n/in o; do [ -d $p ] && echo $p $([ $(stat -c %d .) = $(stat -c %d $p) ] && echo home || stat -c %i $p); done
[ $(stat -c %d m) = $(stat -c %d n) ] && echo same; [ $(stat -c %d m) = $(stat -c %d o) ] && echo same
END"#;

user_cases! {
    numbers: Case::guest("here=$(stat -c %d .); for p in / . /proc /sys /dev /dev/shm /dev/pts /proc/sys; do for q in / /proc /sys /dev /dev/shm /dev/pts; do [ $(stat -c %d $p) = $(stat -c %d $q) ] && echo $p $q; done; done; stat -c '%n %i' /proc /sys /dev /dev/shm /dev/pts; find / -xdev -maxdepth 1 | LC_ALL=C sort | head -n 5; find /dev -xdev | LC_ALL=C sort; mountpoint /dev/shm; mountpoint /; ln /dev/null x 2>&1; cat /dev/null; ls -d /proc/self/cwd/.");
}

/// What is kept of another file system than the root's is as true.
const ELSEWHERE: &str = r#"
cat > store.py <<'END'
import fcntl, mmap, os, sys
with open('m', 'r+b') as file:
    stored = mmap.mmap(file.fileno(), 4096)
for line in sys.stdin:
    stored[:4] = line[:4].encode()
    with open('n') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(file.read().strip(), sorted(os.listdir()), os.stat('n').st_size, os.path.exists('o'), flush=True)
END
cat > elsewhere <<'END'
here=$PWD; d=$(mktemp -d /dev/shm/afield-XXXXXX); cd $d; mkfifo to from; head -c 5000 /dev/zero > m; echo first > n
$AF python3 $here/store.py < to > from & exec 3>to 4<from
for i in 1 2 3 4 5; do echo $i$i$i$i >&3; read x <&4; echo "$x"; head -c 4 m; echo; echo version $i and more > n; : > new$i; [ $((i % 2)) = 0 ] && rm o || : > o; done
mv n p; mv p n; echo last >&3; read x <&4; echo "$x"; exec 3>&- 4<&-; wait; cmp -n 4 m <(echo last) && stat -c %s m; rm -r $d
END"#;

/// A file system whose server is silent holds nobody up who does not go there.
const SILENT: &str = r#"
cat > hang <<'END'
mkdir t; cd t; mkdir m n; mkfifo said; "$BIN"/silent m > said & exec 3<said; read x <&3; echo $x; mount -t tmpfs three n; echo 3 > n/three
$AF bash -c 'cat n/three; echo more >> n/three; [ $(stat -c %d n) = $(stat -c %d .) ] || echo other'
cat n/three; kill $!; wait $!; umount -l m
${AF:+${AF%% run*} agent stop}
umount n; cd ..; rm -r t
END"#;

cases! {
    silent: Case::home_bash("[ $(id -u) = 0 ] || r=-Ur; unshare $r -m bash hang; echo $?").setup(SILENT).with_program("silent").tools(&["unshare"]);
    elsewhere: Case::home_bash("bash elsewhere").setup(ELSEWHERE).tools(&["python3"]);
    mounts: Case::home_bash("[ $(id -u) = 0 ] || r=-Ur; unshare $r -m bash make; echo $?").setup(MOUNTS).tools(&["unshare", "tar", "python3"]);
    changes: Case::home_bash("[ $(id -u) = 0 ] || r=-Ur; unshare $r -m bash change; echo $?").setup(CHANGES).tools(&["unshare"]).seconds(120);
}
