//! `CLONE_PIDFD`: the caller's descriptor of its child becomes home's.
//!
//! The node's kernel makes one of its own with the guest. It tells of the guest's end, which is before the deputy's: who polls it
//! would find that the child cannot be waited for yet. So before the fork returns, the caller makes a few more calls: it opens the
//! child's descriptor as any (which gives home's), puts it into the other's place, and closes the spare number.

use tracing::debug;

use super::{Resume, Tracer, Within};
use crate::sys::memory;
use crate::sys::ptrace::{self, Registers};

/// A handover under way.
#[derive(Debug)]
pub(super) struct Handover {
    /// What the caller goes on with.
    registers: Registers,
    /// The descriptor that the caller has been given.
    given: u32,
    step: Step,
    /// The step's call has begun.
    begun: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Open { child: u32 },
    Place { spare: u64 },
    Close { spare: u64 },
}

impl Step {
    fn call(self, given: u32) -> (i64, [u64; 3]) {
        match self {
            Self::Open { child } => (libc::SYS_pidfd_open, [u64::from(child), 0, 0]),
            Self::Place { spare } => (libc::SYS_dup3, [spare, u64::from(given), libc::O_CLOEXEC as u64]),
            Self::Close { spare } => (libc::SYS_close, [spare, 0, 0]),
        }
    }
}

impl Tracer {
    /// Begins, for a thread at the end of its fork that goes on with these registers. False: it has to do with what it has.
    pub(super) fn hand_over(&mut self, tid: i32, registers: Registers, place: u64, child: u32) -> bool {
        let mut given = [0; 4];
        if memory::read(tid, place, &mut given).is_err() {
            return false;
        }
        let handover = Handover {
            registers,
            given: u32::from_ne_bytes(given),
            step: Step::Open { child },
            begun: false,
        };
        self.make_step(tid, handover)
    }

    /// Has the thread make a step's call.
    fn make_step(&mut self, tid: i32, handover: Handover) -> bool {
        let (number, arguments) = handover.step.call(handover.given);
        let mut registers = handover.registers;
        registers.rip -= 2;
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        if let Err(error) = ptrace::set_registers(tid, &registers) {
            debug!("registers of {tid}: {error}");
            return false;
        }
        let Some(thread) = self.threads.get_mut(&tid) else {
            return false;
        };
        thread.within = Some(Within::HandingOver(Box::new(Handover {
            begun: false,
            ..handover
        })));
        self.go_on(tid, Resume::ToCallEnd);
        true
    }

    /// A step's call begins or has ended.
    pub(super) fn handed_over(&mut self, tid: i32, mut handover: Box<Handover>) {
        if !handover.begun {
            handover.begun = true;
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.within = Some(Within::HandingOver(handover));
            }
            return self.go_on(tid, Resume::ToCallEnd);
        }
        let result = ptrace::registers(tid).map_or(-1, |registers| registers.rax as i64);
        let next = match handover.step {
            Step::Open { .. } if result >= 0 => Some(Step::Place { spare: result as u64 }),
            // However it went, the spare number goes.
            Step::Place { spare } => Some(Step::Close { spare }),
            // What cannot be opened (the number of descriptors is limited) leaves the caller with what it has.
            Step::Open { .. } | Step::Close { .. } => None,
        };
        let registers = handover.registers;
        if let Some(step) = next {
            handover.step = step;
            if self.make_step(tid, *handover) {
                return;
            }
        }
        if let Err(error) = ptrace::set_registers(tid, &registers) {
            debug!("registers of {tid}: {error}");
        }
        self.go_on(tid, Resume::Run(0));
    }
}
