//! Rendered objects, and the processes that their pods run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::process::{Mount, Process};

/// Secrets that an operator creates: their keys by name.
pub type Secrets = BTreeMap<String, Vec<String>>;

/// `kind/name`.
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!(
        "{}/{}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

/// The items of a list; none if the value is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text; empty if the value is no text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The object of this kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &str, wanted: &str) -> Option<&'a Value> {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == wanted;
    objects.iter().find(is_it)
}

/// Objects that create pods.
pub fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    let makes_pods = |object: &&Value| object["spec"]["template"]["spec"].is_object();
    objects.iter().filter(makes_pods)
}

/// Labels of a workload's pods.
pub fn pod_labels(workload: &Value) -> &Value {
    &workload["spec"]["template"]["metadata"]["labels"]
}

/// The containers of a workload's pods.
pub fn containers(workload: &Value) -> &[Value] {
    list(&workload["spec"]["template"]["spec"]["containers"])
}

/// Number of a container's port by its name, or the number itself.
pub fn port(containers: &[Value], wanted: &Value) -> Option<u16> {
    if let Some(number) = wanted.as_u64() {
        return u16::try_from(number).ok();
    }
    containers
        .iter()
        .flat_map(|container| list(&container["ports"]))
        .find(|port| port["name"] == *wanted)
        .and_then(|port| port["containerPort"].as_u64()?.try_into().ok())
}

/// Every container as a process.
pub fn processes(objects: &[Value], secrets: &Secrets) -> Vec<Process> {
    let of = |workload| {
        let containers = containers(workload).iter();
        containers.map(move |container| process(objects, workload, container, secrets))
    };
    workloads(objects).flat_map(of).collect()
}

fn process(objects: &[Value], workload: &Value, container: &Value, secrets: &Secrets) -> Process {
    let pod = &workload["spec"]["template"]["spec"];
    let strings = |value: &Value| list(value).iter().map(|v| text(v).to_owned()).collect();
    let own = std::slice::from_ref(container);
    let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
    let probes = probes.iter().filter_map(|kind| {
        let get = &container[*kind]["httpGet"];
        Some((port(own, &get["port"])?, get["path"].as_str()?.to_owned()))
    });
    let (mounts, configurations) = mounts(objects, workload, container, secrets);
    Process {
        name: name(workload),
        image: text(&container["image"]).to_owned(),
        args: strings(&container["args"]),
        environment: environment(container, secrets),
        configurations,
        mounts,
        ports: Some(
            list(&container["ports"])
                .iter()
                .filter_map(|port| port["containerPort"].as_u64()?.try_into().ok())
                .collect::<BTreeSet<u16>>(),
        ),
        probes: probes.collect(),
        grace_seconds: pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30),
    }
}

/// Environment variables with references such as `$(POD_IP)` replaced. A variable that others refer to
/// is not for the program and is left out.
fn environment(container: &Value, secrets: &Secrets) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for source in list(&container["envFrom"]) {
        let keys = secrets.get(text(&source["secretRef"]["name"]));
        let keys = keys.into_iter().flatten();
        variables.extend(keys.map(|key| (key.clone(), "value".to_owned())));
    }
    let mut referenced = BTreeSet::new();
    for variable in list(&container["env"]) {
        let mut value = value_of(container, variable);
        for (name, earlier) in &variables {
            let place = format!("$({name})");
            if value.contains(&place) {
                value = value.replace(&place, earlier);
                referenced.insert(name.clone());
            }
        }
        variables.push((text(&variable["name"]).to_owned(), value));
    }
    variables.retain(|(name, _)| !referenced.contains(name));
    variables
}

/// The value of a variable as Kubernetes resolves it; a fixed example for fields of the pod.
fn value_of(container: &Value, variable: &Value) -> String {
    let from = &variable["valueFrom"];
    let asked = text(&from["resourceFieldRef"]["resource"]).replace('.', "/");
    let value = match text(&from["fieldRef"]["fieldPath"]) {
        "status.podIP" => "10.0.0.1",
        "metadata.name" => "pod-0",
        _ if !asked.is_empty() => container["resources"]
            .pointer(&format!("/{asked}"))
            .map_or("", text),
        _ => text(&variable["value"]),
    };
    value.to_owned()
}

/// Mounts by path, and the texts of mounted configurations.
fn mounts(
    objects: &[Value],
    workload: &Value,
    container: &Value,
    secrets: &Secrets,
) -> (BTreeMap<String, Mount>, BTreeMap<String, String>) {
    let mut mounts = BTreeMap::new();
    let mut configurations = BTreeMap::new();
    for mounted in list(&container["volumeMounts"]) {
        let path = text(&mounted["mountPath"]);
        let is_read_only = mounted["readOnly"].as_bool().unwrap_or(false);
        let volume = volume(workload, text(&mounted["name"])).unwrap_or(&Value::Null);
        let of_secret = secrets.get(text(&volume["secret"]["secretName"]));
        let mount = Mount {
            is_writable: !is_read_only
                && (volume["emptyDir"].is_object() || volume["spec"].is_object()),
            files: of_secret.cloned().unwrap_or_default(),
            max_bytes: bytes(&volume["emptyDir"]["sizeLimit"]),
        };
        mounts.insert(path.to_owned(), mount);
        let map = text(&volume["configMap"]["name"]);
        let data = find(objects, "ConfigMap", map).map(|map| &map["data"]);
        if let Some(text) = data.and_then(|data| data[text(&mounted["subPath"])].as_str()) {
            configurations.insert(path.to_owned(), text.to_owned());
        }
    }
    (mounts, configurations)
}

/// A pod's volume or its set's volume claim, by name.
pub fn volume<'a>(workload: &'a Value, wanted: &str) -> Option<&'a Value> {
    let volumes = list(&workload["spec"]["template"]["spec"]["volumes"]).iter();
    let claims = list(&workload["spec"]["volumeClaimTemplates"]).iter();
    let found = volumes.clone().find(|volume| volume["name"] == wanted);
    found.or_else(|| {
        claims
            .clone()
            .find(|claim| claim["metadata"]["name"] == wanted)
    })
}

/// A quantity in bytes: `8Gi`.
fn bytes(quantity: &Value) -> Option<u64> {
    let quantity = quantity.as_str()?;
    let digits = quantity
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(quantity.len());
    let shift = match &quantity[digits..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        _ => return None,
    };
    Some(quantity[..digits].parse::<u64>().ok()? << shift)
}
