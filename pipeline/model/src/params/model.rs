//! A whole network as numbers: what all-reduce, optimiser and checkpoint see.

use std::ops::Range;

use burn::tensor::{Device, Gradients, Tensor};

use super::{Dtype, Param, Params, Role, Values};
use crate::init::InitRecipe;

/// Where one stored tensor lies in the flat vector of what is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSlice {
    /// Name under which it is stored.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values in the flat vector.
    pub range: Range<usize>,
    /// Whether weight decay applies by [`Decay::Matrices`].
    pub decay: bool,
}

/// Which parameters decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// Matrices of linear layers and convolutions; no biases, norms, embeddings, positions,
    /// class tokens and temperatures.
    Matrices,
    /// What has two dimensions or more, embeddings and positions included, as open_clip has it.
    Dimensions,
    /// Everything, as in BLIP's original training.
    All,
}

impl ParamSlice {
    /// Whether weight decay applies.
    pub fn decays(&self, rule: Decay) -> bool {
        match rule {
            Decay::Matrices => self.decay,
            Decay::Dimensions => self.shape.len() >= 2,
            Decay::All => true,
        }
    }
}

/// A network as a list of parameters in a fixed order.
///
/// Flat vectors hold what is trained, one [`Param`] after the other.
pub trait Model: Params {
    /// Where the model lives and computes.
    fn device(&self) -> &Device;

    /// Parameters and buffers, always in the same order.
    fn params(&self) -> Vec<&Param> {
        let mut params = Vec::new();
        self.collect(&mut params);
        params
    }

    /// The same, to be changed.
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let mut params = Vec::new();
        self.collect_mut(&mut params);
        params
    }

    /// Parameters that are trained, in the order of the flat vectors.
    fn trained(&self) -> Vec<&Param> {
        let mut params = self.params();
        params.retain(|param| param.role() == Role::Trained);
        params
    }

    /// Number of values in all parameters; buffers do not count.
    fn num_params(&self) -> usize {
        let params = self.params();
        let params = params.iter().filter(|param| param.role() != Role::Buffer);
        params.map(|param| param.len()).sum()
    }

    /// Length of the flat vectors.
    fn num_trained(&self) -> usize {
        self.trained().iter().map(|param| param.len()).sum()
    }

    /// Every stored tensor that is trained with its place in the flat vector.
    fn layout(&self) -> Vec<ParamSlice> {
        self.layout_of(Role::Trained)
    }

    /// Every stored tensor of this role with its place among them, in the order of
    /// [`Model::params`].
    fn layout_of(&self, role: Role) -> Vec<ParamSlice> {
        let mut start = 0;
        let mut slices = Vec::new();
        let params = self.params().into_iter();
        for param in params.filter(|param| param.role() == role) {
            for part in param.parts() {
                let range = start..start + part.len();
                start = range.end;
                slices.push(ParamSlice {
                    name: part.name.clone(),
                    shape: part.shape.clone(),
                    range,
                    decay: param.kind().decays(),
                });
            }
        }
        slices
    }

    /// A copy of all that is trained.
    fn to_flat(&self) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.num_trained());
        for param in self.trained() {
            append(&mut flat, param.tensor());
        }
        flat
    }

    /// Changes all that is trained where it lies: `change(range, values)` for every parameter,
    /// with its place in the flat vector.
    fn update(&mut self, change: &mut dyn FnMut(Range<usize>, &mut [f32])) {
        let mut start = 0;
        for param in self.params_mut() {
            if param.role() == Role::Trained {
                let range = start..start + param.len();
                start = range.end;
                param.edit(|values| change(range, values));
            }
        }
    }

    /// Replaces all that is trained by `flat`.
    ///
    /// # Panics
    /// When `flat` is not `num_trained` long.
    fn load_flat(&mut self, flat: &[f32]) {
        assert_eq!(
            flat.len(),
            self.num_trained(),
            "length of the flat parameters"
        );
        self.update(&mut |range, values| values.copy_from_slice(&flat[range]));
    }

    /// Takes the gradients out of `gradients` as one flat vector; zeros where a parameter took no
    /// part in the loss.
    fn gradients(&self, gradients: &mut Gradients) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.num_trained());
        for param in self.trained() {
            match param.tensor.grad_remove(gradients) {
                Some(gradient) => append(&mut flat, gradient),
                None => flat.resize(flat.len() + param.len(), 0.0),
            }
        }
        flat
    }

    /// Gives this role to the parameters of which every stored name is `wanted`.
    fn assign(&mut self, role: Role, wanted: &dyn Fn(&str) -> bool) {
        for param in self.params_mut() {
            if param.parts().iter().all(|part| wanted(&part.name)) {
                param.set_role(role);
            }
        }
    }

    /// Drops the gradients of all parameters; the values stay where they lie.
    fn untrack(&mut self) {
        for param in self.params_mut() {
            param.untrack();
        }
    }

    /// Keeps every value in this type. What is trained must be f32.
    fn store_as(&mut self, dtype: Dtype) {
        for param in self.params_mut() {
            let values = param.floats();
            param.set(Values::from_floats(dtype, values));
        }
    }

    /// Gives every parameter its first value: a pure function of `seed`, the
    /// stored names and `recipe`, so that models of one shape begin alike.
    fn initialise(&mut self, seed: u64, recipe: &InitRecipe) {
        for param in self.params_mut() {
            let kind = param.kind();
            let mut values = Vec::with_capacity(param.len());
            for part in param.parts() {
                recipe.draw(seed, &part.name, kind, part.len(), &mut values);
            }
            param.set(Values::F32(values));
        }
    }
}

fn append<const D: usize>(flat: &mut Vec<f32>, tensor: Tensor<D>) {
    let data = tensor.into_data();
    flat.extend_from_slice(data.as_slice::<f32>().expect("what is trained is f32"));
}
