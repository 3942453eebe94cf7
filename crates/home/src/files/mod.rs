//! The home's file service: answers the file requests of a node's kernel on home's own tree.
//!
//! Requests and replies are FUSE messages ([`afield_abi::fuse`]) that came over the link. The service makes the system
//! calls they mean, by descriptors and single names, and gives home's own results and errors. It believes nothing it is
//! sent: every node, handle, length and name is checked, and what a request may do is for home's kernel to permit.
//!
//! One [`FileService`] serves one session, from as many threads as there are; a thread that serves requests gets a umask and
//! working directory of its own and should do nothing else.
//!
//! What the session agrees on with its kernel at the start (`INIT`): [`FLAGS_NEEDED`](init::FLAGS_NEEDED), and not
//! [`FLAGS_EXCLUDED`](init::FLAGS_EXCLUDED).
//!
//! | module | what |
//! |---|---|
//! | `decode` | requests taken apart, replies put together |
//! | `nodes` | inodes that the kernel knows, and descriptors that reach them |
//! | `devices` | file systems of home under one mount |
//! | `credentials` | whose rights count |
//! | `behind` | writes of which the caller has been told before they are executed |
//! | `validity` | what nodes may keep |
//! | `contents` | what nodes are told of what is in files |
//! | [`early`] | what they are told before they ask |
//! | `reading` | what reading does to times of access |
//! | `attributes`, `names`, `open`, `data`, `directory`, `extended`, `locks`, `working` | the operations |

mod aftermath;
mod attributes;
mod behind;
mod contents;
mod credentials;
mod data;
mod decode;
mod devices;
mod directory;
pub mod early;
mod extended;
mod hash;
pub mod init;
mod locks;
mod names;
mod nodes;
mod open;
mod reading;
mod sys;
#[cfg(test)]
mod tests;
mod validity;
mod working;

use std::ffi::CStr;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use afield_abi::fuse::Opcode;
use afield_link::sys::Area;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use locks::{LOCK_DESCRIPTION, LockKind, LockWait, get_lock_reply, status_reply};
pub use validity::Promise;
pub use working::Occupied;

use credentials::Credentials;
use decode::{Reply, Request};
use devices::Devices;
use early::{Early, Generosity};
use nodes::{Identity, Nodes, PathDescriptor};
use open::Handles;
use reading::Mounts;
use validity::may_change;
use working::Starts;

use crate::coherence::{self, Coherence};
use crate::mounts::Names;

/// Results within the service: errors are what the caller at the node gets to see.
type Result<T> = std::result::Result<T, Errno>;

/// Most bytes in one read, write or listing.
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// Most bytes copied by one request, so that a thread comes back in good time; callers go on from there.
const COPY_BYTES_MAX: u64 = 128 << 20;

/// Largest value or list of extended attributes that Linux has.
const EXTENDED_BYTES_MAX: usize = 64 << 10;

/// Longest target of a symbolic link that Linux has.
const READLINK_BYTES_MAX: usize = 4096;

/// Most descriptors that are kept for nodes, whatever the limits are.
const BUDGET_MAX: usize = 64 << 10;

/// What is to be done after a request.
#[derive(Debug)]
pub enum Outcome {
    /// Send the reply.
    Reply,
    /// There is no reply to this request, and nothing was appended.
    NoReply,
    /// A POSIX record lock, for the caller's deputy, in whose name it must be; nothing was appended. The deputy keeps
    /// `descriptor` for (`owner`, `node`) until the [`Flush`](Self::Flush) that drops its locks by closing it, and
    /// builds the reply with [`get_lock_reply`] or [`status_reply`].
    RecordLock {
        /// Of the request.
        unique: u64,
        /// Home pid of the caller.
        pid: u32,
        /// The kernel's number for the caller's descriptor table.
        owner: u64,
        /// The file's node.
        node: u64,
        /// The open file on which the call was made.
        descriptor: OwnedFd,
        /// Which command it is.
        kind: LockKind,
        /// The lock, of whence `SEEK_SET`.
        lock: libc::flock,
    },
    /// Send the reply after the deputy of `pid` has dropped what record locks it holds for (`owner`, `node`), if any.
    Flush {
        /// Home pid of the caller.
        pid: u32,
        /// The kernel's number for the caller's descriptor table.
        owner: u64,
        /// The file's node.
        node: u64,
    },
    /// Send the reply after the deputy of `pid` has been told that this is its working directory now.
    Directory {
        /// Home pid of the caller.
        pid: u32,
        /// The directory (`O_PATH`).
        descriptor: OwnedFd,
        /// To be held while it is somebody's working directory.
        occupied: Occupied,
    },
    /// This is where the job of `pid` begins. There is no reply.
    Begins {
        /// Home pid of its first process.
        pid: u32,
        /// To be held while it is somebody's working directory.
        occupied: Occupied,
    },
    /// A lock that has to be waited for: [`LockWait::run`] on a thread of its own makes the reply. Nothing was
    /// appended.
    Wait(LockWait),
}

/// Serves one session.
#[derive(Debug)]
pub struct FileService {
    nodes: Arc<Nodes>,
    handles: Handles,
    devices: Devices,
    /// What mount points are called.
    mount_names: RwLock<Names>,
    mounts: Mounts,
    credentials: Credentials,
    starts: Starts,
    /// Its part in the agent's registry of what nodes keep.
    session: Option<coherence::Session>,
    /// The node keeps contents.
    tells_contents: bool,
    /// Memory that an embedded node shares.
    area: Option<Area>,
    early: Early,
    /// How often what a guest has made was gone before the node could be told of it.
    gone: AtomicU64,
}

impl FileService {
    /// A service whose root is the directory `root`. Raises the process's soft limits on open files and file size to its hard
    /// ones. What nodes keep is watched by `coherence`; without it they keep nothing.
    pub fn new(root: &Path, coherence: Option<&Arc<Coherence>>) -> io::Result<Self> {
        let files = raise_limit(Resource::Nofile);
        raise_limit(Resource::Fsize);
        // The rest is for open files, and for the agent.
        Self::with_budget(root, (files / 2).min(BUDGET_MAX), coherence)
    }

    fn with_budget(root: &Path, budget: usize, coherence: Option<&Arc<Coherence>>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let identity = Identity::of(&nodes::stat_descriptor(&root)?);
        let nodes = Arc::new(Nodes::new(root, identity, budget));
        let ways: Weak<Nodes> = Arc::downgrade(&nodes);
        Ok(Self {
            devices: Devices::new(identity.device),
            mount_names: RwLock::default(),
            mounts: Mounts::default(),
            nodes,
            session: coherence.map(|coherence| coherence.join(ways)),
            handles: Handles::new(),
            credentials: Credentials::of_this_thread()?,
            starts: Starts::default(),
            tells_contents: false,
            area: None,
            early: Early::new(Generosity::NONE),
            gone: AtomicU64::new(0),
        })
    }

    /// The same service, for a node that keeps contents, or does not.
    pub fn telling_contents(self, tells_contents: bool) -> Self {
        Self {
            tells_contents,
            ..self
        }
    }

    /// The same service, for a node with which it shares memory: contents may be there in place of their messages.
    pub fn sharing(self, area: Option<Area>) -> Self {
        Self { area, ..self }
    }

    /// The same service, which answers so much before it is asked.
    pub fn answering_early(self, generosity: Generosity) -> Self {
        let early = Early::new(generosity);
        Self { early, ..self }
    }

    /// The node's guests tell the file systems with these numbers apart from now on, and mount points are called like this.
    pub fn hear_of_mounts(&self, told_apart: Vec<u64>, names: &Names) {
        self.devices.tell_apart(told_apart);
        *self.mount_names.write().unwrap_or_else(PoisonError::into_inner) = names.clone();
    }

    /// True if something may be mounted on a name. What nobody has asked for is not looked at there: its server may not answer.
    pub(super) fn is_mount_point(&self, name: &[u8]) -> bool {
        let mounts = self.mount_names.read().unwrap_or_else(PoisonError::into_inner);
        mounts.contains_key(name)
    }

    /// True if that is a file system whose server is elsewhere.
    pub(super) fn may_hang(&self, name: &[u8]) -> bool {
        let mounts = self.mount_names.read().unwrap_or_else(PoisonError::into_inner);
        mounts.get(name).is_some_and(|may_hang| *may_hang)
    }

    /// Executes one request and appends its reply to `reply`, if it has one.
    pub fn handle(&self, request: &[u8], reply: &mut Vec<u8>) -> Outcome {
        let mut request = match Request::new(request) {
            Ok(request) => request,
            Err(None) => return Outcome::NoReply,
            Err(Some(header)) => {
                if Opcode::from_wire(header.opcode).is_some_and(is_silent) {
                    return Outcome::NoReply;
                }
                Reply::new(reply, header.unique).finish(Err(Errno::INVAL));
                return Outcome::Reply;
            }
        };
        let opcode = Opcode::from_wire(request.header.opcode);
        let (whole, start) = (request.clone(), reply.len());
        let mut answer = Reply::new(reply, request.header.unique);
        let result = match opcode {
            Some(opcode) => self.execute(opcode, &mut request, &mut answer),
            None => Err(Errno::NOSYS),
        };
        match result {
            _ if opcode.is_some_and(is_silent) => {
                answer.cancel();
                Outcome::NoReply
            }
            Ok(outcome @ (Outcome::Reply | Outcome::Flush { .. } | Outcome::Directory { .. })) => {
                answer.finish(Ok(()));
                if let Some(opcode) = opcode {
                    self.tell_aftermath(opcode, whole, reply, start);
                }
                outcome
            }
            Ok(outcome) => {
                answer.cancel();
                outcome
            }
            Err(errno) => {
                answer.finish(Err(errno));
                Outcome::Reply
            }
        }
    }

    /// An `O_PATH` descriptor of a node, for special files that a deputy opens (by its `/proc/self/fd`).
    pub fn path_descriptor(&self, node: u64) -> std::result::Result<OwnedFd, i32> {
        let copy = || rustix::io::fcntl_dupfd_cloexec(&*self.descriptor(node)?, 0);
        copy().map_err(Errno::raw_os_error)
    }

    /// The same without opening anything, if there is one: there is of all that is open.
    pub fn way_at_hand(&self, node: u64) -> Option<OwnedFd> {
        let way = self.nodes.get(node).ok()?.resident()?;
        rustix::io::fcntl_dupfd_cloexec(&*way, 0).ok()
    }

    /// Whether the node's kernel has been told of this node more than once, and has forgotten it less often: it knew it before.
    pub fn is_known_again(&self, node: u64) -> bool {
        self.nodes.get(node).is_ok_and(|node| node.lookups() > 1)
    }

    /// Closes descriptors that have not been used between the last calls; to be called every few seconds. A session
    /// that is idle then keeps no file system of home busy and no removed file's blocks.
    pub fn trim(&self) {
        self.nodes.trim();
    }

    /// Closes all open files and directories, and drops the locks on them. For when the node is gone.
    pub fn close_all(&self) {
        self.handles.clear();
    }

    /// Nodes that the node's kernel knows, open files and directories, and descriptors held for nodes.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.nodes.count(), self.handles.count(), self.nodes.open_count())
    }

    /// A descriptor that reaches a node.
    fn descriptor(&self, node: u64) -> Result<Arc<PathDescriptor>> {
        self.nodes.descriptor(&self.nodes.get(node)?, &self.credentials)
    }

    fn execute(&self, opcode: Opcode, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<Outcome> {
        let header = request.header;
        let _changing = match &self.session {
            Some(session) if may_change(opcode) => Some(session.changing()),
            _ => None,
        };
        let _counted = self.changing(opcode, request);
        self.note_caller(header.uid, header.gid);
        let _assumed = if needs_rights(opcode) {
            self.credentials.assume(header.uid, header.gid, header.pid)?
        } else {
            None
        };
        match opcode {
            Opcode::Lookup => self.lookup(request, reply)?,
            Opcode::Forget => self.forget(request)?,
            Opcode::BatchForget => self.batch_forget(request)?,
            Opcode::GetAttributes => self.get_attributes(request, reply)?,
            Opcode::SetAttributes => self.set_attributes(request, reply)?,
            Opcode::Statx => self.statx(request, reply)?,
            Opcode::ReadLink => self.read_link(request, reply)?,
            Opcode::SymbolicLink => self.symbolic_link(request, reply)?,
            Opcode::MakeNode => self.make_node(request, reply)?,
            Opcode::MakeDirectory => self.make_directory(request, reply)?,
            Opcode::Unlink => self.remove(request, AtFlags::empty())?,
            Opcode::RemoveDirectory => self.remove(request, AtFlags::REMOVEDIR)?,
            Opcode::Rename => self.rename(request)?,
            Opcode::Rename2 => self.rename2(request)?,
            Opcode::Link => self.link(request, reply)?,
            Opcode::Open => self.open(request, reply)?,
            Opcode::Create => self.create(request, reply)?,
            Opcode::TemporaryFile => self.temporary_file(request, reply)?,
            Opcode::Read => self.read(request, reply)?,
            Opcode::Write => return self.write(request, reply),
            Opcode::FileSystem => self.file_system(request, reply)?,
            Opcode::Release | Opcode::ReleaseDirectory => self.release(request)?,
            Opcode::Sync | Opcode::SyncDirectory => self.sync(request)?,
            Opcode::SetExtended => self.set_extended(request)?,
            Opcode::GetExtended => self.get_extended(request, reply)?,
            Opcode::ListExtended => self.list_extended(request, reply)?,
            Opcode::RemoveExtended => self.remove_extended(request)?,
            Opcode::OpenDirectory => self.open_directory(request, reply)?,
            Opcode::ReadDirectory => self.read_directory(request, reply, false)?,
            Opcode::ReadDirectoryPlus => self.read_directory(request, reply, true)?,
            Opcode::Access => return self.access(request),
            Opcode::Ioctl => self.ioctl(request, reply)?,
            Opcode::Poll => self.poll(request, reply)?,
            Opcode::Allocate => self.allocate(request)?,
            Opcode::Seek => self.seek(request, reply)?,
            Opcode::CopyRange => self.copy_range(request, reply, false)?,
            Opcode::CopyRange64 => self.copy_range(request, reply, true)?,
            Opcode::SyncFileSystem => self.sync_file_system(request)?,
            Opcode::Flush => return self.flush(request),
            Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait => {
                return self.lock(request, opcode, reply);
            }
            Opcode::Interrupt | Opcode::NotifyReply | Opcode::Destroy => {}
            // The session answers the first itself; the others have no meaning here.
            Opcode::Init | Opcode::BlockMap | Opcode::SetupMapping | Opcode::RemoveMapping => {
                return Err(Errno::NOSYS);
            }
        }
        Ok(Outcome::Reply)
    }
}

/// True for requests that never have a reply.
fn is_silent(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::NotifyReply
    )
}

/// False for requests on what has been opened or found already, where the kernel asks for no rights.
fn needs_rights(opcode: Opcode) -> bool {
    !matches!(
        opcode,
        Opcode::Forget
            | Opcode::BatchForget
            | Opcode::GetAttributes
            | Opcode::Statx
            | Opcode::Read
            | Opcode::Release
            | Opcode::ReleaseDirectory
            | Opcode::ReadDirectory
            | Opcode::Sync
            | Opcode::SyncDirectory
            | Opcode::Flush
            | Opcode::Poll
            | Opcode::Seek
            | Opcode::Interrupt
            | Opcode::NotifyReply
    )
}

/// Raises a soft limit to the hard one and gives it.
fn raise_limit(resource: Resource) -> usize {
    let limit = getrlimit(resource);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(resource, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |limit| limit as usize)
}

/// The path under `/proc/thread-self/fd` of a descriptor, which leads to its inode itself.
pub(crate) struct ProcPath([u8; Self::BYTES]);

impl ProcPath {
    const PREFIX: &[u8] = b"/proc/thread-self/fd/";
    /// The prefix, the ten digits of the largest descriptor, and a NUL.
    const BYTES: usize = Self::PREFIX.len() + 11;
}

pub(crate) fn proc_path(file: impl AsFd) -> ProcPath {
    let mut path = [0; ProcPath::BYTES];
    path[..ProcPath::PREFIX.len()].copy_from_slice(ProcPath::PREFIX);
    let number = file.as_fd().as_raw_fd().unsigned_abs();
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = number;
    for place in path[ProcPath::PREFIX.len()..][..digits].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    ProcPath(path)
}

impl Deref for ProcPath {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        // Its last byte is never written to, so there is always a NUL.
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}
