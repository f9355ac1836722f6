//! Parses `srcset` as the HTML standard does ("parse a srcset attribute").

/// The size that a candidate states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Size {
    /// `w`: width in pixels.
    Width(u32),
    /// `x`: density; 1 without a descriptor.
    Density(f64),
}

/// A candidate of a `srcset`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate<'a> {
    pub(super) url: &'a str,
    pub(super) size: Size,
}

/// Greatest number of candidates read from one attribute.
const MAX_CANDIDATES: usize = 256;

/// Parses the attribute. Leaves out candidates whose descriptors are an error in the standard.
pub(super) fn parse(attribute: &str) -> Vec<Candidate<'_>> {
    let mut candidates = Vec::new();
    let mut rest = attribute;
    while candidates.len() < MAX_CANDIDATES {
        rest = rest.trim_start_matches(|c: char| is_space(c) || c == ',');
        if rest.is_empty() {
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        let url = &rest[..end];
        rest = &rest[end..];
        if url.ends_with(',') {
            // A comma right after the URL ends the candidate; commas inside the URL belong to it.
            let url = url.trim_end_matches(',');
            candidates.push(Candidate {
                url,
                size: Size::Density(1.0),
            });
            continue;
        }
        let (descriptors, after) = split_descriptors(rest);
        rest = after;
        if let Some(size) = size_of(&descriptors) {
            candidates.push(Candidate { url, size });
        }
    }
    candidates
}

/// The descriptors up to the next comma outside parentheses.
fn split_descriptors(text: &str) -> (Vec<&str>, &str) {
    let mut descriptors = Vec::new();
    let mut start = None;
    let mut is_in_parens = false;
    for (at, c) in text.char_indices() {
        let ends = !is_in_parens && (is_space(c) || c == ',');
        if ends {
            if let Some(start) = start.take() {
                descriptors.push(&text[start..at]);
            }
            if c == ',' {
                return (descriptors, &text[at + 1..]);
            }
            continue;
        }
        start.get_or_insert(at);
        match c {
            '(' => is_in_parens = true,
            ')' => is_in_parens = false,
            _ => {}
        }
    }
    descriptors.extend(start.map(|start| &text[start..]));
    (descriptors, "")
}

fn size_of(descriptors: &[&str]) -> Option<Size> {
    let (mut width, mut density, mut has_height) = (None, None, false);
    for descriptor in descriptors {
        let unit = descriptor.chars().last()?;
        let number = &descriptor[..descriptor.len() - unit.len_utf8()];
        match unit {
            'w' if width.is_none() && density.is_none() => width = Some(positive(number)?),
            'x' if width.is_none() && density.is_none() && !has_height => {
                let value: f64 = number.parse().ok()?;
                if !value.is_finite() || value < 0.0 {
                    return None;
                }
                density = Some(value);
            }
            'h' if density.is_none() && !has_height => {
                positive(number)?;
                has_height = true;
            }
            _ => return None,
        }
    }
    match (width, has_height) {
        (Some(width), _) => Some(Size::Width(width)),
        (None, true) => None,
        (None, false) => Some(Size::Density(density.unwrap_or(1.0))),
    }
}

fn positive(number: &str) -> Option<u32> {
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let value: u32 = is_number.then(|| number.parse().ok())??;
    (value > 0).then_some(value)
}

/// ASCII whitespace of the standard.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{c}' | '\r')
}

/// The candidate to fetch: the smallest that is at least `wanted` pixels wide, else the
/// largest; the first among equals. Candidates with a width precede those with a density, which
/// states no pixels; of densities the largest is chosen.
pub(super) fn choose<'a>(candidates: &[Candidate<'a>], wanted: u32) -> Option<&'a str> {
    let widths = candidates.iter().filter_map(|c| match c.size {
        Size::Width(width) => Some((width, c.url)),
        Size::Density(_) => None,
    });
    let mut best: Option<(u32, &str)> = None;
    for (width, url) in widths {
        let better = match best {
            None => true,
            Some((best, _)) if best >= wanted => width >= wanted && width < best,
            Some((best, _)) => width > best,
        };
        if better {
            best = Some((width, url));
        }
    }
    if let Some((_, url)) = best {
        return Some(url);
    }
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        if let Size::Density(density) = candidate.size
            && best.is_none_or(|(best, _)| density > best)
        {
            best = Some((density, candidate.url));
        }
    }
    best.map(|(_, url)| url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(attribute: &str) -> Vec<String> {
        let candidates = parse(attribute);
        let shown = candidates.iter().map(|c| match c.size {
            Size::Width(width) => format!("{} {width}w", c.url),
            Size::Density(density) => format!("{} {density}x", c.url),
        });
        shown.collect()
    }

    #[test]
    fn attributes_are_split_as_the_standard_says() {
        for (attribute, expected) in [
            ("", &[][..]),
            (" , ,", &[]),
            ("a", &["a 1x"]),
            ("a, b", &["a 1x", "b 1x"]),
            ("a,b", &["a,b 1x"]),
            ("a,, b", &["a 1x", "b 1x"]),
            ("a 1x,b 2x", &["a 1x", "b 2x"]),
            ("a 320w,\n  b\t640w", &["a 320w", "b 640w"]),
            ("data:,x 1x, b 2x", &["data:,x 1x", "b 2x"]),
            ("a 1.5x", &["a 1.5x"]),
            ("a 100w 50h", &["a 100w"]),
            ("a 50h", &[]),
            ("a 100w 2x, b 1x", &["b 1x"]),
            ("a 0w, b 10w", &["b 10w"]),
            ("a -1w, b +5w, c 1.5w, d 7w", &["d 7w"]),
            ("a -1x, b nanx, c 2x", &["c 2x"]),
            ("a foo, b", &["b 1x"]),
            ("a (foo, bar), b", &["b 1x"]),
            ("a 2x (, b", &[]),
            ("été 1é, b 2x", &["b 2x"]),
        ] {
            assert_eq!(parsed(attribute), expected, "{attribute:?}");
        }
    }

    #[test]
    fn the_smallest_that_is_large_enough_is_chosen() {
        for (attribute, expected) in [
            ("a 100w, b 400w, c 800w", "b"),
            ("c 800w, b 400w, a 100w", "b"),
            ("a 100w, b 200w", "b"),
            ("a 384w, b 400w", "a"),
            ("a 100w, b 100w", "a"),
            ("a 1x, b 3x, c 2x", "b"),
            ("a 9x, b 10w", "b"),
            ("a", "a"),
        ] {
            assert_eq!(
                choose(&parse(attribute), 384),
                Some(expected),
                "{attribute}"
            );
        }
        assert_eq!(choose(&[], 384), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed(text in "\\PC{0,40}", marks in "[a-c0-9wxh ,()\t]{0,40}") {
            for attribute in [&text, &marks] {
                for candidate in parse(attribute) {
                    proptest::prop_assert!(!candidate.url.is_empty());
                    proptest::prop_assert!(attribute.contains(candidate.url));
                }
            }
        }
    }
}
