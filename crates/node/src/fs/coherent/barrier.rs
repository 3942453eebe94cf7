//! Nothing that comes from home after the news of a change is delivered before the node's kernel has taken the news.
//!
//! Telling it of names and contents waits for locks that guests' requests hold, which want their replies. So a thread of its own
//! tells it ([`Barrier::run`]), and if that takes longer than it takes to do so when nobody is in the way, the gate closes: replies to file requests go on to the kernel,
//! but those who get them do not reach user mode (the tracer stops them); all else waits in line. When the kernel has been told, what has
//! waited is taken in order and everybody goes on.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use afield_link::frame::Frame;
use afield_link::stream::LinkError;
use afield_link::wire::WireError;

use super::kept::Notice;
use crate::fs::lock;

/// How long nothing at all is delivered before the gate closes.
const WAIT: Duration = Duration::from_micros(500);

/// Most frames in line: more than home can have to say while nobody here says anything new.
const WAITING_MAX: usize = 1 << 16;

/// What is delivered.
#[derive(Debug, Default)]
pub struct Gate {
    closed: bool,
    waiting: VecDeque<Frame>,
    /// What the kernel is to be told before the gate opens.
    more: Vec<Notice>,
}

impl Gate {
    /// True while only replies to file requests are delivered.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// A frame is taken later.
    ///
    /// # Errors
    /// There are too many.
    pub fn keep(&mut self, frame: Frame) -> Result<(), LinkError> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(WireError::Malformed("number of frames").into());
        }
        self.waiting.push_back(frame);
        Ok(())
    }

    /// The kernel is to be told of this, too, before the gate opens.
    pub fn tell_more(&mut self, notices: Vec<Notice>) {
        self.more.extend(notices);
    }

    /// What it is to be told.
    pub fn take_more(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.more)
    }

    /// The next frame in line. With none left the gate is open.
    pub fn next(&mut self) -> Option<Frame> {
        let next = self.waiting.pop_front();
        self.closed = next.is_some();
        next
    }

    /// Closes it: [`Barrier::apply`] opens it again.
    pub fn close(&mut self) {
        self.closed = true;
    }
}

#[derive(Debug, Default)]
struct Progress {
    /// The last work has been done.
    done: bool,
    /// Nobody waits for that: the gate is to be opened then.
    left: bool,
}

/// Orders what is delivered after what the kernel is told.
#[derive(Debug)]
pub struct Barrier {
    gate: Mutex<Gate>,
    progress: Mutex<Progress>,
    changed: Condvar,
    work: Mutex<Sender<Vec<Notice>>>,
    works: Mutex<Option<Receiver<Vec<Notice>>>>,
}

impl Default for Barrier {
    fn default() -> Self {
        let (work, works) = channel();
        Self {
            gate: Mutex::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
            work: Mutex::new(work),
            works: Mutex::new(Some(works)),
        }
    }
}

impl Barrier {
    /// The gate. Whoever delivers frames holds it while he does.
    pub fn gate(&self) -> MutexGuard<'_, Gate> {
        lock(&self.gate)
    }

    /// Has the kernel told of changes. False if that takes its time: the gate must be closed then. With `waits` false it is not
    /// waited for at all. Only whoever holds the gate may ask, and only while it is open or all that it was closed for is done.
    #[must_use]
    pub fn apply(&self, notices: Vec<Notice>, waits: bool) -> bool {
        *lock(&self.progress) = Progress {
            done: false,
            left: !waits,
        };
        // The receiver lives as long as the session.
        let _ = lock(&self.work).send(notices);
        if !waits {
            return false;
        }
        let deadline = Instant::now() + WAIT;
        let mut progress = lock(&self.progress);
        while !progress.done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                progress.left = true;
                return false;
            }
            (progress, _) = self
                .changed
                .wait_timeout(progress, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Tells the kernel, by `tell`, whatever there is to tell as long as the session lasts. `open` is called when a gate that was
    /// closed is to be opened.
    pub fn run(&self, mut tell: impl FnMut(Notice), mut open: impl FnMut()) {
        let Some(works) = lock(&self.works).take() else {
            return;
        };
        for notices in works {
            notices.into_iter().for_each(&mut tell);
            let left = {
                let mut progress = lock(&self.progress);
                progress.done = true;
                progress.left
            };
            if left {
                open();
            } else {
                self.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    use afield_link::frame::Kind;

    use super::*;

    fn name() -> Vec<Notice> {
        vec![Notice::Name {
            directory: 1,
            name: (*b"n").into(),
        }]
    }

    #[test]
    fn the_gate_opens_when_what_takes_long_is_done() {
        let barrier = Arc::new(Barrier::default());
        let (release, held) = mpsc::channel::<()>();
        let (opened, opens) = mpsc::channel();
        let telling = Arc::clone(&barrier);
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        thread::spawn(move || {
            telling.run(
                |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = held.recv();
                },
                || {
                    let _ = opened.send(());
                },
            );
        });
        {
            let mut gate = barrier.gate();
            assert!(!barrier.apply(name(), true));
            gate.close();
            let frame = Frame {
                kind: Kind::Control,
                id: 1,
                payload: Vec::new(),
            };
            gate.keep(frame).unwrap();
        }
        assert!(opens.try_recv().is_err());
        release.send(()).unwrap();
        opens.recv().unwrap();
        let mut gate = barrier.gate();
        assert!(gate.next().is_some() && gate.is_closed());
        assert!(gate.next().is_none() && !gate.is_closed());
        // In time: nobody is told. What is released already does not wait.
        drop(release);
        while !barrier.apply(name(), true) {
            opens.recv().unwrap();
        }
        assert!(opens.try_recv().is_err());
        assert!(told.load(Ordering::SeqCst) >= 2);
    }
}
