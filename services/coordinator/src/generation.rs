//! Generations: each start of a coordinator over a store takes the next number.
//!
//! The newest record determines who may schedule. This coordinator's database must have taken it:
//! otherwise another coordinator has served the store since, and the runs in the database are outdated.
//! The steps of a start, and the effect of a crash between two steps:
//!
//! ```text
//!  1  database: intended = S      S is a random id of this start
//!     ✗ the newest record is still the one in the database: the next start continues
//!  2  store: create generations/<n+1>.json with start = S
//!     ✗ the newest record has the intended start: the next start recognizes it as its own
//!  3  database: generation = n+1, start = S
//! ```
//!
//! If two coordinators with separate databases start over one store at the same time, both read `n`.
//! Creating the record succeeds for one of them, and the other fails.

use capstan_dataset::Store;
use capstan_dataset::store::Created;
use capstan_plan::clock::Clock;
use capstan_runtime::fault;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state::{Database, Known};
use crate::token::{self, Tokens};

const FOLDER: &str = "coordinator/generations";

/// The record of a generation in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) generation: u64,
    pub(crate) started_unix_ms: i64,
    /// The id of the start that took it.
    pub(crate) start: String,
}

fn path(generation: u64) -> String {
    format!("{FOLDER}/{generation}.json")
}

/// Takes the next generation. Returns it with the tokens of the database.
///
/// # Errors
/// [`Error::Behind`]: the newest generation was not taken with this database; [`Error::Store`],
/// [`Error::Database`].
pub(crate) async fn take(
    store: &Store,
    database: &dyn Database,
    url: &str,
    clock: &dyn Clock,
) -> Result<(u64, Tokens), Error> {
    let known = database.known().await?;
    let newest = newest(store).await?;
    let behind = |newest: u64| Error::Behind {
        database: url.to_owned(),
        known: known.generation,
        store: store.url().to_owned(),
        newest,
    };
    let before = match newest {
        None if known.generation == 0 => Known::default(),
        Some(newest) if newest.start == known.start || newest.start == known.intended => Known {
            generation: newest.generation,
            start: newest.start,
            intended: String::new(),
            secret: known.secret,
        },
        newest => return Err(behind(newest.map_or(0, |newest| newest.generation))),
    };
    let start = unique_start();
    let secret = before.secret.unwrap_or_else(token::random);
    let intended = Known {
        intended: start.clone(),
        secret: Some(secret),
        ..before
    };
    database.know(&intended).await?;
    let generation = intended.generation + 1;
    let record = Record {
        generation,
        started_unix_ms: clock.unix_ms(),
        start: start.clone(),
    };
    let json = serde_json::to_vec(&record).expect("plain data");
    if store.create(&path(generation), json).await? == Created::AlreadyExists {
        return Err(behind(generation));
    }
    fault::point("coordinator.after_generation");
    let taken = Known {
        generation,
        start,
        intended: String::new(),
        secret: Some(secret),
    };
    database.know(&taken).await?;
    Ok((generation, Tokens::new(secret)))
}

/// The newest generation of a store.
///
/// # Errors
/// Those of the store; [`Error::Generation`]: the record cannot be read.
pub(crate) async fn newest(store: &Store) -> Result<Option<Record>, Error> {
    let objects = store.list(FOLDER).await?;
    let taken = objects.iter().filter_map(|object| {
        let name = object.path.rsplit('/').next()?;
        name.strip_suffix(".json")?.parse::<u64>().ok()
    });
    let Some(generation) = taken.max() else {
        return Ok(None);
    };
    let path = path(generation);
    let bytes = store.get(&path).await?;
    let record = serde_json::from_slice(&bytes).map_err(|source| Error::Generation {
        path: format!("{}/{path}", store.url()),
        source,
    })?;
    Ok(Some(record))
}

/// Whether a generation was taken. Reads one object's metadata and lists nothing.
///
/// # Errors
/// Those of the store.
pub(crate) async fn is_taken(store: &Store, generation: u64) -> Result<bool, Error> {
    Ok(store.size(&path(generation)).await?.is_some())
}

/// A unique id of this start, so that two coordinators cannot both claim a generation.
#[expect(
    clippy::disallowed_methods,
    reason = "two starts must not choose the same name"
)]
fn unique_start() -> String {
    uuid::Uuid::new_v4().to_string()
}
