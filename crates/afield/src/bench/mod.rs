//! `afield bench`: what computing afield costs, each figure next to a floor measured in the same run.
//!
//! The work is done by this program itself (`afield bench-work NAME`), natively and afield in turn, so that a machine whose
//! speed drifts slows both down. Medians and ratios count; single figures of a shared machine mean little.

mod floor;
mod project;
mod stop;
mod work;

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;
use project::Project;
pub use work::do_work;

/// Options of `afield bench`.
#[derive(Debug, Args)]
#[command(after_help = "Prints medians and the median of pairwise ratios: afield divided by the floor.")]
pub struct Bench {
    /// Some of null cpu pipe futex stat open write fork start make stop
    #[arg(value_name = "NAME", hide_possible_values = true)]
    pub names: Vec<Name>,
    /// Where the afield side runs [default: embedded]
    #[arg(long, value_name = "NODE")]
    pub on: Option<String>,
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
}

impl Name {
    const ALL: [Self; 11] = [
        Self::Null,
        Self::Cpu,
        Self::Pipe,
        Self::Futex,
        Self::Stat,
        Self::Open,
        Self::Write,
        Self::Fork,
        Self::Start,
        Self::Make,
        Self::Stop,
    ];

    /// Its name on the command line.
    fn text(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn floor_is(self) -> &'static str {
        match self {
            Self::Null => "ping-pong over the transport",
            Self::Start => "fork and exec",
            _ => "native",
        }
    }
}

/// A result.
#[derive(Debug, Serialize)]
struct Figure {
    name: Name,
    floor: &'static str,
    /// Median nanoseconds of one operation on the floor.
    floor_ns: f64,
    /// Median nanoseconds of one operation afield.
    afield_ns: f64,
    /// Median of the ratios of each pair.
    ratio: f64,
    /// Smallest and largest ratio.
    ratio_range: (f64, f64),
}

/// Runs the benchmarks and prints what they found.
pub fn bench(options: &Bench) -> Result<(), Failure> {
    let names = if options.names.is_empty() {
        Name::ALL.to_vec()
    } else {
        options.names.clone()
    };
    let on = options.on.as_deref().unwrap_or("embedded");
    // The agent and the world are there before anything counts.
    run_once(&afield(on, &[OsString::from("true")])?)?;
    let mut figures = Vec::new();
    for name in names {
        let figure = measure(name, on, options.runs)?;
        if !options.json {
            if figures.is_empty() {
                println!(
                    "{:<8} {:>14} {:>14} {:>8}  {:<17} floor",
                    "", "floor", "afield", "ratio", "range"
                );
            }
            println!(
                "{:<8} {:>14} {:>14} {:>8.2}  {:>7.2} – {:<7.2} {}",
                format!("{name:?}").to_lowercase(),
                duration(figure.floor_ns),
                duration(figure.afield_ns),
                figure.ratio,
                figure.ratio_range.0,
                figure.ratio_range.1,
                figure.floor,
            );
        }
        figures.push(figure);
    }
    if options.json {
        let text = serde_json::to_string_pretty(&figures).map_err(Failure::own)?;
        println!("{text}");
    }
    Ok(())
}

fn measure(name: Name, on: &str, runs: u32) -> Result<Figure, Failure> {
    let (mut floors, mut afields, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let project = (name == Name::Make)
        .then(Project::new)
        .transpose()
        .map_err(Failure::own)?;
    for _ in 0..runs {
        let (floor, away) = match name {
            Name::Make if let Some(project) = &project => {
                let make = program(["make", "-s", "-j2", "-C"]).into_iter();
                let make: Vec<OsString> = make.chain([project.directory().into()]).collect();
                let timed = |words: &[OsString]| {
                    project.clean().map_err(Failure::own)?;
                    time(words)
                };
                (timed(&make)?, timed(&afield(on, &make)?)?)
            }
            Name::Start | Name::Make => (
                time(&program(["true"]))?,
                time(&afield(on, &[OsString::from("true")])?)?,
            ),
            Name::Stop => {
                let command = own(name)?;
                (stop::measure(&command)?, stop::measure(&afield(on, &command)?)?)
            }
            _ => {
                let floor = if name == Name::Null {
                    floor::ping_pong(on == "embedded").map_err(Failure::own)?
                } else {
                    report_of(&own(name)?)?
                };
                (floor, report_of(&afield(on, &own(name)?)?)?)
            }
        };
        floors.push(floor);
        afields.push(away);
        ratios.push(away / floor);
    }
    let range = (
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    );
    Ok(Figure {
        name,
        floor: name.floor_is(),
        floor_ns: median(&mut floors),
        afield_ns: median(&mut afields),
        ratio: median(&mut ratios),
        ratio_range: range,
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

fn duration(ns: f64) -> String {
    if ns < 1e3 {
        format!("{ns:.0} ns")
    } else if ns < 1e6 {
        format!("{:.2} µs", ns / 1e3)
    } else {
        format!("{:.2} ms", ns / 1e6)
    }
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
    let output = command(words)
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::own)?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(ns) if output.status.success() => Ok(ns),
        _ => Err(Failure::own(format!(
            "{words:?} ended with {} and said {text:?}",
            output.status
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn durations_choose_their_unit() {
        assert_eq!(duration(250.0), "250 ns");
        assert_eq!(duration(2500.0), "2.50 µs");
        assert_eq!(duration(2_500_000.0), "2.50 ms");
    }
}
