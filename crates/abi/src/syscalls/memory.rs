//! Memory and threads: the node's kernel does all of it.

use super::Class::{Event, Never, Node};
use super::Door::Notify;
use super::Test::{MaskClear, MaskSet};
use super::{Row, call, nr, rule};

pub(super) const ROWS: &[Row] = &[
    call(nr::MMAP, Event(Notify))
        .rules(&[
            rule(3, MaskSet(libc::MAP_ANONYMOUS as u32), Node, "anonymous"),
            rule(3, MaskClear(libc::MAP_SHARED as u32), Node, "private"),
        ])
        .note("pages of home's files come through the file door; what is stored into a shared file is sent ahead of whatever tells of it"),
    call(nr::MPROTECT, Node),
    call(nr::MUNMAP, Node),
    call(nr::BRK, Node),
    call(nr::MREMAP, Node),
    call(nr::MSYNC, Node),
    call(nr::MINCORE, Node),
    call(nr::MADVISE, Node),
    call(nr::MLOCK, Node),
    call(nr::MUNLOCK, Node),
    call(nr::MLOCKALL, Node),
    call(nr::MUNLOCKALL, Node),
    call(nr::MLOCK2, Node),
    call(nr::REMAP_FILE_PAGES, Node),
    call(nr::PROCESS_MADVISE, Node),
    call(nr::PROCESS_MRELEASE, Node),
    call(nr::PROCESS_VM_READV, Node).note("between guests of one world"),
    call(nr::PROCESS_VM_WRITEV, Node).note("between guests of one world"),
    call(nr::MEMFD_CREATE, Node),
    call(nr::MEMFD_SECRET, Node),
    call(nr::MSEAL, Node),
    call(nr::MAP_SHADOW_STACK, Node),
    call(nr::PKEY_MPROTECT, Node),
    call(nr::PKEY_ALLOC, Node),
    call(nr::PKEY_FREE, Node),
    call(nr::MBIND, Node).note("the node's memory"),
    call(nr::SET_MEMPOLICY, Node).note("the node's memory"),
    call(nr::GET_MEMPOLICY, Node).note("the node's memory"),
    call(nr::SET_MEMPOLICY_HOME_NODE, Node).note("the node's memory"),
    call(nr::MIGRATE_PAGES, Node).note("the node's memory"),
    call(nr::MOVE_PAGES, Node).note("the node's memory"),
    call(nr::CACHESTAT, Node).note("the node's cache"),
    call(nr::MEMBARRIER, Node),
    call(nr::FUTEX, Node),
    call(nr::FUTEX_WAITV, Node),
    call(nr::FUTEX_WAKE, Node),
    call(nr::FUTEX_WAIT, Node),
    call(nr::FUTEX_REQUEUE, Node),
    call(nr::SET_ROBUST_LIST, Node),
    call(nr::GET_ROBUST_LIST, Node),
    call(nr::RSEQ, Node),
    call(nr::ARCH_PRCTL, Node),
    call(nr::MODIFY_LDT, Node),
    call(nr::USERFAULTFD, Never(libc::ENOSYS))
        .note("it hands out control over page faults, which are the file door's"),
];
