//! Where the time of a call goes: each side notes when a call passes a place on its way.
//!
//! Nothing is noted until somebody wants to know. A process notes one call at a time; who measures sees to it that there is no other,
//! or takes medians.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A place that a call passes, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// What is to be sent has been marshalled.
    Marshalled,
    /// It has its number and its envelope.
    Enveloped,
    /// It has been encrypted, if that is done.
    Encrypted,
    /// The kernel has it.
    Sent,
    /// Something has come from the kernel.
    Arrived,
    /// It has been decrypted, if that has to be done.
    Decrypted,
    /// It is known whom it is for.
    Dispatched,
    /// The operation begins.
    Begun,
    /// The operation has ended.
    Executed,
}

const COUNT: usize = 9;

static WANTED: AtomicBool = AtomicBool::new(false);
static TIMES: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

/// From now on places are noted.
pub fn want() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Nanoseconds since a moment of this process's own.
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// The call is here now.
#[inline]
pub fn mark(stage: Stage) {
    if WANTED.load(Ordering::Relaxed) {
        TIMES[stage as usize].store(now_ns(), Ordering::Relaxed);
    }
}

/// When a call was last at a place.
pub fn time_ns(stage: Stage) -> u64 {
    TIMES[stage as usize].load(Ordering::Relaxed)
}

/// From one place to a later one; 0 if the later one has not been passed since.
pub fn between_ns(from: Stage, to: Stage) -> u64 {
    time_ns(to).saturating_sub(time_ns(from))
}

/// What a server says of its part of a call, in nanoseconds. What follows the execution is that of the call before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Decrypting the request; 0 if it is not encrypted.
    pub decrypt: u64,
    /// Until it is known what is to be done.
    pub dispatch: u64,
    /// Until that begins.
    pub begin: u64,
    /// Doing it.
    pub execute: u64,
    /// Marshalling the result.
    pub marshal: u64,
    /// Putting it into its envelope.
    pub envelope: u64,
    /// Encrypting it; 0 if it is not encrypted.
    pub encrypt: u64,
    /// Giving it to the kernel.
    pub send: u64,
}

impl Served {
    /// The present call up to its execution, and the one before from there.
    pub fn now(before: &Self) -> Self {
        let last = stage_before_dispatch();
        Self {
            decrypt: between_ns(Stage::Arrived, Stage::Decrypted),
            dispatch: time_ns(Stage::Dispatched).saturating_sub(last),
            begin: between_ns(Stage::Dispatched, Stage::Begun),
            execute: between_ns(Stage::Begun, Stage::Executed),
            ..*before
        }
    }

    /// The sending of the call whose execution was the last.
    pub fn sent() -> Self {
        let (encrypt, send) = encrypt_and_send_ns();
        Self {
            marshal: between_ns(Stage::Executed, Stage::Marshalled),
            envelope: between_ns(Stage::Marshalled, Stage::Enveloped),
            encrypt,
            send,
            ..Self::default()
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        [
            self.decrypt,
            self.dispatch,
            self.begin,
            self.execute,
            self.marshal,
            self.envelope,
            self.encrypt,
            self.send,
        ]
        .iter()
        .sum()
    }
}

/// When the message that was dispatched was there in clear.
pub fn stage_before_dispatch() -> u64 {
    time_ns(Stage::Decrypted).max(time_ns(Stage::Arrived))
}

/// Of the message that was sent last.
pub fn encrypt_and_send_ns() -> (u64, u64) {
    let encrypt = between_ns(Stage::Enveloped, Stage::Encrypted);
    let ready = time_ns(Stage::Encrypted).max(time_ns(Stage::Enveloped));
    (encrypt, time_ns(Stage::Sent).saturating_sub(ready))
}
