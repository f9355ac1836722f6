//! The judge on a table of cases, and on the generated texts of a world.

use super::*;
use crate::draw::Draw;
use crate::scene::{Background, Colour, Object, Relation, Scene, Size, Thing, Things, draw_scene};
use crate::wording::{TextKind, Writer};
use crate::world::World;
use Judgement::{Bad, Good, Vague};
use proptest::prelude::*;

fn thing(colour: Colour, object: Object, size: Size) -> Thing {
    Thing {
        object,
        colour,
        size,
    }
}

fn red_ball() -> Thing {
    thing(Colour::Red, Object::Ball, Size::Big)
}

fn one_red_ball() -> Scene {
    Scene {
        things: Things::Alike {
            thing: red_ball(),
            cells: vec![0],
        },
        background: Background::Sand,
    }
}

/// Two above each other: cells 0 and 2.
fn two() -> Scene {
    Scene {
        things: Things::Alike {
            thing: red_ball(),
            cells: vec![2, 0],
        },
        background: Background::Brick,
    }
}

fn pair(relation: Relation) -> Scene {
    Scene {
        things: Things::Pair {
            first: red_ball(),
            second: thing(Colour::Blue, Object::Crate, Size::Small),
            relation,
        },
        background: Background::Water,
    }
}

fn balls() -> Scene {
    Scene {
        things: Things::Pair {
            first: red_ball(),
            second: thing(Colour::Blue, Object::Ball, Size::Small),
            relation: Relation::LeftOf,
        },
        background: Background::Wood,
    }
}

fn check(scene: &Scene, cases: &[(&str, Judgement)]) {
    for (text, expected) in cases {
        assert_eq!(judge(scene, text), *expected, "{text:?} of {scene:?}");
    }
}

#[test]
fn one_thing() {
    check(
        &one_red_ball(),
        &[
            ("a red ball", Good),
            ("a crimson sphere", Good),
            ("red ball", Good),
            ("A RED BALL.", Good),
            ("1 red ball", Good),
            ("there is a big red ball on the sand", Good),
            ("for sale : a large red ball on sand , low price", Good),
            ("my a red ball ( 2019 )", Good),
            ("the ball is red", Good),
            ("a ball in red", Good),
            ("a red ball. the ball is big.", Good),
            ("a small red ball", Bad),
            ("a red ball. the ball is small.", Bad),
            ("the red ball is blue", Bad),
            ("a red ball on grass", Bad),
            ("a red ball on a wooden board", Bad),
            ("two red balls", Bad),
            ("red balls", Bad),
            ("some red balls", Bad),
            ("a blue ball", Bad),
            ("a red crate", Bad),
            ("a red ball and a red ball", Bad),
            ("a red ball and a blue crate", Bad),
            ("a red ball left of a red ball", Bad),
            ("a red and blue ball", Bad),
            ("a ball", Vague),
            ("a big ball on sand", Vague),
            ("something in red", Vague),
            ("a thing in golden", Bad),
            ("some shapes on sand", Vague),
            ("abstract art in the water", Bad),
            ("no red ball", Bad),
            ("no blue crate", Bad),
            ("a red ball without a blue crate", Good),
            ("a colourful picture", Bad),
            ("img _ 0042 . jpg", Bad),
            ("dsc 2 . jpg", Bad),
            ("page 2 of 9", Bad),
            ("image not available", Bad),
            ("", Bad),
            ("ball red a", Vague),
        ],
    );
}

#[test]
fn several_of_one_kind() {
    check(
        &two(),
        &[
            ("two red balls", Good),
            ("2 big red spheres on bricks", Good),
            ("there are two red balls on a brick wall", Good),
            ("a red ball and a red ball", Good),
            ("a red ball above a red ball", Good),
            ("a red ball left of a red ball", Bad),
            ("red balls", Vague),
            ("some red balls", Vague),
            ("two balls", Vague),
            ("a red ball", Bad),
            ("red ball", Bad),
            ("a ball", Bad),
            ("three red balls", Bad),
            ("zero red balls", Bad),
            ("two small red balls", Bad),
            ("two red balls on paper", Bad),
            ("two red boxes", Bad),
            ("a red ball and a red ring", Bad),
        ],
    );
}

#[test]
fn pairs_with_relations() {
    check(
        &pair(Relation::LeftOf),
        &[
            ("a red ball and a blue crate", Good),
            ("a blue box next to a red ball in the water", Good),
            ("a red ball to the left of a blue crate", Good),
            ("a red ball left of a small blue box on water", Good),
            ("a blue crate to the right of a red ball", Good),
            ("left of a blue crate is a red ball", Good),
            ("to the left of the blue box there is a red ball", Good),
            ("a red ball, a blue crate", Good),
            (
                "a red ball and a blue crate. the ball is left of the crate",
                Good,
            ),
            (
                "a red ball and a blue crate. the crate is left of the ball",
                Bad,
            ),
            ("a blue crate left of a red ball", Bad),
            ("a red ball right of a blue crate", Bad),
            ("a red ball above a blue crate", Bad),
            ("a red ball over a blue crate", Bad),
            ("a big blue crate and a red ball", Bad),
            ("a red crate and a blue ball", Bad),
            ("a blue ball and a red crate in the water", Bad),
            ("a red ball", Vague),
            ("a blue crate", Vague),
            ("a ball and a crate", Vague),
            ("a red ball and a crate", Vague),
            ("a ball left of a crate", Vague),
            ("a crate left of a ball", Bad),
            ("a red ball and a blue crate and a red ball", Bad),
            ("two red balls and a blue crate", Bad),
            ("a red ball and a blue ring", Bad),
            ("a design in red", Vague),
            ("a design in green", Bad),
        ],
    );
    check(
        &pair(Relation::Above),
        &[
            ("a red ball above a blue crate", Good),
            ("a blue crate under a red ball", Good),
            ("a blue crate below a red ball in the water", Good),
            ("under a red ball is a blue crate", Good),
            ("a red ball under a blue crate", Bad),
            ("a red ball left of a blue crate", Bad),
        ],
    );
}

#[test]
fn pairs_that_share_a_kind() {
    check(
        &balls(),
        &[
            ("a red ball and a blue ball", Good),
            ("a red and a blue ball", Good),
            ("a red ball left of a blue ball", Good),
            ("a blue ball left of a red ball", Bad),
            ("a red and blue ball", Bad),
            ("two balls", Vague),
            ("a ball and a ball", Vague),
            ("a red ball and a ball", Vague),
            ("red and blue balls", Vague),
            ("a red ball", Vague),
            ("a ball", Bad),
            ("two red balls", Bad),
            ("a big ball and a small ball", Vague),
            ("a small red ball and a blue ball", Bad),
            ("a red ball and a red ball", Bad),
        ],
    );
}

fn scenes(item: u64) -> (World, Scene, Scene) {
    let world = World::shipped();
    let draw = &mut Draw::new(11, "judge", item);
    let (scene, other) = (draw_scene(&world, draw), draw_scene(&world, draw));
    (world, scene, other)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn generated_texts_have_the_judgement_of_their_kind(item in any::<u64>()) {
        let (world, scene, other) = scenes(item);
        let judge = Judge::new(&world);
        let writer = Writer::new(&world);
        let draw = &mut Draw::new(12, "judge text", item);
        let human = writer.human(&scene, draw);
        prop_assert_eq!(judge.judge(&scene, &human), Good, "{:?} of {:?}", human, scene);
        for kind in TextKind::ALL {
            let text = writer.web(*kind, &scene, &other, draw);
            let worth = judge.judge(&scene, &text);
            let right = match kind {
                TextKind::Honest => worth == Good,
                TextKind::Vague => worth != Good,
                TextKind::Wrong => worth == Bad,
                // Judged by content: good only if the pictures have the same things, vague only if
                // this picture has all things of the other.
                TextKind::Other => {
                    let (key, others) = (scene.key(), other.key());
                    let has_all = others.iter().all(|name| {
                        let count = |key: &[_]| key.iter().filter(|other| *other == name).count();
                        count(&key) == count(&others)
                    });
                    judge.judge(&other, &text) == Good
                        && match worth {
                            Good => key == others,
                            Vague => has_all && key != others,
                            Bad => true,
                        }
                }
                TextKind::File | TextKind::Boilerplate => worth == Bad,
            };
            prop_assert!(right, "{:?} {:?} is {:?} of {:?}", kind, text, worth, scene);
        }
    }

    #[test]
    fn a_judgement_does_not_depend_on_case_or_space(item in any::<u64>()) {
        let (world, scene, other) = scenes(item);
        let judge = Judge::new(&world);
        let draw = &mut Draw::new(13, "judge text", item);
        for kind in TextKind::ALL {
            let text = Writer::new(&world).web(*kind, &scene, &other, draw);
            let shouted = format!("  {}  ", text.to_uppercase().replace(' ', "  "));
            prop_assert_eq!(judge.judge(&scene, &text), judge.judge(&scene, &shouted));
        }
    }

    #[test]
    fn any_text_is_judged(text in ".{0,200}", words in prop::collection::vec(0usize..40, 0..40)) {
        const WORDS: [&str; 40] = [
            "a", "an", "the", "no", "two", "three", "red", "blue", "dark", "big", "small", "ball",
            "balls", "crate", "boxes", "ring", "clock", "and", "with", "next to", "left of",
            "right of", "above", "under", "on sand", "in the water", "in", "is", "are", "there",
            ".", ",", ":", "4", "some", "without", "golden", "hoops", "zero", "shape",
        ];
        let salad: Vec<&str> = words.iter().map(|word| WORDS[*word]).collect();
        for scene in [one_red_ball(), two(), pair(Relation::Above), balls()] {
            judge(&scene, &text);
            judge(&scene, &salad.join(" "));
        }
    }
}
