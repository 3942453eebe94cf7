//! Calls that go home.

use std::sync::Arc;

use afield_abi::syscalls::{self, Arg, Len, Restart, nr};
use afield_link::frame::Kind;
use afield_link::wire::{self, Buffer, CallHeader, HandleOp};
use tracing::debug;
use zerocopy::IntoBytes;

use super::notify::{Door, Verdict, later};
use super::paths::socket_name;
use crate::fs::handles;
use crate::installer::Gift;
use crate::session::{Call, Then};
use crate::sys::seccomp::{Answer, Notification};
use crate::sys::{errno, memory};

impl Door {
    /// A notified call that home is asked about.
    pub(super) fn call(
        &self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        (then, outputs): (Then, Vec<(u64, usize)>),
        restart: Restart,
        object: Option<u64>,
    ) -> Call {
        Call {
            pid,
            tid,
            listener: Arc::clone(&self.listener),
            notification: notification.id,
            outputs,
            measured: None,
            then,
            number: notification.number as u32,
            restart,
            cancelled: false,
            object,
        }
    }

    /// An operation on a home object in place of the call.
    pub(super) fn operate(
        &mut self,
        notification: &Notification,
        who: (i32, u32),
        op: HandleOp,
        handle: u64,
        what: (i64, u64, usize),
        then: (Then, Vec<(u64, usize)>),
    ) -> Result<Verdict, i32> {
        let call = self.call(notification, who, then, Restart::Restart, Some(handle));
        let send = |id| handles::send_operation(&self.shared, id, who.1, op, handle, what);
        later(self.shared.begin(call, false, send))
    }

    /// Sends a call home.
    pub(super) fn forward(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        arguments: [u64; 6],
        then: Then,
    ) -> Result<Verdict, i32> {
        self.forward_named(notification, (tid, pid), number, arguments, None, then)
    }

    /// As [`forward`](Self::forward), with another path than the guest's as the first argument.
    pub(super) fn forward_named(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        number: u32,
        arguments: [u64; 6],
        first: Option<Vec<u8>>,
        then: Then,
    ) -> Result<Verdict, i32> {
        let row = syscalls::row(number).ok_or(libc::ENOSYS)?;
        let mut payload = Vec::with_capacity(256);
        payload.resize(size_of::<CallHeader>(), 0);
        let mut outputs = Vec::new();
        let mut buffers = 0u32;
        let mut sent = arguments;
        let mut then = then;
        let mut object = None;
        let mut measured = None;
        let mut places = [usize::MAX; 6];
        for (index, arg) in row.shape(&arguments).iter().enumerate() {
            let address = arguments[index];
            let data = match arg {
                Arg::None => {
                    sent[index] = 0;
                    continue;
                }
                Arg::Value => continue,
                Arg::Fd => {
                    let Some(handle) = self.home_handle(tid, address as u32) else {
                        return self.on_private((tid, pid), number, address as u32);
                    };
                    object = Some(handle);
                    sent[index] = handle;
                    continue;
                }
                Arg::String if let (0, Some(path)) = (index, &first) => [path, &b"\0"[..]].concat(),
                Arg::String => {
                    let mut path = memory::read_string(tid, address, libc::PATH_MAX as usize - 1)
                        .map_err(|error| errno(&error))?;
                    path.push(0);
                    path
                }
                Arg::Out(Len::Pointee { index: counter, max }) => {
                    if address == 0 {
                        sent[index] = 0;
                        continue;
                    }
                    let mut count = [0; 4];
                    memory::read(tid, arguments[*counter as usize], &mut count)
                        .map_err(|error| errno(&error))?;
                    vec![0; (i32::from_ne_bytes(count).max(0) as u32).min(*max) as usize]
                }
                Arg::In(_) | Arg::Out(_) | Arg::InOut(_) => {
                    let length = arg.bytes(index, &arguments).unwrap_or(0) as usize;
                    if length == 0 {
                        sent[index] = 0;
                        continue;
                    }
                    if length > afield_link::frame::PAYLOAD_BYTES_MAX / 2 {
                        return Err(libc::EINVAL);
                    }
                    let mut data = vec![0; length];
                    if arg.is_input() {
                        memory::read(tid, address, &mut data).map_err(|error| errno(&error))?;
                    }
                    if matches!(number, nr::BIND | nr::CONNECT)
                        && let Some(name) = socket_name(tid, &data)?
                    {
                        sent[index + 1] = name.len() as u64;
                        data = name;
                    }
                    data
                }
            };
            sent[index] = 0;
            if arg.is_output() {
                places[index] = outputs.len();
                outputs.push((address, data.len()));
            }
            buffers += 1;
            wire::encode_buffer(
                &mut payload,
                &Buffer {
                    argument: index as u8,
                    input: arg.is_input(),
                    output: arg.is_output(),
                    length: data.len(),
                    data: &data,
                },
            );
        }
        for (index, arg) in row.shape(&arguments).iter().enumerate() {
            if let Arg::Out(Len::Pointee { index: counter, .. }) = arg
                && places[index] != usize::MAX
            {
                measured = Some((places[index], places[*counter as usize]));
            }
        }
        let mut result = 0;
        if let Some(opens) = row.gives(&arguments) {
            result = self.shared.installer.new_handles(1);
            self.shared.files.handles.add(result, true, 0);
            let mut access = libc::O_RDWR as u32;
            if number == nr::IOCTL {
                // The other side of a pseudo-terminal.
                self.shared.files.handles.mark_terminal(result);
                access = arguments[2] as u32 & libc::O_ACCMODE as u32;
            }
            then = Then::Install(Gift {
                handle: result,
                flags: access | opens.flags(&arguments),
                offset: None,
                answers: true,
            });
        }
        if !self.listener.is_waiting(notification.id) {
            return Ok(Verdict::Later);
        }
        let header = CallHeader {
            pid: pid.into(),
            tid: notification.tid.into(),
            number: number.into(),
            buffers: buffers.into(),
            arguments: sent.map(Into::into),
            result: result.into(),
        };
        payload[..size_of::<CallHeader>()].copy_from_slice(header.as_bytes());
        let call = Call {
            number,
            measured,
            ..self.call(notification, (tid, pid), (then, outputs), row.restart, object)
        };
        let send = |id| {
            if self.shared.files.home.has_locks() {
                // If the mount is gone there is nothing to tell.
                let _ = crate::fs::settle(&self.shared);
            }
            let send = || {
                self.shared
                    .writer
                    .write_frame(Kind::Call, id, &[&payload])
                    .map_err(|error| {
                        debug!("forwarding {}: {error}", row.name);
                        libc::EIO
                    })
            };
            match object {
                Some(handle) => {
                    let streams = &self.shared.files.handles.streams;
                    streams.ask(&self.shared, handle, id, send)
                }
                None => send(),
            }
        };
        later(self.shared.begin(call, row.blocks, send))
    }

    /// A call on a descriptor that is not home's is the node's kernel's, but must not give an address to what home knows nothing of.
    pub(super) fn on_private(
        &mut self,
        (tid, pid): (i32, u32),
        number: u32,
        descriptor: u32,
    ) -> Result<Verdict, i32> {
        if matches!(number, nr::BIND | nr::CONNECT) && is_socket(tid, descriptor) {
            self.report(pid, number, libc::EOPNOTSUPP);
            return Err(libc::EOPNOTSUPP);
        }
        Ok(Verdict::Answer(Answer::Continue))
    }
}

/// True for a socket of the node's own kernel.
pub(super) fn is_socket(tid: i32, descriptor: u32) -> bool {
    std::fs::read_link(format!("/proc/{tid}/fd/{descriptor}"))
        .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
}
