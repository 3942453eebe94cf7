//! Threads for calls that wait, and how such a call is interrupted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLockReadGuard};

use super::{Deputy, lock};
use crate::sys::interrupt::Flag;
use crate::sys::process;

/// Stack of a worker: its deepest call is a reply being sent.
const STACK_BYTES: usize = 64 << 10;

/// Most calls of one guest that wait at a time.
const TASKS_MAX: usize = 8192;

/// What a worker does. It answers by itself.
pub type Work = Box<dyn FnOnce(&mut Worker<'_>) + Send>;

/// A call that waits for a worker or is in one.
#[derive(Debug)]
struct Task {
    /// The request, for [`Workers::cancel`].
    id: u64,
    flag: Arc<Flag>,
    /// The worker's thread; 0 before it begins.
    tid: i32,
}

/// The threads and what they do.
#[derive(Default)]
pub struct Workers {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Threads that have been made and do not run code of this module yet.
    starting: AtomicU32,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Arc<Flag>, Work)>,
    /// Every call that has not been answered, waiting ones included.
    tasks: Vec<Task>,
    /// Workers without work, those on their way included.
    idle: usize,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Workers").finish_non_exhaustive()
    }
}

/// A worker as the work sees it.
pub struct Worker<'a> {
    /// Whose it is.
    pub deputy: &'a Deputy,
    /// Interrupts this work.
    flag: Arc<Flag>,
    gate: Option<RwLockReadGuard<'a, ()>>,
}

impl Worker<'_> {
    /// Makes a call that may wait. `-EINTR` or `EINTR` means that the request was cancelled if [`cancelled`](Self::cancelled)
    /// says so.
    pub fn wait<T>(&mut self, call: impl FnOnce(&Flag) -> T) -> T {
        self.gate = None;
        let result = call(&self.flag);
        self.gate = Some(self.deputy.gate.read().unwrap_or_else(PoisonError::into_inner));
        result
    }

    /// Whether the request was cancelled.
    pub fn cancelled(&self) -> bool {
        self.flag.is_set()
    }
}

/// While it is held no worker begins or ends anything.
pub struct Hold<'a>(#[expect(dead_code, reason = "it is there to be held")] MutexGuard<'a, Queue>);

impl Workers {
    /// Keeps workers from beginning and ending.
    pub fn hold(&self) -> Hold<'_> {
        Hold(lock(&self.queue))
    }
}

impl Deputy {
    /// Gives work to a worker. An errno if there can be none.
    pub(super) fn employ(self: &Arc<Self>, id: u64, work: Work) -> Result<(), i32> {
        let mut queue = lock(&self.workers.queue);
        if queue.tasks.len() >= TASKS_MAX {
            return Err(libc::EAGAIN);
        }
        if !self.is_idle(&mut queue) {
            return Err(libc::EAGAIN);
        }
        let flag = Arc::new(Flag::default());
        queue.tasks.push(Task {
            id,
            flag: Arc::clone(&flag),
            tid: 0,
        });
        queue.waiting.push_back((id, flag, work));
        drop(queue);
        self.workers.arrived.notify_one();
        Ok(())
    }

    /// Has a worker ready. For when there may soon be no more threads for this user.
    pub(super) fn keep_worker(self: &Arc<Self>) {
        self.is_idle(&mut lock(&self.workers.queue));
    }

    /// Whether there is a worker without work, which may be made for that.
    fn is_idle(self: &Arc<Self>, queue: &mut Queue) -> bool {
        if queue.idle > queue.waiting.len() {
            return true;
        }
        self.workers.starting.fetch_add(1, Ordering::SeqCst);
        let deputy = Arc::clone(self);
        let started = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || deputy.work());
        if started.is_err() {
            self.workers.starting.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        queue.idle += 1;
        true
    }

    /// Interrupts a request that waits. One that is not here has been answered.
    pub(super) fn cancel(&self, id: u64) {
        let queue = lock(&self.workers.queue);
        if let Some(task) = queue.tasks.iter().find(|task| task.id == id) {
            // Under the lock: a task's thread takes it off the list before it does anything else.
            task.flag.interrupt(task.tid);
        }
    }

    /// Waits until no thread is between its making and its first wait.
    pub(super) fn await_starting(&self) {
        while self.workers.starting.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    }

    /// A worker's life.
    fn work(&self) {
        let tid = process::thread_id();
        let mut queue = lock(&self.workers.queue);
        self.workers.starting.fetch_sub(1, Ordering::SeqCst);
        loop {
            let Some((id, flag, work)) = queue.waiting.pop_front() else {
                queue = self
                    .workers
                    .arrived
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.idle -= 1;
            for task in &mut queue.tasks {
                if Arc::ptr_eq(&task.flag, &flag) {
                    task.tid = tid;
                }
            }
            drop(queue);
            {
                let mut worker = Worker {
                    deputy: self,
                    flag: Arc::clone(&flag),
                    gate: Some(self.gate.read().unwrap_or_else(PoisonError::into_inner)),
                };
                work(&mut worker);
            }
            let _ = id;
            queue = lock(&self.workers.queue);
            queue.tasks.retain(|task| !Arc::ptr_eq(&task.flag, &flag));
            queue.idle += 1;
        }
    }
}
