//! Names: finding, making, moving and removing entries of directories.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use afield_abi::fuse::{
    BatchForgetRequest, EntryReply, ForgetOne, ForgetRequest, LinkRequest, MakeDirectoryRequest,
    MakeNodeRequest, ROOT_NODE, Rename2Request, RenameRequest, device_parts,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx, StatxAttributes};
use rustix::io::Errno;

use super::credentials::apply_umask;
use super::decode::{Reply, Request};
use super::nodes::{Identity, Node, PathDescriptor, open_path, stat_descriptor, stat_name};
use super::validity::{Standing, seconds};
use super::{FileService, READLINK_BYTES_MAX, Result, proc_path};

impl FileService {
    /// Finds a name in a directory, counting a lookup.
    pub(super) fn find(
        &self,
        parent: u64,
        directory: &Arc<PathDescriptor>,
        name: &CStr,
    ) -> Result<(Arc<Node>, Statx, Standing)> {
        let stamp = self.stamp();
        let mut stat = stat_name(&**directory, name)?;
        if stat.stx_attributes.contains(StatxAttributes::AUTOMOUNT) {
            // What is to be seen is what gets mounted there. If that fails, the mount point itself is shown.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if rustix::fs::openat(&**directory, name, flags, Mode::empty()).is_ok() {
                stat = stat_name(&**directory, name)?;
            }
        }
        // One known already is found with this single call; others get the descriptor by which they stay what they are.
        let identity = Identity::of(&stat);
        self.nodes.supersede(&identity);
        if let Some(node) = self.nodes.enter_resident(&identity, (parent, name)) {
            return self.found(node, None, stat, stamp);
        }
        let descriptor = open_path(&**directory, name)?;
        let stat = stat_descriptor(&descriptor)?;
        let node = self.nodes.enter(Identity::of(&stat), Some((parent, name)));
        let descriptor = self.nodes.keep(&node, descriptor);
        self.found(node, Some(descriptor), stat, stamp)
    }

    /// A node whose lookup has been counted, with what holds of it.
    fn found(
        &self,
        node: Arc<Node>,
        file: Option<Arc<PathDescriptor>>,
        stat: Statx,
        stamp: u64,
    ) -> Result<(Arc<Node>, Statx, Standing)> {
        let Some(file) = file.or_else(|| node.resident()) else {
            return Ok((node, stat, Standing::default()));
        };
        match self.look(&node, file.as_fd(), stat, stamp) {
            Ok((stat, standing)) => Ok((node, stat, standing)),
            Err(errno) => {
                self.forget_node(node.id, 1);
                Err(errno)
            }
        }
    }

    /// A found or made entry in the form of FUSE. `named`: that the name leads there holds until home says otherwise.
    pub(super) fn entry(&self, node: u64, stat: &Statx, standing: Standing, named: bool) -> EntryReply {
        EntryReply {
            node,
            // Ids are never used again, so that generations need not differ.
            generation: 0,
            entry_valid: seconds(named && is_kept(stat)),
            attributes_valid: seconds(standing.attributes),
            entry_valid_nanoseconds: 0,
            attributes_valid_nanoseconds: 0,
            attributes: self.attributes(stat),
        }
    }

    pub(super) fn lookup(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let name = request.component()?;
        let parent = self.nodes.get(request.header.node)?;
        if let Some(node) = self.starts.find(request.header.pid, parent.id, name) {
            let descriptor = self.nodes.descriptor(&node, &self.credentials)?;
            let stat = stat_descriptor(&*descriptor)?;
            self.nodes.enter_again(&node);
            // Nobody else is shown it.
            reply.record(&self.entry(node.id, &stat, Standing::default(), false));
            return Ok(());
        }
        let directory = self.nodes.descriptor(&parent, &self.credentials)?;
        let named = self.names_hold(&parent, &directory);
        let (node, stat, standing) = match name.to_bytes() {
            b".." if parent.id != ROOT_NODE => {
                let descriptor = open_path(&*directory, name)?;
                let stat = stat_descriptor(&descriptor)?;
                let node = self.nodes.enter(Identity::of(&stat), None);
                self.nodes.keep(&node, descriptor);
                (node, stat, Standing::default())
            }
            b"." | b".." => {
                let stat = stat_descriptor(&*directory)?;
                self.nodes.enter_again(&parent);
                (Arc::clone(&parent), stat, Standing::default())
            }
            _ => match self.find(parent.id, &directory, name) {
                Err(Errno::NOENT) if named => {
                    // There is nothing, until home says otherwise.
                    reply.record(&EntryReply {
                        entry_valid: seconds(true),
                        ..EntryReply::default()
                    });
                    return Ok(());
                }
                found => found?,
            },
        };
        reply.record(&self.entry(node.id, &stat, standing, named));
        if request.header.pid == 0 {
            // Nobody's: the node's world is made, for which all file systems are looked at.
            self.nodes.let_go(&node);
            self.nodes.let_go(&parent);
        }
        Ok(())
    }

    /// Replies with an entry of this kind (`S_IFMT` bits) that was just made.
    fn made(
        &self,
        parent: u64,
        directory: &Arc<PathDescriptor>,
        name: &CStr,
        kind: u32,
        reply: &mut Reply<'_>,
    ) -> Result<()> {
        let named = self.names_hold(&self.nodes.get(parent)?, directory);
        match self.find(parent, directory, name) {
            Ok((node, _, _)) if node.identity.kind != kind => self.forget_node(node.id, 1),
            Ok((node, stat, standing)) => {
                reply.record(&self.entry(node.id, &stat, standing, named));
                return Ok(());
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        // Somebody has removed it already. The caller has made it all the same; what the node's kernel gets is one that nothing leads to.
        let mut stat = stat_descriptor(&**directory)?;
        stat.stx_ino = u64::MAX - self.gone.fetch_add(1, Ordering::Relaxed);
        stat.stx_mode = (kind | 0o777) as u16;
        let node = self.nodes.enter(Identity::of(&stat), None);
        reply.record(&self.entry(node.id, &stat, Standing::default(), false));
        Ok(())
    }

    pub(super) fn forget(&self, request: &mut Request<'_>) -> Result<()> {
        let record: ForgetRequest = request.record()?;
        self.forget_node(request.header.node, record.lookups);
        Ok(())
    }

    pub(super) fn batch_forget(&self, request: &mut Request<'_>) -> Result<()> {
        let record: BatchForgetRequest = request.record()?;
        for _ in 0..record.count {
            // A count that promises more than there is ends here.
            let one: ForgetOne = request.record()?;
            self.forget_node(one.node, one.lookups);
        }
        Ok(())
    }

    pub(super) fn read_link(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let node = self.nodes.get(request.header.node)?;
        if node.identity.kind != libc::S_IFLNK {
            return Err(Errno::INVAL);
        }
        let descriptor = self.nodes.descriptor(&node, &self.credentials)?;
        let mut target = [0; READLINK_BYTES_MAX];
        let count = rustix::fs::readlinkat_raw(&*descriptor, c"", &mut target)?;
        reply.bytes(&target[..count]);
        Ok(())
    }

    pub(super) fn symbolic_link(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let (name, target) = (request.name()?, request.text()?);
        let parent = request.header.node;
        let directory = self.descriptor(parent)?;
        rustix::fs::symlinkat(target, &*directory, name)?;
        self.made(parent, &directory, name, libc::S_IFLNK, reply)
    }

    pub(super) fn make_node(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: MakeNodeRequest = request.record()?;
        let name = request.name()?;
        let parent = request.header.node;
        let directory = self.descriptor(parent)?;
        let kind = match record.mode & libc::S_IFMT {
            0 => FileType::RegularFile,
            kind => FileType::from_raw_mode(kind),
        };
        let mode = Mode::from_raw_mode(apply_umask(record.mode & 0o7777, record.umask));
        let (major, minor) = device_parts(record.device);
        rustix::fs::mknodat(&*directory, name, kind, mode, rustix::fs::makedev(major, minor))?;
        self.made(parent, &directory, name, kind.as_raw_mode(), reply)
    }

    pub(super) fn make_directory(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: MakeDirectoryRequest = request.record()?;
        let name = request.name()?;
        let parent = request.header.node;
        let directory = self.descriptor(parent)?;
        let mode = Mode::from_raw_mode(apply_umask(record.mode & 0o7777, record.umask));
        rustix::fs::mkdirat(&*directory, name, mode)?;
        self.made(parent, &directory, name, libc::S_IFDIR, reply)
    }

    /// Before a name goes: if the node's kernel knows the file, it may still use it afterwards.
    fn keep_reachable(&self, directory: &Arc<PathDescriptor>, name: &CStr) -> Option<Arc<Node>> {
        let stat = stat_name(&**directory, name).ok()?;
        self.nodes.survive_unlink(&Identity::of(&stat), &self.credentials)
    }

    pub(super) fn remove(&self, request: &mut Request<'_>, flags: AtFlags) -> Result<()> {
        let name = request.name()?;
        let directory = self.descriptor(request.header.node)?;
        let kept = self.keep_reachable(&directory, name);
        rustix::fs::unlinkat(&*directory, name, flags)?;
        if let Some(node) = kept {
            self.nodes.unlinked(&node);
        }
        Ok(())
    }

    pub(super) fn rename(&self, request: &mut Request<'_>) -> Result<()> {
        let record: RenameRequest = request.record()?;
        self.move_name(request, record.new_directory, RenameFlags::empty())
    }

    pub(super) fn rename2(&self, request: &mut Request<'_>) -> Result<()> {
        let record: Rename2Request = request.record()?;
        let flags = RenameFlags::from_bits_retain(record.flags);
        // A whiteout would be a device that only a mount of home could mean anything by.
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        self.move_name(request, record.new_directory, flags)
    }

    fn move_name(&self, request: &mut Request<'_>, new_parent: u64, flags: RenameFlags) -> Result<()> {
        let (old, new) = (request.name()?, request.name()?);
        let old_parent = request.header.node;
        let old_directory = self.descriptor(old_parent)?;
        let new_directory = self.descriptor(new_parent)?;
        let replaced = if flags.is_empty() {
            self.keep_reachable(&new_directory, new)
        } else {
            None
        };
        rustix::fs::renameat_with(&*old_directory, old, &*new_directory, new, flags)?;
        if let Some(node) = replaced {
            self.nodes.unlinked(&node);
        }
        // Nodes are found again by their names, so those must be right from now on.
        self.note_place(new_parent, &new_directory, new);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.note_place(old_parent, &old_directory, old);
        }
        Ok(())
    }

    /// Notes what a name stands for after a rename.
    fn note_place(&self, parent: u64, directory: &Arc<PathDescriptor>, name: &CStr) {
        let stat = stat_name(&**directory, name);
        let node = stat.ok().and_then(|stat| self.nodes.find(&Identity::of(&stat)));
        if let Some(node) = node {
            self.nodes.place(&node, Some((parent, name)));
        }
    }

    pub(super) fn link(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: LinkRequest = request.record()?;
        let name = request.name()?;
        let parent = request.header.node;
        let old_node = self.nodes.get(record.old_node)?;
        let old = self.nodes.descriptor(&old_node, &self.credentials)?;
        let directory = self.descriptor(parent)?;
        // Following the link in /proc leads to the inode itself, even if that is a symbolic link.
        rustix::fs::linkat(
            rustix::fs::CWD,
            &*proc_path(&*old),
            &*directory,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )?;
        self.made(parent, &directory, name, old_node.identity.kind, reply)
    }
}

/// Whether a name for it may be kept: what a FIFO or device is, is for each call to be found out.
fn is_kept(stat: &Statx) -> bool {
    matches!(
        u32::from(stat.stx_mode) & libc::S_IFMT,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK
    )
}
