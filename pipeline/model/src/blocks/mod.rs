//! The blocks that networks are made of. Activations are `[rows * tokens, width]`.

mod bert;
mod cache;
mod vit;

use burn::tensor::{Device, Tensor};

use crate::config::{Activation, Tower};
use crate::ops;
use crate::params::{Kind, Param, Part, params};

pub(crate) use bert::{CrossAttention, SelfAttention, dropped};
pub(crate) use cache::{Cache, LayerCache};
pub(crate) use vit::{PreNormLayer, PreNormNames, Vit, VitNames};

/// `y = x W^T + b`, `W` as `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub weight: Param,
    pub bias: Option<Param>,
}

params!(Linear { weight, bias });

impl Linear {
    /// One or several linear maps of the same input, stored under `names`, each
    /// with its number of outputs, computed as one.
    pub fn stacked(names: &[(String, usize)], inputs: usize, bias: bool, device: &Device) -> Self {
        let parts = |end: &str, matrix: bool| {
            let shape = |n: usize| if matrix { vec![n, inputs] } else { vec![n] };
            names
                .iter()
                .map(|(name, n)| Part::new(format!("{name}.{end}"), &shape(*n)))
                .collect()
        };
        Self {
            weight: Param::zeros(
                Kind::Linear { fan_in: inputs },
                parts("weight", true),
                device,
            ),
            bias: bias.then(|| Param::zeros(Kind::Bias, parts("bias", false), device)),
        }
    }

    pub fn new(name: &str, inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self::stacked(&[(name.to_owned(), outputs)], inputs, bias, device)
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, &self.weight, self.bias.as_ref())
    }
}

/// Layer norm over the last dimension.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    gain: Param,
    bias: Param,
    epsilon: f64,
}

params!(LayerNorm { gain, bias });

impl LayerNorm {
    pub fn new(name: &str, width: usize, epsilon: f64, device: &Device) -> Self {
        let part = |end: &str| vec![Part::new(format!("{name}.{end}"), &[width])];
        Self {
            gain: Param::zeros(Kind::Gain, part("weight"), device),
            bias: Param::zeros(Kind::Bias, part("bias"), device),
            epsilon,
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::layer_norm(x, &self.gain, &self.bias, self.epsilon)
    }

    /// The norm of `x + y`, as a post-norm layer needs it.
    pub fn of_sum(&self, x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        ops::add_layer_norm(x, y, &self.gain, &self.bias, self.epsilon)
    }
}

/// Two linear maps with an activation between them.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    first: Linear,
    second: Linear,
    activation: Activation,
}

params!(Mlp { first, second });

impl Mlp {
    pub fn new(first: &str, second: &str, tower: &Tower, device: &Device) -> Self {
        Self {
            first: Linear::new(first, tower.width, tower.hidden, true, device),
            second: Linear::new(second, tower.hidden, tower.width, true, device),
            activation: tower.activation,
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.first.forward(x);
        self.second
            .forward(ops::activation(hidden, self.activation))
    }
}

/// Word and position embeddings of a text.
#[derive(Debug, Clone)]
pub(crate) struct Embeddings {
    pub words: Param,
    positions: Param,
    width: usize,
}

params!(Embeddings { words, positions });

impl Embeddings {
    /// Tables stored as `words` and `positions`, each with its number of rows.
    pub fn new(
        words: (&str, usize),
        positions: (&str, usize),
        width: usize,
        device: &Device,
    ) -> Self {
        let table = |kind, (name, rows): (&str, usize)| {
            Param::zeros(kind, vec![Part::new(name, &[rows, width])], device)
        };
        Self {
            words: table(Kind::Embedding, words),
            positions: table(Kind::TextPosition, positions),
            width,
        }
    }

    /// Rows of the table of positions.
    pub fn positions(&self) -> usize {
        self.positions.len() / self.width
    }

    /// The tokens `ids`, which stand at `at`.
    ///
    /// # Panics
    /// When a position is not in the table.
    pub fn forward(&self, ids: &[u32], at: &[u32]) -> Tensor<2> {
        let longest = self.positions() as u32;
        assert!(
            at.iter().all(|position| *position < longest),
            "a text is longer than {longest} tokens"
        );
        ops::embed(ids, &self.words, &self.positions, at, self.width)
    }
}
