//! Round trips by cause: what guests have waited for, so that it can be seen why a program is slow.
//!
//! Counted at home, and before the answer goes: who has the answer finds it counted. What the node sends without waiting for an
//! answer (closed files, forgotten nodes, ended guests) is no round trip.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use afield_abi::fuse::{
    ACCESS_BEGINS, ACCESS_DIRECTORY, AccessRequest, EntryReply, OPEN_PROMISED, Opcode, OpenRequest,
    ReplyHeader, RequestHeader, WriteRequest, write_flag,
};
use afield_abi::syscalls;
use afield_link::wire::HandleOp;
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

use crate::files::FileService;

/// Why a guest waited for home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The node did not have something of a file: a name, contents, a listing.
    Miss,
    /// The node had it, and asked whether it is still so.
    Revalidation,
    /// A file or directory was changed, or is about to be: home says whether that succeeded.
    Change,
    /// A system call that home executes, or an operation on a descriptor of home's.
    HomeCall,
}

impl Cause {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Miss, Self::Revalidation, Self::Change, Self::HomeCall];
}

/// What a guest waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A file request, by its opcode's number.
    File(u32),
    /// A system call, by its number; `u32::MAX` for those that the table does not have.
    Call(u32),
    /// An operation on a descriptor of home's, by its number.
    Object(u32),
    /// The making of a child.
    Fork,
}

impl Operation {
    /// A call with this number. What the table does not have is one operation, so that there are not more than can be kept.
    pub fn call(number: u32) -> Self {
        Self::Call(syscalls::row(number).map_or(u32::MAX, |_| number))
    }

    /// What users know it by.
    pub(super) fn name(self) -> String {
        match self {
            Self::File(number) => Opcode::from_wire(number)
                .map_or("file request", name_of)
                .to_owned(),
            Self::Call(number) => syscalls::row(number)
                .map_or("system call", |row| row.name)
                .to_owned(),
            Self::Object(number) => match HandleOp::from_wire(number) {
                Some(op) => format!("{op:?} on a descriptor of home's").to_lowercase(),
                None => "operation".to_owned(),
            },
            Self::Fork => "fork".to_owned(),
        }
    }
}

/// What of a file request, beside its opcode, decides why it was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Of a lookup: the node knew already what was found.
    pub known: bool,
    /// Of an open: for writing, or the contents go.
    pub writes: bool,
    /// Of a check for access: the directory becomes the working directory.
    pub moves: bool,
    /// Nobody waits for the answer, whatever is asked.
    pub unawaited: bool,
}

/// Why a guest waits for a file request; `None` if it does not.
pub fn cause_of(opcode: Opcode, facts: Facts) -> Option<Cause> {
    if facts.unawaited {
        return None;
    }
    Some(match opcode {
        Opcode::Lookup if facts.known => Cause::Revalidation,
        Opcode::GetAttributes | Opcode::Statx => Cause::Revalidation,
        Opcode::Access if !facts.moves => Cause::Revalidation,
        Opcode::Open if !facts.writes => Cause::Miss,
        Opcode::Lookup
        | Opcode::Read
        | Opcode::ReadLink
        | Opcode::OpenDirectory
        | Opcode::ReadDirectory
        | Opcode::ReadDirectoryPlus
        | Opcode::GetExtended
        | Opcode::ListExtended
        | Opcode::FileSystem
        | Opcode::Seek
        | Opcode::BlockMap => Cause::Miss,
        Opcode::Open
        | Opcode::Access
        | Opcode::SetAttributes
        | Opcode::SymbolicLink
        | Opcode::MakeNode
        | Opcode::MakeDirectory
        | Opcode::Unlink
        | Opcode::RemoveDirectory
        | Opcode::Rename
        | Opcode::Rename2
        | Opcode::Link
        | Opcode::Create
        | Opcode::TemporaryFile
        | Opcode::Write
        | Opcode::Sync
        | Opcode::SyncDirectory
        | Opcode::SyncFileSystem
        | Opcode::SetExtended
        | Opcode::RemoveExtended
        | Opcode::Flush
        | Opcode::GetLock
        | Opcode::SetLock
        | Opcode::SetLockWait
        | Opcode::Allocate
        | Opcode::CopyRange
        | Opcode::CopyRange64 => Cause::Change,
        Opcode::Ioctl | Opcode::Poll => Cause::HomeCall,
        Opcode::Forget
        | Opcode::BatchForget
        | Opcode::Release
        | Opcode::ReleaseDirectory
        | Opcode::Interrupt
        | Opcode::NotifyReply
        | Opcode::Init
        | Opcode::Destroy
        | Opcode::SetupMapping
        | Opcode::RemoveMapping => return None,
    })
}

/// Why a guest waits for this request, which has this reply.
pub fn cause_of_file(files: &FileService, request: &[u8], reply: &[u8]) -> Option<(Cause, Operation)> {
    let (header, body) = RequestHeader::ref_from_prefix(request).ok()?;
    let opcode = Opcode::from_wire(header.opcode)?;
    let mut facts = Facts::default();
    match opcode {
        Opcode::Lookup => {
            let entry = reply.get(size_of::<ReplyHeader>()..)?;
            let entry = EntryReply::read_from_prefix(entry).ok();
            facts.known = entry.is_some_and(|(entry, _)| files.is_known_again(entry.node));
        }
        Opcode::Open => {
            let (open, _) = OpenRequest::read_from_prefix(body).ok()?;
            let access = open.flags & libc::O_ACCMODE as u32;
            facts.writes = access != libc::O_RDONLY as u32 || open.flags & libc::O_TRUNC as u32 != 0;
            facts.unawaited = open.open_flags & OPEN_PROMISED != 0;
        }
        Opcode::Access => {
            let (access, _) = AccessRequest::read_from_prefix(body).ok()?;
            facts.moves = access.mask & ACCESS_DIRECTORY != 0;
            facts.unawaited = access.mask & ACCESS_BEGINS != 0;
        }
        Opcode::Write => {
            let (write, _) = WriteRequest::read_from_prefix(body).ok()?;
            facts.unawaited = write.write_flags & write_flag::BEHIND != 0;
        }
        _ => {}
    }
    cause_of(opcode, facts).map(|cause| (cause, Operation::File(header.opcode)))
}

/// What users know a file request by: the call that makes it, where there is one.
fn name_of(opcode: Opcode) -> &'static str {
    match opcode {
        Opcode::Lookup => "lookup",
        Opcode::GetAttributes => "stat",
        Opcode::Statx => "statx",
        Opcode::SetAttributes => "chmod, chown, truncate, utimes",
        Opcode::ReadLink => "readlink",
        Opcode::SymbolicLink => "symlink",
        Opcode::MakeNode => "mknod",
        Opcode::MakeDirectory => "mkdir",
        Opcode::Unlink => "unlink",
        Opcode::RemoveDirectory => "rmdir",
        Opcode::Rename | Opcode::Rename2 => "rename",
        Opcode::Link => "link",
        Opcode::Open => "open",
        Opcode::Read => "read",
        Opcode::Write => "write",
        Opcode::FileSystem => "statfs",
        Opcode::Sync | Opcode::SyncDirectory => "fsync",
        Opcode::SyncFileSystem => "syncfs",
        Opcode::SetExtended => "setxattr",
        Opcode::GetExtended => "getxattr",
        Opcode::ListExtended => "listxattr",
        Opcode::RemoveExtended => "removexattr",
        Opcode::Flush => "close",
        Opcode::OpenDirectory => "opendir",
        Opcode::ReadDirectory | Opcode::ReadDirectoryPlus => "readdir",
        Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait => "lock",
        Opcode::Access => "access",
        Opcode::Create | Opcode::TemporaryFile => "create",
        Opcode::Ioctl => "ioctl",
        Opcode::Poll => "poll",
        Opcode::Allocate => "fallocate",
        Opcode::Seek => "lseek",
        Opcode::CopyRange | Opcode::CopyRange64 => "copy_file_range",
        Opcode::Forget
        | Opcode::BatchForget
        | Opcode::Release
        | Opcode::ReleaseDirectory
        | Opcode::Interrupt
        | Opcode::NotifyReply
        | Opcode::Init
        | Opcode::Destroy
        | Opcode::BlockMap
        | Opcode::SetupMapping
        | Opcode::RemoveMapping => "file request",
    }
}

/// How often, and how much went both ways: payloads of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Round trips.
    pub trips: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            trips: self.trips + other.trips,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Round trips of one kind, as [`Tally::lines`] lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Why.
    pub cause: Cause,
    /// What, as users know it.
    pub operation: String,
    /// How often.
    pub count: Count,
}

/// The round trips of a process, or of several.
#[derive(Debug, Clone, Default)]
pub struct Tally(BTreeMap<(Cause, Operation), Count>);

impl Tally {
    /// Counts a round trip whose request has so many bytes.
    pub fn add(&mut self, cause: Cause, operation: Operation, bytes: usize) {
        let count = self.0.entry((cause, operation)).or_default();
        count.trips += 1;
        count.bytes += bytes as u64;
    }

    /// An answer has so many bytes.
    pub fn add_answer(&mut self, cause: Cause, operation: Operation, bytes: usize) {
        if let Some(count) = self.0.get_mut(&(cause, operation)) {
            count.bytes += bytes as u64;
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            let sum = self.0.entry(*key).or_default();
            *sum = sum.and(*count);
        }
    }

    /// The sum for each cause, in the order of [`Cause::ALL`].
    pub fn by_cause(&self) -> [Count; 4] {
        Cause::ALL.map(|cause| {
            let of_it = self.0.iter().filter(|((of, _), _)| *of == cause);
            of_it.fold(Count::default(), |sum, (_, count)| sum.and(*count))
        })
    }

    /// Every kind of round trip: by cause, most frequent first. Operations that users know by one name are one line.
    pub fn lines(&self) -> Vec<Line> {
        let mut named: BTreeMap<(Cause, String), Count> = BTreeMap::new();
        for ((cause, operation), count) in &self.0 {
            match named.entry((*cause, operation.name())) {
                Entry::Vacant(entry) => {
                    entry.insert(*count);
                }
                Entry::Occupied(mut entry) => *entry.get_mut() = entry.get().and(*count),
            }
        }
        let line = |((cause, operation), count)| Line {
            cause,
            operation,
            count,
        };
        let mut lines: Vec<Line> = named.into_iter().map(line).collect();
        lines.sort_by_key(|line| (line.cause, std::cmp::Reverse(line.count.trips)));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_no_round_trip() {
        for opcode in [
            Opcode::Release,
            Opcode::Forget,
            Opcode::BatchForget,
            Opcode::ReleaseDirectory,
        ] {
            assert_eq!(cause_of(opcode, Facts::default()), None);
        }
        let unawaited = Facts {
            unawaited: true,
            ..Facts::default()
        };
        for opcode in Opcode::ALL {
            assert_eq!(cause_of(*opcode, unawaited), None);
        }
    }

    #[test]
    fn the_cause_depends_on_what_was_known_and_is_wanted() {
        let plain = Facts::default();
        let known = Facts { known: true, ..plain };
        let writes = Facts {
            writes: true,
            ..plain
        };
        assert_eq!(cause_of(Opcode::Lookup, plain), Some(Cause::Miss));
        assert_eq!(cause_of(Opcode::Lookup, known), Some(Cause::Revalidation));
        assert_eq!(cause_of(Opcode::Open, plain), Some(Cause::Miss));
        assert_eq!(cause_of(Opcode::Open, writes), Some(Cause::Change));
    }

    #[test]
    fn operations_of_one_name_are_one_line_and_what_is_not_in_the_table_is_one_operation() {
        let mut tally = Tally::default();
        let mut count = |cause, operation| tally.add(cause, operation, 10);
        count(Cause::Change, Operation::File(Opcode::Rename as u32));
        count(Cause::Change, Operation::File(Opcode::Rename2 as u32));
        count(Cause::Change, Operation::File(Opcode::Unlink as u32));
        count(Cause::HomeCall, Operation::call(4_000_000));
        count(Cause::HomeCall, Operation::call(4_000_001));
        tally.add_answer(Cause::Change, Operation::File(Opcode::Unlink as u32), 6);
        let mut twice = tally.clone();
        twice.merge(&tally);
        let lines = |tally: &Tally| {
            let lines = tally.lines().into_iter();
            lines
                .map(|line| {
                    format!(
                        "{:?} {} {} {}",
                        line.cause, line.operation, line.count.trips, line.count.bytes
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lines(&tally),
            [
                "Change rename 2 20",
                "Change unlink 1 16",
                "HomeCall system call 2 20"
            ]
        );
        assert_eq!(twice.by_cause().map(|count| count.trips), [0, 0, 6, 4]);
    }
}
