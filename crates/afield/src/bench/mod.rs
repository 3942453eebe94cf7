//! `afield bench`: what computing afield costs, each figure next to a floor measured in the same run.
//!
//! The work is done by this program itself (`afield bench-work NAME`), natively and afield in turn, so that a machine whose
//! speed drifts slows both down. Medians and ratios count; single figures of a shared machine mean little.

mod delay;
mod far;
mod figure;
mod files;
mod floor;
mod link;
mod project;
mod rpc;
mod sealed;
mod sockets;
mod stop;
mod work;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;
use crate::sys;
pub use delay::{Line, relay_with_delay};
use far::Far;
use figure::{Figure, Unit};
use files::Files;
use project::Project;
use sockets::Side;
pub use sockets::relay_to;
pub use work::do_work;

/// Options of `afield bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "Names: null cpu pipe futex stat open write fork start make stop, and of sockets\n\
                  requests accept send receive ping1 ping4k ping64k, and of the link alone\n\
                  link-ping link-bulk link-calls link-resume.\n\
                  Only if named: files, which is session python cold-python compile cold-compile untar status\n\
                  grep read fill random storm; rpc, where the time of a call to a node goes, stage by stage.\n\n\
                  Prints medians and that of pairwise ratios, afield by floor: less is better of times, not of rates."
)]
pub struct Bench {
    /// What to measure [default: all]
    #[arg(value_name = "NAME", hide_possible_values = true)]
    pub names: Vec<Name>,
    /// Where the afield side runs [default: embedded]
    #[arg(long, value_name = "NODE")]
    pub on: Option<String>,
    /// For files and sockets: on a node of its own, so far away each way
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub delay: Option<u32>,
    /// With a delay: over a link of so many megabits in a second, each way
    #[arg(long, value_name = "MBIT", requires = "delay", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: Option<u32>,
    /// Pairs of runs
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Forwarded null call against a ping-pong of 100 bytes between two processes over the same transport
    Null,
    /// A computing loop against the same natively
    Cpu,
    /// Ping-pong over private pipes between two guests
    Pipe,
    /// Ping-pong over a futex between two threads of a guest
    Futex,
    /// `stat` of one file again and again
    Stat,
    /// Open, read 4 KiB, close
    Open,
    /// Writes of 4 KiB to a file
    Write,
    /// fork, exit and wait
    Fork,
    /// Start of `true` against fork and exec of `true`
    Start,
    /// `make -j2` of a small C project (needs make and cc)
    Make,
    /// How long a process still computes after SIGSTOP
    Stop,
    /// Requests to a server, 64 bytes each way, over 16 connections
    Requests,
    /// Connections to a server, one after the other, a request on each
    Accept,
    /// 256 MiB from a server, in writes of 64 KiB
    Send,
    /// 256 MiB to a server, in reads of 64 KiB
    Receive,
    /// write and read of 1 byte that a native peer sends back
    Ping1,
    /// The same with 4 KiB
    Ping4k,
    /// The same with 64 KiB
    Ping64k,
    /// 64 bytes to and fro over the encrypted link, against TCP
    LinkPing,
    /// 512 MiB one way over the link, in frames of 256 KiB
    LinkBulk,
    /// Calls of 64 bytes over the link, 1,000 at a time
    LinkCalls,
    /// From the loss of a connection to the answer over the next, against connecting
    LinkResume,
    /// Where the time of a null call to the node goes, stage by stage (only if named)
    Rpc,
    /// All of the following (only if named)
    Files,
    /// `true` in a session that has to be made for it, on a node that has kept nothing
    Session,
    /// Start of `python3`, again
    Python,
    /// The same on a node that has kept nothing, in a session that is there
    ColdPython,
    /// `cc -c` of a small file, again
    Compile,
    /// The same on a node that has kept nothing
    ColdCompile,
    /// `tar -x` of 2,000 small files
    Untar,
    /// `git status` of 2,000 files, again
    Status,
    /// `grep -r` through 2,000 files, again
    Grep,
    /// 256 MiB of a new file from its beginning to its end
    Read,
    /// 256 MiB to a new file, with `fsync`
    Fill,
    /// 2,000 reads of 4 KiB in a new file
    Random,
    /// 500 files made, looked at, renamed and removed
    Storm,
}

impl Name {
    /// Its name on the command line.
    fn text(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What it is compared with, in the order in which that is measured.
    fn floors(self) -> &'static [&'static str] {
        match self {
            Self::Null => &["ping-pong over the transport"],
            Self::Start => &["fork and exec"],
            _ if self.is_stream() => &["copy over the link", "native"],
            Self::LinkBulk => &["TCP", "TCP with AES", "link without encryption"],
            _ if self.is_link() => &["TCP", "link without encryption"],
            _ if self.has_sockets() => &["relay", "native"],
            _ => &["native"],
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::Requests | Self::Accept | Self::LinkCalls => Unit::PerSecond,
            Self::Send | Self::Receive | Self::LinkBulk => Unit::BytesPerSecond,
            _ => Unit::Nanoseconds,
        }
    }

    fn is_ping(self) -> bool {
        matches!(self, Self::Ping1 | Self::Ping4k | Self::Ping64k)
    }

    /// A file from end to end.
    fn is_stream(self) -> bool {
        matches!(self, Self::Read | Self::Fill)
    }

    /// Those that [`Files`](Self::Files) stands for.
    const FILES: &[Self] = &[
        Self::Session,
        Self::Python,
        Self::ColdPython,
        Self::Compile,
        Self::ColdCompile,
        Self::Untar,
        Self::Status,
        Self::Grep,
        Self::Read,
        Self::Fill,
        Self::Random,
        Self::Storm,
    ];

    /// It has to be named to be measured.
    fn is_special(self) -> bool {
        matches!(self, Self::Rpc | Self::Files) || Self::FILES.contains(&self)
    }

    fn is_link(self) -> bool {
        matches!(
            self,
            Self::LinkPing | Self::LinkBulk | Self::LinkCalls | Self::LinkResume
        )
    }

    fn has_sockets(self) -> bool {
        !self.is_link() && (self.is_ping() || self.unit() != Unit::Nanoseconds)
    }
}

/// Runs the benchmarks and prints what they found.
pub fn bench(options: &Bench) -> Result<(), Failure> {
    let names = if options.names.is_empty() {
        let figures = Name::value_variants().iter().copied();
        figures.filter(|name| !name.is_special()).collect()
    } else {
        let all = |name: &Name| match name {
            Name::Files => Name::FILES.to_vec(),
            name => vec![*name],
        };
        options.names.iter().flat_map(all).collect::<Vec<_>>()
    };
    let of_files = names.iter().filter(|name| Name::FILES.contains(name)).count();
    let can_be_far = names
        .iter()
        .all(|name| Name::FILES.contains(name) || name.has_sockets());
    if options.delay.is_some() && (!can_be_far || options.on.is_some()) {
        return Err(Failure::own(
            "--delay goes with sockets, with `files` and what that stands for, and has a node of its own",
        ));
    }
    let line = options.delay.map(|delay| Line {
        delay: Duration::from_millis(delay.into()),
        rate: options
            .rate
            .and_then(|rate| NonZeroU64::new(u64::from(rate) * 125_000)),
    });
    let far = line.map(Far::new).transpose()?;
    let on = match &far {
        Some(_) => far::NAME,
        None => options.on.as_deref().unwrap_or("embedded"),
    };
    // A server that ends is a failure of what is measured, and a reader that has gone ends it too.
    sys::process::ignore_broken_pipes();
    let mut output = io::stdout();
    // The agent and the world are there before anything counts.
    if !names.iter().all(|name| name.is_link()) && options.delay.is_none() {
        run_once(&afield(on, &[OsString::from("true")])?)?;
    }
    let files = (of_files > 0).then(|| Files::new(on, far.as_ref())).transpose()?;
    let mut figures = Vec::new();
    for name in names {
        if name == Name::Rpc {
            rpc::bench(on, options.runs, options.json)?;
            continue;
        }
        let figure = match files.as_ref().filter(|_| Name::FILES.contains(&name)) {
            Some(files) => {
                let values: Result<Vec<_>, Failure> =
                    (0..options.runs).map(|_| files.measure(name)).collect();
                Figure::new(name, &files.floors(name), &values?)
            }
            None => measure(name, on, far.as_ref(), options.runs)?,
        };
        if !options.json {
            if figures.is_empty() {
                Figure::write_head(&mut output).map_err(Failure::own)?;
            }
            figure.write(&mut output).map_err(Failure::own)?;
        }
        figures.push(figure);
    }
    if options.json && !figures.is_empty() {
        let text = serde_json::to_string_pretty(&figures).map_err(Failure::own)?;
        writeln!(output, "{text}").map_err(Failure::own)?;
    }
    Ok(())
}

fn measure(name: Name, on: &str, far: Option<&Far>, runs: u32) -> Result<Figure, Failure> {
    let project = (name == Name::Make)
        .then(Project::new)
        .transpose()
        .map_err(Failure::own)?;
    let values: Result<Vec<_>, Failure> = (0..runs).map(|_| run(name, on, far, project.as_ref())).collect();
    Ok(Figure::new(name, name.floors(), &values?))
}

/// Measures the floors, and then afield.
fn run(name: Name, on: &str, far: Option<&Far>, project: Option<&Project>) -> Result<Vec<f64>, Failure> {
    if name.is_link() {
        use link::Way;
        let ways = [Way::Raw, Way::Sealed, Way::Plain, Way::Secure].into_iter();
        let ways = ways.filter(|way| *way != Way::Sealed || name == Name::LinkBulk);
        let values: io::Result<_> = ways.map(|way| link::measure(name, way)).collect();
        return values.map_err(Failure::own);
    }
    if name.has_sockets() {
        let sides = [Side::Relay, Side::Native, Side::Afield].into_iter();
        return sides.map(|side| sockets::measure(name, side, on, far)).collect();
    }
    if matches!(name, Name::Start | Name::Make) {
        let words = match project {
            Some(project) => {
                let make = program(["make", "-s", "-j2", "-C"]).into_iter();
                make.chain([project.directory().into()]).collect()
            }
            None => program(["true"]),
        };
        let timed = |words: &[OsString]| {
            project.map_or(Ok(()), Project::clean).map_err(Failure::own)?;
            time(words)
        };
        return Ok(vec![timed(&words)?, timed(&afield(on, &words)?)?]);
    }
    let command = own(name)?;
    let away = afield(on, &command)?;
    Ok(match name {
        Name::Stop => vec![stop::measure(&command)?, stop::measure(&away)?],
        Name::Null => vec![
            floor::ping_pong(on == "embedded").map_err(Failure::own)?,
            report_of(&away)?,
        ],
        _ => vec![report_of(&command)?, report_of(&away)?],
    })
}

fn own_program() -> Result<OsString, Failure> {
    Ok(std::env::current_exe().map_err(Failure::own)?.into_os_string())
}

fn program<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

fn own(work: Name) -> Result<Vec<OsString>, Failure> {
    Ok(vec![own_program()?, "bench-work".into(), work.text().into()])
}

fn afield(on: &str, command: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let mut words = vec![own_program()?];
    words.extend(["run", "--on", on, "--"].map(OsString::from));
    words.extend_from_slice(command);
    Ok(words)
}

fn command(words: &[OsString]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

fn run_once(words: &[OsString]) -> Result<(), Failure> {
    let status = command(words).status().map_err(Failure::own)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::own(format!("{words:?} ended with {status}")))
    }
}

/// Wall time of a command, in nanoseconds.
fn time(words: &[OsString]) -> Result<f64, Failure> {
    let start = Instant::now();
    run_once(words)?;
    Ok(start.elapsed().as_nanos() as f64)
}

/// What a work process says: nanoseconds of one operation.
fn report_of(words: &[OsString]) -> Result<f64, Failure> {
    report_of_command(command(words))
}

fn report_of_command(mut command: Command) -> Result<f64, Failure> {
    let output = command.stderr(Stdio::inherit()).output().map_err(Failure::own)?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(ns) if output.status.success() => Ok(ns),
        _ => Err(Failure::own(format!(
            "{command:?} ended with {} and said {text:?}",
            output.status
        ))),
    }
}
