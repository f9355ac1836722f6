//! That the checks can fail: a copy of what ships is broken in one place, and the finding names it.

use serde_json::{Value, json};

use super::objects::Secrets;
use super::process::Process;
use super::{compose, dashboard, dockerfile, files, kubernetes, objects, one_says, schema, wiring};

/// Every finding about rendered objects.
fn findings(objects: &[Value], secrets: &Secrets) -> Vec<String> {
    let mut findings: Vec<String> = objects.iter().flat_map(schema::check).collect();
    findings.extend(wiring::check(objects, secrets));
    let processes = objects::processes(objects, secrets);
    findings.extend(processes.iter().flat_map(Process::check));
    findings
}

/// Puts `value` at a JSON pointer, `-` adds to a list, null takes away.
fn put(into: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    let parent = into.pointer_mut(parent);
    match parent.unwrap_or_else(|| panic!("there is no {pointer}")) {
        Value::Object(map) if value.is_null() => drop(map.remove(&key).unwrap()),
        Value::Object(map) => drop(map.insert(key, value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer} is in {other}"),
    }
}

/// Breaks one object of the base and looks for a piece of what must be said about it.
///
/// `at` is `Kind/name:pointer`; `POD` in it stands for the pod of a workload, `MAIN` for its first
/// container.
fn found(at: &str, value: Value, says: &str) {
    let Some(mut objects) = kubernetes::base() else {
        return;
    };
    let (name, pointer) = at.split_once(':').unwrap();
    let pointer = pointer
        .replace("MAIN", "POD/containers/0")
        .replace("POD", "/spec/template/spec");
    let mut named = objects.iter_mut().filter(|o| objects::name(o) == name);
    let object = named.next().unwrap_or_else(|| panic!("there is no {name}"));
    put(object, &pointer, value);
    one_says(&findings(&objects, &kubernetes::secrets()), says);
}

const CRAWL: &str = "Deployment/worker-crawl:";

#[test]
fn fields_that_are_misspelt_or_missing_or_of_another_type() {
    let at = |rest: &str| format!("{CRAWL}{rest}");
    found(
        &at("/spec/replica"),
        json!(2),
        ".spec.replica: unknown field",
    );
    found(
        &at("MAIN/readynessProbe"),
        json!({}),
        ".containers[0].readynessProbe: unknown field",
    );
    found(&at("/spec/replicas"), json!("two"), "invalid type");
    found(
        &at("/spec/selector"),
        Value::Null,
        ".spec.selector: missing field",
    );
    found(
        "NetworkPolicy/ring:/spec/ingress/0/from/0/podSelektor",
        json!({}),
        "podSelektor: unknown field",
    );
    let service = "Service/coordinator:/apiVersion";
    found(service, json!("v2"), "`v2` `Service` is no kind");
}

#[test]
fn what_the_program_does_not_know() {
    let at = |rest: &str| format!("{CRAWL}MAIN/{rest}");
    let variable = |name: &str| json!({ "name": name, "value": "1" });
    found(&at("args/-"), json!("--rolls"), "--rolls");
    found(&at("args/0"), json!("crawler"), "crawler");
    found(&at("args/4"), json!("cook"), "cook");
    found(
        &at("env/-"),
        variable("CAPSTAN__WORKER__SLOTZ"),
        "[worker] slotz: unknown key",
    );
    found(
        &at("env/-"),
        variable("CAPSTAN_SLOTS"),
        "reads no variable CAPSTAN_SLOTS",
    );
    found(&at("image"), json!("capstan:9.9.9"), "`capstan:9.9.9`");
    found(
        &at("livenessProbe/httpGet/path"),
        json!("/alive"),
        "asks for /alive",
    );
}

#[test]
fn settings_that_the_program_refuses() {
    let Some(mut objects) = kubernetes::base() else {
        return;
    };
    let map = objects
        .iter_mut()
        .find(|object| object["kind"] == "ConfigMap")
        .unwrap();
    let text = map["data"]["capstan.toml"].as_str().unwrap();
    let broken = text.replace("cache_bytes", "cache_byte");
    map["data"]["capstan.toml"] = broken.into();
    one_says(
        &findings(&objects, &kubernetes::secrets()),
        "[trainer] cache_byte: unknown key",
    );
}

#[test]
fn ports_and_selectors_that_lead_nowhere() {
    found(
        "StatefulSet/coordinator:MAIN/ports/0/containerPort",
        json!(7500),
        "declares ports {7401, 7500} and listens on {7400, 7401}",
    );
    found(
        "StatefulSet/trainer:MAIN/readinessProbe/httpGet/port",
        json!("helth"),
        "readinessProbe asks no port",
    );
    found(
        "Service/coordinator:/spec/ports/0/targetPort",
        json!("rpc"),
        "target port \"rpc\" is no port of StatefulSet/coordinator",
    );
    found(
        "Service/coordinator:/spec/ports/0/port",
        json!(7500),
        "address `coordinator:7400` is no service's",
    );
    found(
        "Service/trainer:/spec/selector",
        json!({ "app": "trainer" }),
        "Service/trainer: its selector fits no pod",
    );
    found(
        &format!("{CRAWL}/spec/template/metadata/labels/capstan~1role"),
        json!("curate"),
        "its selector does not fit its own pods",
    );
}

#[test]
fn volumes_and_secrets_that_are_not_there() {
    found(
        &format!("{CRAWL}MAIN/volumeMounts/0/name"),
        json!("konfig"),
        "there is no volume `konfig`",
    );
    found(
        &format!("{CRAWL}MAIN/envFrom/0/secretRef/name"),
        json!("capstan-s3"),
        "how to make the secret `capstan-s3`",
    );
    found(
        &format!("{CRAWL}POD/volumes/1/secret/secretName"),
        json!("capstan-trainer"),
        "worker.pem is not among its certificates",
    );
    found(
        "StatefulSet/coordinator:MAIN/volumeMounts/3/readOnly",
        json!(true),
        "the database is at /var/lib/capstan/capstan.db, which it cannot write",
    );
    found(
        &format!("{CRAWL}POD/volumes/2/emptyDir/sizeLimit"),
        json!("1Gi"),
        "the cache may grow to",
    );
}

#[test]
fn pods_that_are_stopped_too_soon_or_may_too_much() {
    found(
        "StatefulSet/trainer:POD/terminationGracePeriodSeconds",
        json!(30),
        "is killed after 30 s",
    );
    found(
        &format!("{CRAWL}POD/securityContext/runAsNonRoot"),
        json!(false),
        "may run as root",
    );
    found(
        &format!("{CRAWL}MAIN/securityContext/readOnlyRootFilesystem"),
        Value::Null,
        "may write its own file system",
    );
}

#[test]
fn files_that_let_anybody_in() {
    for line in [
        "args: [worker, --insecure]",
        "insecure = true",
        "\"insecure\": \"true\"",
    ] {
        one_says(&files::insecure("x", line), "lets anybody in");
    }
    assert!(files::insecure("x", "insecure = false").is_empty());
}

#[test]
fn compose_files() {
    let with = |pointer: &str, value: Value| {
        let mut file = compose::file();
        put(&mut file, pointer, value);
        let mut findings = compose::against_the_specification(&file);
        findings.extend(compose::wiring(&file));
        findings.extend(compose::processes(&file).iter().flat_map(Process::check));
        findings
    };
    one_says(&with("/services/worker-1/comand", json!("x")), "`comand`");
    one_says(
        &with("/services/worker-1/command", json!(["worker", "--fast"])),
        "--fast",
    );
    one_says(
        &with("/services/worker-1/restart", json!("perhaps")),
        "perhaps",
    );
    one_says(
        &with("/services/worker-1/stop_grace_period", json!("5s")),
        "is killed after 5 s",
    );
    one_says(
        &with(
            "/services/worker-1/volumes",
            json!(["lost:/var/lib/capstan"]),
        ),
        "the volume `lost`, which is not declared",
    );
    one_says(
        &with(
            "/services/worker-1/depends_on",
            json!({ "web": { "condition": "service_started" } }),
        ),
        "waits for `web`, which is no service",
    );
    one_says(
        &with(
            "/services/coordinator/environment/CAPSTAN__COORDINATOR__LISTEN",
            json!("x"),
        ),
        "[coordinator] listen",
    );
    one_says(
        &with(
            "/services/coordinator/healthcheck/test",
            json!(["CMD", "curl", "http://127.0.0.1:7402/readyz"]),
        ),
        "asks port 7402",
    );
    one_says(
        &with("/services/coordinator/build/target", json!("gpu")),
        "from stage \"gpu\"",
    );
    one_says(
        &with(
            "/services/coordinator/environment/AWS_REGION",
            json!("${REGION}"),
        ),
        "`REGION` stands in only one of",
    );
}

#[test]
fn dockerfiles() {
    let text = files::read("deploy/docker/Dockerfile");
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "the Dockerfile has no `{from}`");
        dockerfile::check(&text.replace(from, to))
    };
    one_says(&with("USER 10001:10001\n", ""), "cpu: runs as None");
    one_says(&with("USER 10001:10001", "USER root"), "runs as Some");
    one_says(
        &with("--from=build-cpu", "--from=build"),
        "copies from `build`, no stage",
    );
    one_says(
        &with("--target cuda", "--target rocm"),
        "rocm: is built and is no stage",
    );
    one_says(
        &with("capstan:0.1.0", "capstan:0.0.9"),
        "capstan:0.0.9: the program is of version",
    );
}

#[test]
fn dashboards() {
    let text = files::read("deploy/dashboards/capstan.json");
    let mut board: Value = serde_json::from_str(&text).unwrap();
    board["panels"][1]["targets"][0]["expr"] = json!("sum(rate(capstan_magic_total[5m]))");
    one_says(&dashboard::check(&board), "capstan_magic_total");
}
