//! Reads what a text states: things with kind, colours, sizes and count, how they lie, and the
//! background. One pass over the tokens, with a noun phrase in the making.

pub(super) use super::lexicon::Side;
use super::lexicon::Token;
use crate::scene::{Background, Colour, Object, Size};

/// How many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// So many; a singular states one.
    Exactly(usize),
    /// A plural without a number.
    Several,
    /// A share of a plural: "red and blue balls".
    AtLeastOne,
}

/// Things that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) object: Option<Object>,
    /// More than one where a text contradicts itself.
    pub(super) colours: Vec<Colour>,
    pub(super) sizes: Vec<Size>,
    pub(super) count: Count,
}

/// Where a claim's things lie to another's; without another, to anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) one: usize,
    pub(super) side: Side,
    pub(super) other: Option<usize>,
}

/// All that a text states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Statements {
    /// Things of a kind.
    pub(super) claims: Vec<Claim>,
    /// Colours and sizes of things whose kind is not named.
    pub(super) loose: Vec<Claim>,
    /// Things that a text says are not there.
    pub(super) denied: Vec<Claim>,
    pub(super) relations: Vec<Stated>,
    pub(super) backgrounds: Vec<Background>,
}

impl Statements {
    pub(super) fn states_nothing(&self) -> bool {
        self.claims.is_empty() && self.loose.is_empty() && self.backgrounds.is_empty()
    }
}

/// What stands before a noun.
#[derive(Debug, Clone, Default)]
struct Phrase {
    number: Option<usize>,
    article: bool,
    definite: bool,
    several: bool,
    denied: bool,
    colours: Vec<Colour>,
    sizes: Vec<Size>,
    /// Whether it began with "in", "is" or "are".
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
    /// Phrases with adjectives that wait for the noun of the next: "a red and a blue ball".
    waiting: Vec<Phrase>,
    /// The claim that was made last.
    last: Option<usize>,
    /// A relation whose second side is still to come, with its first.
    open: Option<(Side, Option<usize>)>,
    /// A relation that began a sentence ("left of a ring is a ball"), with the claim it is to.
    turned: Option<(Side, usize)>,
}

/// Reads the statements of a text.
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

    /// A determiner begins a new phrase, unless nothing but "no" stands before it.
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

    /// A join may share the noun that follows it.
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
            // "A red and a blue ball", "red and blue balls" are two; "a red and blue ball" is
            // one of two colours, which no thing is.
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

    /// "The ball" after "a red ball" is the same ball.
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

    /// Closes an open relation with the claim that was just made or referred to.
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

    /// Ends a phrase that found no noun: its adjectives speak of the last thing, or of something.
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
            // "Left of a ring": something lies there, so the ring lies on the other side of it.
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
