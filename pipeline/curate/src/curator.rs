//! Curates one shard: text filters, aspect ratio, query matching.

use capstan_plan::id::PairId;
use capstan_plan::row::{Curation, Origin, Text};
use capstan_plan::stage;

use crate::filter::{Reason, fits_aspect, judge_text};
use crate::{Error, QueryMatcher};

/// The input of curation for one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurateRow {
    /// The row.
    pub pair_id: PairId,
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// Its texts; synthetic ones are ignored.
    pub texts: Vec<Text>,
}

/// The rules of one `curate` stage, compiled. Immutable.
#[derive(Debug, Clone)]
pub struct Curator {
    config: stage::Curate,
    matcher: QueryMatcher,
}

impl Curator {
    /// Checks the settings and builds the automaton over the query list.
    ///
    /// # Errors
    /// [`Error`] for a setting that no text or picture can pass.
    pub fn new(config: &stage::Curate) -> Result<Self, Error> {
        let setting = |field, problem: String| Err(Error::Setting { field, problem });
        if config.min_chars > config.max_chars {
            let (min, max) = (config.min_chars, config.max_chars);
            return setting("min_chars", format!("{min} is more than max_chars, {max}"));
        }
        if config.min_words > config.max_words {
            let (min, max) = (config.min_words, config.max_words);
            return setting("min_words", format!("{min} is more than max_words, {max}"));
        }
        if config.max_aspect.is_nan() || config.max_aspect < 1.0 {
            let aspect = config.max_aspect;
            return setting(
                "max_aspect",
                format!("{aspect} is under 1, which no picture meets"),
            );
        }
        Ok(Self {
            config: config.clone(),
            matcher: QueryMatcher::new(&config.queries)?,
        })
    }

    /// Curates a shard. Returns one row per input row, in the same order.
    pub fn shard(&self, rows: &[CurateRow]) -> Vec<Curation> {
        rows.iter().map(|row| self.row(row)).collect()
    }

    /// Curates one row.
    ///
    /// A row is kept if the aspect ratio of its picture fits and at least one of its texts
    /// passes every rule; these texts are kept with it. A row without a text is dropped as
    /// `no_text`. Otherwise the reason is that of the text that passes most rules, in the
    /// order of [`Reason`].
    pub fn row(&self, row: &CurateRow) -> Curation {
        match self.judge(row) {
            Ok((texts, queries)) => Curation {
                pair_id: row.pair_id,
                keep: true,
                reason: None,
                texts: texts.iter().map(|text| text.text_id).collect(),
                queries,
            },
            Err(reason) => Curation {
                pair_id: row.pair_id,
                keep: false,
                reason: Some(reason.as_str().to_owned()),
                texts: Vec::new(),
                queries: Vec::new(),
            },
        }
    }

    fn judge<'a>(&self, row: &'a CurateRow) -> Result<(Vec<&'a Text>, Vec<String>), Reason> {
        let mut furthest = Reason::NoText;
        let mut kept = Vec::new();
        let mut numbers = Vec::new();
        let texts = || row.texts.iter().filter(|t| t.origin != Origin::Synthetic);
        if texts().next().is_some() && !fits_aspect(&self.config, row.width, row.height) {
            return Err(Reason::Aspect);
        }
        for text in texts() {
            match self.judge_text(&text.text) {
                Ok(found) => {
                    kept.push(text);
                    numbers.extend(found);
                }
                Err(reason) => furthest = furthest.max(reason),
            }
        }
        if kept.is_empty() {
            return Err(furthest);
        }
        numbers.sort_unstable();
        numbers.dedup();
        let queries = numbers.into_iter();
        let queries = queries.map(|n| self.matcher.query(n).to_owned()).collect();
        Ok((kept, queries))
    }

    fn judge_text(&self, text: &str) -> Result<Vec<u32>, Reason> {
        judge_text(&self.config, text)?;
        let found = self.matcher.matches(text);
        if found.is_empty() {
            return Err(Reason::NoQuery);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use capstan_plan::stage::Curate;

    use super::*;

    fn config() -> Curate {
        Curate {
            from: "crawl".into(),
            min_chars: 5,
            max_chars: 20,
            min_words: 2,
            max_words: 4,
            max_aspect: 3.0,
            queries: ["ball", "red", "red ball"].map(String::from).to_vec(),
        }
    }

    fn row(width: u32, height: u32, texts: &[(Origin, &str)]) -> CurateRow {
        let pair_id = PairId::new("http://a.test/1.png", "http://a.test/");
        CurateRow {
            pair_id,
            width,
            height,
            texts: texts
                .iter()
                .map(|(origin, text)| Text::new(&pair_id, *origin, *text))
                .collect(),
        }
    }

    fn reason(row: &CurateRow) -> Option<String> {
        Curator::new(&config()).unwrap().row(row).reason
    }

    #[test]
    fn every_rule_has_its_reason() {
        for (text, expected) in [
            ("red", Some("too_short")),
            ("a red ball lying there", Some("too_long")),
            ("a red b a l", Some("too_long")),
            ("redball", Some("few_words")),
            ("red\u{7}ball x", Some("unprintable")),
            ("blue crate", Some("no_query")),
            ("Red Ball", Some("no_query")),
            ("a red ball", None),
        ] {
            let row = row(64, 64, &[(Origin::Alt, text)]);
            assert_eq!(reason(&row).as_deref(), expected, "{text:?}");
        }
        assert_eq!(reason(&row(64, 64, &[])).as_deref(), Some("no_text"));
    }

    #[test]
    fn aspect_is_inclusive_and_turns_with_the_picture() {
        let text = [(Origin::Alt, "a red ball")];
        for (width, height, expected) in [
            (96, 32, None),
            (32, 96, None),
            (97, 32, Some("aspect")),
            (32, 97, Some("aspect")),
        ] {
            assert_eq!(reason(&row(width, height, &text)).as_deref(), expected);
        }
    }

    #[test]
    fn the_reason_is_that_of_the_text_that_got_furthest() {
        let row = row(
            64,
            64,
            &[
                (Origin::Alt, "blue crate"),
                (Origin::Title, "x"),
                (Origin::Caption, "crates"),
            ],
        );
        assert_eq!(reason(&row).as_deref(), Some("no_query"));
    }

    #[test]
    fn a_kept_row_carries_only_its_good_texts_and_their_queries() {
        let row = row(
            64,
            64,
            &[
                (Origin::Alt, "the red ball"),
                (Origin::Title, "IMG_1"),
                (Origin::Caption, "red, ball"),
                (Origin::Synthetic, "a red ball"),
            ],
        );
        let curation = Curator::new(&config()).unwrap().row(&row);
        assert!(curation.keep);
        assert_eq!(curation.texts, [row.texts[0].text_id, row.texts[2].text_id]);
        assert_eq!(curation.queries, ["ball", "red", "red ball"]);
    }

    #[test]
    fn settings_that_nothing_can_pass_are_refused_by_name() {
        type Spoil = fn(&mut Curate);
        let cases: [(Spoil, &str); 4] = [
            (|c| c.min_chars = 21, "min_chars"),
            (|c| c.min_words = 5, "min_words"),
            (|c| c.max_aspect = 0.5, "max_aspect"),
            (|c| c.queries.clear(), "queries"),
        ];
        for (spoil, field) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = Curator::new(&config).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
            assert_eq!(error.kind(), capstan_plan::FailureKind::BadInput);
        }
    }
}
