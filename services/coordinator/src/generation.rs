//! Generations: each start of a coordinator over a store takes the next number, for ever.

use capstan_dataset::Store;
use capstan_dataset::store::Created;
use serde::Serialize;

use crate::clock::Clock;

const FOLDER: &str = "coordinator/generations";

/// Starts that may race before one gives up.
const TRIES: u64 = 1_000;

#[derive(Serialize)]
struct Record {
    generation: u64,
    started_unix_ms: i64,
    /// Tells two starts apart that would write equal bytes.
    start: String,
}

/// Takes the next generation: creates `coordinator/generations/<n>.json`.
///
/// # Errors
/// Those of the store.
pub(crate) async fn take(store: &Store, clock: &dyn Clock) -> capstan_dataset::Result<u64> {
    let objects = store.list(FOLDER).await?;
    let taken = objects.iter().filter_map(|object| {
        let name = object.path.rsplit('/').next()?;
        name.strip_suffix(".json")?.parse::<u64>().ok()
    });
    let first = taken.max().unwrap_or(0) + 1;
    let start = uuid::Uuid::new_v4().to_string();
    for generation in first..first + TRIES {
        let path = format!("{FOLDER}/{generation}.json");
        let record = Record {
            generation,
            started_unix_ms: clock.unix_ms(),
            start: start.clone(),
        };
        let json = serde_json::to_vec(&record).expect("plain data");
        if store.create(&path, json).await? == Created::Created {
            return Ok(generation);
        }
    }
    Err(capstan_dataset::Error::Contended {
        url: store.url().to_owned(),
        path: FOLDER.to_owned(),
        tries: u32::try_from(TRIES).unwrap_or(u32::MAX),
    })
}
