//! Sessions that are being made. An agent that ends has to end these too: a node that hears nothing would keep its part for the whole
//! grace time.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use afield_link::carrier::Carrier;

/// All that are being made on other machines.
#[derive(Debug, Default)]
pub struct Makings {
    state: Mutex<State>,
    /// One is made, or came to nothing.
    less: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// No more may be begun.
    over: bool,
    /// Links, as soon as there are, by number.
    links: HashMap<u64, Option<Carrier>>,
    last: u64,
}

impl Makings {
    /// From now until what it gives is dropped, a session is being made. `None` if the agent ends.
    pub fn begin(self: &Arc<Self>) -> Option<Making> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.links.insert(number, None);
        Some(Making {
            all: Arc::clone(self),
            number,
        })
    }

    /// No more is begun, and what was is ended; waits for that, and for the nodes to have been told, as far as that can be.
    pub fn end(&self, deadline: Instant) {
        let links: Vec<Carrier> = {
            let mut state = self.lock();
            state.over = true;
            state.links.values().flatten().cloned().collect()
        };
        links.iter().for_each(Carrier::shutdown);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .less
            .wait_timeout_while(self.lock(), left, |state| !state.links.is_empty());
        drop(waited);
        links.iter().for_each(Carrier::finish);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session that is being made.
#[derive(Debug)]
pub struct Making {
    all: Arc<Makings>,
    number: u64,
}

impl Making {
    /// It has got so far that there is a link, with a keeper.
    pub fn has_link(&self, link: &Carrier) {
        let over = {
            let mut state = self.all.lock();
            state.links.insert(self.number, Some(link.clone()));
            state.over
        };
        if over {
            link.shutdown();
            link.finish();
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.all.lock().links.remove(&self.number);
        self.all.less.notify_all();
    }
}
