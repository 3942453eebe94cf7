//! A guest forks: so does its deputy.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::lead::{Lead, Next};
use super::{Deputy, Handles, Parts, lock, out_of_the_way};
use crate::messages::FromDeputy;
use crate::sys::process::{self, Forked};
use crate::sys::signals;

impl Deputy {
    /// Forks, and tells the agent of it.
    pub(super) fn fork(self: &Arc<Self>, lead: &mut Lead, id: u64, exit_signal: u32, sibling: bool) -> Next {
        let (agents, childs) = match UnixStream::pair() {
            Ok((agents, childs)) => (agents, out_of_the_way(childs.into())),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                self.tell(id, &FromDeputy::Forked(Err(errno)));
                return Next::Same;
            }
        };
        let inventory = lock(&self.handles).inventory();
        let dispositions = *lock(&self.dispositions);
        let area = lock(&self.area).clone();
        let left = self.readiness.left();
        let raw = sibling || exit_signal != libc::SIGCHLD as u32;
        let forked = if raw {
            self.await_starting();
            let alone = self.gate.write();
            let queue = self.workers.hold();
            let forked = process::fork_raw(exit_signal, sibling);
            if forked == Ok(Forked::Child) {
                // These are the parent's.
                std::mem::forget((alone, queue));
            }
            forked
        } else {
            process::fork()
        };
        match forked {
            Err(errno) => {
                self.tell(id, &FromDeputy::Forked(Err(errno)));
                Next::Same
            }
            Ok(Forked::Parent(pid)) => {
                if !sibling {
                    self.children.born(pid);
                }
                self.tell_with(id, &FromDeputy::Forked(Ok(pid)), Some(&agents.into()));
                Next::Same
            }
            Ok(Forked::Child) => {
                let channel = process::adopt(childs.as_raw_fd());
                let mut keep: Vec<_> = inventory.iter().map(|&(_, number, ..)| number).collect();
                keep.push(channel.as_raw_fd());
                keep.extend(crate::proc::kept());
                keep.sort_unstable();
                process::close_all_but(&keep);
                std::mem::forget((agents, childs));
                let parts = Parts {
                    channel,
                    handles: Handles::from_inventory(&inventory),
                    ignored: 0,
                    root: None,
                    terminal: self.terminal.clone(),
                    dump_directory: Arc::clone(&self.dump_directory),
                };
                match Self::build(parts, dispositions, raw || self.raw) {
                    Ok(child) => {
                        // It has the mapping as well.
                        *lock(&child.area) = area;
                        child.readiness.inherit(left);
                        Next::Child(child, Box::new(lead.of_child()))
                    }
                    // The agent sees the channel's end and ends the guest.
                    Err(_) => process::exit(125),
                }
            }
        }
    }

    /// Ends a child that the guest never gets to know of.
    pub(super) fn unfork(&self, pid: u32) {
        if !self.children.hide(pid) {
            // A sibling: its parent is not this process.
            let _ = process::kill(pid, libc::SIGKILL);
            return;
        }
        let sending = lock(&self.sending);
        let _ = self.forward_signals();
        process::kill_and_reap(pid);
        let hidden = |info: &[u8; signals::INFO_BYTES]| {
            info[..4] == libc::SIGCHLD.to_le_bytes() && info[16..20] == pid.to_le_bytes()
        };
        let mut swallowed = None;
        let _ = self.signals.take(|info| {
            if hidden(info) {
                swallowed = Some(*info);
                return Ok(());
            }
            self.forward(info)
        });
        // Another child's signal may have found this one pending, and been dropped.
        if let (Some(mut info), Some(other)) = (swallowed, process::waitable_child()) {
            info[16..20].copy_from_slice(&other.to_le_bytes());
            let _ = self.forward(&info);
        }
        drop(sending);
    }
}
