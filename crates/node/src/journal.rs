//! The journal: what the node has to know of its sessions when nobody is left who made them.
//!
//! Each session has a file, made before its world, that says which processes it is made of and whose it is. A new session ends
//! those of the same home's earlier incarnations; a daemon that starts ends those of daemons that are no more. Guests,
//! init and everything in a world die with their session's process, so ending that is enough; init stands there for the moment
//! in which the session has died and init has not yet been told.
//!
//! A process is named by its pid and the time of its start, in a boot and a pid namespace: a name that is out of date is nobody's.
//! So nothing has to be on the disk when the machine stops, and files are written without waiting for that. One that cannot be
//! read is removed: what it named dies by itself, at the latest with its link.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tracing::warn;

/// Longest wait for the end of a process that has been killed.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// Largest file that is read.
const ENTRY_BYTES_MAX: u64 = 4096;

/// Most homes whose epochs are remembered.
const HOMES_MAX: usize = 1024;

/// The journal that this process keeps, and by what its home is known.
static KEPT: Mutex<Option<(Journal, String)>> = Mutex::new(None);

/// From now on sessions of this process, and of those it makes, are entered in the journal in `directory`. Ends what daemons have left
/// that are no more; how many sessions that were.
pub fn keep(directory: &Path) -> Result<usize, JournalError> {
    let journal = Journal::open(directory)?;
    let ended = journal.recover()?;
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some((journal, "-".to_owned()));
    Ok(ended)
}

/// This process serves the home that has proved to have this key.
pub fn known_as(key: &str) {
    if let Some((_, known)) = &mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner) {
        key.clone_into(known);
    }
}

/// This process is a session of this home: what earlier incarnations of it have left has ended when this returns. `None` if no journal
/// is kept.
pub fn enter(home: u64, epoch: u64) -> Result<Option<Registration>, JournalError> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((journal, key)) = &*kept else {
        return Ok(None);
    };
    let owner = Owner {
        key: key.clone(),
        home,
        epoch,
    };
    journal.enter(owner).map(Some)
}

/// Why a session may not begin.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The directory or a file in it.
    #[error("journal {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A later incarnation of this home has been here.
    #[error("this is incarnation {epoch} of a home that is at incarnation {latest} already")]
    Stale {
        /// Of the home that comes.
        epoch: u64,
        /// The latest known.
        latest: u64,
    },
    /// An earlier incarnation's session cannot be ended.
    #[error("process {0}, left over from an earlier incarnation of this home, does not end")]
    Lasting(u32),
}

/// A process, so that no other can be taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it was started, in the kernel's ticks.
    pub start: u64,
}

impl Process {
    /// A process that there is.
    pub fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name, before that, may hold anything.
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        // The twenty-second, of which the first was the third.
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// A descriptor of it, if it is still there.
    fn open(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at when the descriptor is there: it is this one's, or the pid had another owner by then.
        (Self::of(self.pid) == Some(self)).then_some(descriptor)
    }

    /// Whether it is still there.
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Ends it, and waits until it has ended; false if it does not.
    fn end(self) -> bool {
        let Some(descriptor) = self.open() else {
            return true;
        };
        if pidfd_send_signal(&descriptor, Signal::KILL).is_err() {
            return !self.lives();
        }
        let deadline = Instant::now() + END_TIME_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut polls = [PollFd::new(&descriptor, PollFlags::IN)];
            match rustix::event::poll(&mut polls, Some(&limit)) {
                Ok(0) => return !self.lives(),
                Ok(_) => return true,
                Err(_) if left.is_zero() => return !self.lives(),
                Err(_) => {}
            }
        }
    }
}

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// What proves who it is: a key's fingerprint. Homes with different ones have nothing to do with each other.
    pub key: String,
    /// Which of that user's homes.
    pub home: u64,
    /// The home's incarnation.
    pub epoch: u64,
}

impl Owner {
    fn is_same_home(&self, other: &Self) -> bool {
        (&self.key, self.home) == (&other.key, other.home)
    }

    /// For a file's name; keys have no length that is certain.
    fn name(&self) -> String {
        // FNV-1a.
        let hash = self.key.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{hash:016x}{:016x}", self.home)
    }
}

/// What a session's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The boot in which the pids mean something.
    pub boot: String,
    /// The pid namespace in which they do.
    pub namespace: u64,
    /// Who made the session.
    pub daemon: Process,
    /// Its process.
    pub session: Process,
    /// Its world's init, once there is one.
    pub init: Option<Process>,
    /// Whose it is.
    pub owner: Owner,
}

impl Entry {
    fn write(&self) -> String {
        let process = |name: &str, process: Process| format!("{name} {} {}\n", process.pid, process.start);
        let Owner { key, home, epoch } = &self.owner;
        let mut text = format!(
            "afield session 1\nboot {}\nnamespace {}\n",
            self.boot, self.namespace
        );
        text += &process("daemon", self.daemon);
        text += &process("session", self.session);
        if let Some(init) = self.init {
            text += &process("init", init);
        }
        text + &format!("owner {key} {home:x} {epoch}\nend\n")
    }

    /// Reads a file; `None` if it is not what [`Entry::write`] wrote, whole.
    pub fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().peekable();
        let process = |words: &str| {
            let (pid, start) = words.split_once(' ')?;
            let (pid, start) = (pid.parse().ok()?, start.parse().ok()?);
            // Nobody means init of the machine, or a group.
            (1 < pid && i32::try_from(pid).is_ok()).then_some(Process { pid, start })
        };
        if lines.next()? != "afield session 1" {
            return None;
        }
        let boot = lines.next()?.strip_prefix("boot ")?.to_owned();
        let namespace = lines.next()?.strip_prefix("namespace ")?.parse().ok()?;
        let daemon = process(lines.next()?.strip_prefix("daemon ")?)?;
        let session = process(lines.next()?.strip_prefix("session ")?)?;
        let init = match lines.peek()?.strip_prefix("init ") {
            Some(words) => {
                lines.next();
                Some(process(words)?)
            }
            None => None,
        };
        let mut owner = lines.next()?.strip_prefix("owner ")?.split(' ');
        let owner_read = Owner {
            key: owner.next()?.to_owned(),
            home: u64::from_str_radix(owner.next()?, 16).ok()?,
            epoch: owner.next()?.parse().ok()?,
        };
        let whole = owner.next().is_none() && lines.next()? == "end" && lines.next().is_none();
        whole.then_some(Self {
            boot,
            namespace,
            daemon,
            session,
            init,
            owner: owner_read,
        })
    }

    fn end(&self) -> Result<(), JournalError> {
        for process in [Some(self.session), self.init].into_iter().flatten() {
            if !process.end() {
                return Err(JournalError::Lasting(process.pid));
            }
        }
        Ok(())
    }
}

/// The journal of this machine's nodes that have the same directory.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
    boot: String,
    namespace: u64,
    daemon: Process,
}

impl Journal {
    /// A journal in that directory, which is made, for sessions of the calling process.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io {
            path: directory.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        let metadata = fs::metadata(directory).map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            let why = io::Error::other("others than this user may use it");
            return Err(failed(why));
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
        let namespace = fs::metadata("/proc/self/ns/pid").map_err(failed)?.ino();
        let daemon = Process::of(std::process::id()).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok(Self {
            directory: directory.to_owned(),
            boot: boot.trim().to_owned(),
            namespace,
            daemon,
        })
    }

    /// Ends what daemons have left that are no more. To be called when a daemon starts.
    pub fn recover(&self) -> Result<usize, JournalError> {
        let _turn = self.lock()?;
        let mut ended = 0;
        for (path, entry) in self.entries() {
            if entry.daemon.lives() {
                continue;
            }
            if entry.session.lives() {
                warn!(
                    pid = entry.session.pid,
                    "a session is left over from a daemon that is no more"
                );
                ended += 1;
            }
            entry.end()?;
            remove(&path);
        }
        Ok(ended)
    }

    /// Enters a session of the calling process. Sessions of the home's earlier incarnations have ended when this returns.
    ///
    /// # Errors
    /// A later incarnation has been here; or the journal cannot be kept.
    pub fn enter(&self, owner: Owner) -> Result<Registration, JournalError> {
        let _turn = self.lock()?;
        self.note_epoch(&owner)?;
        for (path, entry) in self.entries() {
            if entry.owner.is_same_home(&owner) && entry.owner.epoch < owner.epoch {
                entry.end()?;
                remove(&path);
            } else if !entry.session.lives() {
                remove(&path);
            }
        }
        let path = self.directory.join(format!("session.{}", std::process::id()));
        let session = Process::of(std::process::id()).ok_or(JournalError::Lasting(std::process::id()))?;
        let registration = Registration {
            path,
            entry: Entry {
                boot: self.boot.clone(),
                namespace: self.namespace,
                daemon: self.daemon,
                session,
                init: None,
                owner,
            },
        };
        registration.save()?;
        Ok(registration)
    }

    fn lock(&self) -> Result<fs::File, JournalError> {
        let path = self.directory.join("lock");
        let failed = |source| JournalError::Io {
            path: path.clone(),
            source,
        };
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(file)
    }

    /// Sessions whose processes may still be there; files of others are removed.
    fn entries(&self) -> Vec<(PathBuf, Entry)> {
        let Ok(files) = fs::read_dir(&self.directory) else {
            return Vec::new();
        };
        let named = |file: &fs::DirEntry| file.file_name().as_encoded_bytes().starts_with(b"session.");
        let mut entries = Vec::new();
        for file in files.flatten().filter(named) {
            let path = file.path();
            match read_short(&path).as_deref().and_then(Entry::read) {
                Some(entry) if (&entry.boot, entry.namespace) == (&self.boot, self.namespace) => {
                    entries.push((path, entry));
                }
                Some(_) => remove(&path),
                None => {
                    warn!(path = %path.display(), "a file of the journal cannot be read and is removed");
                    remove(&path);
                }
            }
        }
        entries
    }

    /// Remembers the home's incarnation, which must not be earlier than the latest.
    fn note_epoch(&self, owner: &Owner) -> Result<(), JournalError> {
        let path = self.directory.join(format!("epoch.{}", owner.name()));
        let latest = read_short(&path).and_then(|text| text.trim().parse::<u64>().ok());
        match latest {
            Some(latest) if latest > owner.epoch => {
                return Err(JournalError::Stale {
                    epoch: owner.epoch,
                    latest,
                });
            }
            Some(latest) if latest == owner.epoch => return Ok(()),
            Some(_) => {}
            None => self.forget_oldest(),
        }
        write_whole(&path, &format!("{}\n", owner.epoch))
    }

    /// Keeps the number of epochs that are remembered within its bound.
    fn forget_oldest(&self) {
        let Ok(files) = fs::read_dir(&self.directory) else {
            return;
        };
        let mut epochs: Vec<_> = files
            .flatten()
            .filter(|file| file.file_name().as_encoded_bytes().starts_with(b"epoch."))
            .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path())))
            .collect();
        epochs.sort();
        let many = epochs.len().saturating_sub(HOMES_MAX - 1);
        for (_, path) in epochs.into_iter().take(many) {
            remove(&path);
        }
    }
}

/// A session's file. It stays when this is dropped: whoever comes next removes it, when it has looked whether all has ended.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    entry: Entry,
}

impl Registration {
    /// The session has a world now.
    pub fn note_init(&mut self, pid: u32) -> Result<(), JournalError> {
        self.entry.init = Process::of(pid);
        self.save()
    }

    fn save(&self) -> Result<(), JournalError> {
        write_whole(&self.path, &self.entry.write())
    }
}

fn read_short(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(ENTRY_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whoever reads it sees all of it, or what was there before.
fn write_whole(path: &Path, text: &str) -> Result<(), JournalError> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, path))
        .map_err(|source| JournalError::Io {
            path: path.to_owned(),
            source,
        })
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), "{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A directory of this test's own, gone when it ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("afield-journal-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("100").spawn().unwrap()
    }

    fn owner(key: &str, home: u64, epoch: u64) -> Owner {
        Owner {
            key: key.to_owned(),
            home,
            epoch,
        }
    }

    /// A session that another process is said to be.
    fn plant(journal: &Journal, session: &Child, daemon: Process, owner: Owner) -> PathBuf {
        let registration = Registration {
            path: journal.directory.join(format!("session.{}", session.id())),
            entry: Entry {
                boot: journal.boot.clone(),
                namespace: journal.namespace,
                daemon,
                session: Process::of(session.id()).unwrap(),
                init: None,
                owner,
            },
        };
        registration.save().unwrap();
        registration.path
    }

    fn has_ended(child: &mut Child) -> bool {
        child.try_wait().unwrap().is_some()
    }

    #[test]
    fn a_new_incarnation_ends_the_old_ones_sessions_and_only_those() {
        let folder = Folder::new("incarnation");
        let journal = Journal::open(&folder.0).unwrap();
        let mut sessions: Vec<Child> = (0..4).map(|_| sleeper()).collect();
        let owners = [
            owner("a", 1, 6),
            owner("a", 2, 6),
            owner("b", 1, 6),
            owner("a", 1, 7),
        ];
        for (session, owner) in sessions.iter().zip(owners) {
            plant(&journal, session, journal.daemon, owner);
        }
        let registration = journal.enter(owner("a", 1, 7)).unwrap();
        assert!(has_ended(&mut sessions[0]));
        for session in &mut sessions[1..] {
            assert!(!has_ended(session));
        }
        // One that was thought dead has no more to say here.
        assert!(matches!(
            journal.enter(owner("a", 1, 6)),
            Err(JournalError::Stale { epoch: 6, latest: 7 })
        ));
        assert!(registration.path.exists());
        for session in &mut sessions[1..] {
            session.kill().unwrap();
            session.wait().unwrap();
        }
        // Files of sessions that have ended go when the next one comes.
        journal.enter(owner("a", 1, 7)).unwrap();
        assert_eq!(journal.entries().len(), 1);
    }

    #[test]
    fn a_daemon_ends_what_a_dead_one_has_left() {
        let folder = Folder::new("daemon");
        let journal = Journal::open(&folder.0).unwrap();
        let (mut orphan, mut kept, mut other) = (sleeper(), sleeper(), sleeper());
        let mut daemon = sleeper();
        let dead = Process::of(daemon.id()).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        plant(&journal, &orphan, dead, owner("a", 1, 1));
        plant(&journal, &kept, journal.daemon, owner("a", 1, 1));
        // A pid that somebody else has by now is nobody's business.
        let path = plant(&journal, &other, dead, owner("a", 1, 1));
        let text = fs::read_to_string(&path).unwrap();
        let start = Process::of(other.id()).unwrap().start;
        fs::write(
            &path,
            text.replace(&format!(" {start}\n"), &format!(" {}\n", start - 1)),
        )
        .unwrap();
        for (name, text) in [
            ("session.x", "noise"),
            ("session.1", ""),
            ("session.y", "afield session 1\n"),
        ] {
            fs::write(folder.0.join(name), text).unwrap();
        }
        fs::write(folder.0.join("session.z"), [0xff; 9000]).unwrap();
        assert_eq!(journal.recover().unwrap(), 1);
        assert!(has_ended(&mut orphan));
        assert!(!has_ended(&mut kept) && !has_ended(&mut other));
        assert_eq!(journal.entries().len(), 1);
        for child in [&mut kept, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Every prefix and mutation of a good file is that file, another good one, or refused; none names init or a group.
    #[test]
    fn damaged_files_are_refused() {
        let process = |pid| Process { pid, start: 12345 };
        let entry = Entry {
            boot: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned(),
            namespace: 4_026_531_836,
            daemon: process(1000),
            session: process(2000),
            init: Some(process(2001)),
            owner: owner("SHA256:abc", 0xfeed, 3),
        };
        let text = entry.write();
        assert_eq!(Entry::read(&text), Some(entry));
        for cut in 0..text.len() - 1 {
            assert_eq!(Entry::read(&text[..cut]), None, "{cut}");
        }
        let mut seed = 9u64;
        for _ in 0..50_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..1 + seed % 3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = b" \n0123456789-xend"[(seed >> 20) as usize % 17];
            }
            if let Some(read) = std::str::from_utf8(&bytes).ok().and_then(Entry::read) {
                for process in [Some(read.daemon), Some(read.session), read.init]
                    .into_iter()
                    .flatten()
                {
                    assert!(process.pid > 1 && i32::try_from(process.pid).is_ok());
                }
            }
        }
    }
}
