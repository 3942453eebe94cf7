//! The calls that send.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use afield_abi::sockets::{self, CountedMessage, Message};
use afield_abi::syscalls::{Restart, nr};
use afield_link::frame::Kind;
use afield_link::message::{self, CONTROL_BYTES_MAX, DATA_BYTES_MAX, NAME_BYTES_MAX, Outgoing, Passed};
use afield_link::wire::{self, Buffer, CallHeader, HandleOp};
use tracing::debug;
use zerocopy::IntoBytes;

use super::layout::{Layout, read_bytes, read_vector, write_bytes};
use super::{CHUNK_BYTES, sharing};
use crate::door::calls::settle;
use crate::door::descriptors::look_up;
use crate::door::notify::{Door, Verdict, later};
use crate::door::paths::socket_name;
use crate::fs::OWN;
use crate::fs::handles;
use crate::installer::Gift;
use crate::session::{Call, Reply, Shared, Then, Unsent};
use crate::sys::errno;
use crate::sys::inodes::fuse_node;
use crate::sys::seccomp::{Answer, Notification, descriptor_of};

/// Everything a sending call has to say.
struct Letter {
    layouts: Vec<Layout>,
    names: Vec<Option<Vec<u8>>>,
    controls: Vec<Vec<u8>>,
    objects: Vec<Passed>,
    /// Which of the objects are files of the world's tree. A guest gets the open file itself.
    files: Vec<File>,
    /// Which of the objects wait here for whom the messages reach.
    kept: Kept,
    /// Address of the `struct mmsghdr`s of `sendmmsg`.
    vector: Option<u64>,
}

/// A file of the world's tree that is passed.
#[derive(Debug, Clone, Copy)]
struct File {
    /// Which of the objects it is.
    index: usize,
    /// The guest's number for it.
    number: u32,
    /// What the file service knows it as, if it is one of home's.
    node: Option<u64>,
    /// It can be opened at home by its name.
    named: bool,
    /// It is a way only (`O_PATH`).
    only_path: bool,
}

/// What waits for a guest that is to get it, and what the deputy has opened to be sent. If it was not sent it does not wait any
/// longer: it would keep pipes open.
struct Kept {
    shared: Arc<Shared>,
    pid: u32,
    promises: Vec<u64>,
    opened: Vec<u64>,
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
            self.shared.promises.forget(&self.shared.installer, *promise);
        }
        for handle in &self.opened {
            self.shared.close_object(self.pid, *handle);
        }
    }
}

impl Door {
    /// The calls that send.
    pub(in crate::door) fn send(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
    ) -> Result<Verdict, i32> {
        let arguments = notification.arguments;
        let number = notification.number as u32;
        let Some(handle) = self.home_handle(tid, arguments[0] as u32) else {
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
        if let ([layout], None) = (&layouts[..], vector)
            && let Some(sent) = self.send_ahead((tid, pid), handle, layout, flags)
        {
            return Ok(Verdict::Answer(Answer::Result(sent as i64)));
        }
        let mut letter = Letter {
            layouts,
            names: Vec::new(),
            controls: Vec::new(),
            objects: Vec::new(),
            files: Vec::new(),
            kept: Kept {
                shared: Arc::clone(&self.shared),
                pid,
                promises: Vec::new(),
                opened: Vec::new(),
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
            self.objects_of(tid, pid, &mut control, &mut letter)?;
            let name = match name {
                Some(name) => Some(socket_name(tid, &name)?.unwrap_or(name)),
                None => None,
            };
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
        if !letter.kept.promises.is_empty() || !letter.files.is_empty() {
            let sent = send_files(&shared, call, letter, handle, flags);
            return later(sent);
        }
        later(send_from(&shared, call, letter, handle, flags, 0))
    }

    /// Sends what home is known to have room for: how much. `None` if home has to be asked.
    fn send_ahead(&self, (tid, pid): (i32, u32), handle: u64, layout: &Layout, flags: u32) -> Option<usize> {
        const PLAIN: u32 = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
        let streams = &self.shared.files.handles.streams;
        let plain = flags & !PLAIN == 0 && layout.name.is_none() && layout.control.1 == 0;
        if !plain || !streams.may_write(handle, layout.total) {
            return None;
        }
        let data = layout.gather(tid, 0, layout.total).ok()?;
        streams
            .write(&self.shared, (handle, pid), &data)
            .then_some(data.len())
    }

    /// Puts indices of home objects into the places of descriptors in ancillary data.
    fn objects_of(&mut self, tid: i32, pid: u32, control: &mut [u8], letter: &mut Letter) -> Result<(), i32> {
        for piece in sockets::controls(control)? {
            if !piece.has_descriptors() {
                continue;
            }
            let (places, _) = control[piece.data()].as_chunks_mut::<4>();
            if places.len() > sockets::DESCRIPTORS_MAX
                || letter.objects.len() + places.len() > message::OBJECTS_MAX
            {
                return Err(libc::EINVAL);
            }
            for place in places {
                let number = i32::from_ne_bytes(*place) as u32;
                let index = letter.objects.len();
                let object = self.object_of(tid, pid, number, letter)?;
                *place = (index as i32).to_ne_bytes();
                letter.objects.push(object);
            }
        }
        Ok(())
    }

    /// What a guest passes.
    fn object_of(&mut self, tid: i32, pid: u32, number: u32, letter: &mut Letter) -> Result<Passed, i32> {
        let descriptor = look_up(tid, number).ok_or(libc::EBADF)?;
        if let Some(handle) = self.home_handle(tid, number) {
            let streams = &self.shared.files.handles.streams;
            streams.give_away(&self.shared, handle);
            return Ok(Passed::Handle(handle));
        }
        let link = std::fs::read_link(format!("/proc/{tid}/fd/{number}")).map_err(|error| errno(&error))?;
        let link = link.into_os_string().into_encoded_bytes();
        if PRIVATE.iter().any(|prefix| link.starts_with(prefix)) {
            let copy = copy_of(pid, &self.shared, number as i32)?;
            let promise = self.shared.promises.keep(copy)?;
            letter.kept.promises.push(promise);
            return Ok(Passed::Promise(promise));
        }
        let node = CString::new(format!("/proc/{tid}/fd/{number}"))
            .ok()
            .and_then(|path| fuse_node(&path))
            .filter(|&(mount, node)| self.shared.files.places.is_mount(mount) && node & OWN == 0);
        letter.files.push(File {
            index: letter.objects.len(),
            number,
            node: node.map(|(_, node)| node),
            named: link.starts_with(b"/") && !link.ends_with(b" (deleted)"),
            only_path: descriptor.flags & libc::O_PATH as u64 != 0,
        });
        Ok(Passed::File {
            path: link,
            flags: descriptor.flags as u32,
            offset: descriptor.offset,
        })
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
                    if let Some(handle) = self.home_handle(tid, descriptor) {
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
}

/// Open flags with which a file is opened again for somebody at home.
const OPENED: u32 = (libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_PATH) as u32;

/// What names begin with of what is the node's own.
const PRIVATE: [&[u8]; 4] = [b"pipe:[", b"socket:[", b"anon_inode:", b"/memfd:"];

/// A copy of a guest's descriptor of something of the node's own. It must not be a file of the world's root: a session that holds
/// one cannot end, since closing it is a request to the session.
fn copy_of(pid: u32, shared: &Shared, number: i32) -> Result<OwnedFd, i32> {
    let leader = shared.guests.lock().process(pid).map(|process| process.leader);
    let leader = leader.ok_or(libc::ESRCH)?;
    let link = std::fs::read_link(format!("/proc/{leader}/fd/{number}")).map_err(|error| errno(&error))?;
    let link = link.as_os_str().as_encoded_bytes();
    if !PRIVATE.iter().any(|prefix| link.starts_with(prefix)) {
        return Err(libc::EOPNOTSUPP);
    }
    descriptor_of(leader, number).map_err(|error| errno(&error))
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
    let lease = match &letter.layouts[..] {
        [layout] if !many => {
            let leases = shared.leases.as_ref();
            leases.and_then(|leases| leases.lend((layout.total - done).min(CHUNK_BYTES)))
        }
        _ => None,
    };
    for layout in &letter.layouts {
        if let Some(lease) = &lease {
            if let Err(errno) = layout.gather_to(tid, done, lease) {
                return Err(Unsent {
                    errno,
                    call: Some(Box::new(call)),
                });
            }
            contents.push(Vec::new());
            break;
        }
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
    let sent = match &lease {
        Some(lease) => lease.place().1,
        None => contents.first().map_or(0, Vec::len),
    };
    let whole = letter
        .layouts
        .first()
        .is_none_or(|layout| done + sent >= layout.total);
    let keeps = !letter.kept.promises.is_empty() || !letter.kept.opened.is_empty();
    if many || !whole || done > 0 || keeps {
        call.then = Then::Continue(Box::new(move |shared, call, reply| {
            sent_some(shared, call, reply, letter, handle, flags, (done, sent));
        }));
    }
    call.object = Some(handle);
    shared.begin(call, true, |id| {
        handles::send_operation_lent(
            shared,
            id,
            pid,
            (HandleOp::Send, handle),
            (0, u64::from(flags), usize::from(many)),
            (&request, 0, lease),
        )
    })
}

/// Sends messages with descriptors to a peer that is a guest, which gets the open files themselves, or to any other, which can have only
/// what can be opened at home.
fn send_files(
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
        let mut letter = letter;
        let possible = if known {
            promise_files(shared, pid, &mut letter);
            true
        } else {
            let can_be_opened = |file: &File| file.named || file.node.is_some();
            letter.kept.promises.is_empty() && letter.files.iter().all(can_be_opened)
        };
        let failed = if possible {
            match open_files(shared, call, letter, (handle, flags)) {
                Ok(()) => return,
                Err(unsent) => unsent,
            }
        } else {
            let told = shared.home.unsupported(pid, nr::SENDMSG, libc::EOPNOTSUPP);
            if let Err(error) = told {
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
        let send = || shared.writer.write_frame(Kind::Call, id, &[&payload]);
        let streams = &shared.files.handles.streams;
        streams.ask(shared, handle, id, || send().map_err(|_| libc::EIO))
    })
}

/// A file that a deputy has opened to be sent.
#[derive(Debug, Clone, Copy)]
struct Opened {
    /// The guest's number for it.
    number: u32,
    node: u64,
    handle: u64,
    flags: u32,
    offset: i64,
}

/// Has the deputy open files that are to be sent, one after the other; then they are sent.
fn open_files(
    shared: &Arc<Shared>,
    mut call: Call,
    mut letter: Letter,
    (handle, flags): (u64, u32),
) -> Result<(), Unsent> {
    let next = loop {
        match letter.files.pop() {
            None => break None,
            Some(File {
                index,
                number,
                node: Some(node),
                ..
            }) => break Some((index, number, node)),
            // One of the node's own devices, which home has as well.
            Some(_) => {}
        }
    };
    let Some((index, number, node)) = next else {
        return send_from(shared, call, letter, handle, flags, 0);
    };
    let (how, offset) = match &letter.objects[index] {
        Passed::File { flags, offset, .. } => (*flags & OPENED, *offset),
        Passed::Handle(_) | Passed::Promise(_) => (0, -1),
    };
    let pid = call.pid;
    call.then = Then::Continue(Box::new(move |shared, mut call, reply| {
        /// What the reply says of a regular file.
        const REGULAR: u8 = 2;
        call.then = Then::Answer;
        let Ok(opened) = u64::try_from(reply.result) else {
            return settle(shared, call, &reply);
        };
        letter.kept.opened.push(opened);
        letter.objects[index] = Passed::Handle(opened);
        let gone_on = if sharing::is_shared(how) && reply.data.first() == Some(&REGULAR) {
            let file = Opened {
                number,
                node,
                handle: opened,
                flags: how,
                offset,
            };
            share_file(shared, call, letter, file, (handle, flags))
        } else {
            open_files(shared, call, letter, (handle, flags))
        };
        fail_unsent(shared, gone_on, reply);
    }));
    shared.begin(call, false, |id| {
        let what = (offset, u64::from(how), 0);
        handles::send_operation(shared, id, pid, HandleOp::Open, node, what)
    })
}

/// Answers a call that could not go on.
fn fail_unsent(shared: &Shared, outcome: Result<(), Unsent>, reply: Reply) {
    if let Err(Unsent {
        errno,
        call: Some(call),
    }) = outcome
    {
        let result = -i64::from(errno);
        settle(shared, *call, &Reply { result, ..reply });
    }
}

/// Has guests' descriptors of a file be of what the deputy has opened, so that all have one offset; then what follows.
fn share_file(
    shared: &Arc<Shared>,
    mut call: Call,
    mut letter: Letter,
    file: Opened,
    to: (u64, u32),
) -> Result<(), Unsent> {
    let mut holders = sharing::holders(shared, &call, file.number, file.node);
    let pid = call.pid;
    shared.files.handles.add_passed(file.handle, file.offset);
    let replace = move |shared: &Shared, holders: &[sharing::Holder], letter: &mut Letter| {
        let gift = Gift {
            handle: file.handle,
            flags: file.flags,
            offset: Some(file.offset),
            answers: false,
        };
        if sharing::replace(shared, holders, gift) {
            // It is closed when the guest closes it.
            letter.kept.opened.retain(|&handle| handle != file.handle);
            return true;
        }
        shared.files.handles.forget(file.handle);
        false
    };
    if holders.iter().all(|holder| holder.pid == pid) {
        replace(shared, &holders, &mut letter);
        return open_files(shared, call, letter, to);
    }
    // Other guests' deputies get it from the agent.
    shared.files.handles.set_shared(file.handle);
    call.then = Then::Continue(Box::new(move |shared, mut call, reply| {
        call.then = Then::Answer;
        if reply.result < 0 {
            holders.retain(|holder| holder.pid == pid);
        }
        if !replace(shared, &holders, &mut letter)
            && let Err(error) = shared.home.released(file.handle)
        {
            debug!("telling home: {error}");
        }
        fail_unsent(shared, open_files(shared, call, letter, to), reply);
    }));
    shared.begin(call, false, |id| {
        handles::send_operation(shared, id, pid, HandleOp::Share, file.handle, (0, 0, 0))
    })
}

/// Has files wait for the guest that gets them. Those that cannot are opened again.
fn promise_files(shared: &Shared, pid: u32, letter: &mut Letter) {
    for file in std::mem::take(&mut letter.files) {
        match shared
            .promises
            .keep_with_init(&shared.installer, (pid, file.number), file.only_path)
        {
            Ok(promise) => {
                letter.kept.promises.push(promise);
                letter.objects[file.index] = Passed::Promise(promise);
            }
            Err(errno) => debug!("descriptor {} of {pid}: errno {errno}", file.number),
        }
    }
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
                lease: None,
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
