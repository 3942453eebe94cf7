//! `afield ps --links`.

use std::time::Duration;

use afield_home::agent::client::{self, Link, Transport};
use serde_json::json;

use super::output;
use crate::config::Settings;
use crate::failure::Failure;

/// Lists the links to nodes.
pub fn links(settings: &Settings, as_json: bool) -> Result<u8, Failure> {
    let links = client::links(&settings.runtime())?;
    let text = match as_json {
        true => format!("{:#}\n", links.iter().map(object).collect::<serde_json::Value>()),
        false => table(&links),
    };
    output(&text)?;
    Ok(0)
}

/// Times are in seconds; those that are not known, and everything about an embedded node's link, are null.
fn object(link: &Link) -> serde_json::Value {
    let transport = link.transport.as_ref();
    let seconds = |span: Duration| span.as_secs_f64();
    json!({
        "node": link.node,
        "processes": link.processes,
        "state": state(link.transport.as_ref()),
        "down_seconds": transport.and_then(|of| of.down).map(seconds),
        "rtt_seconds": transport.and_then(|of| of.round_trip).map(|(smoothed, _)| seconds(smoothed)),
        "rtt_seconds_min": transport.and_then(|of| of.round_trip).map(|(_, least)| seconds(least)),
        "bytes_out": transport.map(|of| of.bytes.0),
        "bytes_in": transport.map(|of| of.bytes.1),
        "frames_out": transport.map(|of| of.frames.0),
        "frames_in": transport.map(|of| of.frames.1),
        "unacknowledged_bytes": transport.map(|of| of.unacknowledged_bytes),
        "resumes": transport.map(|of| of.resumes),
    })
}

fn state(transport: Option<&Transport>) -> &'static str {
    match transport {
        None => "embedded",
        Some(Transport { down: None, .. }) => "up",
        Some(_) => "resuming",
    }
}

fn table(links: &[Link]) -> String {
    let mut rows = vec![
        [
            "NODE", "STATE", "RTT", "MIN", "SENT", "RECEIVED", "FRAMES", "UNACKED", "RESUMES",
        ]
        .map(str::to_owned),
    ];
    for link in links {
        let mut row = [const { String::new() }; 9];
        row[0].clone_from(&link.node);
        row[1] = state(link.transport.as_ref()).to_owned();
        if let Some(of) = &link.transport {
            if let Some(down) = of.down {
                row[1] = format!("resuming for {} s", down.as_secs());
            }
            if let Some((smoothed, least)) = of.round_trip {
                row[2] = span(smoothed);
                row[3] = span(least);
            }
            row[4] = bytes(of.bytes.0);
            row[5] = bytes(of.bytes.1);
            row[6] = format!("{}/{}", of.frames.0, of.frames.1);
            row[7] = bytes(of.unacknowledged_bytes);
            row[8] = of.resumes.to_string();
        }
        for field in &mut row[2..] {
            if field.is_empty() {
                field.push('-');
            }
        }
        rows.push(row);
    }
    let mut text = String::new();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..9).map(width).collect();
    for row in &rows {
        let fields: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (field, width))| match column {
                0 | 1 => format!("{field:<width$}"),
                _ => format!("{field:>width$}"),
            })
            .collect();
        text.push_str(fields.join(" ").trim_end());
        text.push('\n');
    }
    text
}

pub fn span(span: Duration) -> String {
    let us = span.as_secs_f64() * 1e6;
    match us {
        ..1e3 => format!("{us:.0} µs"),
        ..1e6 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{count} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_is_a_line() {
        let up = Transport {
            down: None,
            round_trip: Some((Duration::from_micros(1500), Duration::from_micros(90))),
            bytes: (900, 3 << 20),
            frames: (4, 5),
            unacknowledged_bytes: 0,
            resumes: 2,
        };
        let down = Transport {
            down: Some(Duration::from_secs(7)),
            round_trip: None,
            ..up.clone()
        };
        let link = |node: &str, transport| Link {
            node: node.to_owned(),
            processes: 1,
            transport,
        };
        let links = [
            link("a", Some(up)),
            link("far", Some(down)),
            link("embedded", None),
        ];
        assert_eq!(
            table(&links),
            "NODE     STATE               RTT   MIN  SENT RECEIVED FRAMES UNACKED RESUMES\n\
             a        up               1.5 ms 90 µs 900 B  3.0 MiB    4/5     0 B       2\n\
             far      resuming for 7 s      -     - 900 B  3.0 MiB    4/5     0 B       2\n\
             embedded embedded              -     -     -        -      -       -       -\n"
        );
        assert_eq!(object(&links[1])["state"], "resuming");
        assert_eq!(object(&links[1])["down_seconds"], 7.0);
        assert_eq!(object(&links[2])["resumes"], serde_json::Value::Null);
    }
}
