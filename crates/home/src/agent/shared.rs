//! Home objects that guests pass to each other.
//!
//! A descriptor goes from guest to guest over a socket of the node's, which home knows nothing of. The sender's deputy gives
//! the agent a copy of the object before the message is sent, and the agent gives one to every deputy whose guest uses it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::deputies::DeputyEntry;
use super::lock;
use super::session::{Outstanding, Session, SessionError};
use super::streams::Holder;
use crate::messages::ToDeputy;

/// Most objects kept for one node.
const OBJECTS_MAX: usize = 16384;

/// The copies, by handle.
#[derive(Debug, Default)]
pub struct SharedObjects {
    objects: Mutex<HashMap<u64, OwnedFd>>,
}

impl SharedObjects {
    /// Whether there are none, which is the common case.
    pub fn is_empty(&self) -> bool {
        lock(&self.objects).is_empty()
    }

    /// No guest has it any more.
    pub fn remove(&self, handle: u64) {
        lock(&self.objects).remove(&handle);
    }

    fn copy(&self, handle: u64) -> Option<OwnedFd> {
        lock(&self.objects).get(&handle)?.try_clone().ok()
    }
}

impl Session {
    /// A guest is about to pass the object on.
    pub(super) fn share(&self, deputy: &Arc<DeputyEntry>, id: u64, handle: u64) -> Result<(), SessionError> {
        {
            let objects = lock(&self.shared.objects);
            if objects.contains_key(&handle) {
                drop(objects);
                return self.complete_operation(id);
            }
            if objects.len() >= OBJECTS_MAX {
                drop(objects);
                return self.fail_operation(id, libc::ETOOMANYREFS);
            }
        }
        self.streams.hold(handle, Holder::Agent);
        self.expect(id, Outstanding::Share(Arc::clone(deputy), handle))?;
        self.tell(deputy, id, &ToDeputy::Share { handle }, None)
    }

    /// The deputy's copy has come.
    pub(super) fn keep_shared(
        &self,
        deputy: &Arc<DeputyEntry>,
        id: u64,
        result: Result<(), i32>,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), SessionError> {
        let handle = self.with_outstanding(id, |what| match what {
            Some(Outstanding::Share(of, handle)) if Arc::ptr_eq(of, deputy) => Some(Some(*handle)),
            // It is closed.
            Some(Outstanding::Stream(of, _)) if Arc::ptr_eq(of, deputy) => Some(None),
            _ => None,
        });
        let Some(handle) = handle else {
            tracing::warn!(pid = deputy.pid, id, "a deputy shares what was not asked for");
            return Ok(());
        };
        self.answered(id);
        let Some(handle) = handle else {
            return Ok(());
        };
        match (result, descriptor) {
            (Ok(()), Some(descriptor)) => {
                lock(&self.shared.objects).insert(handle, descriptor);
                self.complete_operation(id)
            }
            (Ok(()), None) => self.fail_operation(id, libc::EBADF),
            (Err(errno), _) => self.fail_operation(id, errno),
        }
    }

    /// Gives the deputy the object, if it is a shared one and the deputy has not got it yet.
    pub(super) fn lend(&self, deputy: &Arc<DeputyEntry>, handle: u64) -> Result<(), SessionError> {
        if lock(&deputy.status).lent.contains(&handle) {
            return Ok(());
        }
        let Some(copy) = self.shared.copy(handle) else {
            return Ok(());
        };
        lock(&deputy.status).lent.insert(handle);
        self.streams.hold(handle, Holder::Guest(deputy.pid));
        self.tell(deputy, 0, &ToDeputy::Take { handle }, Some(copy))
    }
}
