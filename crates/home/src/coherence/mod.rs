//! Coherence: what nodes keep of home's files, and what they are told when that changes.
//!
//! The agent has one fanotify group. Every file, directory and link of which a session's node may keep something is marked, by its
//! inode; so it does not matter by which name, mount or process it is changed. Before each frame to a node the group's queue is
//! drained, and what has changed goes ahead of the frame ([`Ahead`](afield_link::ahead::Ahead)). An idle node is told by a thread.
//!
//! The rule for those who answer a node: *mark, then look, then say that it is valid*. A change between look and answer
//! is told after the answer ([`Session::behind`]).
//!
//! The agent's own changes are known by its pid: the node that asked for one knows of it, all others are told.
//!
//! A store into a shared mapping makes no event. So contents and attributes of a file count as watched only while nobody else has
//! it open for writing, which a lease tells that is had for a moment; an `open` is an event, at which it is found out again.
//!
//! Where the queue overflows, marks are refused or mounts change, everything is revalidated.
//!
//! | module | what |
//! |---|---|
//! | `sys` | fanotify, handles, leases |
//! | `event` | the kernel's events taken apart |
//! | `mark` | a watched inode |
//! | `log` | what one session is to be told |
//! | `session` | one session's part |
//! | [`mounts`] | where nothing can be watched |

mod event;
mod log;
mod mark;
pub mod mounts;
mod session;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use afield_link::invalidation::Change;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::files::proc_path;
use crate::mounts::MOUNTS;
use event::{Event, Key};
use log::{End, Log};
pub use mark::{Mark, Search, Writers};
pub use session::{Begun, Changing, Session};

/// Events of a directory: what happens to its names, and to itself.
const DIRECTORY_MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_DELETE_SELF
    | libc::FAN_MOVE_SELF
    | libc::FAN_ONDIR;

/// Events of a regular file.
const FILE_MASK: u64 = libc::FAN_MODIFY
    | libc::FAN_ATTRIB
    | libc::FAN_OPEN
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_DELETE_SELF
    | libc::FAN_MOVE_SELF;

/// Events of a symbolic link.
const LINK_MASK: u64 = libc::FAN_ATTRIB | libc::FAN_DELETE_SELF | libc::FAN_MOVE_SELF;

/// Events about names.
const NAME_EVENTS: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// Reads in a row after which it is given up to keep pace with what changes.
const READS_MAX: usize = 1000;

/// Between two times at which all marks are taken off because there are too many.
const RESET_INTERVAL: Duration = Duration::from_secs(5);

/// A file that this process's user does not own, and that was changed by anybody in this time, may be about to be changed
/// through a mapping.
const SETTLED_AGE: Duration = Duration::from_secs(3600);

/// For how long contents that others can store into outlive the arrival of contents of other files. A program may need parts of several
/// files at a time: if each took the others back it would never have them all.
const TOGETHER: Duration = Duration::from_secs(1);

/// Pause of the thread that tells idle nodes, so that a busy one is not told piecemeal.
const PAUSE: Duration = Duration::from_millis(4);

/// `FS_CASEFOLD_FL`.
const CASEFOLD: u32 = 0x4000_0000;

/// Between two looks at whether anybody is left to be told.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Lends the way to a node.
pub trait Ways: Send + Sync {
    /// Calls `look` with an `O_PATH` descriptor of the node if there is one at hand, without opening anything. False if there is none.
    fn lend(&self, node: u64, look: &mut dyn FnMut(BorrowedFd<'_>)) -> bool;

    /// The same with one that is open for reading only.
    fn lend_open(&self, node: u64, look: &mut dyn FnMut(BorrowedFd<'_>)) -> bool;
}

/// What of a file system can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Its id in events.
    id: [u8; 8],
}

impl FileSystem {
    /// The file system that a file is on, by any descriptor; `None` if its files may change without an event.
    pub fn of(file: impl AsFd) -> Option<Self> {
        let (magic, id) = sys::file_system(file.as_fd()).ok()?;
        (id != [0; 8] && tells(magic)).then_some(Self { id })
    }
}

/// Whether all changes on such a file system come from this kernel's own calls on it: by the magic numbers of `statfs`.
fn tells(magic: u32) -> bool {
    matches!(
        magic,
        // ext, XFS, btrfs, tmpfs, ramfs, overlay, F2FS, bcachefs, squashfs, EROFS, ISO
        0xef53
            | 0x5846_5342
            | 0x9123_683e
            | 0x0102_1994
            | 0x8584_58f6
            | 0x794c_7630
            | 0xf2f5_2010
            | 0xca45_1a4e
            | 0x7371_7368
            | 0xe0f5_e1e2
            | 0x9660
    )
}

/// Who watches a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watcher {
    session: u32,
    node: u64,
}

#[derive(Debug)]
struct Record {
    mark: Arc<Mark>,
    watchers: Vec<Watcher>,
}

/// What the registry knows of a session.
struct Listener {
    log: Log,
    end: Arc<End>,
    author: Arc<Author>,
    ways: Weak<dyn Ways>,
    /// Nodes that others write to, of which contents have been sent since they were last said to have changed.
    hot: HashMap<u64, Instant>,
    /// The number of the first change that was told of such files ahead of the last frame.
    hot_from: u64,
    /// Sends what there is to tell.
    teller: Option<Teller>,
}

/// Has a session's node told, without waiting.
type Teller = Arc<dyn Fn() + Send + Sync>;

/// Whether a session may have made changes since the last look.
#[derive(Debug, Default)]
struct Author {
    active: AtomicU32,
    done: AtomicBool,
}

#[derive(Default)]
struct State {
    records: HashMap<Key, Record>,
    listeners: HashMap<u32, Listener>,
    session_next: u32,
    buffer: Vec<u8>,
    reset: Option<Instant>,
}

/// The agent's group. See the module.
pub struct Coherence {
    group: OwnedFd,
    /// Says when there are other mounts.
    mounts: File,
    /// Events with this pid are the agent's own.
    pid: i32,
    /// Whose process this is.
    root: bool,
    /// Numbers marks.
    stamp: AtomicU64,
    /// How many there are.
    marks: AtomicUsize,
    /// How often everything has been said to have changed: mounts among it.
    resets: AtomicU64,
    state: Mutex<State>,
    /// Shared by those who hold a lease for a moment.
    probing: RwLock<()>,
    /// Held by who does.
    asking: Mutex<()>,
}

impl fmt::Debug for Coherence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Coherence").finish_non_exhaustive()
    }
}

impl Coherence {
    /// A group of the agent's own, with a thread that tells idle sessions.
    pub fn start() -> io::Result<Arc<Self>> {
        let coherence = Self::new()?;
        let weak = Arc::downgrade(&coherence);
        let group = rustix::io::fcntl_dupfd_cloexec(&coherence.group, 3)?;
        let mounts = File::open(MOUNTS)?;
        std::thread::Builder::new()
            .name("changes".to_owned())
            .stack_size(256 << 10)
            .spawn(move || watch(&group, &mounts, &weak))?;
        Ok(coherence)
    }

    fn new() -> io::Result<Arc<Self>> {
        sys::expect_lease_signals();
        Ok(Arc::new(Self {
            group: sys::new_group()?,
            mounts: File::open(MOUNTS)?,
            pid: std::process::id() as i32,
            root: rustix::process::geteuid().is_root(),
            stamp: AtomicU64::new(1),
            marks: AtomicUsize::new(0),
            resets: AtomicU64::new(0),
            state: Mutex::default(),
            probing: RwLock::default(),
            asking: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of all that has changed.
    fn drain(&self, state: &mut State) {
        if self.marks.load(Ordering::SeqCst) == 0 {
            return;
        }
        let authors = authors(state, true);
        let mut polls = [
            PollFd::new(&self.group, PollFlags::IN),
            PollFd::new(&self.mounts, PollFlags::PRI),
        ];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut polls, Some(&at_once)) {
            Ok(0) | Err(Errno::INTR) => return,
            Ok(_) => {}
            Err(_) => return self.reset(state),
        }
        let (changed, mounted) = (!polls[0].revents().is_empty(), !polls[1].revents().is_empty());
        if mounted {
            // What is reached by a name may be something else now.
            self.reset(state);
        }
        if !changed {
            return;
        }
        let mut buffer = std::mem::take(&mut state.buffer);
        buffer.resize(event::BUFFER_BYTES, 0);
        let mut reads = 0;
        loop {
            let count = match rustix::io::read(&self.group, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    self.reset(state);
                    break;
                }
            };
            let mut authors = authors.clone();
            authors.extend(authors_now(state));
            let mut rest = &buffer[..count];
            loop {
                match event::next_event(rest) {
                    Ok(None) => break,
                    Ok(Some((event, after))) => {
                        self.apply(state, &event, &authors);
                        rest = after;
                    }
                    Err(event::Malformed) => {
                        self.reset(state);
                        break;
                    }
                }
            }
            reads += 1;
            if reads > READS_MAX {
                self.reset(state);
                break;
            }
        }
        state.buffer = buffer;
    }

    /// Nothing that any node keeps can be relied on, and nothing is watched any more.
    fn reset(&self, state: &mut State) {
        self.resets.fetch_add(1, Ordering::SeqCst);
        let _ = sys::remove_all_marks(self.group.as_fd());
        for (_, record) in state.records.drain() {
            record.mark.end();
        }
        self.marks.store(0, Ordering::SeqCst);
        for listener in state.listeners.values_mut() {
            listener.hot.clear();
            listener.log.push(&listener.end, Change::Everything);
        }
    }

    fn apply(&self, state: &mut State, event: &Event, authors: &HashSet<u32>) {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            return self.reset(state);
        }
        let own = event.pid == self.pid;
        // The only one who can have done it, and so knows of it.
        let author = match authors.len() {
            1 if own => authors.iter().next().copied(),
            _ => None,
        };
        if let Some((directory, name)) = &event.place
            && event.mask & NAME_EVENTS != 0
        {
            tell(state, directory, author, |directory| Change::Name {
                directory,
                name,
            });
            if let Some(target) = &event.target {
                tell(state, target, author, |node| Change::Attributes { node });
            }
        }
        if event.mask & !(NAME_EVENTS | libc::FAN_ONDIR) == 0 {
            return;
        }
        let Some(key) = &event.target else {
            return;
        };
        let Some(record) = state.records.get(key) else {
            return;
        };
        let mark = Arc::clone(&record.mark);
        let has = |bits: u64| event.mask & bits != 0;
        if has(libc::FAN_ATTRIB) && mark.directory && mark.search() != Search::Unknown {
            self.search_again(state, &mark);
        }
        let closed = has(libc::FAN_CLOSE_WRITE) && mark.writers() != Writers::None;
        if has(libc::FAN_OPEN) && !own && mark.askable && mark.writers() == Writers::None {
            self.look_for_writers(state, &mark, event.pid);
        }
        let written = has(libc::FAN_MODIFY) || !own && (has(libc::FAN_CLOSE_WRITE) || doubtful(&mark));
        if written {
            tell(state, key, author, |node| Change::Contents { node });
        } else if has(libc::FAN_ATTRIB | libc::FAN_DELETE_SELF | libc::FAN_MOVE_SELF) {
            tell(state, key, author, |node| Change::Attributes { node });
        }
        if closed {
            mark.doubt_writers();
        }
        if has(libc::FAN_DELETE_SELF) && state.records.remove(key).is_some() {
            // The kernel has taken the mark off.
            mark.end();
            self.marks.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Somebody has opened a file of which nodes keep something.
    fn look_for_writers(&self, state: &mut State, mark: &Arc<Mark>, pid: i32) {
        // Other agents do not map files; and they would take the look for somebody's opening of it, and look in turn.
        if is_agent(pid) {
            return;
        }
        mark.doubt_writers();
        let doubts = mark.doubts();
        let mut writers = Writers::Unknown;
        // What is open already can be asked without anybody's noticing.
        let asked = lend(state, &mark.key, &mut |ways, node| {
            ways.lend_open(node, &mut |file| writers = self.writers_beside(file))
        });
        if !asked {
            if pid == 0 && !mark.may_ask() {
                return;
            }
            lend(state, &mark.key, &mut |ways, node| {
                ways.lend(node, &mut |file| writers = self.writers_of(mark, file))
            });
        }
        mark.set_writers(writers, doubts);
    }

    /// A directory's rights may have changed, and so who may use names in it that nodes keep.
    fn search_again(&self, state: &mut State, mark: &Arc<Mark>) {
        let before = mark.search();
        mark.doubt_search();
        let doubts = mark.search_doubts();
        let mut search = Search::Some;
        lend(state, &mark.key, &mut |ways, node| {
            ways.lend(node, &mut |file| search = self.search_of(file))
        });
        mark.set_search(search, doubts);
        if before == Search::All && search == Search::Some {
            // Whoever did it: names in it may not be used by all who know them.
            tell(state, &mark.key, None, |node| Change::Attributes { node });
        }
    }

    /// Whether anybody may store into a file without opening it first. `file` is any descriptor of it.
    fn writers_of(&self, mark: &Mark, file: BorrowedFd<'_>) -> Writers {
        if !mark.askable {
            return settled(file);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(rustix::fs::CWD, &*proc_path(file), flags, Mode::empty()) {
            Ok(open) => self.writers_beside(open.as_fd()),
            Err(_) => Writers::Some,
        }
    }

    /// The same, by a descriptor that is open for reading.
    fn writers_beside(&self, open: BorrowedFd<'_>) -> Writers {
        match self.is_unwritten(open, false) {
            Ok(true) => Writers::None,
            Ok(false) => Writers::Some,
            Err(Errno::ACCESS) => settled(open),
            Err(_) => Writers::Some,
        }
    }

    fn is_unwritten(&self, file: BorrowedFd<'_>, writable: bool) -> rustix::io::Result<bool> {
        let _probing = self.probing.read().unwrap_or_else(PoisonError::into_inner);
        // Two who ask by one descriptor would give back each other's lease.
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        sys::is_unwritten(file, writable)
    }

    /// Who may search a directory.
    fn search_of(&self, directory: BorrowedFd<'_>) -> Search {
        let path = proc_path(directory);
        let all = if self.root {
            rustix::fs::statx(directory, c"", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::MODE)
                .is_ok_and(|stat| stat.stx_mode & 0o111 == 0o111)
                && matches!(
                    rustix::fs::getxattr_query(&*path, c"system.posix_acl_access"),
                    Err(Errno::NODATA | Errno::OPNOTSUPP)
                )
        } else {
            // All guests are this user.
            let flags = rustix::fs::AtFlags::EACCESS;
            rustix::fs::accessat(rustix::fs::CWD, &*path, rustix::fs::Access::EXEC_OK, flags).is_ok()
        };
        if all { Search::All } else { Search::Some }
    }
}

/// Somebody else may be storing into a file.
fn doubtful(mark: &Mark) -> bool {
    !mark.directory && mark.writers() != Writers::None
}

/// Whether upper and lower case are the same in a directory, as far as that can be found out.
fn folds_case(directory: BorrowedFd<'_>) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, &*proc_path(directory), flags, Mode::empty())
        .and_then(|open| rustix::fs::ioctl_getflags(&open))
        .is_ok_and(|flags| flags.bits() & CASEFOLD != 0)
}

/// Whether a process is an agent like this one.
fn is_agent(pid: i32) -> bool {
    pid != 0 && std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"afield-agent\n")
}

/// Only a file's owner can ask who has it open. Another user's file that has been left alone for long is taken to be only read.
fn settled(file: BorrowedFd<'_>) -> Writers {
    match is_settled(file) {
        true => Writers::None,
        false => Writers::Unknown,
    }
}

/// A file that nobody has changed for long.
fn is_settled(file: BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return false;
    };
    let Ok(seconds) = u64::try_from(stat.st_mtime) else {
        return true;
    };
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    SystemTime::now()
        .duration_since(changed)
        .is_ok_and(|age| age > SETTLED_AGE)
}

/// Sessions that may have made changes since this was asked last.
fn authors(state: &State, forget: bool) -> HashSet<u32> {
    let may_have = |listener: &Listener| {
        let done = match forget {
            true => listener.author.done.swap(false, Ordering::SeqCst),
            false => listener.author.done.load(Ordering::SeqCst),
        };
        done || listener.author.active.load(Ordering::SeqCst) > 0
    };
    let all = state.listeners.iter();
    all.filter(|(_, listener)| may_have(listener))
        .map(|(session, _)| *session)
        .collect()
}

fn authors_now(state: &State) -> HashSet<u32> {
    authors(state, false)
}

/// Tells who watches something what has changed; not the session that has changed it, unless it knows it as several nodes.
fn tell<'a>(state: &mut State, key: &Key, author: Option<u32>, change: impl Fn(u64) -> Change<'a>) {
    let State {
        records, listeners, ..
    } = state;
    let Some(record) = records.get(key) else {
        return;
    };
    for watcher in &record.watchers {
        let of_author = Some(watcher.session) == author;
        let alone = || {
            let same = |other: &&Watcher| other.session == watcher.session;
            record.watchers.iter().filter(same).count() == 1
        };
        if of_author && alone() {
            continue;
        }
        let Some(listener) = listeners.get_mut(&watcher.session) else {
            continue;
        };
        listener.log.push(&listener.end, change(watcher.node));
    }
}

/// Asks those who watch something in turn, until one has lent something; whether one has.
fn lend(state: &State, key: &Key, ask: &mut dyn FnMut(&dyn Ways, u64) -> bool) -> bool {
    let Some(record) = state.records.get(key) else {
        return false;
    };
    record.watchers.iter().any(|watcher| {
        let listener = state.listeners.get(&watcher.session);
        let ways = listener.and_then(|listener| listener.ways.upgrade());
        ways.is_some_and(|ways| ask(&*ways, watcher.node))
    })
}

impl Coherence {
    fn remove_watcher(&self, state: &mut State, watcher: Watcher, mark: &Mark, file: Option<BorrowedFd<'_>>) {
        let Some(record) = state.records.get_mut(&mark.key) else {
            return;
        };
        record.watchers.retain(|other| *other != watcher);
        if !record.watchers.is_empty() {
            return;
        }
        record.mark.end();
        state.records.remove(&mark.key);
        self.marks.fetch_sub(1, Ordering::SeqCst);
        if let Some(file) = file {
            // Whatever the mark is of, all of it goes.
            let mask = DIRECTORY_MASK | FILE_MASK | LINK_MASK;
            let _ = sys::remove_mark(self.group.as_fd(), mask, &proc_path(file));
        }
    }
}

/// Tells idle sessions what has changed.
fn watch(group: &OwnedFd, mounts: &File, coherence: &Weak<Coherence>) {
    let mut left = false;
    loop {
        let mut polls = [
            PollFd::new(group, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
        ];
        let limit = if left { PAUSE } else { LOOK_INTERVAL };
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        // Interrupted or not, everything is looked at.
        let _ = poll(&mut polls, Some(&limit));
        let Some(coherence) = coherence.upgrade() else {
            return;
        };
        let tellers: Vec<Teller> = {
            let mut state = coherence.lock();
            coherence.drain(&mut state);
            let all = state.listeners.values();
            all.filter(|listener| listener.log.has_news(&listener.end))
                .filter_map(|listener| listener.teller.clone())
                .collect()
        };
        left = !tellers.is_empty();
        tellers.iter().for_each(|tell| tell());
        drop((tellers, coherence));
        std::thread::sleep(PAUSE);
    }
}
