//! `afield agent`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use afield_home::agent::client::{self, Stopped};
use afield_home::agent::{self, Options as AgentOptions};
use afield_home::files::early::Generosity;
use serde_json::json;

use super::{become_daemon, output};
use crate::config::{Options, Settings};
use crate::failure::Failure;

/// Serves until it is stopped or idle for long.
pub fn run(settings: &Settings, options: &Options) -> Result<u8, Failure> {
    become_daemon(settings)?;
    let mut node_arguments = vec!["node".into()];
    if let Some(file) = &options.config {
        node_arguments.extend(["--config".into(), file.clone().into()]);
    }
    node_arguments.extend([
        "--log".into(),
        settings.log.value.clone().into(),
        "--embedded-fd".into(),
    ]);
    agent::serve(AgentOptions {
        runtime: settings.runtime(),
        idle: Duration::from_secs(settings.idle_seconds_max.value),
        grace: Duration::from_secs(settings.grace_seconds.value),
        caches: settings.cache.value,
        generosity: Generosity {
            answers_max: usize::try_from(settings.ahead_answers_max.value).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(settings.ahead_bytes_max.value).unwrap_or(usize::MAX),
        },
        node_arguments,
        readers: settings.readers.value as usize,
        key: settings.key(),
        asked: settings.asked.value.clone(),
    })?;
    Ok(0)
}

/// Ends the agent. That none runs is as good.
pub fn stop(settings: &Settings, force: bool) -> Result<u8, Failure> {
    match client::stop(&settings.runtime(), force)? {
        Stopped::None | Stopped::Ended => Ok(0),
        Stopped::Busy(count) => {
            let (processes, they) = if count == 1 {
                ("process is", "it")
            } else {
                ("processes are", "them")
            };
            Err(Failure::own(format!(
                "the agent goes on: {count} {processes} afield (see `afield ps`; `afield agent stop --force` ends {they})"
            )))
        }
    }
}

/// Tells about the agent.
pub fn status(settings: &Settings, as_json: bool) -> Result<u8, Failure> {
    let status = client::status(&settings.runtime())?;
    let text = match (status, as_json) {
        (None, false) => "no agent is running\n".to_owned(),
        (None, true) => "null\n".to_owned(),
        (Some(status), true) => {
            let nodes: Vec<_> = status
                .nodes
                .iter()
                .map(|(name, own_name, cpus)| json!({"name": name, "own_name": own_name, "cpus": cpus}))
                .collect();
            let status = json!({
                "pid": status.pid,
                "version": status.version,
                "started_ms": status.started_ms,
                "processes": status.processes,
                "nodes": nodes,
            });
            format!("{status:#}\n")
        }
        (Some(status), false) => {
            let mut text = format!(
                "agent {} (afield {}), up {}, {} afield\n",
                status.pid,
                status.version,
                clock(since(status.started_ms)),
                match status.processes {
                    1 => "1 process".to_owned(),
                    count => format!("{count} processes"),
                }
            );
            for (name, own_name, cpus) in status.nodes {
                let cpus = match cpus {
                    1 => "1 CPU".to_owned(),
                    count => format!("{count} CPUs"),
                };
                text.push_str(&format!("node {name}: {own_name}, {cpus}\n"));
            }
            text
        }
    };
    output(&text)?;
    Ok(0)
}

/// Time since a moment that is given in milliseconds since 1970.
pub(super) fn since(started_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(started_ms))
}

/// A span as `[days-]hours:minutes:seconds`, shortened as ps(1) does.
pub(super) fn clock(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes, seconds) = (
        seconds / 86400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let text = |seconds| clock(Duration::from_secs(seconds));
        assert_eq!(text(0), "00:00");
        assert_eq!(text(3599), "59:59");
        assert_eq!(text(3600), "01:00:00");
        assert_eq!(text(90061), "1-01:01:01");
    }
}
