//! The world's mounts: home's tree as the root, and on it the few places that are the node's.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};

use super::{HIDDEN_DIRECTORY, NODE_DIRECTORIES, Step, WorldError};
use crate::fs::handles::HIDDEN_PROC;
use crate::fs::proc::NODE_FACTS;
use crate::sys::namespaces::{mount, pivot_here};

/// Where the root is put together, on a file system of its own over a directory that every system has.
const BUILD: &CStr = c"/tmp";
const ROOT: &CStr = c"/tmp/root";

/// What a kernel can number on 64-bit machines (`PID_MAX_LIMIT`).
const PIDS_MAX: u32 = 1 << 22;

/// Devices that are the node's own: they hold nothing of home.
pub const OWN_DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Mounts the root without touching it yet (nobody serves it before the session has the device).
pub(super) fn prepare(device: &OwnedFd, (uid, gid): (u32, u32)) -> Result<(), WorldError> {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(c"", c"/", c"", private, c"").step("make mounts private")?;
    mount(
        c"afield",
        BUILD,
        c"tmpfs",
        libc::MS_NOSUID | libc::MS_NODEV,
        c"mode=755",
    )
    .step("mount tmpfs")?;
    fs::create_dir("/tmp/root").step("mkdir")?;
    let options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},allow_other,max_read={}",
        device.as_raw_fd(),
        crate::fs::TRANSFER_BYTES_MAX
    );
    let options = CString::new(options)
        .map_err(std::io::Error::from)
        .step("mount options")?;
    mount(
        c"afield",
        ROOT,
        c"fuse",
        libc::MS_NOSUID | libc::MS_NODEV,
        &options,
    )
    .step("mount FUSE in a user namespace (is /dev/fuse the FUSE device? `afield doctor` there says more)")
}

/// Puts the node's places onto the served root, makes it the root, and opens the hidden directory.
pub(super) fn complete() -> Result<OwnedFd, WorldError> {
    let strict = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let own = format!("/tmp/root/{HIDDEN_DIRECTORY}/{HIDDEN_PROC}");
    mount(c"proc", &c_string(own.clone())?, c"proc", strict, c"").step("mount /proc")?;
    keep_pids_apart(&own);
    for name in NODE_FACTS {
        bind(&format!("{own}/{name}"), &format!("/tmp/root/proc/{name}"))?;
    }
    for path in NODE_DIRECTORIES {
        bind(path, &format!("/tmp/root{path}"))?;
    }
    for name in OWN_DEVICES {
        bind(&format!("/dev/{name}"), &format!("/tmp/root/dev/{name}"))?;
    }
    std::env::set_current_dir("/tmp/root").step("chdir to the new root")?;
    pivot_here().step("pivot_root")?;
    let hidden = rustix::fs::openat(
        CWD,
        format!("/{HIDDEN_DIRECTORY}"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the directory of home objects")?;
    Ok(hidden)
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
    if fs::symlink_metadata(target).is_err() || fs::symlink_metadata(source).is_err() {
        return Ok(());
    }
    let (from, to) = (c_string(source.to_owned())?, c_string(target.to_owned())?);
    mount(&from, &to, c"", libc::MS_BIND | libc::MS_REC, c"").step(format!("bind {source}"))
}

fn c_string(text: String) -> Result<CString, WorldError> {
    CString::new(text).map_err(std::io::Error::from).step("path")
}
