//! A local disk that is full: nothing half-written stays, and the same call goes on once there is
//! room.

use std::path::Path;
use std::process::Command;

use capstan_plan::FailureKind;
use capstan_plan::id::Digest;

use crate::error::Error;
use crate::models;
use crate::store::Store;

/// A file system of 256 KiB, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts a tmpfs. `None`, after one line, if this user may not mount.
    ///
    /// # Panics
    /// In continuous integration (`CI` is set), if it cannot be mounted.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        if !mount(
            &["-t", "tmpfs", "-o", "size=256k", "capstan"],
            folder.path(),
        ) {
            assert!(std::env::var_os("CI").is_none(), "tmpfs cannot be mounted");
            eprintln!("a full disk was not tried: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(folder))
    }

    fn grow(&self) {
        assert!(mount(&["-o", "remount,size=4m"], self.0.path()));
    }

    /// The names of the entries of a folder on the disk.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn mount(arguments: &[&str], folder: &Path) -> bool {
    let mounted = Command::new("mount").args(arguments).arg(folder).output();
    mounted.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn a_model_appears_whole_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let (store, source) = (Store::memory(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("config.json"), "{}").unwrap();
    let weights = vec![7; 1 << 20];
    std::fs::write(source.path().join("model.safetensors"), &weights).unwrap();
    let model = models::put(&store, source.path()).await.unwrap();
    let cache = disk.0.path().join("cache");
    let error = models::fetch(&store, &model, &cache).await.unwrap_err();
    assert!(matches!(error, Error::StoreFull { .. }), "{error:?}");
    assert_eq!(error.kind(), FailureKind::WorkerFault);
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert!(disk.names("cache").is_empty(), "{:?}", disk.names("cache"));
    disk.grow();
    let folder = models::fetch(&store, &model, &cache).await.unwrap();
    let read = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(read == weights);
}

#[tokio::test]
async fn a_cache_without_room_serves_from_the_store_and_keeps_no_part() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let store = Store::memory();
    let cached = store.clone().with_cache(disk.0.path(), 1 << 30).unwrap();
    let bytes = vec![7; 1 << 20];
    let path = crate::files::path(&Digest::of(&bytes));
    store.create(&path, bytes.clone()).await.unwrap();
    assert!(cached.get(&path).await.unwrap() == bytes);
    assert!(disk.names("").is_empty(), "{:?}", disk.names(""));
    disk.grow();
    assert!(cached.get(&path).await.unwrap() == bytes);
    assert_eq!(cached.cached(9).await, [Digest::of(&bytes)]);
}

#[tokio::test]
async fn an_object_of_a_local_store_appears_whole_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let store = Store::open(disk.0.path().to_str().unwrap()).unwrap();
    let bytes = vec![7; 1 << 20];
    let error = store.create("data/x", bytes.clone()).await.unwrap_err();
    assert!(matches!(error, Error::StoreFull { .. }), "{error:?}");
    assert!(error.to_string().contains("data/x"), "{error}");
    assert!(disk.names("data").is_empty(), "{:?}", disk.names("data"));
    disk.grow();
    store.create("data/x", bytes.clone()).await.unwrap();
    assert!(store.get("data/x").await.unwrap() == bytes);
}
