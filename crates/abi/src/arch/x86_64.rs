//! Numbers and names of the system calls of x86-64, as of Linux 6.18.

use super::Call;

/// `AUDIT_ARCH_X86_64`, which a filter finds in `seccomp_data.arch`.
pub const AUDIT_ARCH: u32 = 0xc000_003e;

/// Set in the number of an x32 call, which shares the architecture's value.
pub const X32_BIT: u32 = 0x4000_0000;

/// System call numbers.
pub mod nr {
    #![allow(missing_docs)]
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const OPEN: u32 = 2;
    pub const CLOSE: u32 = 3;
    pub const STAT: u32 = 4;
    pub const FSTAT: u32 = 5;
    pub const LSTAT: u32 = 6;
    pub const POLL: u32 = 7;
    pub const LSEEK: u32 = 8;
    pub const MMAP: u32 = 9;
    pub const MPROTECT: u32 = 10;
    pub const MUNMAP: u32 = 11;
    pub const BRK: u32 = 12;
    pub const RT_SIGACTION: u32 = 13;
    pub const RT_SIGPROCMASK: u32 = 14;
    pub const RT_SIGRETURN: u32 = 15;
    pub const IOCTL: u32 = 16;
    pub const PREAD64: u32 = 17;
    pub const PWRITE64: u32 = 18;
    pub const READV: u32 = 19;
    pub const WRITEV: u32 = 20;
    pub const ACCESS: u32 = 21;
    pub const PIPE: u32 = 22;
    pub const SELECT: u32 = 23;
    pub const SCHED_YIELD: u32 = 24;
    pub const MREMAP: u32 = 25;
    pub const MSYNC: u32 = 26;
    pub const MINCORE: u32 = 27;
    pub const MADVISE: u32 = 28;
    pub const SHMGET: u32 = 29;
    pub const SHMAT: u32 = 30;
    pub const SHMCTL: u32 = 31;
    pub const DUP: u32 = 32;
    pub const DUP2: u32 = 33;
    pub const PAUSE: u32 = 34;
    pub const NANOSLEEP: u32 = 35;
    pub const GETITIMER: u32 = 36;
    pub const ALARM: u32 = 37;
    pub const SETITIMER: u32 = 38;
    pub const GETPID: u32 = 39;
    pub const SENDFILE: u32 = 40;
    pub const SOCKET: u32 = 41;
    pub const CONNECT: u32 = 42;
    pub const ACCEPT: u32 = 43;
    pub const SENDTO: u32 = 44;
    pub const RECVFROM: u32 = 45;
    pub const SENDMSG: u32 = 46;
    pub const RECVMSG: u32 = 47;
    pub const SHUTDOWN: u32 = 48;
    pub const BIND: u32 = 49;
    pub const LISTEN: u32 = 50;
    pub const GETSOCKNAME: u32 = 51;
    pub const GETPEERNAME: u32 = 52;
    pub const SOCKETPAIR: u32 = 53;
    pub const SETSOCKOPT: u32 = 54;
    pub const GETSOCKOPT: u32 = 55;
    pub const CLONE: u32 = 56;
    pub const FORK: u32 = 57;
    pub const VFORK: u32 = 58;
    pub const EXECVE: u32 = 59;
    pub const EXIT: u32 = 60;
    pub const WAIT4: u32 = 61;
    pub const KILL: u32 = 62;
    pub const UNAME: u32 = 63;
    pub const SEMGET: u32 = 64;
    pub const SEMOP: u32 = 65;
    pub const SEMCTL: u32 = 66;
    pub const SHMDT: u32 = 67;
    pub const MSGGET: u32 = 68;
    pub const MSGSND: u32 = 69;
    pub const MSGRCV: u32 = 70;
    pub const MSGCTL: u32 = 71;
    pub const FCNTL: u32 = 72;
    pub const FLOCK: u32 = 73;
    pub const FSYNC: u32 = 74;
    pub const FDATASYNC: u32 = 75;
    pub const TRUNCATE: u32 = 76;
    pub const FTRUNCATE: u32 = 77;
    pub const GETDENTS: u32 = 78;
    pub const GETCWD: u32 = 79;
    pub const CHDIR: u32 = 80;
    pub const FCHDIR: u32 = 81;
    pub const RENAME: u32 = 82;
    pub const MKDIR: u32 = 83;
    pub const RMDIR: u32 = 84;
    pub const CREAT: u32 = 85;
    pub const LINK: u32 = 86;
    pub const UNLINK: u32 = 87;
    pub const SYMLINK: u32 = 88;
    pub const READLINK: u32 = 89;
    pub const CHMOD: u32 = 90;
    pub const FCHMOD: u32 = 91;
    pub const CHOWN: u32 = 92;
    pub const FCHOWN: u32 = 93;
    pub const LCHOWN: u32 = 94;
    pub const UMASK: u32 = 95;
    pub const GETTIMEOFDAY: u32 = 96;
    pub const GETRLIMIT: u32 = 97;
    pub const GETRUSAGE: u32 = 98;
    pub const SYSINFO: u32 = 99;
    pub const TIMES: u32 = 100;
    pub const PTRACE: u32 = 101;
    pub const GETUID: u32 = 102;
    pub const SYSLOG: u32 = 103;
    pub const GETGID: u32 = 104;
    pub const SETUID: u32 = 105;
    pub const SETGID: u32 = 106;
    pub const GETEUID: u32 = 107;
    pub const GETEGID: u32 = 108;
    pub const SETPGID: u32 = 109;
    pub const GETPPID: u32 = 110;
    pub const GETPGRP: u32 = 111;
    pub const SETSID: u32 = 112;
    pub const SETREUID: u32 = 113;
    pub const SETREGID: u32 = 114;
    pub const GETGROUPS: u32 = 115;
    pub const SETGROUPS: u32 = 116;
    pub const SETRESUID: u32 = 117;
    pub const GETRESUID: u32 = 118;
    pub const SETRESGID: u32 = 119;
    pub const GETRESGID: u32 = 120;
    pub const GETPGID: u32 = 121;
    pub const SETFSUID: u32 = 122;
    pub const SETFSGID: u32 = 123;
    pub const GETSID: u32 = 124;
    pub const CAPGET: u32 = 125;
    pub const CAPSET: u32 = 126;
    pub const RT_SIGPENDING: u32 = 127;
    pub const RT_SIGTIMEDWAIT: u32 = 128;
    pub const RT_SIGQUEUEINFO: u32 = 129;
    pub const RT_SIGSUSPEND: u32 = 130;
    pub const SIGALTSTACK: u32 = 131;
    pub const UTIME: u32 = 132;
    pub const MKNOD: u32 = 133;
    pub const USELIB: u32 = 134;
    pub const PERSONALITY: u32 = 135;
    pub const USTAT: u32 = 136;
    pub const STATFS: u32 = 137;
    pub const FSTATFS: u32 = 138;
    pub const SYSFS: u32 = 139;
    pub const GETPRIORITY: u32 = 140;
    pub const SETPRIORITY: u32 = 141;
    pub const SCHED_SETPARAM: u32 = 142;
    pub const SCHED_GETPARAM: u32 = 143;
    pub const SCHED_SETSCHEDULER: u32 = 144;
    pub const SCHED_GETSCHEDULER: u32 = 145;
    pub const SCHED_GET_PRIORITY_MAX: u32 = 146;
    pub const SCHED_GET_PRIORITY_MIN: u32 = 147;
    pub const SCHED_RR_GET_INTERVAL: u32 = 148;
    pub const MLOCK: u32 = 149;
    pub const MUNLOCK: u32 = 150;
    pub const MLOCKALL: u32 = 151;
    pub const MUNLOCKALL: u32 = 152;
    pub const VHANGUP: u32 = 153;
    pub const MODIFY_LDT: u32 = 154;
    pub const PIVOT_ROOT: u32 = 155;
    pub const _SYSCTL: u32 = 156;
    pub const PRCTL: u32 = 157;
    pub const ARCH_PRCTL: u32 = 158;
    pub const ADJTIMEX: u32 = 159;
    pub const SETRLIMIT: u32 = 160;
    pub const CHROOT: u32 = 161;
    pub const SYNC: u32 = 162;
    pub const ACCT: u32 = 163;
    pub const SETTIMEOFDAY: u32 = 164;
    pub const MOUNT: u32 = 165;
    pub const UMOUNT2: u32 = 166;
    pub const SWAPON: u32 = 167;
    pub const SWAPOFF: u32 = 168;
    pub const REBOOT: u32 = 169;
    pub const SETHOSTNAME: u32 = 170;
    pub const SETDOMAINNAME: u32 = 171;
    pub const IOPL: u32 = 172;
    pub const IOPERM: u32 = 173;
    pub const CREATE_MODULE: u32 = 174;
    pub const INIT_MODULE: u32 = 175;
    pub const DELETE_MODULE: u32 = 176;
    pub const GET_KERNEL_SYMS: u32 = 177;
    pub const QUERY_MODULE: u32 = 178;
    pub const QUOTACTL: u32 = 179;
    pub const NFSSERVCTL: u32 = 180;
    pub const GETPMSG: u32 = 181;
    pub const PUTPMSG: u32 = 182;
    pub const AFS_SYSCALL: u32 = 183;
    pub const TUXCALL: u32 = 184;
    pub const SECURITY: u32 = 185;
    pub const GETTID: u32 = 186;
    pub const READAHEAD: u32 = 187;
    pub const SETXATTR: u32 = 188;
    pub const LSETXATTR: u32 = 189;
    pub const FSETXATTR: u32 = 190;
    pub const GETXATTR: u32 = 191;
    pub const LGETXATTR: u32 = 192;
    pub const FGETXATTR: u32 = 193;
    pub const LISTXATTR: u32 = 194;
    pub const LLISTXATTR: u32 = 195;
    pub const FLISTXATTR: u32 = 196;
    pub const REMOVEXATTR: u32 = 197;
    pub const LREMOVEXATTR: u32 = 198;
    pub const FREMOVEXATTR: u32 = 199;
    pub const TKILL: u32 = 200;
    pub const TIME: u32 = 201;
    pub const FUTEX: u32 = 202;
    pub const SCHED_SETAFFINITY: u32 = 203;
    pub const SCHED_GETAFFINITY: u32 = 204;
    pub const SET_THREAD_AREA: u32 = 205;
    pub const IO_SETUP: u32 = 206;
    pub const IO_DESTROY: u32 = 207;
    pub const IO_GETEVENTS: u32 = 208;
    pub const IO_SUBMIT: u32 = 209;
    pub const IO_CANCEL: u32 = 210;
    pub const GET_THREAD_AREA: u32 = 211;
    pub const LOOKUP_DCOOKIE: u32 = 212;
    pub const EPOLL_CREATE: u32 = 213;
    pub const EPOLL_CTL_OLD: u32 = 214;
    pub const EPOLL_WAIT_OLD: u32 = 215;
    pub const REMAP_FILE_PAGES: u32 = 216;
    pub const GETDENTS64: u32 = 217;
    pub const SET_TID_ADDRESS: u32 = 218;
    pub const RESTART_SYSCALL: u32 = 219;
    pub const SEMTIMEDOP: u32 = 220;
    pub const FADVISE64: u32 = 221;
    pub const TIMER_CREATE: u32 = 222;
    pub const TIMER_SETTIME: u32 = 223;
    pub const TIMER_GETTIME: u32 = 224;
    pub const TIMER_GETOVERRUN: u32 = 225;
    pub const TIMER_DELETE: u32 = 226;
    pub const CLOCK_SETTIME: u32 = 227;
    pub const CLOCK_GETTIME: u32 = 228;
    pub const CLOCK_GETRES: u32 = 229;
    pub const CLOCK_NANOSLEEP: u32 = 230;
    pub const EXIT_GROUP: u32 = 231;
    pub const EPOLL_WAIT: u32 = 232;
    pub const EPOLL_CTL: u32 = 233;
    pub const TGKILL: u32 = 234;
    pub const UTIMES: u32 = 235;
    pub const VSERVER: u32 = 236;
    pub const MBIND: u32 = 237;
    pub const SET_MEMPOLICY: u32 = 238;
    pub const GET_MEMPOLICY: u32 = 239;
    pub const MQ_OPEN: u32 = 240;
    pub const MQ_UNLINK: u32 = 241;
    pub const MQ_TIMEDSEND: u32 = 242;
    pub const MQ_TIMEDRECEIVE: u32 = 243;
    pub const MQ_NOTIFY: u32 = 244;
    pub const MQ_GETSETATTR: u32 = 245;
    pub const KEXEC_LOAD: u32 = 246;
    pub const WAITID: u32 = 247;
    pub const ADD_KEY: u32 = 248;
    pub const REQUEST_KEY: u32 = 249;
    pub const KEYCTL: u32 = 250;
    pub const IOPRIO_SET: u32 = 251;
    pub const IOPRIO_GET: u32 = 252;
    pub const INOTIFY_INIT: u32 = 253;
    pub const INOTIFY_ADD_WATCH: u32 = 254;
    pub const INOTIFY_RM_WATCH: u32 = 255;
    pub const MIGRATE_PAGES: u32 = 256;
    pub const OPENAT: u32 = 257;
    pub const MKDIRAT: u32 = 258;
    pub const MKNODAT: u32 = 259;
    pub const FCHOWNAT: u32 = 260;
    pub const FUTIMESAT: u32 = 261;
    pub const NEWFSTATAT: u32 = 262;
    pub const UNLINKAT: u32 = 263;
    pub const RENAMEAT: u32 = 264;
    pub const LINKAT: u32 = 265;
    pub const SYMLINKAT: u32 = 266;
    pub const READLINKAT: u32 = 267;
    pub const FCHMODAT: u32 = 268;
    pub const FACCESSAT: u32 = 269;
    pub const PSELECT6: u32 = 270;
    pub const PPOLL: u32 = 271;
    pub const UNSHARE: u32 = 272;
    pub const SET_ROBUST_LIST: u32 = 273;
    pub const GET_ROBUST_LIST: u32 = 274;
    pub const SPLICE: u32 = 275;
    pub const TEE: u32 = 276;
    pub const SYNC_FILE_RANGE: u32 = 277;
    pub const VMSPLICE: u32 = 278;
    pub const MOVE_PAGES: u32 = 279;
    pub const UTIMENSAT: u32 = 280;
    pub const EPOLL_PWAIT: u32 = 281;
    pub const SIGNALFD: u32 = 282;
    pub const TIMERFD_CREATE: u32 = 283;
    pub const EVENTFD: u32 = 284;
    pub const FALLOCATE: u32 = 285;
    pub const TIMERFD_SETTIME: u32 = 286;
    pub const TIMERFD_GETTIME: u32 = 287;
    pub const ACCEPT4: u32 = 288;
    pub const SIGNALFD4: u32 = 289;
    pub const EVENTFD2: u32 = 290;
    pub const EPOLL_CREATE1: u32 = 291;
    pub const DUP3: u32 = 292;
    pub const PIPE2: u32 = 293;
    pub const INOTIFY_INIT1: u32 = 294;
    pub const PREADV: u32 = 295;
    pub const PWRITEV: u32 = 296;
    pub const RT_TGSIGQUEUEINFO: u32 = 297;
    pub const PERF_EVENT_OPEN: u32 = 298;
    pub const RECVMMSG: u32 = 299;
    pub const FANOTIFY_INIT: u32 = 300;
    pub const FANOTIFY_MARK: u32 = 301;
    pub const PRLIMIT64: u32 = 302;
    pub const NAME_TO_HANDLE_AT: u32 = 303;
    pub const OPEN_BY_HANDLE_AT: u32 = 304;
    pub const CLOCK_ADJTIME: u32 = 305;
    pub const SYNCFS: u32 = 306;
    pub const SENDMMSG: u32 = 307;
    pub const SETNS: u32 = 308;
    pub const GETCPU: u32 = 309;
    pub const PROCESS_VM_READV: u32 = 310;
    pub const PROCESS_VM_WRITEV: u32 = 311;
    pub const KCMP: u32 = 312;
    pub const FINIT_MODULE: u32 = 313;
    pub const SCHED_SETATTR: u32 = 314;
    pub const SCHED_GETATTR: u32 = 315;
    pub const RENAMEAT2: u32 = 316;
    pub const SECCOMP: u32 = 317;
    pub const GETRANDOM: u32 = 318;
    pub const MEMFD_CREATE: u32 = 319;
    pub const KEXEC_FILE_LOAD: u32 = 320;
    pub const BPF: u32 = 321;
    pub const EXECVEAT: u32 = 322;
    pub const USERFAULTFD: u32 = 323;
    pub const MEMBARRIER: u32 = 324;
    pub const MLOCK2: u32 = 325;
    pub const COPY_FILE_RANGE: u32 = 326;
    pub const PREADV2: u32 = 327;
    pub const PWRITEV2: u32 = 328;
    pub const PKEY_MPROTECT: u32 = 329;
    pub const PKEY_ALLOC: u32 = 330;
    pub const PKEY_FREE: u32 = 331;
    pub const STATX: u32 = 332;
    pub const IO_PGETEVENTS: u32 = 333;
    pub const RSEQ: u32 = 334;
    pub const URETPROBE: u32 = 335;
    pub const UPROBE: u32 = 336;
    pub const PIDFD_SEND_SIGNAL: u32 = 424;
    pub const IO_URING_SETUP: u32 = 425;
    pub const IO_URING_ENTER: u32 = 426;
    pub const IO_URING_REGISTER: u32 = 427;
    pub const OPEN_TREE: u32 = 428;
    pub const MOVE_MOUNT: u32 = 429;
    pub const FSOPEN: u32 = 430;
    pub const FSCONFIG: u32 = 431;
    pub const FSMOUNT: u32 = 432;
    pub const FSPICK: u32 = 433;
    pub const PIDFD_OPEN: u32 = 434;
    pub const CLONE3: u32 = 435;
    pub const CLOSE_RANGE: u32 = 436;
    pub const OPENAT2: u32 = 437;
    pub const PIDFD_GETFD: u32 = 438;
    pub const FACCESSAT2: u32 = 439;
    pub const PROCESS_MADVISE: u32 = 440;
    pub const EPOLL_PWAIT2: u32 = 441;
    pub const MOUNT_SETATTR: u32 = 442;
    pub const QUOTACTL_FD: u32 = 443;
    pub const LANDLOCK_CREATE_RULESET: u32 = 444;
    pub const LANDLOCK_ADD_RULE: u32 = 445;
    pub const LANDLOCK_RESTRICT_SELF: u32 = 446;
    pub const MEMFD_SECRET: u32 = 447;
    pub const PROCESS_MRELEASE: u32 = 448;
    pub const FUTEX_WAITV: u32 = 449;
    pub const SET_MEMPOLICY_HOME_NODE: u32 = 450;
    pub const CACHESTAT: u32 = 451;
    pub const FCHMODAT2: u32 = 452;
    pub const MAP_SHADOW_STACK: u32 = 453;
    pub const FUTEX_WAKE: u32 = 454;
    pub const FUTEX_WAIT: u32 = 455;
    pub const FUTEX_REQUEUE: u32 = 456;
    pub const STATMOUNT: u32 = 457;
    pub const LISTMOUNT: u32 = 458;
    pub const LSM_GET_SELF_ATTR: u32 = 459;
    pub const LSM_SET_SELF_ATTR: u32 = 460;
    pub const LSM_LIST_MODULES: u32 = 461;
    pub const MSEAL: u32 = 462;
    pub const SETXATTRAT: u32 = 463;
    pub const GETXATTRAT: u32 = 464;
    pub const LISTXATTRAT: u32 = 465;
    pub const REMOVEXATTRAT: u32 = 466;
    pub const OPEN_TREE_ATTR: u32 = 467;
    pub const FILE_GETATTR: u32 = 468;
    pub const FILE_SETATTR: u32 = 469;
}

/// Every call with its name, by number.
pub const CALLS: &[Call] = &[
    Call {
        number: 0,
        name: "read",
    },
    Call {
        number: 1,
        name: "write",
    },
    Call {
        number: 2,
        name: "open",
    },
    Call {
        number: 3,
        name: "close",
    },
    Call {
        number: 4,
        name: "stat",
    },
    Call {
        number: 5,
        name: "fstat",
    },
    Call {
        number: 6,
        name: "lstat",
    },
    Call {
        number: 7,
        name: "poll",
    },
    Call {
        number: 8,
        name: "lseek",
    },
    Call {
        number: 9,
        name: "mmap",
    },
    Call {
        number: 10,
        name: "mprotect",
    },
    Call {
        number: 11,
        name: "munmap",
    },
    Call {
        number: 12,
        name: "brk",
    },
    Call {
        number: 13,
        name: "rt_sigaction",
    },
    Call {
        number: 14,
        name: "rt_sigprocmask",
    },
    Call {
        number: 15,
        name: "rt_sigreturn",
    },
    Call {
        number: 16,
        name: "ioctl",
    },
    Call {
        number: 17,
        name: "pread64",
    },
    Call {
        number: 18,
        name: "pwrite64",
    },
    Call {
        number: 19,
        name: "readv",
    },
    Call {
        number: 20,
        name: "writev",
    },
    Call {
        number: 21,
        name: "access",
    },
    Call {
        number: 22,
        name: "pipe",
    },
    Call {
        number: 23,
        name: "select",
    },
    Call {
        number: 24,
        name: "sched_yield",
    },
    Call {
        number: 25,
        name: "mremap",
    },
    Call {
        number: 26,
        name: "msync",
    },
    Call {
        number: 27,
        name: "mincore",
    },
    Call {
        number: 28,
        name: "madvise",
    },
    Call {
        number: 29,
        name: "shmget",
    },
    Call {
        number: 30,
        name: "shmat",
    },
    Call {
        number: 31,
        name: "shmctl",
    },
    Call {
        number: 32,
        name: "dup",
    },
    Call {
        number: 33,
        name: "dup2",
    },
    Call {
        number: 34,
        name: "pause",
    },
    Call {
        number: 35,
        name: "nanosleep",
    },
    Call {
        number: 36,
        name: "getitimer",
    },
    Call {
        number: 37,
        name: "alarm",
    },
    Call {
        number: 38,
        name: "setitimer",
    },
    Call {
        number: 39,
        name: "getpid",
    },
    Call {
        number: 40,
        name: "sendfile",
    },
    Call {
        number: 41,
        name: "socket",
    },
    Call {
        number: 42,
        name: "connect",
    },
    Call {
        number: 43,
        name: "accept",
    },
    Call {
        number: 44,
        name: "sendto",
    },
    Call {
        number: 45,
        name: "recvfrom",
    },
    Call {
        number: 46,
        name: "sendmsg",
    },
    Call {
        number: 47,
        name: "recvmsg",
    },
    Call {
        number: 48,
        name: "shutdown",
    },
    Call {
        number: 49,
        name: "bind",
    },
    Call {
        number: 50,
        name: "listen",
    },
    Call {
        number: 51,
        name: "getsockname",
    },
    Call {
        number: 52,
        name: "getpeername",
    },
    Call {
        number: 53,
        name: "socketpair",
    },
    Call {
        number: 54,
        name: "setsockopt",
    },
    Call {
        number: 55,
        name: "getsockopt",
    },
    Call {
        number: 56,
        name: "clone",
    },
    Call {
        number: 57,
        name: "fork",
    },
    Call {
        number: 58,
        name: "vfork",
    },
    Call {
        number: 59,
        name: "execve",
    },
    Call {
        number: 60,
        name: "exit",
    },
    Call {
        number: 61,
        name: "wait4",
    },
    Call {
        number: 62,
        name: "kill",
    },
    Call {
        number: 63,
        name: "uname",
    },
    Call {
        number: 64,
        name: "semget",
    },
    Call {
        number: 65,
        name: "semop",
    },
    Call {
        number: 66,
        name: "semctl",
    },
    Call {
        number: 67,
        name: "shmdt",
    },
    Call {
        number: 68,
        name: "msgget",
    },
    Call {
        number: 69,
        name: "msgsnd",
    },
    Call {
        number: 70,
        name: "msgrcv",
    },
    Call {
        number: 71,
        name: "msgctl",
    },
    Call {
        number: 72,
        name: "fcntl",
    },
    Call {
        number: 73,
        name: "flock",
    },
    Call {
        number: 74,
        name: "fsync",
    },
    Call {
        number: 75,
        name: "fdatasync",
    },
    Call {
        number: 76,
        name: "truncate",
    },
    Call {
        number: 77,
        name: "ftruncate",
    },
    Call {
        number: 78,
        name: "getdents",
    },
    Call {
        number: 79,
        name: "getcwd",
    },
    Call {
        number: 80,
        name: "chdir",
    },
    Call {
        number: 81,
        name: "fchdir",
    },
    Call {
        number: 82,
        name: "rename",
    },
    Call {
        number: 83,
        name: "mkdir",
    },
    Call {
        number: 84,
        name: "rmdir",
    },
    Call {
        number: 85,
        name: "creat",
    },
    Call {
        number: 86,
        name: "link",
    },
    Call {
        number: 87,
        name: "unlink",
    },
    Call {
        number: 88,
        name: "symlink",
    },
    Call {
        number: 89,
        name: "readlink",
    },
    Call {
        number: 90,
        name: "chmod",
    },
    Call {
        number: 91,
        name: "fchmod",
    },
    Call {
        number: 92,
        name: "chown",
    },
    Call {
        number: 93,
        name: "fchown",
    },
    Call {
        number: 94,
        name: "lchown",
    },
    Call {
        number: 95,
        name: "umask",
    },
    Call {
        number: 96,
        name: "gettimeofday",
    },
    Call {
        number: 97,
        name: "getrlimit",
    },
    Call {
        number: 98,
        name: "getrusage",
    },
    Call {
        number: 99,
        name: "sysinfo",
    },
    Call {
        number: 100,
        name: "times",
    },
    Call {
        number: 101,
        name: "ptrace",
    },
    Call {
        number: 102,
        name: "getuid",
    },
    Call {
        number: 103,
        name: "syslog",
    },
    Call {
        number: 104,
        name: "getgid",
    },
    Call {
        number: 105,
        name: "setuid",
    },
    Call {
        number: 106,
        name: "setgid",
    },
    Call {
        number: 107,
        name: "geteuid",
    },
    Call {
        number: 108,
        name: "getegid",
    },
    Call {
        number: 109,
        name: "setpgid",
    },
    Call {
        number: 110,
        name: "getppid",
    },
    Call {
        number: 111,
        name: "getpgrp",
    },
    Call {
        number: 112,
        name: "setsid",
    },
    Call {
        number: 113,
        name: "setreuid",
    },
    Call {
        number: 114,
        name: "setregid",
    },
    Call {
        number: 115,
        name: "getgroups",
    },
    Call {
        number: 116,
        name: "setgroups",
    },
    Call {
        number: 117,
        name: "setresuid",
    },
    Call {
        number: 118,
        name: "getresuid",
    },
    Call {
        number: 119,
        name: "setresgid",
    },
    Call {
        number: 120,
        name: "getresgid",
    },
    Call {
        number: 121,
        name: "getpgid",
    },
    Call {
        number: 122,
        name: "setfsuid",
    },
    Call {
        number: 123,
        name: "setfsgid",
    },
    Call {
        number: 124,
        name: "getsid",
    },
    Call {
        number: 125,
        name: "capget",
    },
    Call {
        number: 126,
        name: "capset",
    },
    Call {
        number: 127,
        name: "rt_sigpending",
    },
    Call {
        number: 128,
        name: "rt_sigtimedwait",
    },
    Call {
        number: 129,
        name: "rt_sigqueueinfo",
    },
    Call {
        number: 130,
        name: "rt_sigsuspend",
    },
    Call {
        number: 131,
        name: "sigaltstack",
    },
    Call {
        number: 132,
        name: "utime",
    },
    Call {
        number: 133,
        name: "mknod",
    },
    Call {
        number: 134,
        name: "uselib",
    },
    Call {
        number: 135,
        name: "personality",
    },
    Call {
        number: 136,
        name: "ustat",
    },
    Call {
        number: 137,
        name: "statfs",
    },
    Call {
        number: 138,
        name: "fstatfs",
    },
    Call {
        number: 139,
        name: "sysfs",
    },
    Call {
        number: 140,
        name: "getpriority",
    },
    Call {
        number: 141,
        name: "setpriority",
    },
    Call {
        number: 142,
        name: "sched_setparam",
    },
    Call {
        number: 143,
        name: "sched_getparam",
    },
    Call {
        number: 144,
        name: "sched_setscheduler",
    },
    Call {
        number: 145,
        name: "sched_getscheduler",
    },
    Call {
        number: 146,
        name: "sched_get_priority_max",
    },
    Call {
        number: 147,
        name: "sched_get_priority_min",
    },
    Call {
        number: 148,
        name: "sched_rr_get_interval",
    },
    Call {
        number: 149,
        name: "mlock",
    },
    Call {
        number: 150,
        name: "munlock",
    },
    Call {
        number: 151,
        name: "mlockall",
    },
    Call {
        number: 152,
        name: "munlockall",
    },
    Call {
        number: 153,
        name: "vhangup",
    },
    Call {
        number: 154,
        name: "modify_ldt",
    },
    Call {
        number: 155,
        name: "pivot_root",
    },
    Call {
        number: 156,
        name: "_sysctl",
    },
    Call {
        number: 157,
        name: "prctl",
    },
    Call {
        number: 158,
        name: "arch_prctl",
    },
    Call {
        number: 159,
        name: "adjtimex",
    },
    Call {
        number: 160,
        name: "setrlimit",
    },
    Call {
        number: 161,
        name: "chroot",
    },
    Call {
        number: 162,
        name: "sync",
    },
    Call {
        number: 163,
        name: "acct",
    },
    Call {
        number: 164,
        name: "settimeofday",
    },
    Call {
        number: 165,
        name: "mount",
    },
    Call {
        number: 166,
        name: "umount2",
    },
    Call {
        number: 167,
        name: "swapon",
    },
    Call {
        number: 168,
        name: "swapoff",
    },
    Call {
        number: 169,
        name: "reboot",
    },
    Call {
        number: 170,
        name: "sethostname",
    },
    Call {
        number: 171,
        name: "setdomainname",
    },
    Call {
        number: 172,
        name: "iopl",
    },
    Call {
        number: 173,
        name: "ioperm",
    },
    Call {
        number: 174,
        name: "create_module",
    },
    Call {
        number: 175,
        name: "init_module",
    },
    Call {
        number: 176,
        name: "delete_module",
    },
    Call {
        number: 177,
        name: "get_kernel_syms",
    },
    Call {
        number: 178,
        name: "query_module",
    },
    Call {
        number: 179,
        name: "quotactl",
    },
    Call {
        number: 180,
        name: "nfsservctl",
    },
    Call {
        number: 181,
        name: "getpmsg",
    },
    Call {
        number: 182,
        name: "putpmsg",
    },
    Call {
        number: 183,
        name: "afs_syscall",
    },
    Call {
        number: 184,
        name: "tuxcall",
    },
    Call {
        number: 185,
        name: "security",
    },
    Call {
        number: 186,
        name: "gettid",
    },
    Call {
        number: 187,
        name: "readahead",
    },
    Call {
        number: 188,
        name: "setxattr",
    },
    Call {
        number: 189,
        name: "lsetxattr",
    },
    Call {
        number: 190,
        name: "fsetxattr",
    },
    Call {
        number: 191,
        name: "getxattr",
    },
    Call {
        number: 192,
        name: "lgetxattr",
    },
    Call {
        number: 193,
        name: "fgetxattr",
    },
    Call {
        number: 194,
        name: "listxattr",
    },
    Call {
        number: 195,
        name: "llistxattr",
    },
    Call {
        number: 196,
        name: "flistxattr",
    },
    Call {
        number: 197,
        name: "removexattr",
    },
    Call {
        number: 198,
        name: "lremovexattr",
    },
    Call {
        number: 199,
        name: "fremovexattr",
    },
    Call {
        number: 200,
        name: "tkill",
    },
    Call {
        number: 201,
        name: "time",
    },
    Call {
        number: 202,
        name: "futex",
    },
    Call {
        number: 203,
        name: "sched_setaffinity",
    },
    Call {
        number: 204,
        name: "sched_getaffinity",
    },
    Call {
        number: 205,
        name: "set_thread_area",
    },
    Call {
        number: 206,
        name: "io_setup",
    },
    Call {
        number: 207,
        name: "io_destroy",
    },
    Call {
        number: 208,
        name: "io_getevents",
    },
    Call {
        number: 209,
        name: "io_submit",
    },
    Call {
        number: 210,
        name: "io_cancel",
    },
    Call {
        number: 211,
        name: "get_thread_area",
    },
    Call {
        number: 212,
        name: "lookup_dcookie",
    },
    Call {
        number: 213,
        name: "epoll_create",
    },
    Call {
        number: 214,
        name: "epoll_ctl_old",
    },
    Call {
        number: 215,
        name: "epoll_wait_old",
    },
    Call {
        number: 216,
        name: "remap_file_pages",
    },
    Call {
        number: 217,
        name: "getdents64",
    },
    Call {
        number: 218,
        name: "set_tid_address",
    },
    Call {
        number: 219,
        name: "restart_syscall",
    },
    Call {
        number: 220,
        name: "semtimedop",
    },
    Call {
        number: 221,
        name: "fadvise64",
    },
    Call {
        number: 222,
        name: "timer_create",
    },
    Call {
        number: 223,
        name: "timer_settime",
    },
    Call {
        number: 224,
        name: "timer_gettime",
    },
    Call {
        number: 225,
        name: "timer_getoverrun",
    },
    Call {
        number: 226,
        name: "timer_delete",
    },
    Call {
        number: 227,
        name: "clock_settime",
    },
    Call {
        number: 228,
        name: "clock_gettime",
    },
    Call {
        number: 229,
        name: "clock_getres",
    },
    Call {
        number: 230,
        name: "clock_nanosleep",
    },
    Call {
        number: 231,
        name: "exit_group",
    },
    Call {
        number: 232,
        name: "epoll_wait",
    },
    Call {
        number: 233,
        name: "epoll_ctl",
    },
    Call {
        number: 234,
        name: "tgkill",
    },
    Call {
        number: 235,
        name: "utimes",
    },
    Call {
        number: 236,
        name: "vserver",
    },
    Call {
        number: 237,
        name: "mbind",
    },
    Call {
        number: 238,
        name: "set_mempolicy",
    },
    Call {
        number: 239,
        name: "get_mempolicy",
    },
    Call {
        number: 240,
        name: "mq_open",
    },
    Call {
        number: 241,
        name: "mq_unlink",
    },
    Call {
        number: 242,
        name: "mq_timedsend",
    },
    Call {
        number: 243,
        name: "mq_timedreceive",
    },
    Call {
        number: 244,
        name: "mq_notify",
    },
    Call {
        number: 245,
        name: "mq_getsetattr",
    },
    Call {
        number: 246,
        name: "kexec_load",
    },
    Call {
        number: 247,
        name: "waitid",
    },
    Call {
        number: 248,
        name: "add_key",
    },
    Call {
        number: 249,
        name: "request_key",
    },
    Call {
        number: 250,
        name: "keyctl",
    },
    Call {
        number: 251,
        name: "ioprio_set",
    },
    Call {
        number: 252,
        name: "ioprio_get",
    },
    Call {
        number: 253,
        name: "inotify_init",
    },
    Call {
        number: 254,
        name: "inotify_add_watch",
    },
    Call {
        number: 255,
        name: "inotify_rm_watch",
    },
    Call {
        number: 256,
        name: "migrate_pages",
    },
    Call {
        number: 257,
        name: "openat",
    },
    Call {
        number: 258,
        name: "mkdirat",
    },
    Call {
        number: 259,
        name: "mknodat",
    },
    Call {
        number: 260,
        name: "fchownat",
    },
    Call {
        number: 261,
        name: "futimesat",
    },
    Call {
        number: 262,
        name: "newfstatat",
    },
    Call {
        number: 263,
        name: "unlinkat",
    },
    Call {
        number: 264,
        name: "renameat",
    },
    Call {
        number: 265,
        name: "linkat",
    },
    Call {
        number: 266,
        name: "symlinkat",
    },
    Call {
        number: 267,
        name: "readlinkat",
    },
    Call {
        number: 268,
        name: "fchmodat",
    },
    Call {
        number: 269,
        name: "faccessat",
    },
    Call {
        number: 270,
        name: "pselect6",
    },
    Call {
        number: 271,
        name: "ppoll",
    },
    Call {
        number: 272,
        name: "unshare",
    },
    Call {
        number: 273,
        name: "set_robust_list",
    },
    Call {
        number: 274,
        name: "get_robust_list",
    },
    Call {
        number: 275,
        name: "splice",
    },
    Call {
        number: 276,
        name: "tee",
    },
    Call {
        number: 277,
        name: "sync_file_range",
    },
    Call {
        number: 278,
        name: "vmsplice",
    },
    Call {
        number: 279,
        name: "move_pages",
    },
    Call {
        number: 280,
        name: "utimensat",
    },
    Call {
        number: 281,
        name: "epoll_pwait",
    },
    Call {
        number: 282,
        name: "signalfd",
    },
    Call {
        number: 283,
        name: "timerfd_create",
    },
    Call {
        number: 284,
        name: "eventfd",
    },
    Call {
        number: 285,
        name: "fallocate",
    },
    Call {
        number: 286,
        name: "timerfd_settime",
    },
    Call {
        number: 287,
        name: "timerfd_gettime",
    },
    Call {
        number: 288,
        name: "accept4",
    },
    Call {
        number: 289,
        name: "signalfd4",
    },
    Call {
        number: 290,
        name: "eventfd2",
    },
    Call {
        number: 291,
        name: "epoll_create1",
    },
    Call {
        number: 292,
        name: "dup3",
    },
    Call {
        number: 293,
        name: "pipe2",
    },
    Call {
        number: 294,
        name: "inotify_init1",
    },
    Call {
        number: 295,
        name: "preadv",
    },
    Call {
        number: 296,
        name: "pwritev",
    },
    Call {
        number: 297,
        name: "rt_tgsigqueueinfo",
    },
    Call {
        number: 298,
        name: "perf_event_open",
    },
    Call {
        number: 299,
        name: "recvmmsg",
    },
    Call {
        number: 300,
        name: "fanotify_init",
    },
    Call {
        number: 301,
        name: "fanotify_mark",
    },
    Call {
        number: 302,
        name: "prlimit64",
    },
    Call {
        number: 303,
        name: "name_to_handle_at",
    },
    Call {
        number: 304,
        name: "open_by_handle_at",
    },
    Call {
        number: 305,
        name: "clock_adjtime",
    },
    Call {
        number: 306,
        name: "syncfs",
    },
    Call {
        number: 307,
        name: "sendmmsg",
    },
    Call {
        number: 308,
        name: "setns",
    },
    Call {
        number: 309,
        name: "getcpu",
    },
    Call {
        number: 310,
        name: "process_vm_readv",
    },
    Call {
        number: 311,
        name: "process_vm_writev",
    },
    Call {
        number: 312,
        name: "kcmp",
    },
    Call {
        number: 313,
        name: "finit_module",
    },
    Call {
        number: 314,
        name: "sched_setattr",
    },
    Call {
        number: 315,
        name: "sched_getattr",
    },
    Call {
        number: 316,
        name: "renameat2",
    },
    Call {
        number: 317,
        name: "seccomp",
    },
    Call {
        number: 318,
        name: "getrandom",
    },
    Call {
        number: 319,
        name: "memfd_create",
    },
    Call {
        number: 320,
        name: "kexec_file_load",
    },
    Call {
        number: 321,
        name: "bpf",
    },
    Call {
        number: 322,
        name: "execveat",
    },
    Call {
        number: 323,
        name: "userfaultfd",
    },
    Call {
        number: 324,
        name: "membarrier",
    },
    Call {
        number: 325,
        name: "mlock2",
    },
    Call {
        number: 326,
        name: "copy_file_range",
    },
    Call {
        number: 327,
        name: "preadv2",
    },
    Call {
        number: 328,
        name: "pwritev2",
    },
    Call {
        number: 329,
        name: "pkey_mprotect",
    },
    Call {
        number: 330,
        name: "pkey_alloc",
    },
    Call {
        number: 331,
        name: "pkey_free",
    },
    Call {
        number: 332,
        name: "statx",
    },
    Call {
        number: 333,
        name: "io_pgetevents",
    },
    Call {
        number: 334,
        name: "rseq",
    },
    Call {
        number: 335,
        name: "uretprobe",
    },
    Call {
        number: 336,
        name: "uprobe",
    },
    Call {
        number: 424,
        name: "pidfd_send_signal",
    },
    Call {
        number: 425,
        name: "io_uring_setup",
    },
    Call {
        number: 426,
        name: "io_uring_enter",
    },
    Call {
        number: 427,
        name: "io_uring_register",
    },
    Call {
        number: 428,
        name: "open_tree",
    },
    Call {
        number: 429,
        name: "move_mount",
    },
    Call {
        number: 430,
        name: "fsopen",
    },
    Call {
        number: 431,
        name: "fsconfig",
    },
    Call {
        number: 432,
        name: "fsmount",
    },
    Call {
        number: 433,
        name: "fspick",
    },
    Call {
        number: 434,
        name: "pidfd_open",
    },
    Call {
        number: 435,
        name: "clone3",
    },
    Call {
        number: 436,
        name: "close_range",
    },
    Call {
        number: 437,
        name: "openat2",
    },
    Call {
        number: 438,
        name: "pidfd_getfd",
    },
    Call {
        number: 439,
        name: "faccessat2",
    },
    Call {
        number: 440,
        name: "process_madvise",
    },
    Call {
        number: 441,
        name: "epoll_pwait2",
    },
    Call {
        number: 442,
        name: "mount_setattr",
    },
    Call {
        number: 443,
        name: "quotactl_fd",
    },
    Call {
        number: 444,
        name: "landlock_create_ruleset",
    },
    Call {
        number: 445,
        name: "landlock_add_rule",
    },
    Call {
        number: 446,
        name: "landlock_restrict_self",
    },
    Call {
        number: 447,
        name: "memfd_secret",
    },
    Call {
        number: 448,
        name: "process_mrelease",
    },
    Call {
        number: 449,
        name: "futex_waitv",
    },
    Call {
        number: 450,
        name: "set_mempolicy_home_node",
    },
    Call {
        number: 451,
        name: "cachestat",
    },
    Call {
        number: 452,
        name: "fchmodat2",
    },
    Call {
        number: 453,
        name: "map_shadow_stack",
    },
    Call {
        number: 454,
        name: "futex_wake",
    },
    Call {
        number: 455,
        name: "futex_wait",
    },
    Call {
        number: 456,
        name: "futex_requeue",
    },
    Call {
        number: 457,
        name: "statmount",
    },
    Call {
        number: 458,
        name: "listmount",
    },
    Call {
        number: 459,
        name: "lsm_get_self_attr",
    },
    Call {
        number: 460,
        name: "lsm_set_self_attr",
    },
    Call {
        number: 461,
        name: "lsm_list_modules",
    },
    Call {
        number: 462,
        name: "mseal",
    },
    Call {
        number: 463,
        name: "setxattrat",
    },
    Call {
        number: 464,
        name: "getxattrat",
    },
    Call {
        number: 465,
        name: "listxattrat",
    },
    Call {
        number: 466,
        name: "removexattrat",
    },
    Call {
        number: 467,
        name: "open_tree_attr",
    },
    Call {
        number: 468,
        name: "file_getattr",
    },
    Call {
        number: 469,
        name: "file_setattr",
    },
];
