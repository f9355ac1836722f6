//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", algorithm 2) on the one
//! flat parameter vector, and clipping by the global norm.
//!
//! Every rank runs it on the same bits and so obtains the same bits: nothing is sent. All sums are
//! taken in an order that the length alone decides.

/// Independent partial sums of a norm: enough to fill vector registers.
const LANES: usize = 16;
/// What keeps the factor of a zero gradient finite, as in `clip_grad_norm_` of PyTorch.
const NORM_EPSILON: f64 = 1e-6;

/// AdamW's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the parameters that the mask names, per unit of learning rate.
    pub weight_decay: f64,
}

/// AdamW with its moments.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    /// Which parameters decay: 1 or 0 each.
    decays: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    updates: u64,
}

impl AdamW {
    /// Moments of zero for as many parameters as `decays` names.
    pub fn new(config: AdamWConfig, decays: &[bool]) -> Self {
        let len = decays.len();
        let decays = decays.iter().map(|d| f32::from(u8::from(*d))).collect();
        Self {
            config,
            decays,
            first: vec![0.0; len],
            second: vec![0.0; len],
            updates: 0,
        }
    }

    /// The first and second moments.
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first, &self.second)
    }

    /// Updates done.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Goes on from a checkpoint.
    ///
    /// # Panics
    /// If a moment has another length than the parameters; [`crate::State`] is checked before.
    pub fn restore(&mut self, first: &[f32], second: &[f32], updates: u64) {
        self.first.copy_from_slice(first);
        self.second.copy_from_slice(second);
        self.updates = updates;
    }

    /// One update of `params` by `grads` times `grad_factor` (see [`clip_factor`]).
    ///
    /// # Panics
    /// If a length is not that of the decay mask.
    pub fn update(
        &mut self,
        params: &mut [f32],
        grads: &[f32],
        grad_factor: f32,
        learning_rate: f64,
    ) {
        assert!(params.len() == self.decays.len() && grads.len() == self.decays.len());
        self.updates += 1;
        let [beta1, beta2] = self.config.betas;
        let exponent = self.updates as f64;
        let correction1 = 1.0 - beta1.powf(exponent);
        let correction2 = 1.0 - beta2.powf(exponent);
        let rate = (learning_rate / correction1) as f32;
        let root = (1.0 / correction2.sqrt()) as f32;
        let decay = (learning_rate * self.config.weight_decay) as f32;
        let (b1, b2, epsilon) = (beta1 as f32, beta2 as f32, self.config.epsilon as f32);
        let moments = self.first.iter_mut().zip(self.second.iter_mut());
        let inputs = grads.iter().zip(self.decays.iter());
        for ((param, (first, second)), (grad, decays)) in params.iter_mut().zip(moments).zip(inputs)
        {
            let grad = grad * grad_factor;
            *first = b1 * *first + (1.0 - b1) * grad;
            *second = b2 * *second + (1.0 - b2) * grad * grad;
            let step = rate * *first / (second.sqrt() * root + epsilon);
            *param = *param * (1.0 - decay * decays) - step;
        }
    }
}

/// The Euclidean norm of a flat gradient, summed in f64.
pub fn global_norm(grads: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let mut blocks = grads.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, grad) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*grad) * f64::from(*grad);
        }
    }
    let rest: f64 = blocks
        .remainder()
        .iter()
        .map(|g| f64::from(*g) * f64::from(*g))
        .sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}

/// What a gradient of norm `norm` is multiplied with so that its norm is at most `max_norm`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    (max_norm / (norm + NORM_EPSILON)).min(1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: AdamWConfig = AdamWConfig {
        betas: [0.9, 0.98],
        epsilon: 1e-8,
        weight_decay: 0.05,
    };

    /// The textbook form in f64.
    fn reference(grads: &[f64], lr: f64, decays: bool) -> f64 {
        let (mut p, mut m, mut v) = (1.0f64, 0.0, 0.0);
        for (t, g) in grads.iter().enumerate() {
            if decays {
                p -= lr * 0.05 * p;
            }
            m = 0.9 * m + 0.1 * g;
            v = 0.98 * v + 0.02 * g * g;
            let t = t as i32 + 1;
            let (mh, vh) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.98f64.powi(t)));
            p -= lr * mh / (vh.sqrt() + 1e-8);
        }
        p
    }

    #[test]
    fn it_follows_the_textbook() {
        let grads: Vec<f64> = (0..30).map(|i| (f64::from(i) * 0.7).sin() * 1e-2).collect();
        let mut optimizer = AdamW::new(CONFIG, &[true, false]);
        let mut params = [1.0, 1.0];
        for grad in &grads {
            optimizer.update(&mut params, &[*grad as f32; 2], 1.0, 3e-3);
        }
        assert!((f64::from(params[0]) - reference(&grads, 3e-3, true)).abs() < 1e-5);
        assert!((f64::from(params[1]) - reference(&grads, 3e-3, false)).abs() < 1e-5);
        assert!(params[0] < params[1], "the masked one decays");
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_by_bit() {
        let decays = [true; 100];
        let grads = |t: u64| -> Vec<f32> {
            (0..100)
                .map(|i| ((i + t * 13) as f32 * 0.37).cos())
                .collect()
        };
        let mut undisturbed = AdamW::new(CONFIG, &decays);
        let mut params = vec![0.5; 100];
        let mut saved = None;
        for t in 0..10 {
            if t == 5 {
                saved = Some((params.clone(), undisturbed.clone()));
            }
            undisturbed.update(&mut params, &grads(t), 0.5, 1e-2);
        }
        let (mut resumed_params, state) = saved.unwrap();
        let mut resumed = AdamW::new(CONFIG, &decays);
        let (first, second) = state.moments();
        resumed.restore(first, second, state.updates());
        for t in 5..10 {
            resumed.update(&mut resumed_params, &grads(t), 0.5, 1e-2);
        }
        assert_eq!(params, resumed_params);
    }

    #[test]
    fn clipping_bounds_the_norm_and_spares_small_gradients() {
        let grads = vec![3.0f32; 1000];
        let norm = global_norm(&grads);
        assert!((norm - 3.0 * 1000f64.sqrt()).abs() < 1e-9);
        let factor = clip_factor(norm, 1.0);
        let clipped: Vec<f32> = grads.iter().map(|g| g * factor).collect();
        assert!((global_norm(&clipped) - 1.0).abs() < 1e-5);
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
    }
}
