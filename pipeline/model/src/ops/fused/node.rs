//! How an operation on slices becomes a node of the library's graph.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, DispatchAutodiffContext, DispatchDevice,
    DispatchTensor, DispatchTensorKind, Flex, TensorMetadata,
};
use burn::tensor::{DType, Tensor, TensorData};
use std::fmt::Debug;

use crate::ops::kernel::Values;

/// A contiguous tensor on the CPU: f32, or a weight that is stored in a narrower type.
#[derive(Clone, Debug)]
pub(super) struct Array(FlexTensor);

impl Array {
    fn new(tensor: FlexTensor) -> Self {
        if tensor.is_contiguous() {
            Self(tensor)
        } else {
            Self(tensor.to_contiguous())
        }
    }

    /// Its values.
    pub fn values(&self) -> &[f32] {
        self.0
            .as_slice()
            .expect("made contiguous, and activations are f32")
    }

    /// Its values as they are stored.
    pub fn stored(&self) -> Values<'_> {
        let found = match self.0.dtype() {
            DType::F16 => self.0.as_slice().map(Values::F16),
            DType::BF16 => self.0.as_slice().map(Values::Bf16),
            _ => self.0.as_slice().map(Values::F32),
        };
        found.expect("made contiguous, and weights are f32, f16 or bf16")
    }

    /// As f32.
    pub fn widened(self) -> Self {
        if self.0.dtype() == DType::F32 {
            return self;
        }
        let stored = self.stored();
        let mut values = vec![0.0; stored.len()];
        stored.read(0, &mut values);
        Self::from_values(values, &self.shape())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Its values for writing, if nothing else holds them; otherwise a copy.
    pub fn into_values(self) -> Vec<f32> {
        self.0
            .into_data()
            .try_into_vec()
            .expect("made contiguous, and activations are f32")
    }

    /// A tensor of these values.
    pub fn from_values(values: Vec<f32>, shape: &[usize]) -> Self {
        Self(FlexTensor::from_data(TensorData::new(
            values,
            shape.to_vec(),
        )))
    }

    /// Its shape.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }
}

/// An operation of `N` float tensors with a backward pass of its own.
pub(super) trait Operation<const N: usize>: Debug + Clone + Send + 'static {
    /// What the backward pass needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The result and what the backward pass needs.
    fn forward(&self, inputs: [Array; N]) -> (Array, Self::Saved);

    /// The result alone.
    fn value(&self, inputs: [Array; N]) -> Array {
        self.forward(inputs).0
    }

    /// Gradients of the inputs that are `needed`, each in its input's shape.
    fn backward(self, saved: Self::Saved, gradient: Array, needed: [bool; N])
    -> [Option<Array>; N];
}

#[derive(Debug, Clone)]
struct Step<O>(O);

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = O::Saved;

    fn backward(self, ops: Ops<O::Saved, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = Array::new(gradients.consume::<Flex>(&ops.node));
        let needed = ops.parents.each_ref().map(Option::is_some);
        let found = self.0.backward(ops.state, gradient, needed);
        for (parent, gradient) in ops.parents.iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient.0);
            }
        }
    }
}

type Tracked = FloatTensor<Autodiff<Flex>>;

/// Whether a tensor lies on the CPU, where [`apply`] works.
pub(in crate::ops) fn on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    match tensor.device().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Applies an operation, tracked if one of its inputs is on an autodiff device.
pub(super) fn apply<O: Operation<N>, const N: usize, const D: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> Tensor<D> {
    let context = inputs
        .iter()
        .fold(DispatchAutodiffContext::Disabled, |all, input| {
            all.merge(input.autodiff)
        });
    let kind = if context == DispatchAutodiffContext::Disabled {
        let output = operation.value(inputs.map(|input| Array::new(untracked(input))));
        DispatchTensorKind::Flex(BackendTensor::Float(output.0))
    } else {
        let output = track(operation, inputs.map(tracked));
        DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Flex(BackendTensor::Autodiff(
            output,
        ))))
    };
    Tensor::from_dispatch(DispatchTensor {
        kind,
        autodiff: context,
    })
}

fn track<O: Operation<N>, const N: usize>(operation: O, inputs: [Tracked; N]) -> Tracked {
    let guards = inputs.each_ref().map(Tracked::node);
    let inputs = inputs.map(|input| Array::new(input.into_primitive()));
    // The step has the operation, and the untracked value needs it as well.
    let step = Step(operation);
    match step
        .clone()
        .prepare::<NoCheckpointing>(guards)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prepared) => {
            let (output, saved) = step.0.forward(inputs);
            prepared.finish(saved, output.0)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(step.0.value(inputs).0),
    }
}

fn untracked(tensor: DispatchTensor) -> FlexTensor {
    match tensor.kind {
        DispatchTensorKind::Flex(tensor) => tensor.float(),
        _ => unreachable!("a fused operation is asked for on the CPU alone"),
    }
}

fn tracked(tensor: DispatchTensor) -> Tracked {
    match tensor.kind {
        DispatchTensorKind::Flex(tensor) => Autodiff::<Flex>::from_inner(tensor.float()),
        DispatchTensorKind::Autodiff(kind) => match *kind {
            DispatchTensorKind::Flex(tensor) => tensor.autodiff(),
            _ => unreachable!("a fused operation is asked for on the CPU alone"),
        },
        #[allow(unreachable_patterns)]
        _ => unreachable!("a fused operation is asked for on the CPU alone"),
    }
}
