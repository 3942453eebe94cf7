//! What a node that keeps contents is told of a file as it opens it: the hashes of its pieces, or all that is in it.
//!
//! Only what is watched is told, so that the node hears of it when the file changes. Hashes are remembered, for all sessions, under
//! what a change of the file changes: its time of change above all. That is enough because
//!
//! * it is only told while nobody has the file open for writing, so that nobody stores to a mapping of it (the watch sees to that),
//! * on the file systems where hashes are remembered, the first store to a page through a new mapping sets the time of change,
//! * they are remembered only if the time of change was long enough ago that a change after it has another time, and if it was the
//!   same before and after the file was read.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use afield_abi::fuse::{OpenReply, open_reply_flag};
use afield_link::contents::{self, Contents, FILE_BYTES_MAX, Hash, PIECE_BYTES, Told, WHOLE_BYTES_MAX, hash};
use rustix::fs::{Mode, OFlags, Statx};
use tracing::{debug, warn};

use super::decode::Reply;
use super::nodes::{Node, device_of, stat_descriptor};
use super::open::OpenFile;
use super::{FileService, proc_path};

/// A file of no more than this is hashed while it is opened: it takes a few milliseconds, and once.
const AT_ONCE_BYTES_MAX: u64 = 4 << 20;

/// The same for a file that a program will need: it takes some ten milliseconds, and once, where fetching it may take seconds.
const NEEDED_BYTES_MAX: u64 = 64 << 20;

/// Files that wait to be hashed.
const WAITING_MAX: usize = 64;

/// Most hashes that are remembered: 32 MiB.
const HASHES_MAX: usize = 1 << 20;

/// Most files whose hashes are remembered.
const FILES_MAX: usize = 1 << 18;

/// Hashes that are told with every open; more are told once to a session.
const TOLD_AGAIN_MAX: usize = 64;

/// A change so long after another has a later time, whatever the kernel's clock ticks at.
const SETTLED: Duration = Duration::from_millis(50);

/// The files that a node may have as well.
const SYSTEM: &[u8] = b"/usr/";

/// What makes contents the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    birth: (i64, u32),
    changed: (i64, u32),
    modified: (i64, u32),
    size: u64,
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Self {
            device: device_of(stat),
            inode: stat.stx_ino,
            birth: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            size: stat.stx_size,
        }
    }

    /// Whether a change from now on would have another time.
    fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let Ok(seconds) = u64::try_from(seconds) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        // A time to come says nothing.
        SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|since| since > SETTLED)
    }

    /// A number that other contents of the same file do not have; not 0.
    fn number(&self) -> u64 {
        let (seconds, nanoseconds) = self.changed;
        ((seconds as u64) << 30 ^ u64::from(nanoseconds) ^ self.size.rotate_left(40)) | 1
    }
}

type Hashes = Arc<[Hash]>;

/// The hashes of files.
#[derive(Debug, Default)]
struct Table {
    files: HashMap<Stamp, Hashes>,
    /// Oldest first.
    order: VecDeque<Stamp>,
    hashes: usize,
    /// Files that wait to be hashed.
    waiting: HashSet<Stamp>,
}

impl Table {
    fn add(&mut self, stamp: Stamp, hashes: Hashes) {
        self.hashes += hashes.len();
        if let Some(old) = self.files.insert(stamp, hashes) {
            self.hashes -= old.len();
        } else {
            self.order.push_back(stamp);
        }
        while (self.hashes > HASHES_MAX || self.order.len() > FILES_MAX)
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes -= self.files.remove(&oldest).map_or(0, |hashes| hashes.len());
        }
    }
}

/// A file that is to be hashed.
#[derive(Debug)]
struct Job {
    stamp: Stamp,
    file: OwnedFd,
}

/// Hashes of home's files, whatever session they are for.
#[derive(Debug)]
struct Digests {
    table: Mutex<Table>,
    jobs: SyncSender<Job>,
}

static DIGESTS: LazyLock<Digests> = LazyLock::new(|| {
    let (jobs, waiting) = sync_channel(WAITING_MAX);
    let thread = std::thread::Builder::new().name("hashes".to_owned());
    let hash = move || {
        // Whoever reads the file meanwhile goes first.
        afield_link::sys::give_way();
        hash_in_turn(&waiting);
    };
    if let Err(error) = thread.spawn(hash) {
        warn!("large files are not hashed: {error}");
    }
    Digests {
        table: Mutex::default(),
        jobs,
    }
});

impl Digests {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, stamp: &Stamp) -> Option<Hashes> {
        self.table().files.get(stamp).cloned()
    }

    /// Has a large file hashed, for when it is opened again.
    fn want(&self, stamp: Stamp, file: BorrowedFd<'_>) {
        if !self.table().waiting.insert(stamp) {
            return;
        }
        let sent = file
            .try_clone_to_owned()
            .map(|file| self.jobs.try_send(Job { stamp, file }));
        if !matches!(sent, Ok(Ok(()))) {
            if let Ok(Err(TrySendError::Disconnected(_))) = sent {
                debug!("nobody hashes large files");
            }
            self.table().waiting.remove(&stamp);
        }
    }
}

fn hash_in_turn(jobs: &Receiver<Job>) {
    for Job { stamp, file } in jobs {
        let hashes = settled_hashes(&stamp, file.as_fd());
        drop(file);
        let mut table = DIGESTS.table();
        table.waiting.remove(&stamp);
        if let Some(hashes) = hashes {
            table.add(stamp, hashes);
        }
    }
}

/// Hashes of a file that is, before and after, as the stamp says.
fn settled_hashes(stamp: &Stamp, file: BorrowedFd<'_>) -> Option<Hashes> {
    let is_same = || stat_descriptor(file).is_ok_and(|stat| Stamp::of(&stat) == *stamp);
    if !stamp.is_settled() || !is_same() {
        return None;
    }
    let quiet = quietly(file);
    let file = std::fs::File::from(quiet.map_or_else(|| file.try_clone_to_owned(), Ok).ok()?);
    let mut piece = vec![0; PIECE_BYTES.min(stamp.size as usize)];
    let mut hashes = Vec::with_capacity(contents::piece_count(stamp.size) as usize);
    let mut offset = 0;
    while offset < stamp.size {
        let bytes = (stamp.size - offset).min(PIECE_BYTES as u64) as usize;
        file.read_exact_at(&mut piece[..bytes], offset).ok()?;
        hashes.push(hash(&piece[..bytes]));
        offset += bytes as u64;
    }
    is_same().then(|| hashes.into())
}

/// The file once more, so that reading it does not count as an access: the program has only opened it. Not everybody may do that.
fn quietly(file: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, &*proc_path(file), flags, Mode::empty()).ok()
}

/// True for file systems where a store through a new mapping sets the time of change (which tmpfs does not), or on which nothing can
/// be stored. Of what an overlay lies on nothing is known.
fn shows_stores(file: BorrowedFd<'_>) -> bool {
    // ext, XFS, btrfs, F2FS, bcachefs, squashfs, EROFS, ISO
    const KINDS: [u32; 8] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0xf2f5_2010,
        0xca45_1a4e,
        0x7371_7368,
        0xe0f5_e1e2,
        0x9660,
    ];
    rustix::fs::fstatfs(file).is_ok_and(|figures| KINDS.contains(&(figures.f_type as u32)))
}

/// The whole of a small file.
fn whole(file: BorrowedFd<'_>, size: usize) -> io::Result<Vec<u8>> {
    let quiet = quietly(file);
    let file = std::fs::File::from(quiet.map_or_else(|| file.try_clone_to_owned(), Ok)?);
    // One more shows if it has grown.
    let mut data = vec![0; size + 1];
    let mut done = 0;
    while done < data.len() {
        match file.read_at(&mut data[done..], done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(done);
    Ok(data)
}

/// What is said in the end.
enum Said {
    Nothing,
    Hashes(Hashes),
    Whole(Vec<u8>),
}

impl FileService {
    /// Hashes a file that a program will need, if that is worth while and has not been done.
    pub(super) fn hash_needed(&self, node: u64) {
        if !self.tells_contents || !self.is_early() {
            return;
        }
        let Ok(way) = self.descriptor(node) else { return };
        let Ok(stat) = stat_descriptor(&*way) else { return };
        let stamp = Stamp::of(&stat);
        let is_large = (AT_ONCE_BYTES_MAX + 1..=NEEDED_BYTES_MAX).contains(&stamp.size);
        if !is_large || DIGESTS.get(&stamp).is_some() || !shows_stores(way.as_fd()) {
            return;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(rustix::fs::CWD, &*proc_path(&*way), flags, Mode::empty()) else {
            return;
        };
        if let Some(hashes) = settled_hashes(&stamp, file.as_fd()) {
            DIGESTS.table().add(stamp, hashes);
        }
    }

    /// Appends to the reply to an open what is in the file, if the node is to be told, and may keep it.
    pub(super) fn tell_contents(
        &self,
        node: &Node,
        file: &OpenFile,
        open: &OpenReply,
        reply: &mut Reply<'_>,
    ) {
        let kept = open_reply_flag::KEEP_CACHE | open_reply_flag::DIRECT_IO;
        if !self.tells_contents || file.writes() || open.open_flags & kept != open_reply_flag::KEEP_CACHE {
            return;
        }
        let file = file.as_fd();
        let Ok(stat) = stat_descriptor(file) else { return };
        if stat.stx_size == 0 || stat.stx_size > FILE_BYTES_MAX {
            return;
        }
        let stamp = Stamp::of(&stat);
        let said = said(&stamp, file, &node.told);
        // The link in /proc shows where it is now.
        let path = match &said {
            Said::Hashes(_) => rustix::fs::readlinkat(rustix::fs::CWD, &*proc_path(file), Vec::new()).ok(),
            _ => None,
        };
        let path = path.as_ref().map_or(&[][..], |path| path.as_c_str().to_bytes());
        let told = match &said {
            Said::Nothing => Told::Nothing,
            Said::Hashes(hashes) => Told::Hashes(hashes),
            Said::Whole(data) => Told::Whole(data),
        };
        let contents = Contents {
            size: stamp.size,
            path: if path.starts_with(SYSTEM) { path } else { &[] },
            told,
        };
        contents::append(reply.buffer(), &contents);
    }
}

fn said(stamp: &Stamp, file: BorrowedFd<'_>, told: &AtomicU64) -> Said {
    let known = DIGESTS.get(stamp);
    if known.is_none() && stamp.size <= WHOLE_BYTES_MAX as u64 {
        // Nobody has asked for it lately, so no node is likely to have it.
        let Ok(data) = whole(file, stamp.size as usize) else {
            return Said::Nothing;
        };
        let settled = stamp.is_settled() && shows_stores(file);
        let is_same = || stat_descriptor(file).is_ok_and(|stat| Stamp::of(&stat) == *stamp);
        if data.len() as u64 != stamp.size {
            return Said::Nothing;
        }
        if settled && is_same() {
            DIGESTS.table().add(*stamp, [hash(&data)].into());
        }
        return Said::Whole(data);
    }
    let hashes = match known {
        Some(hashes) => hashes,
        None if !shows_stores(file) => return Said::Nothing,
        None if stamp.size > AT_ONCE_BYTES_MAX => {
            DIGESTS.want(*stamp, file);
            return Said::Nothing;
        }
        None => match settled_hashes(stamp, file) {
            Some(hashes) => {
                DIGESTS.table().add(*stamp, Arc::clone(&hashes));
                hashes
            }
            None => return Said::Nothing,
        },
    };
    let number = stamp.number();
    if told.swap(number, Ordering::Relaxed) == number && hashes.len() > TOLD_AGAIN_MAX {
        return Said::Nothing;
    }
    Said::Hashes(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::File;
    use std::path::PathBuf;
    use std::time::Instant;

    /// A file that goes with the test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, contents: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("afield-contents-{name}-{}", std::process::id()));
            std::fs::write(&path, contents).unwrap();
            Self(path)
        }

        /// Waits until a change has another time. `None` where hashes are not remembered.
        fn settled(&self) -> Option<(Stamp, File)> {
            let file = File::open(&self.0).unwrap();
            let stamp = Stamp::of(&stat_descriptor(&file).unwrap());
            while !stamp.is_settled() {
                std::thread::sleep(Duration::from_millis(10));
            }
            shows_stores(file.as_fd()).then_some((stamp, file))
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn say(stamp: &Stamp, file: &File, told: &AtomicU64) -> Said {
        said(stamp, file.as_fd(), told)
    }

    #[test]
    fn a_small_file_is_sent_whole_and_later_by_its_hash() {
        let place = Temporary::new("small", b"contents");
        let told = AtomicU64::new(0);
        let file = File::open(&place.0).unwrap();
        let stamp = Stamp::of(&stat_descriptor(&file).unwrap());
        assert!(matches!(say(&stamp, &file, &told), Said::Whole(data) if data == b"contents"));
        let Some((stamp, file)) = place.settled() else {
            return;
        };
        // Just written, it could have been written once more at the same time: its hash was not remembered then.
        let said = say(&stamp, &file, &told);
        assert!(!matches!(said, Said::Nothing));
        for _ in 0..2 {
            let Said::Hashes(hashes) = say(&stamp, &file, &told) else {
                panic!("hashes were expected");
            };
            assert_eq!(*hashes, [hash(b"contents")]);
        }
    }

    #[test]
    fn a_file_that_looks_the_same_but_was_changed_is_another() {
        let place = Temporary::new("same", &[1; 100_000]);
        let Some((stamp, file)) = place.settled() else {
            return;
        };
        let told = AtomicU64::new(0);
        assert!(matches!(say(&stamp, &file, &told), Said::Hashes(hashes) if hashes.len() == 2));
        let times = file.metadata().unwrap().modified().unwrap();
        std::fs::write(&place.0, [2; 100_000]).unwrap();
        File::options()
            .write(true)
            .open(&place.0)
            .unwrap()
            .set_modified(times)
            .unwrap();
        let Some((changed, file)) = place.settled() else {
            return;
        };
        assert_ne!(changed, stamp);
        assert_ne!(changed.number(), stamp.number());
        let piece = hash(&[2; PIECE_BYTES]);
        assert!(matches!(say(&changed, &file, &told), Said::Hashes(hashes) if hashes[0] == piece));
        // What is not as the stamp says is not hashed under it.
        assert!(settled_hashes(&stamp, file.as_fd()).is_none());
    }

    #[test]
    fn a_large_file_is_hashed_for_the_next_time_and_told_once() {
        let size = AT_ONCE_BYTES_MAX as usize + 100;
        let place = Temporary::new("large", &vec![3; size]);
        let Some((stamp, file)) = place.settled() else {
            return;
        };
        let told = AtomicU64::new(0);
        assert!(matches!(say(&stamp, &file, &told), Said::Nothing));
        let until = Instant::now() + Duration::from_secs(60);
        while DIGESTS.get(&stamp).is_none() {
            assert!(Instant::now() < until, "it is not hashed");
            std::thread::sleep(Duration::from_millis(10));
        }
        let count = size.div_ceil(PIECE_BYTES);
        assert!(matches!(say(&stamp, &file, &told), Said::Hashes(hashes) if hashes.len() == count));
        assert!(matches!(say(&stamp, &file, &told), Said::Nothing));
        assert!(matches!(say(&stamp, &file, &AtomicU64::new(0)), Said::Hashes(_)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut table = Table::default();
        let stamp = |inode| Stamp {
            device: 1,
            inode,
            birth: (0, 0),
            changed: (0, 0),
            modified: (0, 0),
            size: 1,
        };
        let hashes: Hashes = vec![[0; 32]; 4096].into();
        for inode in 0..1000 {
            table.add(stamp(inode), Arc::clone(&hashes));
            table.add(stamp(inode), Arc::clone(&hashes));
            assert!(table.hashes <= HASHES_MAX);
        }
        assert_eq!(table.files.len(), HASHES_MAX / 4096);
        assert!(table.files.contains_key(&stamp(999)));
    }
}
