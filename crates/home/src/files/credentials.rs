//! Whose permissions count.
//!
//! A service of an ordinary user acts as that user, whatever the request says. A service of root acts as the caller does: with
//! its file-system ids, its supplementary groups and no capabilities, on the serving thread only and for one request.

use std::cell::{Cell, RefCell};

use rustix::io::Errno;

use super::{Result, sys};

/// An id that the kernel puts in requests that it makes for itself.
const NOBODY: u32 = u32::MAX;

/// Capability that a thread needs to get its groups back (`CAP_SETGID`, and `CAP_SETUID` beside it).
const CAPABILITIES_KEPT: u32 = 1 << 6 | 1 << 7;

/// What the process may do by itself.
#[derive(Debug)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: sys::CapabilitySets,
}

/// A caller's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

thread_local! {
    /// As whom this thread acts, if not as the service.
    static ASSUMED: RefCell<Option<Identity>> = const { RefCell::new(None) };
    /// This thread's umask, once it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

impl Credentials {
    /// Those of the calling thread, which must be the service's own.
    pub fn of_this_thread() -> Result<Self> {
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: rustix::process::getgroups()?
                .iter()
                .map(|group| group.as_raw())
                .collect(),
            capabilities: sys::thread_capabilities()?,
        })
    }

    /// The service's own user and group.
    pub fn own(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Lets this thread act as the caller until the guard is dropped. `None` if it is the service's own user, or the service
    /// cannot be anybody else.
    pub fn assume(&self, uid: u32, gid: u32, pid: u32) -> Result<Option<Assumed<'_>>> {
        if self.uid != 0 || (uid, gid) == (self.uid, self.gid) || uid == NOBODY || gid == NOBODY {
            return Ok(None);
        }
        let identity = Identity {
            uid,
            gid,
            groups: groups_of(pid, uid),
        };
        self.become_caller(&identity)?;
        ASSUMED.set(Some(identity));
        Ok(Some(Assumed { own: self }))
    }

    /// Runs `work` as the service itself, even within [`assume`](Self::assume): for finding again what the caller
    /// had found before.
    pub fn as_service<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(identity) = ASSUMED.take() else {
            return work();
        };
        self.become_service();
        let result = work();
        self.become_caller(&identity)?;
        ASSUMED.set(Some(identity));
        result
    }

    fn become_caller(&self, identity: &Identity) -> Result<()> {
        let change = || {
            sys::set_thread_groups(&identity.groups)?;
            sys::set_file_group(identity.gid)?;
            sys::set_file_user(identity.uid)?;
            if identity.uid != 0 {
                sys::set_thread_capabilities(&self.capabilities.with_effective(CAPABILITIES_KEPT))?;
            }
            Ok(())
        };
        change().inspect_err(|_: &Errno| self.become_service())
    }

    fn become_service(&self) {
        let change = || {
            sys::set_thread_capabilities(&self.capabilities)?;
            sys::set_file_user(self.uid)?;
            sys::set_file_group(self.gid)?;
            sys::set_thread_groups(&self.groups)?;
            // Changing the user id has its own rules for capabilities.
            sys::set_thread_capabilities(&self.capabilities)
        };
        if let Err(errno) = change() {
            // Going on with somebody else's rights would be wrong for every later request on this thread.
            tracing::error!("the file service cannot return to its own identity: {errno}");
            std::process::abort();
        }
    }
}

/// While it lives, the thread acts as a caller.
#[derive(Debug)]
pub struct Assumed<'a> {
    own: &'a Credentials,
}

impl Drop for Assumed<'_> {
    fn drop(&mut self) {
        if ASSUMED.take().is_some() {
            self.own.become_service();
        }
    }
}

/// Supplementary groups of a process, from its deputy; none if that is gone or somebody else.
fn groups_of(pid: u32, uid: u32) -> Vec<u32> {
    if pid == 0 {
        return Vec::new();
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return Vec::new();
    };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect::<Vec<u32>>()
    };
    // Real, effective, saved and file-system user id.
    if field("Uid:").get(3) == Some(&uid) {
        field("Groups:")
    } else {
        Vec::new()
    }
}

/// Sets the umask that this thread's next creating call uses. The kernel applies it, since only the kernel knows whether
/// a default access control list takes its place. Gives the mode to pass on.
pub fn apply_umask(mode: u32, umask: u32) -> u32 {
    let umask = umask & 0o777;
    let current = UMASK.get();
    if current.is_none() && sys::unshare_file_context().is_err() {
        // Not even in the strictest sandbox is this refused as a rule; without it default lists are not honoured.
        return mode & !umask;
    }
    if current != Some(umask) {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        UMASK.set(Some(umask));
    }
    mode
}
