//! Messages of sockets: gathered from the guest's memory, sent or received at home, and scattered into it.
//!
//! Sockets of the node's own (`socketpair`) are the node's kernel's. Only what descriptors of home objects travel over them has to be
//! known here, because whoever gets one needs it at home as well.

mod layout;
mod receive;
mod send;
mod sharing;

use std::sync::Arc;

use afield_abi::sockets::{self, FILTER_INSTRUCTION_BYTES, FILTER_INSTRUCTIONS_MAX, OptionValue};
use afield_abi::syscalls::{Restart, nr};
use afield_link::wire::HandleOp;

use self::layout::{read_bytes, read_struct, write_bytes};
use super::calls::settle;
use super::descriptors::has_room;
use super::notify::{Door, Verdict, later};
use crate::fs::handles;
use crate::installer::Gift;
use crate::session::{Call, Reply, Shared, Then};
use crate::sys::errno;
use crate::sys::seccomp::{Answer, Notification};

/// Bytes of a message that are sent, or received, at a time. More is sent piece by piece, as it would be on a stream; a datagram of that
/// size there is not.
const CHUNK_BYTES: usize = 1 << 20;

impl Door {
    /// Options whose value is more than bytes; `None` for all others.
    pub(in crate::door) fn set_option(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Option<Verdict>, i32> {
        let arguments = notification.arguments;
        let number = notification.number as u32;
        let (level, name) = (arguments[1] as i32, arguments[2] as i32);
        let value = sockets::option_value(level, name, number == nr::SETSOCKOPT);
        if value == OptionValue::Bytes {
            return Ok(None);
        }
        let Some(handle) = self.home_handle(tid, arguments[0] as u32) else {
            return Ok(Some(Verdict::Answer(Answer::Continue)));
        };
        if value == OptionValue::Refused {
            self.report(pid, number, libc::ENOPROTOOPT);
            return Err(libc::ENOPROTOOPT);
        }
        if value == OptionValue::Process {
            return self.peer_process(notification, (tid, pid), handle).map(Some);
        }
        /// `struct sock_fprog`.
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes)]
        #[repr(C)]
        struct Program {
            length: u16,
            padding: [u16; 3],
            address: u64,
        }
        if arguments[4] as i32 != size_of::<Program>() as i32 {
            return Err(libc::EINVAL);
        }
        let program: Program = read_struct(tid, arguments[3])?;
        let count = usize::from(program.length);
        if count == 0 || count > FILTER_INSTRUCTIONS_MAX {
            return Err(libc::EINVAL);
        }
        let instructions = read_bytes(tid, program.address, count * FILTER_INSTRUCTION_BYTES)?;
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Answer, Vec::new()),
            Restart::Never,
            Some(handle),
        );
        let option = u64::from(level as u32) << 32 | u64::from(name as u32);
        let send = |id| {
            handles::send_operation_with(
                &self.shared,
                id,
                pid,
                (HandleOp::Filter, handle),
                (0, option, 0),
                (&instructions, 0),
            )
        };
        later(self.shared.begin(call, false, send)).map(Some)
    }

    /// `getsockopt(SO_PEERPIDFD)`: the value is a new descriptor.
    fn peer_process(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        handle: u64,
    ) -> Result<Verdict, i32> {
        let [place, length_place] = [notification.arguments[3], notification.arguments[4]];
        let length: i32 = read_struct(tid, length_place)?;
        let length = usize::try_from(length)
            .map_err(|_| libc::EINVAL)?
            .min(size_of::<i32>());
        // Before there is a descriptor that could not be named.
        let there = read_bytes(tid, place, length)?;
        write_bytes(tid, place, &there)?;
        if !has_room(tid) {
            return Err(libc::EMFILE);
        }
        let process = self.shared.installer.new_handles(1);
        self.shared.files.handles.add(process, true, 0);
        let go_on = move |shared: &Arc<Shared>, call: Call, reply: Reply| {
            let result = if reply.result < 0 {
                shared.files.handles.forget(process);
                reply.result
            } else {
                match give_process(shared, &call, process, (place, length), length_place) {
                    Ok(()) => 0,
                    Err(errno) => -i64::from(errno),
                }
            };
            settle(shared, call, &Reply { result, ..reply });
        };
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Continue(Box::new(go_on)), Vec::new()),
            Restart::Never,
            None,
        );
        let send = |id| {
            let what = (0, process, 0);
            handles::send_operation(&self.shared, id, pid, HandleOp::PeerProcess, handle, what)
        };
        later(self.shared.begin(call, false, send))
    }
}

fn give_process(
    shared: &Shared,
    call: &Call,
    handle: u64,
    (place, length): (u64, usize),
    length_place: u64,
) -> Result<(), i32> {
    let gift = Gift {
        handle,
        flags: (libc::O_RDWR | libc::O_CLOEXEC) as u32,
        offset: None,
        answers: false,
    };
    let installed = shared.installer.install(&call.listener, call.notification, gift);
    let number = installed.map_err(|error| {
        shared.close_object(call.pid, handle);
        errno(&error)
    })?;
    write_bytes(call.tid, place, &number.to_ne_bytes()[..length])?;
    write_bytes(call.tid, length_place, &(length as i32).to_ne_bytes())
}
