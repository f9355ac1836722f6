//! The robots.txt of a host, as text and as the rules that the log is checked against (RFC 9309:
//! longest match, Allow wins ties, `*` and a final `$`).

use std::time::Duration;

/// The robots.txt of a host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Robots {
    /// Status and body of `/robots.txt`.
    pub(crate) status: u16,
    /// The file.
    pub(crate) text: String,
    /// The rules for the world's crawler: (allow, pattern).
    pub(crate) rules: Vec<(bool, String)>,
    /// The Crawl-delay for the world's crawler.
    pub(crate) delay: Option<Duration>,
}

impl Robots {
    /// A host without a robots.txt. Everything may be crawled.
    pub(crate) fn missing() -> Self {
        Self {
            status: 404,
            ..Self::default()
        }
    }

    /// A host whose robots.txt is unavailable. Nothing may be crawled.
    pub(crate) fn unavailable() -> Self {
        Self {
            status: 503,
            rules: vec![(false, "/".to_owned())],
            ..Self::default()
        }
    }

    /// A file with these rules for the world's crawler.
    pub(crate) fn file(text: String, rules: &[(bool, &str)]) -> Self {
        Self {
            status: 200,
            text,
            rules: rules
                .iter()
                .map(|(allow, pattern)| (*allow, (*pattern).to_owned()))
                .collect(),
            delay: None,
        }
    }

    /// Whether the world's crawler may fetch this path (with its query).
    pub(crate) fn allows(&self, path: &str) -> bool {
        let matching = self
            .rules
            .iter()
            .filter(|(_, pattern)| matches(pattern, path));
        matching
            .max_by_key(|(allow, pattern)| (pattern.len(), *allow))
            .is_none_or(|(allow, _)| *allow)
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, to_the_end) = match pattern.strip_suffix('$') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let mut parts = pattern.split('*');
    let Some(mut rest) = path.strip_prefix(parts.next().unwrap_or("")) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    for (index, part) in parts.iter().enumerate() {
        if to_the_end && index + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    !to_the_end || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_rule_decides_and_allow_wins_ties() {
        let robots = Robots::file(
            String::new(),
            &[
                (false, "/private/"),
                (true, "/private/open/"),
                (false, "/*/raw/*.png$"),
                (false, "/x"),
                (true, "/x"),
            ],
        );
        for (path, allowed) in [
            ("/", true),
            ("/private/a.png", false),
            ("/private/open/a.png", true),
            ("/1/raw/a.png", false),
            ("/1/raw/a.png?x", true),
            ("/raw/a.png", true),
            ("/x", true),
        ] {
            assert_eq!(robots.allows(path), allowed, "{path}");
        }
        assert!(!Robots::unavailable().allows("/a"));
        assert!(Robots::missing().allows("/a"));
    }
}
