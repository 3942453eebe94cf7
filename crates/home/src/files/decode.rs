//! Reading requests, which may be anything at all, and building replies.

use std::ffi::CStr;

use afield_abi::fuse::{NAME_BYTES_MAX, ReplyHeader, RequestHeader};
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Result;

/// A request, taken apart from front to back.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its checked header.
    pub header: RequestHeader,
    /// What has not been taken yet, without extensions.
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Splits header and body. `Err(None)` if not even the header is there, so that no reply can be addressed.
    pub fn new(bytes: &'a [u8]) -> std::result::Result<Self, Option<RequestHeader>> {
        let Ok((header, body)) = RequestHeader::read_from_prefix(bytes) else {
            return Err(None);
        };
        if header.length as usize != bytes.len() {
            return Err(Some(header));
        }
        let extension_bytes = usize::from(header.extension_length) * 8;
        let Some(body_bytes) = body.len().checked_sub(extension_bytes) else {
            return Err(Some(header));
        };
        Ok(Self {
            header,
            body: &body[..body_bytes],
        })
    }

    /// The next record.
    pub fn record<T: FromBytes>(&mut self) -> Result<T> {
        let (record, rest) = T::read_from_prefix(self.body).map_err(|_| Errno::INVAL)?;
        self.body = rest;
        Ok(record)
    }

    /// The next NUL-ended string, which may hold anything.
    pub fn text(&mut self) -> Result<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.body).map_err(|_| Errno::INVAL)?;
        self.body = &self.body[text.to_bytes_with_nul().len()..];
        Ok(text)
    }

    /// The next string as a name in a directory: one component, possibly "." or "..".
    pub fn component(&mut self) -> Result<&'a CStr> {
        let name = self.text()?;
        let bytes = name.to_bytes();
        if bytes.is_empty() || bytes.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        // Shorter names may also be too long for home's file system, which then says so itself.
        if bytes.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(name)
    }

    /// The next string as the name of an entry to make, move or remove: not "." or "..".
    pub fn name(&mut self) -> Result<&'a CStr> {
        let name = self.component()?;
        if matches!(name.to_bytes(), b"." | b"..") {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }

    /// Exactly `size` bytes, which must be all that is left.
    pub fn data(&mut self, size: u32) -> Result<&'a [u8]> {
        if self.body.len() != size as usize {
            return Err(Errno::INVAL);
        }
        Ok(std::mem::take(&mut self.body))
    }
}

/// A reply under construction at the end of a buffer.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The caller's buffer; what it held before stays.
    buffer: &'a mut Vec<u8>,
    /// Where this reply starts.
    start: usize,
    /// Of the request.
    unique: u64,
}

impl<'a> Reply<'a> {
    /// Reserves the header's place.
    pub fn new(buffer: &'a mut Vec<u8>, unique: u64) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; size_of::<ReplyHeader>()]);
        Self {
            buffer,
            start,
            unique,
        }
    }

    /// Appends a record.
    pub fn record<T: IntoBytes + Immutable>(&mut self, record: &T) {
        self.buffer.extend_from_slice(record.as_bytes());
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of the body so far.
    pub fn body_bytes(&self) -> usize {
        self.buffer.len() - self.start - size_of::<ReplyHeader>()
    }

    /// The body's buffer, to append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.buffer
    }

    /// Completes the header; an error drops the body.
    pub fn finish(self, result: Result<()>) {
        let mut error = 0;
        if let Err(errno) = result {
            self.buffer.truncate(self.start + size_of::<ReplyHeader>());
            error = -errno.raw_os_error();
        }
        let header = ReplyHeader {
            length: (self.buffer.len() - self.start) as u32,
            error,
            unique: self.unique,
        };
        self.buffer[self.start..][..size_of::<ReplyHeader>()].copy_from_slice(header.as_bytes());
    }

    /// Removes what was begun.
    pub fn cancel(self) {
        self.buffer.truncate(self.start);
    }
}
