//! Programs written in Go that tests run as they are: from the path, else built once with
//! `go install` into `target/<name>-bin`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A program and where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// Package and pinned version, as `go install` takes them.
    pub module: &'static str,
    /// How long a build takes, for people who wait for it.
    pub takes: &'static str,
}

impl Program {
    /// The binary; `None`, after one line, where it can be neither found nor built.
    ///
    /// # Panics
    /// In CI (`CI` is set) where it cannot be had.
    pub fn find_or_say(&self) -> Option<PathBuf> {
        match self.find() {
            Ok(binary) => Some(binary),
            Err(reason) => {
                let line = format!("no {}: {reason:#}; its tests are left out", self.name);
                assert!(std::env::var_os("CI").is_none(), "{line}");
                eprintln!("{line}");
                None
            }
        }
    }

    /// The binary from the path or of an earlier build, else one built now.
    ///
    /// # Errors
    /// Where it can be neither found nor built.
    pub fn find(&self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut installed = std::env::split_paths(&path).map(|folder| folder.join(self.name));
        if let Some(found) = installed.find(|path| path.is_file()) {
            return Ok(found);
        }
        let folder = target()?.join(format!("{}-bin", self.name));
        std::fs::create_dir_all(&folder)?;
        // Tests run side by side; the first one builds and the others wait for it.
        let lock = std::fs::File::create(folder.join("lock"))?;
        lock.lock()?;
        let built = folder.join(self.name);
        if !built.is_file() {
            self.build(&folder)?;
        }
        ensure!(built.is_file(), "{} was not built", built.display());
        Ok(built)
    }

    fn build(&self, folder: &Path) -> Result<()> {
        let Self {
            name,
            module,
            takes,
        } = self;
        eprintln!("building {name} once, about {takes}: go install {module}");
        let built = Command::new("go")
            .args(["install", module])
            .env("GOBIN", folder)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("there is no `{name}` on the path and no `go` to build it"))?;
        ensure!(
            built.status.success(),
            "`go install` failed: {}",
            String::from_utf8_lossy(&built.stderr)
                .lines()
                .last()
                .unwrap_or_default()
        );
        Ok(())
    }
}

/// The workspace's `target`, whatever `CARGO_TARGET_DIR` says: a build is kept for all.
fn target() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = tests.parent().context("the workspace is above `tests`")?;
    Ok(workspace.join("target"))
}
