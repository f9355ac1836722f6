//! The ring between the ranks of a training gang: all-reduce, all-gather, broadcast and barrier
//! over raw TCP, or TLS on it.
//!
//! What lives here: the trait [`Collective`] that training is written against, the TCP [`Ring`],
//! and [`SoloRing`] for a world of one. It calls nothing of ours, knows no gRPC and no async
//! runtime: a rank's compute thread blocks in a call until it is done or its deadline has passed.
//!
//! ```text
//!        ┌────────► rank 1 ────────┐        every rank dials the next one and accepts the
//!        │                         ▼        previous one; both prove the ring's secret
//!     rank 0 ◄─────────────────  rank 2
//!
//!  previous ── read ──► add, in place ── write ──► next     one thread does both, as either
//!                                                          connection can go on, so no size of
//!                                                          message can deadlock
//! ```
//!
//! Results do not depend on timing: the sum of an element is taken in an order that world size,
//! length and position alone decide, by one rank, and every rank receives that rank's bits.

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
