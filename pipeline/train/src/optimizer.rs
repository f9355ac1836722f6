//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", algorithm 2) on parameters
//! where they lie, and clipping by the global norm.
//!
//! Every rank runs it on the same bits and so obtains the same bits: nothing is sent. All sums are
//! taken in an order that the length alone decides.

use std::ops::Range;

use rayon::prelude::*;

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
    /// Ends of runs of parameters in the flat vector, and whether each decays.
    spans: Vec<(usize, bool)>,
    first: Vec<f32>,
    second: Vec<f32>,
    updates: u64,
}

/// One update under way: every parameter's turn comes once.
#[derive(Debug)]
pub struct Update<'a> {
    optimizer: &'a mut AdamW,
    grad_factor: f32,
    rate: f32,
    root: f32,
    decay: f32,
}

/// Parameters that one task of the thread pool updates.
const TASK_LEN: usize = 1 << 16;

impl AdamW {
    /// Moments of zero for runs of parameters, each with its length and whether it decays.
    pub fn new(config: AdamWConfig, runs: impl IntoIterator<Item = (usize, bool)>) -> Self {
        let mut spans: Vec<(usize, bool)> = Vec::new();
        let mut len = 0;
        for (run, decays) in runs {
            len += run;
            match spans.last_mut() {
                Some(last) if last.1 == decays => last.0 = len,
                _ => spans.push((len, decays)),
            }
        }
        Self {
            config,
            spans,
            first: vec![0.0; len],
            second: vec![0.0; len],
            updates: 0,
        }
    }

    /// Takes the first and second moments out; [`AdamW::restore`] puts them back.
    pub fn take_moments(&mut self) -> (Vec<f32>, Vec<f32>) {
        (
            std::mem::take(&mut self.first),
            std::mem::take(&mut self.second),
        )
    }

    /// Updates done.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Goes on from these moments.
    ///
    /// # Panics
    /// If a moment has another length than the parameters; [`crate::State`] is checked before.
    pub fn restore(&mut self, first: Vec<f32>, second: Vec<f32>, updates: u64) {
        let len = self.len();
        assert!(first.len() == len && second.len() == len);
        self.first = first;
        self.second = second;
        self.updates = updates;
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.spans.last().map_or(0, |(end, _)| *end)
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins an update by gradients times `grad_factor` (see [`clip_factor`]).
    pub fn begin(&mut self, grad_factor: f32, learning_rate: f64) -> Update<'_> {
        self.updates += 1;
        let [beta1, beta2] = self.config.betas;
        let exponent = self.updates as f64;
        let correction1 = 1.0 - beta1.powf(exponent);
        let correction2 = 1.0 - beta2.powf(exponent);
        Update {
            grad_factor,
            rate: (learning_rate / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            decay: (learning_rate * self.config.weight_decay) as f32,
            optimizer: self,
        }
    }
}

impl Update<'_> {
    /// Updates `params`, which are at `range` of the flat vector, by their gradients.
    ///
    /// # Panics
    /// If a length is not that of the range.
    pub fn apply(&mut self, range: Range<usize>, params: &mut [f32], grads: &[f32]) {
        assert!(params.len() == range.len() && grads.len() == range.len());
        let mut start = range.start;
        while start < range.end {
            let spans = &self.optimizer.spans;
            let (end, decays) = spans[spans.partition_point(|(end, _)| *end <= start)];
            let end = end.min(range.end);
            let within = start - range.start..end - range.start;
            self.apply_span(
                start..end,
                &mut params[within.clone()],
                &grads[within],
                decays,
            );
            start = end;
        }
    }

    fn apply_span(&mut self, range: Range<usize>, params: &mut [f32], grads: &[f32], decays: bool) {
        let (rate, root, factor) = (self.rate, self.root, self.grad_factor);
        let keep = if decays { 1.0 - self.decay } else { 1.0 };
        let AdamWConfig { betas, epsilon, .. } = self.optimizer.config;
        let (b1, b2, epsilon) = (betas[0] as f32, betas[1] as f32, epsilon as f32);
        let first = self.optimizer.first[range.clone()].par_chunks_mut(TASK_LEN);
        let second = self.optimizer.second[range].par_chunks_mut(TASK_LEN);
        let chunks = params
            .par_chunks_mut(TASK_LEN)
            .zip(grads.par_chunks(TASK_LEN));
        chunks
            .zip(first.zip(second))
            .for_each(|((params, grads), (first, second))| {
                let moments = first.iter_mut().zip(second);
                for ((param, grad), (first, second)) in params.iter_mut().zip(grads).zip(moments) {
                    let grad = grad * factor;
                    *first = b1 * *first + (1.0 - b1) * grad;
                    *second = b2 * *second + (1.0 - b2) * grad * grad;
                    let step = rate * *first / (second.sqrt() * root + epsilon);
                    *param = *param * keep - step;
                }
            });
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
        let mut optimizer = AdamW::new(CONFIG, [(1, true), (1, false)]);
        let mut params = [1.0, 1.0];
        for grad in &grads {
            let mut update = optimizer.begin(1.0, 3e-3);
            update.apply(0..2, &mut params, &[*grad as f32; 2]);
        }
        assert!((f64::from(params[0]) - reference(&grads, 3e-3, true)).abs() < 1e-5);
        assert!((f64::from(params[1]) - reference(&grads, 3e-3, false)).abs() < 1e-5);
        assert!(params[0] < params[1], "the masked one decays");
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_by_bit() {
        let grads = |t: u64| -> Vec<f32> {
            (0..100)
                .map(|i| ((i + t * 13) as f32 * 0.37).cos())
                .collect()
        };
        let mut undisturbed = AdamW::new(CONFIG, [(60, true), (40, false)]);
        let mut params = vec![0.5; 100];
        let mut saved = None;
        for t in 0..10 {
            if t == 5 {
                saved = Some((params.clone(), undisturbed.clone()));
            }
            // Parameter by parameter it is the same as all at once.
            let (grads, mut update) = (grads(t), undisturbed.begin(0.5, 1e-2));
            for range in [0..10, 10..75, 75..100] {
                update.apply(range.clone(), &mut params[range.clone()], &grads[range]);
            }
        }
        let (mut resumed_params, state) = saved.unwrap();
        let mut resumed = AdamW::new(CONFIG, [(60, true), (40, false)]);
        let (mut state, updates) = (state.clone(), state.updates());
        let (first, second) = state.take_moments();
        resumed.restore(first, second, updates);
        for t in 5..10 {
            let mut update = resumed.begin(0.5, 1e-2);
            update.apply(0..100, &mut resumed_params, &grads(t));
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
