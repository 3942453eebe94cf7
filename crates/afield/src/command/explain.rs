//! `afield explain`.

use std::fmt::Write as _;
use std::time::Duration;

use afield_home::agent::client;
use afield_home::agent::explain::Explained;
use afield_home::agent::trips::{Cause, Count, Line};
use serde_json::json;

use super::links::{bytes, span};
use super::output;
use crate::config::Settings;
use crate::failure::Failure;

/// Most operations of a cause in the table; the JSON has all.
const OPERATIONS_MAX: usize = 6;

/// Shows the round trips of a process and of its job.
pub fn explain(settings: &Settings, pid: u32, as_json: bool) -> Result<u8, Failure> {
    let Some(explained) = client::explain(&settings.runtime(), pid)? else {
        return Err(Failure::own(format!(
            "no process {pid} is afield, and no job of the last has this pid: `afield ps` lists those that are"
        )));
    };
    output(&match as_json {
        true => format!("{:#}\n", object(&explained)),
        false => text(&explained),
    })?;
    Ok(0)
}

/// A cause's name in JSON.
pub fn key(cause: Cause) -> &'static str {
    match cause {
        Cause::Miss => "miss",
        Cause::Revalidation => "revalidation",
        Cause::Change => "change",
        Cause::HomeCall => "home_call",
    }
}

/// A cause's name in the table.
fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::Miss => "miss",
        Cause::Revalidation => "revalidation",
        Cause::Change => "synchronous change",
        Cause::HomeCall => "home call",
    }
}

/// What a cause means, and what can be done.
fn meaning(cause: Cause) -> &'static str {
    match cause {
        Cause::Miss => {
            "The node had not what was asked for, or may not keep it. A second run misses less where home\n  \
             can tell of changes; `afield doctor` names file systems where it cannot."
        }
        Cause::Revalidation => {
            "The node asked whether something of a file is still as it was. It has to where home cannot tell\n  \
             of changes, and after changes by others."
        }
        Cause::Change => {
            "Home has to say whether a change succeeded. Temporary files are quicker where they are private\n  \
             to the process, in memory (memfd) or pipes."
        }
        Cause::HomeCall => {
            "Calls that only home's kernel can execute, and operations on sockets, terminals, and pipes and\n  \
             files that were inherited. Larger reads and writes, and pipes made afield, save them."
        }
    }
}

fn sum<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Count {
    lines
        .into_iter()
        .fold(Count::default(), |sum, line| sum.and(line.count))
}

fn of(lines: &[Line], cause: Cause) -> impl Iterator<Item = &Line> {
    lines.iter().filter(move |line| line.cause == cause)
}

fn totals(lines: &[Line]) -> serde_json::Value {
    let count = |count: Count| json!({"trips": count.trips, "bytes": count.bytes});
    let causes: serde_json::Map<_, _> = Cause::ALL
        .into_iter()
        .map(|cause| {
            let operations: serde_json::Map<_, _> = of(lines, cause)
                .map(|line| (line.operation.clone(), count(line.count)))
                .collect();
            let mut object = count(sum(of(lines, cause)));
            object["operations"] = operations.into();
            (key(cause).to_owned(), object)
        })
        .collect();
    let mut object = count(sum(lines));
    object["causes"] = causes.into();
    object
}

/// `process` is null for one that has ended. Bytes are payloads, both ways.
fn object(explained: &Explained) -> serde_json::Value {
    json!({
        "pid": explained.pid,
        "job": explained.job,
        "command": explained.command,
        "node": explained.node,
        "ended": explained.ended,
        "seconds": explained.job_ms as f64 / 1e3,
        "processes": explained.processes,
        "rtt_seconds": explained.round_trip.map(|span| span.as_secs_f64()),
        "process": explained.own.as_deref().map(totals),
        "all": totals(&explained.all),
    })
}

fn text(explained: &Explained) -> String {
    let mut text = String::new();
    let plain = |c: char| if c.is_control() { '?' } else { c };
    let command: String = explained.command.chars().map(plain).collect();
    let verb = if explained.ended { "took" } else { "runs for" };
    let job_time = span(Duration::from_millis(explained.job_ms));
    let _ = writeln!(text, "{} {command}", explained.pid);
    let _ = writeln!(
        text,
        "on {}; its job {} {verb} {job_time}, {} processes so far",
        explained.node, explained.job, explained.processes
    );
    let is_alone = explained.own.as_ref() == Some(&explained.all);
    if let Some(own) = explained.own.as_ref().filter(|_| !is_alone) {
        let _ = writeln!(text, "\nThis process has waited for home {}", times(sum(own)));
        table(&mut text, own);
    }
    let _ = writeln!(
        text,
        "\nThe job has waited for home {}",
        times(sum(&explained.all))
    );
    table(&mut text, &explained.all);
    let all = sum(&explained.all).trips;
    if let Some(trip) = explained.round_trip.filter(|_| all > 0) {
        let _ = writeln!(
            text,
            "\nA round trip takes {} now; one after the other they would take {}.",
            span(trip),
            span(trip.mul_f64(all as f64))
        );
    }
    // Of what is a tenth or more.
    for cause in Cause::ALL {
        if sum(of(&explained.all, cause)).trips * 10 >= all.max(1) {
            let _ = writeln!(text, "\n{}:\n  {}", name(cause), meaning(cause));
        }
    }
    text
}

fn times(count: Count) -> String {
    match count.trips {
        0 => "never.".to_owned(),
        1 => "once:".to_owned(),
        trips => format!("{trips} times:"),
    }
}

fn table(text: &mut String, lines: &[Line]) {
    let all = sum(lines);
    if all.trips == 0 {
        return;
    }
    let mut row = |name: &str, count: Count| {
        let share = count.trips as f64 * 100.0 / all.trips as f64;
        let _ = writeln!(
            text,
            "  {name:<38} {:>9} {share:>5.1} % {:>10}",
            count.trips,
            bytes(count.bytes)
        );
    };
    for cause in Cause::ALL {
        let count = sum(of(lines, cause));
        if count.trips == 0 {
            continue;
        }
        row(name(cause), count);
        for line in of(lines, cause).take(OPERATIONS_MAX) {
            row(&format!("  {}", line.operation), line.count);
        }
        let rest = sum(of(lines, cause).skip(OPERATIONS_MAX));
        if rest.trips > 0 {
            row("  others", rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cause: Cause, operation: &str, trips: u64) -> Line {
        Line {
            cause,
            operation: operation.to_owned(),
            count: Count {
                trips,
                bytes: trips * 100,
            },
        }
    }

    fn explained() -> Explained {
        Explained {
            pid: 12,
            job: 10,
            command: "cc1\nx.c".to_owned(),
            node: "far".to_owned(),
            job_ms: 1500,
            ended: false,
            processes: 3,
            round_trip: Some(Duration::from_millis(20)),
            own: Some(vec![line(Cause::Miss, "lookup", 5)]),
            all: vec![
                line(Cause::Miss, "lookup", 30),
                line(Cause::Miss, "read", 10),
                line(Cause::HomeCall, "wait4", 2),
            ],
        }
    }

    #[test]
    fn the_process_the_job_and_what_they_mean_are_shown() {
        let text = text(&explained());
        let expected = "\
12 cc1?x.c
on far; its job 10 runs for 1.5 s, 3 processes so far

This process has waited for home 5 times:
  miss                                           5 100.0 %      500 B
    lookup                                       5 100.0 %      500 B

The job has waited for home 42 times:
  miss                                          40  95.2 %    3.9 KiB
    lookup                                      30  71.4 %    2.9 KiB
    read                                        10  23.8 %     1000 B
  home call                                      2   4.8 %      200 B
    wait4                                        2   4.8 %      200 B

A round trip takes 20.0 ms now; one after the other they would take 840.0 ms.

miss:
";
        assert!(text.starts_with(expected), "{text}");
        assert!(!text.contains("home call:"), "{text}");
    }

    #[test]
    fn json_has_every_cause_and_operation() {
        let object = object(&explained());
        assert_eq!(object["all"]["causes"]["miss"]["operations"]["read"]["trips"], 10);
        assert_eq!(object["all"]["causes"]["revalidation"]["trips"], 0);
        assert_eq!(object["process"]["trips"], 5);
        assert_eq!(object["all"]["bytes"], 4200);
    }
}
