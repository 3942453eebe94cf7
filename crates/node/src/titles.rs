//! What guests call themselves, and what they have open: a program may write over its arguments in memory, as servers do to say what
//! each of their processes is for, and it opens and closes files without asking. Nothing tells of that, so it is looked at from time
//! to time, of those that have run since.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use afield_link::control::ARGUMENTS_BYTES_MAX;
use afield_rpc::CallError;
use tracing::debug;

use crate::holdings::Holdings;
use crate::session::Shared;
use crate::sys::process;

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// The arguments that a process shows.
pub fn arguments_of(tid: i32) -> std::io::Result<Vec<u8>> {
    let mut arguments = std::fs::read(format!("/proc/{tid}/cmdline"))?;
    arguments.truncate(ARGUMENTS_BYTES_MAX);
    Ok(arguments)
}

/// By which arguments are remembered.
pub fn digest(arguments: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    arguments.hash(&mut hasher);
    hasher.finish()
}

/// A guest to look at.
#[derive(Debug, Clone, Copy)]
struct Guest {
    serial: u64,
    pid: u32,
    leader: i32,
    /// One of its threads that has not ended.
    thread: i32,
    /// Digest of its arguments.
    title: u64,
    /// Others may change what it has open while it does not run.
    shares_descriptors: bool,
}

/// What was seen of a guest last.
#[derive(Debug, Default)]
struct Seen {
    /// How long it had run by then.
    ran_ns: Option<i128>,
    name: Vec<u8>,
    holdings: Holdings,
}

/// Looks as long as the session lasts. Reading what a process shows touches its memory: this is for a thread of its own.
pub fn watch(shared: &Arc<Shared>) {
    let mut seen: HashMap<u64, Seen> = HashMap::new();
    loop {
        std::thread::sleep(PERIOD);
        shared.files.coherent.trim(shared);
        let guests = executed(shared);
        seen.retain(|serial, _| guests.iter().any(|guest| guest.serial == *serial));
        for guest in guests {
            let last = seen.entry(guest.serial).or_default();
            // Before the look: what it does meanwhile is seen the next time.
            let ran_ns = process::processor_time_ns(guest.leader);
            if ran_ns.is_some() && ran_ns == last.ran_ns && !guest.shares_descriptors {
                continue;
            }
            last.ran_ns = ran_ns;
            let told = tell_names(shared, guest, last)
                .and_then(|()| last.holdings.tell(shared, guest.pid, guest.thread));
            if let Err(error) = told {
                return debug!("telling home: {error}");
            }
        }
    }
}

/// The guests that have executed their programs.
fn executed(shared: &Shared) -> Vec<Guest> {
    let register = shared.guests.lock();
    let pids = register.pids().into_iter();
    pids.filter_map(|pid| {
        let process = register.process(pid).filter(|process| process.executed)?;
        Some(Guest {
            serial: process.serial,
            pid,
            leader: process.leader,
            thread: process.threads.first().copied().unwrap_or(process.leader),
            title: process.title,
            shares_descriptors: process.shares_descriptors,
        })
    })
    .collect()
}

fn tell_names(shared: &Shared, guest: Guest, last: &mut Seen) -> Result<(), CallError> {
    let Guest { pid, leader, .. } = guest;
    // Names are also set by writing to `/proc/PID/comm`.
    if let Some(name) = name_of(leader).filter(|name| *name != last.name) {
        last.name.clone_from(&name);
        shared.home.name(pid, name)?;
    }
    let Ok(arguments) = arguments_of(leader) else {
        return Ok(());
    };
    let title = digest(&arguments);
    // An empty one is that of a process on its way out.
    if title == guest.title || arguments.is_empty() {
        return Ok(());
    }
    let same = {
        let mut register = shared.guests.lock();
        let process = register.process_mut(pid);
        // It may have executed a program since, which is told as such.
        process
            .filter(|process| process.serial == guest.serial && process.title == guest.title)
            .map(|process| process.title = title)
    };
    match same {
        Some(()) => shared.home.title(pid, arguments),
        None => Ok(()),
    }
}

/// A thread's command name.
pub fn name_of(tid: i32) -> Option<Vec<u8>> {
    let mut name = std::fs::read(format!("/proc/{tid}/comm")).ok()?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    name.truncate(15);
    Some(name)
}
