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
//!  compute thread ── segments ──► sender thread ──► next        sending never waits for receiving,
//!        ▲                                                      so no size of message can deadlock
//!        └───── add, forward ◄──── read ◄────────── previous
//! ```
//!
//! Results do not depend on timing: the sum of an element is taken in an order that world size,
//! length and position alone decide, by one rank, and every rank receives that rank's bits.

mod collective;
mod connect;
mod error;
mod hello;
mod link;
mod plan;
mod ring;
mod solo;
mod stream;

pub use collective::Collective;
pub use error::RingError;
pub use plan::{RingEpoch, RingPlan, Secret};
pub use ring::{Breaker, Ring};
pub use solo::SoloRing;
pub use stream::Tls;
