//! The ring between the ranks of a training gang: all-reduce, all-gather, broadcast and barrier
//! over TCP or TLS.
//!
//! This crate holds the trait [`Collective`] that training is written against, the TCP [`Ring`],
//! and [`SoloRing`] for a world of one. It calls no other crate of the workspace and uses no gRPC
//! and no async runtime: a rank's compute thread blocks in a call until the call is done or its
//! deadline has passed.
//!
//! ```text
//!        ┌────────► rank 1 ────────┐        every rank dials the next one and accepts the
//!        │                         ▼        previous one; both prove the ring's secret
//!     rank 0 ◄─────────────────  rank 2
//!
//!  previous ── read ──► add, in place ── write ──► next     one thread serves whichever connection
//!                                                          is ready, so that no message size can
//!                                                          deadlock
//! ```
//!
//! Results do not depend on timing. One rank computes the sum of an element, in an order that only
//! depends on world size, length and position, and every rank receives that rank's bits.

mod clock;
mod collective;
mod connect;
mod error;
mod hello;
mod link;
mod operation;
mod plan;
mod ring;
mod solo;
mod stream;

pub use clock::deadline_after;
pub use collective::Collective;
pub use error::RingError;
pub use plan::{RingEpoch, RingPlan, Secret};
pub use ring::{Breaker, Joining, Ring};
pub use solo::SoloRing;
pub use stream::Tls;
