//! The first words on a connection, within a deadline.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::byte_stream::ByteStream;
use crate::resume::ProtocolError;
use crate::resume::greeting::{Greeting, Outcome};

/// Why a greeting came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The connection failed, or took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer is not who it should be.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

/// Goes through the greeting; `received` says how many pieces this end has received by then.
pub fn greet(
    stream: &dyn ByteStream,
    mut greeting: Greeting,
    deadline: Instant,
    mut received: impl FnMut() -> u64,
) -> Result<Outcome, GreetingError> {
    say(stream, &greeting.begin(), deadline)?;
    loop {
        let mut message = vec![0; greeting.wanted()];
        hear(stream, &mut message, deadline)?;
        let step = greeting.hear(&message, received())?;
        say(stream, &step.say, deadline)?;
        if let Some(outcome) = step.outcome {
            return Ok(outcome);
        }
    }
}

fn say(stream: &dyn ByteStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(&[IoSlice::new(bytes)]) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(stream, PollFlags::OUT, deadline)?;
                stream.flush()?;
            }
            Err(error) => return Err(error),
        }
    }
    while !stream.flush()? {
        wait(stream, PollFlags::OUT, deadline)?;
    }
    Ok(())
}

fn hear(stream: &dyn ByteStream, mut bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.read(bytes, false) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => bytes = &mut bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(stream, PollFlags::IN, deadline)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(stream: &dyn ByteStream, what: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut polls = [PollFd::from_borrowed_fd(stream.socket(), what)];
    rustix::io::retry_on_intr(|| poll(&mut polls, Some(&timespec(left))))?;
    Ok(())
}

/// For the kernel.
pub fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: span.as_secs() as i64,
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
