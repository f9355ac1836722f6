//! Checks `deploy/kubernetes`, rendered by kustomize, against the Kubernetes types, the program and the
//! README.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::OnceLock;

use capstan_tests::go::Program;
use serde::Deserialize;
use serde_json::{Value, json};

use super::network::{Peer, Way, allows, connects};
use super::objects::{self, Secrets, list, text};
use super::process::Process;
use super::{assert_none, files, program, schema, wiring};

/// Pinned, because the tests check what it renders.
const KUSTOMIZE: Program = Program {
    name: "kustomize",
    module: "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
    takes: "one minute",
};

const BASE: &str = "deploy/kubernetes/base";
const GPU: &str = "deploy/kubernetes/overlays/gpu";

/// Objects of a folder; `None`, after one line, without kustomize.
fn render(folder: &str) -> Option<Vec<Value>> {
    static BINARY: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| KUSTOMIZE.find_or_say()).as_ref()?;
    let output = Command::new(binary)
        .arg("build")
        .arg(files::root().join(folder))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder}: {said}");
    assert!(said.is_empty(), "{folder}: a warning: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects: Vec<Value> = documents
        .map(|one| Value::deserialize(one).unwrap())
        .collect();
    assert!(objects.len() > 15, "{folder}: {} objects", objects.len());
    Some(objects)
}

/// The base, rendered once. Tests break copies of it.
pub fn base() -> Option<Vec<Value>> {
    static RENDERED: OnceLock<Option<Vec<Value>>> = OnceLock::new();
    RENDERED.get_or_init(|| render(BASE)).clone()
}

/// Base and overlay, by folder.
fn rendered() -> Vec<(&'static str, Vec<Value>)> {
    let folders = [BASE, GPU].into_iter();
    folders
        .filter_map(|folder| Some((folder, render(folder)?)))
        .collect()
}

/// The secrets that the README shows how to create, with their keys.
pub fn secrets() -> Secrets {
    let readme = files::read("deploy/kubernetes/README.md");
    let commands = readme
        .lines()
        .filter(|line| line.contains(" create secret generic "));
    let secret = |command: &str| {
        let (_, rest) = command.split_once(" create secret generic ").unwrap();
        let mut words = rest.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let key = |word: &str| {
            let literal = word.strip_prefix("--from-literal=");
            let literal = literal.and_then(|pair| pair.split('=').next());
            let file = word.strip_prefix("--from-file=");
            let file = file.and_then(|path| path.rsplit('/').next());
            literal.or(file).map(str::to_owned)
        };
        (name, words.filter_map(key).collect())
    };
    commands.map(secret).collect()
}

#[test]
fn objects_have_the_types_of_kubernetes() {
    for (_, objects) in rendered() {
        assert_none(&objects.iter().flat_map(schema::check).collect::<Vec<_>>());
    }
}

#[test]
fn objects_reference_only_what_exists() {
    for (_, objects) in rendered() {
        assert_none(&wiring::check(&objects, &secrets()));
    }
}

#[test]
fn every_container_starts_the_program_correctly() {
    for (_, objects) in rendered() {
        let processes = objects::processes(&objects, &secrets());
        assert_none(
            &processes
                .iter()
                .flat_map(Process::check)
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn every_role_has_pods_of_its_own() {
    for (folder, objects) in rendered() {
        let processes = objects::processes(&objects, &secrets());
        let roles: BTreeSet<(String, String)> = processes
            .iter()
            .map(|process| {
                let roles = program::value_of(&process.args, "--roles").unwrap_or_default();
                (process.command().to_owned(), roles.to_owned())
            })
            .collect();
        let workers = ["caption", "crawl", "curate", "evaluate", "filter"];
        let workers = workers.map(|role| ("worker".to_owned(), role.to_owned()));
        let others = ["coordinator", "trainer"].map(|role| (role.to_owned(), String::new()));
        assert_eq!(
            roles,
            workers.into_iter().chain(others).collect(),
            "{folder}"
        );
        assert_eq!(processes.len(), 7, "{folder}");
        let coordinator = objects::find(&objects, "StatefulSet", "coordinator").unwrap();
        assert_eq!(
            coordinator["spec"]["replicas"], 1,
            "two coordinators would fence each other"
        );
    }
}

#[test]
fn workloads_that_compute_with_models_request_a_gpu() {
    let Some(objects) = render(GPU) else { return };
    let mut with_gpu = BTreeSet::new();
    for workload in objects::workloads(&objects) {
        let container = &objects::containers(workload)[0];
        if container["resources"]["limits"]["nvidia.com/gpu"] == "1" {
            with_gpu.insert(objects::name(workload));
            assert!(text(&container["image"]).starts_with("capstan-cuda:"));
            let spec = json!({ "name": "CAPSTAN__DEVICE__SPEC", "value": "cuda:0" });
            assert!(
                list(&container["env"]).contains(&spec),
                "computes on the CPU"
            );
        }
    }
    let wanted = ["Deployment/worker-caption", "Deployment/worker-evaluate"];
    let wanted = wanted
        .into_iter()
        .chain(["Deployment/worker-filter", "StatefulSet/trainer"]);
    assert_eq!(with_gpu, wanted.map(str::to_owned).collect());
}

#[test]
fn network_policies_allow_only_the_connections_that_are_needed() {
    let Some(objects) = base() else { return };
    let labels = |kind: &str, name: &str| {
        let workload = objects::find(&objects, kind, name).unwrap();
        objects::pod_labels(workload).clone()
    };
    let coordinator = labels("StatefulSet", "coordinator");
    let trainer = labels("StatefulSet", "trainer");
    let crawl = labels("Deployment", "worker-crawl");
    let caption = labels("Deployment", "worker-caption");
    let [grpc, ring, health] = ["grpc", "ring", "health"].map(Value::from);

    for from in [&crawl, &caption, &trainer] {
        assert!(connects(&objects, from, &coordinator, &grpc));
        assert!(!connects(&objects, from, &coordinator, &health));
        assert!(!connects(&objects, &coordinator, from, &health));
    }
    assert!(connects(&objects, &trainer, &trainer, &ring));
    for from in [&crawl, &caption, &coordinator] {
        assert!(!connects(&objects, from, &trainer, &ring));
    }
    assert!(!connects(&objects, &crawl, &caption, &health));

    let out = |from, peer, port: u16| allows(&objects, from, Way::Out, peer, &port.into());
    let web = Peer::Address(Ipv4Addr::new(93, 184, 216, 34));
    let private = Peer::Address(Ipv4Addr::new(10, 1, 2, 3));
    assert!(out(&crawl, web, 80) && !out(&crawl, private, 80) && !out(&crawl, web, 22));
    for from in [&coordinator, &trainer, &caption] {
        assert!(!out(from, web, 80), "only crawlers may reach the web");
        assert!(out(from, web, 443), "the store");
        assert!(out(from, Peer::Namespace("kube-system"), 53), "names");
    }
    for pod in [&coordinator, &trainer, &caption, &crawl] {
        let into = |namespace| allows(&objects, pod, Way::In, Peer::Namespace(namespace), &health);
        assert!(into("monitoring") && !into("default"));
    }
}

/// `capstan certs` writes the files that the README creates secrets from.
#[test]
fn capstan_certs_writes_the_files_of_the_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("certificates");
    let made = Command::new(env!("CARGO_BIN_EXE_capstan"))
        .args(["certs", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let keys = secrets().into_values().flatten();
    let files: Vec<_> = keys
        .filter(|key| key.ends_with(".pem") || key.ends_with(".key"))
        .collect();
    assert_eq!(files.len(), 9, "three files for each of three roles");
    for file in files {
        assert!(
            out.join(&file).is_file(),
            "`capstan certs` writes no {file}"
        );
    }
}
