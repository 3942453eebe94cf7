//! How a world ends when its session does, in whatever state that is.
//!
//! A FUSE connection has two devices: the kernel ends what it has asked on one when that is closed, and the connection with the last one. Requests
//! come on the session's. Whoever tells the kernel of changes ([`Notices`]) may wait there for what it has asked, where not even `SIGKILL` reaches
//! him. So he has a table of descriptors of his own: the session's device is closed without him, and he goes on.
//!
//! What the kernel had not asked yet, or asks from then on (guests that are being killed close their files), nobody would answer. So
//! the stage process stays as long as the session, and answers then ([`SessionEnd::watch`]). It uses nothing of the world, so it waits for nobody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use afield_abi::fuse::RequestHeader;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};
use zerocopy::FromBytes;

use super::{Step, WorldError};
use crate::fs::{REQUEST_BYTES, error_reply};
use crate::sys::namespaces;
use crate::sys::process::close_all_but;

/// What the kernel is told of changes by.
#[derive(Debug)]
pub struct Notices {
    /// Devices of the world's FUSE connections.
    pub devices: Vec<OwnedFd>,
    /// Says, when it is closed, that nobody tells the kernel anything any more.
    pub telling: OwnedFd,
}

impl Notices {
    /// Their numbers, for [`Notices::keep_only`].
    pub fn numbers(&self) -> Vec<RawFd> {
        let devices = self.devices.iter().map(AsRawFd::as_raw_fd);
        [self.telling.as_raw_fd()].into_iter().chain(devices).collect()
    }

    /// Gives the calling thread descriptors of its own: duplicates of those with these numbers, and standard error.
    pub fn keep_only(numbers: &[RawFd]) -> io::Result<Self> {
        let mut kept = namespaces::keep_only(numbers)?.into_iter();
        let telling = kept.next().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            devices: kept.collect(),
            telling,
        })
    }
}

/// The stage process's knowledge of how far the session's end is.
#[derive(Debug)]
pub struct SessionEnd {
    /// At its end when the session's descriptors are closed.
    life: OwnedFd,
    /// At its end when nobody tells the kernel anything.
    telling: OwnedFd,
}

impl SessionEnd {
    /// With it, the session's ends: of its life, and for [`Notices`].
    pub fn new() -> Result<(Self, OwnedFd, OwnedFd), WorldError> {
        let (life, lives) = pipe_with(PipeFlags::CLOEXEC).step("pipe")?;
        let (telling, tells) = pipe_with(PipeFlags::CLOEXEC).step("pipe")?;
        Ok((Self { life, telling }, lives, tells))
    }

    /// Waits for the session's end, then answers requests for as long as it takes, or until all connections have ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, mut devices: Vec<OwnedFd>) -> Result<(), Errno> {
        let own = [self.life.as_raw_fd(), self.telling.as_raw_fd()];
        let kept = devices.iter().map(AsRawFd::as_raw_fd).chain(own);
        close_all_but(kept.collect());
        wait_for(&mut [PollFd::new(&self.life, PollFlags::IN)])?;
        let mut buffer = vec![0; REQUEST_BYTES];
        for device in &devices {
            ioctl_fionbio(device, true)?;
        }
        while !devices.is_empty() {
            let all = [&self.telling].into_iter().chain(&devices);
            let mut polls: Vec<_> = all.map(|file| PollFd::new(file, PollFlags::IN)).collect();
            wait_for(&mut polls)?;
            let mut ready = polls.iter().map(|poll| !poll.revents().is_empty());
            if ready.next() == Some(true) {
                return Ok(());
            }
            let ready: Vec<bool> = ready.collect();
            let mut ready = ready.into_iter();
            devices.retain(|device| {
                if ready.next() != Some(true) {
                    return true;
                }
                match retry_on_intr(|| read(device, &mut buffer[..])) {
                    Ok(count) => {
                        refuse(device, &buffer[..count]);
                        true
                    }
                    // Taken back before it was read; otherwise the connection has ended.
                    Err(error) => matches!(error, Errno::AGAIN | Errno::NOENT),
                }
            });
        }
        Ok(())
    }
}

fn wait_for(polls: &mut [PollFd<'_>]) -> Result<(), Errno> {
    retry_on_intr(|| poll(polls, None)).map(drop)
}

fn refuse(device: &OwnedFd, request: &[u8]) {
    if let Ok((header, _)) = RequestHeader::read_from_prefix(request) {
        // Some want no answer, and some nobody waits for any more.
        let _ = retry_on_intr(|| write(device.as_fd(), &error_reply(header.unique, libc::ECONNABORTED)));
    }
}
