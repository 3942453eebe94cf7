//! Telling two runs apart.

use std::path::Path;

use crate::case::Case;
use crate::run::Outcome;
use crate::tree::{Content, Entry};

/// How many lines or files of a difference are shown.
const SHOWN: usize = 20;
/// How many lines of an output are compared line by line.
const LINES_MAX: usize = 1000;

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

/// The lines in which two texts differ, each with the equal line before it.
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
    let (mut one, mut other) = (split(one), split(other));
    // Enough to show; what follows is reported once the beginning is mended.
    one.truncate(LINES_MAX);
    other.truncate(LINES_MAX);
    let (mut at, mut at_other) = (0, 0);
    let mut text = Vec::new();
    let common = common_lengths(&one, &other);
    let mut last_same = None;
    while at < one.len() || at_other < other.len() {
        if text.len() > SHOWN * 2 {
            text.push("  … and more".to_owned());
            break;
        }
        if at < one.len() && at_other < other.len() && one[at] == other[at_other] {
            last_same = Some(&one[at]);
            at += 1;
            at_other += 1;
            continue;
        }
        if let Some(line) = last_same.take() {
            text.push(format!("  {}", shorten(line)));
        }
        let is_removed =
            at_other == other.len() || at < one.len() && common[at + 1][at_other] >= common[at][at_other + 1];
        if is_removed {
            text.push(format!("- {}", shorten(&one[at])));
            at += 1;
        } else {
            text.push(format!("+ {}", shorten(&other[at_other])));
            at_other += 1;
        }
    }
    Some(text.join("\n"))
}

/// How many lines the rests of two texts from given lines on have in common.
fn common_lengths(one: &[String], other: &[String]) -> Vec<Vec<u16>> {
    let mut common = vec![vec![0; other.len() + 1]; one.len() + 1];
    for at in (0..one.len()).rev() {
        for at_other in (0..other.len()).rev() {
            common[at][at_other] = if one[at] == other[at_other] {
                common[at + 1][at_other + 1] + 1
            } else {
                common[at + 1][at_other].max(common[at][at_other + 1])
            };
        }
    }
    common
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
