//! A text that is never printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use subtle::ConstantTimeEq;

const HIDDEN: &str = "(hidden)";

/// A text that is never printed: neither by `Debug` nor in the effective configuration.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `text` is the same. Takes as long wherever the two differ, so that no guess is
    /// nearer than another; only their lengths show.
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // That there is none is no secret.
        serializer.serialize_str(if self.is_empty() { "" } else { HIDDEN })
    }
}

/// Writes a URL with its password hidden; a text that is no URL with a password as it is.
pub(super) fn serialize_url<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&without_password(text))
}

/// The URL with its password hidden.
pub(super) fn without_password(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        return text.to_owned();
    };
    if url.password().is_none() {
        return text.to_owned();
    }
    match url.set_password(Some("hidden")) {
        Ok(()) => url.to_string(),
        Err(()) => HIDDEN.to_owned(),
    }
}
