//! `afield run`.

use std::ffi::OsString;
use std::io;

use afield_home::run::Job;

use crate::config::{Options, Settings, Target};
use crate::failure::{Failure, NOT_EXECUTABLE, NOT_FOUND, plain};
use crate::sys;

/// Becomes the command, with its computing where the configuration says.
pub fn run(command: Vec<OsString>, options: &Options) -> Result<u8, Failure> {
    let settings = Settings::load(options)?;
    let place = match settings.target()? {
        Target::Home => return Err(natively(&command)),
        Target::Node(place) => place,
    };
    let mut agent_arguments: Vec<OsString> = vec!["agent".into(), "run".into(), "--runtime-dir".into()];
    agent_arguments.push(settings.runtime_dir.value.clone().into());
    if let Some(file) = &options.config {
        agent_arguments.extend(["--config".into(), file.clone().into()]);
    }
    afield_home::run::run(Job {
        command,
        place,
        place_name: settings.on.value.clone(),
        verbose: settings.verbose.value,
        runtime: settings.runtime(),
        agent_arguments,
    })
}

/// Executes the command here, as env(1) does. Returns only if that fails.
fn natively(command: &[OsString]) -> Failure {
    let error = sys::process::execute(command);
    let name = command.first().map(OsString::as_os_str).unwrap_or_default();
    Failure {
        message: format!("{}: {}", name.display(), plain(&error)),
        code: if error.kind() == io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        },
    }
}
