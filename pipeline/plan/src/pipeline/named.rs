//! Named tables: settings that several stages share, written once.
//!
//! ```toml
//! [architectures.tiny]
//! family = "blip"
//! # ...
//! [training.demo]
//! global_batch = 32
//!
//! [[stage]]
//! kind = "train"
//! architecture = "tiny"     # the table, or a preset such as "blip-base"
//! training = "demo"         # its keys, where the stage does not set them itself
//! ```
//!
//! `architecture = { like = "blip-base", image_size = 384 }` is a named one but for the keys that it
//! sets itself. They are put in before the settings are read. Recipes hold effective settings, so a name
//! changes nothing.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read::as_text;
use crate::check::Problem;
use crate::stage::{StageKind, Train};

/// The named tables of a file.
pub(super) struct Named<'t> {
    tables: Vec<(&'static str, DeTable<'t>)>,
    presets: DeTable<'t>,
}

/// Keys of a stage that may hold a name, with the table at the top of the file that has it.
const REFERENCES: [(&str, &str); 3] = [
    ("architecture", "architectures"),
    ("decoding", "decodings"),
    ("templates", "templates"),
];

/// Architectures of published models, which need no table in the file.
const PRESETS: &str = include_str!("presets.toml");

/// The key of an architecture that names another, whose keys it takes where it has none.
const LIKE: &str = "like";

/// The table with defaults of `train` stages.
const TRAINING: &str = "training";

impl<'t> Named<'t> {
    /// The keys at the top of a file that hold named tables.
    pub(super) const KEYS: &'static [&'static str] =
        &["architectures", "decodings", "templates", TRAINING];

    /// Takes the named tables out of a file.
    pub(super) fn take(top: &mut DeTable<'t>) -> Self {
        let take = |key: &'static str| {
            let is_table = top.get(key).is_some_and(|value| value.get_ref().is_table());
            let value = is_table.then(|| top.remove(key)).flatten()?;
            match value.into_inner() {
                DeValue::Table(table) => Some((key, table)),
                _ => None,
            }
        };
        let presets = DeTable::parse(PRESETS).expect("presets are TOML");
        Self {
            tables: Self::KEYS.iter().copied().filter_map(take).collect(),
            presets: presets.into_inner(),
        }
    }

    /// Puts named tables in place of their names in the settings of a stage.
    ///
    /// Returns the names that no table has, each with its place.
    pub(super) fn put_in(
        &self,
        kind: &str,
        settings: &mut DeTable<'t>,
    ) -> Vec<(Problem, Range<usize>)> {
        let mut missing = Vec::new();
        let is_training = kind == Train::NAME;
        if is_training && let Some(name) = settings.remove(TRAINING) {
            match self.find(TRAINING, &name) {
                Ok(Some(defaults)) => merge(settings, defaults),
                Ok(None) => {
                    let problem = Problem::new("names a table under [training]").at(TRAINING);
                    missing.push((problem, name.span()));
                }
                Err(problem) => missing.push((problem.at(TRAINING), name.span())),
            }
        }
        self.replace(settings, "", &mut missing);
        missing
    }

    fn replace(
        &self,
        table: &mut DeTable<'t>,
        prefix: &str,
        missing: &mut Vec<(Problem, Range<usize>)>,
    ) {
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let path = format!("{prefix}{name}");
            if let Some((_, under)) = REFERENCES.iter().find(|(key, _)| *key == name) {
                match self.find(under, value) {
                    Ok(Some(found)) => *value = found.clone(),
                    Ok(None) => {}
                    Err(problem) => missing.push((problem.at(path.clone()), value.span())),
                }
            }
            if let (DeValue::Table(inner), "architecture") = (value.get_mut(), name)
                && let Some(like) = inner.remove(LIKE)
            {
                match self.find("architectures", &like) {
                    Ok(found) => found.into_iter().for_each(|found| merge(inner, found)),
                    Err(problem) => {
                        missing.push((problem.at(format!("{path}.{LIKE}")), like.span()));
                    }
                }
            }
            if let DeValue::Table(inner) = value.get_mut() {
                self.replace(inner, &format!("{path}."), missing);
            }
        }
    }

    /// The value that `name` names under a key at the top; `None` where it is no text.
    fn find(
        &self,
        under: &str,
        name: &Spanned<DeValue<'t>>,
    ) -> Result<Option<&Spanned<DeValue<'t>>>, Problem> {
        let Some(text) = as_text(name) else {
            return Ok(None);
        };
        let table = self.tables.iter().find(|(key, _)| *key == under);
        let found = table.and_then(|(_, table)| table.get(text.as_ref()));
        let presets = (under == "architectures").then_some(&self.presets);
        let preset = presets.and_then(|presets| presets.get(text.as_ref()));
        found.or(preset).map(Some).ok_or_else(|| {
            let names = |table: Option<&DeTable<'t>>| -> Vec<String> {
                let names = table.into_iter().flat_map(|table| table.keys());
                names.map(|name| name.get_ref().to_string()).collect()
            };
            let known = names(table.map(|(_, table)| table));
            let mut reason = match known.is_empty() {
                true => format!("the file has no [{under}]"),
                false => format!("[{under}] has {}", known.join(", ")),
            };
            if presets.is_some() {
                reason += &format!("; presets are {}", names(presets).join(", "));
            }
            Problem::new(reason).with_value(format!("{text:?}"))
        })
    }
}

/// Adds the entries of `defaults` that `settings` does not have.
fn merge<'t>(settings: &mut DeTable<'t>, defaults: &Spanned<DeValue<'t>>) {
    let entries = defaults.get_ref().as_table();
    for (key, value) in entries.into_iter().flat_map(|entries| entries.iter()) {
        if settings.get(key.get_ref().as_ref()).is_none() {
            settings.insert(key.clone(), value.clone());
        }
    }
}
