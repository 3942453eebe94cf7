//! What a job has waited for: for `afield explain`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deputies::DeputyEntry;
use super::trips::{Line, Tally};
use super::{lock, now_ms, session::Session};

/// Jobs that have ended and can still be asked about.
const ENDED_JOBS_MAX: usize = 32;

/// What is known of a job as a whole.
#[derive(Debug)]
pub struct Job {
    /// Pid of its first process.
    pub pid: u32,
    started_ms: u64,
    left: Mutex<Left>,
}

/// What processes that have ended leave behind.
#[derive(Debug, Default)]
struct Left {
    tally: Tally,
    /// How many.
    processes: u32,
    /// The first process's arguments, when it has ended.
    command: String,
}

impl Job {
    /// A job that starts now.
    pub fn new(pid: u32) -> Arc<Self> {
        Arc::new(Self {
            pid,
            started_ms: now_ms(),
            left: Mutex::default(),
        })
    }
}

/// A job that has ended.
#[derive(Debug)]
struct Ended {
    job: Arc<Job>,
    ended_ms: u64,
}

/// The jobs of a session that have ended last, oldest first.
#[derive(Debug, Default)]
pub struct EndedJobs(VecDeque<Ended>);

/// Why a process and its job wait for home, as `afield explain` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The process that was asked about.
    pub pid: u32,
    /// Pid of its job's first process.
    pub job: u32,
    /// Arguments of the process, joined by spaces; of the job's first one if the process has ended.
    pub command: String,
    /// The node's name as the user gave it.
    pub node: String,
    /// For how long the job has run, or ran, milliseconds.
    pub job_ms: u64,
    /// The job has ended.
    pub ended: bool,
    /// Processes that the job has had so far.
    pub processes: u32,
    /// A round trip on the link, smoothed, where it is measured.
    pub round_trip: Option<Duration>,
    /// The process's own round trips; `None` if it has ended.
    pub own: Option<Vec<Line>>,
    /// Those of the whole job, processes that have ended included.
    pub all: Vec<Line>,
}

impl Session {
    /// A deputy has been taken out of the table, whose lock is held: its job keeps what it had counted.
    pub(super) fn keep_tally(&self, entry: &DeputyEntry, mut others: impl Iterator<Item = u32>) {
        let job = &entry.job_record;
        {
            let mut left = lock(&job.left);
            left.tally.merge(&lock(&entry.tally));
            let status = lock(&entry.status);
            left.processes += u32::from(!status.hidden);
            if entry.pid == job.pid {
                left.command.clone_from(&status.command);
            }
        }
        if others.all(|other| other != job.pid) {
            let mut ended = lock(&self.ended_jobs);
            // One that tries again has the pid of its first try.
            ended.0.retain(|other| other.job.pid != job.pid);
            if ended.0.len() >= ENDED_JOBS_MAX {
                ended.0.pop_front();
            }
            ended.0.push_back(Ended {
                job: Arc::clone(job),
                ended_ms: now_ms(),
            });
        }
    }

    /// What a process and its job have waited for; `None` if it is not of this session.
    pub(super) fn explain(&self, pid: u32) -> Option<Explained> {
        let link = self.writer.status();
        // Nobody ends meanwhile, so that everything is counted once.
        self.with_deputies(|deputies| {
            let entry = deputies.get(&pid);
            let same_job = |job: u32| deputies.values().filter(move |other| other.job == job);
            let member = entry.or_else(|| same_job(pid).next());
            let (job, ended_ms) = match member {
                Some(member) => (Arc::clone(&member.job_record), None),
                None => {
                    let ended = lock(&self.ended_jobs);
                    let found = ended.0.iter().find(|ended| ended.job.pid == pid)?;
                    (Arc::clone(&found.job), Some(found.ended_ms))
                }
            };
            let left = lock(&job.left);
            let mut all = left.tally.clone();
            let mut processes = left.processes;
            for other in same_job(job.pid) {
                all.merge(&lock(&other.tally));
                processes += u32::from(!lock(&other.status).hidden);
            }
            Some(Explained {
                pid,
                job: job.pid,
                command: entry.map_or_else(
                    || left.command.clone(),
                    |entry| lock(&entry.status).command.clone(),
                ),
                node: self.name.clone(),
                job_ms: ended_ms.unwrap_or_else(now_ms).saturating_sub(job.started_ms),
                ended: ended_ms.is_some(),
                processes,
                round_trip: link
                    .and_then(|status| status.round_trip)
                    .map(|(smoothed, _)| smoothed),
                own: entry.map(|entry| lock(&entry.tally).lines()),
                all: all.lines(),
            })
        })
    }
}
