//! Parses the statements of a text: things with kind, colours, sizes and count, their relations,
//! and the background. The parser makes one pass over the tokens and collects one noun phrase at a
//! time.

pub(super) use super::lexicon::Side;
use super::lexicon::Token;
use crate::scene::{Background, Colour, Object, Size};

/// A stated count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// An exact number. A singular states one.
    Exactly(usize),
    /// A plural without a number.
    Several,
    /// One part of a plural: "red and blue balls".
    AtLeastOne,
}

/// Things that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) object: Option<Object>,
    /// More than one if a text contradicts itself.
    pub(super) colours: Vec<Colour>,
    pub(super) sizes: Vec<Size>,
    pub(super) count: Count,
}

/// The position of a claim's things relative to those of another claim, or to any other thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) one: usize,
    pub(super) side: Side,
    pub(super) other: Option<usize>,
}

/// The statements of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Statements {
    /// Things of a kind.
    pub(super) claims: Vec<Claim>,
    /// Colours and sizes of things without a stated kind.
    pub(super) loose: Vec<Claim>,
    /// Things that the text denies.
    pub(super) denied: Vec<Claim>,
    pub(super) relations: Vec<Stated>,
    pub(super) backgrounds: Vec<Background>,
}

impl Statements {
    pub(super) fn states_nothing(&self) -> bool {
        self.claims.is_empty() && self.loose.is_empty() && self.backgrounds.is_empty()
    }
}

/// The words before a noun.
#[derive(Debug, Clone, Default)]
struct Phrase {
    number: Option<usize>,
    article: bool,
    definite: bool,
    several: bool,
    denied: bool,
    colours: Vec<Colour>,
    sizes: Vec<Size>,
    /// Whether it starts with "in", "is" or "are".
    after_of: bool,
}

impl Phrase {
    fn has_adjective(&self) -> bool {
        !self.colours.is_empty() || !self.sizes.is_empty()
    }

    fn is_determined(&self) -> bool {
        self.number.is_some() || self.article || self.definite || self.several
    }

    fn count(&self, plural: bool) -> Count {
        match self.number {
            Some(number) => Count::Exactly(number),
            None if plural || self.several => Count::Several,
            None => Count::Exactly(1),
        }
    }

    fn claim(&self, object: Option<Object>, count: Count) -> Claim {
        Claim {
            object,
            colours: self.colours.clone(),
            sizes: self.sizes.clone(),
            count,
        }
    }
}

#[derive(Default)]
struct Parser {
    said: Statements,
    phrase: Phrase,
    /// Phrases with adjectives that share the noun of the next phrase: "a red and a blue ball".
    waiting: Vec<Phrase>,
    /// The last claim.
    last: Option<usize>,
    /// A relation whose second claim has not been parsed yet, with its first claim.
    open: Option<(Side, Option<usize>)>,
    /// A relation at the start of a sentence ("left of a ring is a ball"), with the claim it refers
    /// to.
    turned: Option<(Side, usize)>,
}

/// Parses the statements of a text.
pub(super) fn parse(tokens: &[Token]) -> Statements {
    let mut parser = Parser::default();
    for token in tokens {
        parser.token(*token);
    }
    parser.end_sentence();
    parser.said
}

impl Parser {
    fn token(&mut self, token: Token) {
        match token {
            Token::Object(object, plural) => self.noun(object, plural),
            Token::Colour(colour) => self.phrase.colours.push(colour),
            Token::Size(size) => self.phrase.sizes.push(size),
            Token::Number(number) => {
                self.begin();
                self.phrase.number = Some(number);
            }
            Token::Article => {
                self.begin();
                self.phrase.article = true;
            }
            Token::Definite => {
                self.begin();
                self.phrase.definite = true;
            }
            Token::Several => {
                self.begin();
                self.phrase.several = true;
            }
            Token::No => {
                self.begin();
                self.phrase.denied = true;
            }
            Token::Of => {
                self.settle();
                self.phrase.after_of = true;
            }
            Token::Join => self.join(),
            Token::Side(side) => {
                self.settle();
                self.open = Some((side, self.last));
            }
            Token::Background(background) => {
                self.settle();
                self.said.backgrounds.push(background);
            }
            Token::Stop => self.end_sentence(),
            Token::Other => {}
        }
    }

    /// Starts a new phrase at a determiner, unless only "no" precedes it.
    fn begin(&mut self) {
        if self.phrase.has_adjective() {
            self.settle();
        }
        let denied = self.phrase.denied;
        self.phrase = Phrase {
            denied,
            ..Phrase::default()
        };
    }

    /// Handles a join, whose two phrases may share the noun after it.
    fn join(&mut self) {
        let phrase = std::mem::take(&mut self.phrase);
        if phrase.has_adjective() && !phrase.after_of {
            self.waiting.push(phrase);
        } else {
            self.phrase = phrase;
            self.settle();
        }
    }

    fn noun(&mut self, object: Object, plural: bool) {
        let phrase = std::mem::take(&mut self.phrase);
        let waiting = std::mem::take(&mut self.waiting);
        let shares_plural = plural && !waiting.is_empty() && !phrase.is_determined();
        for waiting in waiting {
            // "A red and a blue ball" and "red and blue balls" are two things. "A red and blue
            // ball" is one thing with two colours, which no thing has.
            if shares_plural {
                self.claim(&waiting, object, Count::AtLeastOne);
            } else if phrase.is_determined() {
                let plural = plural && !waiting.article;
                self.claim(&waiting, object, waiting.count(plural));
            } else {
                let impossible = Phrase {
                    colours: [waiting.colours.clone(), phrase.colours.clone()].concat(),
                    ..waiting.clone()
                };
                self.claim(&impossible, object, Count::Exactly(1));
            }
        }
        let count = if shares_plural {
            Count::AtLeastOne
        } else {
            phrase.count(plural)
        };
        if phrase.denied {
            self.said.denied.push(phrase.claim(Some(object), count));
        } else if let Some(earlier) = self.referred(&phrase, object) {
            let claim = &mut self.said.claims[earlier];
            claim.sizes.extend(&phrase.sizes);
            if claim.colours.is_empty() {
                claim.colours.extend(&phrase.colours);
            }
            self.relate(earlier);
        } else {
            self.claim(&phrase, object, count);
        }
    }

    /// The earlier claim that a phrase refers to: "the ball" after "a red ball" is the same ball.
    fn referred(&self, phrase: &Phrase, object: Object) -> Option<usize> {
        let same = |claim: &Claim| {
            claim.object == Some(object)
                && phrase
                    .colours
                    .iter()
                    .all(|colour| claim.colours.is_empty() || claim.colours.contains(colour))
        };
        let claims = &self.said.claims;
        phrase
            .definite
            .then(|| claims.iter().rposition(same))
            .flatten()
    }

    fn claim(&mut self, phrase: &Phrase, object: Object, count: Count) {
        self.said.claims.push(phrase.claim(Some(object), count));
        self.relate(self.said.claims.len() - 1);
    }

    /// Completes an open relation with the current claim.
    fn relate(&mut self, claim: usize) {
        if let Some((side, to)) = self.turned.take() {
            self.said.relations.push(Stated {
                one: claim,
                side,
                other: Some(to),
            });
        } else if let Some((side, first)) = self.open.take() {
            match first {
                Some(first) => {
                    self.said.relations.push(Stated {
                        one: first,
                        side,
                        other: Some(claim),
                    });
                }
                None => self.turned = Some((side, claim)),
            }
        }
        self.last = Some(claim);
    }

    /// Ends a phrase without a noun. Its adjectives refer to the last thing, or to any thing.
    fn settle(&mut self) {
        let phrases = std::mem::take(&mut self.waiting);
        let phrase = std::mem::take(&mut self.phrase);
        for phrase in phrases.into_iter().chain([phrase]) {
            if !phrase.has_adjective() {
                continue;
            }
            let loose = phrase.claim(None, Count::Several);
            match self.last {
                _ if phrase.denied => self.said.denied.push(loose),
                Some(last) if phrase.after_of => {
                    let claim = &mut self.said.claims[last];
                    claim.colours.extend(&phrase.colours);
                    claim.sizes.extend(&phrase.sizes);
                }
                _ => self.said.loose.push(loose),
            }
        }
    }

    fn end_sentence(&mut self) {
        self.settle();
        if let Some((side, Some(one))) = self.open.take() {
            self.said.relations.push(Stated {
                one,
                side,
                other: None,
            });
        }
        if let Some((side, to)) = self.turned.take() {
            // "Left of a ring": the ring is on the opposite side of some other thing.
            let side = match side {
                Side::Left => Side::Right,
                Side::Right => Side::Left,
                Side::Above => Side::Below,
                Side::Below => Side::Above,
            };
            self.said.relations.push(Stated {
                one: to,
                side,
                other: None,
            });
        }
        self.phrase = Phrase::default();
        self.last = None;
    }
}
