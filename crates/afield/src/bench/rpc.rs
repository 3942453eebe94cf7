//! Where the time of a call to a node goes: a null call over the agent's own link, stage by stage.

use std::io::{self, Write};

use afield_home::agent::client::{self, Measured};
use serde::Serialize;

use crate::config::{Options, Settings, Target};
use crate::failure::Failure;

/// Calls for each of the runs that the user asks for.
const CALLS_PER_RUN: u32 = 300;

/// A line of the table.
#[derive(Debug, Serialize)]
struct Line {
    side: &'static str,
    stage: &'static str,
    median_ns: u64,
}

/// Measures and prints.
pub fn bench(on: &str, runs: u32, json: bool) -> Result<(), Failure> {
    let options = Options {
        on: Some(on.to_owned()),
        ..Options::default()
    };
    let settings = Settings::load(&options)?;
    let Target::Node(place) = settings.target()? else {
        return Err(Failure::own(
            "a call to a node needs one: `--on embedded` or another",
        ));
    };
    let calls = runs.saturating_mul(CALLS_PER_RUN);
    let measured = client::measure(&settings.runtime(), place, on, calls).map_err(Failure::own)?;
    let lines = lines(&measured);
    let mut output = io::stdout();
    if json {
        let text = serde_json::to_string_pretty(&lines).map_err(Failure::own)?;
        return writeln!(output, "{text}").map_err(Failure::own);
    }
    let whole = lines.last().map_or(1, |line| line.median_ns.max(1));
    let sum: u64 = lines.iter().rev().skip(1).map(|line| line.median_ns).sum();
    writeln!(
        output,
        "{:<6} {:<34} {:>10} {:>6}",
        "side", "stage", "median", "share"
    )
    .map_err(Failure::own)?;
    for Line {
        side,
        stage,
        median_ns,
    } in lines
    {
        writeln!(
            output,
            "{side:<6} {stage:<34} {:>7.2} us {:>5.1}%",
            median_ns as f64 / 1000.0,
            median_ns as f64 * 100.0 / whole as f64
        )
        .map_err(Failure::own)?;
    }
    if sum > whole {
        writeln!(
            output,
            "Together the stages are more than the whole: a side still returns from sending while the other one works."
        )
        .map_err(Failure::own)?;
    }
    Ok(())
}

fn lines(measured: &[Measured]) -> Vec<Line> {
    let line = |side, stage, of: fn(&Measured) -> u64| {
        let mut values: Vec<u64> = measured.iter().map(of).collect();
        values.sort_unstable();
        let median_ns = values.get(values.len() / 2).copied().unwrap_or(0);
        Line {
            side,
            stage,
            median_ns,
        }
    };
    vec![
        line("home", "call the stub, marshal arguments", |it| it.stub),
        line("home", "number and envelope", |it| it.envelope),
        line("home", "encrypt", |it| it.encrypt),
        line("home", "send", |it| it.send),
        line("way", "to the node, and wake its reader", ways),
        line("node", "receive and decrypt", |it| it.served.decrypt),
        line("node", "dispatch", |it| it.served.dispatch),
        line("node", "hand over to the executing thread", |it| it.served.begin),
        line("node", "execute", |it| it.served.execute),
        line("node", "marshal the result", |it| it.served.marshal),
        line("node", "envelope", |it| it.served.envelope),
        line("node", "encrypt", |it| it.served.encrypt),
        line("node", "send", |it| it.served.send),
        line("way", "to home, and wake its reader", ways),
        line("home", "receive and decrypt", |it| it.decrypt),
        line("home", "dispatch", |it| it.dispatch),
        line("home", "wake the caller, unmarshal", |it| it.wake),
        line("", "whole call", |it| it.whole),
    ]
}

/// Half of what nobody has measured. The node's last stage, its return from the kernel, may lie within the way already.
fn ways(it: &Measured) -> u64 {
    let home = it.stub + it.envelope + it.encrypt + it.send + it.decrypt + it.dispatch + it.wake;
    it.whole.saturating_sub(home + it.served.total()) / 2
}
