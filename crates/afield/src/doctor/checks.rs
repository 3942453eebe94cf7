//! The checks themselves. Each probe runs in a child process of its own and may do there what it likes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use afield_abi::filter::{FilterOptions, build};
use afield_abi::syscalls::nr;
use afield_home::coherence::mounts;
use afield_home::runtime::RuntimeDir;
use afield_home::trust::TrustedNodes;
use afield_link::secure::Identity;
use afield_node::admission::AuthorizedHomes;
use afield_node::user_namespaces_wanted;
use rustix::process::{Resource, getrlimit};

use super::{Check, Need, Role};
use crate::config::Settings;
use crate::failure::plain;
use crate::sys::{fuse, namespaces, notify, process, trace};

/// Features that others need: their failures begin with its name and a colon.
pub const USER_NAMESPACE: &str = "user namespace";
pub const FUSE_DEVICE: &str = "/dev/fuse";

/// Open files that a busy agent or node wants.
const OPEN_FILES_MIN: u64 = 4096;

/// Where the probes mount things, in a mount namespace of their own. It exists everywhere.
const MOUNT_POINT: &std::ffi::CStr = c"/tmp";

type Verdict = Result<String, String>;

pub fn all(settings: &Settings) -> Vec<Check> {
    let runtime = settings.runtime();
    let (key, trusted, authorized) = (
        settings.key(),
        settings.trusted_nodes(),
        settings.authorized_homes(),
    );
    let directory = format!(
        "set XDG_RUNTIME_DIR or AFIELD_RUNTIME_DIR to a directory that only you can use ({})",
        runtime.path().display()
    );
    let mut checks = vec![
        check(
            Role::Home,
            "runtime directory",
            move || runtime_directory(&runtime),
            &directory,
        ),
        check(
            Role::Home,
            "key",
            move || own_key(&key),
            "see above; nodes on other machines cannot be reached so",
        ),
        check(
            Role::Home,
            "trusted nodes",
            move || trusted_nodes(&trusted),
            "see above; nodes on other machines cannot be reached so",
        ),
        check(
            Role::Node,
            "admitted homes",
            move || admitted_homes(&authorized),
            "see above; `afield node` serves nobody else",
        ),
        check(
            Role::Home,
            "process descriptors (pidfd)",
            pidfd,
            "use Linux 5.4 or later",
        ),
        check(
            Role::Home,
            "process titles (PR_SET_MM_MAP)",
            title,
            "use a kernel with CONFIG_CHECKPOINT_RESTORE",
        ),
        check(
            Role::Home,
            "open files (RLIMIT_NOFILE)",
            open_files,
            "raise the hard limit: `ulimit -Hn 65536`, limits.conf(5)",
        ),
        Check {
            need: Need::Optional,
            ..check(
                Role::Home,
                "notice of changed files (fanotify)",
                changes,
                "use Linux 5.17 or later with CONFIG_FANOTIFY, and raise fs.fanotify.max_user_groups; without, nodes ask for every \
                 use of a file",
            )
        },
        check(
            Role::Node,
            USER_NAMESPACE,
            || namespaces::enter(0).map(|()| String::new()),
            user_namespaces_wanted(),
        ),
    ];
    for (name, flag) in [
        ("mount namespace", libc::CLONE_NEWNS),
        ("pid namespace", libc::CLONE_NEWPID),
        ("network namespace", libc::CLONE_NEWNET),
        ("ipc namespace", libc::CLONE_NEWIPC),
        ("uts namespace", libc::CLONE_NEWUTS),
    ] {
        checks.push(check(
            Role::Node,
            name,
            move || namespaces::enter(flag).map(|()| String::new()),
            "use a kernel with all namespaces, and raise the limits in /proc/sys/user/",
        ));
    }
    checks.extend([
        check(Role::Node, "time namespace", time_namespace, "use a kernel with CONFIG_TIME_NS (5.6 or later)"),
        check(
            Role::Node,
            "chosen pids (clone3 with set_tid)",
            chosen_pid,
            "use Linux 5.9 or later with CONFIG_CHECKPOINT_RESTORE",
        ),
        check(
            Role::Node,
            "system call notification (WAIT_KILLABLE_RECV)",
            || notification(false),
            "use Linux 5.19 or later with CONFIG_SECCOMP_FILTER; inside a container, allow seccomp and pidfd_getfd",
        ),
        check(
            Role::Node,
            "descriptors by notification (ADDFD)",
            || notification(true),
            "use Linux 5.14 or later",
        ),
        check(Role::Node, "the world's filter", filter, "use Linux 5.19 or later with CONFIG_SECCOMP_FILTER"),
        check(
            Role::Node,
            "tracing (PTRACE_SEIZE)",
            || traced(true),
            "set kernel.yama.ptrace_scope to 0 or 1; inside a container, allow ptrace",
        ),
        check(
            Role::Node,
            "memory of other processes (process_vm_readv)",
            || traced(false),
            "set kernel.yama.ptrace_scope to 0 or 1, and use a kernel with CONFIG_CROSS_MEMORY_ATTACH",
        ),
        check(
            Role::Node,
            FUSE_DEVICE,
            fuse_device,
            "load the module (`modprobe fuse`) and make the device writable (`chmod 666 /dev/fuse`)",
        ),
        check(
            Role::Node,
            "FUSE mount in a user namespace",
            fuse_mount,
            "use Linux 4.18 or later with CONFIG_FUSE_FS; inside a container, allow mount",
        ),
        check(
            Role::Node,
            "/proc in a user namespace",
            proc_mount,
            "unmount what covers parts of /proc (containers do that: --security-opt unmask=ALL)",
        ),
        check(
            Role::Node,
            "/sys in a user namespace",
            sys_mount,
            "unmount what covers parts of /sys (containers do that: --security-opt unmask=ALL)",
        ),
        check(Role::Node, "open files (RLIMIT_NOFILE)", open_files, "raise the hard limit: `ulimit -Hn 65536`, limits.conf(5)"),
        Check {
            need: Need::Optional,
            ..check(
                Role::Node,
                "ranges of user ids",
                id_ranges,
                "install uidmap (newuidmap, newgidmap) and give yourself lines in /etc/subuid and /etc/subgid; without, \
                 calls that show owners of files are slower",
            )
        },
    ]);
    checks
}

fn check(role: Role, name: &'static str, probe: impl FnOnce() -> Verdict + 'static, remedy: &str) -> Check {
    Check {
        role,
        need: Need::Required,
        name,
        probe: Box::new(probe),
        remedy: remedy.to_owned(),
    }
}

/// What nodes may keep of home's files.
fn changes() -> Verdict {
    let unwatched = mounts::unwatched().map_err(failed("fanotify_init"))?;
    let named: Vec<String> = unwatched
        .into_iter()
        .map(|(point, kind)| format!("{point} ({kind})"))
        .collect();
    Ok(match named.is_empty() {
        true => "on all mounts".to_owned(),
        false => format!("on all mounts but {}", named.join(", ")),
    })
}

/// Names what failed.
fn failed(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {}", plain(&error))
}

fn own_key(path: &Path) -> Verdict {
    match Identity::load(path) {
        Ok(identity) => Ok(identity.fingerprint().to_string()),
        Err(error) if error.is_missing() => Ok("none yet: it is made when it is first wanted".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn trusted_nodes(path: &Path) -> Verdict {
    let nodes = TrustedNodes::load(path).map_err(|error| error.to_string())?;
    let names: Vec<&str> = nodes.all().iter().map(|node| node.name.as_str()).collect();
    Ok(match names.is_empty() {
        true => "none yet (`afield trust add`)".to_owned(),
        false => names.join(", "),
    })
}

fn admitted_homes(path: &Path) -> Verdict {
    let homes = AuthorizedHomes::load(path).map_err(|error| error.to_string())?;
    if let Some(mistake) = homes.mistakes().next() {
        return Err(mistake);
    }
    Ok(match homes.homes().count() {
        0 => "none yet (`afield trust admit`)".to_owned(),
        count => count.to_string(),
    })
}

fn runtime_directory(runtime: &RuntimeDir) -> Verdict {
    // Made if it can be, as the agent would; an empty one that was not there before is not left behind.
    let existed = runtime.path().exists();
    runtime.prepare().map_err(|error| error.to_string())?;
    if !existed {
        let _ = fs::remove_dir(runtime.path());
    }
    Ok(runtime.path().display().to_string())
}

fn pidfd() -> Verdict {
    let mut child = std::process::Command::new("/proc/self/exe")
        .arg("version")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map_err(failed("starting a child"))?;
    let descriptor = process::open_pidfd(child.id() as i32).map_err(failed("pidfd_open"))?;
    rustix::process::pidfd_send_signal(&descriptor, rustix::process::Signal::KILL)
        .map_err(|error| failed("pidfd_send_signal")(error.into()))?;
    let status = child.wait().map_err(failed("wait"))?;
    match status.signal() {
        Some(libc::SIGKILL) | None => Ok(String::new()),
        Some(other) => Err(format!("the child died of signal {other}")),
    }
}

fn title() -> Verdict {
    const TITLE: &[u8] = b"a-title-of-afield-doctor\0";
    process::set_title(TITLE).map_err(failed("prctl"))?;
    let shown = fs::read("/proc/self/cmdline").map_err(failed("/proc/self/cmdline"))?;
    if shown == TITLE {
        Ok(String::new())
    } else {
        Err("the new title is not shown".to_owned())
    }
}

fn open_files() -> Verdict {
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < OPEN_FILES_MIN => Err(format!("at most {limit}, {OPEN_FILES_MIN} are wanted")),
        Some(limit) => Ok(limit.to_string()),
        None => Ok("unlimited".to_owned()),
    }
}

/// Runs `probe` in a child, the first process of a namespace that has been unshared for children; its text comes back.
fn in_first_process(probe: impl FnOnce() -> Verdict) -> Verdict {
    let (mut reader, mut writer) = io::pipe().map_err(failed("pipe"))?;
    let child = process::fork().map_err(failed("fork"))?;
    let Some(pid) = child else {
        let verdict = probe();
        let text = match &verdict {
            Ok(text) | Err(text) => text,
        };
        let _ = writer.write_all(text.as_bytes());
        process::exit(i32::from(verdict.is_err()))
    };
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(failed("pipe"))?;
    match process::wait(pid).map_err(failed("wait"))? {
        0 => Ok(text),
        1 => Err(text),
        other => Err(format!("the child ended with {other}")),
    }
}

fn time_namespace() -> Verdict {
    const OFFSET_SECONDS: i64 = 1_000_000;
    namespaces::enter(libc::CLONE_NEWTIME)?;
    let before = namespaces::monotonic_seconds();
    fs::write(
        "/proc/self/timens_offsets",
        format!("monotonic {OFFSET_SECONDS} 0\n"),
    )
    .map_err(failed("/proc/self/timens_offsets"))?;
    in_first_process(|| {
        if namespaces::monotonic_seconds() >= before + OFFSET_SECONDS {
            Ok(String::new())
        } else {
            Err("the clock did not move".to_owned())
        }
    })
}

fn chosen_pid() -> Verdict {
    const PID: i32 = 31_337;
    namespaces::enter(libc::CLONE_NEWPID)?;
    in_first_process(|| match process::fork_as(PID).map_err(failed("clone3"))? {
        None => process::exit(i32::from(std::process::id() != PID as u32)),
        Some(pid) => match process::wait(pid).map_err(failed("wait"))? {
            0 if pid == PID => Ok(String::new()),
            _ => Err(format!("the child was {pid}, not {PID}")),
        },
    })
}

fn notification(with_descriptor: bool) -> Verdict {
    const ANSWER: i64 = 4242;
    namespaces::enter(0)?;
    let (mut reader, mut writer) = io::pipe().map_err(failed("pipe"))?;
    let child = process::fork().map_err(failed("fork"))?;
    let Some(pid) = child else {
        let listener = notify::install(&notify::filter_for(nr::GETPPID));
        let number = match &listener {
            Ok(number) => *number,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let told = writer.write_all(&number.to_ne_bytes());
        if listener.is_err() || told.is_err() {
            process::exit(1);
        }
        let answer = process::parent();
        let is_right = if with_descriptor {
            // The injected descriptor is this process's own /dev/null.
            let links = |path: &str| fs::metadata(path).ok().map(|metadata| metadata.rdev());
            answer > i64::from(number) && links(&format!("/proc/self/fd/{answer}")) == links("/dev/null")
        } else {
            answer == ANSWER
        };
        process::exit(if is_right { 0 } else { 2 })
    };
    let mut number = [0; 4];
    reader.read_exact(&mut number).map_err(failed("pipe"))?;
    let number = i32::from_ne_bytes(number);
    if number < 0 {
        return Err(failed("seccomp")(io::Error::from_raw_os_error(-number)));
    }
    let descriptor = process::open_pidfd(pid).map_err(failed("pidfd_open"))?;
    let listener = notify::take_descriptor(&descriptor, number).map_err(failed("pidfd_getfd"))?;
    let id = notify::receive(&listener).map_err(failed("SECCOMP_IOCTL_NOTIF_RECV"))?;
    if with_descriptor {
        let null = File::open("/dev/null").map_err(failed("/dev/null"))?;
        notify::answer_with_descriptor(&listener, id, &null).map_err(failed("SECCOMP_IOCTL_NOTIF_ADDFD"))?;
    } else {
        notify::answer(&listener, id, ANSWER).map_err(failed("SECCOMP_IOCTL_NOTIF_SEND"))?;
    }
    match process::wait(pid).map_err(failed("wait"))? {
        0 => Ok(String::new()),
        _ => Err("the caller did not get the answer".to_owned()),
    }
}

fn filter() -> Verdict {
    let program = build(&FilterOptions {
        seekable: vec![0, 1, 2],
        correct_owners: true,
        limit_files: false,
    });
    // In a child, whose calls have nobody to answer them: it must make allowed ones only.
    in_first_process(|| {
        notify::install(&program).map_err(failed("seccomp"))?;
        Ok(format!("{} instructions", program.len()))
    })
}

fn traced(seize: bool) -> Verdict {
    const WORD: u64 = 0x6166_6965_6c64;
    let word = Box::new(std::hint::black_box(WORD));
    let address: *const u64 = &raw const *word;
    let child = process::fork().map_err(failed("fork"))?;
    let Some(pid) = child else {
        loop {
            std::thread::sleep(super::CHECK_TIME_MAX);
        }
    };
    let result = if seize {
        trace::seize(pid)
            .map_err(failed("ptrace"))
            .and_then(|()| trace::interrupt(pid).map_err(failed("ptrace")))
            .and_then(|()| process::wait(pid).map_err(failed("wait")))
            .and_then(|status| match status {
                status if status == 128 + libc::SIGTRAP => Ok(String::new()),
                other => Err(format!("the child did not stop ({other})")),
            })
    } else {
        match trace::read_word(pid, address) {
            Ok(WORD) => Ok(String::new()),
            Ok(other) => Err(format!("read {other:#x}")),
            Err(error) => Err(failed("process_vm_readv")(error)),
        }
    };
    process::kill(pid);
    result
}

fn open_fuse() -> Result<File, String> {
    File::options()
        .read(true)
        .write(true)
        .open(FUSE_DEVICE)
        .map_err(failed("open"))
}

fn fuse_device() -> Verdict {
    open_fuse().map(|_| String::new())
}

fn fuse_mount() -> Verdict {
    const SIZE: u64 = 424_242;
    namespaces::enter(libc::CLONE_NEWNS)?;
    namespaces::make_mounts_private().map_err(failed("making mounts private"))?;
    let mut device = open_fuse().map_err(|why| format!("{FUSE_DEVICE}: {why}"))?;
    fuse::mount(&device, MOUNT_POINT).map_err(failed("mount"))?;
    let child = process::fork().map_err(failed("fork"))?;
    let Some(pid) = child else {
        let size = fs::metadata("/tmp").map_or(0, |metadata| metadata.size());
        process::exit(i32::from(size != SIZE))
    };
    while !process::has_ended(pid) {
        fuse::serve_once(&mut device, SIZE).map_err(failed("/dev/fuse"))?;
    }
    match process::wait(pid).map_err(failed("wait"))? {
        0 => Ok(String::new()),
        _ => Err("the mounted directory does not show".to_owned()),
    }
}

fn proc_mount() -> Verdict {
    namespaces::enter(libc::CLONE_NEWNS | libc::CLONE_NEWPID)?;
    namespaces::make_mounts_private().map_err(failed("making mounts private"))?;
    in_first_process(|| {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        namespaces::mount(c"proc", MOUNT_POINT, c"proc", flags, c"").map_err(failed("mount"))?;
        let link = fs::read_link("/tmp/self").map_err(failed("reading the mount"))?;
        if link == Path::new("1") {
            Ok(String::new())
        } else {
            Err(format!("shows this process as {}", link.display()))
        }
    })
}

fn sys_mount() -> Verdict {
    namespaces::enter(libc::CLONE_NEWNS | libc::CLONE_NEWNET)?;
    namespaces::make_mounts_private().map_err(failed("making mounts private"))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    namespaces::mount(c"sysfs", MOUNT_POINT, c"sysfs", flags, c"").map_err(failed("mount"))?;
    fs::read_dir("/tmp/class")
        .map(|_| String::new())
        .map_err(failed("reading the mount"))
}

fn id_ranges() -> Verdict {
    if rustix::process::geteuid().is_root() {
        return Ok("as root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    for program in ["newuidmap", "newgidmap"] {
        if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
            return Err(format!("no {program}"));
        }
    }
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()))
        .map(|fields| fields[0].to_owned());
    for file in ["/etc/subuid", "/etc/subgid"] {
        let lines = fs::read_to_string(file).map_err(failed(file))?;
        let has_line = lines.lines().any(|line| {
            let owner = line.split(':').next();
            owner == Some(uid.as_str()) || (user.is_some() && owner == user.as_deref())
        });
        if !has_line {
            return Err(format!("no line for you in {file}"));
        }
    }
    Ok(String::new())
}
