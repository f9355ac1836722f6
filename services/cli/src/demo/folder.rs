//! The folder of a demo: created, recognised or refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Exit, ExpectedError, OrExit};
use crate::output::write_whole;
use crate::report;

/// Name of the file that marks the folder of a demo.
const MARKER: &str = "demo.json";

/// The inputs that determine a demo. One folder holds one demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Seed of the world and of every draw.
    pub seed: u64,
    /// blake3 of the world file.
    pub world: String,
    /// blake3 of the pipeline.
    pub pipeline: String,
}

/// The folder of one demo.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens the folder of this demo; creates it if it is absent or empty.
    ///
    /// # Errors
    /// Usage, naming the folder, if it holds other files or another demo.
    pub fn open(root: &Path, marker: &Marker) -> Result<Self, ExpectedError> {
        let shown = root.display();
        let usage = |text: String| ExpectedError::new(Exit::Usage, text);
        if root.exists() && !root.is_dir() {
            return Err(usage(format!(
                "--out {shown}: is no folder; name another one"
            )));
        }
        let path = root.join(MARKER);
        if path.exists() {
            let text = std::fs::read_to_string(&path)
                .or_exit(Exit::Usage)
                .map_err(|error| usage(format!("{}: {error}", path.display())))?;
            let found: Marker = serde_json::from_str(&text)
                .map_err(|error| usage(format!("{}: no demo's marker: {error}", path.display())))?;
            let differs = [
                (found.seed != marker.seed).then(|| format!("seed {}", found.seed)),
                (found.world != marker.world).then(|| "another world".to_owned()),
                (found.pipeline != marker.pipeline).then(|| "another pipeline".to_owned()),
            ];
            let differs: Vec<String> = differs.into_iter().flatten().collect();
            if !differs.is_empty() {
                return Err(usage(format!(
                    "--out {shown}: holds a demo of {}; name another folder",
                    differs.join(", ")
                )));
            }
            return Ok(Self {
                root: root.to_owned(),
            });
        }
        if root.exists() {
            let mut entries = std::fs::read_dir(root)
                .map_err(|error| usage(format!("--out {shown}: {error}")))?;
            if let Some(entry) = entries.next() {
                let name = entry.map(|e| e.file_name().to_string_lossy().into_owned());
                return Err(usage(format!(
                    "--out {shown}: holds something else ({}); name a new or empty folder",
                    name.unwrap_or_default()
                )));
            }
        }
        std::fs::create_dir_all(root)
            .map_err(|error| usage(format!("--out {shown}: cannot be made: {error}")))?;
        write_whole(
            &path,
            &serde_json::to_vec_pretty(marker).expect("plain data"),
        )?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The object store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The coordinator's database.
    pub fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    /// Annotated sets, written by the demo web for the imports.
    pub fn annotations(&self) -> PathBuf {
        self.root.join("annotations")
    }

    /// Local copies of models and shards.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Models under their stages' names, for `capstan caption` and `capstan match`.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The page with pictures.
    pub fn report(&self) -> PathBuf {
        self.root.join(report::PAGE)
    }

    /// The log of the run, one JSON object per line.
    pub fn log(&self) -> PathBuf {
        self.root.join("log.jsonl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(seed: u64) -> Marker {
        Marker {
            seed,
            world: "w".into(),
            pipeline: "p".into(),
        }
    }

    #[test]
    fn the_folder_of_this_demo_is_opened_again_and_another_demo_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("out");
        Folder::open(&root, &marker(1)).unwrap();
        Folder::open(&root, &marker(1)).unwrap();
        let error = Folder::open(&root, &marker(2)).unwrap_err().to_string();
        assert!(error.contains("out") && error.contains("seed 1"), "{error}");
    }

    #[test]
    fn a_folder_with_other_files_is_refused_and_not_changed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("thesis.tex"), "dear").unwrap();
        let error = Folder::open(temp.path(), &marker(1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_folder_is_used() {
        let temp = tempfile::tempdir().unwrap();
        Folder::open(temp.path(), &marker(1)).unwrap();
        assert!(temp.path().join(MARKER).exists());
    }
}
