//! Requests of the session's own, and home's numbers of open files in place of the session's.

use afield_abi::fuse::{
    GET_HANDLE, GetAttributesRequest, Opcode, OpenRequest, RequestHeader, SetAttributesRequest, set_flag,
};
use zerocopy::IntoBytes;

use super::opens::{LOCAL, Way};
use super::state::State;
use crate::fs::Request;

pub(super) fn own_request(
    of: RequestHeader,
    opcode: Opcode,
    unique: u64,
    node: u64,
    record: &[u8],
) -> Vec<u8> {
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + record.len()) as u32,
        opcode: opcode as u32,
        unique,
        node,
        ..of
    };
    [header.as_bytes(), record].concat()
}

pub(super) fn open_request(of: &RequestHeader, unique: u64, way: Way, open_flags: u32) -> Vec<u8> {
    let record = OpenRequest {
        flags: way.flags,
        open_flags,
    };
    let opcode = match way.directory {
        true => Opcode::OpenDirectory,
        false => Opcode::Open,
    };
    own_request(*of, opcode, unique, way.node, record.as_bytes())
}

/// Where in a request's body the number of the open file is that it is about.
pub(super) fn handle_at(request: &Request<'_>) -> Option<usize> {
    match request.opcode {
        Opcode::Read
        | Opcode::ReadDirectory
        | Opcode::ReadDirectoryPlus
        | Opcode::Sync
        | Opcode::SyncDirectory
        | Opcode::Flush
        | Opcode::Seek
        | Opcode::Poll
        | Opcode::Allocate
        | Opcode::Write
        | Opcode::Ioctl
        | Opcode::CopyRange
        | Opcode::CopyRange64 => Some(0),
        Opcode::GetAttributes | Opcode::Statx => {
            let record: GetAttributesRequest = request.record().ok()?;
            (record.flags & GET_HANDLE != 0).then_some(8)
        }
        Opcode::SetAttributes => {
            let record: SetAttributesRequest = request.record().ok()?;
            (record.valid & set_flag::HANDLE != 0).then_some(8)
        }
        _ => None,
    }
}

pub(super) fn put_handle(request: &mut Request<'_>, at: usize, handle: u64) -> Result<(), i32> {
    let place = request.bytes.get_mut(size_of::<RequestHeader>() + at..);
    let place = place.and_then(|place| place.get_mut(..8)).ok_or(libc::EINVAL)?;
    place.copy_from_slice(&handle.to_ne_bytes());
    Ok(())
}

/// The session's own number of the open file that a request needs at home.
pub(super) fn number_in(request: &Request<'_>) -> Option<u64> {
    let at = match request.opcode {
        Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait => 0,
        _ => handle_at(request)?,
    };
    let number = u64::from_ne_bytes(*request.body().get(at..)?.first_chunk()?);
    (number & LOCAL != 0).then_some(number)
}

/// Makes home's number of the session's own.
pub(super) fn translate(state: &State, request: &mut Request<'_>) -> Result<(), i32> {
    let (Some(at), Some(number)) = (handle_at(request), number_in(request)) else {
        return Ok(());
    };
    put_handle(request, at, state.opens.home(number).ok_or(libc::EBADF)?)
}
