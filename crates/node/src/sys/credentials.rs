//! Who a guest is: ids, capabilities, limits.

use std::io;

/// `SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP` and their locks: user id 0 means nothing special to the node's kernel, and
/// changing ids neither gives nor takes capabilities. Identity is home's to judge.
const SECURE_BITS: libc::c_ulong = 0b1111;

const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_CHROOT: u32 = 18;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_CHECKPOINT_RESTORE: u32 = 40;
const CAP_LAST: u32 = 63;

/// What guests keep, in their own user namespace: choosing pids for their children, and everything with which the
/// node's kernel would otherwise judge a file operation, or a change of the root directory, before home does.
const GUEST_CAPABILITIES: u64 = 1 << CAP_CHOWN
    | 1 << CAP_DAC_OVERRIDE
    | 1 << CAP_DAC_READ_SEARCH
    | 1 << CAP_FOWNER
    | 1 << CAP_FSETID
    | 1 << CAP_SETGID
    | 1 << CAP_SETUID
    | 1 << CAP_SYS_CHROOT
    | 1 << CAP_CHECKPOINT_RESTORE;

/// Makes ids and capabilities independent of each other, for good.
pub fn detach_ids_from_capabilities() -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS) }.into()).map(drop)
}

/// Prepares for the guest's capabilities: they are what is left after the next `execve` and every later one. Until then
/// the caller keeps `CAP_SYS_ADMIN`, with which a filter is installed without no-new-privileges.
pub fn keep_guest_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    for capability in (0..=CAP_LAST).filter(|bit| GUEST_CAPABILITIES & (1 << bit) == 0) {
        // Numbers above the kernel's last capability fail; there is nothing to drop then.
        // SAFETY: integers only.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |shift: u32| {
        let own = ((GUEST_CAPABILITIES | 1 << CAP_SYS_ADMIN) >> shift) as u32;
        Data {
            effective: own,
            permitted: own,
            inheritable: (GUEST_CAPABILITIES >> shift) as u32,
        }
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes two data elements.
    super::check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    for capability in (0..=CAP_LAST).filter(|bit| GUEST_CAPABILITIES & (1 << bit) != 0) {
        // SAFETY: integers only.
        let result = unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                capability as libc::c_ulong,
                0,
                0,
            )
        };
        super::check(result.into())?;
    }
    Ok(())
}

/// Sets all ids; groups first, while that is still allowed.
pub fn set_ids(ids: [u32; 6]) -> io::Result<()> {
    // SAFETY: integers only; raw calls, since the caller has one thread.
    unsafe {
        super::check(libc::syscall(libc::SYS_setresgid, ids[3], ids[4], ids[5]))?;
        super::check(libc::syscall(libc::SYS_setresuid, ids[0], ids[1], ids[2]))?;
    }
    Ok(())
}

/// As [`set_ids`], but ids that are right already are left alone: a world that maps one id cannot set others.
pub fn set_ids_if_changed(ids: [u32; 6]) -> io::Result<()> {
    let mut own = [0u32; 6];
    let [
        real_user,
        effective_user,
        saved_user,
        real_group,
        effective_group,
        saved_group,
    ] = &mut own;
    // SAFETY: six live integers.
    unsafe {
        super::check(libc::getresuid(real_user, effective_user, saved_user).into())?;
        super::check(libc::getresgid(real_group, effective_group, saved_group).into())?;
    }
    if own == ids { Ok(()) } else { set_ids(ids) }
}

/// No program that the process executes gains rights by that. On the node none could (nothing is mounted with set-user-id in
/// force); with this the process may be given more filters later. What the guest hears about it is home's answer.
pub fn gain_nothing() -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Drops supplementary groups.
pub fn clear_groups() -> io::Result<()> {
    // SAFETY: a count of zero reads no memory.
    super::check(unsafe { libc::syscall(libc::SYS_setgroups, 0, 0) }).map(drop)
}

/// Sets one resource limit as far as the node's own hard limit allows.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let set = |soft, hard| {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        // SAFETY: a live structure.
        super::check(unsafe { libc::setrlimit(resource as _, &limit) }.into())
    };
    match set(soft, hard) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let mut own = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: a live structure.
            super::check(unsafe { libc::getrlimit(resource as _, &mut own) }.into())?;
            set(soft.min(own.rlim_max), hard.min(own.rlim_max)).map(drop)
        }
        other => other.map(drop),
    }
}

/// No limit.
pub const UNLIMITED: u64 = libc::RLIM_INFINITY;

fn exchange_file_limit(tid: i32, new: Option<libc::rlimit64>) -> io::Result<libc::rlimit64> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: a live structure, and one or none.
    let result = unsafe { libc::prlimit64(tid, libc::RLIMIT_FSIZE, new, &raw mut old) };
    super::check(result.into())?;
    Ok(old)
}

/// The soft limit on the size of files of a thread's process (0: the caller's).
pub fn file_limit(tid: i32) -> io::Result<u64> {
    Ok(exchange_file_limit(tid, None)?.rlim_cur)
}

/// Sets it, as far as the hard limit allows, which stays.
pub fn set_file_limit(tid: i32, soft: u64) -> io::Result<()> {
    let old = exchange_file_limit(tid, None)?;
    exchange_file_limit(
        tid,
        Some(libc::rlimit64 {
            rlim_cur: soft.min(old.rlim_max),
            ..old
        }),
    )
    .map(drop)
}
