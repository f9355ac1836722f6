//! Parameters and buffers of networks.
//!
//! A [`Param`] is one flat tensor that the network computes with; it may hold
//! several tensors of the file format one after the other (query, key and value
//! of an attention are one matrix product here and three tensors in a CLIP
//! folder). Its values are in memory once, in the type of the file that they came
//! from. What is trained is f32; a frozen parameter may be narrower, has no
//! gradient and no state of an optimiser; a buffer is saved with the model and is
//! no parameter.
//!
//! [`Params`] is the walk over the parameters of a block, [`Model`] what a trainer
//! and a checkpoint see of a whole network.

mod model;
mod walk;

use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};

pub use crate::init::Kind;
pub use model::{Decay, Model, ParamSlice};
pub use walk::Params;
pub(crate) use walk::params;

/// One tensor of the file format inside a [`Param`].
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

/// What becomes of a [`Param`] in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The optimiser changes it: it has a gradient and a place in the flat vectors.
    Trained,
    /// It stays as it is.
    Frozen,
    /// The network itself changes it (statistics, queues, momentum copies).
    Buffer,
}

/// Type of stored values. Computation is in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32.
    Bf16,
    /// 16 bits as IEEE 754 has them.
    F16,
}

impl Dtype {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Values of one of the types that a [`Param`] may have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Values {
    /// This many zeros.
    pub fn zeros(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(vec![0.0; len]),
            Dtype::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            Dtype::F16 => Self::F16(vec![f16::ZERO; len]),
        }
    }

    /// These values, rounded to the nearest.
    pub fn from_floats(dtype: Dtype, values: Vec<f32>) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(values),
            Dtype::Bf16 => Self::Bf16(values.into_iter().map(bf16::from_f32).collect()),
            Dtype::F16 => Self::F16(values.into_iter().map(f16::from_f32).collect()),
        }
    }

    fn of(dtype: Dtype, data: TensorData) -> Self {
        let typed = "a parameter has the type that it was given";
        match dtype {
            Dtype::F32 => Self::F32(data.try_into_vec().expect(typed)),
            Dtype::Bf16 => Self::Bf16(data.try_into_vec().expect(typed)),
            Dtype::F16 => Self::F16(data.try_into_vec().expect(typed)),
        }
    }

    /// The type of the values.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F16(_) => Dtype::F16,
        }
    }

    /// The values as they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
            Self::F16(values) => bytemuck::cast_slice(values),
        }
    }

    fn into_data(self) -> TensorData {
        match self {
            Self::F32(values) => data(values),
            Self::Bf16(values) => data(values),
            Self::F16(values) => data(values),
        }
    }
}

fn data<E: burn::tensor::Element>(values: Vec<E>) -> TensorData {
    let len = values.len();
    TensorData::new(values, [len])
}

/// One parameter or buffer of a network: a flat tensor `[len]` and what is in it.
#[derive(Debug, Clone)]
pub struct Param {
    tensor: Tensor<1>,
    parts: Vec<Part>,
    kind: Kind,
    role: Role,
}

impl Param {
    /// A trained parameter of zeros that holds `parts` one after the other.
    pub(crate) fn zeros(kind: Kind, parts: Vec<Part>, device: &Device) -> Self {
        let len = parts.iter().map(Part::len).sum::<usize>();
        let mut param = Self {
            tensor: Tensor::zeros([0], device),
            parts,
            kind,
            role: Role::Trained,
        };
        param.set(Values::zeros(Dtype::F32, len));
        param
    }

    /// The values, `[len]`, tracked where they are trained on an autodiff device.
    pub fn tensor(&self) -> Tensor<1> {
        self.tensor.clone()
    }

    /// The values as f32, for operations that take no narrow type.
    pub(crate) fn wide(&self) -> Tensor<1> {
        match self.dtype() {
            Dtype::F32 => self.tensor(),
            Dtype::Bf16 | Dtype::F16 => self.tensor().cast(DType::F32),
        }
    }

    /// The values as a matrix of `columns`, `[len / columns, columns]`.
    pub(crate) fn matrix(&self, columns: usize) -> Tensor<2> {
        self.tensor().reshape([self.len() / columns, columns])
    }

    /// Tensors of the file format, in the order in which they lie here.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What the parameter is, which decides its first values and its decay.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What becomes of it in training.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Type of the stored values.
    pub fn dtype(&self) -> Dtype {
        match self.tensor.dtype() {
            DType::BF16 => Dtype::Bf16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.tensor.dims()[0]
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes it frozen, a buffer, or trained.
    pub(crate) fn set_role(&mut self, role: Role) {
        if self.role != role {
            self.role = role;
            let values = self.take();
            self.set(values);
        }
    }

    /// Replaces the values; their number stays the same but for a new parameter.
    pub(crate) fn set(&mut self, values: Values) {
        let device = self.tensor.device();
        let tracked = device.is_autodiff() && self.role == Role::Trained;
        let dtype = match values.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        };
        let tensor = Tensor::from_data(values.into_data(), (&device, dtype));
        self.tensor = if tracked {
            tensor.require_grad()
        } else {
            tensor
        };
    }

    /// Changes values of f32 where they lie: they are copied only if something else
    /// still holds them.
    ///
    /// # Panics
    /// On a narrow parameter.
    pub fn edit(&mut self, change: impl FnOnce(&mut [f32])) {
        let mut values = self.take();
        let Values::F32(floats) = &mut values else {
            panic!("only values of f32 are changed");
        };
        change(floats);
        self.set(values);
    }

    /// Drops the gradient, and leaves the device for training. The values stay where they lie, shared
    /// with the parameter that this one was cloned from.
    pub(crate) fn untrack(&mut self) {
        if self.tensor.device().is_autodiff() {
            self.tensor = self.tensor.clone().inner();
        }
    }

    /// A copy of the values as f32.
    pub fn floats(&self) -> Vec<f32> {
        match self.clone().take() {
            Values::F32(values) => values,
            Values::Bf16(values) => values.into_iter().map(bf16::to_f32).collect(),
            Values::F16(values) => values.into_iter().map(f16::to_f32).collect(),
        }
    }

    /// A copy of some of the values.
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Values {
        Values::of(self.dtype(), self.tensor.clone().slice([range]).into_data())
    }

    /// Whether it has the type and the bits of `values`.
    pub(crate) fn has_bits(&self, values: &Values) -> bool {
        self.part(0..self.len()).bytes() == values.bytes() && self.dtype() == values.dtype()
    }

    fn take(&mut self) -> Values {
        let dtype = self.dtype();
        let empty = Tensor::zeros([0], &self.tensor.device());
        Values::of(
            dtype,
            std::mem::replace(&mut self.tensor, empty).into_data(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;

    fn param(device: &Device) -> Param {
        Param::zeros(Kind::Bias, vec![Part::new("a", &[2, 3])], device)
    }

    #[test]
    fn an_edit_happens_where_the_values_lie() {
        for device in [
            DeviceSpec::Cpu.open().unwrap(),
            DeviceSpec::Cpu.open().unwrap().autodiff(),
        ] {
            let mut param = param(&device);
            let mut places = Vec::new();
            for i in 0..3 {
                param.edit(|values| {
                    values[i] = i as f32;
                    places.push(values.as_ptr());
                });
            }
            assert_eq!(param.floats(), [0.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
            assert_eq!(places[0], places[2]);
            let held = param.tensor();
            param.edit(|values| values.fill(7.0));
            assert_eq!(held.to_data().as_slice::<f32>().unwrap()[1], 1.0);
        }
    }

    #[test]
    fn an_untracked_clone_shares_the_values_until_they_change() {
        let mut param = param(&DeviceSpec::Cpu.open().unwrap().autodiff());
        let place = |param: &mut Param| {
            let mut place = std::ptr::null();
            param.edit(|values| place = values.as_ptr());
            place
        };
        let before = place(&mut param);
        let mut clone = param.clone();
        clone.untrack();
        assert!(!clone.tensor().device().is_autodiff());
        // While the clone lives, a change of the parameter leaves its values alone.
        param.edit(|values| values.fill(3.0));
        assert_eq!((clone.floats()[0], param.floats()[0]), (0.0, 3.0));
        assert_eq!(place(&mut clone), before, "the clone copied nothing");
    }

    #[test]
    fn only_what_is_trained_has_a_gradient() {
        let device = DeviceSpec::Cpu.open().unwrap().autodiff();
        for (role, has) in [
            (Role::Trained, true),
            (Role::Frozen, false),
            (Role::Buffer, false),
        ] {
            let (mut param, mut other) = (param(&device), param(&device));
            param.set_role(role);
            other.edit(|values| values.fill(2.0));
            let loss = (param.tensor() * other.tensor()).sum();
            let mut gradients = loss.backward();
            assert_eq!(param.tensor.grad_remove(&mut gradients).is_some(), has);
            assert!(other.tensor.grad_remove(&mut gradients).is_some());
        }
    }

    #[test]
    fn narrow_values_stay_narrow() {
        let mut param = param(&DeviceSpec::Cpu.open().unwrap());
        param.set_role(Role::Frozen);
        for dtype in [Dtype::Bf16, Dtype::F16] {
            param.set(Values::zeros(dtype, 6));
            assert_eq!((param.dtype(), dtype.size()), (dtype, 2));
            assert_eq!(param.floats(), [0.0; 6]);
        }
    }
}
