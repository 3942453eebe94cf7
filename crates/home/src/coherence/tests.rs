//! The registry on real files that other processes change.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use afield_link::ahead::{Ahead, News};
use afield_link::invalidation::decode;

use super::*;
use crate::beside;

/// What a test's node knows: ways to its nodes.
#[derive(Default)]
struct Known(Mutex<HashMap<u64, OwnedFd>>);

impl Ways for Known {
    fn lend(&self, node: u64, look: &mut dyn FnMut(BorrowedFd<'_>)) -> bool {
        let known = self.0.lock().unwrap();
        known.get(&node).map(|file| look(file.as_fd())).is_some()
    }

    fn lend_open(&self, _: u64, _: &mut dyn FnMut(BorrowedFd<'_>)) -> bool {
        false
    }
}

/// A session that watches what it is shown.
struct Home {
    session: Session,
    ahead: Arc<dyn Ahead>,
    known: Arc<Known>,
    directory: PathBuf,
}

/// A change with its names owned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Everything,
    Name(u64, String),
    Attributes(u64),
    Contents(u64),
}

fn list(payload: &[u8]) -> Vec<Told> {
    let told = |change: Change<'_>| match change {
        Change::Everything => Told::Everything,
        Change::Name { directory, name } => Told::Name(directory, String::from_utf8(name.to_vec()).unwrap()),
        Change::Attributes { node } => Told::Attributes(node),
        Change::Contents { node } => Told::Contents(node),
    };
    decode(payload).unwrap().into_iter().map(told).collect()
}

impl Home {
    fn new() -> Self {
        let coherence = Coherence::new().expect("fanotify");
        Self::of(&coherence, None)
    }

    fn of(coherence: &Arc<Coherence>, directory: Option<PathBuf>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let directory = directory.unwrap_or_else(|| {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("afield-coherence-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            path
        });
        let known = Arc::new(Known::default());
        let ways: Weak<Known> = Arc::downgrade(&known);
        let session = coherence.join(ways);
        let ahead = session.ahead();
        Self {
            session,
            ahead,
            known,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Watches a file under this number.
    fn watch(&self, node: u64, name: &str) -> Arc<Mark> {
        let path = CString::new(self.path(name).into_os_string().into_encoded_bytes()).unwrap();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&*path, flags, Mode::empty()).unwrap();
        let kind = rustix::fs::fstat(&file).unwrap().st_mode & libc::S_IFMT;
        let on = FileSystem::of(&file).expect("a file system with events");
        let mark = self.session.watch(node, kind, on, file.as_fd()).expect("a mark");
        if kind == libc::S_IFREG {
            self.session.settle_writers(&mark, file.as_fd());
        } else if kind == libc::S_IFDIR {
            self.session.settle_search(&mark, file.as_fd());
        }
        self.known.0.lock().unwrap().insert(node, file);
        mark
    }

    fn told(&self) -> Vec<Told> {
        let mut news = News::default();
        self.ahead.ahead(None, &mut news);
        list(&news.changes)
    }

    /// Has another process do something in the directory.
    fn foreign(&self, script: &str) {
        let status = beside::run(
            Command::new("sh")
                .args(["-ec", script])
                .current_dir(&self.directory),
        )
        .unwrap();
        assert!(status.success(), "{script}");
    }

    fn make(&self, name: &str, text: &str) {
        beside::write(&self.path(name), text);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o755));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn what_others_do_to_a_file_is_told() {
    let home = Home::new();
    home.make("file", "text");
    home.watch(2, "file");
    assert_eq!(home.told(), []);
    for (script, expected) in [
        ("echo more >> file", Told::Contents(2)),
        ("truncate -s 1 file", Told::Contents(2)),
        ("chmod 600 file", Told::Attributes(2)),
        ("touch -cd 2001-01-01 file", Told::Attributes(2)),
        ("ln file other", Told::Attributes(2)),
        ("mv file moved", Told::Attributes(2)),
    ] {
        home.foreign(script);
        let told = home.told();
        assert!(told.contains(&expected), "{script}: {told:?}");
        assert!(
            told.iter()
                .all(|change| [Told::Contents(2), Told::Attributes(2)].contains(change))
        );
        assert_eq!(home.told(), [], "{script}");
    }
    // Through a name in a directory that nobody watches.
    home.foreign("echo x > other");
    assert!(home.told().contains(&Told::Contents(2)));
    home.foreign("cat moved > /dev/null");
    assert_eq!(home.told(), []);
}

#[test]
fn what_others_do_to_names_is_told() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    fs::create_dir(home.path("e")).unwrap();
    home.make("e/known", "");
    home.watch(3, "d");
    home.watch(4, "e/known");
    for (script, name) in [
        ("echo > d/new", "new"),
        ("mkdir d/sub", "sub"),
        ("ln -s x d/link", "link"),
        ("ln e/known d/hard", "hard"),
        ("rm d/new", "new"),
        ("rmdir d/sub", "sub"),
        ("mv d/link d/renamed", "renamed"),
        ("mv d/renamed e/", "renamed"),
        ("mv e/renamed d/", "renamed"),
        ("mkfifo d/pipe", "pipe"),
    ] {
        home.foreign(script);
        let told = home.told();
        assert!(
            told.contains(&Told::Name(3, name.to_owned())),
            "{script}: {told:?}"
        );
        assert_eq!(
            told.contains(&Told::Attributes(4)),
            name == "hard",
            "{script}: {told:?}"
        );
    }
    // The directory itself is somewhere else now, and has another mode.
    home.foreign("mv d f; echo > f/late");
    assert!(home.told().contains(&Told::Name(3, "late".to_owned())));
}

#[test]
fn own_changes_are_for_the_others() {
    let home = Home::new();
    home.make("file", "");
    home.watch(2, "file");
    home.watch(3, ".");
    let change = |home: &Home| {
        let _changing = home.session.changing();
        home.make("file", "text");
        fs::set_permissions(home.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
        home.make("new", "text");
        fs::remove_file(home.path("new")).unwrap();
    };
    change(&home);
    assert_eq!(home.told(), []);
    let other = Home::of(&home.session.coherence, Some(home.directory.clone()));
    other.watch(20, "file");
    other.watch(30, ".");
    change(&home);
    let told = other.told();
    for expected in [Told::Contents(20), Told::Name(30, "new".to_owned())] {
        assert!(told.contains(&expected), "{told:?}");
    }
    assert_eq!(home.told(), []);
    // By both at once: nobody knows whose it was.
    let _changing = other.session.changing();
    change(&home);
    assert!(home.told().contains(&Told::Contents(2)));
    assert!(other.told().contains(&Told::Contents(20)));
    // Nobody's: the agent's own.
    drop(_changing);
    home.told();
    home.make("file", "x");
    assert!(home.told().contains(&Told::Contents(2)));
}

#[test]
fn one_file_as_two_nodes_is_told_to_its_changer() {
    let home = Home::new();
    home.make("file", "");
    home.watch(2, "file");
    home.watch(5, "file");
    let changing = home.session.changing();
    home.make("file", "text");
    drop(changing);
    let told = home.told();
    assert!(told.contains(&Told::Contents(2)) && told.contains(&Told::Contents(5)));
}

#[test]
fn a_request_that_was_begun_before_a_change_is_followed_by_it() {
    let home = Home::new();
    home.make("file", "");
    home.watch(2, "file");
    let begun = home.session.begin();
    home.foreign("echo > file");
    assert!(home.told().contains(&Told::Contents(2)));
    let behind = |begun| {
        let mut payload = Vec::new();
        home.session.behind(begun, None, &mut payload);
        list(&payload)
    };
    assert!(behind(begun).contains(&Told::Contents(2)));
    assert_eq!(behind(home.session.begin()), []);
}

/// A process that has a file mapped, and stores into it when it is told.
struct Storer(Child);

impl Storer {
    fn of(home: &Home, name: &str) -> Self {
        let script = "import mmap,sys,os\nf=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(f,4)\nos.close(f)\nprint(flush=True)\n\
            for line in sys.stdin:\n m[0:1]=b'x'\n print(flush=True)\n";
        let child = beside::start(
            Command::new("python3")
                .args(["-c", script])
                .arg(home.path(name))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )
        .unwrap();
        let mut storer = Self(child);
        storer.answer();
        storer
    }

    fn answer(&mut self) {
        use std::io::Read;
        let mut byte = [0];
        self.0.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    }

    fn store(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.answer();
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn a_file_that_is_mapped_for_writing_does_not_count_as_watched() {
    let home = Home::new();
    home.make("file", "text");
    let mark = home.watch(2, "file");
    assert_eq!(mark.writers(), Writers::None);
    let mut storer = Storer::of(&home, "file");
    assert!(home.told().contains(&Told::Contents(2)));
    assert_eq!(mark.writers(), Writers::Some);
    // Contents that are sent now are said to have changed before the next message.
    let mut payload = Vec::new();
    home.session.behind(home.session.begin(), Some(2), &mut payload);
    assert_eq!(list(&payload), []);
    storer.store();
    // But not before more of them.
    let mut news = News::default();
    home.ahead.ahead(Some(2), &mut news);
    assert_eq!(list(&news.changes), []);
    assert_eq!(home.told(), [Told::Contents(2)]);
    assert_eq!(home.told(), []);
    storer.end();
    assert!(home.told().contains(&Told::Contents(2)));
    assert_eq!(mark.writers(), Writers::Unknown);
    home.watch(2, "file");
    assert_eq!(mark.writers(), Writers::None);
    // One that is only read stays as it is.
    home.foreign("exec 3< file; cat <&3 > /dev/null");
    assert_eq!((home.told(), mark.writers()), (vec![], Writers::None));
}

#[test]
fn contents_of_several_hot_files_can_be_had_together() {
    let home = Home::new();
    let send = |node| {
        let mut news = News::default();
        home.ahead.ahead(Some(node), &mut news);
        let before = list(&news.changes);
        let mut payload = Vec::new();
        home.session
            .behind(home.session.begin(), Some(node), &mut payload);
        (before, list(&payload))
    };
    for node in [2, 3, 2, 3] {
        assert_eq!(send(node), (vec![], vec![]));
    }
    // Any other message tells of them, and after a while contents do.
    let mut told = home.told();
    told.sort_by_key(|told| format!("{told:?}"));
    assert_eq!(told, [Told::Contents(2), Told::Contents(3)]);
    send(2);
    std::thread::sleep(TOGETHER);
    assert_eq!(send(3), (vec![Told::Contents(2)], vec![]));
    assert_eq!(home.told(), [Told::Contents(3)]);
}

#[test]
fn one_who_had_it_mapped_before_is_found() {
    let home = Home::new();
    home.make("file", "text");
    let storer = Storer::of(&home, "file");
    let mark = home.watch(2, "file");
    assert_eq!(mark.writers(), Writers::Some);
    storer.end();
    home.told();
    assert_eq!(mark.writers(), Writers::Unknown);
}

#[test]
fn own_writers_are_told_from_others() {
    let home = Home::new();
    let open = fs::File::create(home.path("file")).unwrap();
    home.make("file2", "");
    let file = fs::File::open(home.path("file")).unwrap();
    let on = FileSystem::of(&file).unwrap();
    drop(file);
    let mark = home.session.watch(2, libc::S_IFREG, on, open.as_fd()).unwrap();
    assert_eq!(home.session.settle_own_writer(&mark, open.as_fd()), Writers::None);
    let storer = beside::start(
        Command::new("sh")
            .args(["-c", "exec 3>> file; echo; read line"])
            .current_dir(&home.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )
    .unwrap();
    let mut storer = Storer(storer);
    storer.answer();
    home.told();
    assert_ne!(mark.writers(), Writers::None);
    assert_ne!(home.session.settle_own_writer(&mark, open.as_fd()), Writers::None);
    drop(storer.0.stdin.take());
    storer.0.wait().unwrap();
    home.told();
    assert_eq!(home.session.settle_own_writer(&mark, open.as_fd()), Writers::None);
}

#[test]
fn rights_of_directories_that_are_taken_away_are_told() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    home.watch(3, "d");
    home.session.mix();
    home.told();
    let mark = home.watch(3, "d");
    assert_eq!(mark.search(), Search::All);
    home.foreign("chmod 751 d");
    assert_eq!(home.told(), [Told::Attributes(3)]);
    assert_eq!(mark.search(), Search::All);
    // By the agent itself, too: the node does not know what it means for names.
    let changing = home.session.changing();
    fs::set_permissions(home.path("d"), fs::Permissions::from_mode(0o000)).unwrap();
    drop(changing);
    assert_eq!(home.told(), [Told::Attributes(3)]);
    assert_eq!(mark.search(), Search::Some);
    home.foreign("chmod 755 d");
    assert_eq!(home.told(), [Told::Attributes(3)]);
    assert_eq!(mark.search(), Search::All);
}

#[test]
fn what_nobody_watches_any_more_is_not_told() {
    let home = Home::new();
    home.make("file", "");
    home.make("left", "");
    let mark = home.watch(2, "file");
    let left = home.watch(3, "left");
    let file = home.known.0.lock().unwrap().remove(&2).unwrap();
    home.session.unwatch(2, &mark, Some(file.as_fd()));
    home.session.unwatch(3, &left, None);
    home.foreign("echo > file; echo > left");
    assert_eq!(home.told(), []);
    assert!(!mark.is_alive() && !left.is_alive());
    assert_eq!(home.session.coherence.marks.load(Ordering::SeqCst), 0);
    let again = home.watch(3, "left");
    assert!(again.is_alive());
    home.foreign("echo > left");
    assert!(home.told().contains(&Told::Contents(3)));
}

#[test]
fn a_removed_file_gives_its_mark_back() {
    let home = Home::new();
    home.make("file", "");
    let mark = home.watch(2, "file");
    home.foreign("rm file");
    assert!(home.told().contains(&Told::Attributes(2)));
    assert!(mark.is_alive());
    home.known.0.lock().unwrap().clear();
    // Processes that other tests make have what is open here until they close it.
    let until = Instant::now() + Duration::from_secs(20);
    while mark.is_alive() && Instant::now() < until {
        home.told();
    }
    assert!(!mark.is_alive());
    assert_eq!(home.session.coherence.marks.load(Ordering::SeqCst), 0);
}

#[test]
fn an_overflow_is_everything() {
    let home = Home::new();
    let mark = home.watch(3, ".");
    let max: usize = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if max > 100_000 {
        eprintln!("not tested: this system queues {max} events");
        return;
    }
    let script = format!("import os\nfor n in range({}): os.mkfifo(str(n))", max + 10);
    let status = beside::run(
        Command::new("python3")
            .args(["-c", &script])
            .current_dir(&home.directory),
    )
    .unwrap();
    assert!(status.success());
    assert_eq!(home.told(), [Told::Everything]);
    assert!(!mark.is_alive());
    home.watch(3, ".");
    home.foreign("rm 7");
    assert!(home.told().contains(&Told::Name(3, "7".to_owned())));
}

#[test]
fn files_without_events_are_not_watched() {
    for path in ["/proc/self/status", "/sys/kernel", "/dev/pts"] {
        let Ok(file) = fs::File::open(path) else { continue };
        assert_eq!(FileSystem::of(&file), None, "{path}");
    }
}

#[test]
fn an_idle_session_is_told_by_a_thread() {
    let coherence = Coherence::start().unwrap();
    let home = Home::of(&coherence, None);
    home.make("file", "");
    home.watch(2, "file");
    let (sender, receiver) = std::sync::mpsc::channel();
    let ahead = Arc::clone(&home.ahead);
    home.session.set_teller(move || {
        let mut news = News::default();
        ahead.ahead(None, &mut news);
        let _ = sender.send(news.changes);
    });
    home.foreign("echo > file");
    let payload = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(list(&payload).contains(&Told::Contents(2)));
}

/// An inode has one key, whatever leads to it.
#[test]
fn another_mount_of_it_changes_the_same_file() {
    let home = Home::new();
    home.make("file", "");
    fs::create_dir(home.path("mounted")).unwrap();
    home.watch(2, "file");
    home.watch(3, ".");
    home.told();
    let script = "mount --bind . mounted && echo x > mounted/file && echo > mounted/new";
    let status = beside::run(
        Command::new("unshare")
            .args(["-rm", "sh", "-ec", script])
            .current_dir(&home.directory)
            .stderr(Stdio::null()),
    );
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("not tested: no mounts in a user namespace");
        return;
    }
    let told = home.told();
    assert!(told.contains(&Told::Contents(2)), "{told:?}");
    assert!(told.contains(&Told::Name(3, "new".to_owned())), "{told:?}");
    assert!(fs::metadata(home.path("new")).unwrap().ino() > 0);
}
