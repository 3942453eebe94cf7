//! What home asks of the session. The link's reader executes it, so nothing here waits, or writes to the link.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use afield_link::control::{Node, Statistics};
use afield_link::wire::{MountPoint, Spawn, SpawnError};
use afield_rpc::Answer;
use tracing::debug;

use crate::fs::handles::Look;
use crate::session::{SessionError, Shared};
use crate::spawner::Task;
use crate::sys;
use crate::trace::{self, Order};

/// The session, as home sees it.
pub struct Server {
    /// The session.
    pub shared: Arc<Shared>,
    /// To the spawner.
    pub spawner: Sender<Task>,
}

impl Node for Server {
    type Fault = SessionError;

    fn start(&self, spawn: Spawn, answer: Answer<Result<(), SpawnError>>) -> Result<(), SessionError> {
        self.shared.note_start(spawn.pid, answer);
        self.shared.orders.give(Order::Expect { pid: spawn.pid });
        // The spawner lives as long as the session.
        let _ = self.spawner.send(Task::Start(Box::new(spawn)));
        Ok(())
    }

    fn mounts(&self, points: Vec<MountPoint>) -> Result<(), SessionError> {
        let _ = self.spawner.send(Task::Mount(points));
        Ok(())
    }

    fn signal(&self, pid: u32, info: Vec<u8>) -> Result<(), SessionError> {
        let info = <[u8; 128]>::try_from(info)
            .map_err(|info| SessionError::Violation(format!("a siginfo of {} bytes", info.len())))?;
        trace::deliver(&self.shared, pid, &info);
        Ok(())
    }

    fn kill(&self, pid: u32) -> Result<(), SessionError> {
        self.shared.orders.give(Order::Kill { pid });
        Ok(())
    }

    fn hold(&self, pid: u32) -> Result<(), SessionError> {
        self.shared.orders.give(Order::Hold { pid });
        Ok(())
    }

    fn release(&self, pid: u32) -> Result<(), SessionError> {
        self.shared.orders.give(Order::Release { pid });
        Ok(())
    }

    fn priority(&self, pid: u32, nice: i8) -> Result<(), SessionError> {
        let leader = self
            .shared
            .guests
            .lock()
            .process(pid)
            .map(|process| process.leader);
        if let Some(leader) = leader
            && let Err(error) = sys::process::set_priority(leader, nice)
        {
            // To lower it again may be more than the node's user may do.
            debug!("priority of {pid}: {error}");
        }
        Ok(())
    }

    fn ready(&self, pid: u32, handle: u64, events: u32, look: u32) -> Result<(), SessionError> {
        let number = look;
        self.shared.files.ready(pid, handle, Look { events, number });
        Ok(())
    }

    fn guests(&self, answer: Answer<Vec<u32>>) -> Result<(), SessionError> {
        self.shared.orders.give(Order::Guests { answer });
        Ok(())
    }

    fn statistics(&self, stages: bool, answer: Answer<Statistics>) -> Result<(), SessionError> {
        if stages {
            afield_rpc::stages::want();
        }
        self.shared.orders.give(Order::Statistics { answer });
        Ok(())
    }
}
