//! Changes of the scores of the next token.

use super::Outputs;
use super::array::{Array, Values};
use super::case::Case;
use capstan_model::generate::processors;

/// How a case writes minus infinity.
const NEVER: f32 = -1e30;

/// What an output's name asks for.
#[derive(Default)]
struct Chain {
    repetition: Option<f32>,
    ngram: usize,
    /// Least number of tokens, and the stop token.
    least: Option<(usize, u32)>,
    temperature: Option<f32>,
    top_k: usize,
    top_p: Option<f64>,
}

/// The numbers of a name such as `repetition_1_1` (1.1), behind its words.
fn number(parts: &[&str]) -> Result<f64, String> {
    let text = parts.join(".");
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

impl Chain {
    fn read(output: &str) -> Result<Self, String> {
        let mut chain = Self::default();
        let parts: Vec<&str> = output.split('_').collect();
        match parts[..] {
            ["repetition", ..] => chain.repetition = Some(number(&parts[1..])? as f32),
            ["temperature", ..] => chain.temperature = Some(number(&parts[1..])? as f32),
            ["top", "k", ..] => chain.top_k = number(&parts[2..])? as usize,
            ["top", "p", ..] => chain.top_p = Some(number(&parts[2..])?),
            ["no", "repeat", ngram] => {
                let length = ngram.trim_end_matches("gram");
                chain.ngram = number(&[length])? as usize;
            }
            ["min", "length", least, eos] => {
                let stop = number(&[eos.trim_start_matches("eos")])? as u32;
                chain.least = Some((number(&[least])? as usize, stop));
            }
            // capfilt_chain_rep1.1_min10_temp0.9_top_p0.9
            ["capfilt", "chain", ..] => {
                for part in &parts[2..] {
                    let split = part
                        .find(|c: char| c.is_ascii_digit())
                        .unwrap_or(part.len());
                    let (name, value) = part.split_at(split);
                    match name {
                        "rep" => chain.repetition = Some(number(&[value])? as f32),
                        "min" => chain.least = Some((number(&[value])? as usize, STOP)),
                        "temp" => chain.temperature = Some(number(&[value])? as f32),
                        "p" => chain.top_p = Some(number(&[value])?),
                        _ => {}
                    }
                }
            }
            _ => return Err(format!("no processor is called `{output}`")),
        }
        Ok(chain)
    }

    fn apply(&self, scores: &mut [f32], tokens: &[u32]) {
        processors::penalise(scores, tokens, self.repetition.unwrap_or(1.0));
        processors::forbid_ngrams(scores, tokens, self.ngram);
        if let Some((least, stop)) = self.least
            && tokens.len() < least
        {
            processors::forbid(scores, &[stop]);
        }
        processors::warm(scores, self.temperature.unwrap_or(1.0));
        processors::keep_likeliest(scores, self.top_k);
        processors::keep_nucleus(scores, self.top_p.unwrap_or(1.0));
    }
}

/// The stop token of the chain, which its name leaves out.
const STOP: u32 = 3;

pub fn compute(case: &Case) -> Result<Outputs, String> {
    let rows = case.input("input_ids")?.ids();
    let logits = case.input("logits")?;
    let vocabulary = logits.shape[1];
    let outputs = case.expected.keys().map(|output| {
        let chain = Chain::read(output)?;
        let mut scores = logits.floats();
        for (scores, tokens) in scores.chunks_exact_mut(vocabulary).zip(&rows) {
            chain.apply(scores, tokens);
        }
        let finite = scores.into_iter().map(|score| f64::from(score.max(NEVER)));
        let values = Values::Float(finite.collect());
        let shape = logits.shape.clone();
        Ok((output.clone(), Array { shape, values }))
    });
    outputs.collect()
}
