//! From seeds to pictures with their texts, politely and safely.
//!
//! What lives here: the frontier (which page is fetched in which wave, by which
//! shard), robots.txt and opt-outs, the network with its address guard, pacing
//! and caps, parsing pages, decoding and normalising pictures. This room may call
//! `plan`; it knows no store: rows come in and go out as plain structs.
//!
//! ```text
//! seeds ─► plan_pages ─► shards ─► fetch_pages ─► links ──┐
//!              ▲                        │                 │
//!              └────────────────────────┼─── next wave ◄──┘
//!                                       ▼ images
//!                                  plan_images ─► shards ─► fetch_images ─► pairs, rejects
//! ```

mod canonical_url;
mod control;
mod error;
mod fetch_images;
mod fetch_pages;
mod frontier;
mod html;
mod net;
pub mod normalize;
mod opt_out;
mod reject;
mod robots;
mod whitespace;

pub use canonical_url::{UrlError, canonical};
pub use control::{Control, ItemProgress};
pub use error::Error;
pub use fetch_images::fetch_images;
pub use fetch_pages::{PagesFetched, fetch_pages};
pub use frontier::{plan_images, plan_pages};
pub use net::{Net, NetConfig};
pub use reject::RejectReason;
pub use whitespace::collapse_whitespace;

/// Version of the policy by which opt-out signals are read.
///
/// Version 1: `noai`, `noimageai`, `noindex`, `noimageindex` and `none`, addressed to all
/// agents or to ours, in `X-Robots-Tag` or a meta tag, exclude the pictures of a page or
/// the picture itself. `nofollow` and `none` exclude its links. All other signals are
/// stored as columns and exclude nothing.
pub const POLICY_VERSION: u32 = 1;
