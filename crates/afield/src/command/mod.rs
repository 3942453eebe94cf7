//! What each command does.

mod agent;
mod explain;
mod key;
mod links;
mod node;
mod ps;
mod run;
mod syscalls;
mod trust;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser;

use crate::cli::{AgentCommand, Cli, Command, ConfigCommand};
use crate::config::{Options, Settings};
use crate::failure::{Failure, OWN, plain};
use crate::{bench, doctor, sys};

/// The whole program: from the arguments to the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Where there is nobody to tell, the exit code has to do.
            let _ = message.print();
            return if message.use_stderr() { OWN } else { 0 };
        }
    };
    match execute(cli) {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "afield: {failure}");
            failure.code
        }
    }
}

fn execute(cli: Cli) -> Result<u8, Failure> {
    let Cli { common, command } = cli;
    let mut options = Options {
        // Agent and embedded node get them, too, and have other working directories.
        config: common.config.map(absolute),
        runtime_dir: common.runtime_dir.map(absolute),
        ..Options::default()
    };
    // Descriptors of a job are left as they are: they are the command's.
    if !matches!(command, Command::Run(_)) {
        sys::process::open_standard_descriptors();
    }
    match command {
        Command::Run(run) => {
            options.on = run.on;
            options.verbose = run.verbose;
            run::run(run.command, &options)
        }
        Command::Ps(ps) if ps.links => links::links(&Settings::load(&options)?, ps.json),
        Command::Ps(ps) => ps::ps(&Settings::load(&options)?, ps.json),
        Command::Explain(choice) => explain::explain(&Settings::load(&options)?, choice.pid, choice.json),
        Command::Node(node) => {
            options.log = node.log;
            let settings = Settings::load(&options)?;
            if let Some(home) = node.bridge {
                return node::bridge(&settings, &home);
            }
            match (node.embedded_fd, node.listen) {
                (Some(descriptor), _) => node::embedded(&settings, descriptor),
                (None, listen) => node::listen(&settings, &listen.unwrap_or_default()),
            }
        }
        Command::Agent(agent) => match agent.command.unwrap_or(AgentCommand::Run(agent.run)) {
            AgentCommand::Run(run) => {
                options.idle_seconds_max = run.idle_seconds_max;
                options.readers = run.readers;
                options.log = run.log;
                agent::run(&Settings::load(&options)?, &options)
            }
            AgentCommand::Stop { force } => agent::stop(&Settings::load(&options)?, force),
            AgentCommand::Status { json } => agent::status(&Settings::load(&options)?, json),
        },
        Command::Key(choice) => key::key(&Settings::load(&options)?, choice.fingerprint),
        Command::Trust(choice) => trust::trust(&Settings::load(&options)?, choice),
        Command::Doctor(choice) => {
            let report = doctor::examine(&Settings::load(&options)?);
            output(&if choice.json {
                report.json()
            } else {
                report.to_string()
            })?;
            Ok(u8::from(!report.is_healthy()))
        }
        Command::Bench(choice) => bench::bench(&choice).map(|()| 0),
        Command::BenchWork { work, port } => {
            if let Some(ns) = bench::do_work(work, port).map_err(Failure::own)? {
                output(&format!("{ns}\n"))?;
            }
            Ok(0)
        }
        Command::BenchRelay { port } => {
            bench::relay_to(port).map_err(Failure::own)?;
            Ok(0)
        }
        Command::Syscalls(choice) => syscalls::syscalls(&choice),
        Command::BenchDelay {
            listen,
            target,
            microseconds,
            rate,
        } => {
            let line = bench::Line {
                delay: std::time::Duration::from_micros(microseconds.into()),
                rate,
            };
            bench::relay_with_delay(listen, target, line).map_err(Failure::own)?;
            Ok(0)
        }
        Command::Config(choice) => match choice.command {
            ConfigCommand::Show => {
                output(&Settings::load(&options)?.to_string())?;
                Ok(0)
            }
        },
        Command::Version => {
            let (version, protocol) = (env!("CARGO_PKG_VERSION"), afield_link::PROTOCOL);
            output(&format!("afield {version} (protocol {protocol})\n"))?;
            Ok(0)
        }
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Writes to standard output. A reader that has gone is no failure.
fn output(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::own(format!("standard output: {}", plain(&error))))
        }
        _ => Ok(()),
    }
}

/// What the daemons have in common: nobody reads what they write to a broken pipe, and they log.
fn become_daemon(settings: &Settings) -> Result<(), Failure> {
    sys::process::ignore_broken_pipes();
    let filter = settings.log_filter().map_err(Failure::own)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}
