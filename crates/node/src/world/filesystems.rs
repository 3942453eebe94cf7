//! Home's file systems below the root, each mounted where home has it, so that programs see where one ends and another begins.
//!
//! Every one of them has a FUSE connection of its own. What is mounted is not its root, which no file system of home's has, but
//! what [`crate::fs::places`] finds in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use afield_link::wire::{FILE_SYSTEMS_MAX, Hello, MOUNT_POINTS_MAX, MountPoint};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::retry_on_intr;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::{Step, WorldError};
use crate::fs::places::{MAKER, PLACE_PREFIX};
use crate::sys::inodes::fuse_node_of;
use crate::sys::process::exit_now;
use crate::sys::{clone, process};

/// The first kernel that can ask for a name again without giving up what is mounted on it. On others guests see one file system.
const KERNEL_MIN: (u32, u32) = (6, 2);

/// Connections for file systems that home mounts later.
const SPARE: usize = 4;

/// How long a file system whose server does not answer is waited for.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Longest path that the kernel takes, with its NUL.
const PATH_BYTES_MAX: usize = 4096;

/// How many FUSE connections a world for this home has.
pub fn connection_count(hello: &Hello) -> usize {
    if !can_expire(&rustix::system::uname().release().to_string_lossy()) {
        return 1;
    }
    let last = plain(&hello.mounts).map(|point| point.file_system).max();
    (1 + last.unwrap_or(0) as usize + SPARE).min(FILE_SYSTEMS_MAX)
}

/// Whether a kernel of this release keeps mounts when their names are asked for again.
fn can_expire(release: &str) -> bool {
    let mut numbers = release
        .split(|byte: char| !byte.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= KERNEL_MIN
}

/// What home says of them, as far as it is what it may say.
fn plain(points: &[MountPoint]) -> impl Iterator<Item = &MountPoint> {
    let is_plain = |point: &&MountPoint| {
        point.path.starts_with(b"/")
            && point.path.len() > 1
            && point.path.len() < PATH_BYTES_MAX
            && !point.path.contains(&0)
            && (point.file_system as usize) < FILE_SYSTEMS_MAX
    };
    points.iter().take(MOUNT_POINTS_MAX).filter(is_plain)
}

/// Mounts them on the tree at `root` where they are not mounted yet, from the roots of their connections (the first one has the tree's
/// hidden directory). What cannot be mounted stays what it is in the tree, but for its number.
pub fn mount_all(points: &[MountPoint], root: &OwnedFd, roots: &[OwnedFd]) -> Result<(), WorldError> {
    let (mut at_once, mut later) = (Vec::new(), Vec::new());
    let mut around: Vec<&MountPoint> = Vec::new();
    for point in plain(points).filter(|point| (point.file_system as usize) < roots.len()) {
        around.retain(|outer| is_below(&point.path, &outer.path));
        let outer = around.last();
        let system = outer.map_or(0, |outer| outer.file_system);
        let may_hang = point.may_hang || around.iter().any(|outer| outer.may_hang);
        around.push(point);
        if system == point.file_system {
            continue;
        }
        match may_hang {
            true => later.push(point),
            false => at_once.push(point),
        }
    }
    for point in at_once {
        // Home may have unmounted it just now.
        let _ = mount_one(point, root, roots);
    }
    if later.is_empty() {
        return Ok(());
    }
    // Nothing ends a wait for a server's answer. So a process of its own waits.
    let (done, doing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("pipe")?;
    let Ok(maker) = clone::fork_with(0, libc::SIGCHLD, Some(MAKER)) else {
        // A guest has its number, or the one before still waits.
        return Ok(());
    };
    if maker == 0 {
        drop(done);
        for point in later {
            let _ = mount_one(point, root, roots);
        }
        exit_now(0);
    }
    drop(doing);
    let mut polls = [PollFd::new(&done, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut polls, Some(&PATIENCE))).step("poll")? > 0 {
        process::wait_for_end(maker);
    }
    Ok(())
}

fn is_below(path: &[u8], outer: &[u8]) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn mount_one(point: &MountPoint, root: &OwnedFd, roots: &[OwnedFd]) -> io::Result<()> {
    let unexpected = || io::Error::from(io::ErrorKind::InvalidInput);
    let path = Path::new(std::ffi::OsStr::from_bytes(&point.path[1..]));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let target = rustix::fs::openat2(root, path, flags, Mode::empty(), beneath)?;
    // What has just been looked up is known: nobody is asked.
    let look = |file: &OwnedFd| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(file, c"", flags, StatxFlags::TYPE)
    };
    let device = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor);
    let found = look(&target)?;
    let kind = FileType::from_raw_mode(found.stx_mode.into());
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(unexpected());
    }
    let system = roots.get(point.file_system as usize).ok_or_else(unexpected)?;
    if device(&look(system)?) == device(&found) {
        return Ok(());
    }
    let (_, node) = fuse_node_of(target.as_fd()).ok_or_else(unexpected)?;
    let source = rustix::fs::openat(system, format!("{PLACE_PREFIX}{node}"), flags, Mode::empty())?;
    move_onto(source.as_fd(), target.as_fd())
}

/// Mounts what `source` is on `target`.
fn move_onto(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let tree = rustix::mount::open_tree(
        source,
        c"",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
    )?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", target, c"", empty)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert!(can_expire("6.18.44-x"));
        assert!(can_expire("6.2"));
        assert!(can_expire("10.0-rc1"));
        assert!(!can_expire("6.1.0-32-amd64"));
        assert!(!can_expire("5.19"));
        assert!(!can_expire("x"));
    }
}
