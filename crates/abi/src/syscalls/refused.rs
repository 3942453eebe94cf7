//! What is the machine's, not the process's: mounts, namespaces, modules, and what no kernel has any more.

use super::Class::{Never, Node};
use super::{Row, call, nr};

const PRIVILEGED: &str = "as for any ordinary user";
const MOUNTS: &str =
    "the mounts a guest sees are home's, not the node's; programs fall back to `/proc/self/mountinfo`";
const KEYS: &str = "keyrings are home's; as on a kernel built without them";
const SANDBOX: &str = "half of what it restricts would be at home; as on a kernel built without it";
const MODULES: &str = "as on a kernel without the interface";
const TRAMPOLINES: &str =
    "only the kernel's own trampolines call it, past any filter; all others get SIGILL, here as natively";
const MISSING: &str = "no kernel of this architecture has it";

pub(super) const ROWS: &[Row] = &[
    call(nr::MOUNT, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::UMOUNT2, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::MOVE_MOUNT, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::MOUNT_SETATTR, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::FSOPEN, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::FSCONFIG, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::FSMOUNT, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::FSPICK, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::OPEN_TREE, Never(libc::ENOSYS)).note("as on a kernel before 5.2"),
    call(nr::OPEN_TREE_ATTR, Never(libc::ENOSYS)).note("as on a kernel before 6.15"),
    call(nr::STATMOUNT, Never(libc::ENOSYS)).note(MOUNTS),
    call(nr::LISTMOUNT, Never(libc::ENOSYS)).note(MOUNTS),
    call(nr::PIVOT_ROOT, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::UNSHARE, Never(libc::EPERM)).note("as where users may make no namespaces"),
    call(nr::SETNS, Never(libc::EPERM)).note("as where users may make no namespaces"),
    call(nr::SWAPON, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::SWAPOFF, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::REBOOT, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::ACCT, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::SYSLOG, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::IOPL, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::IOPERM, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::INIT_MODULE, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::FINIT_MODULE, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::DELETE_MODULE, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::KEXEC_LOAD, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::KEXEC_FILE_LOAD, Never(libc::EPERM)).note(PRIVILEGED),
    call(nr::QUOTACTL, Never(libc::ENOSYS)).note("as on a kernel built without quotas"),
    call(nr::QUOTACTL_FD, Never(libc::ENOSYS)).note("as on a kernel built without quotas"),
    call(nr::BPF, Never(libc::ENOSYS)).note("programs would run in the node's kernel"),
    call(nr::PERF_EVENT_OPEN, Never(libc::ENOSYS)).note("counters are the node's and not a guest's to open"),
    call(nr::ADD_KEY, Never(libc::ENOSYS)).note(KEYS),
    call(nr::REQUEST_KEY, Never(libc::ENOSYS)).note(KEYS),
    call(nr::KEYCTL, Never(libc::ENOSYS)).note(KEYS),
    call(nr::LANDLOCK_CREATE_RULESET, Never(libc::ENOSYS)).note(SANDBOX),
    call(nr::LANDLOCK_ADD_RULE, Never(libc::ENOSYS)).note(SANDBOX),
    call(nr::LANDLOCK_RESTRICT_SELF, Never(libc::ENOSYS)).note(SANDBOX),
    call(nr::LSM_GET_SELF_ATTR, Never(libc::ENOSYS)).note("security labels are home's"),
    call(nr::LSM_SET_SELF_ATTR, Never(libc::ENOSYS)).note("security labels are home's"),
    call(nr::LSM_LIST_MODULES, Never(libc::ENOSYS)).note("security labels are home's"),
    call(nr::UPROBE, Node).note(TRAMPOLINES),
    call(nr::URETPROBE, Node).note(TRAMPOLINES),
    call(nr::USELIB, Never(libc::ENOSYS)).note(MISSING),
    call(nr::_SYSCTL, Never(libc::ENOSYS)).note(MISSING),
    call(nr::CREATE_MODULE, Never(libc::ENOSYS)).note(MODULES),
    call(nr::GET_KERNEL_SYMS, Never(libc::ENOSYS)).note(MODULES),
    call(nr::QUERY_MODULE, Never(libc::ENOSYS)).note(MODULES),
    call(nr::NFSSERVCTL, Never(libc::ENOSYS)).note(MISSING),
    call(nr::GETPMSG, Never(libc::ENOSYS)).note(MISSING),
    call(nr::PUTPMSG, Never(libc::ENOSYS)).note(MISSING),
    call(nr::AFS_SYSCALL, Never(libc::ENOSYS)).note(MISSING),
    call(nr::TUXCALL, Never(libc::ENOSYS)).note(MISSING),
    call(nr::SECURITY, Never(libc::ENOSYS)).note(MISSING),
    call(nr::SET_THREAD_AREA, Never(libc::ENOSYS)).note(MISSING),
    call(nr::GET_THREAD_AREA, Never(libc::ENOSYS)).note(MISSING),
    call(nr::LOOKUP_DCOOKIE, Never(libc::ENOSYS)).note(MISSING),
    call(nr::EPOLL_CTL_OLD, Never(libc::ENOSYS)).note(MISSING),
    call(nr::EPOLL_WAIT_OLD, Never(libc::ENOSYS)).note(MISSING),
    call(nr::VSERVER, Never(libc::ENOSYS)).note(MISSING),
];
