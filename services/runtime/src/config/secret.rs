//! A text that is not printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use subtle::ConstantTimeEq;

const HIDDEN: &str = "(hidden)";

/// A text that neither `Debug` nor the effective configuration prints.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether no secret is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `text` is the secret. The comparison takes constant time for texts of the same
    /// length, so that its duration reveals only the length.
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
        // An empty value shows that no secret is set.
        serializer.serialize_str(if self.is_empty() { "" } else { HIDDEN })
    }
}

/// Serialises a URL with its password hidden. Any other text is serialised unchanged.
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
