//! Balancing over all shards of a dataset: exact deduplication, then a cap per query.
//!
//! 1. **Deduplication.** Rows whose downloaded bytes (SHA-256) and whose set of kept
//!    texts are equal are duplicates; the one with the smallest keyed hash of its
//!    `pair_id` stays, the others go with reason `duplicate`.
//! 2. **Cap**, over the rows that are left:
//!    - `wit`: every query chooses the `cap` pairs with the smallest hash of (seed,
//!      pair_id, query) among the pairs that match it. A pair stays if at least one of
//!      its queries chooses it, with the queries that chose it; otherwise it goes with
//!      reason `cap`. So no query has more than `cap` pairs in the kept `queries`,
//!      although a kept pair's texts may also name a full query.
//!    - `metaclip` (arXiv 2309.16671): `count[e]` texts match query `e`,
//!      `p[e] = min(1, cap / count[e])`; a text stays if the uniform draw of (seed,
//!      pair_id, e) is under `p[e]` for at least one of its queries, so with
//!      probability `1 - prod(1 - p[e])`. A pair stays with the texts that do.
//!
//! Every draw is a hash of what it is for, so the outcome depends neither on the order
//! of rows nor on how they are split into shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use capstan_plan::draw::Draws;
use capstan_plan::id::{Digest, PairId, TextId};
use capstan_plan::row::{Curation, Text};
use capstan_plan::stage::{self, BalanceMode};

use crate::filter::Reason;
use crate::matching::{spaced, text_matches};

/// What balancing reads of a row: no pixels, and of its texts only ids and matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceRow {
    pair_id: PairId,
    standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// An earlier curation dropped it; it stays dropped, for the same reason.
    Dropped(Option<String>),
    Kept(Candidate),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// Of the SHA-256 of the picture and of the set of texts.
    content: Digest,
    /// Sorted, each once.
    queries: Vec<String>,
    /// Each text with the indices into `queries` that it matches.
    texts: Vec<(TextId, Vec<usize>)>,
}

impl BalanceRow {
    /// A row that the curation before kept.
    ///
    /// - `sha256`: of the picture as downloaded.
    /// - `texts`: the texts that were kept.
    /// - `queries`: those of the curation, which the texts match.
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
            standing: Standing::Kept(Candidate {
                content,
                queries,
                texts,
            }),
        }
    }

    /// A row that the curation before dropped, with its reason.
    pub fn dropped(pair_id: PairId, reason: Option<String>) -> Self {
        Self {
            pair_id,
            standing: Standing::Dropped(reason),
        }
    }
}

/// Balances a whole dataset: one list out for each shard in, one row out for each row
/// in, in the same order. Rows that were dropped before stay dropped.
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

/// What the cap left of a row: nothing, or some of its texts and queries.
#[derive(Debug, Clone, Default)]
struct Choice {
    texts: Vec<TextId>,
    queries: Vec<String>,
}

fn conclude(row: &BalanceRow, unique: bool, choice: &Choice) -> Curation {
    let reason = match &row.standing {
        Standing::Dropped(reason) => Some(reason.clone().unwrap_or_default()),
        Standing::Kept(_) if !unique => Some(Reason::Duplicate.as_str().to_owned()),
        Standing::Kept(_) if choice.texts.is_empty() => Some(Reason::Cap.as_str().to_owned()),
        Standing::Kept(_) => None,
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

/// For each row, whether it is the one of its content that stays.
fn deduplicate(seed: u64, rows: &[&BalanceRow]) -> Vec<bool> {
    let draws = Draws::new(seed, "balance.duplicate");
    let mut best: HashMap<Digest, (u64, PairId, usize)> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let Standing::Kept(candidate) = &row.standing else {
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
    rows.filter_map(|(index, (row, unique))| match &row.standing {
        Standing::Kept(candidate) if *unique => Some((index, row.pair_id, candidate)),
        _ => None,
    })
}

/// `wit`: each query chooses the `cap` pairs of the smallest hashes.
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
        // Queries come in order, so each row's list of them is sorted.
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

/// `metaclip`: a text stays if one of its queries draws it.
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
