//! Fetches the pictures of a shard.

use capstan_plan::row::{ImageLink, Pair, Reject};
use capstan_plan::stage::Crawl;
use tokio::sync::mpsc;

use crate::{Control, Error, Net};

/// Fetches pictures; pairs go to `pairs` in the order of `images`.
///
/// # Errors
/// [`Error::Cancelled`], also where the receiver of `pairs` is gone.
pub async fn fetch_images(
    _config: &Crawl,
    _net: &Net,
    _images: Vec<ImageLink>,
    _control: &Control,
    _pairs: mpsc::Sender<Pair>,
) -> Result<Vec<Reject>, Error> {
    unimplemented!()
}
