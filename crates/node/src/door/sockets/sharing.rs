//! Files that guests only write to, passed to a process at home: guest and process go on with one offset.
//!
//! The deputy has opened the file again, for the one to whom it is passed. Before it goes, the guest's own descriptors, and those of guests
//! that have them from each other, become that home object. A guest can be given a descriptor while it waits in a notified call,
//! as the sender does, and a shell that waits for the sender; all others keep what they have.
//!
//! What can be read can be mapped, and a mapping of a home object is no memory that others share. So such a file stays what it is.

use std::ffi::CString;
use std::sync::Arc;

use tracing::debug;

use crate::door::descriptors::look_up;
use crate::installer::{Gift, Target};
use crate::session::{Call, Shared};
use crate::sys::inodes::fuse_node;
use crate::sys::seccomp::{Listener, same_open_file};
use crate::trace::Order;

/// A guest that has the open file.
pub(super) struct Holder {
    pub(super) pid: u32,
    /// The thread that waits in a notified call.
    tid: i32,
    listener: Arc<Listener>,
    notification: u64,
    /// Its descriptors, and whether they are closed on `execve`.
    descriptors: Vec<(u32, bool)>,
}

/// True for a file opened with these flags that becomes a home object when it is passed.
pub(super) fn is_shared(flags: u32) -> bool {
    let kind = libc::O_ACCMODE | libc::O_APPEND | libc::O_PATH;
    // Who appends has no use for an offset.
    flags & kind as u32 == libc::O_WRONLY as u32
}

/// Who has the open file that the caller has under a number, of this node, and waits in a call.
pub(super) fn holders(shared: &Shared, call: &Call, number: u32, node: u64) -> Vec<Holder> {
    let mut holders = Vec::new();
    for (pid, leader) in shared.guests.leaders() {
        let waiting = match pid == call.pid {
            true => Some((call.tid, Arc::clone(&call.listener), call.notification)),
            false => shared.waiting_call(pid),
        };
        let Some((tid, listener, notification)) = waiting else {
            continue;
        };
        let descriptors = descriptors_of(leader, (call.tid, number), node);
        if !descriptors.is_empty() {
            holders.push(Holder {
                pid,
                tid,
                listener,
                notification,
                descriptors,
            });
        }
    }
    holders
}

fn descriptors_of(leader: i32, file: (i32, u32), node: u64) -> Vec<(u32, bool)> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{leader}/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&number| {
            let path = CString::new(format!("/proc/{leader}/fd/{number}")).unwrap_or_default();
            fuse_node(&path).is_some_and(|(_, found)| found == node) && same_open_file(file, (leader, number))
        })
        .filter_map(|number| {
            let descriptor = look_up(leader, number)?;
            Some((number, descriptor.flags & libc::O_CLOEXEC as u64 != 0))
        })
        .collect()
}

/// Has the descriptors be of the object that the deputy has opened. False if they are what they were.
pub(super) fn replace(shared: &Shared, holders: &[Holder], gift: Gift) -> bool {
    let targets: Vec<_> = holders
        .iter()
        .flat_map(|holder| {
            holder.descriptors.iter().map(|&(number, cloexec)| Target {
                notification: holder.notification,
                listener: holder.listener.number(),
                number,
                cloexec: cloexec.into(),
                padding: 0,
            })
        })
        .collect();
    for holder in holders.iter().filter(|holder| holder.descriptors.len() > 1) {
        if let Some(process) = shared.guests.lock().process_mut(holder.pid) {
            process.duplicates.add(gift.handle);
        }
    }
    let replaced = shared
        .installer
        .replace(gift, &targets)
        .inspect_err(|error| debug!("object {}: {error}", gift.handle));
    if !replaced.is_ok_and(|count| count > 0) {
        return false;
    }
    for holder in holders {
        shared.orders.give(Order::WatchSeeks { tid: holder.tid });
    }
    true
}
