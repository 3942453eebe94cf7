//! What comes from home is handed on, in the link's order, and not before the kernel has been told what goes ahead of it
//! ([`barrier`](crate::fs::coherent::barrier)).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use afield_link::control::dispatch_node;
use afield_link::frame::{FILE_ID, Frame, Kind};
use afield_link::stream::{LinkError, Reader, Writer};
use afield_link::turns::{Next, Turns};
use afield_rpc::endpoint::Endpoint;

use crate::door::calls;
use crate::fs;
use crate::fs::coherent::barrier::Gate;
use crate::fs::coherent::kept::Notice;
use crate::server::Server;
use crate::session::{MemoryTask, SessionError, Shared, start};
use crate::sys;
use crate::trace::Order;
use crate::world::ending::Notices;

/// Threads that read the link in turn.
const READERS: usize = 3;

/// Reads the link until its end. The calling thread only waits for that: it must be free to end the session while others wait for
/// guest memory.
pub fn read(
    reader: Reader,
    endpoint: &Arc<Endpoint<Writer>>,
    server: Server,
    notices: Notices,
) -> Result<(), SessionError> {
    let turns = Arc::new(Turns::new(reader)?);
    let free = Arc::new(AtomicUsize::new(READERS));
    let server = Arc::new(server);
    let opens = start_notifier(&server.shared, notices)?;
    let (ended, end) = channel();
    for _ in 0..READERS {
        let (turns, free) = (Arc::clone(&turns), Arc::clone(&free));
        let (server, endpoint, ended) = (Arc::clone(&server), Arc::clone(endpoint), ended.clone());
        start("link", move || {
            let shared = &server.shared;
            while let Some(task) = turns.next(|frame| {
                let taken = frame.map_err(SessionError::from);
                let task = match taken.and_then(|frame| take(&server, &endpoint, frame)) {
                    Ok(None) => return Next::More,
                    Ok(Some(task)) => task,
                    Err(error) => {
                        let _ = ended.send(error);
                        return Next::Stop;
                    }
                };
                // Somebody must be left to read: the memory may be a file's, which comes by the link.
                let others = |free: usize| (free > 1).then(|| free - 1);
                match free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, others) {
                    Ok(_) => Next::Leave(task),
                    Err(_) => {
                        shared.with_memory(task);
                        Next::More
                    }
                }
            }) {
                task(shared);
                free.fetch_add(1, Ordering::SeqCst);
            }
        })?;
    }
    start("gate", {
        let (server, endpoint) = (Arc::clone(&server), Arc::clone(endpoint));
        move || {
            for () in opens {
                if let Err(error) = open_gate(&server, &endpoint) {
                    let _ = ended.send(error);
                }
            }
        }
    })?;
    let ended = end.recv();
    server.shared.files.give_up();
    match ended {
        Ok(SessionError::Link(LinkError::Closed)) | Err(_) => Ok(()),
        Ok(error) => Err(error),
    }
}

/// Starts who tells the kernel of changes. He says when the gate is to be opened.
fn start_notifier(shared: &Arc<Shared>, notices: Notices) -> Result<Receiver<()>, SessionError> {
    let (open, opens) = channel();
    let (apart, is_apart) = channel();
    let (telling, numbers) = (Arc::clone(shared), notices.numbers());
    start("notifier", move || {
        let own = Notices::keep_only(&numbers);
        let _ = apart.send(own.as_ref().err().map(sys::errno));
        if let Ok(own) = own {
            telling.files.keep_true(&own.devices, &open);
        }
    })?;
    // This process's are closed after that.
    match is_apart.recv() {
        Ok(None) => Ok(opens),
        Ok(Some(errno)) => Err(io::Error::from_raw_os_error(errno).into()),
        Err(_) => Err(io::Error::other("the notifier has ended").into()),
    }
}

/// In the reader's turn: whatever comes is handed on without waiting for anything. What touches guest memory is left.
fn take(
    server: &Server,
    endpoint: &Arc<Endpoint<Writer>>,
    frame: Frame,
) -> Result<Option<MemoryTask>, SessionError> {
    let files = &server.shared.files;
    let mut gate = files.coherent.barrier.gate();
    if !gate.is_closed() {
        return deliver(server, endpoint, &mut gate, frame);
    }
    let unique = frame.id & !FILE_ID;
    if frame.kind == Kind::FileReply && files.coherent.may_pass(unique) {
        let notices = files.home_replied(&server.shared, unique, frame.payload, true)?;
        gate.tell_more(notices);
    } else {
        gate.keep(frame)?;
    }
    Ok(None)
}

/// The kernel has been told: what has waited for that is delivered, until it has to be told more.
fn open_gate(server: &Server, endpoint: &Arc<Endpoint<Writer>>) -> Result<(), SessionError> {
    let shared = &server.shared;
    let barrier = &shared.files.coherent.barrier;
    let mut gate = barrier.gate();
    loop {
        let more = gate.take_more();
        if !more.is_empty() {
            // This thread is the one that tells it.
            let _ = barrier.apply(more, false);
            return Ok(());
        }
        let Some(frame) = gate.next() else {
            shared.orders.give(Order::Unhush);
            return Ok(());
        };
        if let Some(task) = deliver(server, endpoint, &mut gate, frame)? {
            shared.with_memory(task);
        }
    }
}

/// Has the kernel told of changes, in the reader's turn.
fn tell_kernel(shared: &Shared, gate: &mut Gate, mut notices: Vec<Notice>, at_once: bool) {
    if at_once {
        shared.files.tell_at_once(&mut notices);
    }
    if notices.is_empty() {
        return;
    }
    if gate.is_closed() {
        return gate.tell_more(notices);
    }
    if !shared.files.coherent.barrier.apply(notices, at_once) {
        gate.close();
        shared.orders.give(Order::Hush);
    }
}

/// Delivers a frame, in the link's order.
fn deliver(
    server: &Server,
    endpoint: &Arc<Endpoint<Writer>>,
    gate: &mut Gate,
    frame: Frame,
) -> Result<Option<MemoryTask>, SessionError> {
    let shared = &server.shared;
    match frame.kind {
        Kind::Streams => shared.files.handles.streams.hear(shared, &frame.payload)?,
        Kind::CallReply => return Ok(calls::reply(shared, frame.id, frame.payload)?),
        Kind::FileReply => {
            let (unique, passing) = (frame.id & !FILE_ID, gate.is_closed());
            let notices = shared
                .files
                .home_replied(shared, unique, frame.payload, passing)?;
            // Who gets the reply holds what the kernel waits for.
            tell_kernel(shared, gate, notices, false);
        }
        Kind::Invalidate => {
            let notices = shared.files.coherent.changed(shared, &frame.payload)?;
            tell_kernel(shared, gate, notices, true);
        }
        Kind::Early => fs::early::take_in(shared, &frame.payload)?,
        Kind::HandleReply if frame.id & FILE_ID == 0 => {
            return Ok(calls::handle_reply(shared, frame.id, frame.payload)?);
        }
        Kind::HandleReply => shared
            .files
            .handle_replied(shared, frame.id & !FILE_ID, &frame.payload)?,
        Kind::Control => {
            if let Some(execution) = endpoint.receive(&frame.payload)? {
                dispatch_node(server, execution)?;
            }
        }
        other => {
            return Err(LinkError::Unexpected {
                expected: Kind::Control,
                got: other,
            }
            .into());
        }
    }
    Ok(None)
}
