//! Write-behind: whether a session may answer writes itself, before home has executed them.
//!
//! A write that home then cannot do is told late: at the next call on the file, at `fsync` or at `close`. So that programs do not
//! see it later than natively, writes may be behind only where nothing speaks for their failing: on file systems of which it is
//! known what can go wrong, and while there is far more room than all sessions together can have under way.
//!
//! Such writes are executed in the turn of the thread that reads the link, so everything later from that node waits for them. That
//! is what makes them visible to whoever hears of them; and it must not hold up others for longer than it takes to copy the data
//! into home's page cache. A write that took longer (the disk cannot follow, the file system is frozen) is answered at once, without
//! the leave to go on; writes are then waited for by their callers alone until they are quick again.

use std::os::fd::AsFd;
use std::time::Duration;

use super::sys;

/// A write that took so long, and waited for something, was not a copy into the page cache.
pub const SLOW: Duration = Duration::from_millis(5);

/// Room that there has to be, in bytes. A session has at most 16 MiB under way.
const ROOM_BYTES_MIN: u64 = 1 << 30;

/// Blocks have to be as large as this, in bytes, so that the largest file is larger than any for which sessions use this.
const BLOCK_BYTES_MIN: i64 = 4096;

/// Whether a write to this file is as good as done.
pub fn is_ample(file: impl AsFd) -> bool {
    let Ok(figures) = rustix::fs::fstatfs(&file) else {
        return false;
    };
    is_known(figures.f_type as u32)
        && figures.f_bsize >= BLOCK_BYTES_MIN
        && figures.f_bavail.saturating_mul(figures.f_bsize as u64) >= ROOM_BYTES_MIN
        && !sys::has_quota(file.as_fd())
}

/// File systems of this machine, by the magic numbers of `statfs`: ext, XFS, btrfs, tmpfs, overlay, F2FS, ZFS, bcachefs.
fn is_known(kind: u32) -> bool {
    matches!(
        kind,
        0xef53
            | 0x5846_5342
            | 0x9123_683e
            | 0x0102_1994
            | 0x794c_7630
            | 0xf2f5_2010
            | 0x2fc1_2fc1
            | 0xca45_1a4e
    )
}
