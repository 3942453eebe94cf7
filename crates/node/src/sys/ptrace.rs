//! ptrace(2), as the tracer's thread uses it. Threads are named by their id in the session's pid namespace.

use std::io;

/// Registers of a stopped thread.
pub type Registers = libc::user_regs_struct;

/// A stop or end that `wait` reports.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// Which thread.
    pub tid: i32,
    /// The wait status.
    pub status: i32,
    /// Resource use; of the whole process if it is a process that ended.
    pub usage: libc::rusage,
}

/// `PTRACE_EVENT_STOP`, which the C library's header does not name.
pub const EVENT_STOP: i32 = 128;

// Requests that the C library's header does not name.
const GET_SIGNAL_MASK: libc::c_uint = 0x420a;
const SET_SIGNAL_MASK: libc::c_uint = 0x420b;

const OPTIONS: libc::c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_EXITKILL;

fn request(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: the callers below pass, for each request, an integer or a pointer to memory that is large enough and
    // lives across the call.
    let result = unsafe { libc::ptrace(request as _, tid, address, data) };
    super::check(result)
}

/// Starts to trace a thread without stopping it. Its children are traced from their first instruction.
pub fn seize(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, OPTIONS as usize).map(drop)
}

/// Makes a thread stop at its next return to user mode.
pub fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Continues a stopped thread, delivering `signal` if it is not 0.
pub fn resume(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Continues a stopped thread until its system call ends.
pub fn resume_to_call_end(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// The message of the event the thread stopped for.
pub fn event_message(tid: i32) -> io::Result<u64> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
    Ok(message)
}

/// Registers of a stopped thread.
pub fn registers(tid: i32) -> io::Result<Registers> {
    // SAFETY: the structure is plain integers, for which zeros are valid.
    let mut registers: Registers = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETREGS, tid, 0, &raw mut registers as usize)?;
    Ok(registers)
}

/// Changes registers of a stopped thread.
pub fn set_registers(tid: i32, registers: &Registers) -> io::Result<()> {
    request(
        libc::PTRACE_SETREGS,
        tid,
        0,
        std::ptr::from_ref(registers) as usize,
    )
    .map(drop)
}

/// The signals that a stopped thread blocks; bit `n - 1` for signal `n`.
pub fn blocked(tid: i32) -> io::Result<u64> {
    let mut set = 0u64;
    request(GET_SIGNAL_MASK, tid, size_of::<u64>(), &raw mut set as usize)?;
    Ok(set)
}

/// Changes them.
pub fn set_blocked(tid: i32, set: u64) -> io::Result<()> {
    request(SET_SIGNAL_MASK, tid, size_of::<u64>(), &raw const set as usize).map(drop)
}

/// The siginfo of the signal the thread stopped for, 128 bytes.
pub fn signal_info(tid: i32) -> io::Result<[u8; 128]> {
    let mut info = Info([0; 128]);
    request(libc::PTRACE_GETSIGINFO, tid, 0, &raw mut info as usize)?;
    Ok(info.0)
}

/// Changes the siginfo of the signal the thread stopped for.
pub fn set_signal_info(tid: i32, info: &[u8; 128]) -> io::Result<()> {
    let info = Info(*info);
    request(libc::PTRACE_SETSIGINFO, tid, 0, &raw const info as usize).map(drop)
}

/// Raw bytes with the alignment that the kernel's `siginfo_t` has.
#[repr(C, align(8))]
struct Info([u8; 128]);

/// The next stop or end of a thread that the calling thread traces, without waiting for one.
pub fn next_stop() -> io::Result<Option<Waited>> {
    let mut status = 0;
    // SAFETY: plain integers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // Only the calling thread's: init is a child of another.
    let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: both pointers are to live locals.
    let tid = unsafe { libc::wait4(-1, &mut status, flags, &mut usage) };
    match super::check(libc::c_long::from(tid)) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(Waited { tid, status, usage })),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}
