//! Home's mounts, as its kernel lists them, and where a node has to tell file systems apart.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use afield_link::wire::{FILE_SYSTEMS_MAX, MOUNT_POINTS_MAX, MountPoint};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use tracing::warn;

/// The list; it says to those who poll it when there are other mounts.
pub const MOUNTS: &str = "/proc/self/mountinfo";

/// File systems whose server is another machine or process, by the beginning of their names.
const SERVED_ELSEWHERE: [&str; 12] = [
    "nfs", "cifs", "smb", "9p", "ceph", "afs", "coda", "lustre", "gfs", "ocfs", "fuse", "orangefs",
];

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Its number, as `statx` has it.
    pub id: u32,
    parent: u32,
    /// Major and minor number.
    device: (u32, u32),
    /// Where it is mounted.
    pub point: Vec<u8>,
    /// Options of the mount, and those that the file system has for all of its mounts; each list with commas.
    pub options: [&'a str; 2],
    /// Name of the kind of file system.
    pub kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        // Number, parent, device, root, mount point, options, further fields up to a hyphen, kind, source, options.
        let mut fields = line.split(|byte| *byte == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (id, parent) = (text()?.parse().ok()?, text()?.parse().ok()?);
        let (major, minor) = text()?.split_once(':')?;
        let point = unescape(fields.nth(1)?);
        let options = std::str::from_utf8(fields.next()?).ok()?;
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = std::str::from_utf8(rest.next()?).ok()?;
        let all = rest.last().and_then(|options| std::str::from_utf8(options).ok());
        Some(Self {
            id,
            parent,
            device: (major.parse().ok()?, minor.parse().ok()?),
            point,
            options: [options, all.unwrap_or_default()],
            kind,
        })
    }

    fn may_hang(&self) -> bool {
        SERVED_ELSEWHERE.iter().any(|name| self.kind.starts_with(name))
    }

    /// What lies beneath `point`, seen from the outside.
    fn hides(&self, point: &[u8]) -> bool {
        point
            .strip_prefix(&*self.point)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

/// The mounts of a list.
pub fn parse(list: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    list.split(|byte| *byte == b'\n').filter_map(Mount::parse)
}

/// Octal escapes are what they stand for.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match escape {
            Some(digits) => {
                plain.push(digits.iter().fold(0u8, |value, digit| {
                    value.wrapping_mul(8).wrapping_add(digit - b'0')
                }));
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

/// What a node has been told of home's file systems.
#[derive(Debug, Default)]
pub struct Told {
    /// The list, if it can be read: otherwise all have one number on the node.
    list: Option<File>,
    systems: FileSystems,
}

impl Told {
    /// Looks for the first time.
    pub fn new() -> Self {
        let mut told = Self {
            list: File::open(MOUNTS)
                .inspect_err(|error| warn!("{MOUNTS}: {error}"))
                .ok(),
            systems: FileSystems::default(),
        };
        told.look();
        told
    }

    fn look(&mut self) {
        let mut text = Vec::new();
        if let Some(list) = &mut self.list {
            let read = list.rewind().and_then(|()| list.read_to_end(&mut text));
            if let Err(error) = read {
                return warn!("{MOUNTS}: {error}");
            }
            self.systems = FileSystems::of(&text, &self.systems.devices, device);
        }
    }

    /// Looks again. True if the node has to be told.
    pub fn has_news(&mut self) -> bool {
        let Some(list) = &self.list else {
            return false;
        };
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut polls = [PollFd::new(list, PollFlags::PRI)];
        if !matches!(poll(&mut polls, Some(&at_once)), Ok(ready) if ready > 0) {
            return false;
        }
        let before = self.systems.clone();
        self.look();
        before != self.systems
    }

    /// Where file systems other than the root's begin.
    pub fn points(&self) -> &[MountPoint] {
        &self.systems.points
    }

    /// What all mount points of home are called.
    pub fn names(&self) -> &Names {
        &self.systems.names
    }

    /// Device numbers of file systems by their numbers there, if guests tell apart this many.
    pub fn told_apart(&self, count: u32) -> Vec<u64> {
        let devices = self.systems.devices.iter();
        devices.take(count as usize).copied().collect()
    }
}

/// Last components of mount points, and whether asking for anything there may take for ever.
pub type Names = HashMap<Box<[u8]>, bool>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct FileSystems {
    /// Device numbers, the root's first.
    devices: Vec<u64>,
    points: Vec<MountPoint>,
    names: Names,
}

/// The number by which programs tell its files from others'. The list has another one for parts of a file system that has several.
fn device(mount: &Mount<'_>) -> Option<u64> {
    let (mut major, mut minor) = mount.device;
    if mount.kind == "btrfs" {
        let path = Path::new(OsStr::from_bytes(&mount.point));
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).ok()?;
        (major, minor) = (found.stx_dev_major, found.stx_dev_minor);
    }
    Some(u64::from(major) << 32 | u64::from(minor))
}

impl FileSystems {
    /// Those in a list. What was there `before` keeps its number.
    fn of(list: &[u8], before: &[u64], device: impl Fn(&Mount<'_>) -> Option<u64>) -> Self {
        let mounts: Vec<_> = parse(list).collect();
        let mut children: HashMap<u32, Vec<&Mount<'_>>> = HashMap::new();
        for mount in &mounts {
            children.entry(mount.parent).or_default().push(mount);
        }
        let on = |mount: &Mount<'_>| children.get(&mount.id).map(Vec::as_slice).unwrap_or_default();
        let top = |mount: &Mount<'_>| !on(mount).iter().any(|child| child.point == mount.point);
        let Some(root) = mounts.iter().find(|mount| mount.point == b"/" && top(mount)) else {
            return Self::default();
        };
        let mut seen = Vec::new();
        let mut search = vec![root];
        // Each mount has one parent, so none is met twice.
        while let Some(mount) = search.pop() {
            let beside = on(mount);
            for child in beside {
                let is_hidden = beside
                    .iter()
                    .any(|other| other.id != child.id && other.hides(&child.point));
                if !is_hidden && child.id != mount.id {
                    search.push(child);
                    // What is to be mounted there, asking would mount.
                    if top(child) && child.kind != "autofs" {
                        seen.push(*child);
                    }
                }
            }
        }
        seen.sort_by(|one, other| one.point.cmp(&other.point));
        let seen: Vec<_> = seen
            .into_iter()
            .filter_map(|mount| Some((device(mount)?, mount)))
            .collect();
        let mut systems = Self {
            devices: device(root).into_iter().collect(),
            points: Vec::new(),
            names: Names::new(),
        };
        for mount in &mounts {
            if let Some(name) = mount.point.rsplit(|byte| *byte == b'/').next() {
                *systems.names.entry(name.into()).or_default() |= mount.may_hang();
            }
        }
        systems.devices.extend(before.iter().skip(1));
        for (device, mount) in &seen {
            let is_free = |known: &u64| !seen.iter().any(|(other, _)| other == known);
            // The root's is never another's.
            let place = match systems.devices.iter().position(|known| known == device) {
                None => systems.devices.iter().skip(1).position(is_free).map(|at| at + 1),
                known => known,
            };
            let number = place.unwrap_or(systems.devices.len());
            if number >= FILE_SYSTEMS_MAX || systems.points.len() >= MOUNT_POINTS_MAX {
                continue;
            }
            match systems.devices.get_mut(number) {
                Some(known) => *known = *device,
                None => systems.devices.push(*device),
            }
            systems.points.push(MountPoint {
                may_hang: mount.may_hang(),
                path: mount.point.clone(),
                file_system: number as u32,
                device: rustix::fs::makedev((device >> 32) as u32, *device as u32),
            });
        }
        systems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(list: &str) -> Vec<(String, u32, bool)> {
        let device = |mount: &Mount<'_>| Some(u64::from(mount.device.0) << 32 | u64::from(mount.device.1));
        FileSystems::of(list.as_bytes(), &[], device)
            .points
            .into_iter()
            .map(|point| {
                let path = String::from_utf8(point.path).unwrap();
                (path, point.file_system, point.may_hang)
            })
            .collect()
    }

    fn expected(points: &[(&str, u32, bool)]) -> Vec<(String, u32, bool)> {
        points
            .iter()
            .map(|(path, system, hangs)| ((*path).to_owned(), *system, *hangs))
            .collect()
    }

    #[test]
    fn file_systems_are_told_apart_by_their_numbers() {
        let list = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /proc rw - proc proc rw\n\
            24 22 8:1 /srv /same rw - ext4 /dev/sda1 rw\n\
            25 22 0:7 / /with\\040space rw - tmpfs tmpfs rw\n\
            26 22 0:8 / /mnt rw shared:4 master:1 - nfs4 server:/export rw\n\
            27 25 0:5 /sys /with\\040space/sys rw - proc proc rw\n";
        let there = [
            ("/mnt", 1, true),
            ("/proc", 2, false),
            ("/same", 0, false),
            ("/with space", 3, false),
            ("/with space/sys", 2, false),
        ];
        assert_eq!(points(list), expected(&there));
        let names = FileSystems::of(list.as_bytes(), &[], |_| Some(1)).names;
        assert_eq!(
            (
                names.get(&b"mnt"[..]),
                names.get(&b"sys"[..]),
                names.get(&b"srv"[..])
            ),
            (Some(&true), Some(&false), None)
        );
    }

    #[test]
    fn what_stays_mounted_keeps_its_number() {
        let device = |mount: &Mount<'_>| Some(u64::from(mount.device.1));
        let look = |before: &[u64], list: &str| FileSystems::of(list.as_bytes(), before, device);
        let root = "1 0 0:1 / / rw - ext4 x rw\n";
        let first = look(
            &[],
            &format!("{root}2 1 0:2 / /b rw - tmpfs x rw\n3 1 0:3 / /c rw - tmpfs x rw\n"),
        );
        assert_eq!(first.devices, [1, 2, 3]);
        let second = look(&first.devices, &format!("{root}3 1 0:3 / /c rw - tmpfs x rw\n"));
        assert_eq!(
            (second.devices.as_slice(), second.points[0].file_system),
            ([1, 2, 3].as_slice(), 2)
        );
        let list = format!(
            "{root}4 1 0:4 / /a rw - tmpfs x rw\n3 1 0:3 / /c rw - tmpfs x rw\n5 1 0:5 / /d rw - tmpfs x rw\n"
        );
        let third = look(&second.devices, &list);
        assert_eq!(third.devices, [1, 4, 3, 5]);
        let numbers: Vec<_> = third.points.iter().map(|point| point.file_system).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn what_others_are_mounted_over_is_left_out() {
        let list = "\
            27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            24 27 0:6 / /dev rw - devtmpfs none rw\n\
            26 24 0:24 / /dev/pts rw - devpts none rw\n\
            29 26 0:26 / /dev/pts rw - devpts none rw\n\
            30 27 0:30 / /a/b rw - tmpfs none rw\n\
            31 27 0:31 / /a rw - tmpfs none rw\n\
            32 31 0:32 / /a/c rw - autofs none rw\n\
            33 31 0:33 / /a/d rw - autofs none rw\n\
            34 33 0:34 / /a/d rw - fuse.sshfs none rw\n\
            35 30 0:35 / /a/b/e rw - tmpfs none rw\n";
        let there = [
            ("/a", 1, false),
            ("/a/d", 2, true),
            ("/dev", 3, false),
            ("/dev/pts", 4, false),
        ];
        assert_eq!(points(list), expected(&there));
        // The root, too, can be mounted over.
        let list = "1 1 0:1 / / rw - rootfs none rw\n2 1 0:2 / / rw - ext4 x rw\n3 2 0:3 / /x rw - tmpfs x rw\n\
            4 1 0:4 / /y rw - tmpfs x rw\n";
        assert_eq!(points(list), expected(&[("/x", 1, false)]));
        assert!(points("nonsense\n - \n").is_empty());
    }
}
