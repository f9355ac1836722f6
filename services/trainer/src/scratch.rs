//! A folder for the unfinished files of an attempt, which is removed with the attempt.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use capstan_lease::Assignment;

use crate::error::Error;

/// The age at which a folder belongs to no running attempt.
const ABANDONED: Duration = Duration::from_secs(24 * 3_600);

/// Removes the folders of killed attempts. Other trainers may share `cache`.
pub(crate) fn sweep(cache: &Path, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(cache.join("scratch")) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let written = std::fs::metadata(&path).and_then(|meta| meta.modified());
        let age = written.map(|written| now.duration_since(written));
        if matches!(age, Ok(Ok(age)) if age > ABANDONED) {
            // If it cannot be removed, the next trainer tries again.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// A folder of one attempt and rank; removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates the empty folder of an attempt and rank.
    pub(crate) fn new(cache: &Path, assignment: &Assignment) -> Result<Self, Error> {
        let name = format!("attempt-{}-{}", assignment.lease.attempt, assignment.rank());
        let folder = cache.join("scratch").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        }
        std::fs::create_dir_all(&folder).map_err(|error| Error::local(&folder, error))?;
        Ok(Self(folder))
    }

    /// The path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove the files of an attempt");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_folders_are_swept() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("scratch/attempt-1-0");
        std::fs::create_dir_all(&folder).unwrap();
        let written = std::fs::metadata(&folder).unwrap().modified().unwrap();
        sweep(cache.path(), written + ABANDONED);
        assert!(folder.is_dir());
        sweep(cache.path(), written + ABANDONED + Duration::from_secs(1));
        assert!(!folder.exists());
    }
}
