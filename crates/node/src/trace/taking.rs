//! Ways to files (`O_PATH`) that a guest has received.
//!
//! Nobody can put such a descriptor into another process (`SECCOMP_IOCTL_NOTIF_ADDFD` refuses it). So what stands under its number when the
//! receiving call ends is a socket in which it waits, and before the call returns the thread makes a few more: it receives what is in
//! the socket, puts that into the socket's place, and closes the spare number.

use std::io;

use tracing::debug;

use super::descriptors::RED_ZONE_BYTES;
use super::{Answered, Resume, Tracer, Within};
use crate::sys::memory;
use crate::sys::ptrace::{self, Registers};
use crate::sys::seccomp::Answer;

/// What a thread has received, as far as something is left to be done with it.
#[derive(Debug)]
pub struct Received {
    /// Numbers under which it has sockets with descriptors.
    pub sockets: Vec<u32>,
    /// What takes their places is closed on `execve`.
    pub cloexec: bool,
    /// There are files whose offset is home's.
    pub seekable: bool,
}

impl Received {
    /// Whether nothing is left to be done.
    pub fn is_complete(&self) -> bool {
        self.sockets.is_empty() && !self.seekable
    }
}

/// A thread taking its descriptors, at the end of the call by which it has received them.
#[derive(Debug)]
pub(super) struct Taking {
    /// What it goes on with.
    registers: Registers,
    blocked: u64,
    received: Received,
    step: Step,
    /// The step's call has begun.
    begun: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Receive { socket: u32 },
    Place { socket: u32, spare: u32 },
    Close { spare: u32 },
}

/// A `struct msghdr`, what it points to, and where in a thread's memory it lies: below its stack.
#[derive(Debug, Clone, Copy)]
struct Room(u64);

impl Room {
    const VECTOR: u64 = 56;
    const BYTE: u64 = 72;
    const CONTROL: u64 = 80;
    const CONTROL_BYTES: u64 = 24;
    const BYTES: u64 = Self::CONTROL + Self::CONTROL_BYTES;

    fn of(registers: &Registers) -> Self {
        Self(registers.rsp.wrapping_sub(RED_ZONE_BYTES + Self::BYTES) & !15)
    }

    fn prepare(self, tid: i32) -> io::Result<()> {
        let words = [
            0,
            0,
            self.0 + Self::VECTOR,
            1,
            self.0 + Self::CONTROL,
            Self::CONTROL_BYTES,
            0,
            self.0 + Self::BYTE,
            1,
            0,
            0,
            0,
            0,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        memory::write(tid, self.0, &bytes)
    }

    /// The number of the descriptor that has come.
    fn received(self, tid: i32) -> Option<u32> {
        // `msg_controllen`, and the whole of a `struct cmsghdr` with one number.
        let (mut length, mut number) = ([0; 8], [0; 4]);
        memory::read(tid, self.0 + 40, &mut length).ok()?;
        memory::read(tid, self.0 + Self::CONTROL + 16, &mut number).ok()?;
        (u64::from_ne_bytes(length) >= 20).then(|| u32::from_ne_bytes(number))
    }
}

impl Tracer {
    /// A thread's receiving call is to end, and the thread then takes its descriptors out of sockets, and installs a filter for seeks.
    pub(super) fn answer_received(&mut self, received: Received, answer: &Answered) {
        if received.seekable {
            self.watch_seeks(answer.tid);
        }
        if let Some(thread) = self.threads.get_mut(&answer.tid) {
            if !received.sockets.is_empty() {
                thread.takes = Some(received);
            }
            self.interrupt(answer.tid);
        }
        if let Err(error) = answer
            .listener
            .answer(answer.notification, Answer::Result(answer.result))
        {
            debug!("answering {}: {error}", answer.tid);
        }
    }

    /// Has a thread, at the end of its receiving call, take its descriptors. False: it has none to take, or cannot.
    pub(super) fn take_descriptors(&mut self, tid: i32) -> bool {
        let Some(mut received) = self.threads.get_mut(&tid).and_then(|thread| thread.takes.take()) else {
            return false;
        };
        let Some(socket) = received.sockets.pop() else {
            return false;
        };
        let begun = ptrace::registers(tid).and_then(|registers| {
            let blocked = ptrace::blocked(tid)?;
            // No handler may run before it has them.
            ptrace::set_blocked(tid, u64::MAX)?;
            Ok(Taking {
                registers,
                blocked,
                received,
                step: Step::Receive { socket },
                begun: false,
            })
        });
        match begun.and_then(|taking| self.make_taking_step(tid, taking)) {
            Ok(()) => true,
            Err(error) => {
                debug!("descriptors for {tid}: {error}");
                false
            }
        }
    }

    /// Has the thread make a step's call.
    fn make_taking_step(&mut self, tid: i32, taking: Taking) -> io::Result<()> {
        let room = Room::of(&taking.registers);
        let cloexec = if taking.received.cloexec {
            libc::O_CLOEXEC
        } else {
            0
        };
        let (number, arguments) = match taking.step {
            Step::Receive { socket } => {
                room.prepare(tid)?;
                let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
                (libc::SYS_recvmsg, [u64::from(socket), room.0, flags as u64])
            }
            Step::Place { socket, spare } => (
                libc::SYS_dup3,
                [u64::from(spare), u64::from(socket), cloexec as u64],
            ),
            Step::Close { spare } => (libc::SYS_close, [u64::from(spare), 0, 0]),
        };
        let mut registers = taking.registers;
        registers.rip -= 2;
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        ptrace::set_registers(tid, &registers)?;
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.within = Some(Within::Taking(Box::new(Taking {
                begun: false,
                ..taking
            })));
        }
        self.go_on(tid, Resume::ToCallEnd);
        Ok(())
    }

    /// A step's call begins or has ended.
    pub(super) fn taken(&mut self, tid: i32, mut taking: Box<Taking>) {
        if !taking.begun {
            taking.begun = true;
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.within = Some(Within::Taking(taking));
            }
            return self.go_on(tid, Resume::ToCallEnd);
        }
        let succeeded = ptrace::registers(tid).is_ok_and(|registers| registers.rax as i64 >= 0);
        let next = match taking.step {
            // What does not come (the number of descriptors is limited) leaves the socket.
            Step::Receive { socket } => succeeded
                .then(|| Room::of(&taking.registers).received(tid))
                .flatten()
                .map(|spare| Step::Place { socket, spare }),
            // However it went, the spare number goes.
            Step::Place { spare, .. } => Some(Step::Close { spare }),
            Step::Close { .. } => None,
        };
        let next = next.or_else(|| {
            let socket = taking.received.sockets.pop()?;
            Some(Step::Receive { socket })
        });
        let (registers, blocked) = (taking.registers, taking.blocked);
        if let Some(step) = next {
            taking.step = step;
            match self.make_taking_step(tid, *taking) {
                Ok(()) => return,
                Err(error) => debug!("descriptors for {tid}: {error}"),
            }
        }
        let restored =
            ptrace::set_blocked(tid, blocked).and_then(|()| ptrace::set_registers(tid, &registers));
        if let Err(error) = restored {
            debug!("registers of {tid}: {error}");
        }
        if !self.install_filter(tid) {
            self.go_on(tid, Resume::Run(0));
        }
    }
}
