//! The layers of a configuration and how they are merged.

use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, ConfigError};

/// Settings of flags, as `section.key` and value. They override every other layer.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    settings: Vec<(String, Value)>,
}

impl Overrides {
    /// No overrides.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an override: `.set("worker.slots", 2)`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// Adds an override if there is a value, for optional flags.
    #[must_use]
    pub fn set_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Adds an override written as `section.key=value`. The value is parsed as in a variable.
    ///
    /// # Errors
    /// [`ConfigError::Override`] if it has another form.
    pub fn parse(self, text: &str) -> Result<Self, ConfigError> {
        match text.split_once('=') {
            Some((key, value)) if is_secret(key.trim()) => Ok(self.set(key.trim(), value)),
            Some((key, value)) if key.contains('.') => Ok(self.set(key.trim(), parse_value(value))),
            _ => Err(ConfigError::Override {
                // The text after the equals sign may be a secret.
                text: text.split('=').next().unwrap_or_default().to_owned(),
            }),
        }
    }
}

/// The layer of a file.
struct File<'a> {
    path: &'a Path,
    settings: Dict,
}

impl Provider for File<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

/// A layer of settings by dotted key.
struct Layer {
    name: &'static str,
    settings: Vec<(String, Value)>,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (key, value) in &self.settings {
            insert(&mut dict, key, value.clone());
        }
        Ok(Profile::Default.collect(dict))
    }
}

/// Inserts `value` at a dotted key and replaces the previous value.
fn insert(dict: &mut Dict, key: &str, value: Value) {
    let Some((section, rest)) = key.split_once('.') else {
        dict.insert(key.to_owned(), value);
        return;
    };
    let inner = dict
        .entry(section.to_owned())
        .or_insert_with(|| Dict::new().into());
    if !matches!(inner, Value::Dict(..)) {
        *inner = Dict::new().into();
    }
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

/// Merges the layers and deserialises the result.
pub(super) fn read(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<Config, ConfigError> {
    let mut layered = Figment::new();
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        // figment's parser is older, and its errors contain the line, which may hold a secret.
        let settings = toml::from_str::<Dict>(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: place_and_problem(&text, &error),
        })?;
        layered = layered.merge(File { path, settings });
    }
    layered
        .merge(Layer {
            name: "environment",
            settings: variables(environment),
        })
        .merge(Layer {
            name: "flags",
            settings: overrides.settings,
        })
        .extract()
        .map_err(ConfigError::from_figment)
}

/// The line number and the problem, without the text of the line, which may hold a secret.
fn place_and_problem(text: &str, error: &toml::de::Error) -> String {
    let problem = one_line(error.message());
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => format!("line {}: {problem}", before.matches('\n').count() + 1),
        None => problem,
    }
}

/// `CAPSTAN__SECTION__KEY` as `section.key`, sorted, so that the order of the environment does not
/// matter.
fn variables(environment: impl IntoIterator<Item = (String, String)>) -> Vec<(String, Value)> {
    let mut settings: Vec<(String, Value)> = environment
        .into_iter()
        .filter_map(|(name, value)| {
            let key = name
                .strip_prefix("CAPSTAN__")?
                .to_ascii_lowercase()
                .replace("__", ".");
            let value = if is_secret(&key) {
                Value::from(value)
            } else {
                parse_value(&value)
            };
            Some((key, value))
        })
        .collect();
    settings.sort_by(|a, b| a.0.cmp(&b.0));
    settings
}

/// Whether the value of a key is a secret. Secrets are not parsed: a token of digits would become a
/// number, and the error about its type would contain it.
pub(super) fn is_secret(key: &str) -> bool {
    key == "safety.token" || key.starts_with("store.options.")
}

/// Whether a table contains secrets. A text in place of the table may be one.
pub(super) fn holds_secrets(table: &str) -> bool {
    matches!(table, "safety" | "store" | "store.options")
}

/// Parses a number, a boolean, a list or a table; any other value is text.
fn parse_value(text: &str) -> Value {
    match text.parse() {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
