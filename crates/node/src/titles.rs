//! What guests call themselves: a program may write over its arguments in memory, as servers do to say what each of their processes
//! is for. Nothing tells of that, so it is looked at from time to time.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use afield_link::control::ARGUMENTS_BYTES_MAX;
use tracing::debug;

use crate::session::Shared;

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

/// Looks as long as the session lasts. Reading what a process shows touches its memory: this is for a thread of its own.
pub fn watch(shared: &Arc<Shared>) {
    let mut names: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        std::thread::sleep(PERIOD);
        shared.files.coherent.trim(shared);
        let guests: Vec<(u32, i32, u64)> = {
            let register = shared.guests.lock();
            let pids = register.pids().into_iter();
            pids.filter_map(|pid| {
                let process = register.process(pid).filter(|process| process.executed)?;
                Some((pid, process.leader, process.title))
            })
            .collect()
        };
        names.retain(|pid, _| guests.iter().any(|(other, ..)| other == pid));
        for (pid, leader, known) in guests {
            // Names are also set by writing to `/proc/PID/comm`.
            if let Some(name) = name_of(leader) {
                let former = names.insert(pid, name.clone());
                if former.as_ref() != Some(&name)
                    && let Err(error) = shared.home.name(pid, name)
                {
                    return debug!("telling home: {error}");
                }
            }
            let Ok(arguments) = arguments_of(leader) else {
                continue;
            };
            let title = digest(&arguments);
            // An empty one is that of a process on its way out.
            if title == known || arguments.is_empty() {
                continue;
            }
            let same = {
                let mut register = shared.guests.lock();
                let process = register.process_mut(pid);
                // It may have executed a program since, which is told as such.
                process
                    .filter(|process| process.leader == leader && process.title == known)
                    .map(|process| process.title = title)
            };
            if same.is_some()
                && let Err(error) = shared.home.title(pid, arguments)
            {
                return debug!("telling home: {error}");
            }
        }
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
