//! Keys: Ed25519, one per user and machine, known to others by the SHA-256 of the public one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::files::{self, FileError, Others};

/// What comes before the 32 bytes of an Ed25519 key in its DER form (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The SHA-256 of a public key in its DER form (`SubjectPublicKeyInfo`). Its text is `SHA256:` and 43 characters of
/// base64, as ssh writes its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a public key in its DER form.
    pub fn of(public: &SubjectPublicKeyInfoDer<'_>) -> Self {
        Self::of_bytes(public)
    }

    /// Of the key that a peer has shown in a handshake; `None` if it is no Ed25519 key.
    pub(super) fn of_peer(shown: &CertificateDer<'_>) -> Option<Self> {
        let is_ed25519 = shown.len() == ED25519_PREFIX.len() + 32 && shown.starts_with(&ED25519_PREFIX);
        is_ed25519.then(|| Self::of_bytes(shown))
    }

    /// The digest itself.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From a digest.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn of_bytes(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(bytes)
    }
}

const PREFIX: &str = "SHA256:";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 without padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", base64(&self.0))
    }
}

/// The text is no fingerprint.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a fingerprint: they read `SHA256:` and 43 letters and digits, as `afield key` shows them"
)]
pub struct FingerprintError(String);

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let wrong = || FingerprintError(text.chars().take(80).collect());
        let digits = text.strip_prefix(PREFIX).ok_or_else(wrong)?.as_bytes();
        if digits.len() != 43 {
            return Err(wrong());
        }
        let (mut bytes, mut count, mut bits, mut held) = ([0; 32], 0, 0u32, 0);
        for digit in digits {
            let value = ALPHABET
                .iter()
                .position(|letter| letter == digit)
                .ok_or_else(wrong)?;
            bits = bits << 6 | value as u32;
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes[count] = (bits >> held) as u8;
                count += 1;
            }
        }
        let fingerprint = Self(bytes);
        // The last digit has two bits more than there is room for.
        if fingerprint.to_string() == text {
            Ok(fingerprint)
        } else {
            Err(wrong())
        }
    }
}

/// This machine's key.
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint).finish()
    }
}

impl Identity {
    /// Reads the key from its file, which is made with a new one if it is not there.
    pub fn load_or_make(path: &Path) -> Result<Self, FileError> {
        match Self::load(path) {
            Err(error) if error.is_missing() => {}
            other => return other,
        }
        let secret =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| FileError::Content {
                path: path.to_owned(),
                why: "the system has no random numbers for a new key".to_owned(),
            })?;
        files::create(path, &pem(secret.as_ref()))?;
        // Somebody else may have been faster.
        Self::load(path)
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    /// The file is missing, unsafe, or not an Ed25519 key in PEM form.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = files::read(path, Others::Nothing)?;
        Self::from_pem(&text).ok_or_else(|| FileError::Content {
            path: path.to_owned(),
            why: "not an Ed25519 key in PEM form: remove it, and `afield key` makes a new one".to_owned(),
        })
    }

    fn from_pem(text: &str) -> Option<Self> {
        let secret = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let signer = any_eddsa_type(&secret).ok()?;
        let public = signer.public_key()?;
        let fingerprint = Fingerprint::of(&public);
        let shown = CertificateDer::from(public.to_vec());
        Some(Self {
            key: Arc::new(CertifiedKey::new(vec![shown], signer)),
            fingerprint,
        })
    }

    /// A new key that is in no file, for tests.
    pub fn ephemeral() -> Option<Self> {
        let secret = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok()?;
        Self::from_pem(&pem(secret.as_ref()))
    }

    /// How others know it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

fn pem(der: &[u8]) -> String {
    let mut digits = base64(der);
    while !digits.len().is_multiple_of(4) {
        digits.push('=');
    }
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_and_written() {
        for byte in [0, 1, 0x7f, 0xff] {
            let fingerprint = Fingerprint([byte; 32]);
            let text = fingerprint.to_string();
            assert_eq!(text.len(), 50);
            assert_eq!(text.parse(), Ok(fingerprint));
            // Not canonical, and too short.
            let last = if text.ends_with('B') { 'C' } else { 'B' };
            assert!(format!("{}{last}", &text[..49]).parse::<Fingerprint>().is_err());
            assert!(text[..49].parse::<Fingerprint>().is_err());
            assert!(text[1..].parse::<Fingerprint>().is_err());
        }
        // RFC 4648's own examples, without padding.
        assert_eq!(base64(b"fooba"), "Zm9vYmE");
        assert_eq!(base64(b"f"), "Zg");
    }

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = std::env::temp_dir().join(format!("afield-identity-{}", std::process::id()));
        let path = folder.join("key");
        let first = Identity::load_or_make(&path).unwrap();
        let second = Identity::load_or_make(&path).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(
            Identity::load_or_make(&path)
                .unwrap_err()
                .to_string()
                .contains("PEM")
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
