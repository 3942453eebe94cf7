//! Forwarded system calls.

use std::ffi::CStr;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use afield_abi::syscalls::{SET_FILE_FLAGS, nr};
use afield_link::wire::{self, CallHeader, NODE_HANDLE, WireError};
use rustix::fs::{Mode, OFlags};

use super::operations::never_waits;
use super::workers::Worker;
use super::{Deputy, lock, out_of_the_way};
use crate::messages::FromDeputy;
use crate::sys::call::Prepared;
use crate::sys::interrupt::Flag;
use crate::sys::{object, process};

const EINTR: i64 = -(libc::EINTR as i64);

impl Deputy {
    /// Makes a call, or has a worker make it. It is always answered.
    pub(super) fn begin_call(self: &Arc<Self>, id: u64, payload: &[u8]) -> Result<(), WireError> {
        let (header, rest) = wire::split::<CallHeader>(payload, "call")?;
        let buffers = wire::decode_buffers(header.buffers.get(), rest)?;
        let number = header.number.get();
        let arguments = header.arguments.map(|argument| argument.get());
        let object = |handle| lock(&self.handles).get(handle).map(|handle| handle.file);
        let call = match Prepared::new(number, arguments, &buffers, object) {
            Ok(call) if call.opens() && !self.may_become(header.result.get()) => {
                self.fail_call(id, libc::EINVAL);
                return Ok(());
            }
            Ok(call) => call,
            Err(error) => {
                self.log(error.to_string());
                self.fail_call(id, error.errno());
                return Ok(());
            }
        };
        match number {
            nr::SETRLIMIT if call.register(0) == libc::RLIMIT_NPROC.into() => self.keep_worker(),
            nr::PRLIMIT64 if call.register(1) == libc::RLIMIT_NPROC.into() => self.keep_worker(),
            _ => {}
        }
        let object = match number {
            nr::CONNECT => arguments[0],
            _ => header.result.get(),
        };
        match number {
            nr::WAIT4 | nr::WAITID => self.begin_wait(id, call),
            _ if call.blocks() && !call.file().is_some_and(never_waits) => {
                self.call_in_worker(id, call, object);
            }
            _ => {
                let mut call = call;
                let result = self.make_at_once(&mut call);
                let result = self.adopt_result(&mut call, result, object);
                self.answer_call(id, result, &call);
            }
        }
        Ok(())
    }

    /// Whether a new object may have this handle.
    pub(super) fn may_become(&self, handle: u64) -> bool {
        handle & NODE_HANDLE != 0 && lock(&self.handles).get(handle).is_none()
    }

    /// A new descriptor becomes a home object of that handle; then the result is 0. Or that object has been connected.
    fn adopt_result(&self, call: &mut Prepared, result: i64, handle: u64) -> i64 {
        match call.take_descriptor() {
            Some(file) => {
                self.tell_of_connection(handle, file.as_fd(), true);
                lock(&self.handles).insert_own(handle, file);
                0
            }
            None if call.number() == nr::CONNECT && [0, -i64::from(libc::EINPROGRESS)].contains(&result) => {
                if let Some(object) = lock(&self.handles).get(handle) {
                    self.tell_of_connection(handle, object.file.as_fd(), object.own);
                }
                result
            }
            None => result,
        }
    }

    /// The agent has to know of connections that the job has from others, too.
    pub fn tell_of_inherited(&self) {
        let all = lock(&self.handles).all();
        for (handle, object) in all {
            self.tell_of_connection(handle, object.file.as_fd(), false);
        }
    }

    /// If it is a TCP connection, the agent has to know before the guest.
    pub(super) fn tell_of_connection(&self, handle: u64, file: BorrowedFd<'_>, own: bool) {
        use rustix::net::{SocketType, ipproto, sockopt};
        let is_tcp = sockopt::socket_type(file) == Ok(SocketType::STREAM)
            && sockopt::socket_protocol(file).is_ok_and(|protocol| protocol == Some(ipproto::TCP));
        if !is_tcp {
            return;
        }
        let local = rustix::net::getsockname(file).ok();
        if let Some(local) = local.and_then(|local| SocketAddr::try_from(local).ok())
            && local.port() != 0
        {
            self.tell(0, &FromDeputy::Connected { handle, local, own });
        }
    }

    /// A call that does not wait.
    fn make_at_once(&self, call: &mut Prepared) -> i64 {
        match call.number() {
            nr::RT_SIGACTION => {
                let signal = call.register(0) as i32;
                match call.memory(1) {
                    // It only asks, and the node answers that.
                    None => 0,
                    Some(action) => {
                        let mut dispositions = lock(&self.dispositions);
                        dispositions
                            .set(signal, action)
                            .map_or_else(|errno| -i64::from(errno), |()| 0)
                    }
                }
            }
            nr::GETRUSAGE => {
                let result = call.make(&Flag::default());
                if let (0, Some(usage)) = (result, call.memory(1)) {
                    self.children.add_reaped_usage(usage);
                }
                result
            }
            nr::TIMES => {
                let result = call.make(&Flag::default());
                if let Some(times) = call.memory(0) {
                    self.children.put_reaped_times(times);
                }
                result
            }
            nr::SETUID
            | nr::SETGID
            | nr::SETREUID
            | nr::SETREGID
            | nr::SETRESUID
            | nr::SETRESGID
            | nr::SETGROUPS
                if !self.raw =>
            {
                let registers = *call.registers();
                let number = i64::from(call.number());
                let groups = call.memory(1).map_or(&[][..], |groups| groups);
                process::set_identity(number, &registers, groups)
                    .unwrap_or_else(|| call.make(&Flag::default()))
            }
            nr::CHROOT => {
                if let Err(error) = crate::proc::keep(out_of_the_way) {
                    return -i64::from(error.raw_os_error().unwrap_or(libc::EIO));
                }
                call.make(&Flag::default())
            }
            nr::IOCTL if !call.opens() => set_file_flags(call).unwrap_or_else(|errno| -i64::from(errno)),
            // The filter is the guest's; whether it may have one is asked.
            nr::SECCOMP => may_filter(),
            nr::PRCTL if call.register(0) == libc::PR_SET_SECCOMP as u64 => may_filter(),
            // A signal for the thread that stands for the whole process here.
            _ => loop {
                let result = call.make(&Flag::default());
                if result != EINTR {
                    return result;
                }
            },
        }
    }

    /// A call that may wait, with nothing special about it.
    fn call_in_worker(self: &Arc<Self>, id: u64, mut call: Prepared, handle: u64) {
        let work = move |worker: &mut Worker<'_>| {
            let result = loop {
                let result = worker.wait(|flag| call.make(flag));
                if result != EINTR || worker.cancelled() {
                    break result;
                }
            };
            let result = worker.deputy.adopt_result(&mut call, result, handle);
            worker.deputy.answer_call(id, result, &call);
        };
        if let Err(errno) = self.employ(id, Box::new(work)) {
            self.fail_call(id, errno);
        }
    }
}

/// Sets the flags of a file that is named by a path: the deputy has not what the guest has open.
fn set_file_flags(call: &mut Prepared) -> Result<i64, i32> {
    /// `FS_IOC_GETFLAGS` and `FS_IOC_FSGETXATTR`.
    const GET_FILE_FLAGS: u32 = 0x8008_6601;
    const GET_FILE_ATTRIBUTES: u32 = 0x801c_581f;
    /// `FS_APPEND_FL` and `FS_IMMUTABLE_FL`.
    const LOCKS_FLAGS: u32 = 0x30;
    /// `FS_XFLAG_APPEND` and `FS_XFLAG_IMMUTABLE`.
    const LOCKS_ATTRIBUTES: u32 = 0x18;
    let path = CStr::from_bytes_until_nul(call.memory(0).ok_or(libc::EFAULT)?).map_err(|_| libc::EFAULT)?;
    let open = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, open, Mode::empty()).map_err(|errno| errno.raw_os_error())?;
    let command = call.register(1) as u32;
    let (read, locks) = match command {
        SET_FILE_FLAGS => (GET_FILE_FLAGS, LOCKS_FLAGS),
        _ => (GET_FILE_ATTRIBUTES, LOCKS_ATTRIBUTES),
    };
    let locks = |flags: &[u8]| {
        let flags = flags.first_chunk().map(|flags| u32::from_ne_bytes(*flags));
        flags.is_some_and(|flags| flags & locks != 0)
    };
    let control =
        |command, memory: &mut [u8]| object::control(&Flag::default(), file.as_fd(), command, 0, memory);
    let argument = call.memory(2).ok_or(libc::EFAULT)?;
    // Room for either structure, and for the "long" that one of them is called.
    let mut before = [0; 32];
    control(read, &mut before)?;
    let result = control(command, argument)?;
    // The kernel tells nobody of the file's new time. It does tell of a mode that is set, be it the same, which is not possible while the
    // file is locked.
    let tell = || {
        if let Ok(stat) = rustix::fs::fstat(&file) {
            let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode));
        }
    };
    match (locks(&before), locks(argument)) {
        (_, false) => tell(),
        (false, true) if control(command, &mut before).is_ok() => {
            tell();
            control(command, argument)?;
        }
        // It stays locked, and its time unknown elsewhere.
        _ => {}
    }
    Ok(result)
}

/// 0 if this process may install a system-call filter, as the kernel judges, else a negated errno.
fn may_filter() -> i64 {
    let gains_nothing = rustix::thread::no_new_privs().unwrap_or(false);
    let is_privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    if gains_nothing || is_privileged {
        0
    } else {
        -i64::from(libc::EACCES)
    }
}
