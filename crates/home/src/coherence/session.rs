//! One session's part: what its node may keep, and what it is told.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use afield_link::ahead::{Ahead, News};
use afield_link::invalidation::Change;
use rustix::io::Errno;

use super::event::Key;
use super::log::{End, Log};
use super::{
    Author, Coherence, DIRECTORY_MASK, FILE_MASK, FileSystem, LINK_MASK, Listener, Mark, RESET_INTERVAL,
    Record, Search, TOGETHER, Watcher, Ways, Writers, folds_case, sys, tell,
};
use crate::files::proc_path;

impl Coherence {
    /// Takes a session in, whose nodes `ways` leads to.
    pub fn join(self: &Arc<Self>, ways: Weak<dyn Ways>) -> Session {
        let (end, author) = <(Arc<End>, Arc<Author>)>::default();
        let mut state = self.lock();
        let number = state.session_next;
        state.session_next += 1;
        state.listeners.insert(
            number,
            Listener {
                log: Log::default(),
                end: Arc::clone(&end),
                author: Arc::clone(&author),
                ways,
                hot: HashMap::new(),
                hot_from: 0,
                teller: None,
            },
        );
        Session {
            coherence: Arc::clone(self),
            number,
            end,
            author,
            mixed: AtomicBool::new(false),
        }
    }
}

/// One session's part. Dropped when it is over.
#[derive(Debug)]
pub struct Session {
    pub(super) coherence: Arc<Coherence>,
    number: u32,
    end: Arc<End>,
    author: Arc<Author>,
    /// Guests have different credentials.
    mixed: AtomicBool,
}

/// When a request was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begun(u64);

/// While it lives, the session may be making changes.
#[derive(Debug)]
pub struct Changing<'a>(&'a Author);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::SeqCst);
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Session {
    /// Before a request is executed.
    pub fn begin(&self) -> Begun {
        Begun(self.end.get())
    }

    /// Before a request is executed that may change something.
    pub fn changing(&self) -> Changing<'_> {
        self.author.active.fetch_add(1, Ordering::SeqCst);
        Changing(&self.author)
    }

    /// Appends what is to follow the answer to a request at once: all that has changed since it was begun. `hot` is a file
    /// that others can store into, if the answer has contents of it that the node may keep.
    pub fn behind(&self, begun: Begun, hot: Option<u64>, payload: &mut Vec<u8>) {
        if hot.is_none() && self.end.get() == begun.0 {
            return;
        }
        let mut state = self.coherence.lock();
        let Some(listener) = state.listeners.get_mut(&self.number) else {
            return;
        };
        // What has just been told of hot files is no news: they are told of again ahead of the next message.
        let until = listener.hot_from;
        listener.log.between(&listener.end, begun.0, until, payload);
        if let Some(node) = hot {
            listener.hot.entry(node).or_insert_with(Instant::now);
        }
    }

    /// The attributes of something watched are not what they were: all sessions are told, this one as well.
    pub fn tell_attributes(&self, mark: &Mark) {
        let mut state = self.coherence.lock();
        tell(&mut state, &mark.key, None, |node| Change::Attributes { node });
    }

    /// Another number once everything has been said to have changed, which it is when mounts are not what they were.
    pub fn resets(&self) -> u64 {
        self.coherence.resets.load(Ordering::SeqCst)
    }

    /// For [`holds_since`](Mark::holds_since): before something is looked at.
    pub fn stamp(&self) -> u64 {
        self.coherence.stamp.load(Ordering::SeqCst)
    }

    /// Watches what `node` is, by an `O_PATH` descriptor of it; what is looked at from now on is told when it changes. `None` if it
    /// cannot be watched.
    pub fn watch(&self, node: u64, kind: u32, on: FileSystem, file: BorrowedFd<'_>) -> Option<Arc<Mark>> {
        let mask = match kind {
            libc::S_IFDIR => DIRECTORY_MASK,
            libc::S_IFREG => FILE_MASK,
            libc::S_IFLNK => LINK_MASK,
            _ => return None,
        };
        let directory = kind == libc::S_IFDIR;
        let folds = directory && folds_case(file);
        let askable = self.coherence.root
            || rustix::fs::fstat(file).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw());
        let coherence = &*self.coherence;
        let mut state = coherence.lock();
        match sys::add_mark(coherence.group.as_fd(), mask, &proc_path(file)) {
            Ok(()) => {}
            Err(Errno::NOSPC | Errno::NOMEM)
                if state.reset.is_none_or(|last| last.elapsed() > RESET_INTERVAL) =>
            {
                state.reset = Some(Instant::now());
                coherence.reset(&mut state);
                sys::add_mark(coherence.group.as_fd(), mask, &proc_path(file)).ok()?;
            }
            Err(_) => return None,
        }
        let (handle_kind, handle) = sys::handle(file).ok()?;
        let key = Key {
            file_system: on.id,
            kind: handle_kind,
            handle: handle.into(),
        };
        let watcher = Watcher {
            session: self.number,
            node,
        };
        let state = &mut *state;
        if !state.listeners.contains_key(&self.number) {
            return None;
        }
        let record = state.records.entry(key).or_insert_with_key(|key| {
            coherence.marks.fetch_add(1, Ordering::SeqCst);
            let number = coherence.stamp.fetch_add(1, Ordering::SeqCst);
            Record {
                mark: Arc::new(Mark::new(key.clone(), directory, folds, askable, number)),
                watchers: Vec::new(),
            }
        });
        if !record.watchers.contains(&watcher) {
            record.watchers.push(watcher);
        }
        Some(Arc::clone(&record.mark))
    }

    /// The node keeps nothing of it any more.
    pub fn unwatch(&self, node: u64, mark: &Mark, file: Option<BorrowedFd<'_>>) {
        let mut state = self.coherence.lock();
        if let Some(listener) = state.listeners.get_mut(&self.number) {
            listener.hot.remove(&node);
        }
        let watcher = Watcher {
            session: self.number,
            node,
        };
        self.coherence.remove_watcher(&mut state, watcher, mark, file);
    }

    /// Finds out who may store into a watched file, if that is not known; by an `O_PATH` descriptor. Makes what is known
    /// from then on hold until an event says otherwise.
    pub fn settle_writers(&self, mark: &Mark, file: BorrowedFd<'_>) -> Writers {
        match mark.rests() {
            true => mark.writers(),
            false => self.settle(mark, || self.coherence.writers_of(mark, file)),
        }
    }

    fn settle(&self, mark: &Mark, ask: impl FnOnce() -> Writers) -> Writers {
        let known = mark.writers();
        if known != Writers::Unknown {
            return known;
        }
        let doubts = mark.doubts();
        let writers = ask();
        self.set_writers(mark, writers, doubts);
        mark.writers()
    }

    /// The same, by a descriptor that is open for reading only. Nobody notices it.
    pub fn settle_reader(&self, mark: &Mark, file: BorrowedFd<'_>) -> Writers {
        self.settle(mark, || self.coherence.writers_beside(file))
    }

    /// The same, by a descriptor through which the session's guests write: if that is the only one, nobody else does.
    pub fn settle_own_writer(&self, mark: &Mark, file: BorrowedFd<'_>) -> Writers {
        let known = mark.writers();
        if known == Writers::None {
            return known;
        }
        let doubts = mark.doubts();
        if self.coherence.is_unwritten(file, true) == Ok(true) {
            self.set_writers(mark, Writers::None, doubts);
        }
        mark.writers()
    }

    fn set_writers(&self, mark: &Mark, writers: Writers, doubts: u64) {
        let _state = self.coherence.lock();
        mark.set_writers(writers, doubts);
    }

    /// Whether all guests may use any name that one of them has found in a watched directory, by an `O_PATH` descriptor.
    pub fn settle_search(&self, mark: &Mark, directory: BorrowedFd<'_>) -> bool {
        if mark.folds {
            return false;
        }
        if self.coherence.root && !self.mixed.load(Ordering::SeqCst) {
            return true;
        }
        if mark.search() == Search::Unknown {
            let doubts = mark.search_doubts();
            let search = self.coherence.search_of(directory);
            let _state = self.coherence.lock();
            mark.set_search(search, doubts);
        }
        mark.search() == Search::All
    }

    /// Guests have, or may have from now on, different credentials.
    pub fn mix(&self) {
        if self.coherence.root && !self.mixed.swap(true, Ordering::SeqCst) {
            let mut state = self.coherence.lock();
            if let Some(listener) = state.listeners.get_mut(&self.number) {
                listener.log.push(&listener.end, Change::Everything);
            }
        }
    }

    /// Executes what may fail because somebody holds a lease, while none is held for a moment here.
    pub fn without_probes<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alone = self
            .coherence
            .probing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Has `teller` called, by one thread, when there is something to tell. It must not wait.
    pub fn set_teller(&self, teller: impl Fn() + Send + Sync + 'static) {
        if let Some(listener) = self.coherence.lock().listeners.get_mut(&self.number) {
            listener.teller = Some(Arc::new(teller));
        }
    }

    /// What the link is to ask before each frame.
    pub fn ahead(&self) -> Arc<dyn Ahead> {
        Arc::new(Messenger {
            coherence: Arc::clone(&self.coherence),
            session: self.number,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.coherence.lock();
        state.listeners.remove(&self.number);
        if state.listeners.is_empty() {
            self.coherence.reset(&mut state);
            return;
        }
        // Marks that nobody watches stay until there are too many; nothing comes of their events.
        let mut gone = 0;
        state.records.retain(|_, record| {
            record.watchers.retain(|watcher| watcher.session != self.number);
            let stays = !record.watchers.is_empty();
            if !stays {
                record.mark.end();
                gone += 1;
            }
            stays
        });
        self.coherence.marks.fetch_sub(gone, Ordering::SeqCst);
    }
}

/// Tells a session what has changed.
#[derive(Debug)]
struct Messenger {
    coherence: Arc<Coherence>,
    session: u32,
}

impl Ahead for Messenger {
    fn ahead(&self, about: Option<u64>, news: &mut News) {
        let mut state = self.coherence.lock();
        self.coherence.drain(&mut state);
        let Some(listener) = state.listeners.get_mut(&self.session) else {
            return;
        };
        listener.hot_from = listener.end.get();
        // More contents of the same file take nothing back, or a mapping of which several parts are asked for would never get them; those
        // of other files do not at once.
        let is_told = |node: u64, since: Instant| match about {
            Some(about) => node != about && since.elapsed() > TOGETHER,
            None => true,
        };
        for (node, _) in listener.hot.extract_if(|node, since| is_told(*node, *since)) {
            listener.log.push(&listener.end, Change::Contents { node });
        }
        if listener.log.has_news(&listener.end) {
            listener.log.tell(&listener.end, &mut news.changes);
        }
    }
}
