//! The user's own pictures, in batches: files, folders and patterns.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use capstan_model::{ComputePool, DeviceSpec, ImagePreprocess, Load, MedParts, Pretrained, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use walkdir::WalkDir;

use crate::args::OfModel;
use crate::error::{Exit, ExpectedError, OrExit};

/// Endings of the pictures that a folder is searched for.
const ENDINGS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Batches that are decoded ahead of the one that is computed.
const AHEAD: usize = 2;

/// A loaded model and the threads that compute with it.
pub(super) struct Loaded {
    pub model: Pretrained,
    pool: ComputePool,
}

impl Loaded {
    /// Opens the model folder that the arguments name.
    ///
    /// # Errors
    /// Foreign input, naming the folder or the file and the reason; usage, for a device.
    pub fn open(args: &OfModel, parts: Option<MedParts>) -> Result<Self, ExpectedError> {
        let spec: DeviceSpec = args.device.parse().or_exit(Exit::Usage)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = ComputePool::new(threads).or_exit(Exit::RunFailed)?;
        let load = Load {
            parts,
            keep: args.keep(),
            ..Load::on(&spec.open().or_exit(Exit::Usage)?)
        };
        let model = pool.install(|| Pretrained::open(&args.model, &load));
        Ok(Self {
            model: model.or_exit(Exit::ForeignInput)?,
            pool,
        })
    }

    /// Runs `work` on the pool over `pictures` in batches, in order, with a progress bar; pictures
    /// are decoded ahead. A picture that cannot be decoded is named on standard error and left
    /// out.
    ///
    /// # Errors
    /// Those of `work`; foreign input where a picture was left out, or its own error if it is the
    /// only one.
    pub fn each_batch(
        &self,
        pictures: &[PathBuf],
        batch: usize,
        mut work: impl FnMut(&[&Path], Tensor<4>) -> Result<(), ExpectedError> + Send,
    ) -> Result<(), ExpectedError> {
        let bar = bar(pictures.len());
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        let mut left_out = 0;
        std::thread::scope(|scope| {
            let preprocess = &self.model.preprocess;
            scope.spawn(move || {
                for paths in pictures.chunks(batch.max(1)) {
                    // The receiver is gone only if the work has failed.
                    if sender.send((paths, prepare(preprocess, paths))).is_err() {
                        return;
                    }
                }
            });
            for (paths, prepared) in receiver {
                let (mut good, mut pixels) = (Vec::new(), Vec::new());
                for (path, prepared) in paths.iter().zip(prepared) {
                    match prepared {
                        Ok(planes) => {
                            good.push(&**path);
                            pixels.extend(planes);
                        }
                        Err(error) if pictures.len() == 1 => return Err(error),
                        Err(error) => {
                            left_out += 1;
                            bar.suspend(|| eprintln!("capstan: {error}"));
                        }
                    }
                }
                if !good.is_empty() {
                    let device = self.model.network.device();
                    let pixels = preprocess.batch(pixels, device);
                    bar.suspend(|| self.pool.install(|| work(&good, pixels)))?;
                }
                bar.inc(paths.len() as u64);
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        match left_out {
            0 => Ok(()),
            count => Err(ExpectedError::new(
                Exit::ForeignInput,
                format!("{count} of {} pictures could not be read", pictures.len()),
            )),
        }
    }
}

fn prepare(
    preprocess: &ImagePreprocess,
    paths: &[PathBuf],
) -> Vec<Result<Vec<f32>, ExpectedError>> {
    let one = |path: &PathBuf| {
        let foreign = |error: &dyn std::error::Error| {
            ExpectedError::about(Exit::ForeignInput, path.display(), error)
        };
        let bytes = std::fs::read(path).map_err(|error| foreign(&error))?;
        preprocess.pixels(&bytes).map_err(|error| foreign(&error))
    };
    paths.iter().map(one).collect()
}

fn bar(pictures: usize) -> ProgressBar {
    if pictures < 2 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(pictures as u64);
    let style = "{bar:40.cyan/black} {pos}/{len} pictures, {per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    bar
}

/// The pictures that these name: files as they are, all pictures of a folder and of its folders,
/// and whatever fits a pattern of `*`, `?`, `[...]` and `**`. Folders and patterns are sorted by
/// path.
///
/// # Errors
/// Usage, for a folder or a pattern without pictures.
pub(super) fn expand(named: &[PathBuf]) -> Result<Vec<PathBuf>, ExpectedError> {
    let mut all = Vec::new();
    for path in named {
        let found = if path.is_dir() {
            in_folder(path)?
        } else if path.exists() || !is_pattern(path) {
            vec![path.clone()]
        } else {
            fitting(path)?
        };
        if found.is_empty() {
            return Err(ExpectedError::new(
                Exit::Usage,
                format!("{}: no pictures ({})", path.display(), ENDINGS.join(", ")),
            ));
        }
        all.extend(found);
    }
    Ok(all)
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, ExpectedError> {
    let mut found = Vec::new();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.or_exit(Exit::ForeignInput)?;
        if entry.file_type().is_file() && is_picture(entry.path()) {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

fn fitting(pattern: &Path) -> Result<Vec<PathBuf>, ExpectedError> {
    let text = pattern.to_string_lossy();
    let mut found = Vec::new();
    for path in glob::glob(&text).or_exit(Exit::Usage)? {
        let path = path.or_exit(Exit::ForeignInput)?;
        if is_picture(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| *known == ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &Path) -> String {
        let prepared = prepare(&ImagePreprocess::new(64), &[path.to_owned()]);
        let error = prepared.into_iter().next().unwrap().unwrap_err();
        assert_eq!(error.exit(), Exit::ForeignInput);
        error.to_string()
    }

    #[test]
    fn a_text_file_in_place_of_a_picture_is_named_with_its_reason_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a picture").unwrap();
        assert_eq!(
            line(&path),
            format!(
                "{}: the picture cannot be decoded: The image format could not be determined",
                path.display()
            )
        );
    }

    #[test]
    fn a_picture_that_is_missing_is_named_with_the_reason_of_the_system() {
        assert_eq!(
            line(Path::new("/no/such/picture.png")),
            "/no/such/picture.png: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn folders_and_patterns_are_expanded_in_order_and_files_are_taken_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        for name in ["b.PNG", "a.jpg", "sub/c.webp", "notes.txt"] {
            std::fs::write(at(name), "").unwrap();
        }
        let expanded = |named: &[PathBuf]| expand(named).map_err(|error| error.to_string());
        let all = [at("a.jpg"), at("b.PNG"), at("sub/c.webp")];
        assert_eq!(expanded(&[folder.path().to_owned()]).unwrap(), all);
        assert_eq!(expanded(&[at("**/*")]).unwrap(), all);
        assert_eq!(
            expanded(&[at("*.jpg"), at("notes.txt")]).unwrap(),
            [at("a.jpg"), at("notes.txt")]
        );
        let none = expanded(&[at("*.gif")]).unwrap_err();
        assert!(none.contains("*.gif: no pictures"), "{none}");
    }
}
