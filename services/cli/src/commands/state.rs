//! `capstan state`: the coordinator's database.

use capstan_runtime::{Overrides, telemetry};
use serde_json::json;

use super::block_on;
use crate::args::State;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::settings::Settings;
use crate::{output, store};

/// Rebuilds the database from the store.
///
/// # Errors
/// Configuration; unavailable, where the store cannot be read, or the database cannot be written
/// or a coordinator has it.
pub fn run(command: &State, settings: &Settings) -> Result<(), ExpectedError> {
    let State::Rebuild {
        store,
        database,
        json,
    } = command;
    let overrides = Overrides::new()
        .set_some("store.url", store.clone())
        .set_some("coordinator.database", database.clone());
    let config = settings.load_with(overrides)?;
    telemetry::init(&config.telemetry).or_exit(Exit::Configuration)?;
    block_on(async {
        let store = store::open_existing(&config.store).await?;
        let rebuilt = capstan_coordinator::rebuild(&config.coordinator, &store)
            .await
            .or_exit(Exit::Unavailable)?;
        if *json {
            return output::json(&json!({
                "runs": rebuilt.runs,
                "running": rebuilt.running,
                "committed": rebuilt.committed,
                "generation": rebuilt.generation,
            }));
        }
        println!(
            "{}: {} runs ({} go on), {} commits, generation {}",
            config.coordinator.database,
            rebuilt.runs,
            rebuilt.running,
            rebuilt.committed,
            rebuilt.generation
        );
        Ok(())
    })
}
