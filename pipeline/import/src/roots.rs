//! Which folders an import may read.
//!
//! ```text
//! source ─► Roots::resolve ─► SourceFolder (links resolved, inside a root)
//!                                  └─► open, for each file: links resolved, inside a root
//! ```
//! Every path is resolved with all of its links before it is compared with the roots, so that neither
//! `..`, an absolute path nor a link leads out. A file is opened by its resolved path. A process that
//! swaps a folder for a link between the check and the opening is not defended against: it can write
//! below the roots, which are the operator's.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;

/// Folders below which an import may read: `[import] roots` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots(Vec<PathBuf>);

impl Roots {
    /// These folders, in the order in which a relative source is looked up.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(folders.into_iter().collect())
    }

    /// Finds the folder of a source: an absolute path, or a relative one below the first root that
    /// has it.
    ///
    /// # Errors
    /// [`Error::Outside`] where the source leads out of every root, [`Error::NoSource`] where it is
    /// in none of them.
    pub fn resolve(&self, source: &str) -> Result<SourceFolder, Error> {
        // A root that does not exist holds nothing. Other roots stay usable.
        let resolved: Vec<PathBuf> = self.0.iter().filter_map(|root| canonical(root)).collect();
        let candidates = self.0.iter().map(|root| root.join(source));
        let mut outside = None;
        for candidate in candidates {
            let Some(path) = canonical(&candidate) else {
                outside = outside.or_else(|| led_out(&candidate, &resolved));
                continue;
            };
            if is_inside(&path, &resolved) {
                return Ok(SourceFolder {
                    path,
                    roots: resolved.into(),
                });
            }
            outside = outside.or(Some(path));
        }
        let source = source.to_owned();
        let roots = self.clone();
        Err(match outside {
            Some(path) => Error::Outside {
                source_path: source,
                path,
                roots,
            },
            None => Error::NoSource {
                source_path: source,
                roots,
            },
        })
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut roots = self.0.iter();
        match roots.next() {
            None => f.write_str("none"),
            Some(first) => {
                write!(f, "`{}`", first.display())?;
                roots.try_for_each(|root| write!(f, ", `{}`", root.display()))
            }
        }
    }
}

/// A folder that an import reads, and the roots that it must not leave. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceFolder {
    path: PathBuf,
    roots: Arc<[PathBuf]>,
}

impl SourceFolder {
    /// The folder, its links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file whose links stay inside the roots.
    ///
    /// - `path`: below [`SourceFolder::path`].
    ///
    /// # Errors
    /// Those of the file system; [`ErrorKind::InvalidInput`] for a path that leads out of the roots
    /// and for what is not a regular file, which could block for ever (a pipe).
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let resolved = path.canonicalize()?;
        if !is_inside(&resolved, &self.roots) {
            return Err(refused("it leads out of the import roots"));
        }
        if !resolved.metadata()?.is_file() {
            return Err(refused("it is not a regular file"));
        }
        File::open(resolved)
    }

    /// Checks that no link below the folder leads out of the roots: for a folder that another
    /// library reads by itself.
    ///
    /// # Errors
    /// [`Error::Read`] with the link, or with a folder that cannot be listed.
    pub fn check_links(&self) -> Result<(), Error> {
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let unreadable = |source| Error::Read {
                path: folder.clone(),
                source,
            };
            for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_symlink()
                    && canonical(&path).is_some_and(|target| !is_inside(&target, &self.roots))
                {
                    let source = refused("it leads out of the import roots");
                    return Err(Error::Read { path, source });
                }
            }
        }
        Ok(())
    }
}

fn refused(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, reason)
}

/// `path` with its links resolved; `None` where it does not exist or cannot be looked at.
fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// Whether `path` is one of the roots or lies below one. Both sides have their links resolved.
fn is_inside(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| path.starts_with(root))
}

/// Where a path that does not exist leads out of the roots: its nearest folder that exists.
fn led_out(path: &Path, roots: &[PathBuf]) -> Option<PathBuf> {
    let nearest = path.ancestors().skip(1).find_map(canonical)?;
    (!is_inside(&nearest, roots)).then_some(nearest)
}

#[cfg(test)]
mod tests;
