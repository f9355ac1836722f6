//! What a network can do, whatever its family.
//!
//! Training, evaluation and CapFilt ask for a capability: [`Embed`] puts pictures
//! and texts into one space, [`Match`] says whether a text belongs to a picture,
//! [`Generate`] writes texts. All begin with [`Network::encode`], which is done
//! once a picture.

use std::fmt::Debug;
use std::path::Path;

use burn::tensor::Tensor;

use crate::folder::{self, Assets};
use crate::generate::Decoder;
use crate::ops::{self, Keys, Targets};
use crate::params::{Model, Param};
use crate::tokens::TokenBatch;
use crate::towers::Towers;

/// What a network computes from pictures once.
#[derive(Debug, Clone)]
pub struct ImageEmbeds {
    tokens: Tensor<2>,
    pictures: usize,
}

impl ImageEmbeds {
    /// `tokens`: `[pictures * tokens, width]`.
    pub(crate) fn new(tokens: Tensor<2>, pictures: usize) -> Self {
        Self { tokens, pictures }
    }

    /// `[pictures * tokens, width]`.
    pub fn tokens(&self) -> Tensor<2> {
        self.tokens.clone()
    }

    /// Number of pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Tokens of a picture.
    pub fn tokens_per_picture(&self) -> usize {
        self.tokens.dims()[0] / self.pictures
    }

    /// The first token of every picture, `[pictures, width]`.
    pub(crate) fn first_tokens(&self) -> Tensor<2> {
        let tokens = self.tokens_per_picture() as u32;
        let first: Vec<u32> = (0..self.pictures as u32).map(|i| i * tokens).collect();
        ops::select_rows(self.tokens(), &first)
    }
}

/// What texts look at, computed once a picture: keys and values of the cross-attention
/// of every layer. Any number of texts may look at one picture. Gradients flow back to
/// the pictures.
#[derive(Debug, Clone)]
pub struct Memory {
    layers: Vec<Tensor<2>>,
    pictures: usize,
    tokens: usize,
}

impl Memory {
    /// `layers`: one `[pictures * tokens, 2 * width]` for every layer.
    pub(crate) fn new(layers: Vec<Tensor<2>>, pictures: usize, tokens: usize) -> Self {
        Self {
            layers,
            pictures,
            tokens,
        }
    }

    /// Number of pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    pub(crate) fn layer(&self, index: usize) -> &Tensor<2> {
        &self.layers[index]
    }

    /// What `rows` of `q_len` tokens see, each of the picture in `pictures`.
    pub(crate) fn keys(&self, pictures: &[u32], rows: usize, q_len: usize) -> Keys {
        assert_eq!(pictures.len(), rows, "a picture for every row");
        assert!(
            pictures
                .iter()
                .all(|picture| (*picture as usize) < self.pictures),
            "pictures within the memory"
        );
        Keys {
            q_len,
            k_len: self.tokens,
            index: Some(pictures.to_vec()),
            ..Keys::all(rows, q_len)
        }
    }
}

/// A language-modelling loss as a sum, so that ranks can divide by a global count.
#[derive(Debug, Clone)]
pub struct LmLoss {
    /// Sum of the cross entropies of all predicted tokens, `[1]`.
    pub sum: Tensor<1>,
    /// How many tokens were predicted.
    pub tokens: usize,
}

/// A network of any family.
pub trait Network: Model + Debug + Send + Sync {
    /// What it is, in a word or two: `clip`, `captioner`, `filter`, `captioner and filter`.
    fn role(&self) -> &'static str;

    /// Side of the pictures that it takes, in pixels.
    fn image_size(&self) -> usize;

    /// Tokens of a text at most.
    fn max_text_tokens(&self) -> usize;

    /// Family and sizes of its towers.
    fn towers(&self) -> Towers;

    /// Rows of its table of words.
    fn vocab_size(&self) -> usize;

    /// The padding token.
    fn pad(&self) -> u32;

    /// What follows from pictures `[batch, channels, side, side]` alone.
    fn encode(&self, pixels: Tensor<4>) -> ImageEmbeds;

    /// Its common space of pictures and texts, if it has one.
    fn embed(&self) -> Option<&dyn Embed>;

    /// Its head for matching, if it has one.
    fn matching(&self) -> Option<&dyn Match>;

    /// Its decoder, if it has one.
    fn generator(&self) -> Option<&dyn Generate>;

    /// Whether its text transformer applies the dropout of a [`TokenBatch`].
    fn has_dropout(&self) -> bool;

    /// A network of the encoders of its common space and their heads alone, which its momentum copies
    /// live in: all values zero, the same stored names, on the device without gradients. `None` if
    /// its family is not trained with momentum encoders.
    fn blank_encoders(&self) -> Option<Box<dyn Network>>;

    /// The same network for inference, which records no gradients. It shares the values of all
    /// parameters: nothing is copied until one of both changes them.
    fn inference(&self) -> Box<dyn Network>;

    /// Writes a model folder in Hugging Face layout. The same model gives the same bytes.
    ///
    /// # Errors
    /// [`folder::Error::Write`].
    fn save(&self, path: &Path, assets: &Assets<'_>) -> Result<(), folder::Error>;
}

/// Pictures and texts in one space.
pub trait Embed: Sync {
    /// Picture features of length 1, `[pictures, width]`.
    fn image_features(&self, images: &ImageEmbeds) -> Tensor<2>;

    /// Text features of length 1, `[rows, width]`.
    fn text_features(&self, texts: &TokenBatch) -> Tensor<2>;

    /// Width of the space.
    fn width(&self) -> usize;

    /// How alike pictures (rows) and texts (columns) are by their features, `[pictures, texts]`:
    /// the cosine.
    fn similarities(&self, images: Tensor<2>, texts: Tensor<2>) -> Tensor<2> {
        images.matmul(texts.transpose())
    }

    /// The parameter behind the factor on cosines in a contrast.
    fn scale(&self) -> (&Param, Scale);
}

/// What texts look at.
pub trait Look: Sync {
    /// Keys and values of the pictures.
    fn memory(&self, images: &ImageEmbeds) -> Memory;
}

/// Whether a text belongs to a picture.
pub trait Match: Look {
    /// Logits `[rows, 2]`, class 1 a match; row `i` looks at picture `pictures[i]` of `memory`.
    fn match_logits(&self, memory: &Memory, texts: &TokenBatch, pictures: &[usize]) -> Tensor<2>;
}

/// Texts about pictures.
pub trait Generate: Look {
    /// Language-modelling loss of the tokens for which `counts(row, position)` holds: a prompt
    /// is read but not learned. Every token but the first of a row is predicted.
    ///
    /// # Panics
    /// When no token counts.
    fn lm_loss_of(
        &self,
        memory: &Memory,
        texts: &TokenBatch,
        pictures: &[usize],
        label_smoothing: f64,
        counts: &dyn Fn(usize, usize) -> bool,
    ) -> LmLoss;

    /// The same of all tokens.
    ///
    /// # Panics
    /// When no row has two tokens.
    fn lm_loss(
        &self,
        memory: &Memory,
        texts: &TokenBatch,
        pictures: &[usize],
        label_smoothing: f64,
    ) -> LmLoss {
        self.lm_loss_of(memory, texts, pictures, label_smoothing, &|_, _| true)
    }

    /// The network as a decoder.
    fn decoder(&self) -> &dyn Decoder;
}

/// How the factor on cosines follows from its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The parameter is its logarithm, between those of 1 and 100 (CLIP, section 2.5; open_clip).
    Logarithm,
    /// The parameter is its inverse, a temperature between 0.001 and 0.5, where the official
    /// BLIP code clamps it after each update.
    Temperature,
}

/// Largest factor of [`Scale::Logarithm`].
const MAX_FACTOR: f32 = 100.0;
/// Bounds of [`Scale::Temperature`].
const TEMPERATURE: (f32, f32) = (0.001, 0.5);

impl Scale {
    /// The factor.
    pub fn factor(self, parameter: f32) -> f32 {
        match self {
            Self::Logarithm => parameter.exp().min(MAX_FACTOR),
            Self::Temperature => 1.0 / parameter.clamp(TEMPERATURE.0, TEMPERATURE.1),
        }
    }

    /// Derivative of the factor with respect to the parameter.
    pub fn slope(self, parameter: f32) -> f64 {
        let factor = f64::from(self.factor(parameter));
        match self {
            Self::Logarithm => factor,
            Self::Temperature => -factor.powi(2),
        }
    }

    /// The parameter brought back into its bounds after an update.
    pub fn bounded(self, parameter: f32) -> f32 {
        match self {
            Self::Logarithm => parameter.clamp(0.0, MAX_FACTOR.ln()),
            Self::Temperature => parameter.clamp(TEMPERATURE.0, TEMPERATURE.1),
        }
    }
}

/// Sum over rows of the cross entropy of `logits` `[rows, classes]` against `classes`, `[1]`; the
/// ITM loss of [`Match::match_logits`] is this over the number of rows.
///
/// - `smoothing`: share of each target that is spread over all classes.
pub fn cross_entropy_sum(logits: Tensor<2>, classes: &[u32], smoothing: f64) -> Tensor<1> {
    ops::cross_entropy_sum(logits, &Targets { classes, smoothing })
}
