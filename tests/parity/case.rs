//! Reads a case from its folder.

use super::array::{self, Array};

use capstan_model::names::Tensor;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of a case's weights.
pub const WEIGHTS: &str = "model.safetensors";

/// `meta.json`.
#[derive(Debug, Deserialize)]
struct Meta {
    cls: String,
    /// Globs of output names with `[absolute, relative]`. The first match applies, so the order in the
    /// file matters.
    #[serde(default)]
    tolerance: serde_json::Map<String, serde_json::Value>,
    /// Outputs with a mask: the name of the input whose ones mark the positions to compare.
    #[serde(default)]
    mask_outputs: BTreeMap<String, String>,
}

/// A case.
#[derive(Debug)]
pub struct Case {
    /// Its folder; a model folder if the case has weights.
    pub path: PathBuf,
    /// Inputs of the reference by name.
    pub inputs: BTreeMap<String, Array>,
    /// Outputs of the reference by name.
    pub expected: BTreeMap<String, Array>,
    meta: Meta,
}

impl Case {
    /// Reads a case.
    pub fn read(path: &Path) -> Result<Self, String> {
        let meta = path.join("meta.json");
        let text = std::fs::read(&meta).map_err(|error| format!("{}: {error}", meta.display()))?;
        Ok(Self {
            path: path.to_owned(),
            inputs: array::read(&path.join("inputs.safetensors"))?,
            expected: array::read(&path.join("outputs.safetensors"))?,
            meta: serde_json::from_slice(&text)
                .map_err(|error| format!("{}: {error}", meta.display()))?,
        })
    }

    /// The reference class, without remarks after it.
    pub fn class(&self) -> &str {
        self.meta.cls.split([' ', ';']).next().unwrap_or_default()
    }

    /// An input that the class needs.
    pub fn input(&self, name: &str) -> Result<&Array, String> {
        self.inputs
            .get(name)
            .ok_or_else(|| format!("input `{name}` is missing"))
    }

    /// Columns of an expected matrix.
    pub fn expected_width(&self, name: &str) -> Result<usize, String> {
        let expected = self.expected.get(name);
        let width = expected.and_then(|array| array.shape.get(1));
        width
            .copied()
            .ok_or_else(|| format!("output `{name}` is missing"))
    }

    /// `config.json` as JSON, for fields that no model reads.
    pub fn config(&self) -> Result<serde_json::Value, String> {
        config(&self.path)
    }

    /// Whether the case has weights.
    pub fn has_weights(&self) -> bool {
        self.path.join(WEIGHTS).is_file()
    }

    /// The tensors of `model.safetensors` that hold floats, with their shapes.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>, String> {
        array::read_floats(&self.path.join(WEIGHTS))
    }

    /// Absolute and relative tolerance of an output.
    pub fn tolerance(&self, output: &str) -> [f64; 2] {
        let found = self
            .meta
            .tolerance
            .iter()
            .find(|(glob, _)| matches(glob, output));
        found
            .and_then(|(_, pair)| serde_json::from_value(pair.clone()).ok())
            .unwrap_or([1e-4, 1e-4])
    }

    /// The mask of an output, if only some positions are compared.
    pub fn mask(&self, output: &str) -> Result<Option<&Array>, String> {
        self.meta
            .mask_outputs
            .get(output)
            .map(|input| self.input(input))
            .transpose()
    }
}

/// `config.json` of a folder.
pub fn config(folder: &Path) -> Result<serde_json::Value, String> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Whether a glob with `*` as its only wildcard matches a name.
fn matches(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(i, _)| i)
                .chain([rest.len()])
                .any(|i| matches(tail, &rest[i..]))
        }),
    }
}

#[test]
fn parity_globs_match_as_a_shell_does() {
    assert!(matches("*u8*", "square_u8") && matches("*u8*", "u8") && matches("a*c", "abc"));
    assert!(!matches("*u8*", "u9") && !matches("a", "ab") && !matches("a*c", "abcd"));
}
