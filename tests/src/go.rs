//! Go programs that tests run unchanged: found on the path, or built once with `go install` into
//! `target/<name>-bin`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A program and its source.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// Package and pinned version for `go install`.
    pub module: &'static str,
    /// Duration of a build, for the message before it.
    pub takes: &'static str,
}

impl Program {
    /// The binary; `None`, after one line, if it can be neither found nor built.
    ///
    /// # Panics
    /// In continuous integration (`CI` is set), if it can be neither found nor built.
    pub fn find_or_say(&self) -> Option<PathBuf> {
        match self.find() {
            Ok(binary) => Some(binary),
            Err(reason) => {
                let line = format!("no {}: {reason:#}; its tests are skipped", self.name);
                assert!(std::env::var_os("CI").is_none(), "{line}");
                eprintln!("{line}");
                None
            }
        }
    }

    /// The binary from the path or an earlier build, or one built now.
    ///
    /// # Errors
    /// If it can be neither found nor built.
    pub fn find(&self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut installed = std::env::split_paths(&path).map(|folder| folder.join(self.name));
        if let Some(found) = installed.find(|path| path.is_file()) {
            return Ok(found);
        }
        let folder = target()?.join(format!("{}-bin", self.name));
        std::fs::create_dir_all(&folder)?;
        // Tests run in parallel: the first one builds, the others wait for the lock.
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
            .with_context(|| {
                format!("`{name}` is not on the path, and neither is `go` to build it")
            })?;
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

/// The workspace's `target`, whatever `CARGO_TARGET_DIR` is: all target folders share the build.
fn target() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = tests.parent().context("`tests` has no parent folder")?;
    Ok(workspace.join("target"))
}
