//! The world's FUSE connections: one for each of home's file systems that guests tell apart by their numbers (`st_dev`), since a
//! FUSE mount has one number.
//!
//! They are served as one. The kernel numbers the requests of each from the same beginning; so a number that leaves this module has the
//! connection's in bits that the kernel does not reach, and so does what the kernel calls a poll's waiters by. Nodes are home's, and
//! go by the same numbers in all of them. Connection 0 has the root.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use afield_abi::fuse::{InterruptRequest, NotifyPoll, Opcode, PollRequest, ReplyHeader, RequestHeader};
use afield_link::sys::Data;
use afield_link::wire::FILE_SYSTEMS_MAX;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use zerocopy::{FromBytes, IntoBytes};

use super::intake::Intake;
use crate::leases::Lease;
use crate::sys::memory;

/// Where the connection is in a number.
const SHIFT: u32 = 48;
const OF_KERNEL: u64 = (1 << SHIFT) - 1;

/// The connection that a request came on.
pub fn connection_of(unique: u64) -> usize {
    (unique >> SHIFT) as usize % FILE_SYSTEMS_MAX
}

/// A set of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionSet(u64);

const _: () = assert!(FILE_SYSTEMS_MAX <= u64::BITS as usize);

impl ConnectionSet {
    /// Each of them.
    pub const ALL: Self = Self(u64::MAX);
    /// The root's.
    pub const ROOT: Self = Self(1);

    /// One more.
    pub fn add(&mut self, connection: usize) {
        self.0 |= 1 << (connection % FILE_SYSTEMS_MAX);
    }

    /// True if it is one of them.
    pub fn has(self, connection: usize) -> bool {
        connection < FILE_SYSTEMS_MAX && self.0 & 1 << connection != 0
    }
}

impl FromIterator<Self> for ConnectionSet {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        Self(sets.into_iter().fold(0, |all, set| all | set.0))
    }
}

impl From<ConnectionSet> for u64 {
    fn from(set: ConnectionSet) -> Self {
        set.0
    }
}

impl From<u64> for ConnectionSet {
    fn from(bits: u64) -> Self {
        Self(bits)
    }
}

/// The session's devices, which never wait.
#[derive(Debug)]
pub struct Connections {
    devices: Vec<OwnedFd>,
    /// Says which of several the kernel has asked something on.
    ready: Option<OwnedFd>,
}

impl Connections {
    /// Of devices in the order of their connections, at least one and at most [`FILE_SYSTEMS_MAX`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(devices: Vec<OwnedFd>) -> io::Result<Self> {
        if devices.is_empty() || devices.len() > FILE_SYSTEMS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for device in &devices {
            rustix::io::ioctl_fionbio(device, true)?;
        }
        let mut ready = None;
        if devices.len() > 1 {
            let all = epoll::create(CreateFlags::CLOEXEC)?;
            for (connection, device) in devices.iter().enumerate() {
                epoll::add(
                    &all,
                    device,
                    EventData::new_u64(connection as u64),
                    EventFlags::IN,
                )?;
            }
            ready = Some(all);
        }
        Ok(Self { devices, ready })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.devices.len()
    }

    /// Those of a set, by what notices are written to.
    pub fn some(&self, of: ConnectionSet) -> impl Iterator<Item = BorrowedFd<'_>> {
        some(&self.devices, of)
    }

    /// Waits until the kernel has asked something.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> Result<(), Errno> {
        let any = self.ready.as_ref().unwrap_or(&self.devices[0]);
        retry_on_intr(|| poll(&mut [PollFd::new(any, PollFlags::IN)], None)).map(drop)
    }

    /// Gives `serve` what the kernel has asked so far, request by request, with the data of a write that is in shared memory, but not
    /// more than `most`. True if there was no more.
    ///
    /// # Errors
    /// The root's, when it is not mounted any more.
    pub fn drain(
        &self,
        intake: &mut Intake,
        mut most: usize,
        mut serve: impl FnMut(&mut [u8], Option<Lease>),
    ) -> Result<bool, Errno> {
        let Some(ready) = &self.ready else {
            return self.drain_one(0, intake, &mut most, &mut serve);
        };
        let none = epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [none; FILE_SYSTEMS_MAX];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let count = retry_on_intr(|| epoll::wait(ready, &mut events[..], Some(&at_once)))?;
        let mut all = true;
        for event in events.iter().take(count) {
            let connection = event.data.u64() as usize;
            match self.drain_one(connection, intake, &mut most, &mut serve) {
                Ok(drained) => all &= drained,
                Err(error) if connection == 0 => return Err(error),
                // Home has unmounted it, and the kernel has been told.
                Err(_) => epoll::delete(ready, &self.devices[connection])?,
            }
        }
        Ok(all)
    }

    fn drain_one(
        &self,
        connection: usize,
        intake: &mut Intake,
        most: &mut usize,
        serve: &mut impl FnMut(&mut [u8], Option<Lease>),
    ) -> Result<bool, Errno> {
        let device = self.devices.get(connection).ok_or(Errno::NODEV)?;
        while *most > 0 {
            *most -= 1;
            match intake.read(device) {
                Ok(([], _)) => return Err(Errno::NODEV),
                Ok((request, data)) => {
                    number(request, connection);
                    serve(request, data);
                }
                Err(Errno::AGAIN) => return Ok(true),
                // Interrupted, or the request was taken back before it was read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Gives the kernel a whole reply.
    ///
    /// # Errors
    /// The device's.
    pub fn reply(&self, reply: &[u8]) -> Result<(), Errno> {
        let Ok((mut header, rest)) = ReplyHeader::read_from_prefix(reply) else {
            return Err(Errno::INVAL);
        };
        let device = self.device(header.unique)?;
        header.unique &= OF_KERNEL;
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(rest)];
        retry_on_intr(|| rustix::io::writev(device, &parts)).map(drop)
    }

    /// The same with data that is in shared memory.
    pub fn reply_with(&self, mut header: ReplyHeader, data: Data<'_>) -> io::Result<()> {
        let device = self.device(header.unique)?;
        header.unique &= OF_KERNEL;
        memory::write_both(device.as_fd(), header.as_bytes(), data)
    }

    /// Tells the kernel of a poll's waiters that they are to look again; those that have gone do not matter.
    pub fn wake(&self, kernel_handle: u64) {
        let header = ReplyHeader {
            length: (size_of::<ReplyHeader>() + size_of::<NotifyPoll>()) as u32,
            error: afield_abi::fuse::Notification::Poll as i32,
            unique: 0,
        };
        let record = NotifyPoll {
            kernel_handle: kernel_handle & OF_KERNEL,
        };
        if let Ok(device) = self.device(kernel_handle) {
            let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(record.as_bytes())];
            let _ = retry_on_intr(|| rustix::io::writev(device, &parts));
        }
    }

    fn device(&self, unique: u64) -> Result<&OwnedFd, Errno> {
        self.devices.get(connection_of(unique)).ok_or(Errno::NODEV)
    }
}

/// Those of these devices, in the order of their connections, that belong to a set.
pub fn some(devices: &[OwnedFd], of: ConnectionSet) -> impl Iterator<Item = BorrowedFd<'_>> {
    devices
        .iter()
        .enumerate()
        .filter(move |(connection, _)| of.has(*connection))
        .map(|(_, device)| device.as_fd())
}

/// Puts the connection into the numbers of a request that are the kernel's own.
fn number(request: &mut [u8], connection: usize) {
    let tag = (connection as u64) << SHIFT;
    let Ok((header, body)) = RequestHeader::mut_from_prefix(request) else {
        return;
    };
    header.unique = header.unique & OF_KERNEL | tag;
    match Opcode::from_wire(header.opcode) {
        Some(Opcode::Interrupt) => {
            if let Ok((interrupt, _)) = InterruptRequest::mut_from_prefix(body) {
                interrupt.unique = interrupt.unique & OF_KERNEL | tag;
            }
        }
        Some(Opcode::Poll) => {
            if let Ok((poll, _)) = PollRequest::mut_from_prefix(body) {
                poll.kernel_handle = poll.kernel_handle & OF_KERNEL | tag;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_connections_do_not_meet() {
        let interrupt = InterruptRequest { unique: 6 };
        let request = |connection| {
            let header = RequestHeader {
                opcode: Opcode::Interrupt as u32,
                unique: 7,
                ..RequestHeader::default()
            };
            let mut bytes = [header.as_bytes(), interrupt.as_bytes()].concat();
            number(&mut bytes, connection);
            let (header, rest) = RequestHeader::read_from_prefix(&bytes).unwrap();
            let (interrupt, _) = InterruptRequest::read_from_prefix(rest).unwrap();
            (header.unique, interrupt.unique)
        };
        assert_eq!(request(0), (7, 6));
        let last = FILE_SYSTEMS_MAX - 1;
        let (unique, interrupted) = request(last);
        assert_ne!((unique, interrupted), (7, 6));
        assert_eq!((connection_of(unique), connection_of(interrupted)), (last, last));
        assert_eq!((unique & OF_KERNEL, interrupted & OF_KERNEL), (7, 6));
        // Cut off, it is left as it is.
        number(&mut [1, 2, 3], 1);
    }

    #[test]
    fn sets_have_what_was_added() {
        let mut set = ConnectionSet::default();
        set.add(0);
        assert_eq!(set, ConnectionSet::ROOT);
        set.add(63);
        assert!(set.has(63) && set.has(0) && !set.has(1) && !set.has(64));
        assert!(ConnectionSet::ALL.has(40));
    }
}
