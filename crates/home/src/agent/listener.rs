//! Clients of the agent: each connection is served by a thread until its request is answered or handed on.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_link::wire;
use rustix::net::sockopt;

use super::nodes::NodeError;
use super::{Agent, Event, client::Status, lock, now_ms};
use crate::channel::{self, ChannelError, Incoming};
use crate::messages::{Answer, Greeting, Request, RunRequest, ToDeputy};

/// Longest wait for a client's next words.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

/// Clients served at a time; more wait to be accepted.
const CLIENTS_MAX: usize = 256;

/// Longest wait for processes that are about to end.
const LEAVING_TIME_MAX: Duration = Duration::from_secs(5);

/// Most calls that are measured at once, so that the answer is one frame.
const MEASURED_MAX: u32 = 30_000;

/// Stack of a client's thread.
const STACK_BYTES: usize = 256 << 10;

impl Agent {
    /// Accepts clients for as long as the program runs.
    pub(super) fn accept(self: &Arc<Self>, listener: &std::os::unix::net::UnixListener) {
        loop {
            let Ok((socket, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            while lock(&self.state).clients >= CLIENTS_MAX {
                std::thread::sleep(Duration::from_millis(1));
            }
            lock(&self.state).clients += 1;
            let agent = Arc::clone(self);
            let work = move || {
                if let Err(error) = agent.serve_client(socket) {
                    tracing::debug!(%error, "a client was not served");
                }
                lock(&agent.state).clients -= 1;
            };
            let started = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
            if started.is_err() {
                lock(&self.state).clients -= 1;
            }
        }
    }

    fn serve_client(self: &Arc<Self>, socket: UnixStream) -> Result<(), ChannelError> {
        let peer = sockopt::socket_peercred(&socket)?;
        if peer.uid != rustix::process::geteuid() {
            return Ok(());
        }
        socket.set_read_timeout(Some(CLIENT_TIME_MAX))?;
        let pid = peer.pid.as_raw_nonzero().get() as u32;
        let mut incoming = Incoming::default();
        let greeting: Greeting = wire::decode(&incoming.wait_frame(socket.as_fd())?.payload)?;
        channel::send_control(socket.as_fd(), 0, &Greeting::ours(), None)?;
        if !greeting.fits() {
            // One that ends an agent of another version must be understood.
            let frame = incoming.wait_frame(socket.as_fd())?;
            if let Ok(Request::Stop { force }) = wire::decode(&frame.payload) {
                self.answer_stop(socket, force)?;
            }
            return Ok(());
        }
        let request: Request = wire::decode(&incoming.wait_frame(socket.as_fd())?.payload)?;
        match request {
            Request::Run(request) => {
                socket.set_read_timeout(None)?;
                let directory = match request.directory {
                    true => Some(incoming.take_descriptor()?),
                    false => None,
                };
                self.start_job(pid, *request, directory, socket.into(), incoming);
                Ok(())
            }
            Request::Ps => {
                let mut processes: Vec<_> = self
                    .sessions()
                    .iter()
                    .flat_map(|session| session.processes())
                    .collect();
                processes.sort_unstable_by_key(|process| process.pid);
                channel::send_control(socket.as_fd(), 0, &Answer::Processes(processes), None)
            }
            Request::Explain { pid } => {
                let explained = self.sessions().iter().find_map(|session| session.explain(pid));
                let answer = Answer::Explained(explained.map(Box::new));
                channel::send_control(socket.as_fd(), 0, &answer, None)
            }
            Request::Links => {
                let links = self.sessions().iter().map(|session| session.link()).collect();
                channel::send_control(socket.as_fd(), 0, &Answer::Links(links), None)
            }
            Request::Status => channel::send_control(socket.as_fd(), 0, &Answer::Status(self.status()), None),
            Request::Measure {
                place,
                place_name,
                calls,
            } => {
                let measured = self
                    .session(&place, 0, &place_name, &[])
                    .map_err(|error| error.to_string())
                    .and_then(|session| {
                        let measured = session.measure(calls.min(MEASURED_MAX));
                        measured.map_err(|error| error.to_string())
                    });
                channel::send_control(socket.as_fd(), 0, &Answer::Measured(measured), None)
            }
            Request::Stop { force } => self.answer_stop(socket, force),
        }
    }

    fn answer_stop(&self, socket: UnixStream, force: bool) -> Result<(), ChannelError> {
        let busy = self.await_leaving();
        if busy > 0 && !force {
            return channel::send_control(socket.as_fd(), 0, &Answer::Busy(busy), None);
        }
        channel::send_control(socket.as_fd(), 0, &Answer::Ending, None)?;
        // The client sees the end of the connection when the program ends.
        lock(&self.state).farewells.push(socket);
        let _ = self.events.send(Event::Stop);
        Ok(())
    }

    /// Waits for processes that are on their way out; how many there are otherwise.
    fn await_leaving(&self) -> u32 {
        let deadline = Instant::now() + LEAVING_TIME_MAX;
        loop {
            let sessions = self.sessions();
            let (mut all, mut staying) = (0, 0);
            for deputy in sessions.iter().flat_map(|session| session.all_deputies()) {
                all += 1;
                staying += u32::from(!deputy.is_leaving());
            }
            if staying > 0 || all == 0 {
                return staying;
            }
            if Instant::now() >= deadline {
                return all;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started_ms,
            processes: self.process_count(),
            nodes: self
                .sessions()
                .iter()
                .map(|session| {
                    (
                        session.name.clone(),
                        session.welcome.name.clone(),
                        session.welcome.cpus,
                    )
                })
                .collect(),
        }
    }

    fn start_job(
        self: &Arc<Self>,
        pid: u32,
        request: RunRequest,
        directory: Option<OwnedFd>,
        channel: OwnedFd,
        incoming: Incoming,
    ) {
        let refuse = |why: String| {
            let _ = channel::send_control(channel.as_fd(), 0, &ToDeputy::Refused(why), None);
        };
        lock(&self.state).starting += 1;
        let RunRequest {
            place, world, spawn, ..
        } = &request;
        match self.session(place, *world, &request.place_name, &spawn.environment) {
            Err(error @ NodeError::Ssh { asks: true, .. }) => {
                let asks = ToDeputy::Asks(error.to_string());
                let _ = channel::send_control(channel.as_fd(), 0, &asks, None);
            }
            Err(error) => refuse(error.to_string()),
            Ok(session) => {
                if let Err(error) = session.start_job(pid, request, directory, channel, incoming) {
                    session.end(&error);
                }
            }
        }
        let mut state = lock(&self.state);
        state.starting -= 1;
        state.used_ms = now_ms();
    }
}
