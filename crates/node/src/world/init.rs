//! The world's first process: makes the mounts, starts first guests, reaps.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use afield_link::wire::{Hello, SpawnError};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::ending::SessionEnd;
use super::mounts::Places;
use super::{
    Command, GuestCommand, Ids, Step, WorldError, align_clocks, become_home_user, filesystems, guest, mounts,
    write_failure,
};
use crate::installer::Helper;
use crate::sys::process::{self, exit_now};
use crate::sys::{clone, namespaces, signals, sockets};

/// The two devices of a FUSE connection: the session's, and the one that is mounted.
struct Device {
    serving: OwnedFd,
    mounted: OwnedFd,
}

/// Runs in the stage process: enters the rest of the namespaces, makes init, and stays to see the session's end.
pub(super) fn stage(
    hello: &Hello,
    session: u32,
    channel: UnixStream,
    session_end: SessionEnd,
) -> Result<(), WorldError> {
    match enter(hello, session, &channel) {
        Ok(devices) => {
            drop(channel);
            // For people: it is not needed.
            let _ = rustix::thread::set_name(c"afield-stage");
            let _ = session_end.watch(devices);
            Ok(())
        }
        Err(error) => {
            write_failure(&channel, &error);
            Err(error)
        }
    }
}

/// Returns the devices that were mounted.
fn enter(hello: &Hello, session: u32, mut channel: &UnixStream) -> Result<Vec<OwnedFd>, WorldError> {
    // The session writes the id maps first.
    let mut go = [0; 1];
    channel.read_exact(&mut go).map_err(|_| WorldError::Died)?;
    let ids = if go[0] == 1 { Ids::Range } else { Ids::Single };
    // The device has to be opened in the user namespace that will mount it, and before the ids change: a root-run
    // node's /dev/fuse may be root's alone.
    let device = || -> Result<OwnedFd, WorldError> {
        Ok(std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .step("open /dev/fuse (load the fuse module, and let the node's user read and write the device)")?
            .into())
    };
    let mut devices = Vec::new();
    for _ in 0..filesystems::connection_count(hello) {
        devices.push(Device {
            serving: device()?,
            mounted: device()?,
        });
    }
    align_clocks(hello)?;
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let init = clone::fork_with((namespaces | libc::CLONE_PARENT) as u64, 0, None)
        .step("clone into mount, pid, net, ipc and uts namespaces")?;
    if init == 0 {
        if let Err(error) = inhabit(hello, session, ids, devices, channel) {
            write_failure(channel, &error);
        }
        exit_now(1);
    }
    Ok(devices.into_iter().map(|device| device.mounted).collect())
}

/// Init's life. Returns when the session is gone, or on an error.
fn inhabit(
    hello: &Hello,
    session: u32,
    ids: Ids,
    devices: Vec<Device>,
    mut channel: &UnixStream,
) -> Result<(), WorldError> {
    namespaces::die_with_parent(None).step("PR_SET_PDEATHSIG")?;
    // The parent is outside our pid namespace, so its id reads as 0; a session that died before the line above has
    // closed the channel, which ends us at our first read.
    let _ = session;
    namespaces::set_names(&hello.uname[1], &hello.uname[5]).step("sethostname")?;
    become_home_user(hello, ids)?;
    mounts::prepare(
        devices.iter().map(|device| &device.mounted),
        (hello.uid, hello.gid),
    )?;
    for Device { serving, mounted } in devices {
        namespaces::join_connection(serving.as_fd(), mounted.as_fd()).step("FUSE_DEV_IOC_CLONE")?;
        sockets::send_with(channel, b"I", serving.as_fd()).step("hello to the session")?;
        sockets::send_with(channel, b"N", mounted.as_fd()).step("hello to the session")?;
    }
    // A change of ids cleared this. (Guests cannot look into init or its children on their way: these have capabilities
    // that guests do not have.)
    namespaces::die_with_parent(None).step("PR_SET_PDEATHSIG")?;
    let places = mounts::complete(hello)?;
    process::close_all_but(places.numbers().chain([channel.as_raw_fd()]).collect());
    channel.write_all(b"R").step("report to the session")?;
    places.report(channel)?;
    serve(channel, &places)
}

/// Obeys commands and reaps until the session is gone.
fn serve(mut channel: &UnixStream, places: &Places) -> Result<(), WorldError> {
    let children = signals::child_descriptor().step("signalfd")?;
    let mut helper: Option<Helper> = None;
    // The session starts one guest at a time.
    let mut late: Option<Late> = None;
    loop {
        let mut polls = vec![
            PollFd::new(channel, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        if let Some(helper) = &helper {
            polls.push(PollFd::new(helper, PollFlags::IN));
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, None)).step("poll")?;
        let (command, child) = (!polls[0].revents().is_empty(), !polls[1].revents().is_empty());
        let wish = polls.get(2).is_some_and(|poll| !poll.revents().is_empty());
        drop(polls);
        if wish && let Some(helper) = &mut helper {
            helper.serve(places).step("giving descriptors")?;
        }
        if child {
            let mut drain = [0; 1024];
            // Non-blocking; what it says is not needed.
            let _ = rustix::io::read(&children, &mut drain);
        }
        // Guests whose tracer has been told; ours is only to let go of them.
        process::reap_ended();
        if let Some(Late { guest, answers }) = late.take() {
            late = make_guest(guest, &places.hidden, answers);
        }
        if !command {
            continue;
        }
        let mut length = [0; 4];
        let received = sockets::receive_with(channel, &mut length).step("command")?;
        if received.count == 0 {
            return Ok(());
        }
        channel
            .read_exact(&mut length[received.count..])
            .step("command")?;
        let mut message = vec![0; u32::from_le_bytes(length) as usize];
        channel.read_exact(&mut message).step("command")?;
        let Some(answers) = received.descriptor.map(UnixStream::from) else {
            continue;
        };
        match afield_link::wire::decode::<Command>(&message) {
            Ok(Command::Spawn(guest)) => late = make_guest(guest, &places.hidden, answers),
            Ok(Command::Help) => helper = Some(Helper::new(answers)),
            Ok(Command::Mount(points)) => places.mount(&points, &answers)?,
            Err(error) => guest::report(
                &answers,
                &SpawnError {
                    step: format!("reading the command: {error}"),
                    errno: libc::EPROTO,
                },
            ),
        }
    }
}

/// A guest whose pid an earlier one still has, which is about to end.
struct Late {
    guest: Box<GuestCommand>,
    answers: UnixStream,
}

/// Makes a guest, unless its pid is not free yet: a process at home whose program could not be executed may ask for another one, and home
/// gives the pid of a killed process to another, before the guest that was there has been reaped.
fn make_guest(guest: Box<GuestCommand>, hidden: &OwnedFd, answers: UnixStream) -> Option<Late> {
    let pid = guest.spawn.pid;
    match clone::fork_with(0, libc::SIGCHLD, Some(pid)) {
        Ok(0) => {
            let GuestCommand {
                spawn,
                seekable,
                correct_owners,
            } = *guest;
            guest::become_program(&spawn, seekable, correct_owners, hidden, answers)
        }
        Ok(_) => None,
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) && is_child(pid) => {
            Some(Late { guest, answers })
        }
        Err(error) => {
            let error = SpawnError::at_clone(pid, crate::sys::errno(&error));
            guest::report(&answers, &error);
            None
        }
    }
}

/// Whether a pid is a guest's own, and not that of another one's thread.
fn is_child(pid: u32) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Pid::from_raw(pid as i32).is_some_and(|pid| rustix::process::waitid(WaitId::Pid(pid), look).is_ok())
}
