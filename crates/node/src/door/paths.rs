//! Calls that tell of names: links in `/proc`, extended attributes of home objects, the working directory.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use afield_abi::fuse::ROOT_NODE;
use afield_abi::syscalls::{Restart, nr};
use afield_link::wire::HandleOp;

use super::notify::{Door, Verdict, later};
use crate::fs::handles::{self, HIDDEN_PROC};
use crate::session::Then;
use crate::sys::inodes::fuse_node;
use crate::sys::seccomp::{Answer, Notification};
use crate::sys::{errno, memory};
use crate::world::{HIDDEN_DIRECTORY, NODE_DIRECTORIES};

/// The process and descriptor that a link's path names, if it is one in `/proc`.
pub(super) fn descriptor_of_link(
    tid: i32,
    pid: u32,
    path: &[u8],
    directory: Option<u32>,
) -> Option<(u32, u32)> {
    let path = std::str::from_utf8(path).ok()?;
    let (directory, name) = match path.rsplit_once('/') {
        Some((directory, name)) => (directory.to_owned(), name),
        // Relative to the working directory, or to a directory that is open.
        None => {
            let base = match directory? as i32 {
                libc::AT_FDCWD => "cwd".to_owned(),
                number => format!("fd/{number}"),
            };
            let base = std::fs::read_link(format!("/proc/{tid}/{base}")).ok()?;
            (base.to_str()?.to_owned(), path)
        }
    };
    let number = name.parse().ok()?;
    if directory == "/dev/fd" {
        return Some((pid, number));
    }
    let own = directory.strip_suffix("/fd")?;
    let hidden = format!("/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}");
    let process = own
        .strip_prefix(&hidden)
        .or_else(|| own.strip_prefix("/proc"))?
        .strip_prefix('/')?;
    let process = match process {
        "self" | "thread-self" => pid,
        process => process.parse().ok()?,
    };
    Some((process, number))
}

/// The path by which the deputy finds what a guest names by a directory's descriptor and a path from there, or without a path by a
/// descriptor. `None` for what is the node's own, and what has no name any more.
fn deputys_path(tid: i32, directory: u32, path: Vec<u8>) -> Option<Vec<u8>> {
    let base = match directory as i32 {
        _ if path.starts_with(b"/") => None,
        libc::AT_FDCWD => Some("cwd".to_owned()),
        number => Some(format!("fd/{number}")),
    };
    let whole = match base {
        None => path.clone(),
        Some(base) => {
            let read = |entry: &str| std::fs::read_link(format!("/proc/{tid}/{entry}")).ok();
            let (root, link) = (read("root")?, read(&base)?);
            // The deputy's root directory is the guest's.
            let inside = link.strip_prefix(root).ok()?;
            let link = std::path::Path::new("/").join(inside).into_os_string().into_vec();
            match path.is_empty() {
                true => link,
                false => [&link, &b"/"[..], &path].concat(),
            }
        }
    };
    let of_node = [HIDDEN_DIRECTORY, "proc"]
        .map(|name| format!("/{name}/"))
        .into_iter()
        .chain(NODE_DIRECTORIES.map(str::to_owned));
    if !whole.starts_with(b"/")
        || whole.ends_with(b" (deleted)")
        || of_node.into_iter().any(|own| whole.starts_with(own.as_bytes()))
    {
        return None;
    }
    // The deputy is in the guest's working directory.
    let is_relative = directory as i32 == libc::AT_FDCWD && !path.is_empty();
    Some(if is_relative { path } else { whole })
}

/// The address of a UNIX socket by a path that leads through one of the caller's descriptors (`/proc/self/fd/3/name`): of the
/// descriptors of that number the deputy's is another. `None` for other addresses, and where the name does not fit into one.
///
/// # Errors
/// `ENOTDIR` if it is not a file's.
pub(super) fn socket_name(tid: i32, address: &[u8]) -> Result<Option<Vec<u8>>, i32> {
    let Some((number, rest)) = through_descriptor(address) else {
        return Ok(None);
    };
    let Ok(link) = std::fs::read_link(format!("/proc/{tid}/fd/{number}")) else {
        return Ok(None);
    };
    let directory = link.into_os_string().into_vec();
    let hidden = format!("/{HIDDEN_DIRECTORY}/");
    if !directory.starts_with(b"/") || directory.starts_with(hidden.as_bytes()) {
        return Err(libc::ENOTDIR);
    }
    let name = [&address[..2], &directory, rest, b"\0"].concat();
    Ok((name.len() <= size_of::<libc::sockaddr_un>()).then_some(name))
}

/// The descriptor through which the path in an address leads, and the rest of the path from the slash on.
fn through_descriptor(address: &[u8]) -> Option<(u32, &[u8])> {
    let path = address.strip_prefix(&(libc::AF_UNIX as u16).to_ne_bytes())?;
    let path = path.split(|&byte| byte == 0).next()?;
    let (number, rest) = [&b"/proc/self/fd/"[..], b"/proc/thread-self/fd/", b"/dev/fd/"]
        .iter()
        .find_map(|directory| path.strip_prefix(*directory))
        .and_then(|rest| rest.split_at_checked(rest.iter().position(|&byte| byte == b'/')?))?;
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

impl Door {
    /// A link in `/proc/PID/fd` to a home object shows what it shows at home.
    pub(super) fn read_link(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: &[u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Verdict = Verdict::Answer(Answer::Continue);
        let (path, buffer, size, directory) = if number == nr::READLINK {
            (arguments[0], arguments[1], arguments[2], None)
        } else {
            (
                arguments[1],
                arguments[2],
                arguments[3],
                Some(arguments[0] as u32),
            )
        };
        // What is wrong with the call, the kernel says best.
        let Ok(path) = memory::read_string(tid, path, libc::PATH_MAX as usize) else {
            return Ok(EXECUTE);
        };
        let Some((owner, descriptor)) = descriptor_of_link(tid, pid, &path, directory) else {
            return Ok(EXECUTE);
        };
        let Some((place, owner)) = self.readable_guest(tid, owner) else {
            return Ok(EXECUTE);
        };
        let size = (size as i32).max(0) as usize;
        if size == 0 {
            return Ok(EXECUTE);
        }
        if let Some(handle) = self.home_handle(place, descriptor) {
            let call = self.call(
                notification,
                (tid, pid),
                (Then::Answer, vec![(buffer, size)]),
                Restart::Restart,
                None,
            );
            // Its owner's deputy has it.
            let what = (0, 0, size);
            let send = |id| handles::send_operation(&self.shared, id, owner, HandleOp::Name, handle, what);
            return later(self.shared.begin(call, false, send));
        }
        // What is in the world's own `/proc` shows the name by which it was opened.
        let hidden = format!("/{HIDDEN_DIRECTORY}");
        let target = std::fs::read_link(format!("/proc/{place}/fd/{descriptor}")).ok();
        let bytes = target.map(|target| target.into_os_string().into_vec());
        match bytes
            .as_deref()
            .and_then(|target| target.strip_prefix(hidden.as_bytes()))
        {
            Some(shown) if shown.starts_with(b"/proc/") => {
                let shown = &shown[..shown.len().min(size)];
                memory::write(tid, buffer, shown).map_err(|error| errno(&error))?;
                Ok(Verdict::Answer(Answer::Result(shown.len() as i64)))
            }
            _ => Ok(EXECUTE),
        }
    }

    /// Extended attributes for which the node's kernel does not ask the file door: the deputy reads and sets them, by the path that
    /// the guest gives or that its descriptor has.
    pub(super) fn attribute(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Result<Verdict, i32> = Ok(Verdict::Answer(Answer::Continue));
        let (by_path, by_descriptor) = match number {
            nr::FGETXATTR => (nr::GETXATTR, true),
            nr::FSETXATTR => (nr::SETXATTR, true),
            nr::FREMOVEXATTR => (nr::REMOVEXATTR, true),
            number => (number, false),
        };
        if !self.is_deputys(tid, by_path, arguments[1]) {
            return EXECUTE;
        }
        let path = match by_descriptor {
            true => deputys_path(tid, arguments[0] as u32, vec![]),
            false => match memory::read_string(tid, arguments[0], libc::PATH_MAX as usize - 1) {
                // It is the working directory to `deputys_path`, and nothing to the kernel.
                Ok(path) if path.is_empty() => return Err(libc::ENOENT),
                Ok(path) => deputys_path(tid, libc::AT_FDCWD as u32, path),
                Err(error) => return Err(errno(&error)),
            },
        };
        match path {
            Some(path) => self.forward_named(
                notification,
                (tid, pid),
                by_path,
                arguments,
                Some(path),
                Then::Answer,
            ),
            None => EXECUTE,
        }
    }

    /// Whether an extended attribute is the deputy's to get, set or remove.
    fn is_deputys(&self, tid: i32, number: u32, name: u64) -> bool {
        let name = memory::read_string(tid, name, 255).unwrap_or_default();
        let gets = matches!(number, nr::GETXATTR | nr::LGETXATTR);
        if name.starts_with(b"system.posix_acl_") || name.starts_with(b"trusted.") {
            true
        } else if gets {
            // The kernel shows a file's capabilities as those of a world that knows home's root.
            name == b"security.capability" && self.shared.files.home.owners().is_some()
        } else {
            name.starts_with(b"security.")
        }
    }

    /// The calls about extended attributes that take a directory, flags and a structure. It has the value's address, its size and
    /// how it is to be set.
    pub(super) fn attribute_at(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        number: u32,
        arguments: &[u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Result<Verdict, i32> = Ok(Verdict::Answer(Answer::Continue));
        let &[directory, path, flags, name, structure, size] = arguments;
        let flags = flags as i32;
        let follows = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        let by_path = match (number, follows) {
            (nr::GETXATTRAT, true) => nr::GETXATTR,
            (nr::GETXATTRAT, false) => nr::LGETXATTR,
            (nr::SETXATTRAT, true) => nr::SETXATTR,
            (nr::SETXATTRAT, false) => nr::LSETXATTR,
            (_, true) => nr::REMOVEXATTR,
            (_, false) => nr::LREMOVEXATTR,
        };
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0
            || !self.is_deputys(tid, by_path, name)
        {
            return EXECUTE;
        }
        let mut value = [0; 16];
        // What is wrong with the call, the kernel says best.
        if number != nr::REMOVEXATTRAT
            && (size != value.len() as u64 || memory::read(tid, structure, &mut value).is_err())
        {
            return EXECUTE;
        }
        let path = match memory::read_string(tid, path, libc::PATH_MAX as usize - 1) {
            Ok(path) if !path.is_empty() || flags & libc::AT_EMPTY_PATH != 0 => path,
            _ => return EXECUTE,
        };
        let Some(path) = deputys_path(tid, directory as u32, path) else {
            return EXECUTE;
        };
        let [address, rest] = [&value[..8], &value[8..]].map(|half| {
            let half = half.try_into().unwrap_or_default();
            u64::from_ne_bytes(half)
        });
        let call = [0, name, address, rest & 0xffff_ffff, rest >> 32, 0];
        self.forward_named(notification, (tid, pid), by_path, call, Some(path), Then::Answer)
    }

    /// `mknod` of a device, with these arguments and relative to a directory: no world's user may make one.
    pub(super) fn make_device(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        directory: u32,
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        let path = memory::read_string(tid, arguments[0], libc::PATH_MAX as usize - 1)
            .ok()
            .filter(|path| !path.is_empty())
            .and_then(|path| deputys_path(tid, directory, path));
        match path {
            Some(_) => self.forward_named(notification, (tid, pid), nr::MKNOD, arguments, path, Then::Answer),
            None => Ok(Verdict::Answer(Answer::Continue)),
        }
    }

    /// `ioctl` that sets the flags of a file: no world's user may make one immutable, or change one that is.
    pub(super) fn set_file_flags(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        if !self.shared.files.home.is_privileged() {
            return Ok(Verdict::Answer(Answer::Continue));
        }
        match deputys_path(tid, arguments[0] as u32, vec![]) {
            path @ Some(_) => {
                self.forward_named(notification, (tid, pid), nr::IOCTL, arguments, path, Then::Answer)
            }
            None => Ok(Verdict::Answer(Answer::Continue)),
        }
    }

    /// `getcwd`: the deputy's, unless the guest is in one of the few places that are the node's.
    pub(super) fn working_directory(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        mut arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        let link = std::fs::read_link(format!("/proc/{tid}/cwd"));
        let path = link
            .map_err(|error| errno(&error))?
            .into_os_string()
            .into_encoded_bytes();
        let hidden = format!("/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}");
        if let Some(rest) = path.strip_prefix(hidden.as_bytes()) {
            if rest.ends_with(b" (deleted)") {
                return Err(libc::ENOENT);
            }
            let name = [b"/proc", rest, b"\0"].concat();
            if (arguments[1] as usize) < name.len() {
                return Err(libc::ERANGE);
            }
            memory::write(tid, arguments[0], &name).map_err(|error| errno(&error))?;
            return Ok(Verdict::Answer(Answer::Result(name.len() as i64)));
        }
        if NODE_DIRECTORIES
            .iter()
            .any(|own| path.starts_with(own.as_bytes()))
        {
            return Ok(Verdict::Answer(Answer::Continue));
        }
        if let Some(name) = self.relied_on(tid, &path) {
            if (arguments[1] as usize) < name.len() {
                return Err(libc::ERANGE);
            }
            memory::write(tid, arguments[0], &name).map_err(|error| errno(&error))?;
            return Ok(Verdict::Answer(Answer::Result(name.len() as i64)));
        }
        // There is no longer answer, and the length is a whole register.
        arguments[1] = arguments[1].min(libc::PATH_MAX as u64);
        self.forward(notification, tid, pid, nr::GETCWD, arguments, Then::Answer)
    }

    /// The name of a thread's working directory, with a NUL, if home says of all names in it when they do not lead there any more. `path`: what
    /// the node's kernel calls it, which may have been renamed or removed since.
    fn relied_on(&self, tid: i32, path: &[u8]) -> Option<Vec<u8>> {
        let place = |rest: &str| CString::new(format!("/proc/{tid}/{rest}")).ok();
        let (mount, node) = fuse_node(&place("cwd")?)?;
        // Of who has another root, only home knows what is in it.
        let (_, root) = fuse_node(&place("root")?)?;
        let files = &self.shared.files;
        let leads_there =
            root == ROOT_NODE && files.places.is_mount(mount) && files.coherent.leads_to(path, node);
        leads_there.then(|| [path, b"\0"].concat())
    }

    /// The first thread and the pid of a guest whose descriptors a thread may look at, which the kernel lets those of the
    /// same user do.
    pub(super) fn readable_guest(&self, tid: i32, pid: u32) -> Option<(i32, u32)> {
        let (leader, owner) = self.shared.guests.find_inner(pid)?;
        let user = |tid: i32| {
            std::fs::metadata(format!("/proc/{tid}"))
                .ok()
                .map(|data| data.uid())
        };
        (self.shared.guests.pid_of(tid) == Some(owner) || user(tid)? == user(leader)?)
            .then_some((leader, owner))
    }
}
