//! The judgement of a text for a picture: good, vague or bad.
//!
//! A text is *good* if it names exactly the picture's objects (kind, colour, count) and every size,
//! relation and background that it states is true. It is *vague* if it contradicts nothing but does
//! not name all objects. Otherwise it is *bad*, also if it states nothing.
//!
//! ```text
//! text ─► tokens (lexicon) ─► statements (parse) ─► is there an assignment of the scene's things
//!                                                   to them that makes all true? (this file)
//! ```
//!
//! A stated count is exact: "a red ball" is false for a picture with two red balls, and "a ball"
//! for one with a red and a blue ball.

mod lexicon;
mod parse;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::scene::{Scene, Thing};
use crate::world::World;
use lexicon::Lexicon;
use parse::{Claim, Count, Side, Statements};

/// The judgement of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Names exactly the objects, and all other statements are true.
    Good,
    /// Contradicts nothing, but does not name all objects.
    Vague,
    /// Contradicts the picture, or states nothing.
    Bad,
}

/// Judges texts in the words of a world.
#[derive(Debug, Clone)]
pub struct Judge {
    lexicon: Lexicon,
}

/// Judges in the words of the shipped world; see [`Judge`] for other worlds.
pub fn judge(scene: &Scene, text: &str) -> Judgement {
    static SHIPPED: LazyLock<Judge> = LazyLock::new(|| Judge::new(&World::shipped()));
    SHIPPED.judge(scene, text)
}

impl Judge {
    /// A judge that knows the words of this world.
    pub fn new(world: &World) -> Self {
        Self {
            lexicon: Lexicon::new(&world.words),
        }
    }

    /// The judgement of `text` for `scene`.
    pub fn judge(&self, scene: &Scene, text: &str) -> Judgement {
        let statements = parse::parse(&self.lexicon.tokens(text));
        if statements.states_nothing() {
            return Judgement::Bad;
        }
        if statements
            .backgrounds
            .iter()
            .any(|background| *background != scene.background)
        {
            return Judgement::Bad;
        }
        let things = scene.all();
        if !denials_hold(&statements, &things) {
            return Judgement::Bad;
        }
        // With at most four things and four fitting claims, every assignment is tried.
        let mut best = Judgement::Bad;
        let mut dealt = vec![Vec::new(); statements.claims.len()];
        let mut free = vec![true; things.len()];
        assign(
            scene,
            &things,
            &statements,
            0,
            &mut dealt,
            &mut free,
            &mut best,
        );
        best
    }
}

fn denials_hold(statements: &Statements, things: &[Thing]) -> bool {
    !statements
        .denied
        .iter()
        .any(|claim| things.iter().any(|thing| claim.fits(thing)))
}

/// Tries every assignment of things to `statements.claims[at..]`. `best` becomes the best
/// judgement.
fn assign(
    scene: &Scene,
    things: &[Thing],
    statements: &Statements,
    at: usize,
    dealt: &mut Vec<Vec<usize>>,
    free: &mut Vec<bool>,
    best: &mut Judgement,
) {
    let Some(claim) = statements.claims.get(at) else {
        *best = (*best).min(judge_assignment(scene, things, statements, dealt, free));
        return;
    };
    let fitting: Vec<usize> = (0..things.len())
        .filter(|index| free[*index] && claim.fits(&things[*index]))
        .collect();
    for chosen in subsets(&fitting) {
        if !claim.count.admits(chosen.len()) {
            continue;
        }
        chosen.iter().for_each(|index| free[*index] = false);
        dealt[at].clone_from(&chosen);
        assign(scene, things, statements, at + 1, dealt, free, best);
        chosen.iter().for_each(|index| free[*index] = true);
    }
}

/// All subsets of at most four indices.
fn subsets(of: &[usize]) -> Vec<Vec<usize>> {
    (0..1u32 << of.len())
        .map(|mask| {
            let chosen = of
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask >> bit & 1 == 1);
            chosen.map(|(_, index)| *index).collect()
        })
        .collect()
}

/// The judgement for one assignment of things.
fn judge_assignment(
    scene: &Scene,
    things: &[Thing],
    statements: &Statements,
    dealt: &[Vec<usize>],
    free: &[bool],
) -> Judgement {
    // An unassigned thing that fits a claim with a count makes the count wrong.
    let left: Vec<usize> = (0..things.len()).filter(|index| free[*index]).collect();
    let miscounted = statements.claims.iter().any(|claim| {
        claim.count.is_exact() && left.iter().any(|index| claim.names(&things[*index]))
    });
    if miscounted
        || !loose_hold(statements, things)
        || !statements
            .relations
            .iter()
            .all(|relation| relation_holds(scene, things, relation, dealt))
    {
        return Judgement::Bad;
    }
    let complete = left.is_empty() && statements.claims.iter().all(Claim::is_complete);
    if complete {
        Judgement::Good
    } else {
        Judgement::Vague
    }
}

/// "Something red", "a big thing": true for at least one thing.
fn loose_hold(statements: &Statements, things: &[Thing]) -> bool {
    statements
        .loose
        .iter()
        .all(|claim| things.iter().any(|thing| claim.fits(thing)))
}

fn relation_holds(
    scene: &Scene,
    things: &[Thing],
    relation: &parse::Stated,
    dealt: &[Vec<usize>],
) -> bool {
    let holds = |one: usize, other: usize| match relation.side {
        Side::Left => scene.is_left_of(one, other),
        Side::Right => scene.is_left_of(other, one),
        Side::Above => scene.is_above(one, other),
        Side::Below => scene.is_above(other, one),
    };
    let ones = &dealt[relation.one];
    match relation.other {
        Some(other) => {
            let others = &dealt[other];
            !ones.is_empty()
                && !others.is_empty()
                && ones
                    .iter()
                    .all(|one| others.iter().all(|other| holds(*one, *other)))
        }
        // "A ball to the left of it": of any other thing on the picture.
        None => ones
            .iter()
            .all(|one| (0..things.len()).any(|other| holds(*one, other))),
    }
}

impl Claim {
    /// Whether the thing has the stated kind and colour.
    fn names(&self, thing: &Thing) -> bool {
        self.object.is_none_or(|object| object == thing.object)
            && self.colours.iter().all(|colour| *colour == thing.colour)
    }

    /// Whether the thing has all stated properties.
    fn fits(&self, thing: &Thing) -> bool {
        self.names(thing) && self.sizes.iter().all(|size| *size == thing.size)
    }

    /// Whether kind, colour and count are stated.
    fn is_complete(&self) -> bool {
        self.object.is_some() && !self.colours.is_empty() && self.count.is_exact()
    }
}

impl Count {
    fn is_exact(self) -> bool {
        matches!(self, Self::Exactly(_))
    }

    fn admits(self, count: usize) -> bool {
        match self {
            Self::Exactly(exact) => count == exact,
            Self::Several => count >= 2,
            Self::AtLeastOne => count >= 1,
        }
    }
}
