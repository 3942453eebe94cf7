//! The memory of a home's guests: without a control group of its own, which an ordinary user's node does not have, no kernel bounds
//! what several processes have together. So it is looked at, and the largest guest ended when it is too much.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::session::Shared;
use crate::sys::signals;

/// How often. In that time a guest can take more than it may.
const PERIOD: Duration = Duration::from_millis(100);

/// Looks as long as the session lasts.
pub fn watch(shared: &Arc<Shared>, most_bytes: u64) {
    loop {
        std::thread::sleep(PERIOD);
        let guests = shared.guests.leaders();
        // Quick to read, and never less than what counts.
        let resident: u64 = guests.iter().map(|(_, leader)| resident_bytes(*leader)).sum();
        if resident <= most_bytes {
            continue;
        }
        let own: Vec<(u64, u32, i32)> = guests
            .iter()
            .map(|(pid, leader)| (own_bytes(*leader), *pid, *leader))
            .collect();
        let all: u64 = own.iter().map(|(bytes, ..)| bytes).sum();
        if all <= most_bytes {
            continue;
        }
        let Some((_, pid, leader)) = own.into_iter().max() else {
            continue;
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
    }
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
