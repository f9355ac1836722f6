//! `capstan dataset lineage`: from a text back to its page, its model and its commits.

use capstan_dataset::lineage::{self, Committed, Lineage, Query};
use capstan_dataset::{Store, versions};

use super::found;
use crate::error::{Exit, ExpectedError};
use crate::output;

/// Prints where the texts that `query` finds came from.
///
/// # Errors
/// Usage, where it finds none, or for a version that is not there; unavailable.
pub async fn lineage(
    store: &Store,
    dataset: &str,
    query: &str,
    limit: usize,
    as_json: bool,
) -> Result<(), ExpectedError> {
    let version = found(versions::resolve(store, dataset).await)?;
    let lineages = found(lineage::trace(store, &version, &Query::parse(query), limit).await)?;
    if lineages.is_empty() {
        let line = format!("{version} holds no text or pair `{query}`");
        return Err(ExpectedError::new(Exit::Usage, line));
    }
    if as_json {
        return output::json(&lineages);
    }
    for lineage in &lineages {
        print(lineage);
    }
    Ok(())
}

fn print(lineage: &Lineage) {
    match &lineage.text {
        Some(traced) => println!("\"{}\"", traced.text),
        None => println!("a picture without texts"),
    }
    let line = |name: &str, value: String| println!("  {name:9} {value}");
    if let Some(traced) = &lineage.text {
        line("text", traced.text_id.to_string());
        let writer = traced.written_by.as_ref();
        let writer = writer.map_or_else(String::new, |model| format!(", written by model {model}"));
        line("origin", format!("{}{writer}", traced.origin.as_str()));
    }
    line("picture", lineage.image_url.clone());
    line("page", lineage.page_url.clone());
    line("pair", format!("{} (row {})", lineage.pair_id, lineage.row));
    line("curation", curation(lineage));
    if let Some(judged) = lineage
        .text
        .as_ref()
        .and_then(|traced| traced.judged.as_ref())
    {
        let by = judged
            .by
            .map_or_else(String::new, |model| format!(" by model {model}"));
        let fate = if judged.kept { "kept" } else { "dropped" };
        line(
            "verdict",
            format!(
                "{fate}{by}: itc {:.3}, itm {:.3} ({})",
                judged.itc, judged.itm, judged.reason
            ),
        );
    }
    for passed in &lineage.versions {
        let by = format!("{} of run {}", passed.stage, passed.run);
        line("version", format!("{}, by {by}", passed.version));
    }
    for made in &lineage.files {
        let by = made.commit.as_ref().map_or_else(
            || "whose run is no longer in the store".to_owned(),
            |commit| format!("by {}", committed(commit)),
        );
        let from = made.adopted_from.as_ref();
        let from = from.map_or_else(String::new, |c| format!(", adopted from {}", committed(c)));
        line(made.kind, format!("data/{}.parquet {by}{from}", made.file));
    }
    println!();
}

fn curation(lineage: &Lineage) -> String {
    if !lineage.curated {
        let reason = lineage.reason.as_deref().unwrap_or("its text is not kept");
        return format!("dropped: {reason}");
    }
    match lineage.queries.as_slice() {
        [] => "kept".to_owned(),
        queries => format!("kept, matches {}", queries.join(", ")),
    }
}

fn committed(commit: &Committed) -> String {
    format!(
        "{}/{}/{} (attempt {}, {})",
        commit.run, commit.stage, commit.shard, commit.attempt, commit.worker
    )
}
