//! References between objects (selectors, ports, volumes, secrets) and the security settings of pods.

use serde_json::Value;

use super::objects::{self, Secrets, list, text};
use super::process::{Process, port_of};

/// References to what does not exist, and insecure pods.
pub fn check(objects: &[Value], secrets: &Secrets) -> Vec<String> {
    let mut findings = Vec::new();
    for object in objects {
        let named = |finding: String| format!("{}: {finding}", objects::name(object));
        let found = match text(&object["kind"]) {
            "Service" => service(objects, object),
            "PodDisruptionBudget" => budget(objects, object),
            "Deployment" | "StatefulSet" => workload(objects, object, secrets),
            _ => Vec::new(),
        };
        findings.extend(found.into_iter().map(named));
    }
    let processes = objects::processes(objects, secrets);
    let unknown = processes
        .iter()
        .filter_map(|process| unknown_coordinator(objects, process));
    findings.extend(unknown);
    findings
}

/// Whether labels match a selector with `matchLabels` and `matchExpressions` (`In` only). An empty
/// selector matches all labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let pairs = selector["matchLabels"].as_object();
    let by_label = pairs.is_none_or(|pairs| pairs.iter().all(|(key, value)| labels[key] == *value));
    let by_expression = list(&selector["matchExpressions"])
        .iter()
        .all(|expression| {
            let is_in = list(&expression["values"]).contains(&labels[text(&expression["key"])]);
            assert_eq!(expression["operator"], "In", "only `In` is supported here");
            is_in
        });
    by_label && by_expression
}

fn service(objects: &[Value], service: &Value) -> Vec<String> {
    let selector = serde_json::json!({ "matchLabels": service["spec"]["selector"] });
    let mut workloads = objects::workloads(objects)
        .filter(|workload| selects(&selector, objects::pod_labels(workload)))
        .peekable();
    if workloads.peek().is_none() {
        return vec!["its selector matches no pod".to_owned()];
    }
    let mut findings = Vec::new();
    for workload in workloads {
        for port in list(&service["spec"]["ports"]) {
            let target = &port["targetPort"];
            if objects::port(objects::containers(workload), target).is_none() {
                let name = objects::name(workload);
                findings.push(format!("target port {target} is no port of {name}"));
            }
        }
    }
    findings
}

fn budget(objects: &[Value], budget: &Value) -> Vec<String> {
    let selector = &budget["spec"]["selector"];
    let mut workloads = objects::workloads(objects);
    if workloads.any(|workload| selects(selector, objects::pod_labels(workload))) {
        return Vec::new();
    }
    vec!["its selector matches no pod".to_owned()]
}

fn workload(objects: &[Value], workload: &Value, secrets: &Secrets) -> Vec<String> {
    let mut findings = Vec::new();
    if !selects(&workload["spec"]["selector"], objects::pod_labels(workload)) {
        findings.push("its selector does not match its own pods".to_owned());
    }
    let others = objects::workloads(objects).filter(|other| *other != workload);
    for other in others {
        if selects(&workload["spec"]["selector"], objects::pod_labels(other)) {
            let name = objects::name(other);
            findings.push(format!("its selector also matches the pods of {name}"));
        }
    }
    let service = text(&workload["spec"]["serviceName"]);
    if workload["kind"] == "StatefulSet" && objects::find(objects, "Service", service).is_none() {
        findings.push(format!("no service `{service}`"));
    }
    let pod = &workload["spec"]["template"]["spec"];
    for volume in list(&pod["volumes"]) {
        let map = text(&volume["configMap"]["name"]);
        if volume["configMap"].is_object() && objects::find(objects, "ConfigMap", map).is_none() {
            findings.push(format!("no ConfigMap `{map}`"));
        }
        let secret = &volume["secret"]["secretName"];
        findings.extend(
            secret
                .as_str()
                .and_then(|secret| undocumented(secret, secrets)),
        );
    }
    for container in objects::containers(workload) {
        findings.extend(check_container(workload, container, secrets));
    }
    findings.extend(safety(pod));
    findings
}

fn check_container(workload: &Value, container: &Value, secrets: &Secrets) -> Vec<String> {
    let mut findings = Vec::new();
    for mount in list(&container["volumeMounts"]) {
        let volume = text(&mount["name"]);
        if objects::volume(workload, volume).is_none() {
            findings.push(format!("no volume `{volume}`"));
        }
    }
    for source in list(&container["envFrom"]) {
        let secret = text(&source["secretRef"]["name"]);
        findings.extend(undocumented(secret, secrets));
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let port = &container[probe]["httpGet"]["port"];
        if objects::port(std::slice::from_ref(container), port).is_none() {
            findings.push(format!("{probe} names no port of its container: {port}"));
        }
    }
    let annotated = &workload["spec"]["template"]["metadata"]["annotations"];
    let scraped = text(&annotated["prometheus.io/port"]).parse::<u64>().ok();
    let health = objects::port(std::slice::from_ref(container), &"health".into());
    if scraped != health.map(u64::from) {
        findings.push(format!(
            "Prometheus scrapes port {scraped:?}, but health is on {health:?}"
        ));
    }
    for what in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
        if container["resources"].pointer(what).is_none() {
            findings.push(format!("resources{what} is not set"));
        }
    }
    findings
}

fn undocumented(secret: &str, secrets: &Secrets) -> Option<String> {
    let is_there = secrets.contains_key(secret);
    (!is_there).then(|| format!("the README does not show how to create the secret `{secret}`"))
}

/// The Kubernetes profile "restricted", and a read-only root file system.
fn safety(pod: &Value) -> Vec<String> {
    let mut wanted = vec![
        (
            pod["automountServiceAccountToken"] == false,
            "mounts a token of the cluster",
        ),
        (
            pod["securityContext"]["runAsNonRoot"] == true,
            "may run as root",
        ),
        (
            pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault",
            "has no seccomp profile",
        ),
    ];
    for container in list(&pod["containers"]) {
        let context = &container["securityContext"];
        wanted.extend([
            (
                context["readOnlyRootFilesystem"] == true,
                "its root file system is writable",
            ),
            (
                context["allowPrivilegeEscalation"] == false,
                "may gain privileges",
            ),
            (
                list(&context["capabilities"]["drop"]).contains(&"ALL".into()),
                "keeps capabilities",
            ),
        ]);
    }
    let broken = wanted.into_iter().filter(|(holds, _)| !holds);
    broken.map(|(_, finding)| finding.to_owned()).collect()
}

/// A finding if no service has the coordinator's address.
fn unknown_coordinator(objects: &[Value], process: &Process) -> Option<String> {
    let settings = process.settings().ok()?;
    let address = settings
        .coordinator
        .address
        .trim_start_matches("https://")
        .to_owned();
    let (host, _) = address.rsplit_once(':')?;
    let port = port_of(&address).map(u64::from);
    let service = objects::find(objects, "Service", host);
    let exists = service.is_some_and(|service| {
        let mut ports = list(&service["spec"]["ports"]).iter();
        ports.any(|offered| offered["port"].as_u64() == port)
    });
    let name = &process.name;
    (!exists).then(|| format!("{name}: no service has the address `{address}` of the coordinator"))
}
