//! A cluster of separate processes over one store ends equal to one process, on one host and on three.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod hosts;
mod network;
mod six;
