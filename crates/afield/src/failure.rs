//! How the command fails: a message, and the exit code that env(1) has for it.

use std::fmt::Display;
use std::io;

/// Exit code of a failure of afield's own.
pub const OWN: u8 = 125;
/// Exit code of a command that was found but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code of a command that was not found.
pub const NOT_FOUND: u8 = 127;

/// What the user is told, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Names the thing, the cause and the way out.
    pub message: String,
    /// One of the codes above.
    pub code: u8,
}

impl Failure {
    /// A failure of afield's own.
    pub fn own(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: OWN,
        }
    }
}

macro_rules! own {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::own(error)
            }
        })*
    };
}

own!(
    crate::config::ConfigError,
    afield_home::agent::AgentError,
    afield_home::agent::client::ClientError,
    afield_home::runtime::RuntimeError,
    afield_link::secure::files::FileError,
);

/// An error without its number.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
