//! Bad input to a cluster gives one line and its exit code, and nothing is written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use capstan_tests::lines::Lines;

use crate::harness::{capstan, error_lines, fail, one_line, root, succeed};
use crate::process::Role;

/// An address at which nothing listens.
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

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_pipeline_file_is_checked_before_the_coordinator_is_called() {
    let mut lines = Lines::expected_in(
        "e2e",
        "a_pipeline_file_is_checked_before_the_coordinator_is_called",
    );
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    let small = std::fs::read_to_string(root().join("tests/small/pipeline.toml")).unwrap();
    let without_input = "name = \"x\"\n[[stage]]\nname = \"thin\"\nkind = \"balance\"\n";
    let cycle = small.replacen("from = \"crawl\"", "from = \"balance\"", 1);
    for text in [
        small.replacen("cap = 80", "cup = 80", 1),
        without_input.to_owned(),
        cycle,
        "name = \"x\"\n".to_owned(),
        "name = ".to_owned(),
    ] {
        let path = written(temp.path(), &text);
        let address = format!("http://{}", closed());
        let refused = fail(capstan(["check"]).arg(&path), 3);
        for flag in ["--detach", "--plan"] {
            let mut run = capstan(["run", flag, "--coordinator", &address]);
            let stderr = fail(run.arg(&path), 3);
            assert_eq!(error_lines(&stderr), error_lines(&refused));
        }
        lines.add(&refused);
    }
    lines.add(&fail(&mut capstan(["run", "/no/such/pipeline.toml"]), 3));
    lines.check();
}

#[test]
fn every_client_command_reports_an_unreachable_coordinator() {
    let mut lines = Lines::expected_in(
        "e2e",
        "every_client_command_reports_an_unreachable_coordinator",
    );
    let pipeline = root().join("tests/small/pipeline.toml");
    let address = format!("http://{}", closed());
    lines.name("$ADDRESS", &address);
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
        lines.add(&fail(command.args(["--coordinator", &address]), 4));
    }
    lines.check();
}

#[test]
fn a_worker_and_a_trainer_give_up_on_an_unreachable_coordinator() {
    let mut lines = Lines::expected_in(
        "e2e",
        "a_worker_and_a_trainer_give_up_on_an_unreachable_coordinator",
    );
    let temp = tempfile::tempdir().unwrap();
    let address = format!("http://{}", closed());
    lines.name("$ADDRESS", &address);
    // How long a role has waited when it gives up depends on the machine's load.
    for seconds in 1..10 {
        lines.name("for $SECONDS s", format!("for {seconds} s"));
    }
    for role in ["worker", "trainer"] {
        let mut command = capstan([role, "--coordinator", &address, "--store"]);
        command
            .arg(temp.path().join("store"))
            .env("CAPSTAN__WORKER__PATIENCE_SECONDS", "1")
            .env("CAPSTAN__TRAINER__PATIENCE_SECONDS", "1");
        lines.add(&fail(&mut command, 4));
    }
    lines.check();
}

#[test]
fn a_port_in_use_is_reported_before_anything_is_written() {
    let mut lines = Lines::expected_in(
        "e2e",
        "a_port_in_use_is_reported_before_anything_is_written",
    );
    let temp = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    lines.name("$ADDRESS", &address);
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
        lines.add(&fail(&mut command, 4));
        assert_eq!(entries(temp.path()), 0, "{command:?} wrote something");
    }
    lines.check();
}

#[test]
fn every_role_reports_an_unreachable_store_without_its_secret() {
    let mut lines = Lines::expected_in(
        "e2e",
        "every_role_reports_an_unreachable_store_without_its_secret",
    );
    let temp = tempfile::tempdir().unwrap();
    let endpoint = format!("http://{}", closed());
    lines.name("$ADDRESS", &endpoint);
    for role in ["coordinator", "worker", "trainer"] {
        let mut command = capstan([role, "--store", "s3://bucket/prefix"]);
        command
            .current_dir(temp.path())
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", "key-id")
            .env("AWS_SECRET_ACCESS_KEY", "secret-key")
            .env("AWS_REGION", "us-east-1")
            .env("CAPSTAN__STORE__WAIT_SECONDS", "0")
            .env("CAPSTAN__COORDINATOR__LISTEN", "127.0.0.1:0");
        let stderr = fail(&mut command, 4);
        assert!(!stderr.contains("secret-key"), "{stderr}");
        assert_eq!(entries(temp.path()), 0, "{role} wrote something");
        lines.add(&stderr);
    }
    lines.check();
}

#[test]
fn settings_are_checked_before_a_port_binds() {
    let mut lines = Lines::expected_in("e2e", "settings_are_checked_before_a_port_binds");
    for setting in [
        "worker.slotz=2",
        "crawl.hosts={\"a.test\" = \"demoweb\"}",
        "trainer.advertise=nowhere",
        "coordinator.address=nowhere",
        "device.spec=tpu",
    ] {
        let roles = ["coordinator", "worker", "trainer", "up"];
        let refused = roles.map(|role| fail(&mut capstan([role, "--set", setting]), 3));
        let said: BTreeSet<_> = refused.iter().map(|stderr| one_line(stderr)).collect();
        assert_eq!(said.len(), 1, "roles differ: {said:?}");
        lines.add(&refused[0]);
    }
    lines.add(&fail(&mut capstan(["worker", "--roles", "cook"]), 3));
    fail(&mut capstan(["retry", "small-7", "--shard", "3"]), 2);
    lines.check();
}

#[test]
fn an_unknown_run_is_reported_and_a_known_run_is_listed_and_cancelled() {
    let mut lines = Lines::expected_in(
        "e2e",
        "an_unknown_run_is_reported_and_a_known_run_is_listed_and_cancelled",
    );
    let temp = tempfile::tempdir().unwrap();
    let mut role = Role::start(&mut coordinator(temp.path()), temp.path());
    let url = role.url();
    lines.name("$ADDRESS", &url);
    for verb in ["watch", "cancel", "retry"] {
        lines.add(&fail(
            &mut capstan([verb, "nope", "--coordinator", &url]),
            2,
        ));
    }
    let pipeline = root().join("tests/small/pipeline.toml");
    let mut run = capstan(["run", "--detach", "--seed", "7", "--run", "small-7"]);
    succeed(run.args(["--coordinator", &url]).arg(&pipeline));
    let mut other = capstan(["run", "--detach", "--seed", "8", "--run", "small-7"]);
    lines.add(&fail(other.args(["--coordinator", &url]).arg(&pipeline), 2));
    let listed = succeed(&mut capstan(["runs", "--json", "--coordinator", &url]));
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["run"], "small-7");
    assert_eq!(listed[0]["state"], "running");
    let cancelled = succeed(&mut capstan(["cancel", "small-7", "--coordinator", &url]));
    let cancelled = String::from_utf8(cancelled.stdout).unwrap();
    assert!(cancelled.contains("cancelled"), "{cancelled}");
    assert!(role.terminate().success(), "a graceful stop");
    lines.check();
}

#[test]
fn a_wrong_token_is_refused_and_nothing_is_submitted() {
    const RIGHT: &str = "0123456789abcdef0123456789abcdef";
    let mut lines = Lines::expected_in("e2e", "a_wrong_token_is_refused_and_nothing_is_submitted");
    let temp = tempfile::tempdir().unwrap();
    let mut command = coordinator(temp.path());
    let role = Role::start(command.env("CAPSTAN__SAFETY__TOKEN", RIGHT), temp.path());
    let url = role.url();
    lines.name("$ADDRESS", &url);
    let pipeline = root().join("tests/small/pipeline.toml");
    for wrong in [Some("fedcba9876543210fedcba9876543210"), None] {
        let mut run = capstan(["run", "--detach", "--coordinator", &url]);
        run.arg(&pipeline);
        let mut runs = capstan(["runs", "--coordinator", &url]);
        for command in [&mut run, &mut runs] {
            if let Some(wrong) = wrong {
                command.env("CAPSTAN__SAFETY__TOKEN", wrong);
            }
            lines.add(&fail(command, 3));
        }
    }
    let mut runs = capstan(["runs", "--json", "--coordinator", &url]);
    let listed = succeed(runs.env("CAPSTAN__SAFETY__TOKEN", RIGHT));
    assert_eq!(String::from_utf8(listed.stdout).unwrap().trim(), "[]");
    assert!(
        !temp.path().join("store/runs").exists(),
        "a run was written"
    );
    lines.check();
}

#[test]
fn demoweb_refuses_a_folder_with_other_files() {
    let mut lines = Lines::expected_in("e2e", "demoweb_refuses_a_folder_with_other_files");
    let temp = tempfile::tempdir().unwrap();
    lines.name("$DIR", temp.path().display());
    std::fs::create_dir(temp.path().join("human")).unwrap();
    std::fs::write(temp.path().join("human/thesis.tex"), "dear reader").unwrap();
    let mut command = capstan(["demoweb", "--listen-from", "127.0.0.1:0", "--annotations"]);
    lines.add(&fail(command.arg(temp.path()), 2));
    assert_eq!(entries(temp.path()), 1, "something was written");
    lines.check();
}
