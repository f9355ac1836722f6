//! Throughput of matching: `cargo run --release -p capstan-curate --example matching`.
//!
//! 100,000 queries of one to three made-up words against 200,000 texts of eight.
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use std::time::Instant;

use capstan_curate::QueryMatcher;
use capstan_plan::draw::Draws;

const QUERIES: u64 = 100_000;
const TEXTS: u64 = 200_000;
/// Different words: common ones come often, as in language.
const WORDS: f64 = 50_000.0;

fn main() -> Result<(), capstan_curate::Error> {
    let draws = Draws::new(1, "matching example");
    let word = |item: u64, place: u64| {
        let rank = WORDS.powf(draws.unit(&item.to_le_bytes(), place)) as u64;
        format!("w{rank}")
    };
    let words = |item: u64, count: u64| {
        (0..count)
            .map(|place| word(item, place))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let queries: Vec<String> = (0..QUERIES).map(|n| words(n, 1 + n % 3)).collect();
    let texts: Vec<String> = (QUERIES..QUERIES + TEXTS).map(|n| words(n, 8)).collect();

    let begun = Instant::now();
    let matcher = QueryMatcher::new(&queries)?;
    println!(
        "{} queries built in {:.2} s",
        matcher.len(),
        begun.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    let matches: usize = texts.iter().map(|text| matcher.matches(text).len()).sum();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{TEXTS} texts, {matches} matches in {seconds:.2} s: {:.0} texts/s on one thread",
        TEXTS as f64 / seconds
    );
    Ok(())
}
