//! Opens the configured store, and waits for one that does not answer yet.

use std::path::Path;
use std::time::Duration;

use capstan_dataset::Store;
use capstan_runtime::{Config, config};
use tokio_util::sync::CancellationToken;

use crate::error::{Exit, ExpectedError, OrExit};

/// Opens a store. A folder that is absent is created; no server is contacted.
///
/// # Errors
/// Unavailable, naming the store.
pub fn open(settings: &config::Store) -> Result<Store, ExpectedError> {
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    // Settings of the file come last, so that they override environment variables.
    let options = settings.options.iter();
    let options = options.map(|(key, value)| (key.to_uppercase(), value.reveal().to_owned()));
    Store::open_with(&settings.url, environment.chain(options)).or_exit(Exit::Unavailable)
}

/// Opens a store that exists: a command that only reads must not create one.
///
/// # Errors
/// Unavailable, naming the store.
pub async fn open_existing(settings: &config::Store) -> Result<Store, ExpectedError> {
    let url = &settings.url;
    if !url.contains("://") && !Path::new(url).is_dir() {
        let line = format!("{url}: no such store; name a folder or URL with --store");
        return Err(ExpectedError::new(Exit::Unavailable, line));
    }
    let store = open(settings)?;
    store.probe().await.or_exit(Exit::Unavailable)?;
    Ok(store)
}

/// Opens a store that processes share and waits until it answers, at most `[store] wait_seconds`.
/// `None` if `shutdown` is cancelled first.
///
/// # Errors
/// Unavailable, naming the store: immediately if it refuses access, else when the wait is over.
pub async fn await_store(
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<Option<Store>, ExpectedError> {
    let store = open(&config.store)?;
    let ready = store.ready(Duration::from_secs(config.store.wait_seconds));
    tokio::select! {
        () = shutdown.cancelled() => Ok(None),
        ready = ready => ready.map(|()| Some(store.clone())).or_exit(Exit::Unavailable),
    }
}

/// Adds a cache on the local disk to a store that is not on this machine.
///
/// # Errors
/// Unavailable, if the folder cannot be created.
pub fn cached(store: Store, folder: &Path, max_bytes: u64) -> Result<Store, ExpectedError> {
    if store.folder().is_some() || max_bytes == 0 {
        return Ok(store);
    }
    let cached = store.with_cache(&folder.join("shards"), max_bytes);
    cached.or_exit(Exit::Unavailable)
}
