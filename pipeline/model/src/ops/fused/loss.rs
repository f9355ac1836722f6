//! The cross entropy.

use burn::tensor::Tensor;
use std::sync::Arc;

use super::node::{Array, Operation, apply};
use crate::ops::Targets;
use crate::ops::kernel::rows::{self, Classes, Softmax};

/// Sum of cross entropies.
#[derive(Debug, Clone)]
struct CrossEntropy {
    classes: Arc<[u32]>,
    smoothing: f64,
}

impl CrossEntropy {
    fn classes(&self, logits: &Array) -> Classes<'_> {
        Classes {
            count: logits.width(),
            of_rows: &self.classes,
            smoothing: self.smoothing,
        }
    }
}

impl Operation<1> for CrossEntropy {
    /// The logits, and what makes the softmax of each row.
    type Saved = (Array, Arc<[Softmax]>);

    fn forward(&self, [logits]: [Array; 1]) -> (Array, Self::Saved) {
        let (total, softmax) = rows::cross_entropy(logits.values(), self.classes(&logits));
        let total = Array::from_values(vec![total as f32], &[1]);
        (total, (logits, softmax.into()))
    }

    fn backward(
        self,
        (logits, softmax): Self::Saved,
        gradient: Array,
        _: [bool; 1],
    ) -> [Option<Array>; 1] {
        let factor = gradient.values()[0];
        let (shape, classes) = (logits.shape(), self.classes(&logits));
        let mut values = logits.into_values();
        rows::cross_entropy_slopes(&mut values, &softmax, classes, factor);
        [Some(Array::from_values(values, &shape))]
    }
}

pub(in crate::ops) fn cross_entropy_sum(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let operation = CrossEntropy {
        classes: targets.classes.into(),
        smoothing: f64::from(targets.smoothing as f32),
    };
    apply(operation, [logits.into_dispatch()])
}
