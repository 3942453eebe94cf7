//! What a node keeps of home's files is never out of date: whoever has been told of a change, by whatever means, sees it.

use afield_e2e::{Case, user_cases};

/// A guest that looks when it is told to, and home's way of telling it by a pipe and waiting until it has looked. Looking twice makes
/// the second look one at what is kept.
const GUEST: &str = r#"
mkdir d d/e; echo one > f; echo two > d/g; ln -s f l; mkfifo to from
cat > look <<'END'
see() { stat -c '%n %F %s %a %h' f g l d d/g d/e d/new moved 2>&1; cat f g l d/g moved/g 2>&1; readlink l; ls d . moved 2>&1 | grep -v '^out'; [ -x f ] && echo executable; [ -r f ] && echo readable; stat -c %y f 2>&1 | grep -o '^200.*'; }
END
cat > guest <<'END'
. ./look; while read -r word; do case $word in end) break;; look) see; see;; *) eval "$word" 2>&1;; esac; echo; echo looked >&7; done < to 7> from
END
cat > home <<'END'
exec 3<>to 4<>from; say() { echo "$1" >&3; read -r answer <&4; }; say look
END
"#;

/// A program that compares mapped files, of which it needs two parts for each of its steps, and a process that opens them and the program.
const COMPARE: &str = r#"
cat > compare.c <<'END'
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
int main(int count, char **names)
{
    char *maps[8];
    for (int i = 1; i < count; i++) maps[i] = mmap(0, 1 << 20, PROT_READ, MAP_SHARED, open(names[i], O_RDONLY), 0);
    for (long at = 0; at < 1 << 20; at += 4096)
        for (int i = 2; i < count; i++) {
            char *from = maps[1] + at, *to = maps[i] + at;
            long length = 4096;
            __asm__ volatile("repe cmpsb" : "+S"(from), "+D"(to), "+c"(length) : : "memory", "cc");
            if (length) printf("%ld of %s\n", at, names[i]);
        }
    puts("compared");
}
END
cc -o compare compare.c; head -c 1M /dev/zero | tr '\0' x > a; cp a b; cp a c; cp a d
cat > opener.py <<'END'
import os
open("up", "w")
while True:
    for name in "a", "b", "c", "d", "compare": os.close(os.open(name, os.O_RDONLY))
END
"#;

/// A guest that changes files as it is told, and looks at them; and home, which looks as well and says what is not the same.
const AFTER: &str = r#"
cat > see.py <<'END'
import os
def look(name):
    try: s = os.lstat(name)
    except OSError as e: return type(e).__name__
    return [s.st_mode, s.st_nlink, s.st_uid, s.st_size, s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns]
def see(): return {n: look(n) for n in ('w', 'w/d', 'w/f', 'w/g', 'w/d/f', 'w/l', 'w/new')}
END
cat > g.py <<'END'
import os, sys, json, mmap, threading
from see import see
open_files = {}
for line in sys.stdin:
    try: exec(line)
    except OSError as e: pass
    print(json.dumps([see(), see()]), flush=True)
END
cat > h.py <<'END'
import os, subprocess, json
from see import see
steps = """
os.mkdir('w'); os.mkdir('w/d')
f = open('w/f', 'w'); f.write('one')
f.flush()
f.close()
f = open('w/f', 'a+b', buffering=0); f.write(b'two')
f.seek(0); print(f.read(), file=sys.stderr)
f.write(b'three'); f.seek(0); print(f.read(), file=sys.stderr)
f.truncate(5); f.seek(0, 2); print(f.tell(), file=sys.stderr)
f.close()
f = open('w/f', 'r+b', buffering=0); f.seek(3); f.write(b'0123456789'); f.seek(1); print(f.read(4), f.seek(0, 2), file=sys.stderr)
f.seek(9000); f.write(b'far'); f.seek(8000); print(len(f.read()), file=sys.stderr); f.seek(100); f.write(b'z'); f.seek(90); print(f.read(20), file=sys.stderr)
os.fsync(f.fileno())
m = mmap.mmap(f.fileno(), 0); m[2:4] = b'MM'; m.flush(); m.close()
f.close(); print(open('w/f', 'rb').read()[:9], file=sys.stderr)
os.link('w/f', 'w/g')
os.rename('w/f', 'w/g')
os.rename('w/f', 'w/d/f')
os.unlink('w/g')
os.symlink('d/f', 'w/l')
os.readlink('w/l')
open('w/l', 'w').write('by the link')
open('w/l').read()
os.listdir('w'); os.listdir('w/d')
open('w/new', 'x').close()
open('w/new', 'x')
os.unlink('w/new')
open('w/new')
open('w/new', 'w').write('again')
os.chmod('w/new', 0o600)
os.utime('w/new', (1, 2))
open('w/new').read()
os.setxattr('w/new', 'user.a', b'b')
os.removexattr('w/new', 'user.a')
os.replace('w/new', 'w/d/f')
os.mkdir('w/new'); os.rmdir('w/new')
os.truncate('w/d/f', 2)
os.posix_fallocate(os.open('w/d/f', os.O_RDWR), 0, 100)
t = [threading.Thread(target=lambda i=i: [(open(f'w/d/{i}.{k}', 'w').write('x' * k), os.stat('w/d'), os.rename(f'w/d/{i}.{k}', f'w/d/n{i}'), os.stat('w/d'), os.unlink(f'w/d/n{i}')) for k in range(40)]) for i in range(4)]; [x.start() for x in t]; [x.join() for x in t]
t = [threading.Thread(target=lambda i=i: [(os.pwrite(1000, b'y' * 10, i * 1000 + k * 10), os.pread(1000, 20, i * 1000), os.fstat(1000)) for k in range(40)]) for i in range(4)]; os.dup2(os.open('w/d/f', os.O_RDWR), 1000); [x.start() for x in t]; [x.join() for x in t]; print(os.lseek(1000, 0, 2), file=sys.stderr); os.close(1000)
os.unlink('w/d/f')
""".strip().split('\n')
g = subprocess.Popen(os.environ['AF'].split() + ['python3', 'g.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
for step in steps:
    g.stdin.write(step + '\n')
    seen, home = json.loads(g.stdout.readline()), see()
    for one in seen:
        for name in one:
            if one[name] != home[name]: print(step, name, one[name], home[name])
print(len(steps))
g.stdin.close(); g.wait()
END
"#;

/// A file that two guests and home write in turn, in many ways, after each has seen what the one before has written.
const IN_TURN: &str = r#"
cat > step.py <<'END'
import mmap, os, random
def step(n, who):
    r = random.Random(f'{who} {n}')
    text = (b'%d ' % n) * r.choice([1, 20, 3000])
    for i in range(r.choice([1, 2])):
        with open('F', 'rb') as f: seen = f.read()
        assert int(seen.split()[0]) == n - 1 and len(set(seen.split())) == 1, (who, n, seen[:40], len(seen))
    way = r.choice(['new', 'cut', 'over', 'append', 'twice', 'mapped', 'renamed'])
    if way == 'new': open('F', 'wb').write(text)
    elif way == 'renamed': open('F.new', 'wb').write(text); os.rename('F.new', 'F')
    elif way == 'mapped':
        with open('F', 'r+b') as f:
            f.truncate(len(text)); m = mmap.mmap(f.fileno(), 0); m[:] = text; m.flush(); m.close()
    else:
        fd = os.open('F', os.O_RDWR)
        if way == 'cut': os.truncate('F', 0); os.pwrite(fd, text, 0)
        if way == 'over': os.pwrite(fd, text, 0); os.ftruncate(fd, len(text))
        if way == 'append': os.ftruncate(fd, 0); g = os.open('F', os.O_WRONLY | os.O_APPEND); os.write(g, text[:5]); os.write(g, text[5:]); os.close(g)
        if way == 'twice': os.ftruncate(fd, 0); os.write(fd, b'x' * 9); assert open('F', 'rb').read() == b'x' * 9; os.pwrite(fd, text, 0); os.ftruncate(fd, len(text))
        if r.random() < 0.5: assert os.pread(fd, 9999999, 0) == text
        os.close(fd)
    if r.random() < 0.5: assert open('F', 'rb').read() == text and os.stat('F').st_size == len(text)
END
cat > g.py <<'END'
import os, sys
from step import step
r, w = os.pipe()
if os.fork():
    while line := sys.stdin.readline():
        step(int(line), 'one'); os.write(w, line.encode())
    os.close(w); os.wait()
else:
    os.close(w)
    for line in os.fdopen(r): step(int(line) + 1, 'two'); print(line.strip(), flush=True)
END
cat > h.py <<'END'
import os, subprocess
from step import step
open('F', 'w').write('0')
g = subprocess.Popen(os.environ['AF'].split() + ['python3', '-B', 'g.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
for n in range(1, 450, 3):
    g.stdin.write(f'{n}\n')
    if not g.stdout.readline(): break
    step(n + 2, 'home')
g.stdin.close(); print(n, g.wait())
END
"#;

/// A guest that says where it works, and a second one in the same directory.
const WHERE: &str = r#"
mkdir -p w/a/b w/other; mkfifo to from; cat > guest.py <<'END'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def where():
    room = ctypes.create_string_buffer(4096)
    length = libc.syscall(79, room, 4096)
    if length < 0: return os.strerror(ctypes.get_errno())
    path = room.value.decode()
    assert length == len(path) + 1
    short = libc.syscall(79, room, length - 1), os.strerror(ctypes.get_errno())
    return path.partition('/w/')[2], short
def see():
    print(where(), flush=True)
    if os.fork() == 0: print(where(), flush=True); os._exit(0)
    os.wait(); print('seen', flush=True)
see()
for line in sys.stdin: exec(line); see()
END
(cd w/a/b && $AF python3 ../../../guest.py < ../../../to > ../../../from) & exec 4>to 5<from
hear() { while read -r x <&5 && [ "$x" != seen ]; do echo "$x"; done; }
hear
for change in : 'mv w/a w/c' 'mv w/c/b w/d' 'mkdir w/a; mv w/d w/a/e' 'mkdir w/d' 'mv w/a w/x; mkdir -p w/a/e' 'rmdir w/x/e' :; do eval "$change"; echo >&4; hear; done
for change in 'os.chdir("/"); print(where())' "os.chdir('$PWD/w/other')" 'os.mkdir("s"); os.chdir("s")' 'os.rename("../s", "../t")' 'os.rename("../../other", "../../moved")' \
    'os.chdir(os.open("../../x", os.O_RDONLY))' 'os.symlink("x", "../link"); os.chdir("../link")' 'os.rmdir("../x")'; do echo "$change" >&4; hear; done
exec 4>&-; wait $!; echo $?; rm -r w to from guest.py
"#;

/// Home changes what the guest has looked at, in the way of `changes`, which are separated by `;;`.
fn home_changes(changes: &str) -> Case {
    let steps: String = changes
        .split(";;")
        .map(|change| format!("{}; say look; ", change.trim()))
        .collect();
    Case::home(&format!(
        "($AF bash guest > out) & . ./home; {steps} say look; echo end >&3; wait; cat out; rm -rf out d moved"
    ))
    .setup(GUEST)
}

user_cases! {
    contents: home_changes("echo three, longer >> f;; : > f;; echo two > f;; printf x | dd of=f bs=1 seek=2 conv=notrunc status=none;; truncate -s 3 f;; truncate -s 5000 f;; truncate -s 0 f;; python3 -c 'import mmap,os; f=open(\"f\",\"r+b\"); f.write(b\"a\"*9000); f.flush(); m=mmap.mmap(f.fileno(),0); m[4]=66; m.flush(); m[8000]=67; m.close(); f.close()'");
    names: home_changes("echo new > n; mv n f;; rm f;; mkdir f;; rmdir f; echo back > f;; ln f g;; echo both >> g;; rm g;; ln -sfn d/g l;; echo target >> d/g;; rm l;; echo file > l;; mv d moved;; echo x >> moved/g;; mkdir d; echo other > d/g;; rm -r moved;; mv d/g d/new;; ln -s new d/g; echo via >> d/new;; python3 -c 'import os; os.link(\"f\",\"d/hard\")';; echo by the other name >> d/hard");
    attributes: home_changes("chmod 640 f;; chmod +x f;; touch -d '2001-02-03 04:05:06 UTC' f;; touch -h -d '2002-02-03 04:05:06.5 UTC' f;; chmod 700 d;; chmod 755 d; chmod g-r d/g;; ln f g; rm g;; setfattr -n user.a -v b f 2>/dev/null").mask(without_directory_sizes);
    rights: Case::home("($AF bash guest > out) & . ./home; id -u > /dev/null; chmod 000 f; say look; chmod 644 f; say look; chmod 000 d; say look; chmod 755 d; say look; echo end >&3; wait; cat out; rm -rf out").setup(GUEST).mask(without_directory_sizes);
    own_rights: Case::guest(". ./look; see; see; chmod 000 f; see; chmod 644 f; see; chmod 600 d; see; chmod 755 d; see; mkdir -m 000 p; ls p; stat p/x; chmod 755 p; echo x > p/x; cat p/x; chmod 000 p; cat p/x; chmod 755 p; rm -r p d").setup(GUEST).mask(without_directory_sizes);
    /// What may be done with a file, and which extended attributes it has not, asked twice each time.
    answers: home_changes("say 'asked() { for i in f d/g; do for w in r x e; do test -$w $i && echo $w; test -$w $i && echo $w; done; getfattr --only-values -n user.a $i 2>&1; getfattr --only-values -n user.a $i 2>&1; done; [ -x f ] && ./f; }'; say asked; chmod +x f; say asked; setfattr -n user.a -v home f; say asked; setfattr -x user.a f; say asked; chmod 000 f d/g; say asked; chmod 755 d/g; say asked; say 'chmod 644 f; asked; setfattr -n user.a -v guest f; asked; chmod +x f; asked; setfattr -x user.a f; asked; chmod 600 d/g; asked; mv d/g f; asked'; mv f d/g; echo new > f; say asked; say 'exec 5< f; asked'; rm f; say 'getfattr --only-values -n user.a /dev/fd/5 2>&1; test -x /dev/fd/5 || echo no; asked'; echo again > f; chmod +x f; say asked; setfattr -n user.a -v last d/g; say asked").tools(&["setfattr"]);
    replaced_while_open: home_changes("say 'exec 5<f 6<d/g; cat <&5'; echo other > n; mv n f; say 'cat /dev/fd/5; cat f; stat -L -c %h /dev/fd/5'; rm d/g; say 'cat <&6; cat d/g; stat -L -c %h /dev/fd/6; exec 5<&- 6<&-'");
    deleted_and_linked: home_changes("say 'exec 5<f; read -r x <&5; echo $x'; ln f g; rm f; say 'cat g; stat -c %h g; exec 5<&-'; rm g; say 'cat g'");
    locked_files: Case::home("cat > lock.py <<'END'\nimport os,sys,time\nlast=-1\nfor _ in range(60):\n  while True:\n    try: fd=os.open('F.lock',os.O_CREAT|os.O_EXCL|os.O_WRONLY); break\n    except FileExistsError: time.sleep(0.0005)\n  v=int(open('F').read()); assert v>=last,(v,last); last=v+1\n  assert 'F.lock' in os.listdir('.')\n  n='F.new'+sys.argv[1]; open(n,'w').write(str(v+1)); assert os.path.exists(n); os.rename(n,'F'); assert not os.path.exists(n)\n  os.close(fd); os.unlink('F.lock')\nEND\necho 0 > F; python3 lock.py 1 & $AF sh -c 'python3 lock.py 2 & python3 lock.py 3 & wait' & python3 lock.py 4; wait; cat F").seconds(120);
    told_by_a_signal: Case::home("echo 1 > f; rm -f n; ($AF bash -c 'trap \"cat f; ls d; cat d/g\" USR1; cat f f; ls d d; echo $$ > pid; while [ ! -e stop ]; do sleep 0.05; done' > out) & until [ -s pid ]; do sleep 0.02; done; for i in 2 3 4; do echo $i > n; mv n f; echo more >> d/g; touch d/n$i; kill -USR1 $(cat pid); until [ $(grep -c more out) = $(((i-1)*i/2)) ]; do sleep 0.02; done; done; touch stop; wait; cat out; rm -r d pid").setup(GUEST);
    told_by_the_end_of_a_child: Case::guest("cat f; ls d; cat f; for i in 1 2 3; do sh -c 'echo child >> f; mv d/g d/h; mv d/h d/g; : > d/n'; cat f; ls d; rm d/n; ls d; done").setup(GUEST);
    told_by_a_socket: Case::home("cat > s.py <<'END'\nimport socket,os,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\nif sys.argv[1]=='home':\n  s.bind('sock'); s.listen(); c=s.accept()[0]\n  for i in range(40):\n    open('n','w').write(str(i)); os.rename('n','v%d'%(i%3)); open('w','a').write('x')\n    if i%2: os.unlink('v%d'%((i+1)%3)) if os.path.exists('v%d'%((i+1)%3)) else None\n    c.send(b'x'); print(c.recv(9999).decode())\nelse:\n  s.connect('sock')\n  while s.recv(9):\n    s.send(repr([open('v%d'%i).read() if os.path.exists('v%d'%i) else None for i in range(3)]+[os.stat('w').st_size,sorted(n for n in os.listdir('.') if n[0]=='v')]).encode())\nEND\npython3 s.py home & until [ -S sock ]; do sleep 0.02; done; $AF python3 s.py guest; wait");
    guest_changes: Case::home("cat > g.py <<'END'\nimport os,sys\nr,w=os.fdopen(0),os.fdopen(1,'w',1)\nfor line in r:\n  try: exec(line)\n  except OSError as e: print(type(e).__name__,file=w,flush=True); continue\n  print('ok',file=w,flush=True)\nEND\ncat > h.py <<'END'\nimport os,subprocess\ng=subprocess.Popen(os.environ['AF'].split()+['python3','g.py'],stdin=subprocess.PIPE,stdout=subprocess.PIPE,text=True,bufsize=1)\ndef see():\n  for n in 'f','g','d','d/x','l': print(n, os.path.lexists(n) and (oct(os.lstat(n).st_mode), os.lstat(n).st_nlink if n!='d' else 0, os.lstat(n).st_size if n!='d' else 0), end=' ')\n  print(sorted(os.listdir('.')), open('f').read() if os.path.isfile('f') else None)\nfor c in ['open(\"f\",\"w\").write(\"a\")','os.link(\"f\",\"g\")','open(\"g\",\"a\").write(\"bc\")','os.truncate(\"f\",2)','os.chmod(\"f\",0o600)','os.unlink(\"f\")','os.rename(\"g\",\"f\")','os.mkdir(\"d\")','os.rename(\"f\",\"d/x\")','os.rmdir(\"d\")','os.symlink(\"d/x\",\"l\")','open(\"l\",\"a\").write(\"link\")','os.replace(\"d/x\",\"f\")','os.unlink(\"l\")','os.rmdir(\"d\")','open(\"f\",\"r+\").write(\"Z\")']:\n  g.stdin.write(c+'\\n'); print(c, g.stdout.readline().strip()); see(); see()\ng.stdin.close(); g.wait()\nEND\npython3 h.py");
    modes_of_opening: Case::guest("cat > m.py <<'END'\nimport os,mmap\ndef rd(p='f'):\n  with open(p,'rb') as f: return f.read()\nopen('f','w').write('abc'); print(rd(),rd())\na=os.open('f',os.O_RDWR|os.O_APPEND); os.write(a,b'def'); print(rd(),os.stat('f').st_size)\nb=os.open('f',os.O_RDONLY); print(os.read(b,3)); os.write(a,b'ghi'); print(os.read(b,99))\nt=os.open('f',os.O_WRONLY|os.O_TRUNC); print(rd(),os.fstat(b).st_size); os.write(t,b'0123456789'); print(rd())\ntry: os.open('f',os.O_CREAT|os.O_EXCL)\nexcept FileExistsError: print('exists')\nm=mmap.mmap(os.open('f',os.O_RDWR),10); print(m[:]); os.pwrite(t,b'X',3); print(m[:],rd()); m[5]=89; print(rd(), os.pread(b,10,0)); m.flush(); print(rd())\nos.ftruncate(t,4); print(rd(),os.stat('f').st_size); os.pwrite(t,b'end',8); print(rd())\nos.unlink('f'); print(os.path.exists('f'),os.fstat(b).st_nlink,os.pread(b,99,0)); open('f','w').write('new'); print(rd(),os.pread(b,2,0))\nos.rename('f','g'); print(os.path.exists('f'),rd('g')); os.mkdir('f'); print(os.path.isdir('f')); os.rmdir('f')\nimport fcntl\nx=open('g'); y=open('g'); fcntl.flock(x,fcntl.LOCK_EX)\ntry: fcntl.flock(y,fcntl.LOCK_EX|fcntl.LOCK_NB); print('shared')\nexcept BlockingIOError: print('locked')\nx.close(); fcntl.flock(y,fcntl.LOCK_EX|fcntl.LOCK_NB); print('free',y.read())\nd=os.open('.',os.O_RDONLY); e=os.open('.',os.O_RDONLY); fcntl.flock(d,fcntl.LOCK_EX)\ntry: fcntl.flock(e,fcntl.LOCK_SH|fcntl.LOCK_NB); print('shared')\nexcept BlockingIOError: print('locked')\nos.close(d); fcntl.flock(e,fcntl.LOCK_SH|fcntl.LOCK_NB); print(sorted(os.listdir(e)))\nEND\npython3 m.py; python3 m.py");
    /// After each of its own changes, and after reading what it has changed, a guest sees the attributes that home has.
    attributes_after_changes: Case::home("python3 h.py; rm -rf w __pycache__").setup(AFTER).tools(&["python3"]).seconds(60);
    /// A directory of somebody else, where the user may make files, and remove those.
    in_a_directory_of_others: Case::guest("for i in 1 2 3; do f=$(mktemp /tmp/afield-e2e-XXXXXX) && echo made; stat -c '%u %g %a' /tmp; echo x > $f; mv $f $f.moved; stat -c '%u %g %s %a' $f.moved | cut -d' ' -f3-; stat -c '%u %g' /tmp; rm $f.moved; d=$(mktemp -d /tmp/afield-e2e-XXXXXX) && touch $d/a && rm -r $d && stat -c '%u %g' /tmp; done");
    written_in_turn: Case::home("python3 -B h.py; rm F").setup(IN_TURN).tools(&["python3"]).seconds(60);
    working_directories: home_changes("say 'cd d; pwd; ls'; mv d dd; say 'pwd -P; ls; cat g; cd ..; ls d dd; cd dd; pwd -P'; mv dd d; say 'cd ..; pwd -P'");
    /// A guest asks where it works, while home and guests move and remove that, and what is on the way to it.
    where_it_works: Case::home_bash(WHERE).tools(&["python3"]).seconds(60);
    /// Files that home opens all the time, any of which may be for writing: a program that needs parts of several at a time gets on.
    opened_all_the_time: Case::home("python3 opener.py & until [ -e up ]; do sleep 0.01; done; for i in 1 2 3 4 5; do $AF ./compare a b c d || echo $?; done; kill $!; wait; rm up").setup(COMPARE).tools(&["cc", "python3"]).seconds(60);
}

/// A directory's own size is its file system's business.
fn without_directory_sizes(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(|line| match line.split_once(" directory ") {
        Some((name, rest)) => format!(
            "{name} directory {}\n",
            rest.split_once(' ').map_or("", |rest| rest.1)
        ),
        None => format!("{line}\n"),
    });
    lines.collect::<String>().into_bytes()
}
