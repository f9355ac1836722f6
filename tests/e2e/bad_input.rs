//! Bad input gives one line and its exit code, and nothing is written.

use std::path::Path;

use capstan_tests::disk::SmallDisk;
use capstan_tests::lines::Lines;

use crate::harness::{capstan, fail, one_line, root, small_demo, succeed};

#[test]
fn demo_refuses_a_folder_with_other_files() {
    let mut lines = Lines::expected_in("e2e", "demo_refuses_a_folder_with_other_files");
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    std::fs::write(temp.path().join("thesis.tex"), "dear reader").unwrap();
    lines.add(&fail(capstan(["demo", "--out"]).arg(temp.path()), 2));
    let entries = std::fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(entries, 1, "something was written");
    lines.check();
}

#[test]
fn unknown_keys_are_refused_before_anything_is_written() {
    let mut lines =
        Lines::expected_in("e2e", "unknown_keys_are_refused_before_anything_is_written");
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
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
        let mut demo = capstan(["demo", flag]);
        lines.add(&fail(demo.arg(&path).arg("--out").arg(&out), 3));
        assert!(!out.exists(), "something was written");
    }
    lines.check();
}

#[test]
fn an_unreachable_store_is_reported_without_its_secret() {
    let mut lines =
        Lines::expected_in("e2e", "an_unreachable_store_is_reported_without_its_secret");
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    lines.name("$ADDRESS", closed);
    let mut command = capstan(["dataset", "ls", "--store", "s3://bucket/prefix"]);
    command
        .env("AWS_ENDPOINT_URL", format!("http://{closed}"))
        .env("AWS_ACCESS_KEY_ID", "key-id")
        .env("AWS_SECRET_ACCESS_KEY", "secret-key")
        .env("AWS_REGION", "us-east-1");
    let stderr = fail(&mut command, 4);
    assert!(!stderr.contains("secret-key"), "{stderr}");
    lines.add(&stderr);
    let mut command = capstan(["dataset", "ls", "--store", "/no/such/folder", "--json"]);
    lines.add(&fail(&mut command, 4));
    lines.check();
}

#[test]
fn models_of_other_programs_are_refused() {
    let mut lines = Lines::expected_in("e2e", "models_of_other_programs_are_refused");
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    let picture = temp.path().join("cut.png");
    std::fs::write(&picture, b"\x89PNG\r\n\x1a\nnot much of a picture").unwrap();
    let foreign = temp.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    for model in [foreign.as_path(), Path::new("/no/such/model")] {
        for (command, texts) in [("caption", &[][..]), ("match", &["a red ball"][..])] {
            let mut command = capstan([command]);
            command.arg(&picture).args(texts).arg("--model").arg(model);
            lines.add(&fail(&mut command, 6));
        }
    }
    lines.check();
}

#[test]
fn demo_refuses_a_folder_of_another_seed() {
    let mut lines = Lines::expected_in("e2e", "demo_refuses_a_folder_of_another_seed");
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    let out = temp.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let marker = "{\"seed\": 1, \"world\": \"w\", \"pipeline\": \"p\"}";
    std::fs::write(out.join("demo.json"), marker).unwrap();
    lines.add(&fail(&mut small_demo(&out), 2));
    lines.check();
}

#[test]
fn a_run_fails_on_a_full_disk_and_resumes_with_more_space() {
    let Some(disk) = SmallDisk::mount("size=3m") else {
        return;
    };
    let out = disk.folder().join("out");
    let stderr = fail(&mut small_demo(&out), 5);
    // Which file meets the full disk first depends on timing.
    let line = one_line(&stderr);
    assert!(line.contains("full") || line.contains("space"), "{line}");
    disk.grow("size=256m");
    let store = out.join("store").display().to_string();
    succeed(&mut capstan(["dataset", "verify", "--store", &store]));
    succeed(&mut small_demo(&out));
    succeed(&mut capstan(["dataset", "verify", "--store", &store]));
}
