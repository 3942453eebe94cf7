//! Calls between machines, with stated failure semantics.
//!
//! An interface is written once, as a trait with attributes ([`interface`]); its client's and its server's stubs are generated.
//! Under them are cores without I/O or clocks, which are given the time and what has come, and give what is to be sent:
//!
//! * [`interface`](mod@interface): what an interface is: operations, each with its [`Semantics`], and how versions are agreed on.
//! * [`envelope`]: the messages.
//! * [`client`]: the table of a client's calls: retransmission, other servers, time-outs, cancellation.
//! * [`server`]: what a server has to execute, and the replies it remembers.
//! * [`stages`]: where the time of a call goes.
//! * [`endpoint`]: both cores on one ordered connection, for threads.
//!
//! | semantics | executed | after a lost message | after the server's crash |
//! |---|---|---|---|
//! | `maybe` | 0 or 1 times | nothing is done | nothing is done |
//! | `at_least_once` | 1 or more times | sent again, in the end to another server | sent again |
//! | `at_most_once` | 0 or 1 times, and once if it succeeds | sent again; the server remembers its replies | the call fails |

#[cfg(test)]
extern crate self as afield_rpc;

pub mod client;
pub mod endpoint;
pub mod envelope;
pub mod interface;
pub mod server;
pub mod stages;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use thiserror::Error;

pub use afield_rpc_macros::interface;
pub use endpoint::{Answer, Caller, DispatchError, Execution, Pending};
pub use interface::{BindError, Interface, Offer, Operation, Semantics};

/// What generated stubs need.
#[doc(hidden)]
pub mod stub {
    pub use postcard;
    pub use serde;

    use serde::{Deserialize, Serialize};

    use crate::CallError;

    /// Marshals arguments or results.
    pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CallError> {
        postcard::to_stdvec(value).map_err(|_| CallError::Unmarshallable)
    }

    /// Unmarshals; bytes left over are an error.
    pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CallError> {
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            _ => Err(CallError::Garbled),
        }
    }
}

/// A time on the owner's clock: since any moment, but always the same one.
pub type Time = Duration;

/// Where a peer is, as the transport knows it.
pub type Address = u64;

/// A message that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: Address,
    /// An [`envelope::Envelope`].
    pub bytes: Vec<u8>,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// There was no answer in time. It may have been executed.
    #[error("{operation}: no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// Which operation.
        operation: &'static str,
        /// Its limit.
        limit: Duration,
    },
    /// The server is not the one that got the call any more. It may have been executed.
    #[error("the server has gone in the middle of the call")]
    ServerLost,
    /// The caller took it back. It may have been executed.
    #[error("the call was cancelled")]
    Cancelled,
    /// There is no server of that interface, or none of that version.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Too many calls are open.
    #[error("too many calls at a time")]
    TooMany,
    /// The server has no room for the call. It was not executed.
    #[error("the server has too many calls")]
    Busy,
    /// The server could make nothing of the arguments. It was not executed.
    #[error("the server did not understand the call")]
    Rejected,
    /// The result makes no sense.
    #[error("the result of the call is garbled")]
    Garbled,
    /// The arguments cannot be sent.
    #[error("the arguments of the call cannot be marshalled")]
    Unmarshallable,
    /// The arguments are more than the transport takes at once.
    #[error("the arguments of the call take {0} bytes, which is too much")]
    TooLarge(usize),
    /// The transport did not take it.
    #[error("the connection is at its end: {0}")]
    Connection(String),
}

/// How a core behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the transport may do to messages.
    pub transport: Transport,
    /// Most calls that a client may have open, and requests that a server executes for one binding.
    pub calls_max: usize,
    /// Most bytes of replies that a server remembers for one binding.
    pub remembered_bytes_max: usize,
    /// Most bindings of a server.
    pub bindings_max: usize,
    /// A server forgets a client that has said nothing for so long; `None`: the transport tells of its end.
    pub lease: Option<Duration>,
}

/// What a transport may do to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Nothing: each arrives once, in order, or the connection has ended.
    Ordered,
    /// It may lose, double and reorder them.
    Datagram {
        /// First wait for a reply before a message is sent again; doubled each time.
        retry_first: Duration,
        /// Longest wait.
        retry_max: Duration,
        /// A server that does not answer so many times is passed over for the next.
        tries_per_server: u32,
    },
}

impl Settings {
    /// For a connection that is ordered and exactly once.
    pub fn ordered() -> Self {
        Self {
            transport: Transport::Ordered,
            calls_max: 1 << 16,
            remembered_bytes_max: 0,
            bindings_max: 64,
            lease: None,
        }
    }

    /// For messages that may be lost.
    pub fn datagram() -> Self {
        Self {
            transport: Transport::Datagram {
                retry_first: Duration::from_millis(100),
                retry_max: Duration::from_secs(2),
                tries_per_server: 4,
            },
            calls_max: 1024,
            remembered_bytes_max: 1 << 20,
            bindings_max: 1024,
            lease: Some(Duration::from_secs(30)),
        }
    }
}
