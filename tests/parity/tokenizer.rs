//! open_clip's tokenizer.

use super::Outputs;
use super::array::Array;
use super::case::Case;
use capstan_model::tokenizer::ClipTokenizer;

pub fn compute(case: &Case) -> Result<Outputs, String> {
    let config = case.config()?;
    let wrong = |name: &str| format!("config.json: `{name}` is missing or of another type");
    let texts: Vec<String> =
        serde_json::from_value(config["texts"].clone()).map_err(|_| wrong("texts"))?;
    let context = config["context_length"]
        .as_u64()
        .ok_or_else(|| wrong("context_length"))? as usize;
    let tokenizer = ClipTokenizer::default();
    let ids = texts.iter().flat_map(|text| {
        let mut ids: Vec<i64> = tokenizer
            .encode(text, context)
            .into_iter()
            .map(i64::from)
            .collect();
        ids.resize(context, 0);
        ids
    });
    let shape = [texts.len(), context];
    Ok(vec![(
        "input_ids".into(),
        Array::int(&shape, ids.collect()),
    )])
}
