//! Imports annotated pairs.

use std::path::Path;

use capstan_plan::row::{Pair, Reject};
use capstan_plan::stage::Import;
use tokio::sync::mpsc;

use crate::{Control, Error};

/// Imports `folder/captions.json` (COCO captions form) with its pictures; pairs
/// go to `pairs` in the order of the file's `images`.
///
/// # Errors
/// [`Error::Read`], [`Error::Format`], [`Error::Cancelled`].
pub async fn import_coco(
    _config: &Import,
    _folder: &Path,
    _control: &Control,
    _pairs: mpsc::Sender<Pair>,
) -> Result<Vec<Reject>, Error> {
    unimplemented!()
}
