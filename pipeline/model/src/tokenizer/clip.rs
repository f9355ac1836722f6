//! CLIP's byte-pair tokenizer: lower case, 49,408 tokens, `<start_of_text>` and `<end_of_text>`.
//!
//! Texts are cleaned as open_clip does: the repairs of `ftfy.fix_text` that look at one character at
//! a time, HTML entities, white space. ftfy's repair of text that was decoded with the wrong encoding
//! ("mojibake") is not done: such text is tokenised as it is.

use std::borrow::Cow;

use instant_clip_tokenizer::Tokenizer as BytePairs;
use unicode_normalization::UnicodeNormalization;

/// Bytes of cleaned text that one token takes at most, generously: more text cannot reach the
/// context, and merging pairs within one endless word would take quadratic time.
const MAX_TOKEN_BYTES: usize = 128;

/// A byte-pair tokenizer with CLIP's cleaning.
pub struct ClipTokenizer {
    pairs: BytePairs,
}

impl std::fmt::Debug for ClipTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipTokenizer")
            .field("tokens", &self.len())
            .finish()
    }
}

impl Default for ClipTokenizer {
    /// OpenAI's vocabulary, which every released CLIP uses. Takes some 30 ms: keep it.
    fn default() -> Self {
        Self {
            pairs: BytePairs::new(),
        }
    }
}

impl ClipTokenizer {
    /// Reads the merges of another vocabulary: `merges.txt` of a Hugging Face folder, or
    /// `bpe_simple_vocab_16e6.txt`. The first line is skipped.
    ///
    /// - `tokens`: size of the vocabulary with the two special tokens.
    ///
    /// # Errors
    /// A line that is not a pair of tokens that earlier lines made.
    pub fn from_merges(merges: &str, tokens: u16) -> std::io::Result<Self> {
        let pairs = BytePairs::with_vocabulary(merges.as_bytes(), tokens)?;
        Ok(Self { pairs })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        usize::from(self.pairs.end_of_text().to_u16()) + 1
    }

    /// Whether there is no token; never so.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The first token of a text.
    pub fn start(&self) -> u32 {
        self.pairs.start_of_text().to_u16().into()
    }

    /// The last token of a text, and the padding of Hugging Face's classes; open_clip pads with 0.
    pub fn end(&self) -> u32 {
        self.pairs.end_of_text().to_u16().into()
    }

    /// `<start_of_text> ... <end_of_text>` in at most `max_len` tokens; the end stays when the text
    /// is cut.
    ///
    /// # Panics
    /// When `max_len` is below 2.
    pub fn encode(&self, text: &str, max_len: usize) -> Vec<u32> {
        assert!(max_len >= 2, "room for the first and the last token");
        let text = cleaned(text);
        let mut end = text.len().min(max_len * MAX_TOKEN_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut tokens = vec![self.pairs.start_of_text()];
        self.pairs.encode(&text[..end], &mut tokens);
        tokens.truncate(max_len - 1);
        tokens.push(self.pairs.end_of_text());
        tokens.iter().map(|id| id.to_u16().into()).collect()
    }
}

/// A text as open_clip's `_clean_lower` gives it; the tokenizer lowers the case.
fn cleaned(text: &str) -> String {
    // ftfy repairs line by line, and leaves the entities of a line with a `<` alone.
    let lines = text.split_inclusive('\n');
    let repaired: String = lines.map(repaired).collect();
    let once = htmlize::unescape(&*repaired);
    let twice = htmlize::unescape(&*once);
    let words: Vec<&str> = twice.split_whitespace().collect();
    words.join(" ")
}

/// One line after the character repairs of `ftfy.fix_text` (6.3.1), again until nothing changes.
fn repaired(line: &str) -> String {
    let unescapes = !line.contains('<');
    let mut line = line.to_owned();
    loop {
        let text: Cow<'_, str> = match unescapes {
            true => htmlize::unescape(&*line),
            false => Cow::Borrowed(&*line),
        };
        let simple: String = text.chars().map(windows).collect();
        let simple: String = simple.chars().map(narrow).collect();
        let plain = without_escapes(&ligatures(&simple));
        let kept = plain.chars().filter(|c| !is_control(*c));
        let new: String = kept.map(straight).nfc().collect();
        if new == line {
            return line;
        }
        line = new;
    }
}

/// A control character of U+0080 to U+009F as Windows has it.
fn windows(c: char) -> char {
    const TABLE: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match u32::from(c) {
        code @ 0x80..=0x9f => TABLE[code as usize - 0x80],
        _ => c,
    }
}

/// A letter that was split for typesetting.
fn ligatures(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let letters = match c {
            'Ĳ' => "IJ",
            'ĳ' => "ij",
            'ŉ' => "ʼn",
            'Ǳ' => "DZ",
            'ǲ' => "Dz",
            'ǳ' => "dz",
            'Ǆ' => "DŽ",
            'ǅ' => "Dž",
            'ǆ' => "dž",
            'Ǉ' => "LJ",
            'ǈ' => "Lj",
            'ǉ' => "lj",
            'Ǌ' => "NJ",
            'ǋ' => "Nj",
            'ǌ' => "nj",
            'ﬀ' => "ff",
            'ﬁ' => "fi",
            'ﬂ' => "fl",
            'ﬃ' => "ffi",
            'ﬄ' => "ffl",
            'ﬅ' => "ſt",
            'ﬆ' => "st",
            other => {
                out.push(other);
                continue;
            }
        };
        out.push_str(letters);
    }
    out
}

/// A full-width or half-width form as its usual character.
fn narrow(c: char) -> char {
    match c {
        '\u{3000}' => ' ',
        '\u{ff01}'..='\u{ffef}' => {
            let mut usual = std::iter::once(c).nfkc();
            match (usual.next(), usual.next()) {
                (Some(usual), None) => usual,
                _ => c,
            }
        }
        _ => c,
    }
}

/// A curly quotation mark as a straight one, and any line break as `\n`.
fn straight(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        _ => c,
    }
}

/// Control characters that show nothing.
fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// A text without the escapes that colour a terminal: `ESC [ 1;31 m`.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        let end = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match end.strip_prefix(|c: char| c.is_ascii_alphabetic()) {
            Some(tail) => rest = tail,
            None => {
                out.push_str("\u{1b}[");
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_reference_does() {
        // `open_clip.tokenizer._clean_lower` of open_clip_torch 3.3.0, before it lowers the case.
        for (text, expected) in [
            ("  A\t photo\r\nof  it ", "A photo of it"),
            ("hello&amp;amp;world &lt;tag&gt;", "hello&world <tag>"),
            ("ﬁne ﬂow Ｗｉｄｅ", "fine flow Wide"),
            ("‘it’ “is”", "'it' \"is\""),
            ("e\u{301}te\u{301} \u{93}q\u{94}", "été \"q\""),
            ("\u{1b}[1;31mred\u{1b}[0m \u{feff}x\u{7}", "red x"),
            ("a\u{200b}b", "a\u{200b}b"),
            ("&eacute;<b>&eacute;", "é<b>é"),
        ] {
            assert_eq!(cleaned(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_end_token_stays_when_a_text_is_cut() {
        let tokenizer = ClipTokenizer::default();
        assert_eq!(tokenizer.len(), 49408);
        assert_eq!(
            tokenizer.encode("a photo of a cat", 77),
            [49406, 320, 1125, 539, 320, 2368, 49407]
        );
        let cut = tokenizer.encode("word ".repeat(100).as_str(), 77);
        assert_eq!((cut.len(), cut[76]), (77, 49407));
        assert_eq!(tokenizer.encode("", 77), [49406, 49407]);
    }

    #[test]
    fn an_endless_word_is_cut_before_it_is_merged() {
        let tokenizer = ClipTokenizer::default();
        let ids = tokenizer.encode(&"xé".repeat(1 << 20), 77);
        assert_eq!(ids.len(), 77);
    }

    #[test]
    fn merges_of_another_vocabulary_are_read() {
        let tokenizer = ClipTokenizer::from_merges("#version\na b\nab c</w>\n", 516).unwrap();
        assert_eq!(tokenizer.len(), 516);
        assert_eq!(tokenizer.encode("abc", 8), [514, 513, 515]);
        assert!(ClipTokenizer::from_merges("#version\nxyz b\n", 515).is_err());
    }
}
