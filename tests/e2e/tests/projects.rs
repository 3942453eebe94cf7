//! Larger work of real tools: version control, databases, builds.

use afield_e2e::samples::PROJECT;
use afield_e2e::{Case, cases, user_cases};

const GIT: &str = "export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_NOSYSTEM=1; ";

fn git(script: &str) -> Case {
    // Indices, packs and logs hold times, inode numbers and the order in which threads finished.
    Case::guest(&format!("{GIT}{script}; rm -rf r c bare"))
        .tools(&["git"])
        .seconds(120)
}

user_cases! {
    make: Case::guest("make -C p -j2 -s && p/program && md5sum p/program p/lib.a && make -C p -s && touch p/f3.c && make -C p -n | grep -c f3; make -C p -k CFLAGS=-nosuchoption clean program 2>&1 | grep -c nosuch").setup(PROJECT).tools(&["make", "cc"]).seconds(180);
}

cases! {
    make_at_home: Case::home("make -C p -s -j2 CC=\"$AF cc\" && p/program && md5sum p/program").setup(PROJECT).tools(&["make", "cc"]).seconds(180);
    make_errors: Case::guest("echo 'int main( {' > p/f5.c; make -C p -j2 2>&1 | grep -c 'f5.o. Error 1'; make -C p >/dev/null 2>&1; echo $?; make -C p nosuch; echo $?; rm -f p/*.o p/generated.h").setup(PROJECT).tools(&["make", "cc"]).seconds(180);
    git_work: git("git init -q -b main r; cd r; seq 1 1000 > a; mkdir d; echo x > d/b; ln -s a l; chmod +x d/b; git add .; git commit -qm one; seq 1 1100 > a; git mv d/b c; git commit -qam two; git log --oneline --stat; git fsck --strict; git status --short; git diff HEAD~1 --stat; git checkout -q -b side HEAD~1; echo y > e; git add e; git commit -qm three; git merge -q main -m merged; git ls-tree -r HEAD; git rev-parse HEAD; git gc -q; git fsck; git count-objects | cut -d, -f1; git stash list; cd ..");
    git_clone: git("git init -q -b main r; cd r; for i in 1 2 3 4 5; do seq $i 500 > f$i; git add .; git commit -qm $i; done; cd ..; git clone -q r c; git -C c log --format=%H; git clone -q --bare r bare; cd c; echo z > z; git add z; git commit -qm z; git push -q ../bare main; git -C ../bare log -1 --format=%H; git fetch -q ../r; git archive HEAD | tar t; git grep -c 77 | head -n 3; git blame f1 | wc -l; git bisect start HEAD HEAD~4 >/dev/null; git bisect run sh -c '! [ -e f5 ]' | grep 'first bad'; cd ..");
    git_of_home: Case::home(&format!("{GIT}git init -q -b main r; cd r; echo 1 > a; git add a; $AF git commit -qm one; echo 2 >> a; git commit -qam two; $AF git log --format=%H; $AF git status --short; $AF git fsck; cd ..; rm -rf r")).tools(&["git"]).seconds(120);
    sqlite: Case::guest("sqlite3 d 'create table t(a integer primary key, b text); create index i on t(b);'; seq 1 2000 | sed \"s/.*/insert into t(b) values('row &');/\" | (echo 'begin;'; cat; echo 'commit;') | sqlite3 d; sqlite3 d 'select count(*), sum(a), max(b) from t; pragma integrity_check; delete from t where a % 3 = 0; vacuum; select count(*) from t'; sqlite3 d .dump | md5sum; sqlite3 w 'pragma journal_mode=wal; create table t(a); insert into t values(1); select * from t'; rm -f d w w-*").tools(&["sqlite3"]).seconds(120);
    /// Both sides write one database at the same time; locks keep them apart.
    sqlite_shared: Case::home("sqlite3 d 'create table t(w, n)'; w() { for i in $(seq 1 40); do echo \".timeout 30000\"; echo \"insert into t values('$1', $i);\"; done; }; w home > home.sql; w guest > guest.sql; sqlite3 d < home.sql & $AF sqlite3 d < guest.sql & wait; sqlite3 d 'select w, count(*), sum(n) from t group by w order by w; pragma integrity_check'; rm d").tools(&["sqlite3"]).seconds(180);
    sqlite_locked: Case::home("sqlite3 d 'create table t(a)'; mkfifo go went; (printf 'begin exclusive;\\ninsert into t values(1);\\n.shell echo > went; read x < go\\ncommit;\\n') | sqlite3 d & read x < went; $AF sqlite3 d 'insert into t values(2)' 2>&1; echo $?; echo > go; wait; $AF sqlite3 d 'insert into t values(3); select * from t'; rm d").tools(&["sqlite3"]);
    flock_between: Case::home("mkfifo go went; (flock 9; echo > went; read x < go) 9> l & read x < went; $AF flock -n l echo got it; echo $?; echo > go; wait; $AF flock -n l echo got it; $AF sh -c 'flock 9; echo > went; read x < go' 9> l & read x < went; flock -n l echo got it; echo $?; echo > go; wait; flock -n l echo got it").tools(&["flock"]);
    directory_flock_between: Case::home("mkdir d; mkfifo go went; (flock 9; echo > went; read x < go) 9< d & read x < went; $AF flock -n d echo got it; echo $?; echo > go; wait; $AF flock -n d echo got it; $AF sh -c 'flock 9; echo > went; read x < go' 9< d & read x < went; flock -n d echo inherited; $AF flock -n d echo both; echo > go; wait; $AF flock d sh -c 'echo > went; read x < go' & read x < went; flock -n d echo got it; echo $?; echo > go; wait; flock -n d echo got it").tools(&["flock"]);
    counter_between: Case::home("echo 0 > n; up() { for i in $(seq 1 50); do flock l sh -c 'read x < n; echo $((x + 1)) > n'; done; }; up & $AF sh -c 'for i in $(seq 1 50); do flock l sh -c \"read x < n; echo \\$((x + 1)) > n\"; done' & wait; cat n").tools(&["flock"]).seconds(120);
    patch_and_diff: Case::guest("seq 1 100 > a; sed 's/^5$/five/;s/^77$/x/' a > b; diff -u --label a --label b a b > p; cat p; patch -s a p; cmp a b && echo same; diff -rq . /nosuch; echo $?").tools(&["patch"]);
    archive: Case::guest("for i in 1 2 3; do seq 1 $i > f$i; done; ar rcD x.a f1 f2 f3; ar t x.a; ar p x.a f2; md5sum x.a").tools(&["ar"]);
    m4_flex_like: Case::guest("printf 'define(`x'\"'\"', `y$1'\"'\"')x(5)\\n' | m4; echo '2^100' | bc").tools(&["m4", "bc"]);
    debian_source: debian_source();
}

/// A package from Debian's archive, unpacked where `.ci/run` puts it: configured, built, and tested by its own tests.
fn debian_source() -> Case {
    let source = std::env::var("AFIELD_E2E_SOURCE").unwrap_or_else(|_| "/var/cache/afield-e2e/source".into());
    Case::guest("cd build && { ./configure --static --prefix=/usr && make -j2 && make -s check; } > ../log 2>&1; echo $?; grep -c OK ../log; md5sum libz.a example minigzip; make -s distclean; cd ..; rm -f log; rm -r build")
        .setup(&format!("cp -r --preserve=mode,timestamps,links '{source}' build"))
        .tools(&["make", "cc"]).needs(&source).seconds(400)
}
