//! The first words inside a connection: a session is made, or resumed by who knows its secret.
//!
//! New: home sends [`Begin`]; the node answers with [`Begun`], which brings the session's id and secret.
//!
//! Resumed: home sends [`Resume`], the node [`Challenge`], home [`Proof`]. Both prove the secret by an HMAC-SHA-256 over both
//! nonces and all that was said. The *epoch* counts home's attempts: of two connections to a session the one of the higher epoch is
//! right, whichever comes first. The node goes on with its old connection until the proof has come.
//!
//! All messages have a fixed length, so nothing that comes after them is touched.

use std::time::Duration;

use ring::hmac;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Limits, ProtocolError};
use crate::preamble::SessionId;

/// What only the two ends of a session know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Numbers that nobody can have foreseen.
pub type Nonce = [u8; 32];

/// What both ends know of each other when the first words have been exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The attempt that this connection is.
    pub epoch: u64,
    /// Pieces that the peer has received.
    pub received: u64,
    /// Bytes of frames that the peer has room for.
    pub window: u64,
}

impl Agreed {
    /// The epoch of a session's first connection.
    pub const EPOCH_FIRST: u64 = 1;
}

/// Home asks for a session.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Begin {
    kind: U64,
    window: U64,
    /// How long the node should wait for home to come back, milliseconds.
    grace_ms: U64,
}

/// The node gives one.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Begun {
    kind: U64,
    window: U64,
    session: [u8; 16],
    secret: [u8; 32],
}

/// Home wants to go on.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Resume {
    kind: U64,
    epoch: U64,
    received: U64,
    window: U64,
    nonce: Nonce,
}

/// The node proves itself, and asks home to.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Challenge {
    kind: U64,
    received: U64,
    window: U64,
    nonce: Nonce,
    proof: [u8; 32],
}

/// Home proves itself.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Proof {
    kind: U64,
    proof: [u8; 32],
}

const BEGIN: u64 = 1;
const BEGUN: u64 = 2;
const RESUME: u64 = 3;
const CHALLENGE: u64 = 4;
const PROOF: u64 = 5;

fn expect(kind: U64, wanted: u64) -> Result<(), ProtocolError> {
    match kind.get() == wanted {
        true => Ok(()),
        false => Err(ProtocolError::FirstWords),
    }
}

impl Begin {
    /// What home says.
    pub fn new(limits: &Limits) -> Self {
        Self {
            kind: U64::new(BEGIN),
            window: U64::new(limits.window_bytes as u64),
            grace_ms: U64::new(limits.grace.as_millis() as u64),
        }
    }

    /// What the node makes of it: the peer's state, and how long home wants to be waited for.
    pub fn accept(&self) -> Result<(Agreed, Duration), ProtocolError> {
        expect(self.kind, BEGIN)?;
        let agreed = Agreed {
            epoch: Agreed::EPOCH_FIRST,
            received: 0,
            window: self.window.get(),
        };
        Ok((agreed, Duration::from_millis(self.grace_ms.get())))
    }
}

impl Begun {
    /// What the node says.
    pub fn new(limits: &Limits, session: SessionId, secret: Secret) -> Self {
        Self {
            kind: U64::new(BEGUN),
            window: U64::new(limits.window_bytes as u64),
            session: session.0,
            secret: secret.0,
        }
    }

    /// What home makes of it.
    pub fn accept(&self) -> Result<(Agreed, SessionId, Secret), ProtocolError> {
        expect(self.kind, BEGUN)?;
        let agreed = Agreed {
            epoch: Agreed::EPOCH_FIRST,
            received: 0,
            window: self.window.get(),
        };
        Ok((agreed, SessionId(self.session), Secret(self.secret)))
    }
}

impl Resume {
    /// What home says, which has received so many pieces.
    pub fn new(limits: &Limits, epoch: u64, received: u64, nonce: Nonce) -> Self {
        Self {
            kind: U64::new(RESUME),
            epoch: U64::new(epoch),
            received: U64::new(received),
            window: U64::new(limits.window_bytes as u64),
            nonce,
        }
    }

    /// The node's answer, which has received so many pieces.
    pub fn challenge(
        &self,
        limits: &Limits,
        received: u64,
        nonce: Nonce,
        secret: &Secret,
    ) -> Result<Challenge, ProtocolError> {
        expect(self.kind, RESUME)?;
        let mut challenge = Challenge {
            kind: U64::new(CHALLENGE),
            received: U64::new(received),
            window: U64::new(limits.window_bytes as u64),
            nonce,
            proof: [0; 32],
        };
        let tag = hmac::sign(&key(secret), &said(self, &challenge, b"node"));
        challenge.proof.copy_from_slice(tag.as_ref());
        Ok(challenge)
    }

    /// Home looks at the node's answer, and answers.
    pub fn prove(&self, challenge: &Challenge, secret: &Secret) -> Result<(Proof, Agreed), ProtocolError> {
        expect(challenge.kind, CHALLENGE)?;
        hmac::verify(&key(secret), &said(self, challenge, b"node"), &challenge.proof)
            .map_err(|_| ProtocolError::Secret)?;
        let mut proof = Proof {
            kind: U64::new(PROOF),
            proof: [0; 32],
        };
        let tag = hmac::sign(&key(secret), &said(self, challenge, b"home"));
        proof.proof.copy_from_slice(tag.as_ref());
        let agreed = Agreed {
            epoch: self.epoch.get(),
            received: challenge.received.get(),
            window: challenge.window.get(),
        };
        Ok((proof, agreed))
    }

    /// The node looks at home's proof.
    pub fn accept(
        &self,
        challenge: &Challenge,
        proof: &Proof,
        secret: &Secret,
    ) -> Result<Agreed, ProtocolError> {
        expect(proof.kind, PROOF)?;
        hmac::verify(&key(secret), &said(self, challenge, b"home"), &proof.proof)
            .map_err(|_| ProtocolError::Secret)?;
        Ok(Agreed {
            epoch: self.epoch.get(),
            received: self.received.get(),
            window: self.window.get(),
        })
    }
}

fn key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &secret.0)
}

/// Everything that was said, but for the proofs, and who proves it.
fn said(resume: &Resume, challenge: &Challenge, who: &[u8; 4]) -> Vec<u8> {
    let challenge = Challenge {
        proof: [0; 32],
        ..*challenge
    };
    [resume.as_bytes(), challenge.as_bytes(), who].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_resumes() {
        let limits = Limits::default();
        let secret = Secret([7; 32]);
        let resume = Resume::new(&limits, 3, 10, [1; 32]);
        let challenge = resume.challenge(&limits, 20, [2; 32], &secret).unwrap();
        let (proof, at_home) = resume.prove(&challenge, &secret).unwrap();
        assert_eq!((at_home.epoch, at_home.received), (3, 20));
        let on_node = resume.accept(&challenge, &proof, &secret).unwrap();
        assert_eq!((on_node.epoch, on_node.received), (3, 10));

        let other = Secret([8; 32]);
        assert_eq!(
            resume.prove(&challenge, &other).unwrap_err(),
            ProtocolError::Secret
        );
        assert_eq!(
            resume.accept(&challenge, &proof, &other).unwrap_err(),
            ProtocolError::Secret
        );
        // A proof is good for what was said, and for one connection: not with other numbers, another nonce, or reflected.
        let later = Resume::new(&limits, 4, 10, [1; 32]);
        assert!(later.accept(&challenge, &proof, &secret).is_err());
        let again = resume.challenge(&limits, 20, [3; 32], &secret).unwrap();
        assert!(resume.accept(&again, &proof, &secret).is_err());
        let mut reflected = proof;
        reflected.proof = challenge.proof;
        assert!(resume.accept(&challenge, &reflected, &secret).is_err());
        let begin = Begin::new(&limits);
        assert_eq!(begin.accept().unwrap().1, limits.grace);
    }
}
