//! Messages of sockets: gathered from the guest's memory, sent or received at home, and scattered into it.
//!
//! Sockets of the node's own (`socketpair`) are the node's kernel's. Only what descriptors of home objects travel over them has to be
//! known here, because whoever gets one needs it at home as well.

mod layout;
mod receive;
mod send;

use afield_abi::sockets::{self, FILTER_INSTRUCTION_BYTES, FILTER_INSTRUCTIONS_MAX, OptionValue};
use afield_abi::syscalls::{Restart, nr};
use afield_link::wire::HandleOp;

use self::layout::{read_bytes, read_struct};
use super::notify::{Door, Verdict, later};
use crate::fs::handles;
use crate::session::Then;
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
}
