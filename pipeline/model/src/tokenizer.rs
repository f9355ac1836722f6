//! WordPiece as BERT has it: lower case, punctuation apart, greedy longest match.

mod clip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use crate::config::SpecialIds;

pub use clip::ClipTokenizer;

/// File of the vocabulary, one token a line.
pub const VOCAB_FILE: &str = "vocab.txt";

const CONFIG_FILE: &str = "tokenizer_config.json";
const SPECIAL: [&str; 6] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "[ENC]"];
const PREFIX: &str = "##";

/// More of a text is never looked at: 512 tokens of the longest words end before.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// What is wrong with a vocabulary.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path}: cannot be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A special token is missing.
    #[error("the vocabulary lacks the token `{0}`")]
    Special(&'static str),
    /// A token stands twice.
    #[error("the vocabulary holds the token `{0}` twice")]
    Twice(String),
    /// `max_vocab` leaves no room for the characters.
    #[error(
        "a vocabulary of {max_vocab} tokens cannot hold the {needed} special tokens and characters"
    )]
    TooSmall {
        /// The limit.
        max_vocab: usize,
        /// Special tokens and characters.
        needed: usize,
    },
    /// The library refused the vocabulary.
    #[error("the tokenizer library refused the vocabulary")]
    Library(#[source] tokenizers::Error),
}

/// A WordPiece vocabulary with BERT's way of cutting words.
#[derive(Clone)]
pub struct Tokenizer {
    model: WordPiece,
    tokens: Vec<String>,
    special: SpecialIds,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.tokens.len())
            .finish()
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.tokens == other.tokens
    }
}

impl Tokenizer {
    /// A vocabulary from texts: the special tokens, every character of the texts (as
    /// a word's first and as a later one, so that every word can be spelt), and the
    /// words seen at least `min_count` times, the most frequent ones where `max_vocab`
    /// tokens do not hold all. A function of the counts alone, not of their order.
    ///
    /// # Errors
    /// [`Error::TooSmall`].
    pub fn train<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
        min_count: u64,
        max_vocab: usize,
    ) -> Result<Self, Error> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for text in texts {
            for word in words(text.as_ref())? {
                *counts.entry(word).or_default() += 1;
            }
        }
        let characters: std::collections::BTreeSet<char> =
            counts.keys().flat_map(|word| word.chars()).collect();
        let mut tokens: Vec<String> = SPECIAL.map(str::to_owned).to_vec();
        tokens.extend(characters.iter().map(char::to_string));
        tokens.extend(characters.iter().map(|c| format!("{PREFIX}{c}")));
        let room = max_vocab.checked_sub(tokens.len()).ok_or(Error::TooSmall {
            max_vocab,
            needed: tokens.len(),
        })?;
        let mut frequent: Vec<(&String, u64)> = counts
            .iter()
            .filter(|(word, count)| **count >= min_count.max(1) && word.chars().nth(1).is_some())
            .map(|(word, count)| (word, *count))
            .collect();
        frequent.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        frequent.truncate(room);
        tokens.extend(frequent.into_iter().map(|(word, _)| word.clone()));
        Self::from_tokens(tokens)
    }

    /// A vocabulary whose `i`-th token has id `i`.
    ///
    /// # Errors
    /// [`Error::Special`], [`Error::Twice`].
    pub fn from_tokens(tokens: Vec<String>) -> Result<Self, Error> {
        let mut vocab = ahash::AHashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if vocab.insert(token.clone(), id as u32).is_some() {
                return Err(Error::Twice(token.clone()));
            }
        }
        let id = |token: &'static str| vocab.get(token).copied().ok_or(Error::Special(token));
        let special = SpecialIds {
            pad: id("[PAD]")?,
            unk: id("[UNK]")?,
            cls: id("[CLS]")?,
            sep: id("[SEP]")?,
            dec: id("[DEC]")?,
            enc: id("[ENC]")?,
        };
        let model = WordPiece::builder()
            .vocab(vocab)
            .unk_token("[UNK]".to_owned())
            .continuing_subword_prefix(PREFIX.to_owned())
            .build()
            .map_err(Error::Library)?;
        Ok(Self {
            model,
            tokens,
            special,
        })
    }

    /// Reads `vocab.txt` of a model folder.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let mut path = folder.join(VOCAB_FILE);
        if !path.exists() {
            // A pre-trained MED: both of its folders hold the same one.
            path = folder.join(crate::blip::CAPTIONER_FOLDER).join(VOCAB_FILE);
        }
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
        Self::from_vocab_text(&text)
    }

    /// Reads the contents of a `vocab.txt`.
    ///
    /// BERT's own, which lies beside released BLIP models, ends before [DEC] and [ENC]: BLIP puts
    /// them behind its last token, in this order (`blip.py`, `init_tokenizer`).
    ///
    /// # Errors
    /// [`Error`].
    pub fn from_vocab_text(text: &str) -> Result<Self, Error> {
        let mut tokens: Vec<String> = text.lines().map(str::to_owned).collect();
        let has = |token: &str| tokens.iter().any(|found| found == token);
        if !has("[DEC]") && !has("[ENC]") {
            tokens.extend(["[DEC]", "[ENC]"].map(str::to_owned));
        }
        Self::from_tokens(tokens)
    }

    /// The contents of `vocab.txt`.
    pub fn vocab_text(&self) -> String {
        self.tokens
            .iter()
            .flat_map(|token| [token.as_str(), "\n"])
            .collect()
    }

    /// Writes `vocab.txt` and the `tokenizer_config.json` of a BertTokenizer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| Error::Io { path, source })
        };
        write(VOCAB_FILE, self.vocab_text())?;
        let config = serde_json::json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": true,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "bos_token": "[DEC]",
            "additional_special_tokens": ["[ENC]"],
        });
        write(CONFIG_FILE, format!("{config:#}\n"))
    }

    /// The tokens, by their ids.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token; never so.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// `[CLS] ... [SEP]` in at most `max_len` tokens; [SEP] stays when the text is cut.
    ///
    /// # Panics
    /// When `max_len` is below 2.
    pub fn encode(&self, text: &str, max_len: usize) -> Vec<u32> {
        assert!(max_len >= 2, "room for [CLS] and [SEP]");
        let mut ids = vec![self.special.cls];
        ids.extend(self.pieces(text, max_len - 2));
        ids.push(self.special.sep);
        ids
    }

    /// The first `max_pieces` ids of a text without special tokens, as a prompt needs them.
    pub fn pieces(&self, text: &str, max_pieces: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        // Neither the normaliser nor the model can fail on a text; if they did, it is unknown.
        let Ok(words) = words(text) else {
            return vec![self.special.unk];
        };
        for word in words {
            match self.model.tokenize(&word) {
                Ok(pieces) => ids.extend(pieces.iter().map(|piece| piece.id)),
                Err(_) => ids.push(self.special.unk),
            }
            if ids.len() >= max_pieces {
                break;
            }
        }
        ids.truncate(max_pieces);
        ids
    }

    /// The text of ids: up to the first [SEP], without special tokens, pieces joined,
    /// no blank before `. , ! ?`.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for id in ids.iter().take_while(|id| **id != self.special.sep) {
            let Some(token) = self.tokens.get(*id as usize) else {
                continue;
            };
            if SPECIAL.contains(&token.as_str()) {
                continue;
            }
            match token.strip_prefix(PREFIX) {
                Some(rest) if !rest.is_empty() => text.push_str(rest),
                _ => {
                    if !text.is_empty() && ![".", ",", "!", "?"].contains(&token.as_str()) {
                        text.push(' ');
                    }
                    text.push_str(token);
                }
            }
        }
        text
    }
}

/// Words of a text as BERT cuts them.
fn words(text: &str) -> Result<Vec<String>, Error> {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut normalized = NormalizedString::from(&text[..end]);
    let normalizer = BertNormalizer::new(true, true, None, true);
    normalizer
        .normalize(&mut normalized)
        .map_err(Error::Library)?;
    let mut cut = PreTokenizedString::from(normalized);
    BertPreTokenizer
        .pre_tokenize(&mut cut)
        .map_err(Error::Library)?;
    let splits = cut.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(splits
        .into_iter()
        .map(|(word, _, _)| word.to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained() -> Tokenizer {
        let texts = ["A red ball, and a ring!", "a red box", "the ring", "Café"];
        Tokenizer::train(texts, 2, 100).expect("a vocabulary")
    }

    #[test]
    fn frequent_words_are_tokens_and_rare_ones_are_spelt() {
        let tokenizer = trained();
        assert_eq!(tokenizer.tokens[..6], SPECIAL.map(str::to_owned));
        let text = |ids: &[u32]| {
            ids.iter()
                .map(|id| tokenizer.tokens[*id as usize].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            text(&tokenizer.encode("Red ring", 20)),
            ["[CLS]", "red", "ring", "[SEP]"]
        );
        assert_eq!(
            text(&tokenizer.encode("box", 20)),
            ["[CLS]", "b", "##o", "##x", "[SEP]"]
        );
        assert_eq!(
            text(&tokenizer.encode("café", 20)),
            ["[CLS]", "c", "##a", "##f", "##e", "[SEP]"]
        );
        assert_eq!(
            text(&tokenizer.encode("日", 20)),
            ["[CLS]", "[UNK]", "[SEP]"]
        );
    }

    #[test]
    fn truncation_keeps_the_end() {
        let tokenizer = trained();
        let ids = tokenizer.encode("red red red red", 4);
        assert_eq!(ids.len(), 4);
        assert_eq!(ids.last(), Some(&tokenizer.special().sep));
        assert_eq!(tokenizer.encode("", 4).len(), 2);
        assert!(tokenizer.encode(&"red ".repeat(1 << 20), 512).len() == 512);
    }

    #[test]
    fn decoding_joins_pieces_and_drops_specials() {
        let tokenizer = trained();
        let ids = tokenizer.encode("A red box, the ring! [SEP] (x)", 40);
        assert_eq!(
            tokenizer.decode(&ids),
            "a red box, the ring! [UNK]".replace(" [UNK]", " x")
        );
    }

    #[test]
    fn the_vocabulary_does_not_depend_on_the_order_of_texts() {
        let texts = ["a red ball", "two red boxes", "a blue ball"];
        let forward = Tokenizer::train(texts, 1, 200).expect("a vocabulary");
        let backward = Tokenizer::train(texts.iter().rev(), 1, 200).expect("a vocabulary");
        assert_eq!(forward, backward);
        assert!(matches!(
            Tokenizer::train(texts, 1, 10),
            Err(Error::TooSmall { .. })
        ));
        let few = Tokenizer::train(texts, 1, forward.len() - 3).expect("a vocabulary");
        assert_eq!(few.len(), forward.len() - 3);
    }

    #[test]
    fn the_vocabulary_file_round_trips() {
        let tokenizer = trained();
        let folder = tempfile::tempdir().expect("a folder");
        tokenizer.save(folder.path()).expect("saved");
        assert_eq!(Tokenizer::load(folder.path()).expect("loaded"), tokenizer);
        assert!(matches!(
            Tokenizer::from_vocab_text("a\nb\n"),
            Err(Error::Special(_))
        ));
    }

    #[test]
    fn berts_own_vocabulary_gets_the_tokens_that_blip_adds() {
        let bert = "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\nred\n";
        let tokenizer = Tokenizer::from_vocab_text(bert).expect("a vocabulary");
        let special = tokenizer.special();
        assert_eq!((special.dec, special.enc, tokenizer.len()), (6, 7, 8));
        let half = format!("{bert}[ENC]\n");
        assert!(matches!(
            Tokenizer::from_vocab_text(&half),
            Err(Error::Special("[DEC]"))
        ));
    }
}
