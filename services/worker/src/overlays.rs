//! What the stages that write overlays share.

use capstan_plan::commit::{Outputs, Part};
use capstan_plan::id::Digest;
use capstan_plan::row::Curation;

/// Counts kept rows, and dropped ones by reason.
pub(crate) fn count_kept(outputs: &mut Outputs, rows: &[Curation]) {
    for row in rows {
        let name = match &row.reason {
            Some(reason) => format!("dropped_{reason}"),
            None => "kept".to_owned(),
        };
        *outputs.counts.entry(name).or_default() += 1;
    }
}

/// Digests of the files of these shards: the inputs that a commit names.
pub(crate) fn digests<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Vec<Digest> {
    let files = parts
        .into_iter()
        .flat_map(|part| [&part.base].into_iter().chain(&part.overlays));
    files.map(|file| file.digest).collect()
}
