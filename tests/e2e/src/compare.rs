//! Telling two runs apart.

use std::path::Path;

use crate::case::Case;
use crate::run::Outcome;
use crate::tree::{Content, Entry};

/// How many lines or files of a difference are shown.
const SHOWN: usize = 20;

/// Everything in which two runs of a case differ; empty if nothing.
pub(crate) fn differences(case: &Case, first: &Outcome, second: &Outcome) -> Vec<String> {
    let mut report = Vec::new();
    report.extend(first.trouble.iter().map(|text| format!("- {text}")));
    report.extend(second.trouble.iter().map(|text| format!("+ {text}")));
    if first.ended != second.ended {
        report.push(format!("end:\n- {}\n+ {}", first.ended, second.ended));
    }
    let mask = |bytes: &[u8]| case.mask.map_or_else(|| bytes.to_vec(), |mask| mask(bytes));
    for (name, one, other) in [
        ("stdout", &first.stdout, &second.stdout),
        ("stderr", &first.stderr, &second.stderr),
    ] {
        if let Some(text) = lines(&mask(one), &mask(other)) {
            report.push(format!("{name}:\n{text}"));
        }
    }
    report.extend(trees(case, first, second));
    report
}

/// The differing middle of two texts, with a few equal lines before it.
fn lines(one: &[u8], other: &[u8]) -> Option<String> {
    if one == other {
        return None;
    }
    let split = |bytes: &[u8]| -> Vec<String> {
        bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| line.escape_ascii().to_string())
            .collect()
    };
    let (one, other) = (split(one), split(other));
    let same = one
        .iter()
        .zip(&other)
        .take_while(|(left, right)| left == right)
        .count();
    let (one_rest, other_rest) = (&one[same..], &other[same..]);
    let tail = one_rest
        .iter()
        .rev()
        .zip(other_rest.iter().rev())
        .take_while(|(left, right)| left == right)
        .count();
    let mut text: Vec<String> = one[same.saturating_sub(3)..same]
        .iter()
        .map(|line| format!("  {line}"))
        .collect();
    for (sign, rest) in [
        ("-", &one_rest[..one_rest.len() - tail]),
        ("+", &other_rest[..other_rest.len() - tail]),
    ] {
        text.extend(
            rest.iter()
                .take(SHOWN)
                .map(|line| format!("{sign} {}", shorten(line))),
        );
        if rest.len() > SHOWN {
            text.push(format!("{sign} … and {} more lines", rest.len() - SHOWN));
        }
    }
    Some(text.join("\n"))
}

fn trees(case: &Case, first: &Outcome, second: &Outcome) -> Vec<String> {
    let (one, other) = (&first.tree.0, &second.tree.0);
    let mut report = Vec::new();
    let mut paths: Vec<_> = one.keys().chain(other.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let shown = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        match (one.get(path), other.get(path)) {
            (Some(left), Some(right)) => {
                let is_volatile = case.volatile.iter().any(|name| Path::new(name) == path);
                let text = entries(left, right, is_volatile);
                if !text.is_empty() {
                    report.push(format!("{shown:?}: {}", text.join("; ")));
                }
            }
            (Some(left), None) => report.push(format!("{shown:?}: - mode {:o}, + missing", left.mode)),
            (None, Some(right)) => report.push(format!("{shown:?}: - missing, + mode {:o}", right.mode)),
            (None, None) => unreachable!(),
        }
    }
    let more = report.len().saturating_sub(SHOWN);
    report.truncate(SHOWN);
    if more > 0 {
        report.push(format!("… and {more} more files"));
    }
    report
}

fn entries(left: &Entry, right: &Entry, is_volatile: bool) -> Vec<String> {
    let mut report = Vec::new();
    let mut differ = |name: &str, left: String, right: String| {
        if left != right {
            report.push(format!("{name} - {} + {}", shorten(&left), shorten(&right)));
        }
    };
    differ("mode", format!("{:o}", left.mode), format!("{:o}", right.mode));
    differ("owner", format!("{:?}", left.owner), format!("{:?}", right.owner));
    differ("links", left.links.to_string(), right.links.to_string());
    if is_volatile {
        return report;
    }
    differ("device", left.device.to_string(), right.device.to_string());
    differ(
        "mtime",
        format!("{:?}", left.modified),
        format!("{:?}", right.modified),
    );
    differ(
        "hard link to",
        format!("{:?}", left.same_as),
        format!("{:?}", right.same_as),
    );
    differ(
        "xattrs",
        format!("{:?}", left.extended),
        format!("{:?}", right.extended),
    );
    match (&left.content, &right.content) {
        (Content::Bytes(one), Content::Bytes(other)) => {
            if let Some(text) = lines(one, other) {
                report.push(format!("content\n{text}"));
            }
        }
        (one, other) => differ("content", format!("{one:?}"), format!("{other:?}")),
    }
    report
}

fn shorten(text: &str) -> String {
    const WIDTH: usize = 300;
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    text.chars().take(WIDTH).chain("…".chars()).collect()
}
