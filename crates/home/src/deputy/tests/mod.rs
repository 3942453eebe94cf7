//! A deputy in a process of its own, with a test in the agent's place.

mod calls;
mod mirror;
mod objects;
mod processes;
mod signals;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use afield_link::frame::{Frame, Kind};
use afield_link::wire::{self, Buffer, CallHeader, CallReply, HandleHeader, HandleOp, HandleReply};
use zerocopy::IntoBytes;

use super::{Deputy, Handles, Lead, Parts};
use crate::channel::{self, ChannelError, Incoming};
use crate::messages::{FromDeputy, ToDeputy};
use crate::sys::process::{self, Forked};
use crate::sys::{interrupt, signals as kernel_signals};

/// A deputy as its agent sees it.
struct Fake {
    pid: u32,
    channel: OwnedFd,
    incoming: Incoming,
    id_next: u64,
    /// The test is its parent, and ends it.
    is_child: bool,
}

/// What a deputy says.
#[derive(Debug)]
enum Said {
    Call { id: u64, result: i64, output: Vec<u8> },
    Operation { id: u64, result: i64, data: Vec<u8> },
    Message { id: u64, message: FromDeputy },
}

impl Fake {
    /// A deputy whose guest has these objects open as handles 1, 2, …
    fn start(objects: &[&OwnedFd]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        match process::fork().unwrap() {
            Forked::Parent(pid) => {
                ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                Self::new(pid, ours.into(), true)
            }
            Forked::Child => {
                kernel_signals::set_blocked(kernel_signals::ALL);
                interrupt::install();
                let mut keep: Vec<_> = objects.iter().map(|object| object.as_raw_fd()).collect();
                keep.push(theirs.as_raw_fd());
                keep.sort_unstable();
                process::close_all_but(&keep);
                let mut handles = Handles::default();
                for (index, object) in objects.iter().enumerate() {
                    handles.insert(index as u64 + 1, process::adopt(object.as_raw_fd()));
                }
                let deputy = Deputy::new(Parts {
                    channel: process::adopt(theirs.as_raw_fd()),
                    handles,
                    ignored: 0,
                    root: None,
                    terminal: None,
                    dump_directory: Arc::new("/tmp".into()),
                });
                std::mem::forget((ours, theirs));
                Lead::new(Incoming::default()).serve(deputy.unwrap())
            }
        }
    }

    fn new(pid: u32, channel: OwnedFd, is_child: bool) -> Self {
        Self {
            pid,
            channel,
            incoming: Incoming::default(),
            id_next: 1,
            is_child,
        }
    }

    fn send(&mut self, kind: Kind, id: u64, payload: &[u8]) {
        channel::send(self.channel.as_fd(), kind, id, &[payload], None).unwrap();
    }

    fn tell(&mut self, message: &ToDeputy, descriptor: Option<&OwnedFd>) -> u64 {
        let id = self.new_id();
        let descriptor = descriptor.map(AsFd::as_fd);
        channel::send_control(self.channel.as_fd(), id, message, descriptor).unwrap();
        id
    }

    fn new_id(&mut self) -> u64 {
        self.id_next += 1;
        self.id_next
    }

    /// Asks for a call; its id.
    fn call(&mut self, number: u32, arguments: [u64; 6], buffers: &[Buffer<'_>]) -> u64 {
        let header = CallHeader {
            pid: self.pid.into(),
            tid: self.pid.into(),
            number: number.into(),
            buffers: (buffers.len() as u32).into(),
            arguments: arguments.map(Into::into),
            result: 0.into(),
        };
        let mut payload = header.as_bytes().to_vec();
        for buffer in buffers {
            wire::encode_buffer(&mut payload, buffer);
        }
        let id = self.new_id();
        self.send(Kind::Call, id, &payload);
        id
    }

    /// Asks for an operation; its id.
    fn operate(&mut self, op: HandleOp, handle: u64, what: (i64, u64, u32), flags: i32, data: &[u8]) -> u64 {
        self.operate_shared(op, handle, what, flags, data, (0, 0))
    }

    /// The same with contents at a place in shared memory.
    fn operate_shared(
        &mut self,
        op: HandleOp,
        handle: u64,
        (offset, argument, size): (i64, u64, u32),
        flags: i32,
        data: &[u8],
        (place, length): (u32, u32),
    ) -> u64 {
        let header = HandleHeader {
            pid: self.pid.into(),
            op: (op as u32).into(),
            handle: handle.into(),
            offset: offset.into(),
            argument: argument.into(),
            size: size.into(),
            flags: (flags as u32).into(),
            area_place: place.into(),
            area_length: length.into(),
        };
        let mut payload = header.as_bytes().to_vec();
        payload.extend_from_slice(data);
        let id = self.new_id();
        self.send(Kind::Handle, id, &payload);
        id
    }

    fn cancel(&mut self, id: u64) {
        self.send(Kind::Cancel, id, &[]);
    }

    fn try_hear(&mut self) -> Result<Said, ChannelError> {
        let Frame { kind, id, payload } = self.incoming.wait_frame(self.channel.as_fd())?;
        Ok(match kind {
            Kind::CallReply => {
                let (head, rest) = wire::split::<CallReply>(&payload, "").unwrap();
                Said::Call {
                    id,
                    result: head.result.get(),
                    output: rest.to_vec(),
                }
            }
            Kind::HandleReply => {
                let (head, rest) = wire::split::<HandleReply>(&payload, "").unwrap();
                Said::Operation {
                    id,
                    result: head.result.get(),
                    data: rest.to_vec(),
                }
            }
            _ => Said::Message {
                id,
                message: wire::decode(&payload).unwrap(),
            },
        })
    }

    fn hear(&mut self) -> Said {
        self.try_hear().unwrap()
    }

    /// The next thing said must be the answer to this call.
    fn call_answer(&mut self, wanted: u64) -> (i64, Vec<u8>) {
        match self.hear() {
            Said::Call { id, result, output } if id == wanted => (result, output),
            other => panic!("instead of the answer to {wanted}: {other:?}"),
        }
    }

    /// The next thing said must be the answer to this operation.
    fn operation_answer(&mut self, wanted: u64) -> (i64, Vec<u8>) {
        match self.hear() {
            Said::Operation { id, result, data } if id == wanted => (result, data),
            other => panic!("instead of the answer to {wanted}: {other:?}"),
        }
    }

    /// The next thing said must be a message.
    fn message(&mut self) -> (u64, FromDeputy) {
        match self.hear() {
            Said::Message { id, message } => (id, message),
            other => panic!("instead of a message: {other:?}"),
        }
    }

    /// The next thing said must be a signal: its number, code, and pid.
    fn signal(&mut self) -> (i32, i32, u32) {
        match self.message() {
            (_, FromDeputy::Signal(info)) => {
                let word = |at: usize| i32::from_le_bytes(info[at..at + 4].try_into().unwrap());
                (word(0), word(8), word(16) as u32)
            }
            other => panic!("instead of a signal: {other:?}"),
        }
    }

    /// A call without memory that must succeed at once.
    fn simple(&mut self, number: u32, arguments: [u64; 6]) -> i64 {
        let id = self.call(number, arguments, &[]);
        self.call_answer(id).0
    }

    fn fork(&mut self) -> Self {
        self.fork_as(libc::SIGCHLD as u32, false)
    }

    fn fork_as(&mut self, exit_signal: u32, sibling: bool) -> Self {
        let asked = self.tell(&ToDeputy::Fork { exit_signal, sibling }, None);
        match self.message() {
            (id, FromDeputy::Forked(Ok(pid))) if id == asked => {
                let channel = UnixStream::from(self.incoming.take_descriptor().unwrap());
                channel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                Self::new(pid, channel.into(), false)
            }
            other => panic!("instead of a fork: {other:?}"),
        }
    }

    /// The open descriptors: number, and what `/proc` calls it.
    fn descriptors(&self) -> BTreeMap<i32, String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let described = entries.filter_map(|entry| {
            let entry = entry.unwrap();
            // It may have been closed meanwhile.
            let what = std::fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            Some((number, what.to_str().unwrap().to_owned()))
        });
        described.collect()
    }

    /// Lets it die like this; the status that its parent, the test, sees.
    fn exit(mut self, status: i32) -> i32 {
        self.tell(&ToDeputy::Exit { status }, None);
        self.is_child = false;
        process::reap(self.pid).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if self.is_child {
            process::kill_and_reap(self.pid);
        }
    }
}

fn output(argument: u8, length: usize) -> Buffer<'static> {
    Buffer {
        argument,
        input: false,
        output: true,
        length,
        data: &[],
    }
}

fn in_out(argument: u8, data: &[u8]) -> Buffer<'_> {
    Buffer {
        argument,
        input: true,
        output: true,
        length: data.len(),
        data,
    }
}

fn input(argument: u8, data: &[u8]) -> Buffer<'_> {
    Buffer {
        argument,
        input: true,
        output: false,
        length: data.len(),
        data,
    }
}

/// Waits for something that another process does.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
