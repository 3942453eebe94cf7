//! System calls that another thread can interrupt without losing the wake-up.
//!
//! A worker's call is made by a stub that looks at the worker's flag and then makes the call. Whoever interrupts sets
//! the flag and then sends [`SIGNAL`] to the thread. The signal may arrive between look and call, where the call would
//! wait although it was interrupted; the handler therefore moves a thread that is in between to the stub's exit. Before
//! the look the flag is seen; in the call the kernel ends it with `EINTR`; after it the call's result stands.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the first signal that programs can use; the C library keeps it for `pthread_cancel`, which nothing here uses.
const SIGNAL: c_int = 32;

std::arch::global_asm!(
    ".pushsection .text.afield_interruptible, \"ax\", @progbits",
    ".p2align 4",
    ".hidden afield_interruptible_call",
    ".globl afield_interruptible_call",
    ".type afield_interruptible_call, @function",
    // rdi: the flag, rsi: the call's number, rdx: its six arguments.
    "afield_interruptible_call:",
    "mov rcx, rdi",
    "mov rax, rsi",
    "mov r11, rdx",
    "mov rdi, [r11]",
    "mov rsi, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov r10, [r11 + 24]",
    "mov r8, [r11 + 32]",
    "mov r9, [r11 + 40]",
    ".hidden afield_interruptible_look",
    ".globl afield_interruptible_look",
    "afield_interruptible_look:",
    "cmp dword ptr [rcx], 0",
    "jne afield_interruptible_exit",
    "syscall",
    ".hidden afield_interruptible_done",
    ".globl afield_interruptible_done",
    "afield_interruptible_done:",
    "ret",
    ".hidden afield_interruptible_exit",
    ".globl afield_interruptible_exit",
    "afield_interruptible_exit:",
    "mov rax, -4",
    "ret",
    ".size afield_interruptible_call, . - afield_interruptible_call",
    ".p2align 4",
    ".hidden afield_signal_return",
    ".globl afield_signal_return",
    "afield_signal_return:",
    "mov eax, 15",
    "syscall",
    ".popsection",
);

unsafe extern "C" {
    fn afield_interruptible_call(flag: *const u32, number: u64, arguments: *const [u64; 6]) -> i64;
    static afield_interruptible_look: u8;
    static afield_interruptible_done: u8;
    static afield_interruptible_exit: u8;
    fn afield_signal_return();
}

/// Set to interrupt the thread that owns it.
#[derive(Debug, Default)]
pub struct Flag(AtomicU32);

impl Flag {
    /// Before a new call.
    #[cfg(test)]
    pub fn clear(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Whether somebody interrupts.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// Interrupts the call which the thread `tid` of this process makes, or is about to make, under this flag; 0 if no
    /// thread does yet.
    pub fn interrupt(&self, tid: i32) {
        self.0.store(1, Ordering::SeqCst);
        if tid == 0 {
            return;
        }
        // SAFETY: `tgkill` takes numbers only; the signal has a handler, which [`install`] has put there.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, SIGNAL) };
    }
}

/// Makes a system call under a flag. Gives the kernel's own result: a value or a negated errno. `-EINTR` without the
/// flag set is a signal that was meant for nobody: the caller makes the call again.
///
/// # Safety
///
/// The call with these arguments must not break the memory of this process: pointers among them are valid for what the
/// call does with them.
pub unsafe fn call(flag: &Flag, number: i64, arguments: [u64; 6]) -> i64 {
    // SAFETY: the stub makes the call, for which the caller vouches, and reads the two references.
    unsafe { afield_interruptible_call(flag.0.as_ptr(), number as u64, &arguments) }
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Puts the handler in place. Once per process image; forks inherit it.
pub fn install() {
    const SA_RESTORER: u64 = 0x0400_0000;
    let action = KernelAction {
        handler: on_interrupt as *const () as usize,
        flags: libc::SA_SIGINFO as u64 | SA_RESTORER,
        restorer: afield_signal_return as *const () as usize,
        mask: u64::MAX,
    };
    // SAFETY: the structure is the kernel's for x86-64, the size that of its mask. The C library does not let programs
    // handle this signal, so the call is made directly, with a restorer of our own.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            SIGNAL,
            &raw const action,
            std::ptr::null_mut::<KernelAction>(),
            8usize,
        )
    };
}

extern "C" fn on_interrupt(_signal: c_int, _info: *mut c_void, context: *mut c_void) {
    let look = &raw const afield_interruptible_look as usize;
    let done = &raw const afield_interruptible_done as usize;
    let exit = &raw const afield_interruptible_exit as usize;
    // SAFETY: the kernel passes a `ucontext_t` to a handler with `SA_SIGINFO`; nobody else has it.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let position = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if (look..done).contains(&(*position as usize)) {
        *position = exit as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// However the interruption falls relative to the call's beginning, the call ends.
    #[test]
    fn no_interruption_is_lost() {
        install();
        let flag = Arc::new(Flag::default());
        let tid = Arc::new(AtomicU32::new(0));
        let round = Arc::new(AtomicU32::new(0));
        let done = Arc::new(AtomicU32::new(0));
        let quit = Arc::new(AtomicBool::new(false));
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let worker = {
            let (flag, tid, round, done, quit) = (
                flag.clone(),
                tid.clone(),
                round.clone(),
                done.clone(),
                quit.clone(),
            );
            std::thread::spawn(move || {
                use std::os::fd::AsRawFd;
                // SAFETY: takes no arguments.
                tid.store(unsafe { libc::gettid() } as u32, Ordering::SeqCst);
                let mut byte = 0u8;
                while !quit.load(Ordering::SeqCst) {
                    let now = round.load(Ordering::SeqCst);
                    if now == done.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                        continue;
                    }
                    loop {
                        let arguments = [reader.as_raw_fd() as u64, &raw mut byte as u64, 1, 0, 0, 0];
                        // SAFETY: reads one byte into `byte`.
                        let result = unsafe { call(&flag, libc::SYS_read, arguments) };
                        assert_eq!(result, -i64::from(libc::EINTR));
                        if flag.is_set() {
                            break;
                        }
                    }
                    flag.clear();
                    done.store(now, Ordering::SeqCst);
                }
            })
        };
        while tid.load(Ordering::SeqCst) == 0 {
            std::hint::spin_loop();
        }
        for count in 1..=20_000u32 {
            round.store(count, Ordering::SeqCst);
            for _ in 0..count % 400 {
                std::hint::spin_loop();
            }
            flag.interrupt(tid.load(Ordering::SeqCst) as i32);
            let start = std::time::Instant::now();
            while done.load(Ordering::SeqCst) != count {
                assert!(start.elapsed().as_secs() < 20, "an interruption was lost");
                std::thread::yield_now();
            }
        }
        quit.store(true, Ordering::SeqCst);
        worker.join().unwrap();
    }
}
