//! Balancing over all shards of a dataset: exact deduplication, then a cap per query.
//!
//! 1. **Deduplication.** Rows whose downloaded bytes (SHA-256) and whose set of kept
//!    texts are equal are duplicates. The one with the smallest keyed hash of its
//!    `pair_id` is kept; the others are dropped with reason `duplicate`.
//! 2. **Cap**, over the remaining rows:
//!    - `wit`: every query chooses the `cap` pairs with the smallest hash of (seed,
//!      pair_id, query) among the pairs that match it. A pair is kept, with the queries
//!      that chose it, if at least one query chooses it; otherwise it is dropped with
//!      reason `cap`. No query then has more than `cap` pairs in the kept `queries`,
//!      although the texts of a kept pair may also contain a full query.
//!    - `metaclip` (arXiv 2309.16671): `count[e]` texts match query `e`,
//!      `p[e] = min(1, cap / count[e])`. A text is kept if the uniform draw of (seed,
//!      pair_id, e) is below `p[e]` for at least one of its queries, that is with
//!      probability `1 - prod(1 - p[e])`. A pair is kept with its kept texts.
//!
//! A row without a text matches no query and is dropped with reason `no_text`.
//!
//! Every draw is a hash of the item that it decides, so the outcome depends neither on the
//! order of rows nor on their split into shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use capstan_plan::draw::Draws;
use capstan_plan::id::{Digest, PairId, TextId};
use capstan_plan::row::{Curation, Text};
use capstan_plan::stage::{self, BalanceMode};

use crate::filter::Reason;
use crate::matching::{spaced, text_matches};

/// The input of balancing for one row: no pixels, and only ids and matches of its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceRow {
    pair_id: PairId,
    state: RowState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RowState {
    /// An earlier curation dropped the row; it stays dropped, for the same reason.
    Dropped(Option<String>),
    Kept(Candidate),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// Digest of the SHA-256 of the picture and of the set of texts.
    content: Digest,
    /// Sorted, each once.
    queries: Vec<String>,
    /// Each text with the indices into `queries` that it matches.
    texts: Vec<(TextId, Vec<usize>)>,
}

impl BalanceRow {
    /// A row that the previous curation keeps.
    ///
    /// - `sha256`: of the picture as downloaded.
    /// - `texts`: its kept texts.
    /// - `queries`: the queries of the curation that these texts match.
    pub fn kept(pair_id: PairId, sha256: [u8; 32], texts: &[Text], queries: &[String]) -> Self {
        let queries: BTreeSet<&String> = queries.iter().collect();
        let queries: Vec<String> = queries.into_iter().cloned().collect();
        let unique: BTreeSet<&str> = texts.iter().map(|text| text.text.as_str()).collect();
        let parts = [&sha256[..]]
            .into_iter()
            .chain(unique.into_iter().map(str::as_bytes));
        let content = Digest::of_parts(parts);
        let texts = texts.iter().map(|text| {
            let spaced = spaced(&text.text);
            let matched = (0..queries.len()).filter(|&q| text_matches(&spaced, &queries[q]));
            (text.text_id, matched.collect())
        });
        let texts = texts.collect();
        Self {
            pair_id,
            state: RowState::Kept(Candidate {
                content,
                queries,
                texts,
            }),
        }
    }

    /// A row that the previous curation drops, with its reason.
    pub fn dropped(pair_id: PairId, reason: Option<String>) -> Self {
        Self {
            pair_id,
            state: RowState::Dropped(reason),
        }
    }
}

/// Balances a whole dataset. Returns one list per shard and one row per row of the shard, in the
/// same order. Rows that were dropped before stay dropped.
pub fn balance(
    config: &stage::Balance,
    seed: u64,
    shards: &[Vec<BalanceRow>],
) -> Vec<Vec<Curation>> {
    let rows: Vec<&BalanceRow> = shards.iter().flatten().collect();
    let unique = deduplicate(seed, &rows);
    let choice = match config.mode {
        BalanceMode::Wit => choose_hard(config.cap, seed, &rows, &unique),
        BalanceMode::Metaclip => choose_by_probability(config.cap, seed, &rows, &unique),
    };
    let mut index = 0;
    let mut outcome = |row: &BalanceRow| {
        let curation = conclude(row, unique[index], &choice[index]);
        index += 1;
        curation
    };
    shards
        .iter()
        .map(|shard| shard.iter().map(&mut outcome).collect())
        .collect()
}

/// The texts and queries of a row that pass the cap; may be empty.
#[derive(Debug, Clone, Default)]
struct Choice {
    texts: Vec<TextId>,
    queries: Vec<String>,
}

fn conclude(row: &BalanceRow, unique: bool, choice: &Choice) -> Curation {
    let reason = match &row.state {
        RowState::Dropped(reason) => Some(reason.clone().unwrap_or_default()),
        RowState::Kept(candidate) if candidate.texts.is_empty() => {
            Some(Reason::NoText.as_str().to_owned())
        }
        RowState::Kept(_) if !unique => Some(Reason::Duplicate.as_str().to_owned()),
        RowState::Kept(_) if choice.texts.is_empty() => Some(Reason::Cap.as_str().to_owned()),
        RowState::Kept(_) => None,
    };
    let kept = match &reason {
        None => choice.clone(),
        Some(_) => Choice::default(),
    };
    Curation {
        pair_id: row.pair_id,
        keep: reason.is_none(),
        reason,
        texts: kept.texts,
        queries: kept.queries,
    }
}

/// For each row, whether it is the one kept among the rows of equal content.
fn deduplicate(seed: u64, rows: &[&BalanceRow]) -> Vec<bool> {
    let draws = Draws::new(seed, "balance.duplicate");
    let mut best: HashMap<Digest, (u64, PairId, usize)> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let RowState::Kept(candidate) = &row.state else {
            continue;
        };
        let rank = (draws.u64(&row.pair_id.0.0, 0), row.pair_id, index);
        let best = best.entry(candidate.content).or_insert(rank);
        *best = rank.min(*best);
    }
    let mut unique = vec![false; rows.len()];
    for (_, _, index) in best.into_values() {
        unique[index] = true;
    }
    unique
}

fn candidates<'a>(
    rows: &[&'a BalanceRow],
    unique: &[bool],
) -> impl Iterator<Item = (usize, PairId, &'a Candidate)> {
    let rows = rows.iter().zip(unique).enumerate();
    rows.filter_map(|(index, (row, unique))| match &row.state {
        RowState::Kept(candidate) if *unique => Some((index, row.pair_id, candidate)),
        _ => None,
    })
}

/// `wit`: each query chooses the `cap` pairs with the smallest hashes.
fn choose_hard(cap: u64, seed: u64, rows: &[&BalanceRow], unique: &[bool]) -> Vec<Choice> {
    let draws = Draws::new(seed, "balance.cap");
    let mut ranked: BTreeMap<&str, Vec<(u64, PairId, usize)>> = BTreeMap::new();
    for (index, pair_id, candidate) in candidates(rows, unique) {
        for query in &candidate.queries {
            let rank = draws.u64(&draw_item(pair_id, query), 0);
            ranked
                .entry(query)
                .or_default()
                .push((rank, pair_id, index));
        }
    }
    let cap = usize::try_from(cap).unwrap_or(usize::MAX);
    let mut choices = vec![Choice::default(); rows.len()];
    for (query, mut pairs) in ranked {
        if pairs.len() > cap {
            pairs.select_nth_unstable(cap);
            pairs.truncate(cap);
        }
        // `ranked` iterates in the order of queries, so the list of each row is sorted.
        for (_, _, index) in pairs {
            choices[index].queries.push(query.to_owned());
        }
    }
    for (index, _, candidate) in candidates(rows, unique) {
        if !choices[index].queries.is_empty() {
            choices[index].texts = candidate.texts.iter().map(|(id, _)| *id).collect();
        }
    }
    choices
}

/// `metaclip`: keeps a text if one of its queries draws it.
fn choose_by_probability(
    cap: u64,
    seed: u64,
    rows: &[&BalanceRow],
    unique: &[bool],
) -> Vec<Choice> {
    let draws = Draws::new(seed, "balance.probability");
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for (_, _, candidate) in candidates(rows, unique) {
        for query in candidate.texts.iter().flat_map(|(_, matched)| matched) {
            *counts.entry(&candidate.queries[*query]).or_default() += 1;
        }
    }
    let mut choices = vec![Choice::default(); rows.len()];
    for (index, pair_id, candidate) in candidates(rows, unique) {
        let drawn: Vec<bool> = candidate
            .queries
            .iter()
            .map(|query| {
                let count = counts.get(query.as_str()).copied().unwrap_or(0).max(1);
                let probability = (cap as f64 / count as f64).min(1.0);
                draws.unit(&draw_item(pair_id, query), 0) < probability
            })
            .collect();
        let kept = candidate
            .texts
            .iter()
            .filter(|(_, matched)| matched.iter().any(|q| drawn[*q]));
        let mut queries = BTreeSet::new();
        for (text_id, matched) in kept {
            choices[index].texts.push(*text_id);
            queries.extend(matched.iter().map(|q| candidate.queries[*q].clone()));
        }
        choices[index].queries = queries.into_iter().collect();
    }
    choices
}

fn draw_item(pair_id: PairId, query: &str) -> Vec<u8> {
    [&pair_id.0.0[..], query.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
