//! Rules that a text or a picture must pass before texts are matched against queries.

use capstan_plan::stage;

/// Why a row is dropped, in the order in which the rules are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The row has no text at all.
    NoText,
    /// The longer side is more than `max_aspect` times the shorter one.
    Aspect,
    /// Fewer characters than `min_chars`.
    TooShort,
    /// More characters or words than `max_chars`, `max_words`.
    TooLong,
    /// Fewer words than `min_words`.
    FewWords,
    /// A character that is not printable: control, formatting, replacement, private use.
    Unprintable,
    /// The text contains no query of the list.
    NoQuery,
    /// Another row has the same picture and the same texts.
    Duplicate,
    /// Every query of the row has reached the cap.
    Cap,
}

impl Reason {
    /// The name of the rule, as overlays and reports write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoText => "no_text",
            Self::Aspect => "aspect",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::FewWords => "few_words",
            Self::Unprintable => "unprintable",
            Self::NoQuery => "no_query",
            Self::Duplicate => "duplicate",
            Self::Cap => "cap",
        }
    }
}

/// Returns the first rule that `text` fails, in the order of [`Reason`]. Does not match queries.
pub(crate) fn judge_text(config: &stage::Curate, text: &str) -> Result<(), Reason> {
    let chars = text.chars().count();
    if chars < config.min_chars {
        return Err(Reason::TooShort);
    }
    let words = text.split_whitespace().count();
    if chars > config.max_chars || words > config.max_words {
        return Err(Reason::TooLong);
    }
    if words < config.min_words {
        return Err(Reason::FewWords);
    }
    if !text.chars().all(is_printable) {
        return Err(Reason::Unprintable);
    }
    Ok(())
}

/// Whether the longer side is at most `max_aspect` times the shorter one.
pub(crate) fn fits_aspect(config: &stage::Curate, width: u32, height: u32) -> bool {
    let (long, short) = (width.max(height), width.min(height));
    f64::from(long) <= f64::from(config.max_aspect) * f64::from(short)
}

/// Printable: letters, digits, marks, punctuation, symbols, spaces, and the joiners that
/// scripts and emoji need. Not printable: control characters, the replacement character,
/// non-characters, private use, and marks that change the writing direction.
fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffd}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}')
        || (c as u32) & 0xfffe == 0xfffe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_is_what_a_person_can_read() {
        for text in [
            "a red ball, 3 €",
            "été 中文 ข้อความ",
            "👩\u{200d}🚀 \u{200c}می",
        ] {
            assert!(text.chars().all(is_printable), "{text:?}");
        }
        for c in [
            '\0',
            '\u{1b}',
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{fffd}',
            '\u{feff}',
            '\u{202e}',
            '\u{e000}',
            '\u{1fffe}',
        ] {
            assert!(!is_printable(c), "{c:?}");
        }
    }
}
