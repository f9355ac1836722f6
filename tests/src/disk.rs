//! A small file system that a test fills. The next process unmounts those of a process that was killed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Prefix of the names that the file systems have in the table of mounts; the process id follows.
const PREFIX: &str = "capstan-test-";
/// A file that takes the space that was left.
const FILLER: &str = "filler";

/// A small file system of its own (tmpfs), unmounted on drop.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs. `None`, after one line, if this user may not mount.
    ///
    /// - `size`: such as `size=3m`.
    ///
    /// # Panics
    /// In continuous integration (`CI` is set), if it cannot be mounted.
    pub fn mount(size: &str) -> Option<Self> {
        remove_leftovers();
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{PREFIX}{}", std::process::id());
        let mounted = mount(&["-t", "tmpfs", "-o", size, &name], folder.path());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "tmpfs cannot be mounted");
            eprintln!("a full disk was not tried: mounting a tmpfs needs root");
            return None;
        }
        Some(Self { folder })
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it another size.
    pub fn grow(&self, size: &str) {
        let options = format!("remount,{size}");
        assert!(mount(&["-o", &options], self.folder()));
    }

    /// Takes all the space that is left. Files can still be read.
    pub fn fill(&self) {
        let mut file = File::create(self.folder().join(FILLER)).unwrap();
        // Blocks first, then the rest of the last one.
        for length in [1 << 20, 1 << 12, 1] {
            let block = vec![0; length];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn free(&self) {
        std::fs::remove_file(self.folder().join(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.folder());
    }
}

fn mount(arguments: &[&str], folder: &Path) -> bool {
    let mounted = Command::new("mount").args(arguments).arg(folder).output();
    mounted.is_ok_and(|output| output.status.success())
}

/// Unmounts lazily (-l), because a child that is still exiting may hold a file open.
fn unmount(folder: &Path) {
    let _ = Command::new("umount").arg("-l").arg(folder).status();
}

/// Removes the file systems of processes that were killed.
fn remove_leftovers() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let id = fields.next().and_then(|name| name.strip_prefix(PREFIX));
        let (Some(id), Some(folder)) = (id, fields.next()) else {
            continue;
        };
        if !Path::new("/proc").join(id).exists() {
            unmount(Path::new(folder));
            let _ = std::fs::remove_dir(folder);
        }
    }
}
