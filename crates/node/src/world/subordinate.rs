//! Ranges of ids for an ordinary user's node: those that the machine's administrator has given the user in `/etc/subuid` and
//! `/etc/subgid`, put into a user namespace by the programs that may (`newuidmap`, `newgidmap`).
//!
//! With them files show their owners without being asked about each. The home user's own ids are the node's user's; the others
//! are subordinate ones, none of which is anybody on the node.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tracing::debug;

/// Most ids that are mapped. Those above are few, and shown as nobody's.
const IDS_MAX: u32 = 1 << 16;

/// Fewer are not worth it: system and first users have these.
const IDS_MIN: u32 = 2000;

/// Longest wait for one of the programs, which may have to ask a directory service.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(5);

/// A kind of ids.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Who has which.
    file: &'static str,
    /// Maps them.
    program: &'static str,
}

/// Users.
pub const USERS: Kind = Kind {
    file: "/etc/subuid",
    program: "newuidmap",
};

/// Groups.
pub const GROUPS: Kind = Kind {
    file: "/etc/subgid",
    program: "newgidmap",
};

/// Subordinate ids: the first, and how many.
type Range = (u32, u32);

/// The ids of this kind that the user has.
pub fn range(kind: Kind, uid: u32) -> Option<Range> {
    let text = fs::read_to_string(kind.file).ok()?;
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let range = range_in(&text, name_in(&passwd, uid).as_deref(), uid)?;
    (range.1 >= IDS_MIN).then_some(range)
}

/// The user's largest range.
fn range_in(text: &str, name: Option<&str>, uid: u32) -> Option<Range> {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if Some(owner) != name && owner.parse() != Ok(uid) {
            return None;
        }
        let (first, count) = (
            fields.next()?.parse::<u32>().ok()?,
            fields.next()?.parse::<u32>().ok()?,
        );
        first.checked_add(count)?;
        // The machine's own ids are not to be lent.
        (first > 0).then_some((first, count.min(IDS_MAX)))
    });
    ranges.max_by_key(|(_, count)| *count)
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Maps ids for a process whose user namespace has none: `own` inside is `of_node` here, the others from zero on are subordinate ones. The
/// id below which all are known inside; `None` if nothing was mapped.
pub fn map(kind: Kind, pid: u32, own: u32, of_node: u32, range: Range) -> Option<u32> {
    let mut words = vec![pid.to_string()];
    for extent in extents(own, of_node, range) {
        words.extend(extent.map(|number| number.to_string()));
    }
    match run(kind.program, &words) {
        Ok(()) => Some(below(own, range)),
        Err(why) => {
            debug!("{}: {why}", kind.program);
            None
        }
    }
}

/// Each: first id inside, first id outside, how many.
fn extents(own: u32, of_node: u32, (first, count): Range) -> Vec<[u32; 3]> {
    let before = own.min(count);
    let all = [
        [0, first, before],
        [own, of_node, 1],
        [own.saturating_add(1), first + before, count - before],
    ];
    all.into_iter().filter(|extent| extent[2] > 0).collect()
}

fn below(own: u32, (_, count): Range) -> u32 {
    match own < count {
        true => count + 1,
        false => count,
    }
}

/// Runs a program that says nothing and takes no time.
fn run(program: &str, words: &[String]) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let pid = Pid::from_child(&child);
    let deadline = Instant::now() + PROGRAM_TIME_MAX;
    let ended = pidfd_open(pid, PidfdFlags::empty()).and_then(|process| {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other,
            }
        }
    });
    if ended != Ok(1) {
        let _ = child.kill();
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_the_user_counts() {
        let text = "other:5:90000\nme:100000:65536\n# a remark\n1000:300000:100\nme:1:x\nme:4294967295:2\nme:0:70000\n";
        assert_eq!(range_in(text, Some("me"), 1000), Some((100_000, 65536)));
        assert_eq!(range_in(text, None, 1000), Some((300_000, 100)));
        assert_eq!(range_in(text, None, 7), None);
        assert_eq!(range_in("me:7:200000", Some("me"), 1), Some((7, IDS_MAX)));
    }

    #[test]
    fn users_are_found_by_their_id() {
        let passwd = "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:\nbroken\n";
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(name_in(passwd, 1), None);
    }

    #[test]
    fn every_id_is_mapped_once() {
        for own in [0, 5, 1000, 65535, 65536, 2_000_000, u32::MAX - 1] {
            let range = (100_000, 65536);
            let extents = extents(own, 4242, range);
            let mut inside: Vec<_> = extents.iter().map(|[first, _, count]| (*first, *count)).collect();
            let mut outside: Vec<_> = extents.iter().map(|[_, first, count]| (*first, *count)).collect();
            for of in [&mut inside, &mut outside] {
                of.sort_unstable();
                assert!(
                    of.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0),
                    "{own}: {of:?}"
                );
                assert_eq!(of.iter().map(|(_, count)| count).sum::<u32>(), 65537, "{own}");
            }
            assert!(extents.contains(&[own, 4242, 1]));
            let known = |id: u32| {
                inside
                    .iter()
                    .any(|(first, count)| id >= *first && id - first < *count)
            };
            let below = below(own, range);
            assert!((0..below).all(known), "{own}");
            assert!(below == own || !known(below), "{own}");
        }
    }
}
