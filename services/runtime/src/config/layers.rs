//! The layers of a configuration and how they are laid over one another.

use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, ConfigError};

/// What flags say, as `section.key` and value; laid over everything else.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    settings: Vec<(String, Value)>,
}

impl Overrides {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one: `.set("worker.slots", 2)`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// Adds one where there is a value: for flags that may be left out.
    #[must_use]
    pub fn set_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Adds one written as `section.key=value`; the value is read as in a variable.
    ///
    /// # Errors
    /// [`ConfigError::Override`] where it is written otherwise.
    pub fn parse(self, text: &str) -> Result<Self, ConfigError> {
        match text.split_once('=') {
            Some((key, value)) if is_secret(key.trim()) => Ok(self.set(key.trim(), value)),
            Some((key, value)) if key.contains('.') => Ok(self.set(key.trim(), read_value(value))),
            _ => Err(ConfigError::Override {
                // What stands behind the sign may be a secret.
                text: text.split('=').next().unwrap_or_default().to_owned(),
            }),
        }
    }
}

/// A file that was read.
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

/// Settings by dotted key under one name.
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

/// Puts `value` at a dotted key; what stood there is replaced.
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

/// Lays the layers over one another and reads the result.
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
        // Not by figment: its parser is an older one, and shows the line that it does not know.
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

/// Line and problem, without the line's text: it may hold a secret.
fn place_and_problem(text: &str, error: &toml::de::Error) -> String {
    let problem = one_line(error.message());
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => format!("line {}: {problem}", before.matches('\n').count() + 1),
        None => problem,
    }
}

/// `CAPSTAN__SECTION__KEY` as `section.key`, sorted, so that no order of the environment counts.
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
                read_value(&value)
            };
            Some((key, value))
        })
        .collect();
    settings.sort_by(|a, b| a.0.cmp(&b.0));
    settings
}

/// Whether the value of a key is text that must never be shown. It is not read as anything else:
/// a token of digits would be taken for a number, refused, and shown in the error.
pub(super) fn is_secret(key: &str) -> bool {
    key == "safety.token" || key.starts_with("store.options.")
}

/// Whether a table has secrets among its keys: text in its place may be one.
pub(super) fn holds_secrets(table: &str) -> bool {
    matches!(table, "safety" | "store" | "store.options")
}

/// A number, a boolean, a list or a table where it reads as one, else text.
fn read_value(text: &str) -> Value {
    match text.parse() {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
