//! Authenticated and encrypted links: TLS 1.3, with the raw public key (RFC 7250) of either side in place of a certificate.
//!
//! * [`files`]: files that only their owner may change, or even read.
//! * [`identity`]: this machine's key, and the fingerprints by which keys are known.
//! * [`handshake`]: from a connected socket to a [`Secured`] one, by rustls.
//! * [`record`]: TLS records afterwards, as two halves which share nothing that is used often.
//! * [`stream`]: both halves as the stream that a link runs over.
//!
//! A home pins the key of its node, so that a wrong node learns nothing but the home's public key. A node lets every key
//! finish the handshake, which proves that the home has it, and then looks whether the key is admitted: so it can say why
//! not. Nothing else that such a home sends is looked at.

pub mod files;
pub mod handshake;
pub mod identity;
pub mod record;
pub mod stream;

pub use handshake::{Secured, accept, connect};
pub use identity::{Fingerprint, Identity};
pub use stream::SecureStream;

use std::io;

use thiserror::Error;

/// Why there is no secured link.
#[derive(Debug, Error)]
pub enum SecureError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The handshake took too long.
    #[error("the handshake was not finished in time")]
    Timeout,
    /// The other side closed the connection before the handshake was finished.
    #[error("the connection was closed during the handshake")]
    Closed,
    /// The node has another key than expected.
    #[error("its key is {found}, not {expected}")]
    OtherKey {
        /// The key it has shown.
        found: Fingerprint,
        /// The key that it should have.
        expected: Fingerprint,
    },
    /// The other side does not speak TLS as this one does.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}
