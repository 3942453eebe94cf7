//! The job's terminal, which its user gets back in order if afield itself fails while a program has changed its modes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Deputy;
use crate::sys::interrupt::Flag;
use crate::sys::object;
use crate::sys::signals::only;

/// Longest wait for the deputies of children, who end for the same reason.
const CHILDREN_MAX: Duration = Duration::from_secs(1);

/// The kernel's `struct termios2`.
const MODES_BYTES: usize = 44;

/// A terminal's modes as they were when the job began.
#[derive(Debug)]
pub struct Terminal {
    /// Which it is.
    device: [u8; 4],
    modes: [u8; MODES_BYTES],
}

/// The caller's controlling terminal.
fn own() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()
}

fn control(terminal: &OwnedFd, command: libc::Ioctl, memory: &mut [u8]) -> Option<()> {
    object::control(&Flag::default(), terminal.as_fd(), command as u32, 0, memory)
        .ok()
        .map(drop)
}

/// Which terminal this is, whatever name it was opened by.
fn device_of(terminal: &OwnedFd) -> Option<[u8; 4]> {
    let mut device = [0; 4];
    control(terminal, libc::TIOCGDEV, &mut device).map(|()| device)
}

impl Terminal {
    /// The caller's; `None` if it has none.
    pub fn of_this_process() -> Option<Self> {
        let terminal = own()?;
        let mut modes = [0; MODES_BYTES];
        control(&terminal, libc::TCGETS2, &mut modes)?;
        Some(Self {
            device: device_of(&terminal)?,
            modes,
        })
    }
}

impl Deputy {
    /// Puts the modes of the job's terminal back, if this process has it: otherwise they are somebody else's by now.
    fn give_terminal_back(&self) {
        let Some((saved, terminal)) = self.terminal.as_ref().zip(own()) else {
            return;
        };
        let in_foreground =
            rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp());
        if device_of(&terminal) != Some(saved.device) || !in_foreground {
            return;
        }
        let mut modes = saved.modes;
        // Not if it has just been taken by another: then there is a signal.
        self.signals.with_job_control(only(libc::SIGTTOU), || {
            control(&terminal, libc::TCSETS2, &mut modes);
        });
    }

    /// Waits, not for long, for the deputies of children that run: whoever waits for this process believes that nobody else
    /// of the job uses the terminal any more.
    fn await_children(&self) {
        let deadline = Instant::now() + CHILDREN_MAX;
        for child in self.children.known() {
            let stopped = crate::proc::read(&format!("{child}/stat")).is_ok_and(|stat| {
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with('T'))
            });
            let process =
                Pid::from_raw(child as i32).and_then(|child| pidfd_open(child, PidfdFlags::empty()).ok());
            let (Some(process), false) = (process, stopped) else {
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left));
        }
    }

    /// The job cannot go on: before the process ends, its user gets the terminal back and, from the job's first process,
    /// is told why.
    pub(super) fn give_up(&self, why: &str) {
        self.await_children();
        self.give_terminal_back();
        self.tell_user(why);
    }
}
