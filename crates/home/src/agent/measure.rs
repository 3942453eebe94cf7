//! Where the time of a call to a node goes, stage by stage.

use std::time::Instant;

use afield_rpc::stages::{self, Served, Stage};
use serde::{Deserialize, Serialize};

use super::session::{Session, SessionError};

/// Calls before anything counts.
const WARM_UP: u32 = 50;

/// One call, in nanoseconds. What the node does is as its clock has it; what is left of the whole is halved between the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The caller's stub, up to the marshalled arguments.
    pub stub: u64,
    /// Number and envelope.
    pub envelope: u64,
    /// Encrypting the request.
    pub encrypt: u64,
    /// Giving it to the kernel.
    pub send: u64,
    /// The node's part.
    pub served: Served,
    /// Decrypting the reply.
    pub decrypt: u64,
    /// Finding the caller.
    pub dispatch: u64,
    /// Waking it up, and unmarshalling the result.
    pub wake: u64,
    /// All of it, with the two ways between the kernels.
    pub whole: u64,
}

impl Session {
    /// Makes so many null calls, one after the other.
    pub(super) fn measure(&self, calls: u32) -> Result<Vec<Measured>, SessionError> {
        stages::want();
        let mut measured = Vec::with_capacity(calls as usize);
        for round in 0..calls + WARM_UP {
            let start = stages::now_ns();
            let began = Instant::now();
            let statistics = self.node.statistics(true)?;
            let whole = began.elapsed().as_nanos() as u64;
            let end = stages::now_ns();
            if round < WARM_UP {
                continue;
            }
            let (encrypt, send) = stages::encrypt_and_send_ns();
            measured.push(Measured {
                stub: stages::time_ns(Stage::Marshalled).saturating_sub(start),
                envelope: stages::between_ns(Stage::Marshalled, Stage::Enveloped),
                encrypt,
                send,
                served: statistics.served,
                decrypt: stages::between_ns(Stage::Arrived, Stage::Decrypted),
                dispatch: stages::time_ns(Stage::Dispatched).saturating_sub(stages::stage_before_dispatch()),
                wake: end.saturating_sub(stages::time_ns(Stage::Dispatched)),
                whole,
            });
        }
        Ok(measured)
    }
}
