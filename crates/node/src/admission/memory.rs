//! The memory of a home's guests: without a control group of its own, which an ordinary user's node does not have, no kernel bounds
//! what several processes have together. So it is looked at, and the largest guest ended when it is too much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::session::Shared;
use crate::sys::signals;

/// Between two looks, at most and at least. In that time a guest can take more than it may.
const PAUSE_MAX: Duration = Duration::from_millis(100);
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Bytes of new memory in a second that no processor's guest uses up: the kernel clears them before.
const TAKEN_BYTES_PER_SECOND: u64 = 4 << 30;

/// Longest time that a guest which has been ended is believed to give its memory back soon.
const ENDING_TIME_MAX: Duration = Duration::from_secs(1);

/// Looking takes at most this part of a processor's time.
const LOOKING_PART: u32 = 20;

/// Looks as long as the session lasts: the less room there is left, the sooner again.
pub fn watch(shared: &Arc<Shared>, most_bytes: u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut ended = None;
    loop {
        let began = Instant::now();
        let left = look(shared, most_bytes, &mut ended);
        std::thread::sleep(pause(left, cpus).max(began.elapsed() * LOOKING_PART));
    }
}

/// How long guests on so many processors need at least to take so many bytes.
fn pause(left_bytes: u64, cpus: u64) -> Duration {
    let seconds = left_bytes as f64 / (TAKEN_BYTES_PER_SECOND * cpus) as f64;
    Duration::from_secs_f64(seconds).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Ends the largest guest if all have too much. Gives how many bytes they may still take. What the one that was `ended` last has
/// does not count any more: it needs a moment to give it back.
fn look(shared: &Arc<Shared>, most_bytes: u64, ended: &mut Option<(i32, Instant)>) -> u64 {
    let mut guests = shared.guests.leaders();
    if let Some((gone, when)) = ended
        && when.elapsed() < ENDING_TIME_MAX
    {
        guests.retain(|(_, leader)| leader != gone);
    }
    // Quick to read, and never less than what counts.
    let resident: u64 = guests.iter().map(|(_, leader)| resident_bytes(*leader)).sum();
    if resident <= most_bytes {
        return most_bytes - resident;
    }
    let own: Vec<(u64, u32, i32)> = guests
        .iter()
        .map(|(pid, leader)| (own_bytes(*leader), *pid, *leader))
        .collect();
    let all: u64 = own.iter().map(|(bytes, ..)| bytes).sum();
    if all <= most_bytes {
        return most_bytes - all;
    }
    let Some((_, pid, leader)) = own.into_iter().max() else {
        return most_bytes;
    };
    let text = format!(
        "it ends process {pid}: this home's guests may have {most_bytes} bytes of memory there, and have {all}"
    );
    warn!("{text}");
    if let Err(error) = shared.home.notice(pid, text) {
        debug!("telling home: {error}");
    }
    if let Err(error) = signals::kill(leader, libc::SIGKILL) {
        debug!("ending {pid}: {error}");
    }
    *ended = Some((leader, Instant::now()));
    0
}

/// All that a process has in memory, what it shares included.
fn resident_bytes(pid: i32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// A process's share of memory that is not a file's, in memory or swapped out.
fn own_bytes(pid: i32) -> u64 {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
        return 0;
    };
    let kibibytes: u64 = text
        .lines()
        .filter(|line| {
            ["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    kibibytes << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_is_left_the_sooner() {
        assert_eq!(pause(u64::MAX, 1), PAUSE_MAX);
        assert_eq!(pause(0, 64), PAUSE_MIN);
        let [one, two] = [1, 2].map(|cpus| pause(256 << 20, cpus));
        assert!(
            one == 2 * two && two > PAUSE_MIN && one < PAUSE_MAX,
            "{one:?} {two:?}"
        );
    }
}
