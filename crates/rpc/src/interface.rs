//! What an interface is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How often an operation may be executed for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Semantics {
    /// Once or not at all; nobody finds out.
    Maybe,
    /// Once or more often: it is idempotent.
    AtLeastOnce,
    /// Once if the call succeeds, otherwise once or not at all.
    AtMostOnce,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// How often it may be executed.
    pub semantics: Semantics,
    /// It has a reply. One that has none keeps its place among everything else that its caller sends.
    pub replies: bool,
    /// Longest wait for the reply; `None`: as long as there is a server.
    pub timeout: Option<Duration>,
}

/// An interface. Its operations are numbered as they stand.
#[derive(Debug, Clone, Copy)]
pub struct Interface {
    /// Its name, the same for all versions.
    pub name: &'static str,
    /// Both sides must have the same.
    pub version: u32,
    /// The operations.
    pub operations: &'static [Operation],
}

impl Interface {
    /// An operation by its number.
    pub fn operation(&self, number: u16) -> Option<&'static Operation> {
        self.operations.get(usize::from(number))
    }

    /// What a server says of it.
    pub fn offer(&self) -> Offer {
        Offer {
            name: self.name.to_owned(),
            version: self.version,
        }
    }

    /// Finds it among what a peer offers: its place there, which is its number.
    ///
    /// # Errors
    /// It is not offered, or in another version.
    pub fn find(&self, offers: &[Offer]) -> Result<u64, BindError> {
        let same_name = |offer: &&Offer| offer.name == self.name;
        if let Some(place) = offers.iter().position(|offer| *offer == self.offer()) {
            return Ok(place as u64);
        }
        match offers.iter().find(same_name) {
            Some(other) => Err(BindError::Version {
                name: self.name.to_owned(),
                ours: self.version,
                theirs: other.version,
            }),
            None => Err(BindError::Unknown {
                name: self.name.to_owned(),
            }),
        }
    }
}

/// An interface that a server has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
}

/// Why a client and a server do not come together.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum BindError {
    /// Nobody has it.
    #[error("the other side has no interface {name}")]
    Unknown {
        /// The interface.
        name: String,
    },
    /// Another version.
    #[error("the other side has version {theirs} of interface {name}, this side needs version {ours}")]
    Version {
        /// The interface.
        name: String,
        /// What the client has.
        ours: u32,
        /// What the server has.
        theirs: u32,
    },
    /// A later incarnation of the same client has been there.
    #[error("this is incarnation {ours} of a client that is at incarnation {theirs} already")]
    Stale {
        /// The client's epoch.
        ours: u64,
        /// The latest that the server knows.
        theirs: u64,
    },
    /// The server has a list of clients, and this one is not on it.
    #[error("the server does not admit this client")]
    NotAdmitted,
    /// The server has too many clients.
    #[error("the server has too many clients")]
    Full,
}
