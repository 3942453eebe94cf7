//! Where a message lies in a guest's memory.

use afield_abi::sockets::{CountedMessage, Message, Piece};
use afield_link::message::MESSAGES_MAX;
use zerocopy::{FromZeros, IntoBytes};

use crate::leases::Lease;
use crate::sys::{errno, memory};

/// Where a message is in the guest's memory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) name: Option<(u64, usize)>,
    pub(super) control: (u64, usize),
    pub(super) pieces: Vec<Piece>,
    /// Bytes of all pieces.
    pub(super) total: usize,
    /// Address of its `struct msghdr`, if it has one.
    pub(super) header: Option<u64>,
}

pub(super) fn read_struct<T: FromZeros + zerocopy::FromBytes + IntoBytes>(
    tid: i32,
    address: u64,
) -> Result<T, i32> {
    let mut value = T::new_zeroed();
    memory::read(tid, address, value.as_mut_bytes()).map_err(|error| errno(&error))?;
    Ok(value)
}

pub(super) fn read_bytes(tid: i32, address: u64, length: usize) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0; length];
    memory::read(tid, address, &mut bytes).map_err(|error| errno(&error))?;
    Ok(bytes)
}

pub(super) fn write_bytes(tid: i32, address: u64, bytes: &[u8]) -> Result<(), i32> {
    memory::write(tid, address, bytes).map_err(|error| errno(&error))
}

impl Layout {
    /// Of `sendto` and `recvfrom`.
    pub(super) fn flat(base: u64, length: u64, name: Option<(u64, usize)>) -> Self {
        // As the kernel cuts every transfer.
        let length = length.min(0x7fff_f000);
        Self {
            name,
            control: (0, 0),
            pieces: vec![Piece { base, length }],
            total: length as usize,
            header: None,
        }
    }

    /// Of a `struct msghdr`.
    pub(super) fn read(tid: i32, address: u64) -> Result<Self, i32> {
        let header: Message = read_struct(tid, address)?;
        if header.piece_count > MESSAGES_MAX as u64 {
            return Err(libc::EMSGSIZE);
        }
        if header.name != 0 && header.name_length < 0 {
            return Err(libc::EINVAL);
        }
        let mut pieces = Vec::with_capacity(header.piece_count as usize);
        let mut total = 0usize;
        for index in 0..header.piece_count {
            let mut piece = Piece { base: 0, length: 0 };
            memory::read(
                tid,
                header.pieces.wrapping_add(index * size_of::<Piece>() as u64),
                piece.as_mut_bytes(),
            )
            .map_err(|error| errno(&error))?;
            if piece.length > i64::MAX as u64 {
                return Err(libc::EINVAL);
            }
            piece.length = piece.length.min((0x7fff_f000 - total) as u64);
            total += piece.length as usize;
            pieces.push(piece);
        }
        let control = if header.control == 0 {
            0
        } else {
            usize::try_from(header.control_length).unwrap_or(usize::MAX)
        };
        Ok(Self {
            name: (header.name != 0).then_some((header.name, header.name_length as usize)),
            control: (header.control, control),
            pieces,
            total,
            header: Some(address),
        })
    }

    /// The bytes from `start`, at most `limit`.
    pub(super) fn gather(&self, tid: i32, start: usize, limit: usize) -> Result<Vec<u8>, i32> {
        let mut bytes = Vec::with_capacity((self.total - start).min(limit));
        for (base, length) in self.spans(start, limit) {
            let at = bytes.len();
            bytes.resize(at + length, 0);
            memory::read(tid, base, &mut bytes[at..]).map_err(|error| errno(&error))?;
        }
        Ok(bytes)
    }

    pub(super) fn scatter(&self, tid: i32, bytes: &[u8]) -> Result<(), i32> {
        let mut rest = bytes;
        for (base, length) in self.spans(0, bytes.len()) {
            let (part, after) = rest.split_at(length);
            write_bytes(tid, base, part)?;
            rest = after;
        }
        Ok(())
    }

    /// The bytes from `start`, as many as the place has, put there.
    pub(super) fn gather_to(&self, tid: i32, start: usize, lease: &Lease) -> Result<(), i32> {
        let mut done = 0;
        for (base, length) in self.spans(start, lease.place().1) {
            lease
                .read_guest(tid, base, done, length)
                .map_err(|error| errno(&error))?;
            done += length;
        }
        Ok(())
    }

    pub(super) fn scatter_from(&self, tid: i32, lease: &Lease, count: usize) -> Result<(), i32> {
        let mut rest = lease.data(count);
        for (base, length) in self.spans(0, rest.length()) {
            memory::write_from(tid, base, rest.cut(length)).map_err(|error| errno(&error))?;
            rest = rest.after(length);
        }
        Ok(())
    }

    /// Whether the contents have a place; whoever has none must not take what others could read.
    pub(super) fn has_place(&self, tid: i32) -> bool {
        let first = self.pieces.iter().find(|piece| piece.length > 0);
        first.is_none_or(|piece| memory::read(tid, piece.base, &mut [0]).is_ok())
    }

    /// Addresses and lengths of `limit` bytes from `start`.
    pub(super) fn spans(&self, start: usize, limit: usize) -> impl Iterator<Item = (u64, usize)> {
        let (mut skip, mut left) = (start, limit);
        self.pieces.iter().filter_map(move |piece| {
            let length = piece.length as usize;
            let skipped = skip.min(length);
            skip -= skipped;
            let taken = (length - skipped).min(left);
            left -= taken;
            (taken > 0).then_some((piece.base.wrapping_add(skipped as u64), taken))
        })
    }
}

/// The messages of a vector of `struct mmsghdr`.
pub(super) fn read_vector(tid: i32, address: u64, count: u64) -> Result<Vec<Layout>, i32> {
    let count = (count as u32 as usize).min(MESSAGES_MAX) as u64;
    let size = size_of::<CountedMessage>() as u64;
    let mut layouts = Vec::new();
    for index in 0..count {
        match Layout::read(tid, address.wrapping_add(index * size)) {
            Ok(layout) => layouts.push(layout),
            // The kernel comes to this one later.
            Err(_) if !layouts.is_empty() => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(layouts)
}
