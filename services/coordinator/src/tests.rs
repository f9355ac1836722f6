//! The coordinator on a real socket, with workers that commit real files to a real store.
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real sockets waits in real time"
)]

mod access;
mod fence;
mod hostile;
mod large;
mod leases;
mod operate;
mod outage;
mod rebuild;
mod runs;
mod sandbox;
mod sessions;
mod trace;
mod whole;
