//! The link between two machines, without anything on it: frames over loopback, between two processes of this program, against raw TCP
//! and against the same link without encryption; in bulk also against raw TCP with encryption and nothing else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_link::byte_stream::{ByteStream, Plain};
use afield_link::carrier::{Carrier, Dial, Redial};
use afield_link::frame::Kind;
use afield_link::preamble::SessionId;
use afield_link::resume::{Class, Limits};
use afield_link::secure::{Identity, SecureStream, accept, connect};

use super::Name;
use super::figure::median;
use super::sealed::Sealed;
use crate::sys::child::{Child, fork_child};

/// Bytes of a message to and fro, and of a message in bulk.
const SMALL_BYTES: usize = 64;
const LARGE_BYTES: usize = 256 << 10;

/// Bytes in bulk all in all.
const BULK_BYTES: usize = 512 << 20;

/// Round trips in a batch, and batches.
const BATCH: usize = 200;
const BATCHES: usize = 25;

/// Calls at a time, and how often each is made.
const CALLS: usize = 1000;
const ROUNDS: usize = 50;

/// How often the connection is lost.
const CUTS: usize = 15;

const TIMEOUT: Duration = Duration::from_secs(20);

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Plain TCP, each message written and read whole.
    Raw,
    /// The same with encryption and nothing else; bulk only.
    Sealed,
    /// The link without encryption, as no product uses it.
    Plain,
    /// The link.
    Secure,
}

/// Measures one figure one way.
pub fn measure(name: Name, way: Way) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = fork_child(move || {
        // Its end is seen by who measures.
        let _ = match way {
            Way::Raw => raw_echo(&listener),
            Way::Sealed => sealed_echo(&listener),
            _ => carried_echo(&listener, way),
        };
    })?;
    let echo = Killed(Some(echo));
    let figure = match way {
        Way::Raw => raw(name, address),
        Way::Sealed => sealed(address),
        _ => carried(name, address, way),
    };
    drop(echo);
    figure
}

/// A child that goes when its measurement does.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            child.kill_and_reap();
        }
    }
}

/// Answers each small message with itself, and the last large one (which says so) with a small one.
fn raw_echo(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut kind = [0];
        socket.read_exact(&mut kind)?;
        let mut message = vec![0; if kind[0] == 0 { SMALL_BYTES } else { LARGE_BYTES }];
        while socket.read_exact(&mut message).is_ok() {
            if kind[0] == 0 {
                socket.write_all(&message)?;
            } else if message[0] == 1 {
                socket.write_all(&[0; SMALL_BYTES])?;
            }
        }
    }
}

fn raw(name: Name, address: SocketAddr) -> io::Result<f64> {
    let open = |kind| {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.write_all(&[kind])?;
        Ok::<_, io::Error>(socket)
    };
    let mut message = [7; SMALL_BYTES];
    match name {
        Name::LinkPing => {
            let mut socket = open(0)?;
            batches(|| {
                socket.write_all(&message)?;
                socket.read_exact(&mut message)
            })
        }
        Name::LinkBulk => {
            let mut socket = open(1)?;
            let mut writer = socket.try_clone()?;
            bulk(
                |large| writer.write_all(large),
                || socket.read_exact(&mut message),
            )
        }
        Name::LinkCalls => {
            let mut socket = open(0)?;
            let mut writer = socket.try_clone()?;
            calls(
                move || writer.write_all(&[7; SMALL_BYTES]),
                || socket.read_exact(&mut message),
            )
        }
        // What a new connection costs at least: that, and a round trip.
        _ => {
            let mut times = Vec::new();
            for _ in 0..CUTS {
                let start = Instant::now();
                let mut socket = open(0)?;
                socket.write_all(&message)?;
                socket.read_exact(&mut message)?;
                times.push(start.elapsed().as_nanos() as f64);
            }
            Ok(median(times))
        }
    }
}

fn sealed_echo(listener: &TcpListener) -> io::Result<()> {
    let (mut socket, _) = listener.accept()?;
    let mut receiver = Sealed::new(socket.try_clone()?, LARGE_BYTES)?;
    while receiver.receive()? != 1 {}
    socket.write_all(&[0; SMALL_BYTES])?;
    // Until the other end has had it.
    socket.read_exact(&mut [0])
}

fn sealed(address: SocketAddr) -> io::Result<f64> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut sender = Sealed::new(socket.try_clone()?, LARGE_BYTES)?;
    bulk(
        |large| sender.send(large),
        || socket.read_exact(&mut [0; SMALL_BYTES]),
    )
}

fn stream_of(socket: TcpStream, way: Way, serves: bool) -> io::Result<Arc<dyn ByteStream>> {
    if way == Way::Plain {
        return Ok(Arc::new(Plain::new(socket)?));
    }
    let identity = Identity::ephemeral().ok_or_else(|| io::Error::other("no key could be made"))?;
    let deadline = Instant::now() + TIMEOUT;
    let secured = match serves {
        true => accept(socket, &identity, deadline)?,
        false => connect(socket, &identity, None, deadline)?,
    };
    Ok(Arc::new(SecureStream::new(secured)?))
}

fn carried_echo(listener: &TcpListener, way: Way) -> io::Result<()> {
    // As a node's sessions do.
    afield_link::sys::keep_freed_memory();
    let stream = stream_of(listener.accept()?.0, way, true)?;
    let session = SessionId([1; 16]);
    let node = Carrier::begin_on_node(stream, Limits::default(), session, Instant::now() + TIMEOUT)
        .map_err(io::Error::other)?;
    node.keep()?;
    let offered = node.clone();
    let listener = listener.try_clone()?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            offered.offer(move |_| stream_of(socket, way, true));
        }
    });
    while let Ok(frame) = node.read_frame(None) {
        let answered = match frame.payload.len() {
            SMALL_BYTES => node.write_frame(Class::Ordered, Kind::CallReply, frame.id, &[&frame.payload]),
            _ if frame.id == 1 => node.write_frame(Class::Ordered, Kind::CallReply, 1, &[&[0; SMALL_BYTES]]),
            _ => Ok(()),
        };
        answered.map_err(io::Error::other)?;
    }
    Ok(())
}

fn carried(name: Name, address: SocketAddr, way: Way) -> io::Result<f64> {
    // The last connection, to be cut.
    let last = Arc::new(std::sync::Mutex::new(None));
    let note = Arc::clone(&last);
    let open = move || {
        let socket = TcpStream::connect(address)?;
        if let Ok(mut last) = note.lock() {
            *last = Some(socket.try_clone()?);
        }
        stream_of(socket, way, false)
    };
    let stream = open()?;
    let dial: Dial = Box::new(move |_, _| open().map_err(|error| Redial::Later(error.to_string())));
    let home = Carrier::begin_at_home(stream, Limits::default(), dial, Instant::now() + TIMEOUT)
        .map_err(io::Error::other)?;
    home.keep()?;
    let send = |id: u64, bytes: &[u8]| {
        home.write_frame(Class::Ordered, Kind::Call, id, &[bytes])
            .map_err(io::Error::other)
    };
    let take = || home.read_frame(Some(TIMEOUT)).map(drop).map_err(io::Error::other);
    let message = [7; SMALL_BYTES];
    let figure = match name {
        Name::LinkPing => batches(|| {
            send(0, &message)?;
            take()
        }),
        Name::LinkBulk => bulk(|large| send(u64::from(large[0]), large), take),
        Name::LinkCalls => {
            let writer = home.clone();
            calls(
                move || {
                    writer
                        .write_frame(Class::Ordered, Kind::Call, 0, &[&message])
                        .map_err(io::Error::other)
                },
                take,
            )
        }
        _ => {
            let mut times = Vec::new();
            for _ in 0..CUTS {
                send(0, &message)?;
                take()?;
                let socket = last.lock().ok().and_then(|mut last| last.take());
                let start = Instant::now();
                if let Some(socket) = socket {
                    socket.shutdown(std::net::Shutdown::Both)?;
                }
                send(0, &message)?;
                take()?;
                times.push(start.elapsed().as_nanos() as f64);
                // Not again at once: home would wait a moment before it tries again.
                std::thread::sleep(Duration::from_millis(30));
            }
            Ok(median(times))
        }
    };
    home.shutdown();
    figure
}

/// Median nanoseconds of a round trip.
fn batches(mut trip: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            trip()?;
        }
        batches.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    Ok(median(batches))
}

/// Bytes in a second, up to the peer's word that all has come.
fn bulk(
    mut send: impl FnMut(&[u8]) -> io::Result<()>,
    mut take: impl FnMut() -> io::Result<()>,
) -> io::Result<f64> {
    let mut large = vec![0; LARGE_BYTES];
    let start = Instant::now();
    let count = BULK_BYTES / LARGE_BYTES;
    for index in 0..count {
        large[0] = u8::from(index + 1 == count);
        send(&large)?;
    }
    take()?;
    Ok(BULK_BYTES as f64 / start.elapsed().as_secs_f64())
}

/// Calls in a second, so many of them open at a time.
fn calls(
    mut send: impl FnMut() -> io::Result<()> + Send,
    mut take: impl FnMut() -> io::Result<()>,
) -> io::Result<f64> {
    let start = Instant::now();
    for _ in 0..CALLS {
        send()?;
    }
    for _ in 0..CALLS * (ROUNDS - 1) {
        take()?;
        send()?;
    }
    for _ in 0..CALLS {
        take()?;
    }
    Ok((CALLS * ROUNDS) as f64 / start.elapsed().as_secs_f64())
}
