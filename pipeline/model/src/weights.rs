//! Parameters as flat vectors in a fixed order.
//!
//! A [`Weight`] is one flat tensor that the network multiplies with; it may hold
//! several tensors of the file format one after the other (query, key and value
//! of an attention are one matrix product here and three tensors in a CLIP
//! folder). [`Model`] walks the weights, and everything that treats parameters
//! as numbers (all-reduce, optimiser, checkpoint) sees one `Vec<f32>`.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use std::ops::Range;

use crate::init::{InitRecipe, Kind};

/// One tensor of the file format inside a [`Weight`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name under which the tensor is stored.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
}

impl Part {
    /// A part of this name and shape.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One parameter of a network: a flat tensor `[len]` and what is in it.
#[derive(Debug, Clone)]
pub struct Weight {
    tensor: Tensor<1>,
    parts: Vec<Part>,
    kind: Kind,
}

impl Weight {
    /// A weight of zeros that holds `parts` one after the other.
    pub(crate) fn zeros(kind: Kind, parts: Vec<Part>, device: &Device) -> Self {
        let len = parts.iter().map(Part::len).sum::<usize>();
        let mut weight = Self {
            tensor: Tensor::zeros([len], device),
            parts,
            kind,
        };
        weight.set(vec![0.0; len], device);
        weight
    }

    /// The values, `[len]`, tracked where the model's device is an autodiff one.
    pub fn tensor(&self) -> Tensor<1> {
        self.tensor.clone()
    }

    /// The values as a matrix of `columns`, `[len / columns, columns]`.
    pub(crate) fn matrix(&self, columns: usize) -> Tensor<2> {
        self.tensor().reshape([self.len() / columns, columns])
    }

    /// Tensors of the file format, in the order in which they lie here.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What the weight is, which decides its first values and its decay.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.tensor.dims()[0]
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn set(&mut self, values: Vec<f32>, device: &Device) {
        let len = values.len();
        let tensor = Tensor::from_data(TensorData::new(values, [len]), device);
        self.tensor = if device.is_autodiff() {
            tensor.require_grad()
        } else {
            tensor
        };
    }
}

/// Where one stored tensor lies in the flat vector of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSlice {
    /// Name under which it is stored.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values in the flat vector.
    pub range: Range<usize>,
    /// Whether weight decay applies: matrices and convolutions yes; biases, norms,
    /// embeddings, positions, class tokens and temperatures no.
    pub decay: bool,
}

/// A network as a list of weights in a fixed order.
pub trait Model {
    /// The weights, always in the same order.
    fn weights(&self) -> Vec<&Weight>;

    /// The weights, in the order of [`Model::weights`].
    fn weights_mut(&mut self) -> Vec<&mut Weight>;

    /// Where the model lives and computes.
    fn device(&self) -> &Device;

    /// Number of parameters.
    fn num_params(&self) -> usize {
        self.weights().iter().map(|weight| weight.len()).sum()
    }

    /// Every stored tensor with its place in the flat vector, in walk order.
    fn layout(&self) -> Vec<ParamSlice> {
        let mut start = 0;
        let mut slices = Vec::new();
        for weight in self.weights() {
            for part in weight.parts() {
                let range = start..start + part.len();
                start = range.end;
                slices.push(ParamSlice {
                    name: part.name.clone(),
                    shape: part.shape.clone(),
                    range,
                    decay: weight.kind().decays(),
                });
            }
        }
        slices
    }

    /// All parameters as one vector in walk order.
    fn to_flat(&self) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.num_params());
        for weight in self.weights() {
            append(&mut flat, weight.tensor());
        }
        flat
    }

    /// Replaces all parameters by `flat`, in walk order.
    ///
    /// # Panics
    /// When `flat` is not `num_params` long.
    fn load_flat(&mut self, flat: &[f32]) {
        assert_eq!(
            flat.len(),
            self.num_params(),
            "length of the flat parameters"
        );
        let device = self.device().clone();
        let mut rest = flat;
        for weight in self.weights_mut() {
            let (values, tail) = rest.split_at(weight.len());
            weight.set(values.to_vec(), &device);
            rest = tail;
        }
    }

    /// Takes the gradients of all parameters out of `gradients` as one vector in
    /// walk order; zeros where a parameter took no part in the loss.
    fn gradients(&self, gradients: &mut Gradients) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.num_params());
        for weight in self.weights() {
            match weight.tensor.grad_remove(gradients) {
                Some(gradient) => append(&mut flat, gradient),
                None => flat.resize(flat.len() + weight.len(), 0.0),
            }
        }
        flat
    }

    /// Gives every parameter its first value: a pure function of `seed`, the
    /// stored names and `recipe`, so that models of one shape begin alike.
    fn initialise(&mut self, seed: u64, recipe: &InitRecipe) {
        let device = self.device().clone();
        for weight in self.weights_mut() {
            let kind = weight.kind();
            let values = weight
                .parts
                .iter()
                .flat_map(|part| recipe.values(seed, &part.name, kind, part.len()))
                .collect();
            weight.set(values, &device);
        }
    }
}

fn append<const D: usize>(flat: &mut Vec<f32>, tensor: Tensor<D>) {
    let data = tensor.into_data();
    flat.extend_from_slice(data.as_slice::<f32>().expect("parameters are f32"));
}
