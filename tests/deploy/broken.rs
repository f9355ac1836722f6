//! Each check can fail: a copy of a shipped file is broken in one place, and a finding names that place.

use serde_json::{Value, json};

use super::objects::Secrets;
use super::process::Process;
use super::{
    assert_one, compose, dashboard, dockerfile, files, kubernetes, objects, schema, wiring,
};

/// All findings about rendered objects.
fn findings(objects: &[Value], secrets: &Secrets) -> Vec<String> {
    let mut findings: Vec<String> = objects.iter().flat_map(schema::check).collect();
    findings.extend(wiring::check(objects, secrets));
    let processes = objects::processes(objects, secrets);
    findings.extend(processes.iter().flat_map(Process::check));
    findings
}

/// Sets the value at a JSON pointer. `-` appends to a list; null removes a key.
fn set(into: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    let parent = into.pointer_mut(parent);
    match parent.unwrap_or_else(|| panic!("no {pointer}")) {
        Value::Object(map) if value.is_null() => drop(map.remove(&key).unwrap()),
        Value::Object(map) => drop(map.insert(key, value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        other => panic!("the parent of {pointer} is {other}"),
    }
}

/// Breaks one object of the base and expects a finding that contains `text`.
///
/// `at` is `Kind/name:pointer`. In the pointer, `POD` stands for a workload's pod and `MAIN` for its
/// first container.
fn expect_finding(at: &str, value: Value, text: &str) {
    let Some(mut objects) = kubernetes::base() else {
        return;
    };
    let (name, pointer) = at.split_once(':').unwrap();
    let pointer = pointer
        .replace("MAIN", "POD/containers/0")
        .replace("POD", "/spec/template/spec");
    let mut named = objects.iter_mut().filter(|o| objects::name(o) == name);
    let object = named.next().unwrap_or_else(|| panic!("no {name}"));
    set(object, &pointer, value);
    assert_one(&findings(&objects, &kubernetes::secrets()), text);
}

const CRAWL: &str = "Deployment/worker-crawl:";

#[test]
fn misspelt_missing_and_mistyped_fields_are_found() {
    let at = |rest: &str| format!("{CRAWL}{rest}");
    expect_finding(
        &at("/spec/replica"),
        json!(2),
        ".spec.replica: unknown field",
    );
    expect_finding(
        &at("MAIN/readynessProbe"),
        json!({}),
        ".containers[0].readynessProbe: unknown field",
    );
    expect_finding(&at("/spec/replicas"), json!("two"), "invalid type");
    expect_finding(
        &at("/spec/selector"),
        Value::Null,
        ".spec.selector: missing field",
    );
    expect_finding(
        "NetworkPolicy/ring:/spec/ingress/0/from/0/podSelektor",
        json!({}),
        "podSelektor: unknown field",
    );
    let service = "Service/coordinator:/apiVersion";
    expect_finding(service, json!("v2"), "no type for `v2` `Service`");
}

#[test]
fn unknown_flags_commands_variables_images_and_paths_are_found() {
    let at = |rest: &str| format!("{CRAWL}MAIN/{rest}");
    let variable = |name: &str| json!({ "name": name, "value": "1" });
    expect_finding(&at("args/-"), json!("--rolls"), "--rolls");
    expect_finding(&at("args/0"), json!("crawler"), "crawler");
    expect_finding(&at("args/4"), json!("cook"), "cook");
    expect_finding(
        &at("env/-"),
        variable("CAPSTAN__WORKER__SLOTZ"),
        "[worker] slotz: unknown key",
    );
    expect_finding(
        &at("env/-"),
        variable("CAPSTAN_SLOTS"),
        "the program reads no variable CAPSTAN_SLOTS",
    );
    expect_finding(&at("image"), json!("capstan:9.9.9"), "`capstan:9.9.9`");
    expect_finding(
        &at("livenessProbe/httpGet/path"),
        json!("/alive"),
        "a probe requests /alive",
    );
}

#[test]
fn settings_that_the_program_refuses_are_found() {
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
    assert_one(
        &findings(&objects, &kubernetes::secrets()),
        "[trainer] cache_byte: unknown key",
    );
}

#[test]
fn wrong_ports_and_selectors_are_found() {
    expect_finding(
        "StatefulSet/coordinator:MAIN/ports/0/containerPort",
        json!(7500),
        "declares ports {7401, 7500} but listens on {7400, 7401}",
    );
    expect_finding(
        "StatefulSet/trainer:MAIN/readinessProbe/httpGet/port",
        json!("helth"),
        "readinessProbe names no port",
    );
    expect_finding(
        "Service/coordinator:/spec/ports/0/targetPort",
        json!("rpc"),
        "target port \"rpc\" is no port of StatefulSet/coordinator",
    );
    expect_finding(
        "Service/coordinator:/spec/ports/0/port",
        json!(7500),
        "no service has the address `coordinator:7400`",
    );
    expect_finding(
        "Service/trainer:/spec/selector",
        json!({ "app": "trainer" }),
        "Service/trainer: its selector matches no pod",
    );
    expect_finding(
        &format!("{CRAWL}/spec/template/metadata/labels/capstan~1role"),
        json!("curate"),
        "its selector does not match its own pods",
    );
}

#[test]
fn missing_volumes_and_secrets_are_found() {
    expect_finding(
        &format!("{CRAWL}MAIN/volumeMounts/0/name"),
        json!("konfig"),
        "no volume `konfig`",
    );
    expect_finding(
        &format!("{CRAWL}MAIN/envFrom/0/secretRef/name"),
        json!("capstan-s3"),
        "how to create the secret `capstan-s3`",
    );
    expect_finding(
        &format!("{CRAWL}POD/volumes/1/secret/secretName"),
        json!("capstan-trainer"),
        "worker.pem is not among the mounted certificates",
    );
    expect_finding(
        "StatefulSet/coordinator:MAIN/volumeMounts/3/readOnly",
        json!(true),
        "the database is at /var/lib/capstan/capstan.db, which is not writable",
    );
    expect_finding(
        &format!("{CRAWL}POD/volumes/2/emptyDir/sizeLimit"),
        json!("1Gi"),
        "the cache may grow to",
    );
}

#[test]
fn short_grace_periods_and_excess_privileges_are_found() {
    expect_finding(
        "StatefulSet/trainer:POD/terminationGracePeriodSeconds",
        json!(30),
        "is killed after 30 s",
    );
    expect_finding(
        &format!("{CRAWL}POD/securityContext/runAsNonRoot"),
        json!(false),
        "may run as root",
    );
    expect_finding(
        &format!("{CRAWL}MAIN/securityContext/readOnlyRootFilesystem"),
        Value::Null,
        "its root file system is writable",
    );
}

#[test]
fn insecure_settings_are_found() {
    for line in [
        "args: [worker, --insecure]",
        "insecure = true",
        "\"insecure\": \"true\"",
    ] {
        assert_one(
            &files::insecure("x", line),
            "allows access without certificates",
        );
    }
    assert!(files::insecure("x", "insecure = false").is_empty());
}

#[test]
fn errors_in_compose_files_are_found() {
    let with = |pointer: &str, value: Value| {
        let mut file = compose::file();
        set(&mut file, pointer, value);
        let mut findings = compose::against_the_specification(&file);
        findings.extend(compose::wiring(&file));
        findings.extend(compose::processes(&file).iter().flat_map(Process::check));
        findings
    };
    assert_one(&with("/services/worker-1/comand", json!("x")), "`comand`");
    assert_one(
        &with("/services/worker-1/command", json!(["worker", "--fast"])),
        "--fast",
    );
    assert_one(
        &with("/services/worker-1/restart", json!("perhaps")),
        "perhaps",
    );
    assert_one(
        &with("/services/worker-1/stop_grace_period", json!("5s")),
        "is killed after 5 s",
    );
    assert_one(
        &with(
            "/services/worker-1/volumes",
            json!(["lost:/var/lib/capstan"]),
        ),
        "mounts the volume `lost`, which is not declared",
    );
    assert_one(
        &with(
            "/services/worker-1/depends_on",
            json!({ "web": { "condition": "service_started" } }),
        ),
        "depends on `web`, which is no service",
    );
    assert_one(
        &with(
            "/services/coordinator/environment/CAPSTAN__COORDINATOR__LISTEN",
            json!("x"),
        ),
        "[coordinator] listen",
    );
    assert_one(
        &with(
            "/services/coordinator/healthcheck/test",
            json!(["CMD", "curl", "http://127.0.0.1:7402/readyz"]),
        ),
        "a probe requests port 7402",
    );
    assert_one(
        &with("/services/coordinator/build/target", json!("gpu")),
        "from stage \"gpu\"",
    );
    assert_one(
        &with(
            "/services/coordinator/environment/AWS_REGION",
            json!("${REGION}"),
        ),
        "`REGION` is in only one of",
    );
}

#[test]
fn errors_in_dockerfiles_are_found() {
    let text = files::read("deploy/docker/Dockerfile");
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "the Dockerfile has no `{from}`");
        dockerfile::check(&text.replace(from, to))
    };
    assert_one(&with("USER 10001:10001\n", ""), "cpu: runs as None");
    assert_one(&with("USER 10001:10001", "USER root"), "runs as Some");
    assert_one(
        &with("--from=build-cpu", "--from=build"),
        "copies from `build`, which is no stage",
    );
    assert_one(
        &with("--target cuda", "--target rocm"),
        "rocm: is a build target but no stage",
    );
    assert_one(
        &with("capstan:0.1.0", "capstan:0.0.9"),
        "capstan:0.0.9: the program has version",
    );
}

#[test]
fn unknown_metrics_in_dashboards_are_found() {
    let text = files::read("deploy/dashboards/capstan.json");
    let mut board: Value = serde_json::from_str(&text).unwrap();
    board["panels"][1]["targets"][0]["expr"] = json!("sum(rate(capstan_magic_total[5m]))");
    assert_one(&dashboard::check(&board), "capstan_magic_total");
}
