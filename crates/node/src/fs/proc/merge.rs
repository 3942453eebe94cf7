//! `stat`, `status` and `limits` of a guest, made of what home says of the deputy and the node of the guest.

/// A file that is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// One line of numbers.
    Stat,
    /// Lines of keys and values.
    Status,
    /// Lines of limits.
    Limits,
}

/// Fields of `stat`, counted from 1, that are the node's: use of memory and time, signals, addresses, processors.
const NODE_FIELDS: [std::ops::RangeInclusive<usize>; 4] = [9..=15, 20..=21, 23..=37, 39..=51];

/// Keys of `status` that are the node's; also those that begin as one of [`NODE_PREFIXES`].
const NODE_KEYS: [&str; 13] = [
    "FDSize",
    "HugetlbPages",
    "CoreDumping",
    "THP_enabled",
    "untag_mask",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
];
const NODE_PREFIXES: [&str; 6] = ["Vm", "Rss", "Speculation", "Cpus_", "Mems_", "x86_"];

impl Merged {
    /// The file of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"stat" => Some(Self::Stat),
            b"status" => Some(Self::Status),
            b"limits" => Some(Self::Limits),
            _ => None,
        }
    }

    /// The file of the guest whose first thread is `leader`; `None` if the guest has just ended. A process that reads its
    /// `own` is running, though it waits for us.
    pub fn merge(self, leader: i32, own: bool, home: &[u8]) -> Option<Vec<u8>> {
        let home = str::from_utf8(home).ok()?;
        match self {
            Self::Stat => {
                let node = std::fs::read(format!("/proc/{leader}/stat")).ok()?;
                stat(home, str::from_utf8(&node).ok()?, own)
            }
            Self::Status => {
                let node = std::fs::read(format!("/proc/{leader}/status")).ok()?;
                Some(status(home, str::from_utf8(&node).ok()?, own))
            }
            Self::Limits => {
                let node = std::fs::read(format!("/proc/{leader}/limits")).ok()?;
                Some(limits(home, str::from_utf8(&node).ok()?))
            }
        }
    }
}

/// Limits that are home's ([`afield_abi::syscalls::HOME_LIMITS`]).
const HOME_LIMITS: [&str; 3] = ["Max file size", "Max processes", "Max nice priority"];

fn limits(home: &str, node: &str) -> Vec<u8> {
    let mut text = String::with_capacity(node.len());
    for line in node.lines() {
        let of_home = HOME_LIMITS
            .iter()
            .find(|name| line.starts_with(**name))
            .and_then(|name| home.lines().find(|line| line.starts_with(name)));
        text.push_str(of_home.unwrap_or(line));
        text.push('\n');
    }
    text.into_bytes()
}

/// A stop and the end are home's to say; whether it runs or waits is the node's. That it is stopped for us is nobody's
/// business.
fn state<'a>(home: &'a str, node: &'a str, own: bool, running: &'a str) -> &'a str {
    match (home.as_bytes().first(), node.as_bytes().first()) {
        (Some(b'T' | b't' | b'Z' | b'X'), _) => home,
        (_, Some(b't' | b'T')) => running,
        _ if own => running,
        _ => node,
    }
}

fn stat(home: &str, node: &str, own: bool) -> Option<Vec<u8>> {
    // The second field, in parentheses, may hold anything.
    let (name, home) = home.rsplit_once(") ")?;
    let (_, node) = node.rsplit_once(") ")?;
    let node: Vec<&str> = node.split_whitespace().collect();
    let mut line = format!("{name})");
    for (index, of_home) in home.split_whitespace().enumerate() {
        let number = index + 3;
        let of_node = *node.get(index)?;
        let field = match number {
            3 => state(of_home, of_node, own, "R"),
            _ if NODE_FIELDS.iter().any(|fields| fields.contains(&number)) => of_node,
            _ => of_home,
        };
        line.push(' ');
        line.push_str(field);
    }
    line.push('\n');
    Some(line.into_bytes())
}

fn status(home: &str, node: &str, own: bool) -> Vec<u8> {
    let key_of = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let is_nodes =
        |key: &str| NODE_KEYS.contains(&key) || NODE_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    let find = |key: &str| node.lines().find(|line| key_of(line) == key);
    let mut text = String::with_capacity(home.len() + 64);
    for line in home.lines() {
        let key = key_of(line);
        let shown = match find(&key) {
            Some(of_node) if is_nodes(&key) => of_node.to_owned(),
            Some(of_node) if key == "State" => {
                let value = |line: &str| {
                    line.split_once(":\t")
                        .map_or(String::new(), |(_, value)| value.to_owned())
                };
                let (of_home, of_node) = (value(line), value(of_node));
                format!("State:\t{}", state(&of_home, &of_node, own, "R (running)"))
            }
            _ => line.to_owned(),
        };
        text.push_str(&shown);
        text.push('\n');
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pid: u32, state: &str, from: u32) -> String {
        let numbers: Vec<String> = (4..=52).map(|field| (from + field).to_string()).collect();
        format!("{pid} (a) b) {state} {}\n", numbers.join(" "))
    }

    #[test]
    fn each_field_is_from_where_it_is_true() {
        let merged = stat(&line(7, "S", 1000), &line(9, "R", 2000), false).unwrap();
        let merged = String::from_utf8(merged).unwrap();
        let fields: Vec<&str> = merged.split_whitespace().collect();
        assert_eq!(&fields[..4], ["7", "(a)", "b)", "R"]);
        let field = |number: usize| fields[number];
        // Parent, group, session and terminal; times; start.
        assert_eq!([field(4), field(5), field(7)], ["1004", "1005", "1007"]);
        assert_eq!([field(14), field(15), field(22)], ["2014", "2015", "1022"]);
        assert_eq!(field(23), "2023");
        assert_eq!(
            stat(&line(7, "T", 1000), &line(9, "t", 2000), false).unwrap()[9],
            b'T'
        );
        assert_eq!(
            stat(&line(7, "S", 1000), &line(9, "t", 2000), false).unwrap()[9],
            b'R'
        );
        assert_eq!(stat("7 nothing", "9 (a) S 1", true), None);
    }

    #[test]
    fn keys_are_from_where_they_are_true() {
        let home = "Name:\tsleep\nState:\tS (sleeping)\nPPid:\t12\nVmRSS:\t1 kB\nThreads:\t2\nSigBlk:\tff\n";
        let node =
            "Name:\tsleep\nState:\tt (tracing stop)\nPPid:\t1\nVmRSS:\t9 kB\nThreads:\t1\nSigBlk:\t00\n";
        let merged = "Name:\tsleep\nState:\tR (running)\nPPid:\t12\nVmRSS:\t9 kB\nThreads:\t1\nSigBlk:\t00\n";
        assert_eq!(status(home, node, false), merged.as_bytes());
    }
}
