//! The lock that keeps a second coordinator away from a database file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::beside;
use crate::state::Error;

/// Takes the lock of a database file for as long as what is given lives. It stands on a file of
/// its own: SQLite takes and drops locks on the database itself, and the operating system keeps
/// them by process. A process that dies, however it does, has released it.
///
/// # Errors
/// [`Error::Held`] where another has it; [`Error::File`] where the lock cannot be made.
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
