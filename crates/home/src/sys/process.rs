//! What makes a process: forking, ending, stopping, names, limits.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::object::last_errno;
use super::signals::{self, Disposition, only};

/// Where a fork came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the parent, with the child's pid.
    Parent(u32),
    /// In the child, which has this one thread.
    Child,
}

/// Forks as a C program does (the child may use everything of the C library).
pub fn fork() -> Result<Forked, i32> {
    // SAFETY: the C library brings its own state into order in the child; the caller makes everything of its own anew.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Forks with another signal for the parent, or as the caller's sibling. The C library does not know of it: the caller
/// makes sure that no other thread is within it.
pub fn fork_raw(exit_signal: u32, sibling: bool) -> Result<Forked, i32> {
    let mut flags = u64::from(exit_signal & 0xff);
    if sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    // SAFETY: no stack and no memory are shared: this is `fork` with other flags.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) } {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Thread id of the caller.
pub fn thread_id() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::gettid() }
}

/// Ends the process at once, without anything that a C program does at its exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Dies as a wait status says: with that code, or of that signal, with or without a core dump.
pub fn die(status: i32) -> ! {
    if libc::WIFEXITED(status) {
        exit(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    if !libc::WCOREDUMP(status) {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the structure is the call's; dumping may also go to a program, which only "not dumpable" prevents.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
        }
    }
    if libc::WCOREDUMP(status) {
        raise_core_limit();
    }
    if (1..=64).contains(&signal) {
        let _ = signals::set_disposition(signal, Disposition::Default, 0);
        send_self(signal);
        signals::unblock(only(signal));
        // Not reached for signals that kill. SIGKILL acts when the call returns at the latest.
    }
    exit(128 + (signal & 0x7f))
}

/// Lets a core be dumped as far as that is up to us: the guest's own limit is its node's to hold. One page is enough to count
/// as a dump, and nobody wants the deputy's.
fn raise_core_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is the calls'.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(4096);
            libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
        }
    }
}

/// Sends the calling thread a signal.
pub fn send_self(signal: i32) {
    // SAFETY: takes numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
}

/// Stops the process with a stop signal's default action, as far as the kernel lets it (it does not in an orphaned
/// process group, but for `SIGSTOP`); returns when the process runs again.
pub fn stop(signal: i32, ignored: bool) {
    let set = only(signal);
    let _ = signals::set_disposition(signal, Disposition::Default, 0);
    send_self(signal);
    let old = signals::unblock(set);
    // The process is stopped here.
    signals::set_blocked(old);
    if ignored {
        let _ = signals::set_disposition(signal, Disposition::Ignore, 0);
    }
}

/// Kills a child and waits for it, whatever its exit signal.
pub fn kill_and_reap(pid: u32) {
    // SAFETY: takes numbers.
    unsafe {
        libc::kill(pid as i32, libc::SIGKILL);
        while libc::waitpid(pid as i32, ptr::null_mut(), libc::__WALL) < 0 && last_errno() == libc::EINTR {}
    }
}

/// Kills a process.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    if unsafe { libc::kill(pid as i32, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A child for which the process could wait right now (it is not waited for): its pid.
pub fn waitable_child() -> Option<u32> {
    // SAFETY: all zero is a value of the structure, and the call fills it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT;
        let outcome = libc::waitid(libc::P_ALL, 0, &raw mut info, options);
        (outcome == 0 && info.si_pid() > 0).then(|| info.si_pid() as u32)
    }
}

/// Where the kernel believes things to be in this process: what `PR_SET_MM_MAP` wants to be told again.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// The arguments that other processes see in `/proc/PID/cmdline`.
#[derive(Debug)]
pub struct Title {
    map: MemoryMap,
    /// Start and length of the area that holds the arguments now, if it is ours.
    area: Option<(usize, usize)>,
}

impl Title {
    /// Looks up where the arguments are. `None`: the kernel does not tell.
    pub fn of_this_process() -> Option<Self> {
        let text = crate::proc::read("self/stat").ok()?;
        // Fields are counted from 1; the second, in parentheses, may contain anything.
        let rest = &text[text.rfind(')')? + 2..];
        let fields: Vec<u64> = rest
            .split_ascii_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            map: MemoryMap {
                start_code: field(26)?,
                end_code: field(27)?,
                start_stack: field(28)?,
                start_data: field(45)?,
                end_data: field(46)?,
                start_brk: field(47)?,
                arg_start: field(48)?,
                arg_end: field(49)?,
                env_start: field(50)?,
                env_end: field(51)?,
                ..MemoryMap::default()
            },
            area: None,
        })
    }

    /// Shows these arguments (NUL after each). No other thread may change the program break meanwhile. Where the
    /// kernel does not let it, the old ones stay.
    pub fn show(&mut self, arguments: &[u8]) {
        if arguments.is_empty() {
            return;
        }
        // SAFETY: new memory, which nothing else refers to, of at least the length that is copied there. The kernel checks the
        // addresses that it is told; it only uses them to find what it shows.
        unsafe {
            let length = arguments.len();
            let area = libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if area == libc::MAP_FAILED {
                return;
            }
            ptr::copy_nonoverlapping(arguments.as_ptr(), area.cast(), length);
            let map = MemoryMap {
                brk: libc::sbrk(0) as u64,
                arg_start: area as u64,
                arg_end: area as u64 + length as u64,
                exe_fd: u32::MAX,
                ..self.map
            };
            let outcome = libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP,
                &raw const map,
                size_of::<MemoryMap>(),
                0,
            );
            if outcome != 0 {
                libc::munmap(area, length);
                return;
            }
            self.map = map;
            if let Some((start, length)) = self.area.replace((area as usize, length)) {
                libc::munmap(start as *mut libc::c_void, length);
            }
        }
    }
}

/// A limit, soft and hard.
pub fn limit(resource: u32) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the structure is the call's.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

/// Raises a soft limit to the hard one.
pub fn raise_limit(resource: u32) {
    let (_, hard) = limit(resource);
    let limit = libc::rlimit {
        rlim_cur: hard,
        rlim_max: hard,
    };
    // SAFETY: the structure is the call's.
    unsafe { libc::setrlimit(resource, &raw const limit) };
}

/// The file mode creation mask. It is changed for a moment: for use while the process has one thread.
pub fn umask() -> u32 {
    // SAFETY: takes and gives numbers.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: takes and gives numbers.
    unsafe { libc::umask(mask) };
}

/// Real, effective and saved user ids, then the same for groups.
pub fn ids() -> [u32; 6] {
    let mut ids = [0u32; 6];
    let [a, b, c, d, e, f] = &mut ids;
    // SAFETY: six places for numbers.
    unsafe {
        libc::getresuid(a, b, c);
        libc::getresgid(d, e, f);
    }
    ids
}

/// Whether two descriptors of this process are the same open file. False if the kernel does not tell.
pub fn same_open_file(one: RawFd, other: RawFd) -> bool {
    const KCMP_FILE: u64 = 0;
    // SAFETY: takes numbers.
    unsafe {
        let pid = libc::getpid();
        libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, one as u64, other as u64) == 0
    }
}

/// Keeps the C library's memory small: one arena, large pieces given back at once.
pub fn frugal_memory() {
    // SAFETY: sets numbers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

/// Closes every descriptor that is not in the ascending list.
pub fn close_all_but(keep: &[RawFd]) {
    let mut first = 0u32;
    for &descriptor in keep {
        let descriptor = descriptor as u32;
        if descriptor > first {
            close_range(first, descriptor - 1);
        }
        first = descriptor + 1;
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the caller says that nothing uses these.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Executes a program with this process's environment plus `environment`; returns only if it fails.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> i32 {
    let list = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: both lists end with NULL and their strings with NUL.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_errno()
}

/// A session of its own, without a terminal.
pub fn new_session() {
    // SAFETY: takes nothing.
    unsafe { libc::setsid() };
}

/// Dispositions and mask as a program should find them.
pub fn default_signals() {
    for signal in 1..=64 {
        // SIGKILL, SIGSTOP and the C library's own are refused; all the better.
        let _ = signals::set_disposition(signal, Disposition::Default, 0);
    }
    signals::set_blocked(0);
}

/// The caller gets this signal when the thread that made it ends; 0: none.
pub fn end_with_parent(signal: i32) {
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// Sets an identity with the C library's wrappers, which take all threads along. `None`: not such a call.
pub fn set_identity(number: i64, arguments: &[u64; 6], groups: &[u8]) -> Option<i64> {
    let [a, b, c] = [arguments[0] as u32, arguments[1] as u32, arguments[2] as u32];
    // SAFETY: numbers, and a list of as many groups as is said.
    let outcome = unsafe {
        match number {
            libc::SYS_setuid => libc::setuid(a),
            libc::SYS_setgid => libc::setgid(a),
            libc::SYS_setreuid => libc::setreuid(a, b),
            libc::SYS_setregid => libc::setregid(a, b),
            libc::SYS_setresuid => libc::setresuid(a, b, c),
            libc::SYS_setresgid => libc::setresgid(a, b, c),
            libc::SYS_setgroups => {
                let list: Vec<u32> = groups
                    .chunks_exact(4)
                    .map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
                    .collect();
                if list.len() != a as usize {
                    return Some(-i64::from(libc::EINVAL));
                }
                libc::setgroups(list.len(), list.as_ptr())
            }
            _ => return None,
        }
    };
    Some(if outcome == 0 { 0 } else { -i64::from(last_errno()) })
}

/// Takes a descriptor over by its number.
///
/// The caller says that it is open and nobody else's: one that the process was started with, or one that the owner which
/// the parent's memory knows cannot close any more because this is a fork.
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    debug_assert!(descriptor >= 0);
    // SAFETY: as above.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// The environment as the process was given it.
pub fn environment() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut strings = Vec::new();
    // SAFETY: a list of strings that ends with NULL, which nobody changes while the process has one thread.
    unsafe {
        let mut place = environ;
        while !place.is_null() && !(*place).is_null() {
            strings.push(CStr::from_ptr(*place).to_owned());
            place = place.add(1);
        }
    }
    strings
}

/// Makes `targets[n]` the descriptor `n` of this process, and closes all others.
pub fn only_descriptors(targets: &[RawFd]) {
    let mut places = targets.to_vec();
    let mut keep = targets.to_vec();
    keep.sort_unstable();
    keep.dedup();
    close_all_but(&keep);
    // One after the other, since there may be room for no more.
    for index in 0..places.len() {
        let number = index as RawFd;
        // SAFETY: for a process of one thread that is about to execute another program: nothing uses what is replaced.
        unsafe {
            if places[index] == number {
                libc::fcntl(number, libc::F_SETFD, 0);
                continue;
            }
            if places[index + 1..].contains(&number) {
                let moved = libc::fcntl(number, libc::F_DUPFD, targets.len() as i32);
                for place in &mut places[index + 1..] {
                    if *place == number {
                        *place = moved;
                    }
                }
            }
            libc::dup2(places[index], number);
        }
    }
    close_range(targets.len() as u32, u32::MAX);
}

/// Waits for a child, whatever its exit signal; its wait status.
pub fn reap(pid: u32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: the status is the call's.
        let outcome = unsafe { libc::waitpid(pid as i32, &raw mut status, libc::__WALL) };
        if outcome >= 0 {
            return Some(status);
        }
        if last_errno() != libc::EINTR {
            return None;
        }
    }
}

/// Borrows a descriptor by its number, for as long as nobody closes it.
pub fn borrow<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    // SAFETY: for descriptors that the process was started with, which stay open while they are looked at.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}
