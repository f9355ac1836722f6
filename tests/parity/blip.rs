//! BlipForConditionalGeneration, and BlipForImageTextRetrieval with the re-ranking of the original
//! implementation.

use super::array::Array;
use super::case::Case;
use super::clip::pictures;
use super::{Outputs, Setup};
use burn::tensor::Tensor;
use capstan_model::generate::{Decoding, Strategy, generate};
use capstan_model::{Embed, Generate, Look, Match, Med, MedParts, Memory, Network, TokenBatch};

/// A batch of ids. Each row of the mask is a prefix of ones.
pub fn batch(ids: &Array, mask: &Array) -> Result<TokenBatch, String> {
    let len = ids.shape[1];
    let lengths = mask
        .ints()
        .chunks_exact(len)
        .map(|row| {
            let ones = row.iter().take_while(|one| **one == 1).count();
            if row[ones..].iter().any(|one| *one != 0) {
                return Err("the mask is not a prefix of ones".to_owned());
            }
            Ok(ones as u32)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(TokenBatch::from_padded(ids.ids().concat(), len, lengths))
}

fn load(case: &Case, setup: &Setup, parts: MedParts) -> Result<Med, String> {
    let med =
        Med::load(&case.path, &setup.load().parts(parts)).map_err(|error| error.to_string())?;
    Ok(setup.stored(med))
}

fn image_tokens(images: &capstan_model::ImageEmbeds) -> Array {
    let tokens = images.tokens();
    let [rows, width] = tokens.dims();
    Array::tensor(
        &[images.pictures(), rows / images.pictures(), width],
        tokens,
    )
}

pub fn caption(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let med = load(case, setup, MedParts::Captioner)?;
    let images = med.encode(pictures(case.input("pixel_values")?, setup.device()));
    let memory = med.memory(&images);
    let texts = batch(case.input("input_ids")?, case.input("attention_mask")?)?;
    let own: Vec<usize> = (0..texts.rows()).collect();
    let vocabulary = med.config().text_config.vocab_size;
    let shape = [texts.rows(), texts.padded_len(), vocabulary];
    let logits = med.lm_logits(&memory, &texts, &own);
    let greedy = |name: &str| {
        let tokens = case.expected_width(name)? - 1;
        decoded(case, &med, &memory, name, &[], Strategy::Greedy, 0, tokens)
    };
    let mut outputs = vec![
        ("image_embeds".into(), image_tokens(&images)),
        ("logits".into(), Array::tensor(&shape, logits)),
        greedy("greedy_ids")?,
    ];
    if case.inputs.contains_key("labels") {
        outputs.extend(caption_losses(case, &med, &memory, &texts)?);
    }
    if case.inputs.contains_key("prompt_ids") {
        outputs.extend(prompted(case, &med, &memory)?);
    }
    Ok(outputs)
}

/// The losses of the labels, and the logits of the first token.
fn caption_losses(
    case: &Case,
    med: &Med,
    memory: &Memory,
    texts: &TokenBatch,
) -> Result<Outputs, String> {
    let labels = counted(texts, case.input("labels")?)?;
    let own: Vec<usize> = (0..texts.rows()).collect();
    let loss = |smoothing| {
        let counts = |row: usize, position: usize| labels[row * texts.padded_len() + position];
        let loss = med.lm_loss_of(memory, texts, &own, smoothing, &counts);
        Array::tensor(&[], loss.sum / loss.tokens as f64)
    };
    let first = TokenBatch::new(&vec![[0u32]; texts.rows()], 0);
    let shape = [texts.rows(), med.config().text_config.vocab_size];
    let smoothing = med.config().text_config.label_smoothing;
    Ok(vec![
        ("loss".into(), loss(smoothing)),
        ("loss_no_smoothing".into(), loss(0.0)),
        (
            "greedy_step0_logits".into(),
            Array::tensor(&shape, med.lm_logits(memory, &first, &own)),
        ),
    ])
}

/// Texts that go on from a prompt, in 5 to 12 tokens.
fn prompted(case: &Case, med: &Med, memory: &Memory) -> Result<Outputs, String> {
    // The reference drops the last token of a prompt and replaces the first one by [DEC].
    let prompts: Vec<Vec<u32>> = case
        .input("prompt_ids")?
        .ids()
        .iter()
        .map(|ids| ids[1..ids.len() - 1].to_vec())
        .collect();
    let prompt = prompts[0].len() + 1;
    let beam = Strategy::Beam {
        beams: 3,
        length_penalty: 1.0,
    };
    [
        ("greedy_prompt_ids", Strategy::Greedy),
        ("beam3_prompt_ids", beam),
    ]
    .into_iter()
    .map(|(name, strategy)| {
        let (min, max) = (5 - prompt, 12 - prompt);
        decoded(case, med, memory, name, &prompts, strategy, min, max)
    })
    .collect()
}

/// Which tokens the labels include in the loss. A label is its token, or -100 to ignore it.
fn counted(texts: &TokenBatch, labels: &Array) -> Result<Vec<bool>, String> {
    let len = texts.padded_len();
    let each = labels.ints().iter().enumerate().map(|(index, label)| {
        let (row, position) = (index / len, index % len);
        match *label {
            -100 => Ok(false),
            label if label == i64::from(texts.row(row)[position]) => Ok(true),
            label => Err(format!(
                "label {label} at row {row}, position {position} is not the token at that position"
            )),
        }
    });
    each.collect()
}

/// Decoded ids in the shape of the expected ones. After the stop token, the expected padding is copied,
/// because padding differs between libraries.
#[allow(clippy::too_many_arguments)]
fn decoded(
    case: &Case,
    med: &Med,
    memory: &Memory,
    name: &str,
    prompts: &[Vec<u32>],
    strategy: Strategy,
    min_tokens: usize,
    max_tokens: usize,
) -> Result<(String, Array), String> {
    let decoding = Decoding {
        strategy,
        min_tokens,
        max_tokens,
        repetition_penalty: 1.0,
        no_repeat_ngram: 0,
        banned: Vec::new(),
    };
    let texts = generate(med, memory, prompts, &decoding, &|_, _| 0.0)
        .map_err(|error| error.to_string())?;
    let width = case.expected_width(name)?;
    let expected = &case.expected[name];
    let config = &med.config().text_config;
    let mut ids = Vec::new();
    for (text, expected) in texts.iter().zip(expected.ints().chunks_exact(width)) {
        let mut row = vec![i64::from(config.bos_token_id)];
        row.extend(text.ids.iter().map(|id| i64::from(*id)));
        if text.stopped {
            row.push(i64::from(config.sep_token_id));
            row.extend(expected.iter().skip(row.len()));
        }
        row.resize(width, -1);
        ids.extend(row);
    }
    Ok((name.to_owned(), Array::int(&expected.shape, ids)))
}

/// Number of texts that are re-scored per picture, and of pictures per text.
const RERANKED: usize = 3;

/// Score of a pair that is not among the best by cosine.
const UNSCORED: f32 = -100.0;

pub fn retrieval(case: &Case, setup: &Setup) -> Result<Outputs, String> {
    let med = load(case, setup, MedParts::Filter)?;
    let device = setup.device();
    let images = med.encode(pictures(case.input("pixel_values")?, device));
    let memory = med.memory(&images);
    let mask = case.input("attention_mask")?;
    let texts = batch(case.input("input_ids")?, mask)?;
    let with_enc = batch(case.input("input_ids_enc")?, mask)?;
    if texts.with_first(med.config().text_config.enc_id()) != with_enc {
        return Err("input_ids_enc is not input_ids with [ENC] first".to_owned());
    }
    let rows = texts.rows();
    let own: Vec<usize> = (0..rows).collect();
    let cosine = med
        .image_features(&images)
        .matmul(med.text_features(&texts).transpose());
    let enc = med.match_logits(&memory, &texts, &own);
    let keep = Array::tensor(&[rows, 2], enc.clone());
    let keep = keep
        .floats()
        .chunks_exact(2)
        .map(|pair| i64::from(pair[1] > pair[0]))
        .collect();
    let mut outputs = vec![
        ("image_embeds".into(), image_tokens(&images)),
        (
            "itc_cosine".into(),
            Array::tensor(&[images.pictures(), rows], cosine),
        ),
        (
            "itm_logits_cls".into(),
            Array::tensor(&[rows, 2], med.itm_logits_as_is(&memory, &texts, &own)),
        ),
        (
            "itm_logits_enc".into(),
            Array::tensor(&[rows, 2], enc.clone()),
        ),
        (
            "itm_probs_enc".into(),
            Array::tensor(&[rows, 2], burn::tensor::activation::softmax(enc, 1)),
        ),
        ("capfilt_keep".into(), Array::int(&[rows], keep)),
    ];
    outputs.extend(rerank(case, &med, device)?);
    Ok(outputs)
}

fn rerank(case: &Case, med: &Med, device: &burn::tensor::Device) -> Result<Outputs, String> {
    let images = med.encode(pictures(case.input("gallery")?, device));
    let captions = batch(case.input("captions")?, case.input("captions_mask")?)?;
    let (pictures, texts) = (images.pictures(), captions.rows());
    let sims = med
        .image_features(&images)
        .matmul(med.text_features(&captions).transpose());
    let sims: Vec<f32> = Array::tensor(&[pictures, texts], sims).floats();
    let memory = med.memory(&images);
    // All pairs at once: for each picture, each text.
    let rows: Vec<Vec<u32>> = (0..pictures)
        .flat_map(|_| {
            (0..texts).map(|text| captions.row(text)[..captions.lengths()[text] as usize].to_vec())
        })
        .collect();
    let which: Vec<usize> = (0..pictures)
        .flat_map(|picture| vec![picture; texts])
        .collect();
    let pad = med.config().text_config.pad_token_id;
    let logits: Tensor<2> = med.match_logits(&memory, &TokenBatch::new(&rows, pad), &which);
    let itm: Vec<f32> = Array::tensor(&[pictures * texts, 2], logits).floats();
    let score = |picture: usize, text: usize| {
        sims[picture * texts + text] + itm[2 * (picture * texts + text) + 1]
    };

    let mut i2t = vec![UNSCORED; pictures * texts];
    for picture in 0..pictures {
        for text in best(texts, |text| sims[picture * texts + text]) {
            i2t[picture * texts + text] = score(picture, text);
        }
    }
    let mut t2i = vec![UNSCORED; texts * pictures];
    for text in 0..texts {
        for picture in best(pictures, |picture| sims[picture * texts + text]) {
            t2i[text * pictures + picture] = score(picture, text);
        }
    }
    let each = texts / pictures;
    let rank_i2t: Vec<i64> = (0..pictures)
        .map(|picture| {
            let row = &i2t[picture * texts..(picture + 1) * texts];
            (picture * each..(picture + 1) * each)
                .map(|text| rank(row, text))
                .min()
                .unwrap_or(i64::MAX)
        })
        .collect();
    let rank_t2i: Vec<i64> = (0..texts)
        .map(|text| rank(&t2i[text * pictures..(text + 1) * pictures], text / each))
        .collect();
    Ok(vec![
        ("rerank_sims".into(), Array::float(&[pictures, texts], sims)),
        (
            "rerank_score_i2t".into(),
            Array::float(&[pictures, texts], i2t),
        ),
        (
            "rerank_score_t2i".into(),
            Array::float(&[texts, pictures], t2i),
        ),
        ("rank_i2t".into(), Array::int(&[pictures], rank_i2t)),
        ("rank_t2i".into(), Array::int(&[texts], rank_t2i)),
    ])
}

/// The candidates with the highest cosines.
fn best(count: usize, cosine: impl Fn(usize) -> f32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)));
    order.truncate(RERANKED);
    order
}

/// Rank of `wanted` by score. Of equal scores the earlier one ranks first, as in the reference.
fn rank(scores: &[f32], wanted: usize) -> i64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order
        .iter()
        .position(|index| *index == wanted)
        .map_or(i64::MAX, |place| place as i64)
}
