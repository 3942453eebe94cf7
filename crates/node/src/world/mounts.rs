//! The world's mounts: home's tree as the root, and on it the few places that are the node's.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use afield_link::wire::{Hello, MountPoint};
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{HIDDEN_DIRECTORY, NODE_DIRECTORIES, Step, WorldError, filesystems};
use crate::fs::handles::{HIDDEN_PROC, HIDDEN_ROOTS};
use crate::fs::proc::NODE_FACTS;
use crate::sys::namespaces::{mount, pivot_here};

/// Where the root is put together, on a file system of its own over a directory that every system has.
const BUILD: &str = "/tmp";
const ROOT: &str = "/tmp/root";

/// What the list of mounts has as their source.
const SOURCE: &CStr = c"afield";

/// Most threads that build a world.
const MOUNTERS_MAX: usize = 16;

/// What a kernel can number on 64-bit machines (`PID_MAX_LIMIT`).
const PIDS_MAX: u32 = 1 << 22;

/// Devices that are the node's own: they hold nothing of home.
pub const OWN_DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// What the node's kernel calls home's file systems.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Made {
    /// Numbers of all mounts of them.
    pub mounts: Vec<u64>,
    /// Device numbers (`st_dev`) of the connections.
    pub devices: Vec<u64>,
}

/// What init keeps of the world's mounts.
#[derive(Debug)]
pub struct Places {
    /// Directory of home objects.
    pub hidden: OwnedFd,
    /// A directory of each FUSE connection.
    pub roots: Vec<OwnedFd>,
    /// Where home's tree begins.
    root: OwnedFd,
}

impl Places {
    /// Numbers of all descriptors.
    pub(super) fn numbers(&self) -> impl Iterator<Item = RawFd> {
        let others = [self.hidden.as_raw_fd(), self.root.as_raw_fd()];
        self.roots.iter().map(AsRawFd::as_raw_fd).chain(others)
    }

    /// Mounts home's file systems at these points, and tells of all that are mounted.
    pub(super) fn mount(&self, points: &[MountPoint], channel: &UnixStream) -> Result<(), WorldError> {
        filesystems::mount_all(points, &self.root, &self.roots, 1)?;
        self.report(channel)
    }

    /// Tells of all that are mounted, in the form [`read_report`] reads.
    pub(super) fn report(&self, mut channel: &UnixStream) -> Result<(), WorldError> {
        let list = fs::read(format!("/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}/self/mountinfo"));
        let mut made = Made {
            mounts: numbers(&list.step("read the list of mounts")?),
            devices: Vec::new(),
        };
        for root in &self.roots {
            made.devices.push(
                rustix::fs::fstat(root)
                    .step("look at the root of a file system")?
                    .st_dev,
            );
        }
        let text = afield_link::wire::encode(&made).map_err(io::Error::other);
        let text = text.step("report to the session")?;
        let report = [&(text.len() as u32).to_le_bytes()[..], &text].concat();
        channel.write_all(&report).step("report to the session")
    }
}

/// Reads what mounts there are.
pub(super) fn read_report(channel: &mut UnixStream) -> io::Result<Made> {
    let mut length = [0; 4];
    channel.read_exact(&mut length)?;
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    channel.read_exact(&mut text)?;
    afield_link::wire::decode(&text).map_err(io::Error::other)
}

/// The directory that a connection's root is mounted on.
fn directory(connection: usize) -> String {
    match connection {
        0 => ROOT.to_owned(),
        _ => format!("{BUILD}/{connection}"),
    }
}

/// Mounts the connections of these devices without touching them yet (nobody serves them before the session has devices).
pub(super) fn prepare<'a>(
    devices: impl Iterator<Item = &'a OwnedFd>,
    (uid, gid): (u32, u32),
) -> Result<(), WorldError> {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(c"", c"/", c"", private, c"").step("make mounts private")?;
    let guarded = libc::MS_NOSUID | libc::MS_NODEV;
    mount(
        SOURCE,
        &c_string(BUILD.to_owned())?,
        c"tmpfs",
        guarded,
        c"mode=755",
    )
    .step("mount tmpfs")?;
    for (connection, device) in devices.enumerate() {
        let directory = directory(connection);
        fs::create_dir(&directory).step("mkdir")?;
        let options = format!(
            "fd={},rootmode=40000,user_id={uid},group_id={gid},allow_other,max_read={}",
            device.as_raw_fd(),
            crate::fs::TRANSFER_BYTES_MAX
        );
        let (directory, options) = (c_string(directory)?, c_string(options)?);
        mount(SOURCE, &directory, c"fuse", guarded, &options).step(
            "mount FUSE in a user namespace (is /dev/fuse the FUSE device? `afield doctor` there says more)",
        )?;
    }
    Ok(())
}

/// Puts home's other file systems and the node's places onto the served root, and makes it the root.
pub(super) fn complete(hello: &Hello) -> Result<Places, WorldError> {
    let strict = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let open = |path: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
    };
    let root = open(ROOT).step("open the new root")?;
    let hidden = open(&format!("{ROOT}/{HIDDEN_DIRECTORY}")).step("open the directory of home objects")?;
    // They stay mounted, where guests do not come: what is not cannot be mounted once more.
    let apart = format!("{ROOT}/{HIDDEN_DIRECTORY}/{HIDDEN_ROOTS}");
    mount(SOURCE, &c_string(apart.clone())?, c"tmpfs", strict, c"mode=700").step("mount tmpfs")?;
    let mut roots =
        vec![rustix::io::fcntl_dupfd_cloexec(&hidden, 3).step("open the directory of home objects")?];
    for connection in 1..filesystems::connection_count(hello) {
        let place = format!("{apart}/{connection}");
        fs::create_dir(&place).step("mkdir")?;
        let (from, to) = (c_string(directory(connection))?, c_string(place.clone())?);
        mount(&from, &to, c"", libc::MS_MOVE, c"").step("move a mount")?;
        roots.push(open(&place).step("open the root of a file system")?);
    }
    let own = format!("{ROOT}/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}");
    mount(c"proc", &c_string(own.clone())?, c"proc", strict, c"").step("mount /proc")?;
    keep_pids_apart(&own);
    let facts = NODE_FACTS.map(|name| (format!("{own}/{name}"), format!("proc/{name}")));
    let directories = NODE_DIRECTORIES.map(|path| (path.to_owned(), path[1..].to_owned()));
    let devices = OWN_DEVICES.map(|name| (format!("/dev/{name}"), format!("dev/{name}")));
    let places = facts.into_iter().chain(directories).chain(devices);
    let (sources, targets): (Vec<String>, Vec<String>) = places.unzip();
    filesystems::mount_all(&hello.mounts, &root, &roots, MOUNTERS_MAX)?;
    filesystems::for_each(&targets, MOUNTERS_MAX, |path| {
        filesystems::look_ahead(path, &root)
    });
    for (source, target) in sources.iter().zip(&targets) {
        bind(source, &format!("{ROOT}/{target}"))?;
    }
    std::env::set_current_dir(ROOT).step("chdir to the new root")?;
    pivot_here().step("pivot_root")?;
    Ok(Places { hidden, roots, root })
}

/// The numbers of those mounts in the kernel's list that are of FUSE connections of this world.
fn numbers(list: &[u8]) -> Vec<u64> {
    let kind = format!("- fuse {} ", SOURCE.to_string_lossy());
    let lines = list.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    lines
        .filter(|line| line.contains(&kind))
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect()
}

/// Has the kernel number guests' threads from where home's processes hardly are: a process that has home's pid cannot begin while a thread of the
/// world has it. `proc` is the world's own.
fn keep_pids_apart(proc: &str) {
    let file = |name: &str| format!("{proc}/sys/kernel/{name}");
    // The world's own since Linux 6.14. Where it cannot be had there is less room.
    let _ = fs::write(file("pid_max"), PIDS_MAX.to_string());
    let pids = fs::read_to_string(file("pid_max"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(pids) = pids {
        let _ = fs::write(file("ns_last_pid"), (pids - pids / 4).to_string());
    }
}

/// Mounts a file or directory of the node over one of home's, if both have it.
fn bind(source: &str, target: &str) -> Result<(), WorldError> {
    // A look at what it is would be a question to home.
    let is_there = |path: &str| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).is_ok()
    };
    if !is_there(target) || !is_there(source) {
        return Ok(());
    }
    let (from, to) = (c_string(source.to_owned())?, c_string(target.to_owned())?);
    mount(&from, &to, c"", libc::MS_BIND | libc::MS_REC, c"").step(format!("bind {source}"))
}

fn c_string(text: String) -> Result<CString, WorldError> {
    CString::new(text).map_err(std::io::Error::from).step("path")
}
