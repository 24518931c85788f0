//! `trailproof run`: the server.

use crate::cli::Settings;

use super::Failure;

/// Runs until told to stop.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let config = settings.load()?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    Err(Failure::new(2, "the engine is not part of this build yet"))
}
