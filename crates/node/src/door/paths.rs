//! Calls that tell of names: links in `/proc`, extended attributes of home objects, the working directory.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use afield_abi::syscalls::{Restart, nr};
use afield_link::wire::HandleOp;

use super::notify::{Door, Verdict, later};
use crate::fs::handles::{self, HIDDEN_PROC};
use crate::session::Then;
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

    /// Access lists as extended attributes: the node's kernel does not ask the file door for them, so the deputy reads and sets
    /// them, by the path that the guest gives or that its descriptor has.
    pub(super) fn attribute(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Result<Verdict, i32> = Ok(Verdict::Answer(Answer::Continue));
        let name = memory::read_string(tid, arguments[1], 255).unwrap_or_default();
        if !name.starts_with(b"system.posix_acl_") {
            return EXECUTE;
        }
        let by_path = match number {
            nr::FGETXATTR => nr::GETXATTR,
            nr::FSETXATTR => nr::SETXATTR,
            nr::FREMOVEXATTR => nr::REMOVEXATTR,
            _ => return self.forward(notification, tid, pid, number, arguments, Then::Answer),
        };
        let link = std::fs::read_link(format!("/proc/{tid}/fd/{}", arguments[0] as u32));
        let path = link.unwrap_or_default().into_os_string().into_encoded_bytes();
        if !path.starts_with(b"/") || path.ends_with(b" (deleted)") {
            return EXECUTE;
        }
        self.forward_named(
            notification,
            (tid, pid),
            by_path,
            arguments,
            Some(path),
            Then::Answer,
        )
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
        // There is no longer answer, and the length is a whole register.
        arguments[1] = arguments[1].min(libc::PATH_MAX as u64);
        self.forward(notification, tid, pid, nr::GETCWD, arguments, Then::Answer)
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
