//! Balancing: caps are exact, draws are fair, and neither order nor sharding matters.

use std::collections::BTreeMap;

use capstan_plan::row::Origin;
use proptest::prelude::*;

use super::*;

fn config(mode: BalanceMode, cap: u64) -> stage::Balance {
    stage::Balance {
        from: "curate".into(),
        mode,
        cap,
    }
}

/// Row `n` with the picture `picture`, whose one text is its queries joined by spaces.
fn row(n: u32, picture: u8, queries: &[&str]) -> BalanceRow {
    let pair_id = PairId::new(&format!("http://a.test/{n}"), "http://a.test/");
    let text = Text::new(&pair_id, Origin::Alt, queries.join(" "));
    let queries: Vec<String> = queries.iter().map(|q| q.to_string()).collect();
    BalanceRow::kept(pair_id, [picture; 32], &[text], &queries)
}

fn by_pair(shards: Vec<Vec<Curation>>) -> BTreeMap<PairId, Curation> {
    let rows = shards.into_iter().flatten();
    rows.map(|curation| (curation.pair_id, curation)).collect()
}

#[test]
fn of_equal_pictures_with_equal_texts_one_stays() {
    let mut rows: Vec<BalanceRow> = (0..5).map(|n| row(n, 7, &["ball"])).collect();
    rows.push(row(5, 7, &["ball", "red"]));
    rows.push(row(6, 8, &["ball"]));
    let out = balance(&config(BalanceMode::Wit, 100), 1, &[rows]);
    let kept = out[0].iter().filter(|c| c.keep).count();
    assert_eq!(kept, 3);
    let reasons: Vec<_> = out[0].iter().filter_map(|c| c.reason.as_deref()).collect();
    assert_eq!(reasons, ["duplicate"; 4]);
    assert!(out[0][5].keep && out[0][6].keep);
}

#[test]
fn texts_are_a_set_whatever_their_order_and_origin() {
    let rows = [["a b", "c"], ["c", "a b"]]
        .iter()
        .enumerate()
        .map(|(n, texts)| {
            let pair_id = PairId::new(&n.to_string(), "p");
            let texts = texts.map(|text| Text::new(&pair_id, Origin::Alt, text));
            BalanceRow::kept(pair_id, [1; 32], &texts, &["c".to_owned()])
        });
    let out = balance(&config(BalanceMode::Wit, 9), 1, &[rows.collect()]);
    assert_eq!(out[0].iter().filter(|c| c.keep).count(), 1);
}

#[test]
fn wit_caps_exactly_and_keeps_pairs_of_rare_queries() {
    let mut rows: Vec<BalanceRow> = (0..40).map(|n| row(n, n as u8, &["ball"])).collect();
    rows.extend((40..43).map(|n| row(n, n as u8, &["ball", "ring"])));
    let out = balance(&config(BalanceMode::Wit, 10), 3, &[rows]);
    let named = |query: &str| {
        let rows = out[0].iter().filter(|c| c.keep);
        rows.filter(|c| c.queries.iter().any(|q| q == query))
            .count()
    };
    assert_eq!(named("ball"), 10);
    assert_eq!(named("ring"), 3);
    assert!(out[0][40..].iter().all(|c| c.keep && c.texts.len() == 1));
    for dropped in out[0].iter().filter(|c| !c.keep) {
        assert_eq!(dropped.reason.as_deref(), Some("cap"));
        assert!(dropped.texts.is_empty() && dropped.queries.is_empty());
    }
}

#[test]
fn earlier_drops_stay_and_take_no_place() {
    let gone = PairId::new("gone", "p");
    let rows = vec![
        BalanceRow::dropped(gone, Some("too_short".into())),
        row(1, 1, &["ball"]),
    ];
    let out = balance(&config(BalanceMode::Wit, 1), 1, &[rows]);
    assert_eq!(out[0][0].reason.as_deref(), Some("too_short"));
    assert!(!out[0][0].keep && out[0][1].keep);
}

#[test]
fn a_row_without_a_text_is_dropped_as_no_text() {
    for mode in [BalanceMode::Wit, BalanceMode::Metaclip] {
        let textless = |n: u32| {
            let pair_id = PairId::new(&n.to_string(), "p");
            BalanceRow::kept(pair_id, [9; 32], &[], &[])
        };
        let rows = vec![textless(100), textless(101), row(1, 1, &["ball"])];
        let out = balance(&config(mode, 5), 1, &[rows]);
        let reasons: Vec<_> = out[0].iter().map(|c| c.reason.as_deref()).collect();
        assert_eq!(reasons, [Some("no_text"), Some("no_text"), None]);
    }
}

#[test]
fn metaclip_keeps_texts_with_the_stated_probability() {
    // 2,000 texts of `ball` against t = 500, half of them with the rarer `red` (1,000).
    let rows: Vec<BalanceRow> = (0..2000u32)
        .map(|n| {
            let queries: &[&str] = if n % 2 == 0 {
                &["ball"]
            } else {
                &["ball", "red"]
            };
            let pair_id = PairId::new(&n.to_string(), "p");
            let text = Text::new(&pair_id, Origin::Alt, queries.join(" "));
            let queries: Vec<String> = queries.iter().map(|q| q.to_string()).collect();
            let sha256 = *Digest::of(&n.to_le_bytes()).0.first_chunk().unwrap();
            BalanceRow::kept(pair_id, sha256, &[text], &queries)
        })
        .collect();
    let out = balance(&config(BalanceMode::Metaclip, 500), 5, &[rows]);
    let share = |odd: usize| {
        let rows = out[0].iter().enumerate().filter(|(n, _)| n % 2 == odd);
        rows.filter(|(_, c)| c.keep).count() as f64 / 1000.0
    };
    assert!((share(0) - 0.25).abs() < 0.05, "{}", share(0));
    // 1 - (1 - 0.25)(1 - 0.5)
    assert!((share(1) - 0.625).abs() < 0.05, "{}", share(1));
    let all = balance(
        &config(BalanceMode::Metaclip, 2000),
        5,
        &[vec![row(1, 1, &["ball"])]],
    );
    assert!(all[0][0].keep);
}

#[test]
fn metaclip_judges_each_text_of_a_pair() {
    let crowd = (0..400u32).map(|n| {
        let pair_id = PairId::new(&n.to_string(), "p");
        let texts = ["common", "rare"].map(|text| Text::new(&pair_id, Origin::Alt, text));
        let count = if n < 2 { 2 } else { 1 };
        let queries = ["common".to_owned(), "rare".to_owned()];
        let sha256 = Digest::of(&n.to_le_bytes()).0;
        BalanceRow::kept(pair_id, sha256, &texts[..count], &queries[..count])
    });
    let out = balance(&config(BalanceMode::Metaclip, 4), 1, &[crowd.collect()]);
    for curation in &out[0][..2] {
        assert!(curation.keep);
        assert!(curation.queries.contains(&"rare".to_owned()));
    }
    let kept = out[0].iter().filter(|c| c.keep).count();
    assert!(kept < 30, "{kept} of 400 at t = 4");
}

proptest! {
    /// Another order and another split give every row the same outcome; no query exceeds its cap.
    #[test]
    fn order_and_sharding_do_not_matter(
        rows in prop::collection::vec((0u8..12, prop::collection::btree_set("[abcd]", 1..4)), 1..60),
        split in 1usize..7,
        turn in 0usize..60,
        cap in 1u64..6,
        seed in any::<u64>(),
        wit in any::<bool>(),
    ) {
        let mode = if wit { BalanceMode::Wit } else { BalanceMode::Metaclip };
        let rows: Vec<BalanceRow> = rows
            .iter()
            .enumerate()
            .map(|(n, (picture, queries))| {
                let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
                row(n as u32, *picture, &queries)
            })
            .collect();
        let config = config(mode, cap);
        let whole = by_pair(balance(&config, seed, std::slice::from_ref(&rows)));
        let mut turned = rows.clone();
        turned.rotate_left(turn % rows.len());
        turned.reverse();
        let shards: Vec<Vec<BalanceRow>> = turned.chunks(split).map(<[_]>::to_vec).collect();
        let out = balance(&config, seed, &shards);
        for (shard, curations) in shards.iter().zip(&out) {
            let ids: Vec<PairId> = shard.iter().map(|row| row.pair_id).collect();
            let out_ids: Vec<PairId> = curations.iter().map(|c| c.pair_id).collect();
            prop_assert_eq!(ids, out_ids);
        }
        prop_assert_eq!(&whole, &by_pair(out));
        if wit {
            let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
            for query in whole.values().flat_map(|c| &c.queries) {
                *counts.entry(query).or_default() += 1;
            }
            prop_assert!(counts.values().all(|count| *count <= cap));
        }
    }
}
