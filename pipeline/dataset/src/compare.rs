//! Compares two versions by all columns but times, never by file names or run ids.

use std::collections::BTreeMap;

use capstan_plan::commit::{Part, VersionRef};
use capstan_plan::id::{Digest, PairId};
use serde::Serialize;

use crate::error::Result;
use crate::files::{self, Pixels};
use crate::record::{RowHasher, hash_with_pixels};
use crate::store::Store;
use crate::versions;
use crate::view::{View, ViewRow};

/// Most examples in a comparison.
const EXAMPLES: usize = 8;

/// The groups of columns that are compared separately.
const COLUMNS: [&str; 4] = ["pair", "curation", "captions", "verdicts"];

/// The differences between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Comparison {
    /// Rows of each version.
    pub rows: [u64; 2],
    /// Pairs that only the first has.
    pub only_first: u64,
    /// Pairs that only the second has.
    pub only_second: u64,
    /// Pairs of both that differ, by group of columns: `pair, curation, captions, verdicts`.
    pub differing: BTreeMap<&'static str, u64>,
    /// At most eight differences, one line each.
    pub examples: Vec<String>,
}

impl Comparison {
    /// Whether the two are equal.
    pub fn is_equal(&self) -> bool {
        self.only_first == 0 && self.only_second == 0 && self.differing.is_empty()
    }

    fn example(&mut self, line: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(line);
        }
    }
}

/// A row: its pair, and the digest of every group of columns.
type Row = (PairId, [Digest; 4]);

/// Compares two versions row by row.
///
/// # Errors
/// Those of [`versions::parts`] and of the view.
pub async fn compare(
    first: (&Store, &VersionRef),
    second: (&Store, &VersionRef),
) -> Result<Comparison> {
    let a = rows(first.0, &versions::parts(first.0, first.1).await?).await?;
    let b = rows(second.0, &versions::parts(second.0, second.1).await?).await?;
    Ok(merge(&a, &b))
}

/// blake3 over the rows of a version, sorted by pair id, without times: equal
/// versions have equal digests, however their rows are cut into shards.
///
/// # Errors
/// Those of [`versions::parts`] and of the view.
pub async fn digest(store: &Store, version: &VersionRef) -> Result<Digest> {
    let rows = rows(store, &versions::parts(store, version).await?).await?;
    let mut hasher = RowHasher::default();
    for (pair, columns) in &rows {
        hasher.digest(&pair.0);
        for column in columns {
            hasher.digest(column);
        }
    }
    Ok(hasher.finish())
}

fn merge(a: &[Row], b: &[Row]) -> Comparison {
    let mut comparison = Comparison {
        rows: [a.len() as u64, b.len() as u64],
        ..Comparison::default()
    };
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => return comparison,
            (Some((pair, _)), other) if other.is_none_or(|(second, _)| pair < second) => {
                comparison.only_first += 1;
                comparison.example(format!("pair {pair} is only in the first"));
                a.next();
            }
            (first, Some((pair, _))) if first.is_none_or(|(first, _)| pair < first) => {
                comparison.only_second += 1;
                comparison.example(format!("pair {pair} is only in the second"));
                b.next();
            }
            _ => {
                let (Some((pair, first)), Some((_, second))) = (a.next(), b.next()) else {
                    return comparison;
                };
                let groups = COLUMNS.iter().zip(first.iter().zip(second));
                for (group, _) in groups.filter(|(_, (first, second))| first != second) {
                    *comparison.differing.entry(group).or_default() += 1;
                    comparison.example(format!("pair {pair} differs in {group}"));
                }
            }
        }
    }
}

/// The rows of these shards, sorted. 160 bytes a row; pictures are read a row group at a time.
async fn rows(store: &Store, parts: &[Part]) -> Result<Vec<Row>> {
    let mut all = Vec::new();
    for part in parts {
        let mut view = View::open(store, part, Pixels::Read).await?;
        while let Some(rows) = view.next().await? {
            let hashed = files::blocking("comparison", move || {
                Ok(rows.iter().map(hash_row).collect::<Vec<Row>>())
            });
            all.extend(hashed.await?);
        }
    }
    all.sort_unstable();
    Ok(all)
}

fn hash_row(row: &ViewRow) -> Row {
    let group = |hash: &dyn Fn(&mut RowHasher)| {
        let mut hasher = RowHasher::default();
        hash(&mut hasher);
        hasher.finish()
    };
    let pair = group(&|hasher| hash_with_pixels(&row.pair, &row.pair.image, hasher));
    let curation = group(&|hasher| {
        hasher
            .number(row.keep.into())
            .optional_text(row.reason.as_deref());
        hasher.number(row.kept_texts.len() as u64);
        for text in &row.kept_texts {
            hasher.digest(&text.0);
        }
        for query in &row.queries {
            hasher.text(query);
        }
    });
    let captions = group(&|hasher| {
        for text in &row.synthetic {
            hasher.digest(&text.text_id.0).text(&text.text);
        }
    });
    let verdicts = group(&|hasher| {
        for verdict in &row.verdicts {
            hasher
                .digest(&verdict.text_id.0)
                .number(verdict.itc.to_bits().into())
                .number(verdict.itm.to_bits().into())
                .number(verdict.kept.into())
                .text(&verdict.reason);
        }
    });
    (row.pair.pair_id, [pair, curation, captions, verdicts])
}
