//! Messages of sockets: gathered from the guest's memory, sent or received at home, and scattered into it.
//!
//! Sockets of the node's own (`socketpair`) are the node's kernel's. Only what descriptors of home objects travel over them has to be
//! known here, because whoever gets one needs it at home as well.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use afield_abi::sockets::{
    self, CountedMessage, FILTER_INSTRUCTION_BYTES, FILTER_INSTRUCTIONS_MAX, Message, OptionValue, Piece,
};
use afield_abi::syscalls::{Restart, nr};
use afield_link::frame::Kind;
use afield_link::message::{
    self, CONTROL_BYTES_MAX, DATA_BYTES_MAX, MESSAGES_MAX, NAME_BYTES_MAX, Outgoing, Passed, Room, Wanted,
};
use afield_link::wire::{self, Buffer, CallHeader, HandleOp, ToHome};
use zerocopy::{FromZeros, IntoBytes};

use super::calls::settle;
use super::descriptors::Descriptor;
use super::notify::{Door, Verdict, later};
use crate::fs::handles;
use crate::installer::Gift;
use crate::session::{Call, Reply, Shared, Then, Unsent};
use crate::sys::seccomp::{Answer, Notification, steal_descriptor};
use crate::sys::{errno, memory};
use crate::world::HIDDEN_DIRECTORY;

/// Bytes of a message that are sent, or received, at a time. More is sent piece by piece, as it would be on a stream; a datagram of that
/// size there is not.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a message is in the guest's memory.
#[derive(Debug, Clone)]
struct Layout {
    name: Option<(u64, usize)>,
    control: (u64, usize),
    pieces: Vec<Piece>,
    /// Bytes of all pieces.
    total: usize,
    /// Address of its `struct msghdr`, if it has one.
    header: Option<u64>,
}

fn read_struct<T: FromZeros + zerocopy::FromBytes + IntoBytes>(tid: i32, address: u64) -> Result<T, i32> {
    let mut value = T::new_zeroed();
    memory::read(tid, address, value.as_mut_bytes()).map_err(|error| errno(&error))?;
    Ok(value)
}

fn read_bytes(tid: i32, address: u64, length: usize) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0; length];
    memory::read(tid, address, &mut bytes).map_err(|error| errno(&error))?;
    Ok(bytes)
}

fn write_bytes(tid: i32, address: u64, bytes: &[u8]) -> Result<(), i32> {
    memory::write(tid, address, bytes).map_err(|error| errno(&error))
}

impl Layout {
    /// Of `sendto` and `recvfrom`.
    fn flat(base: u64, length: u64, name: Option<(u64, usize)>) -> Self {
        // As the kernel cuts every transfer.
        let length = length.min(0x7fff_f000);
        Self {
            name,
            control: (0, 0),
            pieces: vec![Piece { base, length }],
            total: length as usize,
            header: None,
        }
    }

    /// Of a `struct msghdr`.
    fn read(tid: i32, address: u64) -> Result<Self, i32> {
        let header: Message = read_struct(tid, address)?;
        if header.piece_count > MESSAGES_MAX as u64 {
            return Err(libc::EMSGSIZE);
        }
        if header.name != 0 && header.name_length < 0 {
            return Err(libc::EINVAL);
        }
        let mut pieces = Vec::with_capacity(header.piece_count as usize);
        let mut total = 0usize;
        for index in 0..header.piece_count {
            let mut piece = Piece { base: 0, length: 0 };
            memory::read(
                tid,
                header.pieces.wrapping_add(index * size_of::<Piece>() as u64),
                piece.as_mut_bytes(),
            )
            .map_err(|error| errno(&error))?;
            if piece.length > i64::MAX as u64 {
                return Err(libc::EINVAL);
            }
            piece.length = piece.length.min((0x7fff_f000 - total) as u64);
            total += piece.length as usize;
            pieces.push(piece);
        }
        let control = if header.control == 0 {
            0
        } else {
            usize::try_from(header.control_length).unwrap_or(usize::MAX)
        };
        Ok(Self {
            name: (header.name != 0).then_some((header.name, header.name_length as usize)),
            control: (header.control, control),
            pieces,
            total,
            header: Some(address),
        })
    }

    /// The bytes from `start`, at most `limit`.
    fn gather(&self, tid: i32, start: usize, limit: usize) -> Result<Vec<u8>, i32> {
        let mut bytes = Vec::with_capacity((self.total - start).min(limit));
        for (base, length) in self.spans(start, limit) {
            let at = bytes.len();
            bytes.resize(at + length, 0);
            memory::read(tid, base, &mut bytes[at..]).map_err(|error| errno(&error))?;
        }
        Ok(bytes)
    }

    fn scatter(&self, tid: i32, bytes: &[u8]) -> Result<(), i32> {
        let mut rest = bytes;
        for (base, length) in self.spans(0, bytes.len()) {
            let (part, after) = rest.split_at(length);
            write_bytes(tid, base, part)?;
            rest = after;
        }
        Ok(())
    }

    /// Whether the contents have a place; whoever has none must not take what others could read.
    fn has_place(&self, tid: i32) -> bool {
        let first = self.pieces.iter().find(|piece| piece.length > 0);
        first.is_none_or(|piece| memory::read(tid, piece.base, &mut [0]).is_ok())
    }

    /// Addresses and lengths of `limit` bytes from `start`.
    fn spans(&self, start: usize, limit: usize) -> impl Iterator<Item = (u64, usize)> {
        let (mut skip, mut left) = (start, limit);
        self.pieces.iter().filter_map(move |piece| {
            let length = piece.length as usize;
            let skipped = skip.min(length);
            skip -= skipped;
            let taken = (length - skipped).min(left);
            left -= taken;
            (taken > 0).then_some((piece.base.wrapping_add(skipped as u64), taken))
        })
    }
}

/// Everything a sending call has to say.
struct Letter {
    layouts: Vec<Layout>,
    names: Vec<Option<Vec<u8>>>,
    controls: Vec<Vec<u8>>,
    objects: Vec<Passed>,
    /// Which of the objects wait here for whom the messages reach.
    kept: Kept,
    /// Address of the `struct mmsghdr`s of `sendmmsg`.
    vector: Option<u64>,
}

/// What waits for a guest that is to get it. If it was not sent it does not wait any longer: it would keep pipes open.
struct Kept {
    shared: Arc<Shared>,
    promises: Vec<u64>,
}

impl Kept {
    /// It is on its way.
    fn sent(&mut self) {
        self.promises.clear();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for promise in &self.promises {
            self.shared.promises.take(*promise, false);
        }
    }
}

impl Door {
    /// The calls that send.
    pub(super) fn send(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        let number = notification.number as u32;
        let Some((handle, _)) = self.home_object(tid, arguments[0] as u32) else {
            return self.send_privately(notification, (tid, pid));
        };
        let flags = match number {
            nr::SENDMSG => arguments[2],
            _ => arguments[3],
        } as u32;
        let (layouts, vector) = match number {
            nr::SENDTO => {
                let name = match (arguments[4], arguments[5] as i32) {
                    (0, _) => None,
                    (_, length) if !(0..=NAME_BYTES_MAX as i32).contains(&length) => {
                        return Err(libc::EINVAL);
                    }
                    (address, length) => Some((address, length as usize)),
                };
                (vec![Layout::flat(arguments[1], arguments[2], name)], None)
            }
            nr::SENDMSG => (vec![Layout::read(tid, arguments[1])?], None),
            _ => (read_vector(tid, arguments[1], arguments[2])?, Some(arguments[1])),
        };
        let mut letter = Letter {
            layouts,
            names: Vec::new(),
            controls: Vec::new(),
            objects: Vec::new(),
            kept: Kept {
                shared: Arc::clone(&self.shared),
                promises: Vec::new(),
            },
            vector,
        };
        for index in 0..letter.layouts.len() {
            let layout = &letter.layouts[index];
            // The kernel takes longer names of messages as what is longest.
            let name = layout
                .name
                .map(|(address, length)| read_bytes(tid, address, length.min(NAME_BYTES_MAX)))
                .transpose()?;
            let (address, length) = layout.control;
            if length > CONTROL_BYTES_MAX {
                return Err(libc::ENOBUFS);
            }
            let mut control = read_bytes(tid, address, length)?;
            self.objects_of(tid, pid, &mut control, &mut letter.objects, &mut letter.kept)?;
            letter.names.push(name);
            letter.controls.push(control);
        }
        let shared = Arc::clone(&self.shared);
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Answer, Vec::new()),
            Restart::Restart,
            Some(handle),
        );
        if !letter.kept.promises.is_empty() {
            let sent = send_to_guest(&shared, call, letter, handle, flags);
            return later(sent);
        }
        later(send_from(&shared, call, letter, handle, flags, 0))
    }

    /// Puts indices of home objects into the places of descriptors in ancillary data.
    fn objects_of(
        &mut self,
        tid: i32,
        pid: u32,
        control: &mut [u8],
        objects: &mut Vec<Passed>,
        kept: &mut Kept,
    ) -> Result<(), i32> {
        for piece in sockets::controls(control)? {
            if !piece.has_descriptors() {
                continue;
            }
            let (places, _) = control[piece.data()].as_chunks_mut::<4>();
            if places.len() > sockets::DESCRIPTORS_MAX || objects.len() + places.len() > message::OBJECTS_MAX
            {
                return Err(libc::EINVAL);
            }
            for place in places {
                let descriptor = i32::from_ne_bytes(*place);
                let Some(found) = super::descriptors::look_up(tid, descriptor as u32) else {
                    return Err(libc::EBADF);
                };
                let object = match self.home_object(tid, descriptor as u32) {
                    Some((handle, _)) => Passed::Handle(handle),
                    None => match file_of_home(tid, descriptor, &found) {
                        Some(file) => file,
                        None => {
                            let copy = copy_of(pid, &self.shared, descriptor)?;
                            let promise = self.shared.promises.keep(copy)?;
                            kept.promises.push(promise);
                            Passed::Promise(promise)
                        }
                    },
                };
                *place = (objects.len() as i32).to_ne_bytes();
                objects.push(object);
            }
        }
        Ok(())
    }

    /// On a socket of the node's own. Home objects that travel over it are kept for whom they reach.
    fn send_privately(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Verdict, i32> {
        const EXECUTE: Verdict = Verdict::Answer(Answer::Continue);
        let arguments = notification.arguments;
        let layouts = match notification.number as u32 {
            nr::SENDMSG => Layout::read(tid, arguments[1]).map(|layout| vec![layout]),
            nr::SENDMMSG => read_vector(tid, arguments[1], arguments[2]),
            _ => return Ok(EXECUTE),
        };
        // What is wrong with the call, the kernel says best.
        let Ok(layouts) = layouts else {
            return Ok(EXECUTE);
        };
        let mut travelling = Vec::new();
        for layout in layouts {
            let (address, length) = layout.control;
            if length == 0 || length > CONTROL_BYTES_MAX {
                continue;
            }
            let Ok(control) = read_bytes(tid, address, length) else {
                return Ok(EXECUTE);
            };
            for piece in sockets::controls(&control).unwrap_or_default() {
                if !piece.has_descriptors() {
                    continue;
                }
                let (places, _) = control[piece.data()].as_chunks::<4>();
                for place in places {
                    let descriptor = i32::from_ne_bytes(*place) as u32;
                    if let Some((handle, _)) = self.home_object(tid, descriptor) {
                        travelling.push(handle);
                    }
                }
            }
        }
        if travelling.is_empty() {
            return Ok(EXECUTE);
        }
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Execute, Vec::new()),
            Restart::Never,
            None,
        );
        let shared = Arc::clone(&self.shared);
        later(share(&shared, call, travelling))
    }

    /// The calls that receive.
    pub(super) fn receive(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        let number = notification.number as u32;
        let Some((handle, _)) = self.home_object(tid, arguments[0] as u32) else {
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
        let mut timeout = None;
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
                how,
            };
            let result = match incoming.put(shared, &call, &reply) {
                Ok(()) => reply.result,
                Err(errno) => -i64::from(errno),
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
        let shared = Arc::clone(&self.shared);
        let send = |id| {
            handles::send_operation_with(
                &shared,
                id,
                pid,
                (HandleOp::Receive, handle),
                (0, u64::from(flags), 0),
                (&request, 0),
            )
        };
        later(shared.begin(call, true, send))
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

    /// Options whose value is more than bytes; `None` for all others.
    pub(super) fn set_option(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Option<Verdict>, i32> {
        let arguments = notification.arguments;
        let number = notification.number as u32;
        let (level, name) = (arguments[1] as i32, arguments[2] as i32);
        let value = sockets::option_value(level, name, number == nr::SETSOCKOPT);
        if value == OptionValue::Bytes {
            return Ok(None);
        }
        let Some((handle, _)) = self.home_object(tid, arguments[0] as u32) else {
            return Ok(Some(Verdict::Answer(Answer::Continue)));
        };
        if value == OptionValue::Refused {
            self.report(pid, number, libc::ENOPROTOOPT);
            return Err(libc::ENOPROTOOPT);
        }
        /// `struct sock_fprog`.
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes)]
        #[repr(C)]
        struct Program {
            length: u16,
            padding: [u16; 3],
            address: u64,
        }
        if arguments[4] as i32 != size_of::<Program>() as i32 {
            return Err(libc::EINVAL);
        }
        let program: Program = read_struct(tid, arguments[3])?;
        let count = usize::from(program.length);
        if count == 0 || count > FILTER_INSTRUCTIONS_MAX {
            return Err(libc::EINVAL);
        }
        let instructions = read_bytes(tid, program.address, count * FILTER_INSTRUCTION_BYTES)?;
        let call = self.call(
            notification,
            (tid, pid),
            (Then::Answer, Vec::new()),
            Restart::Never,
            Some(handle),
        );
        let option = u64::from(level as u32) << 32 | u64::from(name as u32);
        let send = |id| {
            handles::send_operation_with(
                &self.shared,
                id,
                pid,
                (HandleOp::Filter, handle),
                (0, option, 0),
                (&instructions, 0),
            )
        };
        later(self.shared.begin(call, false, send)).map(Some)
    }
}

/// A file that has a name at home: of home's tree, or one of the devices that are the node's own.
fn file_of_home(tid: i32, number: i32, descriptor: &Descriptor) -> Option<Passed> {
    let path = std::fs::read_link(format!("/proc/{tid}/fd/{number}")).ok()?;
    let path = path.into_os_string().into_encoded_bytes();
    let hidden = format!("/{HIDDEN_DIRECTORY}");
    let named =
        path.starts_with(b"/") && !path.starts_with(hidden.as_bytes()) && !path.ends_with(b" (deleted)");
    named.then_some(Passed::File {
        path,
        flags: descriptor.flags as u32,
        offset: descriptor.offset,
    })
}

/// A copy of a guest's descriptor of something of the node's own. It must not be a file of the world's root: a session that holds
/// one cannot end, since closing it is a request to the session.
fn copy_of(pid: u32, shared: &Shared, number: i32) -> Result<OwnedFd, i32> {
    const OWN: [&[u8]; 4] = [b"pipe:[", b"socket:[", b"anon_inode:", b"/memfd:"];
    let leader = shared.guests.lock().process(pid).map(|process| process.leader);
    let leader = leader
        .and_then(rustix::process::Pid::from_raw)
        .ok_or(libc::ESRCH)?;
    let link = std::fs::read_link(format!("/proc/{}/fd/{number}", leader.as_raw_nonzero()))
        .map_err(|error| errno(&error))?;
    let link = link.as_os_str().as_encoded_bytes();
    if !OWN.iter().any(|prefix| link.starts_with(prefix)) {
        return Err(libc::EOPNOTSUPP);
    }
    let process = rustix::process::pidfd_open(leader, rustix::process::PidfdFlags::empty())
        .map_err(rustix::io::Errno::raw_os_error)?;
    steal_descriptor(process.as_fd(), number).map_err(|error| errno(&error))
}

/// The messages of a vector of `struct mmsghdr`.
fn read_vector(tid: i32, address: u64, count: u64) -> Result<Vec<Layout>, i32> {
    let count = (count as u32 as usize).min(MESSAGES_MAX) as u64;
    let size = size_of::<CountedMessage>() as u64;
    let mut layouts = Vec::new();
    for index in 0..count {
        match Layout::read(tid, address.wrapping_add(index * size)) {
            Ok(layout) => layouts.push(layout),
            // The kernel comes to this one later.
            Err(_) if !layouts.is_empty() => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(layouts)
}

/// Sends what is left of a call's messages; of a single one, `done` bytes are gone.
fn send_from(
    shared: &Arc<Shared>,
    mut call: Call,
    letter: Letter,
    handle: u64,
    flags: u32,
    done: usize,
) -> Result<(), Unsent> {
    let (tid, pid) = (call.tid, call.pid);
    let many = letter.vector.is_some();
    let mut contents = Vec::with_capacity(letter.layouts.len());
    let mut left = DATA_BYTES_MAX;
    for layout in &letter.layouts {
        let limit = if many { left } else { CHUNK_BYTES };
        if many && layout.total > left && !contents.is_empty() {
            break;
        }
        let bytes = match layout.gather(tid, done, limit) {
            Ok(bytes) => bytes,
            Err(_) if !contents.is_empty() => break,
            Err(errno) => {
                return Err(Unsent {
                    errno,
                    call: Some(Box::new(call)),
                });
            }
        };
        left = left.saturating_sub(bytes.len());
        contents.push(bytes);
    }
    let messages: Vec<_> = contents
        .iter()
        .zip(&letter.names)
        .zip(&letter.controls)
        .map(|((data, name), control)| Outgoing {
            name: name.as_deref(),
            // Ancillary data has gone with the first byte.
            control: if done == 0 { control } else { &[] },
            data,
        })
        .collect();
    let objects = if done == 0 { &letter.objects[..] } else { &[] };
    let request = message::encode_outgoing(&messages, objects);
    let sent = contents.first().map_or(0, Vec::len);
    let whole = letter
        .layouts
        .first()
        .is_none_or(|layout| done + sent >= layout.total);
    if many || !whole || done > 0 || !letter.kept.promises.is_empty() {
        call.then = Then::Continue(Box::new(move |shared, call, reply| {
            sent_some(shared, call, reply, letter, handle, flags, (done, sent));
        }));
    }
    call.object = Some(shared.files.handles.ask(handle));
    shared.begin(call, true, |id| {
        handles::send_operation_with(
            shared,
            id,
            pid,
            (HandleOp::Send, handle),
            (0, u64::from(flags), usize::from(many)),
            (&request, 0),
        )
    })
}

/// Sends messages with something of the node's own, if the socket's peer is a guest.
fn send_to_guest(
    shared: &Arc<Shared>,
    mut call: Call,
    letter: Letter,
    handle: u64,
    flags: u32,
) -> Result<(), Unsent> {
    let (pid, tid) = (call.pid, call.tid);
    call.then = Then::Continue(Box::new(move |shared, mut call, reply| {
        call.then = Then::Answer;
        let peer = reply.data.first_chunk::<4>().map(|pid| u32::from_ne_bytes(*pid));
        let known = reply.result >= 0 && peer.is_some_and(|peer| shared.guests.has_been(peer));
        let failed = if known {
            match send_from(shared, call, letter, handle, flags, 0) {
                Ok(()) => return,
                Err(unsent) => unsent,
            }
        } else {
            let message = ToHome::Unsupported {
                pid,
                call: nr::SENDMSG,
                errno: libc::EOPNOTSUPP,
            };
            if let Err(error) = shared.writer.write_control(0, &message) {
                tracing::debug!("telling home: {error}");
            }
            Unsent {
                errno: libc::EOPNOTSUPP,
                call: Some(Box::new(call)),
            }
        };
        if let Some(call) = failed.call {
            let result = -i64::from(failed.errno);
            settle(shared, *call, &Reply { result, ..reply });
        }
    }));
    // `getsockopt(SO_PEERCRED)`: `struct ucred`, which begins with the pid.
    const CREDENTIALS_BYTES: usize = 12;
    let header = CallHeader {
        pid: pid.into(),
        tid: (tid as u32).into(),
        number: nr::GETSOCKOPT.into(),
        buffers: 2.into(),
        arguments: [
            handle.into(),
            (libc::SOL_SOCKET as u64).into(),
            (libc::SO_PEERCRED as u64).into(),
            0.into(),
            0.into(),
            0.into(),
        ],
        result: 0.into(),
    };
    let mut payload = header.as_bytes().to_vec();
    let length = (CREDENTIALS_BYTES as u32).to_ne_bytes();
    for (argument, data, bytes) in [(3, &[][..], CREDENTIALS_BYTES), (4, &length[..], length.len())] {
        let buffer = Buffer {
            argument,
            input: !data.is_empty(),
            output: true,
            length: bytes,
            data,
        };
        wire::encode_buffer(&mut payload, &buffer);
    }
    shared.begin(call, false, |id| {
        shared
            .writer
            .write_frame(Kind::Call, id, &[&payload])
            .map_err(|_| libc::EIO)
    })
}

/// Home has sent some of a call's messages, or the next piece of one.
fn sent_some(
    shared: &Arc<Shared>,
    call: Call,
    mut reply: Reply,
    mut letter: Letter,
    handle: u64,
    flags: u32,
    (done, sent): (usize, usize),
) {
    if reply.result >= 0 {
        letter.kept.sent();
    }
    if let Some(vector) = letter.vector {
        let (counts, _) = reply.data.as_chunks::<4>();
        let size = size_of::<CountedMessage>() as u64;
        for (index, count) in (0..).zip(counts) {
            let place = vector.wrapping_add(index * size + size_of::<Message>() as u64);
            if let Err(errno) = write_bytes(call.tid, place, count) {
                reply.result = -i64::from(errno);
            }
        }
        return settle(shared, call, &reply);
    }
    let total = letter.layouts.first().map_or(0, |layout| layout.total);
    if reply.result == sent as i64 && done + sent < total && !call.cancelled {
        let (tid, listener, notification) = (call.tid, Arc::clone(&call.listener), call.notification);
        if let Err(Unsent { call, .. }) = send_from(shared, call, letter, handle, flags, done + sent) {
            let result = (done + sent) as i64;
            match call {
                Some(call) => settle(shared, *call, &Reply { result, ..reply }),
                None => {
                    if let Err(error) = listener.answer(notification, Answer::Result(result)) {
                        tracing::warn!("answering a call of thread {tid}: {error}");
                    }
                }
            }
        }
        return;
    }
    if done > 0 {
        // The error comes again with the next call.
        reply.result = reply.result.max(0) + done as i64;
        reply.notes = 0;
    }
    settle(shared, call, &reply);
}

/// Has the agent keep home objects that travel between guests, one after the other; then the node's kernel sends them.
fn share(shared: &Arc<Shared>, mut call: Call, mut objects: Vec<u64>) -> Result<(), Unsent> {
    let Some(handle) = objects.pop() else {
        settle(
            shared,
            call,
            &Reply {
                result: 0,
                notes: 0,
                data: Vec::new(),
            },
        );
        return Ok(());
    };
    let pid = call.pid;
    shared.files.handles.set_shared(handle);
    call.then = Then::Continue(Box::new(move |shared, mut call, reply| {
        call.then = Then::Execute;
        if reply.result < 0 {
            return settle(shared, call, &reply);
        }
        if let Err(Unsent {
            errno,
            call: Some(call),
        }) = share(shared, call, objects)
        {
            let result = -i64::from(errno);
            settle(shared, *call, &Reply { result, ..reply });
        }
    }));
    shared.begin(call, false, |id| {
        handles::send_operation(shared, id, pid, HandleOp::Share, handle, (0, 0, 0))
    })
}

/// What a receiving call is to find in its memory.
struct Received {
    layouts: Vec<Layout>,
    wanted: Wanted,
    /// Where `recvfrom` wants the address's length.
    from: Option<u64>,
    /// Address of the `struct mmsghdr`s of `recvmmsg`.
    vector: Option<u64>,
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
    fn put(&self, shared: &Arc<Shared>, call: &Call, reply: &Reply) -> Result<(), i32> {
        if reply.result < 0 {
            return Ok(());
        }
        let (messages, objects) =
            message::decode_incoming(&reply.data, &self.wanted).map_err(|_| libc::EIO)?;
        let tid = call.tid;
        let mut installed = Installed {
            objects: &objects,
            next: 0,
        };
        for (index, (message, layout)) in messages.iter().zip(&self.layouts).enumerate() {
            layout.scatter(tid, message.data)?;
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
        Ok(())
    }
}

/// Descriptors that have come with messages, on their way into the guest.
struct Installed<'a> {
    objects: &'a [message::Object],
    next: usize,
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
                    Some(number) => {
                        *place = number.to_ne_bytes();
                        placed += 1;
                    }
                    None => {
                        complete = false;
                        if object.promise {
                            shared.promises.take(object.handle, false);
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

/// Opens a file for an object that has come, and gives it to the guest: its number there.
fn install(shared: &Arc<Shared>, call: &Call, object: &message::Object, how: How) -> Option<i32> {
    let cloexec = how.cloexec;
    if object.promise {
        let descriptor = shared.promises.take(object.handle, how.peek)?;
        return call
            .listener
            .add_descriptor(call.notification, descriptor.as_fd(), cloexec, false)
            .ok();
    }
    shared
        .files
        .handles
        .add(object.handle, !object.seekable, object.offset);
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
    installed.ok()
}
