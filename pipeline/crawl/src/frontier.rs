//! Which page is fetched in which wave, and which shard fetches what.

use capstan_plan::row::{ImageLink, PageLink};
use capstan_plan::stage::Crawl;

/// Plans the pages of a wave.
pub fn plan_pages(
    _config: &Crawl,
    _wave: u32,
    _seen: &[PageLink],
    _links: &[PageLink],
) -> Vec<Vec<PageLink>> {
    unimplemented!()
}

/// Plans the pictures to fetch.
pub fn plan_images(_config: &Crawl, _links: Vec<ImageLink>) -> Vec<Vec<ImageLink>> {
    unimplemented!()
}
