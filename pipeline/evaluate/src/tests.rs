//! Metrics compared with values calculated by hand and with the reference scorers.

use capstan_plan::draw::Draws;
use proptest::prelude::*;

use crate::rerank::{candidates, rerank};
use crate::words::words;
use crate::{Scores, bleu, blind, captioning, cider, retrieval, zero_shot};

fn tokenised(texts: &[&str]) -> Vec<Vec<String>> {
    texts.iter().map(|text| words(text)).collect()
}

#[test]
fn recall_by_hand() {
    // Two texts per picture. Picture 0 ranks first; one wrong text scores above those of picture 1.
    let scores = Scores::new(2, 4, vec![0.9, 0.1, 0.2, 0.3, 0.8, 0.0, 0.7, 0.6]);
    let owner = [0, 0, 1, 1];
    assert_eq!(retrieval::text_ranks(&scores, &owner), [0, 1]);
    assert_eq!(retrieval::picture_ranks(&scores, &owner), [0, 0, 0, 0]);
    let figures = retrieval::figures(&scores, &scores, &owner);
    assert_eq!((figures.tr_at_1, figures.tr_at_5), (50.0, 100.0));
    assert_eq!((figures.ir_at_1, figures.ir_at_5), (100.0, 100.0));
}

#[test]
fn a_tie_is_a_miss() {
    let owner: Vec<usize> = (0..40).map(|text| text / 5).collect();
    for value in [0.0, 1.0, f32::NAN, f32::NEG_INFINITY] {
        let constant = Scores::filled(8, 40, value);
        let figures = retrieval::figures(&constant, &constant, &owner);
        let all = [
            figures.tr_at_1,
            figures.tr_at_5,
            figures.ir_at_1,
            figures.ir_at_5,
        ];
        assert_eq!(all, [0.0; 4], "a model that scores everything {value}");
    }
    // Four wrong candidates tie with the right one: a hit among five, not among one.
    let level = Scores::filled(5, 5, 0.5);
    let figures = retrieval::figures(&level, &level, &[0, 1, 2, 3, 4]);
    assert_eq!((figures.tr_at_1, figures.tr_at_5), (0.0, 100.0));
}

#[test]
fn a_picture_needs_only_its_best_text() {
    let scores = Scores::new(2, 3, vec![0.1, 0.6, 0.5, 0.0, 0.0, 1.0]);
    assert_eq!(retrieval::text_ranks(&scores, &[0, 0, 1]), [0, 0]);
}

#[test]
fn reranking_scores_only_candidates() {
    let cosine = Scores::new(2, 3, vec![0.9, 0.5, 0.1, 0.3, 0.2, 0.8]);
    let candidates = candidates(&cosine, 2);
    assert_eq!(candidates.texts, [[0, 1], [2, 0]]);
    assert_eq!(candidates.pictures, [[0, 1], [0, 1], [1, 0]]);
    assert_eq!(candidates.pairs(), [[0, 1, 2], [0, 1, 2]]);
    let reranked = rerank(&cosine, &candidates, |picture, text| {
        if (picture, text) == (0, 1) { 2.0 } else { 0.0 }
    });
    assert_eq!(reranked.of_texts.row(0), [0.9, 2.5, f32::NEG_INFINITY]);
    assert_eq!(reranked.of_texts.row(1), [0.3, f32::NEG_INFINITY, 0.8]);
    assert_eq!(reranked.of_pictures.row(0), [0.9, 2.5, 0.1]);
    // A right text that is not a candidate is never found.
    let figures = retrieval::figures(&reranked.of_texts, &reranked.of_pictures, &[1, 0, 0]);
    assert_eq!(figures.tr_at_1, 50.0);
}

#[test]
fn the_first_of_equal_scores_is_a_candidate() {
    let candidates = candidates(&Scores::filled(3, 4, 1.0), 2);
    assert_eq!(candidates.texts, [[0, 1], [0, 1], [0, 1]]);
    assert_eq!(candidates.pictures[3], [0, 1]);
}

#[test]
fn prompts_are_averaged_at_unit_length() {
    assert_eq!(
        zero_shot::prompt("a photo of a {}", "red ball"),
        "a photo of a red ball"
    );
    // Lengths do not matter: the mean of (10, 0) and (0, 1) is halfway between them.
    let mean = zero_shot::ensemble(&[vec![10.0, 0.0], vec![0.0, 1.0]]);
    let half = std::f32::consts::FRAC_1_SQRT_2;
    assert!(
        (mean[0] - half).abs() < 1e-6 && (mean[1] - half).abs() < 1e-6,
        "{mean:?}"
    );
    assert_eq!(zero_shot::ensemble(&[vec![0.0, 0.0]]), [0.0, 0.0]);
}

#[test]
fn zero_shot_by_hand() {
    let scores = Scores::new(3, 2, vec![0.6, 0.4, 0.6, 0.4, 0.5, 0.5]);
    let figures = zero_shot::figures(&scores, &[0, 1, 0]);
    assert!((figures.accuracy - 100.0 / 3.0).abs() < 1e-9, "{figures:?}");
}

#[test]
fn words_are_those_of_the_reference_tokenizer() {
    let mut different = Vec::new();
    for line in include_str!("fixtures/words.tsv").lines() {
        let (text, expected) = line.split_once('\t').unwrap();
        let found = words(text).join(" ");
        if found != expected {
            different.push(format!("{text}\n  found    {found}\n  expected {expected}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(words("").is_empty());
}

#[test]
fn cider_by_hand() {
    // Two pictures with one reference each and no common word: every n-gram has weight ln 2, and a
    // caption that equals its reference scores 10 if it has n-grams of all lengths.
    let references = [vec![words("a b c d")], vec![words("e f g h")]];
    let score = |texts: [&str; 2]| {
        let scores = cider::cider_d(&tokenised(&texts), &references);
        (scores[0] + scores[1]) / 2.0
    };
    assert!((score(["a b c d", "e f g h"]) - 10.0).abs() < 1e-12);
    assert_eq!(score(["e f g h", "a b c d"]), 0.0);
    // "a b": 2 of 4 unigrams, 1 of 3 bigrams, two bigrams shorter.
    let half = (1.0 / 2f64.sqrt() + 1.0 / 3f64.sqrt()) / 4.0 * (-4.0f64 / 72.0).exp() * 10.0 / 2.0;
    assert!((score(["a b", "x"]) - half).abs() < 1e-12);
    // Repeating a word does not raise the score: its count is clipped, and the length differs.
    assert!(score(["a a a a", "x"]) < score(["a b c d", "x"]) / 4.0);
}

#[test]
fn bleu_by_hand() {
    let references = [vec![
        words("the cat sat on the mat"),
        words("a cat is here"),
    ]];
    let score = |text| bleu::bleu(&tokenised(&[text]), &references).corpus[3];
    assert!((score("the cat sat on the mat") - 1.0).abs() < 1e-6);
    // 5 of 5, 4 of 4, 3 of 3, 2 of 2. Of two equally close references the shorter one counts, so
    // there is no brevity penalty.
    assert!((score("the cat sat on the") - 1.0).abs() < 1e-6);
    // 4 of 5 words, 3 of 4, 2 of 3, 1 of 2.
    let by_hand = (0.8f64 * 0.75 * (2.0 / 3.0) * 0.5).powf(0.25);
    assert!((score("the cat sat on rugs") - by_hand).abs() < 1e-6);
    let brief = (1.0f64 - 4.0 / 3.0).exp() * (1e-15 / 1e-9f64).powf(0.25);
    assert!(
        (score("the cat sat") - brief).abs() < 1e-6,
        "{}",
        score("the cat sat")
    );
}

#[test]
fn scores_agree_with_the_reference_scorers() {
    #[derive(serde::Deserialize)]
    struct Fixture {
        references: Vec<Vec<String>>,
        corpora: Vec<Corpus>,
    }
    #[derive(serde::Deserialize)]
    struct Corpus {
        captions: Vec<String>,
        cider: f64,
        bleu4: f64,
    }
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/coco_scores.json")).unwrap();
    assert_eq!(fixture.corpora.len(), 2);
    for corpus in &fixture.corpora {
        let figures = captioning::figures(&corpus.captions, &fixture.references);
        assert!(
            (figures.cider - 100.0 * corpus.cider).abs() < 1e-6,
            "{figures:?}"
        );
        assert!(
            (figures.bleu4 - 100.0 * corpus.bleu4).abs() < 1e-6,
            "{figures:?}"
        );
    }
}

#[test]
fn the_blind_test_needs_two_pictures() {
    assert_eq!(blind::derangement(1, 0), None);
    assert_eq!(blind::derangement(1, 1), None);
    assert_eq!(blind::derangement(1, 2), Some(vec![1, 0]));
    assert_ne!(blind::derangement(1, 50), blind::derangement(2, 50));
}

/// A matrix of a few distinct values, which has many ties.
fn drawn(seed: u64, pictures: usize, texts: usize) -> Scores {
    let draws = Draws::new(seed, "test scores");
    let values = (0..pictures * texts).map(|i| (draws.u64(&[], i as u64) % 7) as f32 / 7.0);
    Scores::new(pictures, texts, values.collect())
}

proptest! {
    #[test]
    fn a_derangement_has_no_fixed_point(seed: u64, len in 2usize..200) {
        let mut order = blind::derangement(seed, len).unwrap();
        prop_assert!(order.iter().enumerate().all(|(place, &picture)| place != picture));
        order.sort_unstable();
        prop_assert_eq!(order, (0..len).collect::<Vec<_>>());
    }

    #[test]
    fn recall_grows_with_k_and_ignores_the_order_of_pictures(seed: u64, pictures in 1usize..12) {
        let owner: Vec<usize> = (0..pictures * 3).map(|text| text / 3).collect();
        let scores = drawn(seed, pictures, owner.len());
        let figures = retrieval::figures(&scores, &scores, &owner);
        prop_assert!(figures.tr_at_1 <= figures.tr_at_5 && figures.ir_at_1 <= figures.ir_at_5);
        let [tr_at_10, ir_at_10] = [figures.tr_at_10, figures.ir_at_10].map(Option::unwrap);
        prop_assert!(figures.tr_at_5 <= tr_at_10 && figures.ir_at_5 <= ir_at_10);
        let order = Draws::new(seed, "order").permutation(&[], pictures);
        let moved = scores.with_pictures(&order);
        let place = |picture| order.iter().position(|&p| p == picture).unwrap();
        let owner: Vec<usize> = owner.into_iter().map(place).collect();
        prop_assert_eq!(retrieval::figures(&moved, &moved, &owner), figures);
    }

    #[test]
    fn raising_the_right_score_never_lowers_recall(seed: u64, picture in 0usize..6) {
        let owner: Vec<usize> = (0..6).collect();
        let mut scores = drawn(seed, 6, 6);
        let before = retrieval::figures(&scores, &scores, &owner);
        scores.set(picture, picture, scores.at(picture, picture) + 0.3);
        let after = retrieval::figures(&scores, &scores, &owner);
        prop_assert!(after.tr_at_1 >= before.tr_at_1 && after.ir_at_1 >= before.ir_at_1);
    }

    #[test]
    fn reranking_of_all_candidates_adds_the_logit(seed: u64) {
        let cosine = drawn(seed, 5, 10);
        let owner: Vec<usize> = (0..10).map(|text| text / 2).collect();
        let all = candidates(&cosine, 10);
        let level = rerank(&cosine, &all, |_, _| 1.0);
        let figures = retrieval::figures(&level.of_texts, &level.of_pictures, &owner);
        prop_assert_eq!(figures, retrieval::figures(&cosine, &cosine, &owner));
    }
}

#[test]
fn reranking_agrees_with_the_reference() {
    #[derive(serde::Deserialize)]
    struct Fixture {
        sims: Vec<f32>,
        score_i2t: Vec<f32>,
        score_t2i: Vec<f32>,
        rank_i2t: Vec<usize>,
        rank_t2i: Vec<usize>,
    }
    const UNSCORED: f32 = -100.0;
    let case: Fixture = serde_json::from_str(include_str!("fixtures/blip_rerank.json")).unwrap();
    let (pictures, texts) = (4, 8);
    let cosine = Scores::new(pictures, texts, case.sims);
    let of_texts = |picture: usize, text: usize| case.score_i2t[picture * texts + text];
    let of_pictures = |picture: usize, text: usize| case.score_t2i[text * pictures + picture];
    // The logits of the reference: its scores minus the cosine.
    let logit = |picture, text| {
        let score = of_texts(picture, text).max(of_pictures(picture, text));
        assert!(
            score > UNSCORED,
            "the reference did not score ({picture}, {text})"
        );
        score - cosine.at(picture, text)
    };
    let reranked = rerank(&cosine, &candidates(&cosine, 3), logit);
    let close = |ours: f32, theirs: f32| match theirs == UNSCORED {
        true => ours == f32::NEG_INFINITY,
        false => (ours - theirs).abs() < 1e-5,
    };
    for picture in 0..pictures {
        for text in 0..texts {
            let (ours, theirs) = (reranked.of_texts.at(picture, text), of_texts(picture, text));
            assert!(
                close(ours, theirs),
                "i2t ({picture}, {text}): {ours}, {theirs}"
            );
            let (ours, theirs) = (
                reranked.of_pictures.at(picture, text),
                of_pictures(picture, text),
            );
            assert!(
                close(ours, theirs),
                "t2i ({picture}, {text}): {ours}, {theirs}"
            );
        }
    }
    let owner: Vec<usize> = (0..texts).map(|text| text / 2).collect();
    let ranks = retrieval::text_ranks(&reranked.of_texts, &owner);
    for (picture, &rank) in ranks.iter().enumerate() {
        let scored = [2 * picture, 2 * picture + 1].map(|text| of_texts(picture, text) > UNSCORED);
        if scored.contains(&true) {
            assert_eq!(rank, case.rank_i2t[picture], "picture {picture}");
        } else {
            // The rank of the reference depends on its sort here; our rank means "not found".
            assert!(rank >= 3, "picture {picture}");
        }
    }
    for (text, &rank) in retrieval::picture_ranks(&reranked.of_pictures, &owner)
        .iter()
        .enumerate()
    {
        if of_pictures(owner[text], text) > UNSCORED {
            assert_eq!(rank, case.rank_t2i[text], "text {text}");
        } else {
            assert_eq!(rank, pictures - 1, "text {text}");
        }
    }
}
