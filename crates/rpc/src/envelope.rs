//! The messages of calls.

use serde::{Deserialize, Serialize};

use crate::CallError;
use crate::interface::BindError;

/// A binding: what a server calls a client that uses one of its interfaces. The numbers only grow, also
/// over a crash, so that a request for an earlier incarnation of the server is known as such.
pub type Binding = u64;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Envelope<'a> {
    /// A client wants an interface.
    Bind {
        /// Who it is.
        client: u64,
        /// Its incarnation; those that were earlier are no more.
        epoch: u64,
        /// Which interface.
        name: &'a str,
        /// In which version.
        version: u32,
    },
    /// The server's answer.
    Bound {
        /// The epoch that it answers.
        epoch: u64,
        /// The interface that it answers.
        name: &'a str,
        /// The binding.
        outcome: Result<Binding, BindError>,
    },
    /// A call.
    Request {
        /// Whose.
        binding: Binding,
        /// Counted by the client, in each binding from 1.
        number: u64,
        /// All calls of lower numbers have ended for the client.
        floor: u64,
        /// Which operation.
        operation: u16,
        /// Its arguments, marshalled.
        arguments: &'a [u8],
    },
    /// A call without a reply.
    Notice {
        /// Whose.
        binding: Binding,
        /// Counted by the client, apart from requests.
        number: u64,
        /// Which operation.
        operation: u16,
        /// Its arguments, marshalled.
        arguments: &'a [u8],
    },
    /// The reply to a request.
    Reply {
        /// Of the request.
        binding: Binding,
        /// Of the request.
        number: u64,
        /// The result, marshalled.
        outcome: Result<&'a [u8], Refusal>,
    },
    /// The caller does not want the result any more.
    Cancel {
        /// Of the request.
        binding: Binding,
        /// Of the request.
        number: u64,
    },
    /// The client lives, and this is its floor.
    Alive {
        /// Whose.
        binding: Binding,
        /// As in a request.
        floor: u64,
    },
}

/// Why a request was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The server knows no such binding (any more).
    Stranger,
    /// No room.
    Busy,
    /// There is no such operation, or its arguments make no sense.
    Rejected,
}

impl<'a> Envelope<'a> {
    /// Reads a message; bytes left over are an error.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CallError> {
        match postcard::take_from_bytes(bytes) {
            Ok((envelope, [])) => Ok(envelope),
            _ => Err(CallError::Garbled),
        }
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        // Nothing in it can fail to be written: there are no maps, and lengths are known.
        postcard::to_stdvec(self).unwrap_or_default()
    }
}
