//! Checks objects against the types of Kubernetes 1.33 in the crate `k8s-openapi`, which is generated
//! from the API's description.
//!
//! The types read leniently: they ignore unknown fields and invent missing required ones. A check reads
//! an object, writes it again and compares both: a field that disappears is unknown, a field that
//! appears was missing.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects;

/// Unknown and missing fields of an object.
pub fn check(object: &Value) -> Vec<String> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let findings = match (text("apiVersion"), text("kind")) {
        ("apps/v1", "Deployment") => check_as::<Deployment>(object),
        ("apps/v1", "StatefulSet") => check_as::<StatefulSet>(object),
        ("v1", "ConfigMap") => check_as::<ConfigMap>(object),
        ("v1", "Namespace") => check_as::<Namespace>(object),
        ("v1", "PersistentVolumeClaim") => check_as::<PersistentVolumeClaim>(object),
        ("v1", "Service") => check_as::<Service>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => check_as::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => check_as::<PodDisruptionBudget>(object),
        (version, kind) => vec![format!("no type for `{version}` `{kind}` is checked here")],
    };
    let name = objects::name(object);
    let findings = findings.into_iter();
    findings
        .map(|finding| format!("{name}: {finding}"))
        .collect()
}

fn check_as<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
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

/// Compares a value with the same value after reading it as a type and writing it again.
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
