//! Bad input to a cluster gives one clear line and its exit code, and leaves nothing half-written.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{capstan, fail, one_line, root, succeed};
use crate::process::Role;

/// An address at which nobody listens.
fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A coordinator over a store and a database in `folder`.
fn coordinator(folder: &Path) -> Command {
    let mut command = capstan(["coordinator", "--listen", "127.0.0.1:0", "--store"]);
    let database = format!("sqlite:{}", folder.join("state.db").display());
    command
        .arg(folder.join("store"))
        .arg("--database")
        .arg(database);
    command
}

fn written(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("pipeline.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_pipeline_file_is_checked_before_anybody_is_asked() {
    let temp = tempfile::tempdir().unwrap();
    let small = std::fs::read_to_string(root().join("tests/small/pipeline.toml")).unwrap();
    let without_input = "name = \"x\"\n[[stage]]\nname = \"thin\"\nkind = \"balance\"\n";
    let cycle = small.replacen("from = \"crawl\"", "from = \"balance\"", 1);
    for (text, named) in [
        (
            small.replacen("cap = 80", "cup = 80", 1),
            vec!["balance", "cup"],
        ),
        (without_input.to_owned(), vec!["thin", "from"]),
        (
            cycle,
            vec!["`curate` reads `balance`", "`balance` reads `curate`"],
        ),
        ("name = \"x\"\n".to_owned(), vec!["[[stage]]"]),
        ("name = ".to_owned(), vec!["TOML"]),
    ] {
        let path = written(temp.path(), &text);
        let address = format!("http://{}", closed());
        for flag in ["--detach", "--plan"] {
            let mut command = capstan(["run", flag, "--coordinator", &address]);
            let stderr = fail(command.arg(&path), 3);
            let line = one_line(&stderr);
            assert!(line.contains("pipeline.toml"), "{line}");
            for name in &named {
                assert!(line.contains(name), "no {name}: {line}");
            }
        }
    }
    let stderr = fail(&mut capstan(["run", "/no/such/pipeline.toml"]), 3);
    assert!(
        one_line(&stderr).contains("/no/such/pipeline.toml"),
        "{stderr}"
    );
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    let pipeline = root().join("tests/small/pipeline.toml");
    let address = format!("http://{}", closed());
    let mut run = capstan(["run"]);
    run.arg(&pipeline);
    let commands = [
        run,
        capstan(["watch", "small-7"]),
        capstan(["runs"]),
        capstan(["cancel", "small-7"]),
        capstan(["retry", "small-7"]),
    ];
    for mut command in commands {
        let stderr = fail(command.args(["--coordinator", &address]), 4);
        let line = one_line(&stderr);
        assert!(
            line.contains(&address) && line.contains("unreachable"),
            "{line}"
        );
    }
}

#[test]
fn a_worker_gives_up_on_a_coordinator_that_stays_away() {
    let temp = tempfile::tempdir().unwrap();
    let address = format!("http://{}", closed());
    for role in ["worker", "trainer"] {
        let mut command = capstan([role, "--coordinator", &address, "--store"]);
        command
            .arg(temp.path().join("store"))
            .env("CAPSTAN__WORKER__PATIENCE_SECONDS", "1")
            .env("CAPSTAN__TRAINER__PATIENCE_SECONDS", "1");
        let stderr = fail(&mut command, 4);
        assert!(one_line(&stderr).contains(&address), "{stderr}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_before_anything_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut coordinator = capstan(["coordinator", "--listen", &address, "--store"]);
    coordinator.arg(temp.path().join("store"));
    let mut up = capstan(["up", "--listen", &address, "--store"]);
    up.arg(temp.path().join("store"));
    let mut trainer = capstan(["trainer", "--listen", &address, "--store"]);
    trainer.arg(temp.path().join("store"));
    let mut web = capstan(["demoweb", "--listen-from", &address, "--annotations"]);
    web.arg(temp.path().join("annotations"));
    for mut command in [coordinator, up, trainer, web] {
        command.current_dir(temp.path());
        let stderr = fail(&mut command, 4);
        assert!(one_line(&stderr).contains(&address), "{stderr}");
        let left = std::fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(left, 0, "{command:?} left something");
    }
}

#[test]
fn a_store_that_is_not_there_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let endpoint = format!("http://{}", closed());
    for role in ["coordinator", "worker", "trainer"] {
        let mut command = capstan([role, "--store", "s3://bucket/prefix"]);
        command
            .current_dir(temp.path())
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", "somebody")
            .env("AWS_SECRET_ACCESS_KEY", "secret-of-somebody")
            .env("AWS_REGION", "us-east-1")
            .env("CAPSTAN__STORE__WAIT_SECONDS", "0")
            .env("CAPSTAN__COORDINATOR__LISTEN", "127.0.0.1:0");
        let stderr = fail(&mut command, 4);
        let line = one_line(&stderr);
        assert!(line.contains("s3://bucket/prefix"), "{line}");
        assert!(!stderr.contains("secret-of-somebody"), "{stderr}");
        let left = std::fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(left, 0, "{role} left something");
    }
}

#[test]
fn settings_are_checked_before_a_port_binds() {
    for (setting, named) in [
        ("worker.slotz=2", "slotz"),
        ("crawl.hosts={\"a.test\" = \"demoweb\"}", "demoweb"),
        ("trainer.advertise=nowhere", "nowhere"),
        ("coordinator.address=nowhere", "nowhere"),
        ("device.spec=tpu", "tpu"),
    ] {
        for role in ["coordinator", "worker", "trainer", "up"] {
            let stderr = fail(&mut capstan([role, "--set", setting]), 3);
            assert!(one_line(&stderr).contains(named), "{stderr}");
        }
    }
    fail(&mut capstan(["worker", "--roles", "cook"]), 3);
    fail(&mut capstan(["retry", "small-7", "--shard", "3"]), 2);
}

#[test]
fn an_unknown_run_is_named_and_a_known_one_found() {
    let temp = tempfile::tempdir().unwrap();
    let mut role = Role::start(&mut coordinator(temp.path()), temp.path());
    let url = role.url();
    for verb in ["watch", "cancel", "retry"] {
        let stderr = fail(&mut capstan([verb, "nope", "--coordinator", &url]), 2);
        assert!(one_line(&stderr).contains("nope"), "{stderr}");
    }
    let pipeline = root().join("tests/small/pipeline.toml");
    let mut run = capstan(["run", "--detach", "--seed", "7", "--run", "small-7"]);
    succeed(run.args(["--coordinator", &url]).arg(&pipeline));
    let mut other = capstan(["run", "--detach", "--seed", "8", "--run", "small-7"]);
    let stderr = fail(other.args(["--coordinator", &url]).arg(&pipeline), 2);
    assert!(one_line(&stderr).contains("small-7"), "{stderr}");
    let listed = succeed(&mut capstan(["runs", "--json", "--coordinator", &url]));
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["run"], "small-7");
    assert_eq!(listed[0]["state"], "running");
    let told = succeed(&mut capstan(["cancel", "small-7", "--coordinator", &url]));
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("cancelled"), "{told}");
    assert!(role.terminate().success(), "a graceful stop");
}

#[test]
fn a_wrong_token_is_refused_and_nothing_is_submitted() {
    const RIGHT: &str = "0123456789abcdef0123456789abcdef";
    let temp = tempfile::tempdir().unwrap();
    let mut command = coordinator(temp.path());
    let role = Role::start(command.env("CAPSTAN__SAFETY__TOKEN", RIGHT), temp.path());
    let url = role.url();
    let pipeline = root().join("tests/small/pipeline.toml");
    for wrong in [Some("fedcba9876543210fedcba9876543210"), None] {
        let mut run = capstan(["run", "--detach", "--coordinator", &url]);
        run.arg(&pipeline);
        let mut runs = capstan(["runs", "--coordinator", &url]);
        for command in [&mut run, &mut runs] {
            if let Some(wrong) = wrong {
                command.env("CAPSTAN__SAFETY__TOKEN", wrong);
            }
            let stderr = fail(command, 3);
            let line = one_line(&stderr);
            assert!(line.contains("token") && line.contains(&url), "{line}");
            assert!(!line.contains("0123456789"), "{line}");
        }
    }
    let mut runs = capstan(["runs", "--json", "--coordinator", &url]);
    let listed = succeed(runs.env("CAPSTAN__SAFETY__TOKEN", RIGHT));
    assert_eq!(String::from_utf8(listed.stdout).unwrap().trim(), "[]");
    assert!(
        !temp.path().join("store/runs").exists(),
        "a run was written"
    );
}

#[test]
fn a_folder_of_somebody_else_is_no_place_for_annotations() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("human")).unwrap();
    std::fs::write(temp.path().join("human/thesis.tex"), "dear reader").unwrap();
    let mut command = capstan(["demoweb", "--listen-from", "127.0.0.1:0", "--annotations"]);
    let stderr = fail(command.arg(temp.path()), 2);
    assert!(one_line(&stderr).contains("human"), "{stderr}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
}
