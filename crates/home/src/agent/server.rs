//! What the node asks of home. Executed by the thread that reads the link, in the link's order.

use std::sync::Arc;

use afield_link::control::{ARGUMENTS_BYTES_MAX, DESCRIPTORS_TOLD, DescriptorChange, Home, NAME_BYTES_MAX};
use afield_link::wire::{self, SpawnError, Usage};
use afield_rpc::{Answer, CallError};

use super::deputies::DeputyEntry;
use super::lock;
use super::requests::words_of;
use super::session::{Outstanding, Session, SessionError};
use super::streams::Holder;
use super::trips::Operation;
use crate::messages::ToDeputy;

/// A session, as its node sees it.
pub(super) struct Server<'a> {
    /// The session.
    pub session: &'a Arc<Session>,
}

impl Home for Server<'_> {
    type Fault = SessionError;

    fn fork(
        &self,
        pid: u32,
        exit_signal: u32,
        sibling: bool,
        answer: Answer<Result<u32, i32>>,
    ) -> Result<(), SessionError> {
        let Some(deputy) = self.session.deputy(pid) else {
            return Ok(answer.send(&Err(libc::ESRCH))?);
        };
        deputy.count_home_call(Operation::Fork, 0);
        let what = Outstanding::Fork {
            deputy: Arc::clone(&deputy),
            sibling,
            answer,
        };
        let id = self.session.expect_own(what)?;
        self.session.streams.forking(pid, id);
        let message = ToDeputy::Fork { exit_signal, sibling };
        self.session.tell(&deputy, id, &message, None)
    }

    fn unfork(&self, parent: u32, pid: u32) -> Result<(), SessionError> {
        self.session.unfork(parent, pid)
    }

    fn exec(&self, pid: u32, name: Vec<u8>, arguments: Vec<u8>) -> Result<(), SessionError> {
        bounded("name", &name, NAME_BYTES_MAX)?;
        bounded("arguments", &arguments, ARGUMENTS_BYTES_MAX)?;
        let Some(deputy) = self.session.deputy(pid) else {
            return Ok(());
        };
        {
            let mut status = lock(&deputy.status);
            status.command = words_of(&arguments);
            status.program.executed();
        }
        self.session
            .tell(&deputy, 0, &ToDeputy::Exec { name, arguments }, None)
    }

    fn name(&self, pid: u32, name: Vec<u8>) -> Result<(), SessionError> {
        bounded("name", &name, NAME_BYTES_MAX)?;
        match self.session.deputy(pid) {
            Some(deputy) => self.session.tell(&deputy, 0, &ToDeputy::Name(name), None),
            None => Ok(()),
        }
    }

    fn ignores(&self, pid: u32, signal: u32, ignored: bool) -> Result<(), SessionError> {
        let stops = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        if !stops.contains(&(signal as i32)) {
            return Err(SessionError::Violation(format!(
                "signal {signal} is of no account"
            )));
        }
        match self.session.deputy(pid) {
            Some(deputy) => self
                .session
                .tell(&deputy, 0, &ToDeputy::Ignores { signal, ignored }, None),
            None => Ok(()),
        }
    }

    fn title(&self, pid: u32, arguments: Vec<u8>) -> Result<(), SessionError> {
        bounded("arguments", &arguments, ARGUMENTS_BYTES_MAX)?;
        let Some(deputy) = self.session.deputy(pid) else {
            return Ok(());
        };
        lock(&deputy.status).command = words_of(&arguments);
        self.session.tell(&deputy, 0, &ToDeputy::Title(arguments), None)
    }

    fn exit(&self, pid: u32, status: i32, usage: Usage) -> Result<(), SessionError> {
        self.session.exit(pid, status, usage)
    }

    fn stop(&self, pid: u32, signal: u32) -> Result<(), SessionError> {
        let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        if !stops.contains(&(signal as i32)) {
            return Err(SessionError::Violation(format!("signal {signal} stops nobody")));
        }
        match self.session.deputy(pid) {
            Some(deputy) => {
                lock(&deputy.status).stopping = true;
                self.session.tell(&deputy, 0, &ToDeputy::Stop { signal }, None)
            }
            None => Ok(self.session.node.release(pid)?),
        }
    }

    fn unsupported(&self, pid: u32, call: u32, errno: i32) -> Result<(), SessionError> {
        self.session.unsupported(pid, call, errno)
    }

    fn notice(&self, pid: u32, text: String) -> Result<(), SessionError> {
        self.session.notice(pid, &text)
    }

    fn farewell(&self, why: String) -> Result<(), SessionError> {
        Err(SessionError::Farewell(wire::presentable(&why)))
    }

    fn released(&self, handle: u64) -> Result<(), SessionError> {
        self.session.shared.remove(handle);
        self.session.streams.let_go(handle, Holder::Agent);
        Ok(())
    }

    fn ping(&self) -> Result<(), SessionError> {
        Ok(())
    }

    fn descriptors(&self, pid: u32, changes: Vec<DescriptorChange>) -> Result<(), SessionError> {
        let most = DESCRIPTORS_TOLD as usize;
        if changes.len() > most || changes.iter().any(|change| change.number >= DESCRIPTORS_TOLD) {
            return Err(SessionError::Violation(format!("descriptors beyond {most}")));
        }
        match self.session.deputy(pid) {
            Some(deputy) => self
                .session
                .tell(&deputy, 0, &ToDeputy::Descriptors(changes), None),
            None => Ok(()),
        }
    }
}

/// What a node says has to be as long as it can be.
fn bounded(what: &str, bytes: &[u8], max: usize) -> Result<(), SessionError> {
    match bytes.len() {
        length if length > max => Err(SessionError::Violation(format!("{what} of {length} bytes"))),
        _ => Ok(()),
    }
}

impl Session {
    /// The node has started a guest, or says why not.
    pub(super) fn started(
        &self,
        deputy: &Arc<DeputyEntry>,
        result: Result<Result<(), SpawnError>, CallError>,
    ) -> Result<(), SessionError> {
        let result = match result {
            Ok(result) => result,
            // The deputy has been told why.
            Err(_) if self.is_over() => return Ok(()),
            Err(error) => Err(SpawnError {
                step: error.to_string(),
                errno: libc::EIO,
            }),
        };
        let pid = deputy.pid;
        if !self.deputy(pid).is_some_and(|other| Arc::ptr_eq(&other, deputy)) {
            return Ok(());
        }
        {
            let way = self.files.end_start(pid);
            let mut status = lock(&deputy.status);
            status.directory.extend(way);
            status.started = true;
            status.ending |= result.is_err();
        }
        self.tell(deputy, 0, &ToDeputy::Spawned(result), None)
    }
}
