//! Where a case is computed, and how its weights are stored.

use burn::tensor::Device;
use capstan_model::params::Dtype;
use capstan_model::{DeviceSpec, Load, Model};

/// Device and type of the weights, with what follows for the comparison.
///
/// | device, type | floats | integers |
/// |---|---|---|
/// | cpu, f32 | as the case says | as the case says |
/// | cuda, f32 | at least `2e-3 + 2e-3 |b|`: TF32 keeps 10 bits of a factor | as the case says |
/// | bf16 | at least `8e-2 + 5e-2 |b|`: a weight keeps 8 bits | not compared: near ties swap |
///
/// The bounds for bf16 hold for cases with weights; others have nothing to store. A case of training
/// keeps its weights in f32, as training does ([`Setup::for_training`]).
#[derive(Debug, Clone)]
pub struct Setup {
    device: Device,
    on_gpu: bool,
    bf16: bool,
}

impl Setup {
    /// Reads `CAPSTAN_PARITY_DEVICE` and `CAPSTAN_PARITY_DTYPE`.
    ///
    /// # Errors
    /// Names the variable: a value that is unknown, or a device that this program or machine lacks.
    pub fn from_env() -> Result<Self, String> {
        let read = |name: &str, default: &str| {
            std::env::var(name).map_or_else(|_| default.to_owned(), |value| value.to_lowercase())
        };
        let device = read("CAPSTAN_PARITY_DEVICE", "cpu");
        Self::new(&device, &read("CAPSTAN_PARITY_DTYPE", "f32"))
            .map_err(|error| format!("CAPSTAN_PARITY_DEVICE, CAPSTAN_PARITY_DTYPE: {error}"))
    }

    /// - `device`: `cpu`, `cuda`, `cuda:1` or `auto`.
    /// - `dtype`: `f32` or `bf16`.
    ///
    /// # Errors
    /// As [`Setup::from_env`].
    pub fn new(device: &str, dtype: &str) -> Result<Self, String> {
        let spec: DeviceSpec = device.parse().map_err(|error| format!("{error}"))?;
        let spec = spec.resolve().map_err(|error| error.to_string())?;
        let bf16 = match dtype {
            "f32" => false,
            "bf16" => true,
            other => return Err(format!("type `{other}` is unknown: use f32 or bf16")),
        };
        Ok(Self {
            device: spec.open().map_err(|error| error.to_string())?,
            on_gpu: spec != DeviceSpec::Cpu,
            bf16,
        })
    }

    /// The device, for inference.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device, for training.
    pub fn training_device(&self) -> Device {
        self.device.clone().autodiff()
    }

    /// The same with weights in f32.
    pub fn for_training(&self) -> Self {
        Self {
            bf16: false,
            ..self.clone()
        }
    }

    /// How a model is read.
    pub fn load(&self) -> Load {
        Load::on(&self.device)
    }

    /// The model with its weights in the type that is asked for.
    pub fn stored<M: Model>(&self, mut model: M) -> M {
        if self.bf16 {
            model.store_as(Dtype::Bf16);
        }
        model
    }

    /// The tolerance of a float, `[absolute, relative]`, where the case asks for `stated`.
    pub fn tolerance(&self, stated: [f64; 2], has_weights: bool) -> [f64; 2] {
        let [absolute, relative] = match (self.bf16 && has_weights, self.on_gpu) {
            (true, _) => [8e-2, 5e-2],
            (false, true) => [2e-3, 2e-3],
            (false, false) => [0.0, 0.0],
        };
        [stated[0].max(absolute), stated[1].max(relative)]
    }

    /// Whether integers are compared.
    pub fn compares_integers(&self, has_weights: bool) -> bool {
        !(self.bf16 && has_weights)
    }
}

#[test]
fn parity_is_refused_for_a_type_or_a_device_that_is_not_there() {
    let refused = |device, dtype| Setup::new(device, dtype).unwrap_err();
    assert!(refused("cpu", "f8").contains("use f32 or bf16"));
    assert!(refused("tpu", "f32").contains("`tpu` is unknown"));
    let wide = Setup::new("cpu", "bf16").unwrap();
    assert_eq!(wide.tolerance([0.1, 1e-4], true), [0.1, 5e-2]);
    assert_eq!(wide.tolerance([0.1, 1e-4], false), [0.1, 1e-4]);
}
