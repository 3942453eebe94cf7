//! Where a job's computing goes.

use std::fmt;

use afield_link::secure::Fingerprint;
use serde::{Deserialize, Serialize};

/// A node that the agent can reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The node that the agent starts on this machine when it is first wanted.
    Embedded,
    /// A node daemon.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// The key that it has to have.
        key: Fingerprint,
    },
    /// A machine to which ssh leads, as a URL: `ssh://[USER@]HOST[:PORT]`.
    Ssh(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => formatter.write_str("embedded"),
            Self::Tcp { address, .. } => formatter.write_str(address),
            Self::Ssh(url) => formatter.write_str(url),
        }
    }
}

/// Whether a text is `HOST:PORT`.
pub fn is_address(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => {
            let is_bare =
                !host.is_empty() && !host.contains(|letter: char| letter.is_whitespace() || letter == '/');
            is_bare && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    }
}

/// Whether a text is `ssh://[USER@]HOST[:PORT]`.
pub fn is_ssh(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("ssh://") else {
        return false;
    };
    let (user, host) = rest.rsplit_once('@').unwrap_or(("user", rest));
    let is_plain = |text: &str| {
        let fits = |letter: char| letter.is_alphanumeric() || "-_.:[]%+".contains(letter);
        !text.is_empty() && !text.starts_with('-') && text.chars().all(fits)
    };
    is_plain(user) && is_plain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_ssh_have_a_host() {
        for text in [
            "ssh://host",
            "ssh://me@host:22",
            "ssh://me@[::1]:2222",
            "ssh://a.b-c_d",
        ] {
            assert!(is_ssh(text), "{text}");
        }
        for text in [
            "host",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://me@",
            "ssh://a b",
            "ssh://@h",
            "ssh://h/path",
            "ssh://-x@h",
        ] {
            assert!(!is_ssh(text), "{text}");
        }
    }

    #[test]
    fn addresses_have_a_port() {
        for text in ["127.0.0.1:7070", "[::1]:7070", "host.example:1"] {
            assert!(is_address(text), "{text}");
        }
        for text in [
            "",
            "host",
            "host:",
            ":70",
            "host:0",
            "host:99999",
            "a b:1",
            "ssh://a:1",
        ] {
            assert!(!is_address(text), "{text}");
        }
    }
}
