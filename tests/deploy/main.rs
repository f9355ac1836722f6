//! The files under `deploy/` against the program that they deploy.
//!
//! Docker and Kubernetes do not run here. What can be held without them is held: everything is
//! rendered and parsed, objects fit the types of Kubernetes, and every command, flag, port, image,
//! probe, variable, setting, mount, secret and metric that is named exists where it should.
//!
//! ```text
//! kustomize ─► objects ─► schema, wiring ─┐
//!                  └─► processes ─┐       ├─► findings: none for what ships,
//! compose.yaml ─► services ─┴─► process ──┤   the right one for a copy that is broken on purpose
//! Dockerfile, dashboards ─────────────────┘
//! ```
//!
//! A check returns its findings, a line each, and knows nothing of the file that ships: the tests in
//! `broken` show that each can fail. A target of the crate `capstan`, so that cargo builds the binary
//! first.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

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

/// Panics with every finding, a line each.
#[track_caller]
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Panics unless one of the findings holds this text.
#[track_caller]
fn one_says(findings: &[String], text: &str) {
    let says = findings.iter().any(|finding| finding.contains(text));
    assert!(says, "none says `{text}`:\n{}\n", findings.join("\n"));
}
