//! `afield ps`.

use std::io::IsTerminal;

use afield_home::agent::client::{self, Process, State};
use afield_home::agent::trips::{Cause, Count};
use serde_json::json;

use super::agent::{clock, since};
use super::explain::key;
use super::output;
use crate::config::Settings;
use crate::failure::Failure;

/// Lists the processes that are afield.
pub fn ps(settings: &Settings, as_json: bool) -> Result<u8, Failure> {
    let processes = client::ps(&settings.runtime())?;
    let text = if as_json {
        format!(
            "{:#}\n",
            processes.iter().map(object).collect::<serde_json::Value>()
        )
    } else {
        let stdout = std::io::stdout();
        let columns = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        table(&processes, columns)
    };
    output(&text)?;
    Ok(0)
}

fn state(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Stopped => "stopped",
    }
}

fn trips(process: &Process) -> u64 {
    process.trips.iter().map(|count| count.trips).sum()
}

fn by_cause(trips: &[Count; 4]) -> serde_json::Value {
    let named = Cause::ALL.into_iter().zip(trips);
    named
        .map(|(cause, count)| (key(cause).to_owned(), count.trips.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn object(process: &Process) -> serde_json::Value {
    json!({
        "pid": process.pid,
        "job": process.job,
        "command": process.command,
        "node": process.node,
        "state": state(process.state),
        "round_trips": by_cause(&process.trips),
        "started_ms": process.started_ms,
    })
}

/// Lines, cut to the terminal's width if there is one.
fn table(processes: &[Process], columns: Option<usize>) -> String {
    let width = |heading: &str, text: fn(&Process) -> usize| {
        processes
            .iter()
            .map(text)
            .chain([heading.len()])
            .max()
            .unwrap_or(0)
    };
    let pid = width("PID", |process| process.pid.to_string().len());
    let node = width("NODE", |process| process.node.chars().count());
    let trips = width("TRIPS", |process| trips(process).to_string().len());
    let time = width("TIME", |process| clock(since(process.started_ms)).len());
    let mut text = String::new();
    let mut line = |fields: [&str; 6]| {
        let [f_pid, f_node, f_state, f_trips, f_time, f_command] = fields;
        let full = format!(
            "{f_pid:>pid$} {f_node:<node$} {f_state:<8} {f_trips:>trips$} {f_time:>time$} {f_command}"
        );
        text.extend(full.chars().take(columns.unwrap_or(usize::MAX)));
        text.push('\n');
    };
    line(["PID", "NODE", "STATE", "TRIPS", "TIME", "COMMAND"]);
    for process in processes {
        let command: String = process
            .command
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        line([
            &process.pid.to_string(),
            &process.node,
            state(process.state),
            &self::trips(process).to_string(),
            &clock(since(process.started_ms)),
            &command,
        ]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_cut() {
        let process = Process {
            pid: 4711,
            job: 4711,
            command: "cc1 -O2\nx.c".to_owned(),
            node: "embedded".to_owned(),
            state: State::Running,
            trips: [3, 4, 5, 0].map(|trips| Count { trips, bytes: 0 }),
            started_ms: u64::MAX,
        };
        let text = table(std::slice::from_ref(&process), None);
        assert_eq!(
            text,
            " PID NODE     STATE    TRIPS  TIME COMMAND\n4711 embedded running     12 00:00 cc1 -O2?x.c\n"
        );
        assert!(
            table(&[process], Some(20))
                .lines()
                .all(|line| line.chars().count() <= 20)
        );
        assert_eq!(table(&[], None).lines().count(), 1);
    }
}
