//! Calls that may wait at home, whose threads have not been looked at yet.
//!
//! A signal that came before its thread was known to wait at home has woken nobody, so each such thread has to be looked at once. That
//! costs as much as a quick call does, and most calls are quick: a door looks a little later, when the call has mostly been answered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::session::Shared;

/// How long a call has to last until its thread is looked at. A call that a signal has to interrupt waits so much longer for it.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// Most calls that wait for their look.
const CALLS_MAX: usize = 1024;

struct Call {
    id: u64,
    begun: Instant,
}

thread_local! {
    /// Of a thread that looks.
    static CALLS: RefCell<Option<VecDeque<Call>>> = const { RefCell::new(None) };
}

/// This thread will look at the calls that it begins: it calls [`look`] again and again.
pub fn begin() {
    CALLS.set(Some(VecDeque::new()));
}

/// A call has begun. False if this thread does not look, or not at more.
pub fn note(id: u64) -> bool {
    CALLS.with_borrow_mut(|calls| match calls {
        Some(calls) if calls.len() < CALLS_MAX => {
            calls.push_back(Call {
                id,
                begun: Instant::now(),
            });
            true
        }
        _ => false,
    })
}

/// Looks where it is time. When to do so again.
pub fn look(shared: &Shared) -> Option<Duration> {
    CALLS.with_borrow_mut(|calls| {
        let calls = calls.as_mut()?;
        loop {
            let Call { id, begun } = calls.front()?;
            if shared.has_call(*id) {
                let left = LOOK_AFTER.saturating_sub(begun.elapsed());
                if !left.is_zero() {
                    return Some(left);
                }
                shared.look_at_call(*id);
            }
            calls.pop_front();
        }
    })
}
