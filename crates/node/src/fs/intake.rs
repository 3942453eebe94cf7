//! Room for the kernel's requests.
//!
//! What a large write brings is read from the device to where home takes it from, if memory is shared with home: to a place that is
//! lent ahead, since nobody knows what the next request is. What else comes to lie there is copied out at once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use afield_abi::fuse::{Opcode, RequestHeader, WriteRequest};
use rustix::io::Errno;
use zerocopy::FromBytes;

use super::{OWN, REQUEST_BYTES, TRANSFER_BYTES_MAX};
use crate::leases::{LENGTH_MAX, LENGTH_MIN, Lease, Leases};
use crate::sys::{self, memory};

/// What comes before the data of a write.
pub const WRITE_HEAD_BYTES: usize = size_of::<RequestHeader>() + size_of::<WriteRequest>();

const _: () = assert!(LENGTH_MAX >= TRANSFER_BYTES_MAX);

/// The room, for one request at a time.
#[derive(Debug)]
pub struct Intake {
    buffer: Box<[u8]>,
    leases: Option<Arc<Leases>>,
    /// For the data of the next large write.
    spare: Option<Lease>,
}

impl Intake {
    /// Room for any request; `leases` are of the memory that is shared with home.
    pub fn new(leases: Option<Arc<Leases>>) -> Self {
        Self {
            buffer: vec![0; REQUEST_BYTES].into_boxed_slice(),
            leases,
            spare: None,
        }
    }

    /// Reads a request: what of it is in this memory, and the data of a write to a file of home's if that is not.
    ///
    /// # Errors
    /// The device's.
    pub fn read(&mut self, device: &OwnedFd) -> Result<(&mut [u8], Option<Lease>), Errno> {
        if self.spare.is_none() {
            self.spare = self.leases.as_ref().and_then(|leases| leases.lend(LENGTH_MAX));
        }
        let Some(spare) = &self.spare else {
            let count = rustix::io::read(device, &mut *self.buffer)?;
            return Ok((&mut self.buffer[..count], None));
        };
        let (head, rest) = self.buffer.split_at_mut(WRITE_HEAD_BYTES);
        let count = memory::read_both(device.as_fd(), head, &spare.room())
            .map_err(|error| Errno::from_raw_os_error(sys::errno(&error)))?;
        let data_bytes = count.saturating_sub(WRITE_HEAD_BYTES);
        if data_bytes >= LENGTH_MIN && is_write_at_home(head) {
            let mut data = self.spare.take();
            if let Some(data) = &mut data {
                data.shrink(data_bytes);
            }
            return Ok((&mut self.buffer[..WRITE_HEAD_BYTES], data));
        }
        spare.get(&mut rest[..data_bytes]);
        Ok((&mut self.buffer[..count], None))
    }
}

fn is_write_at_home(head: &[u8]) -> bool {
    RequestHeader::ref_from_prefix(head)
        .is_ok_and(|(header, _)| header.opcode == Opcode::Write as u32 && header.node & OWN == 0)
}

#[cfg(test)]
mod tests {
    use afield_link::sys::Area;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    use zerocopy::IntoBytes;

    use super::*;
    use crate::fs::HANDLE;

    /// A request with so many bytes after the head that a write has.
    fn request(opcode: Opcode, node: u64, data_bytes: usize) -> Vec<u8> {
        let header = RequestHeader {
            length: (WRITE_HEAD_BYTES + data_bytes) as u32,
            opcode: opcode as u32,
            node,
            ..RequestHeader::default()
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend((bytes.len()..WRITE_HEAD_BYTES + data_bytes).map(|at| (at % 251) as u8));
        bytes
    }

    #[test]
    fn only_large_writes_to_files_of_home_stay_in_shared_memory() {
        let memory = Area::create().unwrap();
        let leases = Leases::new(memory.as_fd()).unwrap();
        // Like the device it gives one message at a time.
        let (device, kernel) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        for leases in [None, Some(Arc::clone(&leases))] {
            let shares = leases.is_some();
            let mut intake = Intake::new(leases);
            let mut lent = Vec::new();
            for (opcode, node, data_bytes, is_shared) in [
                (Opcode::Write, 7, 100_000, true),
                (Opcode::Write, 7, LENGTH_MIN, true),
                (Opcode::Write, 7, LENGTH_MIN - 1, false),
                (Opcode::Write, HANDLE | 7, 100_000, false),
                (Opcode::SetExtended, 7, 60_000, false),
                (Opcode::Forget, 7, 0, false),
                (Opcode::Write, 7, 130_000, true),
            ] {
                let sent = request(opcode, node, data_bytes);
                send(&kernel, &sent, SendFlags::empty()).unwrap();
                let (bytes, data) = intake.read(&device).unwrap();
                assert_eq!(data.is_some(), shares && is_shared, "{opcode:?} {data_bytes}");
                let mut whole = bytes.to_vec();
                if let Some(data) = data {
                    assert_eq!(data.place().1, data_bytes);
                    whole.resize(WRITE_HEAD_BYTES + data_bytes, 0);
                    data.get(&mut whole[WRITE_HEAD_BYTES..]);
                    lent.push((data, sent.clone()));
                }
                assert!(whole == sent, "{opcode:?} {data_bytes}");
            }
            // What is lent stays as it is.
            for (data, sent) in lent {
                let mut bytes = vec![0; data.place().1];
                data.get(&mut bytes);
                assert!(bytes == sent[WRITE_HEAD_BYTES..]);
            }
        }
    }

    #[test]
    fn without_a_place_nothing_is_shared() {
        let memory = Area::create().unwrap();
        let leases = Leases::new(memory.as_fd()).unwrap();
        let (device, kernel) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let all: Vec<_> = std::iter::from_fn(|| leases.lend(LENGTH_MAX)).collect();
        let mut intake = Intake::new(Some(leases));
        let sent = request(Opcode::Write, 7, 100_000);
        send(&kernel, &sent, SendFlags::empty()).unwrap();
        let (bytes, data) = intake.read(&device).unwrap();
        assert!(data.is_none() && bytes == sent);
        drop(all);
        send(&kernel, &sent, SendFlags::empty()).unwrap();
        let (_, data) = intake.read(&device).unwrap();
        assert!(data.is_some());
    }
}
