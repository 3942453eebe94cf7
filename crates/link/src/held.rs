//! A frame that is held back for a moment, so that what follows it can become part of it.
//!
//! It has its place in the link's order from the moment at which it is held: whatever is written later goes after it. So nobody who
//! hears anything of this side can tell that it was held; who is told nothing sees it [a moment](MOMENT) late.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// For how long a frame is held at most.
pub const MOMENT: Duration = Duration::from_millis(1);

/// After so long without one, who lets frames go sleeps until there is one.
const REST: Duration = Duration::from_millis(20);

/// The frame, and who sees to it that it goes.
#[derive(Debug, Default)]
pub struct Hold {
    /// There is one; changed only by who has the lock.
    has_one: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The frame, and since when it has been held.
    held: Option<(Frame, Instant)>,
    /// There is a thread that lets frames go.
    is_watched: bool,
    /// It has to be woken.
    sleeps: bool,
    /// Nothing is held any more.
    over: bool,
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the frame go, if there is one. Whoever does so at the same time comes back when it has gone.
    pub fn release(&self, send: impl FnOnce(Frame)) {
        if self.has_one.load(Ordering::SeqCst) {
            self.release_locked(&mut self.lock(), send);
        }
    }

    /// Sent while the lock is held: who finds no frame here may send the next one.
    fn release_locked<T>(&self, state: &mut State, send: impl FnOnce(Frame) -> T) -> Option<T> {
        let (frame, _) = state.held.take()?;
        let sent = send(frame);
        self.has_one.store(false, Ordering::SeqCst);
        Some(sent)
    }

    /// Lends the frame that is held to who may make it longer; false if there is none, or it was not changed.
    pub fn extend(&self, extend: impl FnOnce(&mut Frame) -> bool) -> bool {
        if !self.has_one.load(Ordering::SeqCst) {
            return false;
        }
        match &mut self.lock().held {
            Some((frame, _)) => extend(frame),
            None => false,
        }
    }

    /// Holds a frame, after the one that was held has been sent. Gives it back if nobody would let it go.
    pub fn hold(&self, frame: Frame, send: impl FnOnce(Frame)) -> Result<(), Frame> {
        let mut state = self.lock();
        if !state.is_watched || state.over {
            return Err(frame);
        }
        self.release_locked(&mut state, send);
        state.held = Some((frame, Instant::now()));
        self.has_one.store(true, Ordering::SeqCst);
        if state.sleeps {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Starts the thread that lets frames go in good time, once. What `send` gives is dropped when nobody has the lock.
    pub fn watch<T>(self: &Arc<Self>, send: impl Fn(Frame) -> T + Send + 'static) -> io::Result<()> {
        let hold = Arc::clone(self);
        std::thread::Builder::new()
            .name("held".to_owned())
            .stack_size(256 << 10)
            .spawn(move || hold.let_go(send))?;
        self.lock().is_watched = true;
        Ok(())
    }

    /// Ends that thread, and all holding.
    pub fn end(&self) {
        self.lock().over = true;
        self.changed.notify_one();
    }

    fn let_go<T>(&self, send: impl Fn(Frame) -> T) {
        let mut state = self.lock();
        let mut last = Instant::now();
        while !state.over {
            let left = match &state.held {
                Some((_, since)) => {
                    last = *since;
                    MOMENT.saturating_sub(since.elapsed())
                }
                None if last.elapsed() < REST => MOMENT,
                None => {
                    state.sleeps = true;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.sleeps = false;
                    continue;
                }
            };
            match left.is_zero() {
                true => {
                    let sent = self.release_locked(&mut state, &send);
                    drop(state);
                    drop(sent);
                    state = self.lock();
                }
                false => {
                    let woken = self.changed.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::frame::Kind;

    fn frame(payload: &[u8]) -> Frame {
        Frame {
            kind: Kind::File,
            id: 1,
            payload: payload.to_vec(),
        }
    }

    /// One that nobody lets go by himself.
    fn hold() -> Hold {
        let hold = Hold::default();
        hold.lock().is_watched = true;
        hold
    }

    #[test]
    fn what_is_held_is_made_longer_and_goes_once_before_the_next() {
        let hold = hold();
        let mut sent: Vec<Vec<u8>> = Vec::new();
        assert!(!hold.extend(|_| true));
        hold.hold(frame(b"a"), |_| panic!("nothing was held")).unwrap();
        for more in [b"b", b"c"] {
            assert!(hold.extend(|frame| {
                frame.payload.extend_from_slice(more);
                true
            }));
        }
        assert!(!hold.extend(|_| false));
        hold.hold(frame(b"d"), |frame| sent.push(frame.payload)).unwrap();
        hold.release(|frame| sent.push(frame.payload));
        hold.release(|frame| sent.push(frame.payload));
        assert_eq!(sent, [b"abc".to_vec(), b"d".to_vec()]);
    }

    #[test]
    fn nothing_is_held_that_nobody_would_let_go() {
        let refused = Hold::default().hold(frame(b"a"), |_| ());
        assert_eq!(refused.unwrap_err().payload, b"a");
        let hold = hold();
        hold.end();
        assert!(hold.hold(frame(b"a"), |_| ()).is_err());
    }

    #[test]
    fn it_goes_by_itself_and_the_thread_ends() {
        let hold = Arc::new(Hold::default());
        let (said, heard) = channel();
        hold.watch(move |frame| said.send(frame.payload)).unwrap();
        for payload in [b"a", b"b"] {
            hold.hold(frame(payload), |_| ()).unwrap();
            assert_eq!(heard.recv().unwrap(), payload);
        }
        hold.end();
        // The thread's end of the channel is gone with it.
        assert!(heard.recv().is_err());
    }
}
