//! `fcntl`, `ioctl`, `dup` and `lseek` where they concern what home has.

use std::sync::Arc;

use afield_abi::syscalls::Restart;
use afield_link::wire::HandleOp;
use tracing::debug;

use super::calls;
use super::descriptors::{Descriptor, look_up};
use super::notify::{Door, Verdict, later};
use crate::fs::handles;
use crate::fs::{HANDLE, SPECIAL};
use crate::session::{self, Shared, Then};
use crate::sys::seccomp::{Answer, Notification};
use crate::sys::{errno, memory};

/// Lists the network's interfaces.
pub(super) const SIOCGIFCONF: u32 = 0x8912;

/// Longest such list.
const INTERFACES_BYTES_MAX: usize = 64 << 10;

impl Door {
    /// An `ioctl` on a home object that the file door cannot have.
    pub(super) fn control(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        handle: u64,
        descriptor: &Descriptor,
        arguments: &[u64; 6],
    ) -> Result<Verdict, i32> {
        let command = arguments[1] & 0xffff_ffff;
        let argument = arguments[2];
        let (op, what, answer) = match command {
            // The file's flags, at home and here.
            libc::FIONBIO | libc::FIOASYNC => {
                let mut on = [0; 4];
                memory::read(tid, argument, &mut on).map_err(|error| errno(&error))?;
                let (flag, then) = match command {
                    libc::FIONBIO => (libc::O_NONBLOCK, Then::Execute),
                    // A file system in user space has no such thing.
                    _ => (libc::O_ASYNC, Then::Answer),
                };
                let flags = descriptor.flags & !(flag as u64);
                let flags = if on == [0; 4] { flags } else { flags | flag as u64 };
                (
                    HandleOp::SetFlags,
                    (arguments[0] as i64, flags, 0),
                    (then, vec![]),
                )
            }
            // The signal is its argument, whatever its number says.
            libc::TIOCSIG => (
                HandleOp::Ioctl,
                (argument as i64, command, 0),
                (Then::Answer, vec![]),
            ),
            _ => (
                HandleOp::Ioctl,
                (argument as i64, command, 4),
                (Then::Answer, vec![(argument, 4)]),
            ),
        };
        self.operate(notification, (tid, pid), op, handle, what, answer)
    }

    /// The kernel splices files by way of its cache, where a stream is always at its end, unless they are opened with `O_DIRECT`.
    pub(super) fn pass_cache_by(&self, tid: i32, pid: u32, number: u32) {
        let Some((handle, descriptor)) = self.home_object(tid, number) else {
            return;
        };
        if descriptor.flags & libc::O_DIRECT as u64 != 0 || self.shared.files.handles.is_seekable(handle) {
            return;
        }
        if let Err(error) = self.shared.installer.set_direct(pid, number) {
            debug!("a descriptor of {pid}: {error}");
        }
    }

    /// The process is about to have one more descriptor of the object.
    pub(super) fn note_duplicate(&self, tid: i32, pid: u32, number: u32) {
        if let Some(handle) = self.home_handle(tid, number)
            && let Some(process) = self.shared.guests.lock().process_mut(pid)
        {
            process.duplicates.add(handle);
        }
    }

    /// `fcntl` about who gets an object's signals: the kernel that sends them is home's.
    pub(super) fn control_owner(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        handle: u64,
    ) -> Result<Verdict, i32> {
        const F_SETOWN_EX: i32 = 15;
        const F_GETOWN_EX: i32 = 16;
        let arguments = notification.arguments;
        let command = arguments[1] as i32;
        let mut data = Vec::new();
        let mut outputs = Vec::new();
        match command {
            F_SETOWN_EX => {
                data = vec![0; 8];
                memory::read(tid, arguments[2], &mut data).map_err(|error| errno(&error))?;
            }
            F_GETOWN_EX => outputs.push((arguments[2], 8)),
            _ => {}
        }
        let size = outputs.first().map_or(0, |(_, bytes)| *bytes);
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Answer, outputs),
            Restart::Never,
            Some(handle),
        );
        let what = (arguments[2] as i64, u64::from(command as u32), size);
        let send = |id| {
            handles::send_operation_with(
                &self.shared,
                id,
                pid,
                (HandleOp::Control, handle),
                what,
                (&data, 0),
            )
        };
        later(self.shared.begin(call, false, send))
    }

    /// `ioctl(SIOCGIFCONF)`: the only one for sockets whose structure has a pointer.
    pub(super) fn interfaces(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        let Some(handle) = self.home_handle(tid, arguments[0] as u32) else {
            return Ok(Verdict::Answer(Answer::Continue));
        };
        // `struct ifconf`: an `int` of bytes, and the address.
        let place = arguments[2];
        let mut structure = [0; 16];
        memory::read(tid, place, &mut structure).map_err(|error| errno(&error))?;
        let length = i32::from_ne_bytes([structure[0], structure[1], structure[2], structure[3]]);
        let address = u64::from_ne_bytes(structure[8..16].try_into().map_err(|_| libc::EINVAL)?);
        let room = if address == 0 {
            0
        } else {
            usize::try_from(length)
                .map_err(|_| libc::EINVAL)?
                .min(INTERFACES_BYTES_MAX)
        };
        let go_on = move |shared: &Arc<Shared>, call: session::Call, reply: session::Reply| {
            let mut result = reply.result;
            if result >= 0 {
                let put = memory::write(tid, address, &reply.data).and_then(|()| {
                    let count = if address == 0 {
                        result as i32
                    } else {
                        reply.data.len() as i32
                    };
                    memory::write(tid, place, &count.to_ne_bytes())
                });
                result = put.map_or_else(|error| -i64::from(errno(&error)), |()| 0);
            }
            calls::settle(shared, call, &session::Reply { result, ..reply });
        };
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Continue(Box::new(go_on)), Vec::new()),
            Restart::Never,
            Some(handle),
        );
        let what = (0, u64::from(SIOCGIFCONF), room);
        let send = |id| handles::send_operation(&self.shared, id, pid, HandleOp::Ioctl, handle, what);
        later(self.shared.begin(call, false, send))
    }

    /// True for files that `epoll` refuses at home, but that every FUSE file system lets it have.
    pub(super) fn is_plain_file(&self, tid: i32, number: u32) -> bool {
        let Some(descriptor) = look_up(tid, number) else {
            return false;
        };
        if descriptor.inode & (HANDLE | SPECIAL) != 0 {
            let handle = self.shared.files.object_of(descriptor.inode);
            return handle.is_some_and(|handle| self.shared.files.handles.is_seekable(handle));
        }
        self.shared.files.places.is_mount(descriptor.mount)
    }

    /// `lseek` on a file whose offset is shared with home.
    pub(super) fn seek(&mut self, notification: &Notification, tid: i32, pid: u32) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        match self.home_object(tid, arguments[0] as u32) {
            Some((handle, descriptor)) if self.shared.files.handles.is_seekable(handle) => {
                // The node's own offset stays as it is: the next read must not be taken for a move of it.
                self.shared.files.handles.set_offset(handle, descriptor.offset);
                let target = (arguments[1] as i64, arguments[2], 0);
                self.operate(
                    notification,
                    (tid, pid),
                    HandleOp::Seek,
                    handle,
                    target,
                    (Then::Answer, vec![]),
                )
            }
            _ => Ok(Verdict::Answer(Answer::Continue)),
        }
    }
}
