//! Nodes that are reached by ssh, and need nothing installed: this program is copied there once, and the remote command's standard
//! streams lead to a node daemon of that account's own. By that channel, which ssh authenticates, home and node learn each other's keys; what
//! goes over it then is what goes over a connection by TCP, and is replaced in the same way when it is lost.
//!
//! The remote command is one script for `sh`. It speaks in lines that begin with [`MARK`], whatever the login shell says
//! besides:
//!
//! | line | meaning |
//! |---|---|
//! | `send` | the program is not there yet: its bytes are to follow |
//! | `key` and a fingerprint | the node's |
//! | `ready` | what follows is the connection |
//! | a word of [`explained`], and more | it cannot be, for this reason |

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use afield_link::secure::Fingerprint;
use ring::digest::{Context, SHA256};

use super::lock;
use crate::sys::daemon;

/// Before each of the script's lines.
const MARK: &str = "afield-bootstrap ";

/// Longest time for ssh to connect and the script to say its first word: a slow login included.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(60);

/// Longest wait for the copy to be accepted, or for each piece of it to be taken.
const COPY_TIME_MAX: Duration = Duration::from_secs(60);

/// Most bytes that a login may say before the script does, and of ssh's own words that are kept.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// The script, without quotes of the kind that are put around it, and without what a login shell other than `sh` could take
/// for its own. `@HASH@` and `@SIZE@` stand for the program's, `@KEY@` for this home's key.
const SCRIPT: &str = r#"LC_ALL=C; export LC_ALL; umask 077;
say() { echo "afield-bootstrap $*"; };
m="$(uname -s) $(uname -m)"; [ "$m" = "Linux x86_64" ] || { say machine "$m"; exit 0; };
command -v sha256sum > /dev/null || { say tool sha256sum; exit 0; };
d="${XDG_CACHE_HOME:-$HOME/.cache}/afield"; mkdir -p "$d" 2> /dev/null;
[ -d "$d" ] && [ -w "$d" ] || { say cache "$d"; exit 0; };
f="$d/node-@HASH@"; sum() { sha256sum 2> /dev/null < "$1" | cut -c 1-64; };
if [ -f "$f" ] && [ "$(sum "$f")" = @HASH@ ]; then :; else
t="$f.$$"; say send;
head -c @SIZE@ > "$t" 2> /dev/null || { rm -f "$t"; say room "$d"; exit 0; };
[ "$(sum "$t")" = @HASH@ ] || { rm -f "$t"; say copy "$d"; exit 0; };
chmod 700 "$t"; mv -f "$t" "$f" || { rm -f "$t"; say cache "$d"; exit 0; };
fi;
"$f" version > /dev/null 2>&1 || { rm -f "$f"; say execute "$d"; exit 0; };
exec "$f" node --bridge @KEY@"#;

/// What a line of the script, other than the two good ones, means.
fn explained(line: &str) -> String {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "machine" => format!(
            "its machine is {rest}, and this program is for Linux x86_64: build afield there, and use `afield node`"
        ),
        "tool" => format!(
            "it has no `{rest}`, by which a copy of this program is checked there: install coreutils, or busybox"
        ),
        "cache" => format!(
            "{rest} cannot be made or written to there: set XDG_CACHE_HOME in that account's environment to a directory that can"
        ),
        "room" => format!(
            "{rest} has no room for a copy of this program: make some, or set XDG_CACHE_HOME in that account's environment"
        ),
        "copy" => format!("the copy of this program in {rest} is not what was sent: try again"),
        "execute" => format!(
            "a program in {rest} cannot be executed there (is it mounted `noexec`?): set XDG_CACHE_HOME in that account's \
             environment to a directory where it can"
        ),
        "failed" => format!("it could not begin there: {rest}"),
        _ => format!("an unexpected answer: {line}"),
    }
}

/// Why there is no node.
#[derive(Debug)]
pub struct Refusal {
    /// What happened, and a way out.
    pub why: String,
    /// Ssh would have to ask the user something.
    pub asks: bool,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, asks: false }
    }
}

/// What ssh said before it ended, and what helps.
fn ssh_failed(destination: &str, words: &str) -> Refusal {
    let last: Vec<&str> = words
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let shown = last[last.len().saturating_sub(2)..].join("; ");
    let asks = words.contains("Host key verification failed") || words.contains("Permission denied");
    let why = if words.contains("Host key verification failed") {
        format!(
            "ssh does not know that machine's key, or it has changed ({shown}): `ssh {destination} true` says more, and asks"
        )
    } else if words.contains("Permission denied") {
        format!(
            "ssh could not log in without a question ({shown}): use a key that `ssh-add` has loaded, or open a connection that others \
             share first (ControlMaster of ssh_config(5)), so that `ssh {destination} true` asks nothing"
        )
    } else if shown.is_empty() {
        "ssh ended without a word".to_owned()
    } else {
        format!("ssh: {shown}")
    };
    Refusal { why, asks }
}

/// Ends a connection that ssh has kept.
pub fn let_go(connection: &Path) {
    let mut command = Command::new("ssh");
    command
        .arg("-S")
        .arg(connection)
        .args(["-O", "exit", "--", "node"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // If it is gone already, so much the better.
    let _ = command.status();
}

/// Has ssh make a connection that it keeps, and ask for it on the terminal what it has to. False if that came to nothing; the user
/// has seen why.
pub fn connect_on_terminal(url: &str, connection: &Path) -> bool {
    let mut command = Command::new("ssh");
    command
        .args(["-T", "-o", "ControlMaster=yes", "-o", "ControlPersist=600", "-S"])
        .arg(connection)
        .args(["--", url, "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// This program, as it is executed now.
struct Program {
    file: File,
    bytes: u64,
    hash: String,
}

impl Program {
    fn own() -> io::Result<Self> {
        let mut file = File::open("/proc/self/exe")?;
        let mut head = vec![0; 4096];
        let count = file.read(&mut head)?;
        head.truncate(count);
        if has_interpreter(&head) {
            return Err(io::Error::other(
                "this program is linked dynamically, so a copy of it need not run elsewhere: build it as its sources say \
                 (`cargo build --release`, which links it statically)",
            ));
        }
        let mut context = Context::new(&SHA256);
        context.update(&head);
        let mut bytes = head.len() as u64;
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            context.update(&piece[..count]);
            bytes += count as u64;
        }
        let hash = context
            .finish()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            file: File::open("/proc/self/exe")?,
            bytes,
            hash,
        })
    }

    fn script(&self, home: Fingerprint) -> String {
        let script = SCRIPT
            .replace("@KEY@", &home.to_string())
            .replace("@HASH@", &self.hash)
            .replace("@SIZE@", &self.bytes.to_string());
        // One line: other shells than sh do not take several between quotes.
        format!("exec sh -c '{}'", script.replace('\n', " "))
    }
}

/// Whether a program needs an interpreter, that is a dynamic linker (`PT_INTERP`).
///
/// # References
/// elf(5)
fn has_interpreter(head: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    };
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return false;
    };
    let kind = |index: u64| number((table + index * size) as usize, 4);
    (0..count).any(|index| kind(index) == Some(u64::from(PT_INTERP)))
}

/// The ssh of a session. To be started by a thread that lives as long as the agent, with whom it dies.
pub struct Login {
    command: Command,
    stream: TcpStream,
    program: Program,
    destination: String,
}

/// A connection to the other machine that is not a link yet.
pub struct Copying {
    stream: TcpStream,
    program: Program,
    destination: String,
    words: Words,
}

/// What ssh, and later the node, says on its standard error.
#[derive(Clone, Default)]
struct Words {
    text: Arc<Mutex<String>>,
}

impl Login {
    /// Prepares `ssh` as the user has it: found in the `PATH` of `environment`, which is its own. It uses a connection that
    /// is kept in `connection`, if there is one.
    pub fn new(
        destination: &str,
        environment: &[Vec<u8>],
        connection: &Path,
        home: Fingerprint,
    ) -> io::Result<Self> {
        let program = Program::own()?;
        let (ours, theirs) = connected_pair()?;
        let input: OwnedFd = theirs.into();
        let output = input.try_clone()?;
        let mut command = Command::new("ssh");
        command.env_clear();
        for pair in environment {
            if let Some(end) = pair.iter().position(|byte| *byte == b'=') {
                command.env(
                    OsStr::from_bytes(&pair[..end]),
                    OsStr::from_bytes(&pair[end + 1..]),
                );
            }
        }
        command.args([
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=20",
            "-o",
            "ServerAliveInterval=15",
        ]);
        if connection.exists() {
            command.arg("-S").arg(connection);
        }
        command
            .arg("--")
            .arg(destination)
            .arg(program.script(home))
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::piped());
        daemon::end_with_starter(&mut command);
        Ok(Self {
            command,
            stream: ours,
            program,
            destination: destination.to_owned(),
        })
    }

    /// Starts it.
    pub fn start(mut self) -> io::Result<(Child, Copying)> {
        let mut child = self.command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other("there is no program `ssh` in PATH: install OpenSSH's client")
            }
            _ => io::Error::new(error.kind(), format!("ssh: {error}")),
        })?;
        let words = Words::default();
        if let Some(stderr) = child.stderr.take() {
            words.listen(stderr, &self.destination)?;
        }
        let copying = Copying {
            stream: self.stream,
            program: self.program,
            destination: self.destination,
            words,
        };
        Ok((child, copying))
    }
}

/// Two ends of one connection, of the kind that links run over. Nobody else can come in between: whoever it is has another address.
fn connected_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let expected = ours.local_addr()?;
    loop {
        let (theirs, address) = listener.accept()?;
        if address == expected {
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
}

impl Copying {
    /// Sees to it that the node is there. The stream leads to its daemon then, which has this key.
    ///
    /// # Errors
    /// In words, with a way out.
    pub fn finish(mut self) -> Result<(TcpStream, Fingerprint), Refusal> {
        let deadline = Instant::now() + LOGIN_TIME_MAX;
        let mut line = self.line(deadline)?;
        if line == "send" {
            // If it does not take all of it, it says why.
            let _ = self.copy();
            line = self.line(Instant::now() + COPY_TIME_MAX)?;
        }
        let key = match line.strip_prefix("key ").map(str::parse) {
            Some(Ok(key)) => key,
            _ => return Err(explained(&line).into()),
        };
        line = self.line(deadline)?;
        if line != "ready" {
            return Err(explained(&line).into());
        }
        let free = self
            .stream
            .set_read_timeout(None)
            .and_then(|()| self.stream.set_write_timeout(None));
        free.map_err(|error| error.to_string())?;
        Ok((self.stream, key))
    }

    fn copy(&mut self) -> io::Result<()> {
        self.stream.set_write_timeout(Some(COPY_TIME_MAX))?;
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = self.program.file.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            self.stream.write_all(&piece[..count])?;
        }
    }

    /// The script's next line. Not a byte behind it is taken.
    fn line(&mut self, deadline: Instant) -> Result<String, Refusal> {
        let mut line = Vec::new();
        let mut said = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the login took too long".to_owned().into());
            }
            let mut byte = [0];
            let got = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut byte));
            match got {
                Ok(0) => return Err(ssh_failed(&self.destination, &self.words.last())),
                Ok(_) if byte[0] == b'\n' => {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    if let Some(words) = text.strip_prefix(MARK) {
                        return Ok(afield_link::wire::presentable(words));
                    }
                    line.clear();
                }
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error.to_string().into()),
            }
            said += 1;
            if said > WORDS_BYTES_MAX {
                return Err("the login says too much".to_owned().into());
            }
        }
    }
}

impl Words {
    /// Takes down what is said, until its end.
    fn listen(&self, mut stderr: ChildStderr, destination: &str) -> io::Result<()> {
        let (text, destination) = (Arc::clone(&self.text), destination.to_owned());
        super::spawn("ssh", move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut piece) {
                let said = String::from_utf8_lossy(&piece[..count]);
                tracing::info!("{destination}: {}", said.trim_end());
                let mut text = lock(&text);
                if text.len() < WORDS_BYTES_MAX {
                    text.push_str(&said);
                }
            }
        })
    }

    /// All that was said, when there will be no more or a moment later.
    fn last(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(1);
        // The thread has its own reference until the end.
        while Arc::strong_count(&self.text) > 1 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        afield_link::wire::presentable_lines(&lock(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_can_stand_between_quotes() {
        assert!(!SCRIPT.contains(['\'', '!', '\\']));
        for line in SCRIPT.lines() {
            assert!(
                line.ends_with([';', '"']) || line.ends_with("else") || line.ends_with("@KEY@"),
                "{line}"
            );
        }
    }

    #[test]
    fn dynamic_programs_are_known() {
        let head = |path: &str| std::fs::read(path).unwrap()[..4096].to_vec();
        assert!(has_interpreter(&head("/bin/sh")));
        assert!(!has_interpreter(&head("/proc/self/exe")));
        assert!(!has_interpreter(b"\x7fELF"));
        assert!(!has_interpreter(&[0xff; 100]));
    }

    #[test]
    fn failures_say_what_helps() {
        let said = |words: &str| ssh_failed("h", words);
        assert!(
            said("x\nme@h: Permission denied (publickey).\n")
                .why
                .contains("ssh-add")
        );
        assert!(
            said("Host key verification failed.\n")
                .why
                .contains("`ssh h true`")
        );
        assert!(said("Host key verification failed.\n").asks && !said("lost").asks);
        assert_eq!(said("a\n\nb\nc\n").why, "ssh: b; c");
        assert!(explained("machine Linux aarch64").contains("Linux aarch64"));
        assert!(explained("nonsense").contains("unexpected"));
    }
}
