//! Putting right what a call returns, at the stop on its way out: the results of the `stat` family for objects that the
//! node's kernel cannot show as they are.

use tracing::debug;

use super::Tracer;
use crate::sys::memory;
use crate::sys::ptrace::{self, Registers};

/// What to put right.
#[derive(Debug)]
pub enum Correction {
    /// The file is this one, by home's `struct stat`.
    Status(Box<[u8; STAT_BYTES]>),
    /// The owner is what home says of the file that is shown.
    Owners,
}

/// Bytes of the kernel's `struct stat` on x86-64.
pub const STAT_BYTES: usize = 144;

const STATX_BYTES: usize = 256;

/// Offsets in `struct stat`.
mod stat {
    pub const DEVICE: usize = 0;
    pub const INODE: usize = 8;
    pub const LINKS: usize = 16;
    pub const MODE: usize = 24;
    pub const UID: usize = 28;
    pub const GID: usize = 32;
    pub const RDEV: usize = 40;
    pub const SIZE: usize = 48;
    pub const BLOCK_BYTES: usize = 56;
    pub const BLOCKS: usize = 64;
    pub const ACCESS: usize = 72;
    pub const MODIFY: usize = 88;
    pub const CHANGE: usize = 104;
}

/// Offsets in `struct statx`.
mod statx {
    pub const BLOCK_BYTES: usize = 4;
    pub const LINKS: usize = 16;
    pub const UID: usize = 20;
    pub const GID: usize = 24;
    pub const MODE: usize = 28;
    pub const INODE: usize = 32;
    pub const SIZE: usize = 40;
    pub const BLOCKS: usize = 48;
    pub const ACCESS: usize = 64;
    pub const CHANGE: usize = 96;
    pub const MODIFY: usize = 112;
    pub const RDEV: usize = 128;
    pub const DEVICE: usize = 136;
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(half)
}

/// Where a call of the `stat` family puts its result, and whether it is a `struct statx`.
fn result_place(registers: &Registers) -> Option<(u64, bool)> {
    match registers.orig_rax as i64 {
        libc::SYS_stat | libc::SYS_lstat | libc::SYS_fstat => Some((registers.rsi, false)),
        libc::SYS_newfstatat => Some((registers.rdx, false)),
        libc::SYS_statx => Some((registers.r8, true)),
        _ => None,
    }
}

/// True for calls whose result [`Correction`] can put right.
pub fn is_status_call(number: u64) -> bool {
    matches!(
        number as i64,
        libc::SYS_stat | libc::SYS_lstat | libc::SYS_fstat | libc::SYS_newfstatat | libc::SYS_statx
    )
}

impl Tracer {
    /// Does what is due for a thread that is stopped on its way out of a call.
    pub(super) fn correct_result(&mut self, tid: i32) {
        self.restart_if_interrupted(tid);
        let Some(correction) = self
            .threads
            .get_mut(&tid)
            .and_then(|thread| thread.correction.take())
        else {
            return;
        };
        if let Err(error) = self.apply(tid, &correction) {
            debug!("correcting a result of {tid}: {error}");
        }
    }

    fn apply(&self, tid: i32, correction: &Correction) -> std::io::Result<()> {
        let registers = ptrace::registers(tid)?;
        let Some((place, extended)) = result_place(&registers) else {
            return Ok(());
        };
        if registers.rax != 0 {
            return Ok(());
        }
        let mut shown = vec![0; if extended { STATX_BYTES } else { STAT_BYTES }];
        memory::read(tid, place, &mut shown)?;
        match correction {
            Correction::Status(truth) => {
                let here = self.shared.files.places.device(word(&truth[..], stat::DEVICE));
                show(&mut shown, extended, &truth[..], here);
            }
            Correction::Owners => {
                let inode = word(&shown, if extended { statx::INODE } else { stat::INODE });
                let Some((uid, gid)) = self
                    .shared
                    .files
                    .home
                    .owners()
                    .and_then(|owners| owners.of(inode))
                else {
                    return Ok(());
                };
                let (uid_at, gid_at) = if extended {
                    (statx::UID, statx::GID)
                } else {
                    (stat::UID, stat::GID)
                };
                shown[uid_at..uid_at + 4].copy_from_slice(&uid.to_ne_bytes());
                shown[gid_at..gid_at + 4].copy_from_slice(&gid.to_ne_bytes());
            }
        }
        memory::write(tid, place, &shown)
    }
}

/// Makes `shown` (a `struct statx` if `extended`, else a `struct stat`) say what home's `struct stat` says. `here`: the number that its
/// file system has here, if that is not the one shown.
fn show(shown: &mut [u8], extended: bool, truth: &[u8], here: Option<u64>) {
    // Files and devices are also reached by path, where the file system is one of the world's.
    let by_path = [libc::S_IFREG, libc::S_IFDIR, libc::S_IFCHR, libc::S_IFBLK];
    let device = match by_path.contains(&(half(truth, stat::MODE) & libc::S_IFMT)) {
        true => here,
        false => Some(word(truth, stat::DEVICE)),
    };
    if !extended {
        let device = device.unwrap_or(word(shown, stat::DEVICE));
        shown.copy_from_slice(truth);
        shown[stat::DEVICE..stat::DEVICE + 8].copy_from_slice(&device.to_ne_bytes());
        return;
    }
    let mut put32 = |at: usize, value: u32| shown[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put32(statx::BLOCK_BYTES, word(truth, stat::BLOCK_BYTES) as u32);
    put32(statx::LINKS, word(truth, stat::LINKS) as u32);
    put32(statx::UID, half(truth, stat::UID));
    put32(statx::GID, half(truth, stat::GID));
    let rdev = word(truth, stat::RDEV);
    put32(statx::RDEV, libc::major(rdev));
    put32(statx::RDEV + 4, libc::minor(rdev));
    if let Some(device) = device {
        put32(statx::DEVICE, libc::major(device));
        put32(statx::DEVICE + 4, libc::minor(device));
    }
    for (from, to) in [
        (stat::ACCESS, statx::ACCESS),
        (stat::CHANGE, statx::CHANGE),
        (stat::MODIFY, statx::MODIFY),
    ] {
        put32(to + 8, word(truth, from + 8) as u32);
    }
    let mut put64 = |at: usize, value: u64| shown[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    put64(statx::INODE, word(truth, stat::INODE));
    put64(statx::SIZE, word(truth, stat::SIZE));
    put64(statx::BLOCKS, word(truth, stat::BLOCKS));
    for (from, to) in [
        (stat::ACCESS, statx::ACCESS),
        (stat::CHANGE, statx::CHANGE),
        (stat::MODIFY, statx::MODIFY),
    ] {
        put64(to, word(truth, from));
    }
    shown[statx::MODE..statx::MODE + 2].copy_from_slice(&(half(truth, stat::MODE) as u16).to_ne_bytes());
}
