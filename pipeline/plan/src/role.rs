//! The names of roles in configuration files and in the database.

use std::str::FromStr;

use crate::task::Role;

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Crawl,
        Self::Curate,
        Self::Caption,
        Self::Filter,
        Self::Evaluate,
        Self::Train,
    ];

    /// The name of the role; the same text as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crawl => "crawl",
            Self::Curate => "curate",
            Self::Caption => "caption",
            Self::Filter => "filter",
            Self::Evaluate => "evaluate",
            Self::Train => "train",
        }
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of crawl, curate, caption, filter, evaluate, train")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        let named = Self::ALL.into_iter().find(|role| role.as_str() == name);
        named.ok_or_else(|| UnknownRole(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_one_name_in_text_and_in_json() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            let json = serde_json::to_value(role).expect("plain data");
            assert_eq!(json, role.as_str());
        }
        assert_eq!("cook".parse::<Role>(), Err(UnknownRole("cook".into())));
    }
}
