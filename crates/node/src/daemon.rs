//! The node daemon: accepts homes over TCP, one session process each.

use std::io;
use std::net::{SocketAddr, TcpListener};

use afield_link::stream::Socket;
use rustix::event::{PollFd, PollFlags};
use tracing::{info, warn};

use crate::session;
use crate::sys::process::{self, exit_now};
use crate::sys::{clone, namespaces, signals};

/// Listens and serves until it is killed. `ready` is called with the bound address.
///
/// The process must have one thread. Sessions end when it does.
pub fn listen(address: SocketAddr, name: &str, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let children = signals::block_and_watch_children()?;
    ready(listener.local_addr()?);
    let daemon = std::process::id();
    loop {
        let mut polls = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, None))?;
        let mut drain = [0; 1024];
        // Non-blocking; who it was does not matter.
        let _ = rustix::io::read(&children, &mut drain);
        process::reap_ended();
        let (socket, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                warn!("accept: {error}");
                continue;
            }
        };
        socket.set_nonblocking(false)?;
        match clone::fork_with(0, libc::SIGCHLD, None) {
            Ok(0) => {
                drop(listener);
                let code =
                    match namespaces::die_with_parent(Some(daemon)).map_err(session::SessionError::from) {
                        Ok(()) => match session::serve(Socket::Tcp(socket), name) {
                            Ok(()) => 0,
                            Err(error) => {
                                warn!("session of {peer}: {error}");
                                1
                            }
                        },
                        Err(_) => 1,
                    };
                exit_now(code);
            }
            Ok(pid) => info!("session of {peer} is process {pid}"),
            Err(error) => warn!("session of {peer}: fork: {error}"),
        }
    }
}
