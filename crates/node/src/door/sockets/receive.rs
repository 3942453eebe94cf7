//! The calls that receive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_abi::sockets::{self, CountedMessage, Message};
use afield_abi::syscalls::{Restart, nr};
use afield_link::message::{self, CONTROL_BYTES_MAX, DATA_BYTES_MAX, NAME_BYTES_MAX, Room, Wanted};
use afield_link::wire::HandleOp;
use tracing::debug;

use super::CHUNK_BYTES;
use super::layout::{Layout, read_struct, read_vector, write_bytes};
use crate::door::calls::settle;
use crate::door::descriptors::look_up;
use crate::door::notify::{Door, Verdict, later};
use crate::door::promises::Given;
use crate::fs::handles;
use crate::fs::handles::streams::{self, Read};
use crate::installer::{Gift, Sought};
use crate::session::{Call, Reply, Shared, Then};
use crate::sys::seccomp::{Answer, Notification};
use crate::sys::{errno, memory};
use crate::trace::{self, Answered, Order};

impl Door {
    /// The calls that receive.
    pub(in crate::door) fn receive(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        let number = notification.number as u32;
        let Some(handle) = self.home_handle(tid, arguments[0] as u32) else {
            if number != nr::RECVFROM
                && let Some(process) = self.shared.guests.lock().process_mut(pid)
            {
                // Descriptors may come, of what the process has already.
                process.duplicates.add_any();
            }
            return Ok(Verdict::Answer(Answer::Continue));
        };
        let flags = match number {
            nr::RECVMSG => arguments[2],
            _ => arguments[3],
        } as u32;
        let (mut timeout, mut bound) = (None, None);
        let layouts = match number {
            nr::RECVFROM => {
                let name = match arguments[4] {
                    0 => None,
                    address => {
                        let mut length = [0; 4];
                        memory::read(tid, arguments[5], &mut length).map_err(|error| errno(&error))?;
                        let length = i32::from_ne_bytes(length);
                        Some((address, usize::try_from(length).map_err(|_| libc::EINVAL)?))
                    }
                };
                vec![Layout::flat(arguments[1], arguments[2], name)]
            }
            nr::RECVMSG => vec![Layout::read(tid, arguments[1])?],
            _ => {
                if arguments[4] != 0 {
                    let time: [i64; 2] = read_struct(tid, arguments[4])?;
                    if time[0] < 0 || !(0..1_000_000_000).contains(&time[1]) {
                        return Err(libc::EINVAL);
                    }
                    timeout = Some((time[0], time[1]));
                    bound = Some((arguments[4], Instant::now() + bound_of(time)));
                }
                read_vector(tid, arguments[1], arguments[2])?
            }
        };
        if layouts.is_empty() {
            return Ok(Verdict::Answer(Answer::Result(0)));
        }
        if flags & libc::MSG_TRUNC as u32 == 0 && !layouts[0].has_place(tid) {
            return self.receive_nowhere(notification, (tid, pid), handle, flags);
        }
        if let ([layout], true) = (&layouts[..], number != nr::RECVMMSG) {
            let descriptor = arguments[0] as u32;
            match self.receive_ahead((tid, pid), (handle, descriptor), layout, flags)? {
                Read::Some(count) => return Ok(Verdict::Answer(Answer::Result(count as i64))),
                Read::Nothing => return Err(libc::EAGAIN),
                Read::Soon => {
                    let size = layout.total;
                    self.park(notification, handle, size);
                    return Ok(Verdict::Later);
                }
                Read::Ask => {}
            }
        }
        let many = number == nr::RECVMMSG;
        let limit = if flags & libc::MSG_WAITALL as u32 != 0 {
            DATA_BYTES_MAX
        } else {
            CHUNK_BYTES
        };
        let mut left = DATA_BYTES_MAX;
        let mut rooms = Vec::with_capacity(layouts.len());
        let mut descriptors = 0;
        for layout in &layouts {
            let control = layout.control.1.min(CONTROL_BYTES_MAX).min(left);
            let data = layout.total.min(limit).min(left - control);
            if !rooms.is_empty() && data < layout.total.min(limit) {
                // As much as fits: fewer messages than there is room for are no error.
                break;
            }
            left -= control + data;
            descriptors +=
                (control.saturating_sub(sockets::CONTROL_HEAD_BYTES) / 4).min(sockets::DESCRIPTORS_MAX);
            rooms.push(Room {
                name: layout.name.map(|(_, length)| length.min(NAME_BYTES_MAX)),
                control,
                data,
            });
        }
        let descriptors = descriptors.min(message::OBJECTS_MAX) as u64;
        let first = self.shared.installer.new_handles(descriptors);
        let wanted = Wanted {
            rooms,
            handles: (first..first + descriptors).collect(),
            timeout,
            many,
        };
        let request = message::encode_wanted(&wanted);
        let lease = match (&self.shared.leases, &wanted.rooms[..]) {
            // What is told of a message that is cut is more than is put there.
            (Some(leases), [room]) if !many && flags & libc::MSG_TRUNC as u32 == 0 => leases.lend(room.data),
            _ => None,
        };
        let from = (number == nr::RECVFROM).then_some(arguments[5]);
        let vector = many.then_some(arguments[1]);
        let how = How {
            cloexec: flags & libc::MSG_CMSG_CLOEXEC as u32 != 0,
            peek: flags & libc::MSG_PEEK as u32 != 0,
        };
        let go_on = move |shared: &Arc<Shared>, call: Call, reply: Reply| {
            let incoming = Received {
                layouts,
                wanted,
                from,
                vector,
                bound,
                how,
            };
            match incoming.put(shared, &call, &reply) {
                Ok(received) if received.is_complete() => settle(shared, call, &reply),
                Ok(received) => settle_received(shared, call, &reply, received),
                Err(errno) => {
                    let result = -i64::from(errno);
                    settle(shared, call, &Reply { result, ..reply });
                }
            }
        };
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Continue(Box::new(go_on)), Vec::new()),
            Restart::Restart,
            Some(handle),
        );
        let shared = Arc::clone(&self.shared);
        let send = |id| {
            handles::send_operation_lent(
                &shared,
                id,
                pid,
                (HandleOp::Receive, handle),
                (0, u64::from(flags), 0),
                (&request, 0, lease),
            )
        };
        later(shared.begin(call, true, send))
    }

    /// Receives what home has told of already; nothing only if the caller does not wait.
    fn receive_ahead(
        &self,
        (tid, pid): (i32, u32),
        (handle, descriptor): (u64, u32),
        layout: &Layout,
        flags: u32,
    ) -> Result<Read, i32> {
        const PLAIN: i32 = libc::MSG_DONTWAIT
            | libc::MSG_NOSIGNAL
            | libc::MSG_WAITALL
            | libc::MSG_PEEK
            | libc::MSG_CMSG_CLOEXEC;
        if flags & !(PLAIN as u32) != 0 || layout.name.is_some() || layout.control.1 > 0 {
            return Ok(Read::Ask);
        }
        let how = streams::How {
            all: flags & libc::MSG_WAITALL as u32 != 0,
            peek: flags & libc::MSG_PEEK as u32 != 0,
        };
        let give = |bytes: &[u8]| {
            layout.scatter(tid, bytes)?;
            match layout.header {
                Some(header) => write_bytes(tid, header + 40, &0u64.to_ne_bytes())
                    .and_then(|()| write_bytes(tid, header + 48, &0u32.to_ne_bytes())),
                None => Ok(()),
            }
        };
        let streams = &self.shared.files.handles.streams;
        let read = streams.read(&self.shared, (handle, pid), layout.total, how, give);
        let waits = || {
            flags & libc::MSG_DONTWAIT as u32 == 0
                && look_up(tid, descriptor).is_none_or(|found| found.flags & libc::O_NONBLOCK as u64 == 0)
        };
        Ok(match read {
            Read::Nothing if waits() => Read::Ask,
            read => read,
        })
    }

    /// Receives into memory that does not exist: waits and fails as any, but leaves everything where it is.
    fn receive_nowhere(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        handle: u64,
        flags: u32,
    ) -> Result<Verdict, i32> {
        let wanted = Wanted {
            rooms: vec![Room {
                data: 1,
                ..Room::default()
            }],
            ..Wanted::default()
        };
        let request = message::encode_wanted(&wanted);
        let go_on = |shared: &Arc<Shared>, call: Call, reply: Reply| {
            let result = match reply.result {
                1.. => -i64::from(libc::EFAULT),
                result => result,
            };
            settle(shared, call, &Reply { result, ..reply });
        };
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Continue(Box::new(go_on)), Vec::new()),
            Restart::Restart,
            Some(handle),
        );
        let flags = flags & !(libc::MSG_WAITALL as u32) | libc::MSG_PEEK as u32;
        let what = (0, u64::from(flags), 0);
        let send = |id| {
            handles::send_operation_with(
                &self.shared,
                id,
                pid,
                (HandleOp::Receive, handle),
                what,
                (&request, 0),
            )
        };
        later(self.shared.begin(call, true, send))
    }
}

/// A time limit that has been checked, as far as clocks reach.
fn bound_of(time: [i64; 2]) -> Duration {
    const SECONDS_MAX: u64 = 1 << 32;
    Duration::new(time[0].unsigned_abs().min(SECONDS_MAX), time[1] as u32)
}

/// What a receiving call is to find in its memory.
struct Received {
    layouts: Vec<Layout>,
    wanted: Wanted,
    /// Where `recvfrom` wants the address's length.
    from: Option<u64>,
    /// Address of the `struct mmsghdr`s of `recvmmsg`.
    vector: Option<u64>,
    /// Where it wants to know how much of its time is left, and when none is.
    bound: Option<(u64, Instant)>,
    how: How,
}

/// How descriptors are received.
#[derive(Debug, Clone, Copy)]
struct How {
    cloexec: bool,
    /// They will come again.
    peek: bool,
}

impl Received {
    /// Puts it there. What is left to be done with the descriptors.
    fn put(&self, shared: &Arc<Shared>, call: &Call, reply: &Reply) -> Result<trace::Received, i32> {
        let received = trace::Received {
            sockets: Vec::new(),
            cloexec: self.how.cloexec,
            seekable: false,
        };
        if reply.result < 0 {
            return Ok(received);
        }
        let (messages, objects) =
            message::decode_incoming(&reply.data, &self.wanted).map_err(|_| libc::EIO)?;
        let tid = call.tid;
        let mut installed = Installed {
            objects: &objects,
            next: 0,
            received,
        };
        for (index, (message, layout)) in messages.iter().zip(&self.layouts).enumerate() {
            match &reply.lease {
                Some(lease) => layout.scatter_from(tid, lease, message.count as usize)?,
                None => layout.scatter(tid, message.data)?,
            }
            let mut control = message.control.to_vec();
            let mut flags = message.flags;
            if !installed.put(shared, call, &mut control, self.how) {
                flags |= libc::MSG_CTRUNC as u32;
            }
            if let Some((address, _)) = layout.name {
                write_bytes(tid, address, message.name)?;
                let length = message.name_length.to_ne_bytes();
                match (layout.header, self.from) {
                    (Some(header), _) => write_bytes(tid, header + 8, &length)?,
                    (None, Some(place)) => write_bytes(tid, place, &length)?,
                    (None, None) => {}
                }
            }
            if let Some(header) = layout.header {
                write_bytes(tid, layout.control.0, &control)?;
                write_bytes(tid, header + 40, &(control.len() as u64).to_ne_bytes())?;
                write_bytes(tid, header + 48, &flags.to_ne_bytes())?;
            }
            if let Some(vector) = self.vector {
                let size = size_of::<CountedMessage>() as u64;
                let place = vector + index as u64 * size + size_of::<Message>() as u64;
                write_bytes(tid, place, &message.count.to_ne_bytes())?;
            }
        }
        if let Some((place, end)) = self.bound.filter(|_| reply.result > 0) {
            let left = end.saturating_duration_since(Instant::now());
            write_bytes(tid, place, &(left.as_secs() as i64).to_ne_bytes())?;
            write_bytes(tid, place + 8, &i64::from(left.subsec_nanos()).to_ne_bytes())?;
        }
        Ok(installed.received)
    }
}

/// Descriptors that have come with messages, on their way into the guest.
struct Installed<'a> {
    objects: &'a [message::Object],
    next: usize,
    /// What is left to be done with them.
    received: trace::Received,
}

impl Installed<'_> {
    /// Gives the guest the descriptors of a message and puts their numbers into its ancillary data, which is cut where there is no
    /// room for more; then false.
    fn put(&mut self, shared: &Arc<Shared>, call: &Call, control: &mut Vec<u8>, how: How) -> bool {
        let Ok(pieces) = sockets::controls(control) else {
            control.clear();
            return false;
        };
        let mut complete = true;
        for piece in pieces {
            if !piece.has_descriptors() {
                continue;
            }
            let data = piece.data();
            let (places, _) = control[data.clone()].as_chunks_mut::<4>();
            let mut placed = 0;
            for place in places.iter_mut() {
                if i32::from_ne_bytes(*place) < 0 {
                    placed += 1;
                    continue;
                }
                let Some(object) = self.objects.get(self.next) else {
                    break;
                };
                self.next += 1;
                match complete.then(|| install(shared, call, object, how)).flatten() {
                    Some(given) => {
                        if given.in_socket {
                            self.received.sockets.push(given.number as u32);
                        }
                        self.received.seekable |= object.seekable && !object.promise;
                        *place = given.number.to_ne_bytes();
                        placed += 1;
                    }
                    None => {
                        complete = false;
                        if object.promise {
                            shared.promises.forget(&shared.installer, object.handle);
                        } else {
                            shared.close_object(call.pid, object.handle);
                        }
                    }
                }
            }
            if placed < places.len() {
                // As the kernel does when the table is full: what there is, and no more.
                let length = sockets::CONTROL_HEAD_BYTES + placed * 4;
                let end = if placed == 0 {
                    piece.start
                } else {
                    piece.start + length
                };
                if placed > 0 {
                    control[piece.start..piece.start + 8].copy_from_slice(&(length as u64).to_ne_bytes());
                }
                control.truncate(end);
                complete = false;
                break;
            }
        }
        complete
    }
}

/// Opens a file for an object that has come, and gives it to the guest.
fn install(shared: &Arc<Shared>, call: &Call, object: &message::Object, how: How) -> Option<Given> {
    let cloexec = how.cloexec;
    if object.promise {
        let to = (&*call.listener, call.notification);
        let how = (cloexec, how.peek);
        return shared.promises.give(&shared.installer, to, object.handle, how);
    }
    let place = object.place.as_ref();
    if let Some(given) = place.and_then(|place| open(shared, call, object.flags, place, how)) {
        shared.close_object(call.pid, object.handle);
        return Some(given);
    }
    shared
        .files
        .handles
        .add(object.handle, !object.seekable, object.offset);
    shared.files.handles.set_size(object.handle, object.size);
    if object.terminal {
        shared.files.handles.mark_terminal(object.handle);
    }
    let gift = Gift {
        handle: object.handle,
        flags: object.flags & !(libc::O_CLOEXEC as u32) | if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        offset: object.seekable.then_some(object.offset.max(0)),
        answers: false,
    };
    let installed = shared.installer.install(&call.listener, call.notification, gift);
    if installed.is_err() {
        shared.files.handles.forget(object.handle);
    }
    installed.ok().map(|number| Given {
        number,
        in_socket: false,
    })
}

/// Opens a file of home's tree that came from a process at home, where the guest can look names up in it.
fn open(shared: &Shared, call: &Call, flags: u32, place: &message::Place, how: How) -> Option<Given> {
    let sought = Sought {
        inode: place.inode,
        device: shared.files.places.device(place.device),
        path: &place.path,
    };
    let cloexec = if how.cloexec { libc::O_CLOEXEC as u32 } else { 0 };
    let flags = flags & !(libc::O_CLOEXEC as u32) | cloexec;
    match shared
        .installer
        .open(&call.listener, call.notification, sought, flags)
    {
        Ok(number) => Some(Given {
            number,
            in_socket: flags & libc::O_PATH as u32 != 0,
        }),
        Err(error) => {
            debug!("{}: {error}", String::from_utf8_lossy(&place.path));
            None
        }
    }
}

/// Ends a call that has brought descriptors with which something is left to be done.
fn settle_received(shared: &Shared, call: Call, reply: &Reply, received: trace::Received) {
    if let Some(thread) = shared.guests.lock().thread_mut(call.tid) {
        thread.call = None;
    }
    shared.orders.give(Order::AnswerReceived {
        received,
        answer: Answered {
            tid: call.tid,
            listener: call.listener,
            notification: call.notification,
            result: reply.result,
        },
    });
}
