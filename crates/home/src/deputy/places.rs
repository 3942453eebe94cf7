//! Where a deputy's own descriptors are: above those that a job usually has.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Resource, getrlimit};

/// The kernel's table grows with the highest number and is copied at every fork, so they are not at the very top.
const FIRST: u64 = 220;

/// Room for all of them below a low limit.
const COUNT_MAX: u64 = 24;

/// Moves a descriptor there; close-on-exec. If that is not possible it stays where it is.
pub fn out_of_the_way(descriptor: OwnedFd) -> OwnedFd {
    copy_out_of_the_way(&descriptor).unwrap_or(descriptor)
}

/// One more descriptor, there; close-on-exec.
pub fn copy_out_of_the_way(descriptor: impl AsFd) -> Option<OwnedFd> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let first = FIRST.min(limit.saturating_sub(COUNT_MAX));
    rustix::io::fcntl_dupfd_cloexec(descriptor, first as i32).ok()
}
