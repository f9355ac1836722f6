//! Times the operations on the CPU at the sizes of BLIP-base, CLIP ViT-B and the demo:
//!
//! ```text
//! cargo run --release -p capstan-model --example kernels -- [threads] [name]
//! ```
//!
//! Each line has the best of several repeats. `library` is the product of burn's CPU backend.
#![allow(clippy::disallowed_methods, reason = "an example measures real time")]

use capstan_model::{ComputePool, Device, DeviceSpec, Tensor, TensorData, timed};
use std::hint::black_box;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bench {
    device: Device,
    only: Option<String>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|text| text.parse().ok());
    let only = arguments.next();
    for threads in threads.map_or(vec![1, 2], |threads| vec![threads]) {
        println!("{threads} threads");
        let pool = ComputePool::new(threads).expect("a pool");
        pool.install(|| {
            let device = DeviceSpec::Cpu.open().expect("the CPU");
            let bench = Bench {
                device,
                only: only.clone(),
            };
            bench.linear();
            bench.backward_of_linear();
            bench.attention();
            bench.rows();
        });
    }
}

impl Bench {
    fn tensor<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| ((i * 37) % 1009) as f32 / 1009.0 - 0.5)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    fn tracked<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let device = self.device.clone().autodiff();
        Tensor::from_data(self.tensor(shape).into_data(), &device).require_grad()
    }

    fn wanted(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// Prints the best time and what it is in `amount / time`, in units of 1e9.
    fn time<T>(&self, name: &str, amount: f64, unit: &str, mut run: impl FnMut() -> T) {
        if !self.wanted(name) {
            return;
        }
        let mut best = Duration::MAX;
        let first = Instant::now();
        let mut runs = 0;
        while runs < 5 || (first.elapsed() < Duration::from_millis(300) && runs < 2000) {
            let start = Instant::now();
            black_box(run());
            best = best.min(start.elapsed());
            runs += 1;
        }
        let seconds = best.as_secs_f64();
        println!(
            "{name:<44} {:>10.4} ms {:>8.1} {unit}",
            seconds * 1e3,
            amount / seconds / 1e9
        );
    }

    fn linear(&self) {
        let shapes = [
            (64, 64, vec![200, 2000]),
            (64, 192, vec![200, 2000]),
            (64, 256, vec![200, 2000]),
            (256, 64, vec![200, 2000]),
            (64, 300, vec![16, 200]),
            (768, 768, vec![1, 3, 8, 16, 32, 96, 197, 577, 1576]),
            (768, 2304, vec![1, 3, 8, 32, 197, 577, 1576]),
            (768, 3072, vec![1, 3, 8, 32, 197, 577, 1576]),
            (3072, 768, vec![1, 3, 8, 32, 197, 577, 1576]),
            (768, 30524, vec![1, 3, 8, 32, 256]),
        ];
        for (inputs, outputs, rows) in shapes {
            let weight = self.tensor([outputs * inputs]);
            let bias = self.tensor([outputs]);
            for rows in rows {
                let x = self.tensor([rows, inputs]);
                let (amount, unit) = if rows <= 8 {
                    (4.0 * (inputs * outputs) as f64, "GB/s")
                } else {
                    (2.0 * (rows * inputs * outputs) as f64, "GFLOP/s")
                };
                let name = format!("linear {rows} x {inputs} -> {outputs}");
                self.time(&name, amount, unit, || {
                    timed::linear(x.clone(), weight.clone(), Some(bias.clone()))
                });
                let matrix = weight.clone().reshape([outputs, inputs]).transpose();
                self.time(
                    &format!("  library {rows} x {inputs} -> {outputs}"),
                    amount,
                    unit,
                    || x.clone().matmul(matrix.clone()) + bias.clone().unsqueeze(),
                );
            }
        }
    }

    fn backward_of_linear(&self) {
        for (inputs, outputs, rows) in [
            (64, 64, 200),
            (64, 256, 1000),
            (768, 768, 256),
            (768, 768, 1576),
            (768, 3072, 1576),
            (3072, 768, 1576),
            (768, 30524, 256),
        ] {
            let (weight, x) = (
                self.tracked([outputs * inputs]),
                self.tracked([rows, inputs]),
            );
            let amount = 6.0 * (rows * inputs * outputs) as f64;
            let name = format!("linear, both ways {rows} x {inputs} -> {outputs}");
            self.time(&name, amount, "GFLOP/s", || {
                timed::linear(x.clone(), weight.clone(), None)
                    .sum()
                    .backward()
            });
        }
    }

    fn attention(&self) {
        // Rows, queries, keys, heads, width.
        for [rows, q_len, k_len, heads, width] in [
            [48, 17, 17, 4, 64],
            [48, 12, 17, 4, 64],
            [1, 197, 197, 12, 768],
            [1, 577, 577, 12, 768],
            [8, 197, 197, 12, 768],
            [8, 50, 50, 12, 768],
            [24, 32, 197, 12, 768],
            [1, 1, 577, 12, 768],
            [8, 1, 577, 12, 768],
            [8, 1, 197, 12, 768],
            [8, 1, 20, 12, 768],
        ] {
            let amount = 4.0 * (rows * q_len * k_len * width) as f64;
            let name = format!(
                "attention {rows} x {q_len} over {k_len}, {heads} heads of {}",
                width / heads
            );
            if q_len == k_len {
                let qkv = self.tensor([rows * q_len, 3 * width]);
                self.time(&name, amount, "GFLOP/s", || {
                    timed::self_attention(qkv.clone(), heads, rows)
                });
                let qkv = self.tracked([rows * q_len, 3 * width]);
                self.time(
                    &format!("{name}, both ways"),
                    3.5 * amount,
                    "GFLOP/s",
                    || {
                        timed::self_attention(qkv.clone(), heads, rows)
                            .sum()
                            .backward()
                    },
                );
            } else {
                let (q, kv) = ([rows * q_len, width], [rows * k_len, 2 * width]);
                let query = self.tensor(q);
                let keys = self.tensor(kv);
                let (amount, unit) = if q_len == 1 {
                    (4.0 * kv.iter().product::<usize>() as f64, "GB/s")
                } else {
                    (amount, "GFLOP/s")
                };
                self.time(&name, amount, unit, || {
                    timed::cross_attention(query.clone(), keys.clone(), heads, rows)
                });
                if q_len > 1 {
                    let (query, keys) = (self.tracked(q), self.tracked(kv));
                    self.time(&format!("{name}, both ways"), 3.5 * amount, unit, || {
                        timed::cross_attention(query.clone(), keys.clone(), heads, rows)
                            .sum()
                            .backward()
                    });
                }
            }
        }
    }

    fn rows(&self) {
        for (rows, width, hidden, classes) in [(500, 64, 256, 300), (1576, 768, 3072, 30524)] {
            let bytes = |width: usize| 8.0 * (rows * width) as f64;
            let (gain, bias) = (self.tensor([width]), self.tensor([width]));
            let x = self.tensor([rows, width]);
            self.time(
                &format!("layer norm {rows} x {width}"),
                bytes(width),
                "GB/s",
                || timed::layer_norm(x.clone(), gain.clone(), bias.clone()),
            );
            let (x, gain, bias) = (
                self.tracked([rows, width]),
                self.tracked([width]),
                self.tracked([width]),
            );
            self.time(
                &format!("layer norm {rows} x {width}, both ways"),
                2.0 * bytes(width),
                "GB/s",
                || {
                    timed::layer_norm(x.clone(), gain.clone(), bias.clone())
                        .sum()
                        .backward()
                },
            );
            let x = self.tensor([rows, hidden]);
            self.time(
                &format!("gelu {rows} x {hidden}"),
                bytes(hidden),
                "GB/s",
                || timed::gelu(x.clone()),
            );
            let x = self.tracked([rows, hidden]);
            self.time(
                &format!("gelu {rows} x {hidden}, both ways"),
                2.0 * bytes(hidden),
                "GB/s",
                || timed::gelu(x.clone()).sum().backward(),
            );
            let rows = rows.min(256);
            let targets: Vec<u32> = (0..rows as u32).collect();
            let logits = self.tensor([rows, classes]);
            self.time(
                &format!("cross entropy {rows} x {classes}"),
                8.0 * (rows * classes) as f64,
                "GB/s",
                || timed::cross_entropy(logits.clone(), &targets),
            );
            let logits = self.tracked([rows, classes]);
            self.time(
                &format!("cross entropy {rows} x {classes}, both ways"),
                16.0 * (rows * classes) as f64,
                "GB/s",
                || timed::cross_entropy(logits.clone(), &targets).backward(),
            );
        }
    }
}
