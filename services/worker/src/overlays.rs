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

/// Digests of the files of these shards: the inputs of a stage that reads pictures.
pub(crate) fn digests<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Vec<Digest> {
    let files = parts.into_iter().flat_map(Part::files);
    files.map(|file| file.digest).collect()
}

/// As [`digests`], for a stage that never reads pictures.
pub(crate) fn metadata_digests<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Vec<Digest> {
    let files = parts.into_iter().flat_map(Part::metadata_files);
    files.map(|file| file.digest).collect()
}
