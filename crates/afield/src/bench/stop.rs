//! How long a process computes after it has been sent `SIGSTOP`.
//!
//! The process reads the clock all the time. Once it has been continued it says when it did so last before the pause; the
//! monotonic clock of a guest is home's.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::failure::Failure;

/// How long the process is stopped. Less than that between two looks at the clock is no stop.
const PAUSE: Duration = Duration::from_millis(600);
const GAP_NS: i64 = 250_000_000;

/// Less counts as this.
const SHORTEST_NS: f64 = 1000.0;

/// The monotonic clock, in nanoseconds.
fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// What the process does; gives the time of its last look before the pause.
pub fn compute() -> f64 {
    println!("ready");
    let mut last = now();
    loop {
        let time = now();
        if time - last > GAP_NS {
            return last as f64;
        }
        last = time;
    }
}

/// Starts the process by these words, stops and continues it; nanoseconds from the signal to the process's last look.
pub fn measure(words: &[OsString]) -> Result<f64, Failure> {
    let mut child = super::command(words)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::own)?;
    let result = (|| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (Some(pid), Some(output)) = (pid, child.stdout.take()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut output = BufReader::new(output);
        output.read_line(&mut String::new())?;
        // Not always at the same time of whatever somebody does periodically.
        std::thread::sleep(Duration::from_millis(
            50 + (now() % 100_000_000) as u64 / 1_000_000,
        ));
        let sent = now();
        kill_process(pid, Signal::STOP)?;
        std::thread::sleep(PAUSE);
        kill_process(pid, Signal::CONT)?;
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        let last: f64 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        // It may have been preempted when the signal was sent.
        Ok((last - sent as f64).max(SHORTEST_NS))
    })();
    if result.is_err() {
        // It may be stopped still, or compute for ever.
        let _ = child.kill();
    }
    let _ = child.wait();
    result.map_err(|error: io::Error| Failure::own(format!("{words:?}: {error}")))
}
