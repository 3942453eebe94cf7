//! Operations on home objects: from the file door's requests, and from calls.

use afield_link::frame::Kind;
use afield_link::wire::{HandleHeader, HandleOp};
use tracing::debug;
use zerocopy::IntoBytes;

use super::known::Known;
use crate::door::descriptors::current_call;
use crate::leases::Lease;
use crate::session::Shared;

/// The reads and writes that name their offset.
pub(super) fn is_positional(tid: i32) -> bool {
    match current_call(tid).map(|call| call.number as i64) {
        Some(libc::SYS_pread64 | libc::SYS_pwrite64 | libc::SYS_preadv | libc::SYS_pwritev) => true,
        Some(libc::SYS_preadv2 | libc::SYS_pwritev2) => {
            current_call(tid).is_some_and(|call| call.arguments[3] != u64::MAX)
        }
        Some(_) => false,
        // A page fault.
        None => true,
    }
}

pub(super) struct Operation<'a> {
    pub(super) op: HandleOp,
    pub(super) handle: u64,
    pub(super) offset: i64,
    pub(super) argument: u64,
    pub(super) size: usize,
    pub(super) flags: u32,
    pub(super) data: &'a [u8],
    /// Where the contents are instead.
    pub(super) lease: Option<Lease>,
}

impl Operation<'_> {
    pub(super) fn new(op: HandleOp, handle: u64) -> Self {
        Self {
            op,
            handle,
            offset: -1,
            argument: 0,
            size: 0,
            flags: 0,
            data: &[],
            lease: None,
        }
    }

    pub(super) fn send(self, shared: &Shared, pid: u32, id: u64) -> Result<(), i32> {
        if self.op == HandleOp::Close {
            shared.files.handles.streams.let_go(shared, (self.handle, pid));
        }
        let (place, length) = self.lease.as_ref().map_or((0, 0), Lease::place);
        let header = HandleHeader {
            pid: pid.into(),
            op: (self.op as u32).into(),
            handle: self.handle.into(),
            offset: self.offset.into(),
            argument: self.argument.into(),
            size: (self.size as u32).into(),
            flags: self.flags.into(),
            area_place: (place as u32).into(),
            area_length: (length as u32).into(),
        };
        if let (Some(lease), Some(leases)) = (self.lease, &shared.leases) {
            leases.keep(id, lease);
        }
        let send = || {
            let parts = [header.as_bytes(), self.data];
            shared
                .writer
                .write_frame(Kind::Handle, id, &parts)
                .map_err(|error| {
                    debug!("{:?}: {error}", self.op);
                    libc::EIO
                })
        };
        match self.op.is_answered() && id != 0 {
            true => shared.files.handles.streams.ask(shared, self.handle, id, send),
            false => send(),
        }
    }
}

/// Sends an operation of home's deputy `pid` that is not a file request, under a call's frame id.
pub fn send_operation(
    shared: &Shared,
    id: u64,
    pid: u32,
    op: HandleOp,
    handle: u64,
    what: (i64, u64, usize),
) -> Result<(), i32> {
    send_operation_with(shared, id, pid, (op, handle), what, (&[], 0))
}

/// The same with data and the flags of the guest's open file.
pub fn send_operation_with(
    shared: &Shared,
    id: u64,
    pid: u32,
    (op, handle): (HandleOp, u64),
    (offset, argument, size): (i64, u64, usize),
    (data, flags): (&[u8], u32),
) -> Result<(), i32> {
    send_operation_lent(
        shared,
        id,
        pid,
        (op, handle),
        (offset, argument, size),
        (data, flags, None),
    )
}

/// The same with contents in shared memory.
pub fn send_operation_lent(
    shared: &Shared,
    id: u64,
    pid: u32,
    (op, handle): (HandleOp, u64),
    (offset, argument, size): (i64, u64, usize),
    (data, flags, lease): (&[u8], u32, Option<Lease>),
) -> Result<(), i32> {
    Operation {
        offset,
        argument,
        size,
        flags,
        data,
        lease,
        ..Operation::new(op, handle)
    }
    .send(shared, pid, id)
}

/// If the guest has moved the offset on the node alone, moves it at home, ahead of the operation that relies on it.
pub(super) fn follow_seek(
    shared: &Shared,
    pid: u32,
    handle: u64,
    known: Known,
    offset: i64,
) -> Result<(), i32> {
    if known.stream || known.offset == offset {
        return Ok(());
    }
    shared.files.handles.set_offset(handle, offset);
    Operation {
        offset,
        argument: libc::SEEK_SET as u64,
        ..Operation::new(HandleOp::Seek, handle)
    }
    .send(shared, pid, 0)
}
