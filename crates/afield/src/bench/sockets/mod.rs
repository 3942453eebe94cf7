//! Sockets: a server that computes afield, next to the same natively and natively behind a plain relay.
//!
//! The relay ([`relay`]) is what it takes at least to serve a socket that lives in another place than the server does.
//! The load comes from this process, or for the ping-pongs from the guest. All is on the loopback interface of home,
//! under ports that home chooses. Each process ends with its parent, and by itself when nothing happens for [`IDLE_SECONDS`].

mod load;
mod relay;
mod server;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::far::{Far, Program};
use super::{Name, afield, command, own, own_program, report_of_command};
use crate::failure::Failure;
use crate::sys::process::ignore_broken_pipes;

/// Bytes of a request, and of its reply.
const REQUEST_BYTES: usize = 64;
/// A request that begins so is answered; one that does not ends the server.
const REQUEST: [u8; REQUEST_BYTES] = [1; REQUEST_BYTES];
const END: [u8; REQUEST_BYTES] = [0; REQUEST_BYTES];
/// Bytes that go through a stream, and bytes of one read or write.
const STREAM_BYTES: u64 = 256 << 20;
const BLOCK_BYTES: usize = 64 << 10;
/// Longest wait for anything.
const IDLE_SECONDS: u64 = 30;
const IDLE: Duration = Duration::from_secs(IDLE_SECONDS);
/// Events taken at once.
const EVENTS: usize = 64;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Native,
    /// Natively, behind a relay.
    Relay,
    Afield,
}

/// Measures on one side.
pub fn measure(name: Name, side: Side, on: &str, far: Option<&Far>) -> Result<f64, Failure> {
    let there = |words: &[OsString]| -> Result<Command, Failure> {
        if side != Side::Afield {
            return Ok(command(words));
        }
        let mut command = command(&afield(on, words)?);
        if let Some(far) = far {
            far.enter(&mut command);
        }
        Ok(command)
    };
    let words = own(name)?;
    // The other end of a ping is at home, whatever the ping does.
    let server = Peer::start(if name.is_ping() {
        command(&words)
    } else {
        there(&words)?
    })?;
    // A relay for a node that is far away is as far away.
    let far_relay = match far.filter(|_| side == Side::Relay) {
        Some(far) => Some(Program::relay(&local(server.port).to_string(), far.line)?),
        None => None,
    };
    let relay = if side == Side::Relay && far_relay.is_none() {
        let words = vec![
            own_program()?,
            "bench-relay".into(),
            server.port.to_string().into(),
        ];
        Some(Peer::start(command(&words))?)
    } else {
        None
    };
    let port = match &far_relay {
        Some((_, address)) => address
            .parse::<SocketAddr>()
            .map_err(|_| Failure::own(format!("a relay said {address:?} instead of its address")))?
            .port(),
        None => relay.as_ref().map_or(server.port, |relay| relay.port),
    };
    let value = match name {
        Name::Requests => load::requests(port),
        Name::Accept => load::accepts(port),
        Name::Send => load::take(port, STREAM_BYTES),
        Name::Receive => load::give(port, STREAM_BYTES),
        _ => {
            let mut words = words;
            words.push(port.to_string().into());
            report_of_command(there(&words)?).map_err(io::Error::other)
        }
    };
    let value = value.map_err(|error| Failure::own(format!("{} ({side:?}): {error}", name.text())))?;
    server.finish()?;
    Ok(value)
}

/// A process that serves.
struct Peer {
    process: Child,
    port: u16,
}

impl Peer {
    /// Starts it; it says its port first.
    fn start(mut command: Command) -> Result<Self, Failure> {
        let process = command.stdout(Stdio::piped()).spawn().map_err(Failure::own)?;
        let mut peer = Self { process, port: 0 };
        let mut line = String::new();
        if let Some(output) = peer.process.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(Failure::own)?;
        }
        peer.port = line
            .trim()
            .parse()
            .map_err(|_| Failure::own(format!("{command:?} said {line:?} instead of its port")))?;
        Ok(peer)
    }

    /// Waits for its end, after it has been given reason to.
    fn finish(mut self) -> Result<(), Failure> {
        let status = self.process.wait().map_err(Failure::own)?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::own(format!("the server ended with {status}")))
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is ours, and has been waited for or is to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves, or pings the peer at a port and gives the median nanoseconds. A server prints its port first.
pub fn do_work(work: Name, port: Option<u16>) -> io::Result<Option<f64>> {
    let bytes = match work {
        Name::Ping1 => 1,
        Name::Ping4k => 4 << 10,
        _ => BLOCK_BYTES,
    };
    depend()?;
    if let Some(port) = port {
        return load::ping(port, bytes).map(Some);
    }
    let (listener, port) = listen()?;
    announce(port)?;
    match work {
        Name::Requests | Name::Accept => server::serve(&listener),
        Name::Send => server::send(&listener, STREAM_BYTES),
        Name::Receive => server::receive(&listener, STREAM_BYTES),
        _ => server::echo(&listener),
    }?;
    Ok(None)
}

/// Relays to a port; prints its own first.
pub fn relay_to(port: u16) -> io::Result<()> {
    depend()?;
    let (listener, own) = listen()?;
    announce(own)?;
    relay::relay(&listener, port)
}

/// A peer that goes away is an error, not an end; a parent that does is the end.
pub fn depend() -> io::Result<()> {
    ignore_broken_pipes();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Tells the parent where to connect.
fn announce(port: u16) -> io::Result<()> {
    writeln!(io::stdout(), "{port}")
}

/// Listens on a port that the kernel chooses. Connections that are accepted send at once, as the listener is set to.
fn listen() -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Appends events to an empty list, and waits for them for a bounded time.
fn wait(epoll: impl AsFd, events: &mut Vec<epoll::Event>) -> io::Result<()> {
    let bound = Timespec {
        tv_sec: IDLE_SECONDS as i64,
        tv_nsec: 0,
    };
    match epoll::wait(epoll, spare_capacity(events), Some(&bound)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
