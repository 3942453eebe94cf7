//! TLS 1.3 records (RFC 8446, section 5) once the handshake is done.
//!
//! The two directions have keys of their own, so that who reads and who writes never wait for each other. What they share is
//! rustls's key schedule, which is asked for a new key every few million records.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, Error};

use super::SecureError;

/// Most bytes of plain text in a record.
pub const PLAIN_BYTES_MAX: usize = 1 << 14;
/// Bytes of a record's head.
const HEAD_BYTES: usize = 5;
/// Bytes that the ciphers add.
const TAG_BYTES: usize = 16;
/// Most bytes of a record behind its head.
const BODY_BYTES_MAX: usize = PLAIN_BYTES_MAX + 256;
/// Bytes that are asked of the kernel at a time: two large records and some small ones.
const HELD_BYTES: usize = 40 << 10;
/// Bytes of room into which records are received straight: what is left of one, and some more.
const STRAIGHT_BYTES_MIN: usize = 2 * (HEAD_BYTES + BODY_BYTES_MAX);
/// Records under one key, at which it is renewed. AES-GCM is good for 2^24.
const RECORDS_PER_KEY: u64 = 1 << 23;

/// Types of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;

/// The message `key_update` that does not ask for one in return.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// Where new keys come from.
pub trait Keys: Send {
    /// The next key to send with.
    fn next_to_send(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error>;
    /// The next key to receive with.
    fn next_to_receive(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error>;
}

type SharedKeys = Arc<Mutex<Box<dyn Keys>>>;

/// One direction's key, and the count of its records.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    keys: SharedKeys,
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

fn key_of(secrets: &ConnectionTrafficSecrets) -> Result<(LessSafeKey, [u8; 12]), SecureError> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    let (algorithm, key, iv) = match secrets {
        Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => return Err(Error::General("an unknown cipher".to_owned()).into()),
    };
    let wrong = |_| Error::General("a key of the wrong size".to_owned());
    let key = UnboundKey::new(algorithm, key.as_ref()).map_err(wrong)?;
    let iv = iv
        .as_ref()
        .try_into()
        .map_err(|_| Error::General("a nonce of the wrong size".to_owned()))?;
    Ok((LessSafeKey::new(key), iv))
}

impl Direction {
    fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        keys: SharedKeys,
    ) -> Result<Self, SecureError> {
        let (key, iv) = key_of(&secrets)?;
        Ok(Self {
            key,
            iv,
            sequence,
            keys,
        })
    }

    /// The nonce of the next record.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        // Long before it could overflow, the key has been renewed.
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn renew(
        &mut self,
        next: impl FnOnce(&mut dyn Keys) -> Result<(u64, ConnectionTrafficSecrets), Error>,
    ) -> Result<(), SecureError> {
        let (sequence, secrets) = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            next(&mut **keys)?
        };
        (self.key, self.iv) = key_of(&secrets)?;
        self.sequence = sequence;
        Ok(())
    }
}

/// Makes records of what is to be sent.
#[derive(Debug)]
pub struct Sealer {
    direction: Direction,
    records_per_key: u64,
}

impl Sealer {
    pub(super) fn new(
        secrets: (u64, ConnectionTrafficSecrets),
        keys: SharedKeys,
    ) -> Result<Self, SecureError> {
        Ok(Self {
            direction: Direction::new(secrets, keys)?,
            records_per_key: RECORDS_PER_KEY,
        })
    }

    /// Appends records with the concatenation of `parts` to `target`, as few as there can be, and gives how many bytes that
    /// were. The records must be sent in the order in which they were made.
    pub fn seal<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]>,
        target: &mut Vec<u8>,
    ) -> Result<usize, SecureError> {
        let mut taken = 0;
        let mut open: Option<(usize, usize)> = None;
        for mut rest in parts {
            taken += rest.len();
            while !rest.is_empty() {
                let (start, room) = match open.take() {
                    Some(open) => open,
                    None => (self.begin(target)?, PLAIN_BYTES_MAX),
                };
                let (now, later) = rest.split_at(rest.len().min(room));
                target.extend_from_slice(now);
                rest = later;
                if now.len() == room {
                    self.end(start, APPLICATION, target)?;
                } else {
                    open = Some((start, room - now.len()));
                }
            }
        }
        if let Some((start, _)) = open {
            self.end(start, APPLICATION, target)?;
        }
        Ok(taken)
    }

    /// Begins a record, under a new key if it is time for one. Gives where it starts.
    fn begin(&mut self, target: &mut Vec<u8>) -> Result<usize, SecureError> {
        if self.direction.sequence >= self.records_per_key {
            let start = leave_head(target);
            target.extend_from_slice(&KEY_UPDATE);
            self.end(start, HANDSHAKE, target)?;
            self.direction.renew(|keys| keys.next_to_send())?;
        }
        Ok(leave_head(target))
    }

    /// Completes the record that starts at `start`.
    fn end(&mut self, start: usize, kind: u8, target: &mut Vec<u8>) -> Result<(), SecureError> {
        target.push(kind);
        let length = (target.len() - start - HEAD_BYTES + TAG_BYTES) as u16;
        target[start + 3..start + HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        let nonce = self.direction.nonce();
        let (head, body) = target[start..].split_at_mut(HEAD_BYTES);
        let tag = self
            .direction
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*head), body)
            .map_err(|_| Error::EncryptError)?;
        target.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Leaves room for a record's head, whose length is filled in when it is known. Gives where the record starts.
fn leave_head(target: &mut Vec<u8>) -> usize {
    let start = target.len();
    target.extend_from_slice(&[APPLICATION, 3, 3, 0, 0]);
    start
}

/// Reads records.
#[derive(Debug)]
pub struct Opener {
    direction: Direction,
    /// What has come: decrypted where `plain` is, as it came where `sealed` is.
    held: Box<[u8]>,
    plain: Range<usize>,
    sealed: Range<usize>,
    /// What was decrypted during the handshake.
    early: Vec<u8>,
    /// The other side has said that nothing more comes.
    over: bool,
}

impl Opener {
    pub(super) fn new(
        secrets: (u64, ConnectionTrafficSecrets),
        keys: SharedKeys,
        early: &[u8],
        sealed: &[u8],
    ) -> Result<Self, SecureError> {
        let mut held = vec![0; HELD_BYTES.max(sealed.len())].into_boxed_slice();
        held[..sealed.len()].copy_from_slice(sealed);
        Ok(Self {
            direction: Direction::new(secrets, keys)?,
            held,
            plain: 0..0,
            sealed: 0..sealed.len(),
            early: early.to_vec(),
            over: false,
        })
    }

    /// True if [`Opener::read`] will not have to wait, because plain text, a whole record or the end is there.
    pub fn has_buffered(&self) -> bool {
        !self.plain.is_empty() || !self.early.is_empty() || self.over || self.whole_record().is_some()
    }

    /// Bytes of the first held record, if it is there as a whole or cannot be one.
    fn whole_record(&self) -> Option<usize> {
        record_length(&self.held[self.sealed.clone()])
    }

    /// Plain text for `target`, as much as is there, at least a byte; 0 at the end. What is missing is read by `receive`, which
    /// is called like `read(2)`.
    pub fn read(
        &mut self,
        target: &mut [u8],
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if !self.early.is_empty() {
            let count = self.early.len().min(target.len());
            target[..count].copy_from_slice(&self.early[..count]);
            self.early.drain(..count);
            return Ok(count);
        }
        if target.len() >= STRAIGHT_BYTES_MIN && self.plain.is_empty() && self.whole_record().is_none() {
            return self.read_straight(target, receive);
        }
        while self.plain.is_empty() {
            if self.over {
                return Ok(0);
            }
            if let Some(length) = self.whole_record() {
                self.open_held(length)?;
                continue;
            }
            if self.sealed.start > 0
                && (self.sealed.is_empty()
                    || self.held.len() - self.sealed.start < HEAD_BYTES + BODY_BYTES_MAX)
            {
                self.held.copy_within(self.sealed.clone(), 0);
                self.sealed = 0..self.sealed.len();
            }
            let count = receive(&mut self.held[self.sealed.end..])?;
            if count == 0 {
                // Frames have lengths of their own: an end that an attacker makes shows as one inside a frame, or is no
                // worse than a cut cable.
                self.over = true;
            }
            self.sealed.end += count;
        }
        let count = self.plain.len().min(target.len());
        let from = self.plain.start;
        target[..count].copy_from_slice(&self.held[from..from + count]);
        self.plain.start += count;
        Ok(count)
    }

    /// The same for a large `target`: records are received into it and decrypted where they are. Only the part of one at the
    /// end is held, so nothing is copied twice.
    fn read_straight(
        &mut self,
        target: &mut [u8],
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        while !self.over {
            let held = self.sealed.len();
            let count = receive(&mut target[held..])?;
            if count == 0 {
                self.over = true;
                break;
            }
            target[..held].copy_from_slice(&self.held[self.sealed.clone()]);
            let there = held + count;
            let (mut done, mut next) = (0, 0);
            while !self.over
                && let Some(length) = record_length(&target[next..there])
            {
                done += self.open(&mut target[done..next + length], next - done)?;
                next += length;
            }
            let rest = &target[next..there];
            self.held[..rest.len()].copy_from_slice(rest);
            self.sealed = 0..rest.len();
            if done > 0 {
                return Ok(done);
            }
        }
        Ok(0)
    }

    /// Decrypts the first held record, which is there as a whole.
    fn open_held(&mut self, length: usize) -> io::Result<()> {
        let start = self.sealed.start;
        let mut held = std::mem::take(&mut self.held);
        let opened = self.open(&mut held[start..start + length], 0);
        self.held = held;
        self.sealed.start += length;
        self.plain = start..start + opened?;
        Ok(())
    }

    /// Decrypts the record from `at` to the end of `bytes` and moves its text to their beginning. Gives how many bytes that is.
    fn open(&mut self, bytes: &mut [u8], at: usize) -> io::Result<usize> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {what}"));
        let head: [u8; HEAD_BYTES] = match bytes[at..].first_chunk() {
            Some(head) if length_said(head) == bytes.len() - at => *head,
            _ => return Err(wrong("a record that is too long")),
        };
        if head[0] != APPLICATION {
            return Err(wrong("a record that is not encrypted"));
        }
        let nonce = self.direction.nonce();
        let plain = self
            .direction
            .key
            .open_within(nonce, Aad::from(head), bytes, at + HEAD_BYTES..)
            .map_err(|_| wrong("a record that the other side cannot have sent"))?;
        // The type is behind the text and in front of any padding.
        let Some(end) = plain.iter().rposition(|byte| *byte != 0) else {
            return Err(wrong("a record without a type"));
        };
        match (plain[end], &plain[..end]) {
            (APPLICATION, text) => return Ok(text.len()),
            (HANDSHAKE, message) if message == KEY_UPDATE => {
                self.direction
                    .renew(|keys| keys.next_to_receive())
                    .map_err(|error| wrong(&error.to_string()))?;
            }
            (ALERT, [_, 0]) => self.over = true,
            (ALERT, [_, alert]) => {
                return Err(wrong(&format!("the other side's alert {alert}")));
            }
            _ => return Err(wrong("an unexpected message")),
        }
        Ok(0)
    }
}

/// The length of the record that `bytes` begin with, if it is there as a whole; all of them if it cannot be one.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    match length_said(head) {
        0 => Some(bytes.len()),
        length => (length <= bytes.len()).then_some(length),
    }
}

/// The length of a record by its head; 0 if that is more than it may be.
fn length_said(head: &[u8; HEAD_BYTES]) -> usize {
    match usize::from(u16::from_be_bytes([head[3], head[4]])) {
        body if body > BODY_BYTES_MAX => 0,
        body => HEAD_BYTES + body,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::super::{Identity, SecureError, Secured, accept, connect};
    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// A home's and a node's end.
    fn pair() -> (Secured, Secured) {
        let (near, far) = sockets();
        let (home, node) = (Identity::ephemeral().unwrap(), Identity::ephemeral().unwrap());
        let (home_key, node_key) = (home.fingerprint(), node.fingerprint());
        let serving = std::thread::spawn(move || accept(far, &node, soon()).unwrap());
        let near = connect(near, &home, Some(node_key), soon()).unwrap();
        let far = serving.join().unwrap();
        assert_eq!((near.peer, far.peer), (node_key, home_key));
        (near, far)
    }

    fn send(end: &mut Secured, parts: &[&[u8]]) {
        let mut records = Vec::new();
        end.sealer.seal(parts.iter().copied(), &mut records).unwrap();
        (&end.socket).write_all(&records).unwrap();
    }

    fn receive(end: &mut Secured, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut done = 0;
        while done < count {
            let socket = &end.socket;
            let got = end
                .opener
                .read(&mut bytes[done..], |room| (&*socket).read(room))
                .unwrap();
            assert!(got > 0);
            done += got;
        }
        bytes
    }

    #[test]
    fn records_of_all_sizes_cross_both_ways() {
        let (mut home, mut node) = pair();
        let bytes: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        for size in [1, 2, 100, 16383, 16384, 16385, 40000, 200_000] {
            let (left, right) = bytes[..size].split_at(size / 3);
            std::thread::scope(|scope| {
                let node = &mut node;
                let bytes = &bytes;
                let sending = scope.spawn(move || {
                    send(node, &[&bytes[..size]]);
                    receive(node, size)
                });
                send(&mut home, &[left, &[], right]);
                assert_eq!(receive(&mut home, size), &bytes[..size]);
                assert_eq!(sending.join().unwrap(), &bytes[..size]);
            });
        }
        drop(home);
        assert_eq!(
            node.opener
                .read(&mut [0; 10], |room| (&node.socket).read(room))
                .unwrap(),
            0
        );
    }

    #[test]
    fn keys_are_renewed() {
        let (mut home, mut node) = pair();
        home.sealer.records_per_key = 3;
        node.sealer.records_per_key = 2;
        for round in 0..20_u8 {
            send(&mut home, &[&[round; 10]]);
            assert_eq!(receive(&mut node, 10), [round; 10]);
            send(&mut node, &[&[round; 5]]);
            assert_eq!(receive(&mut home, 5), [round; 5]);
        }
    }

    /// However little or much comes at a time, and is asked for at a time.
    #[test]
    fn records_are_cut_anywhere() {
        let (mut home, mut node) = pair();
        home.sealer.records_per_key = 5;
        let (mut text, mut records) = (Vec::new(), Vec::new());
        for number in 0..60_usize {
            let piece = vec![number as u8; [1, 500, 16384, 40000][number % 4]];
            home.sealer.seal([&piece[..]], &mut records).unwrap();
            text.extend(piece);
        }
        let (mut from, mut got) = (0, Vec::new());
        for round in 0.. {
            let mut target = vec![0; [1, 10_000, 1 << 16, 1 << 18][round % 4]];
            let mut receive = |room: &mut [u8]| {
                let most = [3, 100_000, 17, 20_000][from % 4];
                let count = room.len().min(most).min(records.len() - from);
                // Nothing may be lost when there is nothing to read for now.
                if from % 3 == 1 && round % 2 == 0 && count > 0 {
                    room[0] = 0xff;
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                room[..count].copy_from_slice(&records[from..from + count]);
                from += count;
                Ok(count)
            };
            match node.opener.read(&mut target, &mut receive) {
                Ok(0) => break,
                Ok(count) => got.extend_from_slice(&target[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(got == text);
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused() {
        for (place, size) in [0, 3, 5, 12, 30]
            .into_iter()
            .flat_map(|place| [(place, 100), (place, 1 << 16)])
        {
            let (mut home, mut node) = pair();
            let mut records = Vec::new();
            home.sealer.seal([&[7; 20][..]], &mut records).unwrap();
            records[place] ^= 1;
            (&home.socket).write_all(&records).unwrap();
            drop(home);
            let mut target = vec![0; size];
            let got = node.opener.read(&mut target, |room| (&node.socket).read(room));
            // A record that claims to be longer than what comes ends with the connection.
            assert!(got.is_err() || place == 3 && got.unwrap() == 0, "{place}");
        }
        // The same record twice.
        let (mut home, mut node) = pair();
        let mut records = Vec::new();
        home.sealer.seal([&b"once"[..]], &mut records).unwrap();
        (&home.socket)
            .write_all(&[records.clone(), records].concat())
            .unwrap();
        assert_eq!(receive(&mut node, 4), b"once");
        assert!(
            node.opener
                .read(&mut [0; 4], |room| (&node.socket).read(room))
                .is_err()
        );
    }

    #[test]
    fn a_node_with_another_key_is_refused() {
        let (near, far) = sockets();
        let (home, node) = (Identity::ephemeral().unwrap(), Identity::ephemeral().unwrap());
        let expected = home.fingerprint();
        let found = node.fingerprint();
        let serving = std::thread::spawn(move || accept(far, &node, soon()).map(drop));
        let error = connect(near, &home, Some(expected), soon()).unwrap_err();
        assert!(
            matches!(error, SecureError::OtherKey { found: other, .. } if other == found),
            "{error}"
        );
        // The alert tells the node.
        assert!(matches!(serving.join().unwrap(), Err(SecureError::Tls(_))));
    }

    #[test]
    fn handshakes_with_strangers_end() {
        let node = Identity::ephemeral().unwrap();
        for bytes in [
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            &[0; 100],
            &[22, 3, 1, 255, 255],
            &[22, 3, 1, 0, 0],
        ] {
            let (near, far) = sockets();
            (&near).write_all(bytes).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(accept(far, &node, soon()).is_err());
        }
        let (_near, far) = sockets();
        assert!(matches!(
            accept(far, &node, Instant::now() + Duration::from_millis(50)),
            Err(SecureError::Timeout)
        ));
    }

    /// Against rustls's own connection, with the keys that this side's handshake uses.
    #[test]
    fn what_is_said_with_the_end_of_the_handshake_is_not_lost() {
        let (near, far) = sockets();
        let (home, node) = (Identity::ephemeral().unwrap(), Identity::ephemeral().unwrap());
        let key = node.fingerprint();
        let saying = std::thread::spawn(move || {
            let mut end = connect(near, &home, Some(key), soon()).unwrap();
            send(&mut end, &[b"first words"]);
            end
        });
        // All of it is there before the node looks at any of it but the first message.
        std::thread::sleep(Duration::from_millis(1));
        let mut end = accept(far, &node, soon()).unwrap();
        assert_eq!(receive(&mut end, 11), b"first words");
        drop(saying.join().unwrap());
    }
}
