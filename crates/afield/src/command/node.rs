//! `afield node`.

use std::net::SocketAddr;

use super::become_daemon;
use crate::config::Settings;
use crate::exposure;
use crate::failure::Failure;

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
    todo(address)
}

/// Serves one session on an inherited descriptor.
pub fn embedded(settings: &Settings, descriptor: i32) -> Result<u8, Failure> {
    become_daemon(settings)?;
    todo(descriptor)
}

fn todo(_: impl Sized) -> Result<u8, Failure> {
    Err(Failure::own("no node in this build"))
}
