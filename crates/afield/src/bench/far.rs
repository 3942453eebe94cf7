//! A node of its own behind a relay that delays, and a home that trusts it: keys, configuration and what is kept are in a directory of
//! theirs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::delay::Line;
use super::own_program;
use crate::failure::Failure;

/// What the node is called at its home.
pub const NAME: &str = "far";

/// Bytes of one write of a plain copy.
const BLOCK_BYTES: usize = 256 << 10;

/// A program that ends when this is dropped.
pub struct Program(Child);

impl Program {
    /// Starts it, and waits for its first line.
    fn start(mut command: Command) -> Result<(Self, String), Failure> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::own)?;
        let mut program = Self(child);
        let mut line = String::new();
        if let Some(output) = program.0.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(Failure::own)?;
        }
        match line.trim_end() {
            "" => Err(Failure::own(format!("{command:?} has not begun"))),
            line => Ok((program, line.to_owned())),
        }
    }

    /// Starts a relay; where it listens.
    pub fn relay(target: &str, line: Line) -> Result<(Self, String), Failure> {
        let mut command = Command::new(own_program()?);
        let microseconds = line.delay.as_micros().to_string();
        command.args(["bench-delay", "127.0.0.1:0", target, &microseconds]);
        command.args(line.rate.map(|rate| rate.to_string()));
        Self::start(command)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node and the relay, which end when dropped, and their directory, which is removed then.
pub struct Far {
    /// What lies between.
    pub line: Line,
    place: PathBuf,
    /// In the order in which they end.
    _relay: Program,
    _node: Program,
}

impl Far {
    /// Starts them.
    pub fn new(line: Line) -> Result<Self, Failure> {
        let place = std::env::temp_dir().join(format!("afield-bench-far-{}", std::process::id()));
        fs::create_dir(&place).map_err(Failure::own)?;
        for side in ["home", "node"] {
            fs::create_dir_all(place.join(side)).map_err(Failure::own)?;
        }
        let key = |side| said(side_command(&place, side, &["key", "--fingerprint"])?);
        let (home_key, node_key) = (key("home")?, key("node")?);
        said(side_command(&place, "node", &["trust", "admit", &home_key])?)?;
        let daemon = side_command(&place, "node", &["node", "--listen", "127.0.0.1:0"])?;
        let (node, said_first) = Program::start(daemon)?;
        let address = said_first.strip_prefix("listening on ").unwrap_or(&said_first);
        let (relay, relayed) = Program::relay(address, line)?;
        said(side_command(
            &place,
            "home",
            &["trust", "add", NAME, &relayed, &node_key],
        )?)?;
        Ok(Self {
            line,
            place,
            _relay: relay,
            _node: node,
        })
    }

    /// Makes a command one of that home.
    pub fn enter(&self, command: &mut Command) {
        enter(&self.place, "home", command);
    }

    /// Removes what the node has kept.
    pub fn forget(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.place.join("node/kept")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Its agent has nothing more to do, and ends by itself if it cannot be told.
        let _ = side_command(&self.place, "home", &["agent", "stop", "--force"]).and_then(said);
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// Has a command find everything of its own under a side's directory.
fn enter(place: &Path, side: &str, command: &mut Command) {
    let side = place.join(side);
    command
        .env("XDG_CONFIG_HOME", &side)
        .env("AFIELD_RUNTIME_DIR", side.join("run"))
        .env("AFIELD_CONTENTS_DIRECTORY", side.join("kept"))
        .env("AFIELD_FILES_ASKED", side.join("asked"));
}

fn side_command(place: &Path, side: &str, words: &[&str]) -> Result<Command, Failure> {
    let program: OsString = own_program()?;
    let mut command = Command::new(program);
    command.args(words);
    enter(place, side, &mut command);
    Ok(command)
}

/// What a program prints.
fn said(mut command: Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::own)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(Failure::own(format!("{command:?} ended with {}", output.status))),
    }
}

/// Nanoseconds in which so many bytes go over such a connection, to the answer that they have come; and are on the disk, if they are
/// written to a file.
pub fn copy(bytes: u64, line: Line, mut into: Option<File>) -> io::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let target = listener.local_addr()?.to_string();
    let (_relay, address) = Program::relay(&target, line).map_err(io::Error::other)?;
    let taker = std::thread::spawn(move || -> io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut left = bytes;
        while left > 0 {
            match socket.read(&mut block)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    if let Some(file) = &mut into {
                        file.write_all(&block[..count])?;
                    }
                    left -= (count as u64).min(left);
                }
            }
        }
        if let Some(file) = into {
            file.sync_all()?;
        }
        socket.write_all(&[1])
    });
    let mut socket = TcpStream::connect(&address)?;
    let block = vec![7; BLOCK_BYTES];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let count = (block.len() as u64).min(left);
        socket.write_all(&block[..count as usize])?;
        left -= count;
    }
    socket.read_exact(&mut [0])?;
    let time = start.elapsed().as_nanos() as f64;
    match taker.join() {
        Ok(result) => result.map(|()| time),
        Err(_) => Err(io::Error::other("the taker has failed")),
    }
}
