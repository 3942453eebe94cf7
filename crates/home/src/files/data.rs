//! What is in files: reading, writing, space, and control.

use std::os::fd::AsFd;
use std::time::Instant;

use afield_abi::fuse::{
    AllocateRequest, CopyRange64Reply, CopyRangeRequest, FileControl, IoctlReply, IoctlRequest, PollReply,
    PollRequest, READ_SHARED, ReadRequest, SYNC_DATA_ONLY, SeekReply, SeekRequest, SharedReadReply,
    SyncRequest, WRITE_AMPLE, WriteReply, WriteRequest, write_flag,
};
use afield_link::sys::{Data, Room};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FallocateFlags, OFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::decode::{Reply, Request};
use super::nodes::stat_descriptor;
use super::open::OpenFile;
use super::{COPY_BYTES_MAX, DATA_BYTES_MAX, FileService, Outcome, Result, behind, sys};

/// `RWF_NOAPPEND`: write at the offset although the file was opened to append.
const NO_APPEND: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x20);

impl FileService {
    pub(super) fn read(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: ReadRequest = request.record()?;
        let file = self.open_file(record.handle, request.header.node)?;
        let size = (record.size as usize).min(DATA_BYTES_MAX);
        check_alignment(&file, record.flags, record.offset | u64::from(record.size))?;
        if record.read_flags & READ_SHARED == 0 {
            read_all(size, record.offset, |left, offset| {
                sys::read_append(file.as_fd(), reply.buffer(), left, offset)
            })?;
            return Ok(());
        }
        let mut room = self.room(record.place, size)?;
        let done = read_all(size, record.offset, |_, offset| {
            let count = sys::read_to(file.as_fd(), &room, offset)?;
            room = std::mem::replace(&mut room, Room::from(&mut [][..])).after(count);
            Ok(count)
        })?;
        reply.record(&SharedReadReply {
            size: done as u32,
            padding: 0,
        });
        Ok(())
    }

    /// A place in the memory that the node shares.
    fn room(&self, place: u32, length: usize) -> Result<Room<'_>> {
        let room = self
            .area
            .as_ref()
            .and_then(|area| area.room(place as usize, length));
        room.ok_or(Errno::INVAL)
    }

    /// What is to be written: what follows the request, or is in memory that the node shares.
    fn written<'a, 'r: 'a>(&'a self, request: &mut Request<'r>, record: &WriteRequest) -> Result<Data<'a>> {
        if record.write_flags & write_flag::SHARED == 0 {
            return request.data(record.size).map(Data::from);
        }
        request.data(0)?;
        let (place, size) = (record.place as usize, record.size as usize);
        let area = self.area.as_ref().filter(|_| size <= DATA_BYTES_MAX);
        area.and_then(|area| area.data(place, size)).ok_or(Errno::INVAL)
    }

    pub(super) fn write(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<Outcome> {
        let record: WriteRequest = request.record()?;
        let data = self.written(request, &record)?;
        let file = self.open_file(record.handle, request.header.node)?;
        // A page of a mapped file changes what there is of the file, and no more, whatever has become of its size.
        let data = match record.write_flags & write_flag::CACHE != 0 {
            true => within(&file, data, record.offset)?,
            false => {
                check_alignment(&file, record.flags, record.offset | u64::from(record.size))?;
                data
            }
        };
        let is_behind = record.write_flags & write_flag::BEHIND != 0;
        let asks = record.write_flags & write_flag::ASKS != 0;
        let began = (asks || is_behind).then(|| (Instant::now(), sys::waits()));
        let mut count = match data.length() {
            0 => 0,
            _ => write_at(&file, data, record.offset, record.flags)?,
        };
        // Nobody is there to go on with what is left.
        while is_behind && count < data.length() {
            count += write_at(
                &file,
                data.after(count),
                record.offset + count as u64,
                record.flags,
            )?;
        }
        // Where others had the processor, nothing was slow.
        let is_slow =
            began.is_some_and(|(began, waits)| began.elapsed() >= behind::SLOW && sys::waits() != waits);
        if is_behind && !asks && !is_slow {
            return Ok(Outcome::NoReply);
        }
        let is_ample = asks && !is_slow && behind::is_ample(&file);
        reply.record(&WriteReply {
            // What lay beyond the end is done with.
            size: if count == data.length() {
                record.size
            } else {
                count as u32
            },
            padding: if is_ample { WRITE_AMPLE } else { 0 },
        });
        Ok(Outcome::Reply)
    }

    pub(super) fn allocate(&self, request: &mut Request<'_>) -> Result<()> {
        let record: AllocateRequest = request.record()?;
        let file = self.open_file(record.handle, request.header.node)?;
        let mode = FallocateFlags::from_bits_retain(record.mode);
        rustix::fs::fallocate(file.as_fd(), mode, record.offset, record.length)
    }

    pub(super) fn seek(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: SeekRequest = request.record()?;
        let file = self.open_file(record.handle, request.header.node)?;
        // The node's kernel has the file's position; the open file's own is not used by anything.
        let from = match record.whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(record.offset),
            libc::SEEK_HOLE => SeekFrom::Hole(record.offset),
            libc::SEEK_END => SeekFrom::End(record.offset as i64),
            _ => return Err(Errno::INVAL),
        };
        let offset = rustix::fs::seek(file.as_fd(), from)?;
        reply.record(&SeekReply { offset });
        Ok(())
    }

    /// Copies within home, so that the data never crosses the link. `wide` is the form with 64-bit counts.
    pub(super) fn copy_range(
        &self,
        request: &mut Request<'_>,
        reply: &mut Reply<'_>,
        wide: bool,
    ) -> Result<()> {
        let record: CopyRangeRequest = request.record()?;
        if record.flags != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.open_file(record.handle_in, request.header.node)?;
        let to = self.open_file(record.handle_out, record.node_out)?;
        let length = record.length.min(COPY_BYTES_MAX) as usize;
        let (mut offset_in, mut offset_out) = (record.offset_in, record.offset_out);
        let count = rustix::fs::copy_file_range(
            from.as_fd(),
            Some(&mut offset_in),
            to.as_fd(),
            Some(&mut offset_out),
            length,
        )?;
        if wide {
            reply.record(&CopyRange64Reply { bytes: count as u64 });
        } else {
            reply.record(&WriteReply {
                size: count as u32,
                padding: 0,
            });
        }
        Ok(())
    }

    pub(super) fn sync(&self, request: &mut Request<'_>) -> Result<()> {
        let record: SyncRequest = request.record()?;
        let open = self.open_any(record.handle, request.header.node)?;
        if record.flags & SYNC_DATA_ONLY != 0 {
            rustix::fs::fdatasync(open.as_fd())
        } else {
            rustix::fs::fsync(open.as_fd())
        }
    }

    pub(super) fn ioctl(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: IoctlRequest = request.record()?;
        let open = self.open_any(record.handle, request.header.node)?;
        let FileControl { command, bytes, sets } = FileControl::asked(&record).ok_or(Errno::NOTTY)?;
        let input = request.data(record.in_size)?;
        let mut memory = [0; 32];
        if sets {
            memory[..bytes].copy_from_slice(input.get(..bytes).ok_or(Errno::INVAL)?);
        }
        let result = sys::ioctl(open.as_fd(), command, &mut memory[..bytes])?;
        if sets {
            self.changed_silently(request.header.node);
        }
        reply.record(&IoctlReply {
            result,
            ..IoctlReply::default()
        });
        if !sets {
            reply.bytes(&memory[..bytes.min(record.out_size as usize)]);
        }
        Ok(())
    }

    pub(super) fn poll(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: PollRequest = request.record()?;
        let open = self.open_any(record.handle, request.header.node)?;
        let events = PollFlags::from_bits_truncate(record.events as u16);
        let mut polled = [PollFd::new(&open, events)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polled, Some(&at_once))?;
        reply.record(&PollReply {
            events: polled[0].revents().bits().into(),
            padding: 0,
        });
        Ok(())
    }
}

/// Home's kernel would refuse such an offset or length past its cache, which the service itself does not bypass. `both` has the bits of both.
fn check_alignment(file: &OpenFile, flags: u32, both: u64) -> Result<()> {
    if !OFlags::from_bits_retain(flags).contains(OFlags::DIRECT) {
        return Ok(());
    }
    let stat = rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let bytes = u64::from(stat.stx_dio_offset_align);
    match stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && bytes != 0 && !both.is_multiple_of(bytes) {
        true => Err(Errno::INVAL),
        false => Ok(()),
    }
}

/// What of the data for this place lies before the end of a file.
fn within<'a>(file: &OpenFile, data: Data<'a>, offset: u64) -> Result<Data<'a>> {
    let end = stat_descriptor(file)?.stx_size;
    let length = end.saturating_sub(offset).min(data.length() as u64);
    Ok(data.cut(length as usize))
}

/// Reads until there is no more: the node's kernel takes a short read for the end of the file, so it must be. `read` is given how much is
/// left, and from where.
fn read_all(size: usize, offset: u64, mut read: impl FnMut(usize, u64) -> Result<usize>) -> Result<usize> {
    let mut done = 0;
    while done < size {
        let offset = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
        match read(size - done, offset) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes at an offset or at the end, and through to the disk or not, as the node's open file has it now, which `fcntl` may have
/// changed since the file was opened, and the call itself may demand.
fn write_at(file: &OpenFile, data: Data<'_>, offset: u64, flags: u32) -> Result<usize> {
    let asked = OFlags::from_bits_retain(flags);
    let mut how = match (asked.contains(OFlags::APPEND), file.appends) {
        (true, true) | (false, false) => ReadWriteFlags::empty(),
        (true, false) => ReadWriteFlags::APPEND,
        (false, true) => NO_APPEND,
    };
    if asked.contains(OFlags::SYNC) {
        how |= ReadWriteFlags::SYNC;
    } else if asked.contains(OFlags::DSYNC) {
        how |= ReadWriteFlags::DSYNC;
    }
    rustix::io::retry_on_intr(|| sys::write(file.as_fd(), data, offset, how))
}
