//! What the mounts mean for files: whether reading one changes its time of access, by what the kernel does with that on each mount,
//! and whether it may be kept within reach.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Statx;

use crate::mounts::{self, Mount};

/// Mount points that nobody unmounts while the system runs.
const STAYING: [&str; 7] = ["/", "/home", "/opt", "/srv", "/tmp", "/usr", "/var"];

/// A time of access that is older than this is about to be renewed: the kernel does so when it is a day old.
const RENEWED_SECONDS: i64 = 23 * 3600;

/// What a mount does with times of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Each reading sets them, as far as is known.
    Sets,
    /// It sets those that are not later than other times, or old.
    Relative,
    /// None does.
    Nothing,
}

/// Options of a mount.
#[derive(Debug, Clone, Copy)]
struct Options {
    files: Reading,
    directories: Reading,
    /// Nobody wants to unmount it.
    stays: bool,
}

/// By mount, as of one state of all mounts.
type Table = (Option<u64>, Arc<HashMap<u64, Options>>);

/// The mounts, as far as they matter here.
#[derive(Debug, Default)]
pub struct Mounts(RwLock<Table>);

impl Mounts {
    /// True if attributes stay what they are, however often what they are of is read, for the next hour. `state` is another number
    /// when mounts are not what they were.
    pub fn is_settled(&self, stat: &Statx, state: u64) -> bool {
        let Some(options) = self.table(state).get(&stat.stx_mnt_id).copied() else {
            return false;
        };
        let reading = match u32::from(stat.stx_mode) & libc::S_IFMT {
            libc::S_IFDIR => options.directories,
            libc::S_IFREG | libc::S_IFLNK => options.files,
            _ => return false,
        };
        match reading {
            Reading::Nothing => true,
            Reading::Sets => false,
            Reading::Relative => {
                let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
                let access = time(&stat.stx_atime);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let age = i64::try_from(now.as_secs())
                    .unwrap_or(i64::MAX)
                    .saturating_sub(access.0);
                access > time(&stat.stx_mtime) && access > time(&stat.stx_ctime) && age < RENEWED_SECONDS
            }
        }
    }

    /// True if a mount stays as long as the system runs. What may be unmounted is not to be held by who has been done with it.
    pub fn stays(&self, mount: u64, state: u64) -> bool {
        self.table(state).get(&mount).is_some_and(|options| options.stays)
    }

    fn table(&self, state: u64) -> Arc<HashMap<u64, Options>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.0 == Some(state) {
            return Arc::clone(&known.1);
        }
        drop(known);
        let list = std::fs::read(mounts::MOUNTS).unwrap_or_default();
        let table = Arc::new(parse(&list));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (Some(state), Arc::clone(&table));
        table
    }
}

fn parse(list: &[u8]) -> HashMap<u64, Options> {
    let options = |mount: Mount<'_>| {
        let [own, all] = mount
            .options
            .map(|options| options.split(',').collect::<Vec<_>>());
        let has = |option| own.contains(&option) || all.contains(&option);
        let files = match () {
            () if has("noatime") => Reading::Nothing,
            () if own.contains(&"relatime") => Reading::Relative,
            () => Reading::Sets,
        };
        let directories = match has("nodiratime") {
            true => Reading::Nothing,
            false => files,
        };
        let stays = STAYING.iter().any(|point| point.as_bytes() == mount.point);
        let options = Options {
            files,
            directories,
            stays,
        };
        (u64::from(mount.id), options)
    };
    mounts::parse(list).map(options).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_what_reading_does() {
        let table = parse(
            b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
             22 21 0:5 / /a rw,noatime - tmpfs none rw\n\
             23 21 0:6 / /b rw,nodiratime,relatime - tmpfs none rw\n\
             24 21 0:7 / /c rw - ext4 /dev/sdb rw\n",
        );
        let of = |mount| {
            table
                .get(&mount)
                .map(|options| (options.files, options.directories))
        };
        assert_eq!(of(21), Some((Reading::Relative, Reading::Relative)));
        assert_eq!(of(22), Some((Reading::Nothing, Reading::Nothing)));
        assert_eq!(of(23), Some((Reading::Relative, Reading::Nothing)));
        assert_eq!(of(24), Some((Reading::Sets, Reading::Sets)));
        assert_eq!(of(25), None);
        assert!(table[&21].stays && !table[&22].stays);
        assert!(parse(b"\n x y\n1 2\n").is_empty());
    }

    #[test]
    fn a_late_time_of_access_is_settled() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let mut stat = super::super::nodes::stat_descriptor(&file).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        (stat.stx_mtime.tv_sec, stat.stx_ctime.tv_sec) = (now - 10, now - 10);
        let relative = Options {
            files: Reading::Relative,
            directories: Reading::Relative,
            stays: true,
        };
        let table = HashMap::from([(stat.stx_mnt_id, relative)]);
        let mounts = Mounts(RwLock::new((Some(1), Arc::new(table))));
        stat.stx_atime.tv_sec = stat.stx_mtime.tv_sec + 1;
        assert!(mounts.is_settled(&stat, 1));
        stat.stx_atime = stat.stx_ctime;
        assert!(!mounts.is_settled(&stat, 1));
        stat.stx_atime.tv_sec -= RENEWED_SECONDS;
        (stat.stx_mtime.tv_sec, stat.stx_ctime.tv_sec) = (0, 0);
        assert!(!mounts.is_settled(&stat, 1));
    }
}
