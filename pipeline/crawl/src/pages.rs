//! Fetches the pages of a shard.

use capstan_plan::row::{ImageLink, PageLink, Reject};
use capstan_plan::stage::Crawl;

use crate::{Control, Error, Net};

/// What the pages of a shard gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PagesFetched {
    /// Pages linked to, one level deeper; canonical, each once.
    pub links: Vec<PageLink>,
    /// Pictures that may be fetched.
    pub images: Vec<ImageLink>,
    /// Pages that could not be had, and pictures refused without a request.
    pub rejects: Vec<Reject>,
}

/// Fetches pages.
///
/// # Errors
/// [`Error::Cancelled`].
pub async fn fetch_pages(
    _config: &Crawl,
    _net: &Net,
    _pages: Vec<PageLink>,
    _control: &Control,
) -> Result<PagesFetched, Error> {
    unimplemented!()
}
