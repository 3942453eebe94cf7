//! Files that guests have mapped so that stores change them.
//!
//! The kernel keeps what is stored into such a mapping, and writes it out when it likes, at `msync`, and when the mapping ends. But what
//! a guest has stored before it tells somebody, he must see. So while there may be such a mapping, all that was stored goes into the
//! stream ahead of whatever tells anybody something: init has the kernel write it out (`syncfs`; the session itself must hold no file
//! of the world's root), and the session passes on the writes that come of it. As long as nobody maps files so, this costs nothing.
//!
//! Forwarded calls wait for that in the notify door. A file request cannot wait in the thread that serves the file door, which the
//! writes need; it is held until a thread of its own has seen to them. Not held is what nobody learns anything from, and what may
//! have pages locked, or forbids their writing, until it is answered: writes to, and changes of, files that may be mapped.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use afield_abi::fuse::{InterruptRequest, Opcode, OpenRequest, WriteRequest, write_flag};
use tracing::{debug, warn};

use super::{HANDLE, INIT, OWN, Request, SPECIAL, lock};
use crate::session::{self, Shared};

/// Bound of what is served after a flush, while others go on asking.
const SETTLED_ROUNDS_MAX: usize = 256;

/// The state.
#[derive(Debug, Default)]
pub struct Mapped {
    /// There may be such a mapping.
    active: AtomicBool,
    held: Mutex<Held>,
    /// Something is held.
    more: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    /// Whole requests, in their order.
    requests: Vec<Vec<u8>>,
    /// Their numbers, and those of requests that are about to be served.
    uniques: HashSet<u64>,
    /// Somebody sees to them.
    is_served: bool,
}

impl Mapped {
    /// Whether there may be such a mapping.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Nobody has a file open any more that could be mapped so.
    pub fn end(&self) {
        self.active.store(false, Ordering::SeqCst);
    }

    /// Holds a request that tells somebody something, if there may be something to be written before it. True if it is held.
    pub fn hold(&self, shared: &Shared, request: &Request<'_>) -> bool {
        let mut held = lock(&self.held);
        // What came while others were held stays behind them.
        if !self.is_active() && held.uniques.is_empty() || !held.is_served {
            return false;
        }
        let holds = match request.opcode {
            Opcode::Interrupt => request
                .record::<InterruptRequest>()
                .is_ok_and(|interrupt| held.uniques.contains(&interrupt.unique)),
            _ => tells(shared, request),
        };
        if holds {
            held.uniques.insert(request.header.unique);
            held.requests.push(request.to_vec());
            self.more.notify_one();
        }
        holds
    }

    fn wait(&self) -> Vec<Vec<u8>> {
        let mut held = lock(&self.held);
        while held.requests.is_empty() {
            held = self.more.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut held.requests)
    }
}

/// Whether anybody learns of something by this request.
fn tells(shared: &Shared, request: &Request<'_>) -> bool {
    let header = &request.header;
    if header.pid == INIT {
        return false;
    }
    if header.node & (HANDLE | SPECIAL) != 0 {
        if request.opcode == Opcode::Write
            && request
                .record::<WriteRequest>()
                .is_ok_and(|write| write.write_flags & write_flag::CACHE != 0)
        {
            // What was stored into a mapping: those who are held wait for it.
            return false;
        }
        return matches!(
            request.opcode,
            Opcode::Read
                | Opcode::Write
                | Opcode::Ioctl
                | Opcode::Flush
                | Opcode::Sync
                | Opcode::SetAttributes
                | Opcode::Allocate
        ) || request.opcode == Opcode::Open && header.node & SPECIAL != 0;
    }
    if header.node & OWN != 0 {
        return false;
    }
    let is_mappable = || shared.files.behind.is_mappable(header.node);
    match request.opcode {
        opcode if opcode.changes_names() => true,
        Opcode::SetExtended | Opcode::RemoveExtended | Opcode::SetLock | Opcode::SetLockWait => true,
        Opcode::Open => {
            let flags = request.record::<OpenRequest>().map_or(0, |open| open.flags);
            flags & libc::O_TRUNC as u32 != 0 && !is_mappable()
        }
        Opcode::Write | Opcode::SetAttributes | Opcode::Allocate => !is_mappable(),
        _ => false,
    }
}

/// A guest is about to map a file so that stores change it.
pub fn note(shared: &Arc<Shared>) {
    let mapped = &shared.files.mapped;
    if !shared.files.behind.has_mappable() {
        // It is none of home's.
        return;
    }
    let mut held = lock(&mapped.held);
    if !held.is_served {
        let serving = Arc::clone(shared);
        match session::start("mapped", move || serve(&serving)) {
            Ok(()) => held.is_served = true,
            Err(error) => warn!("nobody holds requests while mapped files are written: {error}"),
        }
    }
    mapped.active.store(true, Ordering::SeqCst);
}

/// Has all that was stored so far put into the stream. Not for the file door's thread.
pub fn flush(shared: &Arc<Shared>) {
    let nodes = shared.files.behind.mappable_nodes();
    let connections = shared.files.coherent.connections_of(&nodes);
    if let Err(error) = shared.installer.write_out(connections) {
        return debug!("mapped files are not written out: {error}");
    }
    // The kernel may have asked for more writes than are served in a row.
    for _ in 0..SETTLED_ROUNDS_MAX {
        match super::settle_some(shared) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return debug!("the file door closes: {error}"),
        }
    }
}

fn serve(shared: &Arc<Shared>) {
    let mapped = &shared.files.mapped;
    loop {
        let mut batch = mapped.wait();
        flush(shared);
        let reading = lock(&shared.files.reading);
        for bytes in &mut batch {
            super::serve_held(shared, bytes);
        }
        let mut held = lock(&mapped.held);
        // What was held meanwhile is still to come.
        held.uniques = held
            .requests
            .iter()
            .filter_map(|bytes| unique_of(bytes))
            .collect();
        drop((held, reading));
    }
}

fn unique_of(bytes: &[u8]) -> Option<u64> {
    super::header_of(bytes).map(|header| header.unique)
}
