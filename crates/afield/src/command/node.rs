//! `afield node`.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use afield_link::secure::{Fingerprint, Identity};
use afield_node::admission::AuthorizedHomes;
use afield_node::bridge::{self, Bridge};
use afield_node::store::Policy;
use afield_node::{daemon, journal, session};

use super::{become_daemon, output};
use crate::config::Settings;
use crate::failure::{Failure, plain};
use crate::sys;

/// Serves sessions of homes that are admitted.
pub fn listen(settings: &Settings, address: &str) -> Result<u8, Failure> {
    let address: SocketAddr = address.parse().map_err(|_| {
        Failure::own(format!(
            "`{address}` is not an address to listen on: write ADDR:PORT, for example 127.0.0.1:7070, or 0.0.0.0:7070 \
             for all of this machine's"
        ))
    })?;
    let path = settings.authorized_homes();
    // What is wrong with it is to be seen now, not when somebody comes.
    let homes = AuthorizedHomes::load(&path)?;
    for mistake in homes.mistakes() {
        eprintln!("afield: {mistake}");
    }
    let identity = Identity::load_or_make(&settings.key())?;
    let key = identity.fingerprint();
    let count = match homes.homes().count() {
        0 => "no home yet".to_owned(),
        1 => "1 home".to_owned(),
        count => format!("{count} homes"),
    };
    become_daemon(settings)?;
    let failed = |error: io::Error| Failure::own(format!("listen on {address}: {}", plain(&error)));
    let listener = TcpListener::bind(address).map_err(failed)?;
    let sessions = settings.runtime_dir.value.join("sessions");
    let ended = journal::keep(&sessions).map_err(Failure::own)?;
    if ended > 0 {
        tracing::warn!(ended, "sessions were left over");
    }
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let options = daemon::Options {
        name: name.clone(),
        identity,
        authorized_homes: path.clone(),
        grace: Duration::from_secs(settings.grace_seconds.value),
        idle: None,
        keeping: keeping(settings),
    };
    daemon::listen(listener, &options, |bound| {
        let shown = match bound.ip().is_unspecified() {
            true => format!("{name}:{}", bound.port()),
            false => bound.to_string(),
        };
        // For whoever started the daemon with port 0, or waits until it serves. It does without a reader, too.
        let _ = output(&format!(
            "listening on {bound}\nadmits {count}: {}\nhomes trust it with: afield trust add {name} {shown} {key}\n",
            path.display()
        ));
    })
    .map_err(failed)?;
    Ok(0)
}

/// What is kept of homes' files.
fn keeping(settings: &Settings) -> Policy {
    Policy {
        directory: settings.contents_directory.value.clone(),
        most_bytes: settings.contents_bytes_max.value,
    }
}

/// Leads a login by ssh to a node daemon of this account's own. What it says before the link is in the bootstrap's lines.
pub fn bridge(settings: &Settings, home: &str) -> Result<u8, Failure> {
    become_daemon(settings)?;
    match cross(settings, home) {
        Ok((key, stream)) => {
            output(&format!("afield-bootstrap key {key}\nafield-bootstrap ready\n"))?;
            bridge::carry(&stream).map_err(Failure::own)?;
        }
        Err(why) => output(&format!("afield-bootstrap failed {why}\n"))?,
    }
    Ok(0)
}

fn cross(settings: &Settings, home: &str) -> Result<(Fingerprint, TcpStream), Box<dyn std::error::Error>> {
    let home: Fingerprint = home.parse()?;
    let identity = Identity::load_or_make(&settings.key())?;
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let program = std::env::current_exe()?;
    let grace = Duration::from_secs(settings.grace_seconds.value);
    let bridge = Bridge::at(bridge::directory_of(&program, &name), keeping(settings))?;
    let stream = bridge.reach(&identity, &name, grace, home)?;
    Ok((identity.fingerprint(), stream))
}

/// Serves one session on an inherited descriptor.
pub fn embedded(settings: &Settings, descriptor: i32) -> Result<u8, Failure> {
    let descriptor = sys::process::adopt_descriptor(descriptor)
        .map_err(|error| Failure::own(format!("--embedded-fd {descriptor}: {}", plain(&error))))?;
    become_daemon(settings)?;
    session::serve_embedded(descriptor).map_err(Failure::own)?;
    Ok(0)
}
