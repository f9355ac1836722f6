//! The lock that keeps a second coordinator out of a database file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::beside;
use crate::state::Error;

/// Locks a database file until the returned file is dropped. The lock is on a file of its own, because
/// SQLite takes and drops locks on the database file, and the operating system keeps these per process.
/// The lock of a process that dies is released.
///
/// # Errors
/// [`Error::Held`]: another process has it; [`Error::File`]: the lock file cannot be created.
pub(super) fn take(database: &Path) -> Result<File, Error> {
    let path = beside(database, ".lock");
    let fail = |source| Error::File {
        file: database.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Held {
            file: database.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}
