//! The file door's kernel features.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use afield_abi::fuse::{
    Attributes, AttributesReply, InitReply, Opcode, READ_BUFFER_BYTES_MIN, ROOT_NODE, ReplyHeader,
    RequestHeader, VERSION_MAJOR, VERSION_MINOR,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{check, namespaces};

/// Mounts a FUSE file system at `target`, whose root belongs to this namespace's root.
pub fn mount(device: &File, target: &std::ffi::CStr) -> io::Result<()> {
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    let data = CString::new(data)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    namespaces::mount(c"afield-doctor", target, c"fuse", flags, &data)
}

/// Serves the root directory, `size` bytes large, for a while: one request if one comes within 100 ms.
pub fn serve_once(device: &mut File, size: u64) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: device.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, alive during the call.
    if check(unsafe { libc::poll(&mut poll, 1, 100) })? == 0 {
        return Ok(());
    }
    let mut buffer = vec![0; READ_BUFFER_BYTES_MIN + (1 << 16)];
    let length = device.read(&mut buffer)?;
    let (request, _) = RequestHeader::read_from_prefix(&buffer[..length])
        .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let mut payload = Vec::new();
    let mut error = 0;
    match Opcode::from_wire(request.opcode) {
        Some(Opcode::Init) => payload.extend_from_slice(
            InitReply {
                major: VERSION_MAJOR,
                minor: VERSION_MINOR,
                max_readahead: 4096,
                max_write: 4096,
                ..InitReply::default()
            }
            .as_bytes(),
        ),
        Some(Opcode::GetAttributes) => payload.extend_from_slice(
            AttributesReply {
                attributes: Attributes {
                    inode: ROOT_NODE,
                    size,
                    mode: libc::S_IFDIR | 0o755,
                    links: 2,
                    ..Attributes::default()
                },
                ..AttributesReply::default()
            }
            .as_bytes(),
        ),
        Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::Destroy) => return Ok(()),
        _ => error = -libc::ENOSYS,
    }
    let header = ReplyHeader {
        length: (size_of::<ReplyHeader>() + payload.len()) as u32,
        error,
        unique: request.unique,
    };
    let mut reply = header.as_bytes().to_vec();
    reply.extend(payload);
    device.write_all(&reply)
}
