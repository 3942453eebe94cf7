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

/// Stack of a thread that mounts something.
const THREAD_BYTES: usize = 64 << 10;

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

/// Those that are mounted with the tree, by how many others they are in, and those at which somebody may have to be waited for. `count` is how many
/// connections there are.
fn sorted(points: &[MountPoint], count: usize) -> (Vec<Vec<&MountPoint>>, Vec<&MountPoint>) {
    let (mut levels, mut later) = (Vec::<Vec<_>>::new(), Vec::new());
    // With the level of each, from which on others are on it.
    let mut around: Vec<(&MountPoint, usize)> = Vec::new();
    for point in plain(points).filter(|point| (point.file_system as usize) < count) {
        around.retain(|(outer, _)| point.path == outer.path || is_below(&point.path, &outer.path));
        let (system, level) = match around.last() {
            Some((outer, level)) => (outer.file_system, *level),
            None => (0, 0),
        };
        let may_hang = point.may_hang || around.iter().any(|(outer, _)| outer.may_hang);
        if system == point.file_system {
            around.push((point, level));
            continue;
        }
        around.push((point, level + 1));
        if may_hang {
            later.push(point);
            continue;
        }
        if levels.len() <= level {
            levels.resize(level + 1, Vec::new());
        }
        levels[level].push(point);
    }
    (levels, later)
}

/// Does something to each of several, by at most so many threads: each may take as long as a home takes that is far away.
pub(super) fn for_each<T: Sync>(all: &[T], threads: usize, each: impl Fn(&T) + Sync) {
    if threads <= 1 {
        return all.iter().for_each(each);
    }
    let each = &each;
    std::thread::scope(|scope| {
        for some in all.chunks(all.len().div_ceil(threads).max(1)) {
            let thread = std::thread::Builder::new().stack_size(THREAD_BYTES);
            if thread.spawn_scoped(scope, || some.iter().for_each(each)).is_err() {
                some.iter().for_each(each);
            }
        }
    });
}

/// The kernel knows the names on the way to a path below `root` from now on, for a moment.
pub(super) fn look_ahead(path: &str, root: &OwnedFd) {
    drop(open_way(root, path.as_bytes()));
}

/// A way to what a path below `root` means.
fn open_way(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), beneath)
}

/// Mounts them on the tree at `root` where they are not mounted yet, from the roots of their connections (the first one has the tree's
/// hidden directory). What cannot be mounted stays what it is in the tree, but for its number. Several threads may do that while nobody else is in
/// the world.
pub fn mount_all(
    points: &[MountPoint],
    root: &OwnedFd,
    roots: &[OwnedFd],
    threads: usize,
) -> Result<(), WorldError> {
    let (levels, later) = sorted(points, roots.len());
    for level in levels {
        for_each(&level, threads, |point| {
            // Home may have unmounted it just now.
            let _ = mount_one(point, root, roots);
        });
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
    let target = open_way(root, &point.path[1..])?;
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
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
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
    fn what_is_in_another_is_mounted_after_it() {
        let point = |path: &str, file_system, may_hang| MountPoint {
            path: path.as_bytes().to_vec(),
            file_system,
            may_hang,
            device: 0,
        };
        let points = [
            point("/dev", 1, false),
            point("/dev/pts", 2, false),
            point("/devices", 3, false),
            point("/home", 0, false),
            point("/home/net", 4, true),
            point("/home/net/in", 5, false),
            point("/sys", 6, false),
            point("/sys/fs/cgroup", 7, false),
            point("/sys/fs/cgroup/cpu", 8, false),
            point("/sys/fs/cgroup/cpu", 9, false),
            point("/x", 77, false),
        ];
        let (levels, later) = sorted(&points, 20);
        let systems =
            |points: &[&MountPoint]| points.iter().map(|point| point.file_system).collect::<Vec<_>>();
        let levels: Vec<_> = levels.iter().map(|level| systems(level)).collect();
        assert_eq!(levels, [vec![1, 3, 6], vec![2, 7], vec![8], vec![9]]);
        assert_eq!(systems(&later), [4, 5]);
    }

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
