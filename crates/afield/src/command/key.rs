//! `afield key`.

use afield_link::secure::Identity;

use super::output;
use crate::config::Settings;
use crate::failure::Failure;

/// Shows this machine's key, which is made if there is none.
pub fn key(settings: &Settings, fingerprint_only: bool) -> Result<u8, Failure> {
    let path = settings.key();
    let fingerprint = Identity::load_or_make(&path)?.fingerprint();
    output(&if fingerprint_only {
        format!("{fingerprint}\n")
    } else {
        format!("{fingerprint}\n{}\n", path.display())
    })?;
    Ok(0)
}
