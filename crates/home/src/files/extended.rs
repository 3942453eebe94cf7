//! Extended attributes. They are reached through `/proc/thread-self/fd`, which leads to the inode itself and so does for
//! symbolic links what the calls with an `l` do.

use afield_abi::fuse::{GetExtendedReply, GetExtendedRequest, SetExtendedRequest};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::decode::{Reply, Request};
use super::{EXTENDED_BYTES_MAX, FileService, Result, proc_path};

impl FileService {
    /// Requests have the long form of the record, to which the session agrees at its start.
    pub(super) fn set_extended(&self, request: &mut Request<'_>) -> Result<()> {
        let record: SetExtendedRequest = request.record()?;
        let name = request.text()?;
        let value = request.data(record.size)?;
        let flags = XattrFlags::from_bits(record.flags).ok_or(Errno::INVAL)?;
        let descriptor = self.descriptor(request.header.node)?;
        rustix::fs::setxattr(&*proc_path(&*descriptor), name, value, flags)
    }

    pub(super) fn get_extended(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: GetExtendedRequest = request.record()?;
        let name = request.text()?;
        let descriptor = self.descriptor(request.header.node)?;
        let path = proc_path(&*descriptor);
        if record.size == 0 {
            return answer_size(reply, rustix::fs::getxattr_query(&*path, name)?);
        }
        answer(reply, record.size, |room| {
            rustix::fs::getxattr(&*path, name, room)
        })
    }

    pub(super) fn list_extended(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: GetExtendedRequest = request.record()?;
        let descriptor = self.descriptor(request.header.node)?;
        let path = proc_path(&*descriptor);
        if record.size == 0 {
            return answer_size(reply, rustix::fs::listxattr_query(&*path)?);
        }
        answer(reply, record.size, |room| rustix::fs::listxattr(&*path, room))
    }

    pub(super) fn remove_extended(&self, request: &mut Request<'_>) -> Result<()> {
        let name = request.text()?;
        let descriptor = self.descriptor(request.header.node)?;
        rustix::fs::removexattr(&*proc_path(&*descriptor), name)
    }
}

/// Replies with the size of what there is, which is what a request without room asks for.
fn answer_size(reply: &mut Reply<'_>, size: usize) -> Result<()> {
    reply.record(&GetExtendedReply {
        size: size as u32,
        padding: 0,
    });
    Ok(())
}

/// Replies with what `read` puts into room of the given size.
fn answer(reply: &mut Reply<'_>, size: u32, read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<()> {
    let room = (size as usize).min(EXTENDED_BYTES_MAX);
    let buffer = reply.buffer();
    let start = buffer.len();
    buffer.resize(start + room, 0);
    let count = read(&mut buffer[start..])?;
    buffer.truncate(start + count);
    Ok(())
}
