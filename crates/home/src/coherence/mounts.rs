//! Which mounts are watched: for `afield doctor`.

use std::io;

use super::sys;
use crate::mounts::{MOUNTS, parse};

/// File systems all of whose changes come from this kernel's own calls on them, by their names in `/proc/self/mountinfo`.
/// What [`tells`](super::tells) says by number.
const TELLING: [&str; 14] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "devtmpfs", "ramfs", "overlay", "f2fs", "bcachefs",
    "squashfs", "erofs", "iso9660",
];

/// Mount points (with the kind of file system) of whose files nodes keep nothing, those below another one left out.
///
/// # Errors
/// Nothing at all can be watched.
pub fn unwatched() -> io::Result<Vec<(String, String)>> {
    sys::new_group()?;
    Ok(unwatched_of(&std::fs::read(MOUNTS)?))
}

fn unwatched_of(mounts: &[u8]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for mount in parse(mounts) {
        let point = String::from_utf8_lossy(&mount.point).into_owned();
        // A later mount hides an earlier one.
        found.retain(|(other, _)| *other != point);
        if !TELLING.contains(&mount.kind) {
            found.push((point, mount.kind.to_owned()));
        }
    }
    let all: Vec<String> = found.iter().map(|(point, _)| point.clone()).collect();
    found.retain(|(point, _)| {
        let below = |other: &String| {
            point
                .strip_prefix(other.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        !all.iter().any(below)
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_without_events_are_named() {
        let mounts = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /proc rw - proc proc rw\n\
            24 23 0:6 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n\
            25 22 0:7 / /tmp rw - tmpfs tmpfs rw\n\
            26 22 0:8 / /mnt rw shared:4 master:1 - nfs4 server:/export rw\n\
            27 22 0:9 / /mount rw - fuse.sshfs x rw\n\
            28 27 0:7 / /mount rw - tmpfs tmpfs rw\n";
        let expected = [("/proc", "proc"), ("/mnt", "nfs4")];
        assert_eq!(
            unwatched_of(mounts.as_bytes()),
            expected.map(|(point, kind)| (point.to_owned(), kind.to_owned()))
        );
        assert!(unwatched_of(b"nonsense\n - \n").is_empty());
    }
}
