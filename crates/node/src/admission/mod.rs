//! Whom a node admits, and to what: the file `authorized_homes`, in the manner of ssh's `authorized_keys`.
//!
//! Each line is `[OPTIONS] FINGERPRINT [REMARK]`; empty lines and those that begin with `#` say nothing. Options stand
//! without spaces, with commas between them:
//!
//! | option | meaning |
//! |---|---|
//! | `cpus=N` | guests compute on no more than N CPUs at a time |
//! | `memory=SIZE` | guests have no more than SIZE bytes of memory of their own together; `K`, `M`, `G` and `T` are powers of 1024 |
//! | `guests=N` | no more than N guests (processes) at a time |
//! | `hours=[DAYS/]HH:MM-HH:MM` | sessions and guests begin only then, by the node's clock; several of these add up |
//!
//! The first line with a key counts. A line that makes no sense admits nobody.

mod hours;
mod ledger;
mod memory;

use std::path::{Path, PathBuf};

use afield_link::secure::Fingerprint;
use afield_link::secure::files::{self, FileError, Others};

pub use hours::{Hours, Moment};
pub use ledger::{Ledger, Quota, SESSIONS_MAX, Seat, Slot};
pub use memory::watch as watch_memory;

/// What a home may have of a node. The default is: all there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPUs.
    pub cpus: Option<u32>,
    /// Bytes of memory of all its guests together.
    pub memory_bytes: Option<u64>,
    /// Guests at a time.
    pub guests: Option<u32>,
    /// When something may begin; empty: always.
    pub hours: Vec<Hours>,
}

impl Limits {
    /// Why nothing may begin now.
    pub fn closed(&self, now: Moment) -> Option<String> {
        if self.hours.is_empty() || self.hours.iter().any(|hours| hours.include(now)) {
            return None;
        }
        let hours: Vec<String> = self.hours.iter().map(Hours::to_string).collect();
        Some(format!(
            "it admits this home only at certain hours ({}), and has {now} now",
            hours.join(", ")
        ))
    }
}

/// Why a home gets no more guests.
pub fn too_many(most: u32) -> String {
    let guests = if most == 1 { "one guest" } else { "guests" };
    let count = if most == 1 {
        String::new()
    } else {
        format!("{most} ")
    };
    format!("it takes no more than {count}{guests} of this home at a time")
}

/// A line that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The home.
    pub key: Fingerprint,
    /// Its options, as they are written.
    pub options: String,
    /// What they mean.
    pub limits: Limits,
    /// For people.
    pub remark: String,
}

/// A line, or why it cannot be used.
type Line = (usize, Option<Fingerprint>, Result<Entry, String>);

/// The file, as it was when it was read.
#[derive(Debug, Clone)]
pub struct AuthorizedHomes {
    path: PathBuf,
    lines: Vec<Line>,
}

impl AuthorizedHomes {
    /// Reads the file. A missing one admits nobody.
    ///
    /// # Errors
    /// It cannot be read, or others may write to it.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = match files::read(path, Others::Read) {
            Err(error) if error.is_missing() => String::new(),
            other => other?,
        };
        Ok(Self::parse(path, &text))
    }

    /// One that admits nobody.
    pub fn none(path: &Path) -> Self {
        Self::parse(path, "")
    }

    fn parse(path: &Path, text: &str) -> Self {
        let lines = text
            .lines()
            .enumerate()
            .filter_map(|(number, line)| line_of(line).map(|(key, entry)| (number + 1, key, entry)));
        Self {
            path: path.to_owned(),
            lines: lines.collect(),
        }
    }

    /// What a home may have.
    ///
    /// # Errors
    /// It is not admitted; the words are for its user.
    pub fn admit(&self, key: Fingerprint) -> Result<Limits, String> {
        match self.lines.iter().find(|(_, theirs, _)| *theirs == Some(key)) {
            Some((_, _, Ok(entry))) => Ok(entry.limits.clone()),
            Some((number, _, Err(why))) => Err(format!(
                "it cannot use the line of this home's key {key}: {}:{number}: {why}",
                self.path.display()
            )),
            None => Err(format!(
                "it does not admit this home's key {key}. If its owner agrees, do there: `afield trust admit {key}`"
            )),
        }
    }

    /// All lines that can be used.
    pub fn homes(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|(_, _, entry)| entry.as_ref().ok())
    }

    /// Lines that cannot be used, and why.
    pub fn mistakes(&self) -> impl Iterator<Item = String> {
        self.lines.iter().filter_map(|(number, _, entry)| {
            let why = entry.as_ref().err()?;
            Some(format!("{}:{number}: {why}", self.path.display()))
        })
    }
}

/// What a line says: its key, if it has one, and the rest. `None` for a line that says nothing.
fn line_of(line: &str) -> Option<(Option<Fingerprint>, Result<Entry, String>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (options, key, remark) = if first.starts_with("SHA256:") {
        ("", first, rest)
    } else {
        let rest = rest.trim_start();
        let (key, remark) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        (first, key, remark)
    };
    let key: Fingerprint = match key.parse() {
        Ok(key) => key,
        Err(error) => return Some((None, Err(format!("{error}")))),
    };
    let entry = limits_of(options).map(|limits| Entry {
        key,
        options: options.to_owned(),
        limits,
        remark: remark.trim().to_owned(),
    });
    Some((Some(key), entry))
}

/// The meaning of options as they stand in a line.
///
/// # Errors
/// What is wrong, in words.
pub fn limits_of(options: &str) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("`{option}` is neither a fingerprint nor an option: options are cpus=, memory=, guests=, hours="))?;
        match name {
            "cpus" => set(&mut limits.cpus, name, count(name, value)?)?,
            "guests" => set(&mut limits.guests, name, count(name, value)?)?,
            "memory" => set(&mut limits.memory_bytes, name, bytes(value)?)?,
            "hours" => limits.hours.push(value.parse()?),
            _ => {
                return Err(format!(
                    "no option `{name}`: there are cpus, memory, guests, hours"
                ));
            }
        }
    }
    Ok(limits)
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("`{name}` stands there twice")),
    }
}

fn count(name: &str, value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(0) | Err(_) => Err(format!("`{name}` has to be a number from 1 on, not `{value}`")),
        Ok(count) => Ok(count),
    }
}

fn bytes(value: &str) -> Result<u64, String> {
    let wrong = || format!("`memory` has to be a size such as 500M or 4G, not `{value}`");
    let (digits, shift) = match value.char_indices().last() {
        Some((end, 'K')) => (&value[..end], 10),
        Some((end, 'M')) => (&value[..end], 20),
        Some((end, 'G')) => (&value[..end], 30),
        Some((end, 'T')) => (&value[..end], 40),
        _ => (value, 0),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes = count.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes == 0 { Err(wrong()) } else { Ok(bytes) }
}

/// Adds a home, at the end of the file. False if its key stands there already, with whatever options.
///
/// # Errors
/// The file cannot be changed, or the options make no sense.
pub fn add(path: &Path, options: &str, key: Fingerprint, remark: &str) -> Result<bool, FileError> {
    limits_of(options).map_err(|why| FileError::Content {
        path: path.to_owned(),
        why,
    })?;
    files::change(path, |text| {
        if AuthorizedHomes::parse(path, text)
            .lines
            .iter()
            .any(|(_, theirs, _)| *theirs == Some(key))
        {
            return Ok((text.to_owned(), false));
        }
        let mut text = text.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let words = [options, &key.to_string(), remark];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        text.push_str(&words.join(" ").replace(char::is_control, " "));
        text.push('\n');
        Ok((text, true))
    })
}

/// Removes all lines with this key or remark. Gives the keys that are admitted no more.
pub fn remove(path: &Path, what: &str) -> Result<Vec<Fingerprint>, FileError> {
    files::change(path, |text| {
        let mut gone = Vec::new();
        let keep = |line: &&str| {
            let Some((Some(key), entry)) = line_of(line) else {
                return true;
            };
            let is_it = key.to_string() == what || entry.is_ok_and(|entry| entry.remark == what);
            if is_it {
                gone.push(key);
            }
            !is_it
        };
        let text = text.split_inclusive('\n').filter(keep).collect();
        Ok((text, gone))
    })
}

#[cfg(test)]
mod tests;
