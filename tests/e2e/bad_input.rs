//! Bad input gives one clear line and its exit code, and leaves nothing half-written.

use std::path::Path;
use std::process::Command;

use crate::harness::{capstan, fail, one_line, root, small_demo, succeed};

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("thesis.tex"), "dear reader").unwrap();
    let stderr = fail(capstan(["demo", "--out"]).arg(temp.path()), 2);
    assert!(one_line(&stderr).contains("thesis.tex"), "{stderr}");
    assert_eq!(
        std::fs::read_dir(temp.path()).unwrap().count(),
        1,
        "something was written"
    );
}

#[test]
fn unknown_keys_are_named_before_anything_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let small = root().join("tests/small");
    for (flag, file, from, to) in [
        ("--world", "world.toml", "pairs = 200", "pears = 200"),
        ("--pipeline", "pipeline.toml", "cap = 80", "cup = 80"),
    ] {
        let text = std::fs::read_to_string(small.join(file)).unwrap();
        assert!(text.contains(from), "{file} lost `{from}`");
        let path = temp.path().join(file);
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let stderr = fail(capstan(["demo", flag]).arg(&path).arg("--out").arg(&out), 3);
        let key = to.split(' ').next().unwrap();
        let line = one_line(&stderr);
        assert!(line.contains(key) && line.contains(file), "{line}");
        assert!(!out.exists(), "something was written");
    }
}

#[test]
fn an_unreachable_store_is_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut command = capstan(["dataset", "ls", "--store", "s3://bucket/prefix"]);
    command
        .env("AWS_ENDPOINT_URL", format!("http://{closed}"))
        .env("AWS_ACCESS_KEY_ID", "somebody")
        .env("AWS_SECRET_ACCESS_KEY", "secret-of-somebody")
        .env("AWS_REGION", "us-east-1");
    let stderr = fail(&mut command, 4);
    let line = one_line(&stderr);
    assert!(line.contains("s3://bucket"), "{line}");
    assert!(!line.contains("secret-of-somebody"), "{line}");
    let stderr = fail(
        capstan(["dataset", "ls", "--store", "/no/such/folder"]).arg("--json"),
        4,
    );
    assert!(one_line(&stderr).contains("/no/such/folder"), "{stderr}");
}

#[test]
fn foreign_models_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let picture = temp.path().join("cut.png");
    std::fs::write(&picture, b"\x89PNG\r\n\x1a\nnot much of a picture").unwrap();
    let foreign = temp.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    for (model, named) in [
        (foreign.as_path(), "foreign"),
        (Path::new("/no/such/model"), "model"),
    ] {
        for (command, texts) in [("caption", &[][..]), ("match", &["a red ball"][..])] {
            let mut command = capstan([command]);
            command.arg(&picture).args(texts).arg("--model").arg(model);
            let stderr = fail(&mut command, 6);
            assert!(one_line(&stderr).contains(named), "{stderr}");
        }
    }
}

#[test]
fn a_demo_of_another_seed_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let marker = "{\"seed\": 1, \"world\": \"w\", \"pipeline\": \"p\"}";
    std::fs::write(out.join("demo.json"), marker).unwrap();
    let stderr = fail(&mut small_demo(&out), 2);
    assert!(one_line(&stderr).contains("seed 1"), "{stderr}");
}

/// A small file system of its own, taken away when it is dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, said in one line, where this user may not mount; in continuous integration that
    /// is a failure.
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", size, "capstan-test"], folder.path());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "tmpfs cannot be mounted");
            eprintln!("a full disk was not tried: mounting a tmpfs needs root");
            return None;
        }
        Some(Self { folder })
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,{size}");
        assert!(mount(&["-o", &options], self.folder.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a child that is still ending may hold a file.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

fn mount(arguments: &[&str], folder: &Path) -> bool {
    let mounted = Command::new("mount").args(arguments).arg(folder).output();
    mounted.is_ok_and(|output| output.status.success())
}

#[test]
fn a_full_disk_ends_the_run_and_more_room_mends_it() {
    let Some(disk) = SmallDisk::mount("size=3m") else {
        return;
    };
    let out = disk.folder.path().join("out");
    let stderr = fail(&mut small_demo(&out), 5);
    let line = one_line(&stderr);
    assert!(line.contains("full") || line.contains("space"), "{line}");
    disk.grow("size=256m");
    let store = out.join("store").display().to_string();
    succeed(&mut capstan(["dataset", "verify", "--store", &store]));
    succeed(&mut small_demo(&out));
    succeed(&mut capstan(["dataset", "verify", "--store", &store]));
}
