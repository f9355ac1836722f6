//! Which pictures and texts of a crawl are worth training on.
//!
//! What lives here: text filters, the matching of texts against a query list,
//! and balancing (exact deduplication, then a cap per query). Everything is a
//! pure function of rows in memory; the caller reads and writes them. This room
//! may call `plan`; it never uses a clock, a file or a socket.
//!
//! ```text
//! per shard   CurateRow ─► Curator ─► Curation (keep | reason, texts, queries)
//! global      BalanceRow of all shards ─► balance ─► Curation, shard by shard
//! ```

mod balance;
mod curator;
mod error;
mod filter;
mod matching;

pub use balance::{BalanceRow, balance};
pub use curator::{CurateRow, Curator};
pub use error::Error;
pub use filter::Reason;
pub use matching::QueryMatcher;
