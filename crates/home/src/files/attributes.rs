//! Attributes of files: examining and changing them, permission, and the figures of a file system.

use std::os::fd::AsFd;
use std::sync::Arc;

use afield_abi::fuse::{
    ATTRIBUTES_SETTLED, Attributes, AttributesReply, FileSystemReply, GET_HANDLE, GetAttributesRequest,
    SetAttributesRequest, StatxReply, StatxRequest, StatxTime, device_number, set_flag,
};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::decode::{Reply, Request};
use super::nodes::{Node, device_of};
use super::validity::{Standing, seconds};
use super::{FileService, Result, proc_path, sys};

/// `statx` flags that a request may pass on: how fresh the answer has to be.
const STATX_SYNC_FLAGS: u32 = 0x6000;

/// `STATX_*` bits that a reply can carry.
const STATX_MASK: u32 = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).bits();

/// `STATX_ATTR_AUTOMOUNT` and `STATX_ATTR_MOUNT_ROOT`, which say something about home's mounts.
const STATX_MOUNT_ATTRIBUTES: u64 = 0x3000;

impl FileService {
    /// The inode number under the mount. Devices keep home's: what a descriptor of one shows (a terminal's, say) has to be
    /// what its path shows.
    fn shown_inode(&self, stat: &Statx) -> u64 {
        match u32::from(stat.stx_mode) & libc::S_IFMT {
            libc::S_IFCHR | libc::S_IFBLK => stat.stx_ino,
            _ => self.devices.inode(device_of(stat), stat.stx_ino),
        }
    }

    /// Attributes in the form of FUSE.
    pub(super) fn attributes(&self, stat: &Statx) -> Attributes {
        Attributes {
            inode: self.shown_inode(stat),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.tv_sec as u64,
            mtime: stat.stx_mtime.tv_sec as u64,
            ctime: stat.stx_ctime.tv_sec as u64,
            atime_nanoseconds: stat.stx_atime.tv_nsec,
            mtime_nanoseconds: stat.stx_mtime.tv_nsec,
            ctime_nanoseconds: stat.stx_ctime.tv_nsec,
            mode: u32::from(stat.stx_mode),
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            device: device_number(stat.stx_rdev_major, stat.stx_rdev_minor),
            block_size: stat.stx_blksize,
            flags: match self.is_settled(stat) {
                true => ATTRIBUTES_SETTLED,
                false => 0,
            },
        }
    }

    /// Whether no reading changes attributes, as long as mounts are what they are.
    fn is_settled(&self, stat: &Statx) -> bool {
        let session = self.coherence();
        session.is_some_and(|session| self.mounts.is_settled(stat, session.resets()))
    }

    /// The same of a node as it is now.
    pub(super) fn is_settled_by_reading(&self, node: &Arc<Node>) -> bool {
        let stat = self.nodes.stat(node, &self.credentials);
        stat.is_ok_and(|stat| self.is_settled(&stat))
    }

    fn attributes_reply(&self, stat: &Statx, standing: Standing, reply: &mut Reply<'_>) {
        reply.record(&AttributesReply {
            valid: seconds(standing.attributes),
            valid_nanoseconds: 0,
            padding: 0,
            attributes: self.attributes(stat),
        });
    }

    /// `stat` of the request's node, or of an open file of it.
    fn stat_for(&self, node: u64, handle: Option<u64>) -> Result<Statx> {
        if let Some(handle) = handle {
            return super::nodes::stat_descriptor(self.open_any(handle, node)?.as_fd());
        }
        self.nodes.stat(&self.nodes.get(node)?, &self.credentials)
    }

    pub(super) fn get_attributes(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: GetAttributesRequest = request.record()?;
        let handle = (record.flags & GET_HANDLE != 0).then_some(record.handle);
        let standing = self.standing_by_id(request.header.node);
        let stat = self.stat_for(request.header.node, handle)?;
        self.attributes_reply(&stat, standing, reply);
        Ok(())
    }

    pub(super) fn statx(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: StatxRequest = request.record()?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::from_bits_retain(record.statx_flags & STATX_SYNC_FLAGS);
        let mask = StatxFlags::from_bits_retain(record.mask & STATX_MASK);
        let standing = self.standing_by_id(request.header.node);
        let stat = if record.flags & GET_HANDLE != 0 {
            let open = self.open_any(record.handle, request.header.node)?;
            rustix::fs::statx(open.as_fd(), c"", flags, mask)?
        } else {
            let descriptor = self.descriptor(request.header.node)?;
            rustix::fs::statx(&*descriptor, c"", flags, mask)?
        };
        let time = |time: &rustix::fs::StatxTimestamp| StatxTime {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
            reserved: 0,
        };
        reply.record(&StatxReply {
            valid: seconds(standing.attributes),
            valid_nanoseconds: 0,
            flags: 0,
            spare: [0; 2],
            statx: afield_abi::fuse::Statx {
                mask: stat.stx_mask & STATX_MASK,
                block_size: stat.stx_blksize,
                attributes: stat.stx_attributes.bits() & !STATX_MOUNT_ATTRIBUTES,
                links: stat.stx_nlink,
                uid: stat.stx_uid,
                gid: stat.stx_gid,
                mode: stat.stx_mode,
                spare0: 0,
                inode: self.shown_inode(&stat),
                size: stat.stx_size,
                blocks: stat.stx_blocks,
                attributes_mask: stat.stx_attributes_mask.bits() & !STATX_MOUNT_ATTRIBUTES,
                atime: time(&stat.stx_atime),
                btime: time(&stat.stx_btime),
                ctime: time(&stat.stx_ctime),
                mtime: time(&stat.stx_mtime),
                device_major: stat.stx_rdev_major,
                device_minor: stat.stx_rdev_minor,
                file_system_major: 0,
                file_system_minor: 0,
                spare2: [0; 14],
            },
        });
        Ok(())
    }

    /// Set-id bits need no care here: the caller's own rights apply, so home's kernel removes them where it should.
    pub(super) fn set_attributes(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: SetAttributesRequest = request.record()?;
        let node = request.header.node;
        let has = |flag| record.valid & flag != 0;
        let descriptor = self.descriptor(node)?;
        let path = proc_path(&*descriptor);
        if has(set_flag::SIZE) {
            if has(set_flag::HANDLE) {
                let open = self.open_file(record.handle, node)?;
                rustix::fs::ftruncate(open.as_fd(), record.size)?;
            } else {
                sys::truncate(&path, record.size)?;
            }
        }
        if has(set_flag::UID) || has(set_flag::GID) {
            // The number for "leave it" is not one that a request may set.
            if (has(set_flag::UID) && record.uid == u32::MAX)
                || (has(set_flag::GID) && record.gid == u32::MAX)
            {
                return Err(Errno::INVAL);
            }
            let owner = has(set_flag::UID).then(|| Uid::from_raw(record.uid));
            let group = has(set_flag::GID).then(|| Gid::from_raw(record.gid));
            rustix::fs::chownat(&*descriptor, c"", owner, group, AtFlags::EMPTY_PATH)?;
        }
        if has(set_flag::MODE) {
            let mode = Mode::from_raw_mode(record.mode & 0o7777);
            rustix::fs::chmodat(rustix::fs::CWD, &*path, mode, AtFlags::empty())?;
        }
        let times = set_flag::ACCESS_TIME
            | set_flag::MODIFY_TIME
            | set_flag::ACCESS_TIME_NOW
            | set_flag::MODIFY_TIME_NOW;
        if has(times) {
            let time = |now, set, seconds: u64, nanoseconds: u32| {
                let (tv_sec, tv_nsec) = match (now, set) {
                    (true, _) => (0, UTIME_NOW),
                    (false, true) if nanoseconds < 1_000_000_000 => (seconds as i64, nanoseconds.into()),
                    (false, true) => return Err(Errno::INVAL),
                    (false, false) => (0, UTIME_OMIT),
                };
                Ok(Timespec { tv_sec, tv_nsec })
            };
            let times = Timestamps {
                last_access: time(
                    has(set_flag::ACCESS_TIME_NOW),
                    has(set_flag::ACCESS_TIME),
                    record.atime,
                    record.atime_nanoseconds,
                )?,
                last_modification: time(
                    has(set_flag::MODIFY_TIME_NOW),
                    has(set_flag::MODIFY_TIME),
                    record.mtime,
                    record.mtime_nanoseconds,
                )?,
            };
            rustix::fs::utimensat(&*descriptor, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        let standing = self.standing_by_id(node);
        let stat = super::nodes::stat_descriptor(&*descriptor)?;
        self.attributes_reply(&stat, standing, reply);
        Ok(())
    }

    fn standing_by_id(&self, node: u64) -> Standing {
        if self.coherence().is_none() {
            return Standing::default();
        }
        self.nodes
            .get(node)
            .map_or(Standing::default(), |node| self.standing(&node, None))
    }

    pub(super) fn file_system(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let descriptor = self.descriptor(request.header.node)?;
        let figures = rustix::fs::fstatfs(&*descriptor)?;
        reply.record(&FileSystemReply {
            blocks: figures.f_blocks,
            blocks_free: figures.f_bfree,
            blocks_available: figures.f_bavail,
            files: figures.f_files,
            files_free: figures.f_ffree,
            block_size: figures.f_bsize as u32,
            name_length: figures.f_namelen as u32,
            fragment_size: figures.f_frsize as u32,
            padding: 0,
            spare: [0; 6],
        });
        Ok(())
    }

    /// Writes out the file system that a directory or file is on.
    pub(super) fn sync_file_system(&self, request: &Request<'_>) -> Result<()> {
        let descriptor = self.descriptor(request.header.node)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = proc_path(&*descriptor);
        let node = self.nodes.get(request.header.node)?;
        if !matches!(node.identity.kind, libc::S_IFREG | libc::S_IFDIR) {
            return Err(Errno::INVAL);
        }
        let file = rustix::fs::openat(rustix::fs::CWD, &*path, flags, Mode::empty())?;
        rustix::fs::syncfs(file)
    }
}
