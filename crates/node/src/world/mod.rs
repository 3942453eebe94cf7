//! The world: what a node sets up for one home session, made from outside and inhabited by [`init`].
//!
//! Two steps lead into it, since a time namespace only holds for children: a *stage* process enters the user
//! namespace, sets the clocks and the FUSE device up, and makes init, which is the session's child (not the stage's),
//! so that init ends when the session does.

pub mod ending;
mod filesystems;
mod guest;
pub mod init;
pub mod mounts;
mod subordinate;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use afield_link::wire::{Hello, MountPoint, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::ending::{Notices, SessionEnd};
use self::mounts::Made;
use crate::sys::{clone, credentials, namespaces, process, sockets};

/// Name of the hidden directory in the world's root that holds home objects. Only init can look it up.
pub const HIDDEN_DIRECTORY: &str = ".afield";

/// Directories that are the node's, mounted over home's.
pub const NODE_DIRECTORIES: [&str; 2] = ["/sys/devices/system/cpu", "/sys/devices/system/node"];

/// First of the node's ids that worlds use when the node runs as root, and how many: far from accounts, containers'
/// usual ranges and the overflow id.
const SHIFTED_IDS: (u32, u32) = (0x6000_0000, 0x1000_0000);

/// Why there is no world.
#[derive(Debug, Error)]
pub enum WorldError {
    /// A step of the way into it failed.
    #[error("{step}: {}", afield_link::wire::plain_error(crate::sys::errno(source)))]
    Step {
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process on the way died without a word.
    #[error("the world's init died while it was being set up")]
    Died,
}

pub(crate) trait Step<T> {
    /// Names what was being done when it failed.
    fn step(self, step: impl Into<String>) -> Result<T, WorldError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, WorldError> {
        self.map_err(|source| WorldError::Step {
            step: step.into(),
            source: source.into(),
        })
    }
}

/// Which ids of home exist on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// A whole range is mapped: owners show as they are.
    Range,
    /// The home user's own and all below this are mapped; others show as nobody.
    Below(u32),
    /// Only the home user's own: other owners read as the overflow id and have to be corrected.
    Single,
}

/// A world that is ready for guests once its file door answers.
#[derive(Debug)]
pub struct World {
    /// The FUSE devices for requests and replies, in the order of their connections: the root's first.
    pub devices: Vec<OwnedFd>,
    /// What the kernel is told of changes by.
    pub notices: Option<Notices>,
    /// Says, when it is closed, that the session has ended.
    _life: OwnedFd,
    /// Commands to init.
    pub commands: UnixStream,
    /// Init, in the session's pid namespace.
    pub init: u32,
    /// How owners show.
    pub ids: Ids,
}

impl World {
    /// Makes the world. The calling process must have one thread, which must be the one that lives as long as the
    /// session.
    ///
    /// Returns when init is about to mount: from then on the FUSE device must be served. Whether the mounting went
    /// well is told by [`World::wait_until_mounted`].
    pub fn create(hello: &Hello) -> Result<Self, WorldError> {
        let session = std::process::id();
        let (ours, theirs) = UnixStream::pair().step("socketpair")?;
        sockets::pass_credentials(&ours).step("SO_PASSCRED")?;
        let (session_end, life, telling) = SessionEnd::new()?;
        let stage = clone::fork_with(libc::CLONE_NEWUSER as u64, libc::SIGCHLD, None).step(format!(
            "clone into a user namespace (that machine's owner can allow it: {})",
            user_namespaces_wanted()
        ))?;
        if stage == 0 {
            drop((ours, life, telling));
            let code = match init::stage(hello, session, theirs, session_end) {
                Ok(()) => 0,
                Err(_) => 1,
            };
            process::exit_now(code);
        }
        drop((theirs, session_end));
        let ids = map_ids(stage, hello)?;
        let mut commands = ours;
        commands
            .write_all(&[u8::from(ids == Ids::Range)])
            .step("start of the stage")?;
        let mut buffer = [0; 1];
        let received = sockets::receive_with(&commands, &mut buffer).step("hello of init")?;
        let outcome = match (received.count, received.descriptor, received.sender) {
            (1, Some(device), Some(init)) if buffer[0] == b'I' => Ok((device, init)),
            (1, ..) if buffer[0] == b'E' => Err(read_failure(&mut commands)),
            _ => Err(WorldError::Died),
        };
        // Init is our child by CLONE_PARENT; the stage watches us from now on, or has ended.
        let (device, init) = match outcome {
            Ok(world) => world,
            Err(error) => {
                drop((life, telling));
                process::wait_for_end(stage);
                return Err(error);
            }
        };
        let mut devices = vec![device];
        let mut notices = Notices {
            devices: Vec::new(),
            telling,
        };
        for more in 1..2 * filesystems::connection_count(hello) {
            let expected = if more % 2 == 0 { b'I' } else { b'N' };
            let received = sockets::receive_with(&commands, &mut buffer).step("hello of init")?;
            match (received.count, received.descriptor) {
                (1, Some(device)) if buffer[0] == expected && expected == b'I' => devices.push(device),
                (1, Some(device)) if buffer[0] == expected => notices.devices.push(device),
                (1, _) if buffer[0] == b'E' => return Err(read_failure(&mut commands)),
                _ => return Err(WorldError::Died),
            }
        }
        Ok(Self {
            devices,
            notices: Some(notices),
            _life: life,
            commands,
            init: init as u32,
            ids,
        })
    }

    /// Waits until init has mounted everything; the file door must be open.
    pub fn wait_until_mounted(&mut self) -> Result<Made, WorldError> {
        let mut tag = [0; 1];
        self.commands.read_exact(&mut tag).map_err(|_| WorldError::Died)?;
        if tag[0] != b'R' {
            return Err(read_failure(&mut self.commands));
        }
        mounts::read_report(&mut self.commands).map_err(|_| WorldError::Died)
    }

    /// Has init mount home's file systems where they are now.
    pub fn mount(&self, points: Vec<MountPoint>) -> io::Result<Made> {
        let (mut ours, theirs) = UnixStream::pair()?;
        self.command(&Command::Mount(points), &theirs)?;
        drop(theirs);
        mounts::read_report(&mut ours)
    }

    /// Whether init is no more: its end of the channel is closed before the guests are ended.
    pub fn has_lost_init(&self) -> bool {
        let mut polls = [PollFd::new(&self.commands, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut polls, Some(&now)), Ok(count) if count > 0)
    }

    /// Tells init to make a guest that will speak on `channel`.
    pub fn spawn(&self, spawn: &Spawn, seekable: &[u32], channel: &UnixStream) -> io::Result<()> {
        let guest = GuestCommand {
            spawn: spawn.clone(),
            seekable: seekable.to_vec(),
            correct_owners: self.ids == Ids::Single,
        };
        self.command(&Command::Spawn(Box::new(guest)), channel)
    }

    /// Tells init to give guests descriptors as [`crate::installer`] asks on `channel`.
    pub fn help_with(&self, channel: &UnixStream) -> io::Result<()> {
        self.command(&Command::Help, channel)
    }

    fn command(&self, command: &Command, channel: &UnixStream) -> io::Result<()> {
        let message = afield_link::wire::encode(command).map_err(io::Error::other)?;
        sockets::send_with(
            &self.commands,
            &(message.len() as u32).to_le_bytes(),
            channel.as_fd(),
        )?;
        (&self.commands).write_all(&message)
    }
}

/// What init is told to do, always with a channel of its own.
#[derive(Debug, Serialize, Deserialize)]
enum Command {
    /// Make a guest that speaks on the channel.
    Spawn(Box<GuestCommand>),
    /// Give guests descriptors as [`crate::installer`] asks on the channel.
    Help,
    /// Mount home's file systems where they are now, and report on the channel.
    Mount(Vec<MountPoint>),
}

#[derive(Debug, Serialize, Deserialize)]
struct GuestCommand {
    spawn: Spawn,
    /// Numbers of descriptors whose offset is home's.
    seekable: Vec<u32>,
    correct_owners: bool,
}

/// Reads what a stage or init says of its failure.
fn read_failure(commands: &mut UnixStream) -> WorldError {
    let mut text = Vec::new();
    // The writer ends after it, or has died: what there is, is what is known.
    let _ = commands.take(4096).read_to_end(&mut text);
    match afield_link::wire::decode::<(String, i32)>(&text) {
        Ok((step, errno)) => WorldError::Step {
            step,
            source: io::Error::from_raw_os_error(errno),
        },
        Err(_) => WorldError::Died,
    }
}

/// Says on `channel` that a step failed, in the form [`read_failure`] reads.
fn write_failure(mut channel: &UnixStream, error: &WorldError) {
    let (step, errno) = match error {
        WorldError::Step { step, source } => (step.clone(), crate::sys::errno(source)),
        WorldError::Died => (error.to_string(), libc::EIO),
    };
    if let Ok(text) = afield_link::wire::encode(&(step, errno)) {
        // If nobody listens any more, nobody needs to know.
        let _ = channel.write_all(b"E").and_then(|()| channel.write_all(&text));
    }
}

/// Writes the user namespace's id maps.
///
/// A node that runs as root maps a whole range, shifted, so that no guest id is the node's real root; an ordinary user's node maps
/// what subordinate ids its user has for an ordinary user of home, whose guests are all that user; without, the home user alone.
fn map_ids(stage: u32, hello: &Hello) -> Result<Ids, WorldError> {
    let proc = format!("/proc/{stage}");
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if uid == 0 {
        let (first, count) = SHIFTED_IDS;
        let map = format!("0 {first} {count}");
        if fs::write(format!("{proc}/uid_map"), &map).is_ok() {
            fs::write(format!("{proc}/gid_map"), &map).step("gid_map")?;
            return Ok(Ids::Range);
        }
        // Root of a user namespace that has no such ids: go on as an ordinary user does.
    }
    let mut groups = None;
    if uid != 0
        && hello.uid != 0
        && let (Some(users), Some(range)) = (
            subordinate::range(subordinate::USERS, uid),
            subordinate::range(subordinate::GROUPS, uid),
        )
    {
        groups = subordinate::map(subordinate::GROUPS, stage, hello.gid, gid, range);
        if let Some(groups) = groups
            && let Some(users) = subordinate::map(subordinate::USERS, stage, hello.uid, uid, users)
        {
            return Ok(Ids::Below(users.min(groups)));
        }
    }
    fs::write(format!("{proc}/uid_map"), format!("{} {uid} 1", hello.uid)).step("uid_map")?;
    if groups.is_none() {
        fs::write(format!("{proc}/setgroups"), "deny").step("setgroups")?;
        fs::write(format!("{proc}/gid_map"), format!("{} {gid} 1", hello.gid)).step("gid_map")?;
    }
    Ok(Ids::Single)
}

/// What is to be done where user namespaces cannot be made.
pub fn user_namespaces_wanted() -> &'static str {
    let value = |path| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    if value("/proc/sys/user/max_user_namespaces") == Some(0) {
        "sysctl -w user.max_user_namespaces=15000"
    } else if value("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns to afield"
    } else {
        "use a kernel with CONFIG_USER_NS; inside a container, allow unshare and writing of uid_map"
    }
}

/// Enters a stage of its own time: clocks as they are at home.
fn align_clocks(hello: &Hello) -> Result<(), WorldError> {
    namespaces::unshare(libc::CLONE_NEWTIME).step("a new time namespace")?;
    let mut text = String::new();
    for (name, clock, home_ns) in [
        ("monotonic", libc::CLOCK_MONOTONIC, hello.monotonic_ns),
        ("boottime", libc::CLOCK_BOOTTIME, hello.boottime_ns),
    ] {
        let offset = i128::from(home_ns) - namespaces::clock_ns(clock);
        let (seconds, nanoseconds) = (offset.div_euclid(1_000_000_000), offset.rem_euclid(1_000_000_000));
        text += &format!("{name} {seconds} {nanoseconds}\n");
    }
    fs::write("/proc/self/timens_offsets", text).step("timens_offsets")
}

/// Becomes the home user inside the user namespace, keeping all capabilities in it.
fn become_home_user(hello: &Hello, ids: Ids) -> Result<(), WorldError> {
    credentials::detach_ids_from_capabilities().step("PR_SET_SECUREBITS")?;
    if ids == Ids::Range {
        credentials::clear_groups().step("setgroups")?;
        credentials::set_ids([hello.uid, hello.uid, hello.uid, hello.gid, hello.gid, hello.gid])
            .step("setresuid")?;
    }
    Ok(())
}
