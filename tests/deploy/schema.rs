//! Objects against the types of Kubernetes, from the crate `k8s-openapi`: generated from the API's own
//! description, here of version 1.33.
//!
//! The types read leniently: an unknown field is passed over, a required one that is missing is made
//! up. So an object is read, written again, and the two are compared: what was lost is unknown, what
//! was added was missing.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects;

/// What an object has that its type does not know, and what it lacks.
pub fn check(object: &Value) -> Vec<String> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let findings = match (text("apiVersion"), text("kind")) {
        ("apps/v1", "Deployment") => against::<Deployment>(object),
        ("apps/v1", "StatefulSet") => against::<StatefulSet>(object),
        ("v1", "ConfigMap") => against::<ConfigMap>(object),
        ("v1", "Namespace") => against::<Namespace>(object),
        ("v1", "PersistentVolumeClaim") => against::<PersistentVolumeClaim>(object),
        ("v1", "Service") => against::<Service>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => against::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => against::<PodDisruptionBudget>(object),
        (version, kind) => vec![format!(
            "`{version}` `{kind}` is no kind that is checked here"
        )],
    };
    let name = objects::name(object);
    let findings = findings.into_iter();
    findings
        .map(|finding| format!("{name}: {finding}"))
        .collect()
}

fn against<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
    match serde_json::from_value::<T>(object.clone()) {
        Ok(read) => {
            let written = serde_json::to_value(&read).expect("objects are JSON");
            let mut findings = Vec::new();
            differences(object, &written, "", &mut findings);
            findings
        }
        Err(error) => vec![error.to_string()],
    }
}

/// Compares what stands in a file with what a typed reader has made of it.
pub fn differences(source: &Value, written: &Value, path: &str, findings: &mut Vec<String>) {
    match (source, written) {
        (Value::Object(source), Value::Object(written)) => {
            for (key, value) in source {
                match written.get(key) {
                    Some(other) => differences(value, other, &format!("{path}.{key}"), findings),
                    None => findings.push(format!("{path}.{key}: unknown field")),
                }
            }
            let missing = written.keys().filter(|key| !source.contains_key(*key));
            findings.extend(missing.map(|key| format!("{path}.{key}: missing field")));
        }
        (Value::Array(source), Value::Array(written)) if source.len() == written.len() => {
            for (at, (value, other)) in source.iter().zip(written).enumerate() {
                differences(value, other, &format!("{path}[{at}]"), findings);
            }
        }
        _ if source == written => {}
        _ => findings.push(format!("{path}: {source} is read as {written}")),
    }
}
