//! `afield node`.

use std::net::SocketAddr;

use afield_node::{daemon, session};

use super::{become_daemon, output};
use crate::config::Settings;
use crate::failure::{Failure, plain};
use crate::{exposure, sys};

/// Serves sessions of whoever connects.
pub fn listen(settings: &Settings, address: &str) -> Result<u8, Failure> {
    let address: SocketAddr = address.parse().map_err(|_| {
        Failure::own(format!(
            "`{address}` is not an address to listen on: write ADDR:PORT, for example 127.0.0.1:7070"
        ))
    })?;
    exposure::check(address).map_err(|reason| {
        Failure::own(format!(
            "will not listen on {address}: {reason}, and links are not authenticated yet. Listen on 127.0.0.1, or in a \
             network namespace without a route out"
        ))
    })?;
    become_daemon(settings)?;
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    daemon::listen(address, &name, |bound| {
        // For whoever started the daemon with port 0, or waits until it serves. It does without a reader, too.
        let _ = output(&format!("listening on {bound}\n"));
    })
    .map_err(|error| Failure::own(format!("listen on {address}: {}", plain(&error))))?;
    Ok(0)
}

/// Serves one session on an inherited descriptor.
pub fn embedded(settings: &Settings, descriptor: i32) -> Result<u8, Failure> {
    let descriptor = sys::process::adopt_descriptor(descriptor)
        .map_err(|error| Failure::own(format!("--embedded-fd {descriptor}: {}", plain(&error))))?;
    become_daemon(settings)?;
    session::serve_embedded(descriptor).map_err(Failure::own)?;
    Ok(0)
}
