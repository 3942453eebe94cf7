//! Files: the node's kernel, on a root that home serves.

use super::Arg::{Fd, In, Out, String, Value};
use super::Class::{Both, Event, File, Home, Never};
use super::Door::{Notify, Trace};
use super::Len::{self, Argument};
use super::Test::MaskSet;
use super::{Restart, Row, call, nr, rule};

/// Why extended attributes are an event.
const LISTS: &str =
    "access lists and what only privileged users may set by the deputy, the others by the file door";

/// The bit of a mode that devices have, and no other file that can be made with it.
const DEVICE: u32 = libc::S_IFCHR;
/// When it is set.
const IS_DEVICE: &str = "mode is a device's";
/// Why that is an event.
const DEVICES: &str = "FIFOs, sockets and regular files; devices by the deputy";

/// `XATTR_SIZE_MAX`, counted by the fourth argument.
const ATTRIBUTE: Len = Argument {
    index: 3,
    unit: 1,
    max: 65536,
};

/// Why reading a link is an event.
const LINKS: &str = "descriptors of home objects show the objects' names";

const FANOTIFY: &str =
    "what it reports comes with descriptors of home's files; as on a kernel built without it";

pub(super) const ROWS: &[Row] = &[
    call(nr::OPEN, File),
    call(nr::OPENAT, File),
    call(nr::OPENAT2, File),
    call(nr::CREAT, File),
    call(nr::STAT, File).owners(),
    call(nr::LSTAT, File).owners(),
    call(nr::FSTAT, File).owners(),
    call(nr::NEWFSTATAT, File).owners(),
    call(nr::STATX, File).owners(),
    call(nr::CHOWN, File).owners(),
    call(nr::LCHOWN, File).owners(),
    call(nr::FCHOWN, File).owners(),
    call(nr::FCHOWNAT, File).owners(),
    call(nr::LSEEK, File).note("on inherited regular files the offset is home's"),
    call(nr::ACCESS, File),
    call(nr::FACCESSAT, File),
    call(nr::FACCESSAT2, File),
    call(nr::FLOCK, Event(Trace)).note("locks are home's"),
    call(nr::FSYNC, File),
    call(nr::FDATASYNC, File),
    call(nr::SYNC_FILE_RANGE, File),
    call(nr::SYNCFS, Event(Notify)).note("home synchronises all its file systems"),
    call(nr::SYNC, Home).blocks(Restart::Never),
    call(nr::TRUNCATE, File),
    call(nr::FTRUNCATE, File),
    call(nr::FALLOCATE, File),
    call(nr::COPY_FILE_RANGE, Event(Notify))
        .note("between files of home; fails with EINVAL on what has no offset, as natively"),
    call(nr::FADVISE64, File),
    call(nr::READAHEAD, File),
    call(nr::GETDENTS, File),
    call(nr::GETDENTS64, File),
    call(nr::GETCWD, Home)
        .shaped([
            Out(Argument {
                index: 1,
                unit: 1,
                max: libc::PATH_MAX as u32,
            }),
            Value,
        ])
        .note("asked only where the names on the way are not relied on"),
    call(nr::CHDIR, File).note("the deputy changes, too"),
    call(nr::FCHDIR, File).note("the deputy changes, too"),
    call(nr::CHROOT, Both)
        .shaped([String])
        .note("the deputy changes, too, if home's kernel lets it"),
    call(nr::RENAME, File),
    call(nr::RENAMEAT, File),
    call(nr::RENAMEAT2, File),
    call(nr::MKDIR, File),
    call(nr::MKDIRAT, File),
    call(nr::RMDIR, File),
    call(nr::LINK, File),
    call(nr::LINKAT, File),
    call(nr::UNLINK, File),
    call(nr::UNLINKAT, File),
    call(nr::SYMLINK, File),
    call(nr::SYMLINKAT, File),
    call(nr::READLINK, Event(Notify)).note(LINKS),
    call(nr::READLINKAT, Event(Notify)).note(LINKS),
    call(nr::MKNOD, File)
        .rules(&[rule(1, MaskSet(DEVICE), Event(Notify), IS_DEVICE).shaped([String, Value, Value])])
        .note(DEVICES),
    call(nr::MKNODAT, File)
        .rules(&[rule(2, MaskSet(DEVICE), Event(Notify), IS_DEVICE)])
        .note(DEVICES),
    call(nr::CHMOD, File),
    call(nr::FCHMOD, File),
    call(nr::FCHMODAT, File),
    call(nr::FCHMODAT2, File),
    call(nr::UTIME, File),
    call(nr::UTIMES, File),
    call(nr::FUTIMESAT, File),
    call(nr::UTIMENSAT, File),
    call(nr::STATFS, File),
    call(nr::FSTATFS, File),
    call(nr::SETXATTR, Event(Notify))
        .shaped([String, String, In(ATTRIBUTE), Value, Value])
        .note(LISTS),
    call(nr::LSETXATTR, Event(Notify))
        .shaped([String, String, In(ATTRIBUTE), Value, Value])
        .note(LISTS),
    call(nr::FSETXATTR, Event(Notify)).note(LISTS),
    call(nr::SETXATTRAT, Event(Notify)).note(LISTS),
    call(nr::GETXATTR, Event(Notify))
        .shaped([String, String, Out(ATTRIBUTE), Value])
        .note(LISTS),
    call(nr::LGETXATTR, Event(Notify))
        .shaped([String, String, Out(ATTRIBUTE), Value])
        .note(LISTS),
    call(nr::FGETXATTR, Event(Notify)).note(LISTS),
    call(nr::GETXATTRAT, Event(Notify)).note(LISTS),
    call(nr::LISTXATTR, File),
    call(nr::LLISTXATTR, File),
    call(nr::FLISTXATTR, File),
    call(nr::LISTXATTRAT, File),
    call(nr::REMOVEXATTR, Event(Notify))
        .shaped([String, String])
        .note(LISTS),
    call(nr::LREMOVEXATTR, Event(Notify))
        .shaped([String, String])
        .note(LISTS),
    call(nr::FREMOVEXATTR, Event(Notify)).note(LISTS),
    call(nr::REMOVEXATTRAT, Event(Notify)).note(LISTS),
    call(nr::FILE_GETATTR, File),
    call(nr::FILE_SETATTR, File),
    call(nr::EXECVE, File),
    call(nr::EXECVEAT, File),
    call(nr::UMASK, Both)
        .shaped([Value])
        .note("the node's kernel tells it with what it asks home"),
    call(nr::USTAT, Never(libc::ENOSYS)).note("device numbers are home's; nothing in use calls it"),
    call(nr::SYSFS, Never(libc::ENOSYS)).note("a list of home's file systems; nothing in use calls it"),
    call(nr::NAME_TO_HANDLE_AT, Never(libc::EOPNOTSUPP)).note(
        "a node's handle means nothing at home; programs take the answer of a file system without handles",
    ),
    call(nr::OPEN_BY_HANDLE_AT, Never(libc::EPERM)).note("as for any ordinary user"),
    call(nr::INOTIFY_INIT, Home).opens(None, false),
    call(nr::INOTIFY_INIT1, Home)
        .shaped([Value])
        .opens(Some(0), false),
    call(nr::INOTIFY_ADD_WATCH, Home).shaped([Fd, String, Value]),
    call(nr::INOTIFY_RM_WATCH, Home).shaped([Fd, Value]),
    call(nr::FANOTIFY_INIT, Never(libc::ENOSYS)).note(FANOTIFY),
    call(nr::FANOTIFY_MARK, Never(libc::ENOSYS)).note(FANOTIFY),
];
