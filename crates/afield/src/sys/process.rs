//! Processes: becoming another program, and trying things in a child.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::check;

/// Most bytes that a child reports.
const REPORT_BYTES_MAX: usize = 4096;

/// Executes a command, searching `PATH`, with dispositions, mask and descriptors as they are. Returns why it failed.
pub fn execute(command: &[OsString]) -> io::Error {
    let strings: Result<Vec<CString>, _> = command
        .iter()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect();
    let Ok(strings) = strings else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let Some(name) = strings.first() else {
        return io::ErrorKind::NotFound.into();
    };
    // SAFETY: a string and an array of strings that ends with a null pointer, alive during the call.
    unsafe { libc::execvp(name.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Opens `/dev/null` in place of standard descriptors that are closed, so that no file is taken for one of them.
pub fn open_standard_descriptors() {
    for descriptor in 0..=2 {
        // SAFETY: integers only.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            // The lowest free number is this one, since those below are open. If it fails the descriptor stays closed.
            // SAFETY: a constant string.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
}

/// Takes over a descriptor that this program was started with. The caller names each one once, and none of the standard
/// ones.
pub fn adopt_descriptor(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nothing in this program has opened it, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes writes to broken pipes and sockets fail instead of killing the process.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Forks: the child's pid, or `None` in the child. A process with several threads is refused.
pub fn fork() -> io::Result<Option<i32>> {
    refuse_threads()?;
    // SAFETY: this is the only thread.
    unsafe { fork_alone() }
}

/// As [`fork`], without a look at the threads.
///
/// # Safety
/// The process has one thread.
pub unsafe fn fork_alone() -> io::Result<Option<i32>> {
    // SAFETY: the child continues with a copy of everything, as its one thread.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Ends the process at once, without running anything.
pub fn exit(status: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(status) }
}

/// Waits for a child, and says how it ended: its exit status, or 128 and the signal.
pub fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: a pointer to a live variable.
        match check(unsafe { libc::waitpid(pid, &mut status, libc::__WALL) }) {
            Ok(_) if libc::WIFEXITED(status) => return Ok(libc::WEXITSTATUS(status)),
            Ok(_) if libc::WIFSIGNALED(status) => return Ok(128 + libc::WTERMSIG(status)),
            Ok(_) => return Ok(128 + libc::WSTOPSIG(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// True once a child has ended (it is not reaped).
pub fn has_ended(pid: i32) -> bool {
    // SAFETY: plain data, for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a pointer to a live structure.
    let result = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) };
    // SAFETY: waitid has filled the structure in, with a zero pid if nothing has ended.
    result == -1 || unsafe { info.si_pid() } != 0
}

/// Kills a process.
pub fn kill(pid: i32) {
    // SAFETY: integers only.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// This thread's answer of `getppid`, asked from the kernel.
pub fn parent() -> i64 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_getppid) }
}

/// A process descriptor.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(
        pid,
        rustix::process::PidfdFlags::empty(),
    )?)
}

/// A fork in a process with threads would leave the child with locks that nobody unlocks.
fn refuse_threads() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() == 1 {
        Ok(())
    } else {
        Err(io::Error::other("the process has several threads"))
    }
}

/// Forks a child with a chosen pid in its pid namespace: its pid, or `None` in the child. A process with several threads
/// is refused.
pub fn fork_as(pid: i32) -> io::Result<Option<i32>> {
    #[derive(Default)]
    #[repr(C)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    refuse_threads()?;
    let arguments = Arguments {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: &raw const pid as u64,
        set_tid_size: 1,
        ..Arguments::default()
    };
    // SAFETY: the structure has the size that is passed and lives across the call, as does the pid it points to; no
    // flag shares memory, and this is the only thread, so the child has a copy of everything.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<Arguments>()) };
    let pid = check(result)?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Shows `title` as this process's command line (`PR_SET_MM_MAP`), as deputies do.
pub fn set_title(title: &[u8]) -> io::Result<()> {
    /// `struct prctl_mm_map`.
    #[repr(C)]
    struct Map {
        addresses: [u64; 11],
        auxv: u64,
        auxv_bytes: u32,
        executable: u32,
    }
    // Fields of proc(5)'s stat, counted from 1: start_code, end_code, start_data, end_data, start_brk, (brk), startstack,
    // arg_start, arg_end, env_start, env_end.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map_or("", |(_, fields)| fields)
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    // SAFETY: asks for the end of the heap and changes nothing.
    let end = unsafe { libc::sbrk(0) } as u64;
    let copy: &'static mut [u8] = Box::leak(title.to_vec().into_boxed_slice());
    let start = copy.as_ptr() as u64;
    let map = Map {
        addresses: [
            field(26),
            field(27),
            field(45),
            field(46),
            field(47),
            end,
            field(28),
            start,
            start + copy.len() as u64,
            field(50),
            field(51),
        ],
        auxv: 0,
        auxv_bytes: 0,
        executable: u32::MAX,
    };
    // SAFETY: the structure has the size that is passed; its addresses are this process's own, or memory that is
    // never freed.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            &raw const map,
            size_of::<Map>(),
            0,
        )
    };
    check(result).map(drop)
}

/// Runs `probe` in a child process with a group of its own, and passes on what it says. Whatever the child has started
/// is killed afterwards.
///
/// Must be called while the process has one thread.
pub fn in_child(limit: Duration, probe: impl FnOnce() -> Result<String, String>) -> Result<String, String> {
    let (reader, writer) = io::pipe().map_err(|error| format!("pipe: {error}"))?;
    let child = fork().map_err(|error| format!("fork: {error}"))?;
    let Some(pid) = child else {
        drop(reader);
        begin_child();
        let verdict =
            catch_unwind(AssertUnwindSafe(probe)).unwrap_or_else(|_| Err("the check panicked".into()));
        let (mark, text) = match &verdict {
            Ok(text) => (b'+', text),
            Err(text) => (b'-', text),
        };
        let mut report = vec![mark];
        report.extend(text.bytes().take(REPORT_BYTES_MAX - 1));
        // One write, so that the reader gets it whole. If it fails the parent says that nothing came.
        let _ = File::from(OwnedFd::from(writer)).write(&report);
        exit(0)
    };
    drop(writer);
    let report = read_once(OwnedFd::from(reader).into(), limit);
    // The child has made itself a group of the same number, or will find itself killed alone.
    // SAFETY: integers only.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    kill(pid);
    let ended = wait(pid);
    match report {
        Ok(report) => match report.split_first() {
            Some((b'+', text)) => Ok(String::from_utf8_lossy(text).into_owned()),
            Some((_, text)) => Err(String::from_utf8_lossy(text).into_owned()),
            None => Err(format!("the check ended without a word ({ended:?})")),
        },
        Err(error) => Err(error.to_string()),
    }
}

fn begin_child() {
    // SAFETY: integers only. The child dies with its parent, and its own children can be killed with it.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

fn read_once(mut file: File, limit: Duration) -> io::Result<Vec<u8>> {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, alive during the call.
    if check(unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) })? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    }
    let mut report = vec![0; REPORT_BYTES_MAX];
    let length = file.read(&mut report)?;
    report.truncate(length);
    Ok(report)
}
