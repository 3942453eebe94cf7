//! The usual way to compute on another machine with the files of this one: the program runs there natively, in home's
//! directory mounted by sshfs, over a connection as long as the node's.
//!
//! Nothing of the machine's own ssh is used: the server answers one connection and ends with it, and keys and configuration are in a
//! directory that is removed at the end. The server of root wants a directory for itself among the system's, which may not be there
//! and is not for a benchmark to make. One that is not root needs none, so root's runs in a user namespace in which root is `nobody`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{getegid, geteuid};

use super::super::delay::Line;
use super::super::far::Program;
use crate::doctor::FUSE_DEVICE;

/// Longest wait for a mount to be there. At the longest delay logging in takes some twenty seconds.
const MOUNT_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a program that should end by itself.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks.
const STEP: Duration = Duration::from_millis(5);
/// Most bytes of what the programs said that are repeated.
const SAID_BYTES_MAX: u64 = 500;
/// Who root is where the server runs.
const NOBODY: &str = "nobody";
/// Where servers are that an ordinary user's `PATH` does not name.
const SERVER_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Why there is no directory mounted by sshfs.
#[derive(Debug, thiserror::Error)]
pub enum SshfsError {
    /// Not installed
    #[error("{0} is not installed")]
    Missing(&'static str),
    /// The device cannot be used
    #[error("{FUSE_DEVICE}: {0}")]
    Device(io::Error),
    /// A program that is needed has failed
    #[error("{program} ended with {status} and said {said:?}")]
    Ended {
        program: &'static str,
        status: ExitStatus,
        said: String,
    },
    /// It takes too long
    #[error("sshfs has mounted nothing in {} s and said {said:?}", MOUNT_TIME_MAX.as_secs())]
    Late { said: String },
    /// Anything else
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is needed to mount the directory, which is not mounted yet. Its own directory is removed when this is dropped.
pub struct Sshfs {
    place: Place,
    /// The directory of home.
    shown: PathBuf,
    /// Where the server is reached.
    listener: TcpListener,
    /// Where the connection goes, and what delays it on its way.
    address: SocketAddr,
    _relay: Option<Program>,
    server: PathBuf,
    user: String,
}

impl Sshfs {
    /// Prepares everything for a directory that is so far away each way, and tries it.
    pub fn new(shown: &Path, line: Option<Line>) -> Result<Self, SshfsError> {
        for program in ["sshfs", "ssh", "ssh-keygen", "fusermount3", "setpriv", "id"] {
            find(program)?;
        }
        let server = find("sshd")?;
        File::options()
            .read(true)
            .write(true)
            .open(FUSE_DEVICE)
            .map_err(SshfsError::Device)?;
        let user = if geteuid().is_root() {
            find("unshare")?;
            NOBODY.to_owned()
        } else {
            said("id", &["-un"])?
        };
        let place = Place::new()?;
        place.make_keys()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let mut address = listener.local_addr()?;
        let mut relay = None;
        if let Some(line) = line {
            let (program, relayed) = Program::relay(&address.to_string(), line).map_err(io::Error::other)?;
            address = relayed.parse().map_err(io::Error::other)?;
            relay = Some(program);
        }
        let sshfs = Self {
            place,
            shown: shown.to_owned(),
            listener,
            address,
            _relay: relay,
            server,
            user,
        };
        sshfs.mount()?;
        Ok(sshfs)
    }

    /// Mounts the directory, with nothing of it known there.
    pub fn mount(&self) -> Result<Mount, SshfsError> {
        let log = || File::options().append(true).open(self.place.0.join("log"));
        File::create(self.place.0.join("log"))?;
        let point = self.place.point();
        // If this program is killed, sshfs is told to end, and unmounts.
        let sshfs = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "sshfs", "-f"])
            .args(["-o", "idmap=user", "-p", &self.address.port().to_string()])
            .arg("-F")
            .arg(self.place.0.join("ssh_config"))
            .arg(format!(
                "{}@{}:{}",
                self.user,
                self.address.ip(),
                self.shown.display()
            ))
            .arg(&point)
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()?;
        let mut mount = Mount {
            point,
            sshfs,
            server: None,
        };
        let begin = Instant::now();
        let outside = fs::metadata(&self.place.0)?.dev();
        loop {
            if let Some(status) = mount.sshfs.try_wait()? {
                let said = self.place.said();
                return Err(SshfsError::Ended {
                    program: "sshfs",
                    status,
                    said,
                });
            }
            if mount.server.is_none() {
                match self.listener.accept() {
                    Ok((socket, _)) => mount.server = Some(self.serve(socket, log()?)?),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            } else if fs::metadata(&mount.point)?.dev() != outside {
                return Ok(mount);
            }
            if begin.elapsed() > MOUNT_TIME_MAX {
                let said = self.place.said();
                return Err(SshfsError::Late { said });
            }
            std::thread::sleep(STEP);
        }
    }

    /// Starts a server for one connection.
    fn serve(&self, socket: TcpStream, log: File) -> Result<Child, SshfsError> {
        socket.set_nodelay(true)?;
        let mut command = if geteuid().is_root() {
            let user = format!("--map-user={}", said("id", &["-u", NOBODY])?);
            // The group stays what it is, for programs that give files to it.
            let group = format!("--map-group={}", getegid().as_raw());
            let mut command = Command::new("unshare");
            command.args(["--user", &user, &group, "--"]).arg(&self.server);
            command
        } else {
            Command::new(&self.server)
        };
        let socket = OwnedFd::from(socket);
        Ok(command
            .args(["-i", "-e", "-f"])
            .arg(self.place.0.join("sshd_config"))
            .stdin(socket.try_clone()?)
            .stdout(socket)
            .stderr(log)
            .spawn()?)
    }
}

/// The mounted directory, which is unmounted when this is dropped.
pub struct Mount {
    point: PathBuf,
    sshfs: Child,
    server: Option<Child>,
}

impl Mount {
    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    fn unmount(&self, option: &str) -> bool {
        let mut command = Command::new("fusermount3");
        command.arg(option).arg(&self.point);
        let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Somebody may be in it still.
        let is_unmounted = self.unmount("-u") || self.unmount("-uz");
        end(&mut self.sshfs);
        // Its connection has gone with sshfs.
        if let Some(server) = &mut self.server {
            end(server);
        }
        // It may have been mounted only after the first try.
        if !is_unmounted {
            self.unmount("-uz");
        }
    }
}

/// Waits for a program that should end by itself.
fn end(child: &mut Child) {
    let begin = Instant::now();
    while begin.elapsed() < END_TIME_MAX && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(STEP);
    }
    // Without effect on one that has ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// The directory of keys, configuration, and the mount point.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Self> {
        let place = std::env::temp_dir().join(format!("afield-bench-sshfs-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&place)?;
        let place = Self(place);
        fs::create_dir(place.point())?;
        Ok(place)
    }

    fn point(&self) -> PathBuf {
        self.0.join("mount")
    }

    /// Makes keys of both sides, and configuration by which they know each other and nothing else.
    fn make_keys(&self) -> Result<(), SshfsError> {
        let path = |name: &str| self.0.join(name).display().to_string();
        for name in ["host", "user"] {
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &path(name)];
            said("ssh-keygen", &words)?;
        }
        let host = fs::read_to_string(self.0.join("host.pub"))?;
        fs::write(self.0.join("known"), format!("home {host}"))?;
        let server = format!(
            "HostKey \"{}\"\nAuthorizedKeysFile \"{}\"\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             Subsystem sftp internal-sftp\nForceCommand internal-sftp\nLogLevel ERROR\n",
            path("host"),
            path("user.pub"),
        );
        fs::write(self.0.join("sshd_config"), server)?;
        let client = format!(
            "IdentityFile \"{}\"\nIdentitiesOnly yes\nIdentityAgent none\nPreferredAuthentications publickey\n\
             HostKeyAlias home\nUserKnownHostsFile \"{}\"\nGlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking yes\nBatchMode yes\n",
            path("user"),
            path("known"),
        );
        Ok(fs::write(self.0.join("ssh_config"), client)?)
    }

    /// What the programs have said.
    fn said(&self) -> String {
        let mut text = Vec::new();
        if let Ok(log) = File::open(self.0.join("log")) {
            let _ = log.take(SAID_BYTES_MAX).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // If it is a mount point still this fails, and home's files are not removed through it.
        if fs::remove_dir(self.point()).is_ok() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Where a program is.
fn find(program: &'static str) -> Result<PathBuf, SshfsError> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .chain(SERVER_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or(SshfsError::Missing(program))
}

/// What a program prints.
fn said(program: &'static str, words: &[&str]) -> Result<String, SshfsError> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(SshfsError::Ended {
            program,
            status: output.status,
            said: text(&output.stderr),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Whether a program's words name a directory.
    fn is_named(place: &Path) -> bool {
        let place = place.display().to_string();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
            .any(|words| String::from_utf8_lossy(&words).contains(&place))
    }

    fn is_mounted(place: &Path) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&place.display().to_string())
    }

    #[test]
    fn home_is_there_and_afterwards_nothing_is_left() {
        let home = std::env::temp_dir().join(format!("afield-sshfs-test-{}", std::process::id()));
        fs::create_dir(&home).unwrap();
        let sshfs = match Sshfs::new(&home, None) {
            Ok(sshfs) => sshfs,
            Err(error @ (SshfsError::Missing(_) | SshfsError::Device(_))) => {
                fs::remove_dir(&home).unwrap();
                let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
                assert!(!is_ci, "{error}");
                // Not `eprintln`, which libtest swallows for tests that pass.
                let _ = writeln!(io::stderr(), "SKIP bench::files::sshfs: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let place = sshfs.place.0.clone();
        // The one that was tried has gone.
        assert!(!is_mounted(&place) && !is_named(&place));

        fs::write(home.join("from"), "home").unwrap();
        let mount = sshfs.mount().unwrap();
        assert!(is_mounted(&place) && is_named(&place));
        assert_eq!(fs::read_to_string(mount.point().join("from")).unwrap(), "home");
        fs::write(mount.point().join("to"), "home").unwrap();
        assert_eq!(fs::read_to_string(home.join("to")).unwrap(), "home");
        let (seen, made) = (mount.point().join("to"), home.join("to"));
        assert_eq!(
            fs::metadata(seen).unwrap().uid(),
            fs::metadata(made).unwrap().uid()
        );

        // Also when somebody is in it.
        let file = File::open(mount.point().join("from")).unwrap();
        drop(mount);
        assert!(!is_mounted(&place) && !is_named(&place));
        drop(file);

        // And when sshfs has not survived.
        let mut mount = sshfs.mount().unwrap();
        mount.sshfs.kill().unwrap();
        drop(mount);
        assert!(!is_mounted(&place) && !is_named(&place));

        drop(sshfs);
        assert!(!place.exists());
        assert!(home.join("from").exists());
        fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn failures_say_why() {
        let error = said("ssh-no-such-program", &[]).unwrap_err();
        assert!(matches!(error, SshfsError::Io(_)));
        let error = find("ssh-no-such-program").unwrap_err();
        assert_eq!(error.to_string(), "ssh-no-such-program is not installed");
    }
}
