//! The service driven by encoded requests on a temporary directory.

mod aftermath_of_changes;
mod attributes;
mod coherence;
mod data;
mod directories;
mod hostile;
mod locks;
mod names;
mod reach;
mod shared;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use afield_abi::fuse::{
    CreateRequest, EntryReply, ForgetRequest, GetAttributesRequest, Opcode, OpenReply, OpenRequest,
    ROOT_NODE, ReadRequest, ReleaseRequest, ReplyHeader, RequestHeader, WriteReply, WriteRequest,
};
use afield_link::aftermath::{self, After};
use afield_link::sys::Area;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{FileService, Outcome};

/// A directory that goes with the test.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "afield-files-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Tests may have made directories that an ordinary user cannot even list.
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = std::fs::set_permissions(entry.path(), Permissions::from_mode(0o700));
            }
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a node's kernel does.
#[derive(Debug)]
pub struct Client {
    pub service: FileService,
    pub home: Directory,
    pub uid: u32,
    pub gid: u32,
}

/// A string with its NUL.
pub fn z(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A request's bytes.
pub fn encode(opcode: u32, node: u64, ids: (u32, u32), parts: &[&[u8]]) -> Vec<u8> {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + body) as u32,
        opcode,
        unique: 77,
        node,
        uid: ids.0,
        gid: ids.1,
        pid: std::process::id(),
        extension_length: 0,
        padding: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A record at the start of a reply's body.
pub fn record<T: FromBytes>(body: &[u8]) -> T {
    T::read_from_prefix(body).expect("a whole record").0
}

impl Client {
    pub fn new() -> Self {
        Self::with_budget(10_000)
    }

    pub fn with_budget(budget: usize) -> Self {
        let home = Directory::new();
        Self {
            service: FileService::with_budget(&home.0, budget, None).unwrap(),
            home,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// A client with which memory is shared.
    pub fn sharing(area: Area) -> Self {
        let Self {
            service,
            home,
            uid,
            gid,
        } = Self::new();
        Self {
            service: service.sharing(Some(area)),
            home,
            uid,
            gid,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.0.join(name)
    }

    /// Sends a request; gives the outcome and the checked reply.
    pub fn send(&self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> (Outcome, Result<Vec<u8>, i32>) {
        let (outcome, reply, _) = self.change(opcode, node, parts);
        (outcome, reply)
    }

    /// The same, with what it has left.
    pub fn change(
        &self,
        opcode: Opcode,
        node: u64,
        parts: &[&[u8]],
    ) -> (Outcome, Result<Vec<u8>, i32>, Vec<After>) {
        let request = encode(opcode as u32, node, (self.uid, self.gid), parts);
        let mut bytes = b"before".to_vec();
        let outcome = self.service.handle(&request, &mut bytes);
        assert_eq!(&bytes[..6], b"before");
        let bytes = bytes.split_off(6);
        if !matches!(outcome, Outcome::Reply | Outcome::Flush { .. }) {
            assert_eq!(bytes, b"");
            return (outcome, Ok(bytes), Vec::new());
        }
        let header: ReplyHeader = record(&bytes);
        let (reply, after) = bytes.split_at(header.length as usize);
        assert_eq!(header.unique, 77);
        let after = aftermath::decode(after).unwrap();
        let body = reply[size_of::<ReplyHeader>()..].to_vec();
        if header.error == 0 {
            return (outcome, Ok(body), after);
        }
        assert!(header.error < 0 && body.is_empty() && after.is_empty());
        (outcome, Err(-header.error), after)
    }

    pub fn call(&self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> Result<Vec<u8>, i32> {
        self.send(opcode, node, parts).1
    }

    pub fn ask<T: FromBytes>(&self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> Result<T, i32> {
        self.call(opcode, node, parts).map(|body| record(&body))
    }

    pub fn lookup(&self, parent: u64, name: &str) -> Result<EntryReply, i32> {
        self.ask(Opcode::Lookup, parent, &[&z(name)])
    }

    /// The node of a name in the root.
    pub fn node(&self, name: &str) -> u64 {
        self.lookup(ROOT_NODE, name).unwrap().node
    }

    pub fn forget(&self, node: u64, lookups: u64) {
        let record = ForgetRequest { lookups };
        let (outcome, _) = self.send(Opcode::Forget, node, &[record.as_bytes()]);
        assert!(matches!(outcome, Outcome::NoReply));
    }

    pub fn attributes(&self, node: u64) -> Result<afield_abi::fuse::Attributes, i32> {
        let reply: Result<afield_abi::fuse::AttributesReply, i32> = self.ask(
            Opcode::GetAttributes,
            node,
            &[GetAttributesRequest::default().as_bytes()],
        );
        reply.map(|reply| reply.attributes)
    }

    pub fn open(&self, node: u64, flags: i32) -> Result<OpenReply, i32> {
        let record = OpenRequest {
            flags: flags as u32,
            open_flags: 0,
        };
        self.ask(Opcode::Open, node, &[record.as_bytes()])
    }

    pub fn open_directory(&self, node: u64) -> Result<OpenReply, i32> {
        self.ask(Opcode::OpenDirectory, node, &[OpenRequest::default().as_bytes()])
    }

    pub fn create(
        &self,
        parent: u64,
        name: &str,
        mode: u32,
        umask: u32,
    ) -> Result<(EntryReply, OpenReply), i32> {
        let record = CreateRequest {
            flags: (libc::O_RDWR | libc::O_CREAT) as u32,
            mode: libc::S_IFREG | mode,
            umask,
            open_flags: 0,
        };
        let body = self.call(Opcode::Create, parent, &[record.as_bytes(), &z(name)])?;
        let open = super::tests::record(&body[size_of::<EntryReply>()..]);
        Ok((super::tests::record(&body), open))
    }

    pub fn release(&self, node: u64, handle: u64) {
        let record = ReleaseRequest {
            handle,
            ..Default::default()
        };
        self.call(Opcode::Release, node, &[record.as_bytes()]).unwrap();
    }

    pub fn read(&self, node: u64, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let record = ReadRequest {
            handle,
            offset,
            size,
            ..Default::default()
        };
        self.call(Opcode::Read, node, &[record.as_bytes()])
    }

    pub fn write(&self, node: u64, handle: u64, offset: u64, data: &[u8], flags: i32) -> Result<u32, i32> {
        let record = WriteRequest {
            handle,
            offset,
            size: data.len() as u32,
            flags: flags as u32,
            ..Default::default()
        };
        let reply: WriteReply = self.ask(Opcode::Write, node, &[record.as_bytes(), data])?;
        Ok(reply.size)
    }

    pub fn with<T: IntoBytes + Immutable>(
        &self,
        opcode: Opcode,
        node: u64,
        record: &T,
    ) -> Result<Vec<u8>, i32> {
        self.call(opcode, node, &[record.as_bytes()])
    }
}
