//! Where a job's computing goes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A node that the agent can reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The node that the agent starts on this machine when it is first wanted.
    Embedded,
    /// A node daemon at `HOST:PORT`.
    Tcp(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => formatter.write_str("embedded"),
            Self::Tcp(address) => formatter.write_str(address),
        }
    }
}

/// The text is neither `embedded` nor `HOST:PORT`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a node: write `embedded` or HOST:PORT")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(PlaceError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for text in ["embedded", "127.0.0.1:7070", "[::1]:7070", "host.example:1"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["", "host", "host:", ":70", "host:0", "host:99999"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
