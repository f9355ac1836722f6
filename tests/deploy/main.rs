//! Checks the files under `deploy/` against the program that they deploy.
//!
//! Docker and Kubernetes do not run here. The tests check what is possible without them: every file is
//! rendered and parsed, objects have the types of Kubernetes, and every command, flag, port, image,
//! probe, variable, setting, mount, secret and metric that a file names exists.
//!
//! ```text
//! kustomize ─► objects ─► schema, wiring ─┐
//!                  └─► processes ─┐       ├─► findings: none for the shipped files,
//! compose.yaml ─► services ─┴─► process ──┤   the expected one for a broken copy
//! Dockerfile, dashboards ─────────────────┘
//! ```
//!
//! A check takes the content of a file and returns its findings, one line each. The tests in `broken`
//! show that each check can fail. A target of the package `capstan`, so that cargo builds the binary
//! first.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod broken;
mod compose;
mod dashboard;
mod dockerfile;
mod documents;
mod files;
mod gpu;
mod kubernetes;
mod network;
mod objects;
mod process;
mod program;
mod schema;
mod wiring;

/// Panics with all findings, one line each, if there are any.
#[track_caller]
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Panics unless one of the findings contains this text.
#[track_caller]
fn assert_one(findings: &[String], text: &str) {
    let is_there = findings.iter().any(|finding| finding.contains(text));
    assert!(
        is_there,
        "no finding contains `{text}`:\n{}\n",
        findings.join("\n")
    );
}
