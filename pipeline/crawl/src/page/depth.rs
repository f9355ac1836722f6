//! A bound on nesting. An HTML parser looks through all open elements for many a tag, so
//! megabytes of `<div>` would take hours.

use super::TooDeep;

/// Open elements at most; browsers stop nesting at 512.
pub(super) const MAX_DEPTH: usize = 4_096;

/// Elements that do not nest: void ones, and those that the next of their kind closes.
const FLAT: [&str; 28] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option",
    "optgroup", "body", "html",
];

/// Counts start tags without end tags, roughly: more than a parser would find open.
pub(super) fn check(text: &str) -> Result<(), TooDeep> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'<') {
        match bytes.get(at + 1) {
            Some(b'/') => depth = depth.saturating_sub(1),
            Some(letter) if letter.is_ascii_alphabetic() => {
                let name = &bytes[at + 1..bytes.len().min(at + 10)];
                let end = name.iter().position(|byte| !byte.is_ascii_alphanumeric());
                let name = &name[..end.unwrap_or(name.len())];
                let is_flat = |flat: &&str| flat.as_bytes().eq_ignore_ascii_case(name);
                if !FLAT.iter().any(|flat| is_flat(&flat)) {
                    depth += 1;
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(TooDeep);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nests_counts() {
        assert!(check(&"<p>x<br><li>".repeat(100_000)).is_ok());
        assert!(check(&"<div><b></b></div>".repeat(100_000)).is_ok());
        assert!(check(&"<div>".repeat(4_096)).is_ok());
        assert_eq!(check(&"<div>".repeat(4_097)), Err(TooDeep));
    }
}
