//! Errors of the configuration: one line each.

use std::path::PathBuf;

use figment::error::{Actual, Kind};

use super::layers;

/// Why a configuration cannot be used: the place, the key and the fix.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        reason: String,
    },
    /// A key is unknown or its value has the wrong type.
    #[error("{origin}: {key}: {reason}")]
    Key {
        /// The file, `environment` or `flags`.
        origin: String,
        /// `[section] key`.
        key: String,
        /// The problem.
        reason: String,
    },
    /// A value has the right type but cannot be used.
    #[error("configuration: [{section}] {key}: {reason}")]
    Value {
        /// The section.
        section: &'static str,
        /// The key.
        key: &'static str,
        /// The problem and the fix.
        reason: String,
    },
    /// An override is not written as `section.key=value`.
    #[error("`{text}` is not a setting: write section.key=value, such as worker.slots=2")]
    Override {
        /// The text before the equals sign.
        text: String,
    },
}

impl ConfigError {
    /// The first of figment's errors, on one line.
    pub(super) fn from_figment(error: figment::Error) -> Self {
        let origin = error.metadata.as_ref().map_or_else(
            || "configuration".to_owned(),
            |metadata| match metadata
                .source
                .as_ref()
                .and_then(|source| source.file_path())
            {
                Some(path) => path.display().to_string(),
                None => metadata.name.to_string(),
            },
        );
        let mut path = error.path.clone();
        if let Kind::UnknownField(name, _) = &error.kind {
            // The path ends at the table or, by provider, at the key itself.
            if path.last() != Some(name) {
                path.push(name.clone());
            }
        }
        let name = path.join(".");
        let is_unknown = matches!(error.kind, Kind::UnknownField(..));
        // figment's text would contain the value, or that of a whole table.
        let reason = if layers::is_secret(&name) {
            "is a secret and has the wrong type: give text in quotes".to_owned()
        } else if layers::holds_secrets(&name) && !is_unknown {
            format!("has the wrong type: give a table with its keys under [{name}]")
        } else {
            reason(&error.kind)
        };
        Self::Key {
            origin,
            key: key(&path),
            reason,
        }
    }
}

fn key(path: &[String]) -> String {
    match path {
        [] => "top level".to_owned(),
        [section] => format!("[{section}]"),
        [section, rest @ ..] => format!("[{section}] {}", rest.join(".")),
    }
}

fn reason(kind: &Kind) -> String {
    let text = match kind {
        Kind::UnknownField(_, []) => "unknown key".to_owned(),
        Kind::UnknownField(_, known) => format!("unknown key; known keys are {}", known.join(", ")),
        Kind::UnknownVariant(found, known) => {
            format!("`{found}` is not one of {}", known.join(", "))
        }
        Kind::InvalidType(found, expected) => {
            format!("found {}, expected {expected}", actual(found))
        }
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn actual(found: &Actual) -> String {
    match found {
        Actual::Str(text) => format!("the text `{text}`"),
        other => other.to_string(),
    }
}
