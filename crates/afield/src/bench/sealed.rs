//! What encryption alone costs: a message over plain TCP as records of AES-128-GCM, without anything else that a link does. No
//! encrypted link can be faster than this on the same processors.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a record, without and with its tag.
const PLAIN_BYTES: usize = 16 << 10;
const SEALED_BYTES: usize = PLAIN_BYTES + 16;

/// One end, for messages of `bytes` bytes, a multiple of [`PLAIN_BYTES`].
pub struct Sealed {
    socket: TcpStream,
    key: LessSafeKey,
    count: u64,
    records: Vec<u8>,
}

impl Sealed {
    pub fn new(socket: TcpStream, bytes: usize) -> io::Result<Self> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(broken)?;
        Ok(Self {
            socket,
            key: LessSafeKey::new(key),
            count: 0,
            records: vec![0; bytes / PLAIN_BYTES * SEALED_BYTES],
        })
    }

    fn nonce(count: &mut u64) -> Nonce {
        *count += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&count.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Sends a message.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        for (text, record) in message
            .chunks(PLAIN_BYTES)
            .zip(self.records.chunks_mut(SEALED_BYTES))
        {
            let (body, tag) = record.split_at_mut(PLAIN_BYTES);
            body.copy_from_slice(text);
            let nonce = Self::nonce(&mut self.count);
            let made = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), body);
            tag.copy_from_slice(made.map_err(broken)?.as_ref());
        }
        self.socket.write_all(&self.records)
    }

    /// Receives one, and gives its first byte.
    pub fn receive(&mut self) -> io::Result<u8> {
        self.socket.read_exact(&mut self.records)?;
        for record in self.records.chunks_mut(SEALED_BYTES) {
            let nonce = Self::nonce(&mut self.count);
            let opened = self.key.open_in_place(nonce, Aad::empty(), record);
            opened.map_err(broken)?;
        }
        Ok(self.records[0])
    }
}

fn broken(_: ring::error::Unspecified) -> io::Error {
    io::Error::other("AES-GCM failed")
}
