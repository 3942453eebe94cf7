//! The floor of a forwarded call: the same bytes to and fro between two processes over the same kind of transport.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::figure::median;
use super::work::{BATCH, BATCHES};
use crate::sys::child;

/// Bytes of a forwarded call without arguments, frame and all.
const MESSAGE_BYTES: usize = 80;

/// Median nanoseconds of a round trip, over a Unix socketpair or over loopback TCP.
pub fn ping_pong(embedded: bool) -> io::Result<f64> {
    if embedded {
        let (ours, theirs) = UnixStream::pair()?;
        between(ours, theirs)
    } else {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let ours = TcpStream::connect(listener.local_addr()?)?;
        let (theirs, _) = listener.accept()?;
        ours.set_nodelay(true)?;
        theirs.set_nodelay(true)?;
        between(ours, theirs)
    }
}

fn between<S: Read + Write>(mut ours: S, mut theirs: S) -> io::Result<f64> {
    let mut message = [7; MESSAGE_BYTES];
    let echo = child::fork_child(move || {
        let mut message = [0; MESSAGE_BYTES];
        while theirs.read_exact(&mut message).is_ok() && theirs.write_all(&message).is_ok() {}
    })?;
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            ours.write_all(&message)?;
            ours.read_exact(&mut message)?;
        }
        batches.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    echo.kill_and_reap();
    Ok(median(batches))
}
