//! The shipped world. The demo's prototype showed that it can be learned in a few minutes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{Counts, Hosts, Noise, Planted, Scenes, Style, Words, World};
use crate::scene::{Background, Colour, Object, Relation, Size};

fn list(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn lists<K: Ord + Copy>(entries: &[(K, &[&str])]) -> BTreeMap<K, Vec<String>> {
    entries
        .iter()
        .map(|(key, words)| (*key, list(words)))
        .collect()
}

impl Default for World {
    fn default() -> Self {
        Self {
            scenes: Scenes::default(),
            counts: Counts::default(),
            words: Words::default(),
            human: human(),
            web: web(),
            noise: Noise::default(),
            hosts: Hosts::default(),
            planted: Planted::default(),
        }
    }
}

impl Default for Scenes {
    fn default() -> Self {
        use Colour::{Black, Blue, Green, Red, White, Yellow};
        use Object::{Ball, Clock, Crate, Ring};
        Self {
            size_px: 64,
            objects: vec![Ball, Crate, Ring, Clock],
            colours: vec![Red, Green, Blue, Yellow, White, Black],
            sizes: Size::ALL.to_vec(),
            backgrounds: Background::ALL.to_vec(),
            relations: Relation::ALL.to_vec(),
            pair_percent: 50.0,
            counts: vec![1, 1, 2, 3],
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            pairs: 5200,
            second_text_percent: 3.0,
            human: 500,
            evaluation: 250,
            references: 5,
            evaluation_alike_percent: 30.0,
            zero_shot: 240,
        }
    }
}

impl Default for Words {
    fn default() -> Self {
        Self {
            objects: lists(&[
                (Object::Ball, &["ball", "sphere"]),
                (Object::Crate, &["crate", "box"]),
                (Object::Tent, &["tent", "tipi"]),
                (Object::Ring, &["ring", "hoop"]),
                (Object::Clock, &["clock", "watch"]),
            ]),
            colours: lists(&[
                (Colour::Red, &["red", "crimson"]),
                (Colour::Green, &["green"]),
                (Colour::Blue, &["blue"]),
                (Colour::Yellow, &["yellow", "golden"]),
                (Colour::Purple, &["purple", "violet"]),
                (Colour::White, &["white"]),
                (Colour::Black, &["black", "dark"]),
            ]),
            sizes: lists(&[
                (Size::Small, &["small", "little"]),
                (Size::Big, &["big", "large"]),
            ]),
            places: lists(&[
                (Background::Sand, &["on sand", "on the sand"]),
                (Background::Grass, &["on grass", "on the grass"]),
                (Background::Water, &["on water", "in the water"]),
                (Background::Brick, &["on a brick wall", "on bricks"]),
                (Background::Paper, &["on paper", "on a sheet of paper"]),
                (Background::Wood, &["on wood", "on a wooden board"]),
            ]),
            backgrounds: lists(&[
                (Background::Sand, &["sand"]),
                (Background::Grass, &["grass"]),
                (Background::Water, &["water"]),
                (Background::Brick, &["brick", "bricks"]),
                (Background::Paper, &["paper"]),
                (Background::Wood, &["wood", "wooden"]),
            ]),
            left_of: list(&["left of", "to the left of"]),
            right_of: list(&["right of", "to the right of"]),
            above: list(&["above", "over"]),
            below: list(&["below", "under"]),
            numbers: list(&["zero", "one", "two", "three", "four"]),
        }
    }
}

fn human() -> Style {
    Style {
        frames_alike: list(&[
            "{things} {place}",
            "{things} {place}",
            "{things} {place}",
            "there {be} {things} {place}",
        ]),
        frames_pair: list(&[
            "{things} {place}",
            "{things} {place}",
            "{things} {place}",
            "{things} {place}",
            "there is {things} {place}",
        ]),
        joins: list(&["and"]),
        place_percent: 75.0,
        relation_percent: 35.0,
        size_percent: 20.0,
        synonyms: false,
        prefixes: list(&[""]),
        suffixes: list(&[""]),
    }
}

fn web() -> Style {
    Style {
        frames_alike: list(&["{things} {place}"]),
        frames_pair: list(&["{things} {place}"]),
        joins: list(&["and", "and", "with", "next to"]),
        place_percent: 50.0,
        relation_percent: 30.0,
        size_percent: 15.0,
        synonyms: true,
        prefixes: list(&[
            "",
            "",
            "",
            "",
            "",
            "",
            "photo of",
            "picture of",
            "my",
            "vintage",
            "drawing of",
            "for sale :",
            "look :",
            "cute",
            "hand made",
            "clip art :",
        ]),
        suffixes: list(&[
            "",
            "",
            "",
            "",
            "",
            "",
            "- art print",
            "| free clip art",
            "wallpaper",
            "for kids",
            "( 2019 )",
            "by anna",
            ", low price",
            "- buy online",
            "# shapes",
            "poster",
        ]),
    }
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            honest_percent: 40.0,
            vague_percent: 10.0,
            wrong_percent: 8.0,
            other_percent: 16.0,
            file_percent: 12.0,
            boilerplate_percent: 14.0,
            vague_places: list(&[
                "some shapes",
                "a few things",
                "a nice pattern",
                "abstract art",
                "colourful shapes",
            ]),
            vague_colours: list(&["something", "a thing", "shape", "design"]),
            vague_plain: list(&[
                "a colourful picture",
                "nice art for kids",
                "my new picture",
                "cute shapes poster",
                "simple design",
                "shapes and colours for your wall",
                "abstract print",
            ]),
            files: list(&[
                "img _ {n} . jpg",
                "dsc {n} . jpg",
                "image {n} . png",
                "screenshot {n} . png",
                "untitled - {n} . jpg",
                "shape {n} final . png",
            ]),
            boilerplate: list(&[
                "click here to enlarge",
                "all rights reserved",
                "sign up for our newsletter",
                "free shipping on all orders",
                "share this page",
                "back to home page",
                "image not available",
                "read more about our products",
                "add to cart",
                "cookies help us to improve this page",
                "download in high quality",
                "follow us for more",
                "no description available",
                "see the terms of use",
                "page 2 of 9",
                "loading , please wait",
            ]),
            boilerplate_ends: list(&["now", "today", ">", "!", "here"]),
        }
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            domain: "demo.test".to_owned(),
            pages: list(&["gallery", "shop", "blog"]),
            pictures: "photos-cdn".to_owned(),
            pictures_per_page: 20,
            pages_per_section: 8,
            crawler: "capstanbot".to_owned(),
        }
    }
}

impl Default for Planted {
    fn default() -> Self {
        Self {
            robots: 24,
            opt_out: 40,
            http_status: 30,
            redirects: 12,
            address: 8,
            timeout: 5,
            network: 5,
            bytes: 6,
            not_image: 20,
            decode: 24,
            pixels: 8,
            too_small: 30,
            text_bytes: 6,
            url: 5,
            too_many_bytes: 17_000_000,
            long_text_bytes: 100_000,
            longest_text_bytes: 10_000_000,
            bad_pages: 5,
            duplicates: 60,
            without_text: 60,
            redirected: 40,
            flaky: 5,
            harmless_tags: 20,
            quiet: 5,
        }
    }
}

/// A style in which every key is optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialStyle {
    frames_alike: Option<Vec<String>>,
    frames_pair: Option<Vec<String>>,
    joins: Option<Vec<String>>,
    place_percent: Option<f64>,
    relation_percent: Option<f64>,
    size_percent: Option<f64>,
    synonyms: Option<bool>,
    prefixes: Option<Vec<String>>,
    suffixes: Option<Vec<String>>,
}

impl PartialStyle {
    fn over(self, shipped: Style) -> Style {
        Style {
            frames_alike: self.frames_alike.unwrap_or(shipped.frames_alike),
            frames_pair: self.frames_pair.unwrap_or(shipped.frames_pair),
            joins: self.joins.unwrap_or(shipped.joins),
            place_percent: self.place_percent.unwrap_or(shipped.place_percent),
            relation_percent: self.relation_percent.unwrap_or(shipped.relation_percent),
            size_percent: self.size_percent.unwrap_or(shipped.size_percent),
            synonyms: self.synonyms.unwrap_or(shipped.synonyms),
            prefixes: self.prefixes.unwrap_or(shipped.prefixes),
            suffixes: self.suffixes.unwrap_or(shipped.suffixes),
        }
    }
}

/// Deserialises `[human]` with the shipped annotators as defaults.
pub(super) fn read_human<'de, D: Deserializer<'de>>(from: D) -> Result<Style, D::Error> {
    PartialStyle::deserialize(from).map(|style| style.over(human()))
}

/// Deserialises `[web]` with the shipped authors of the web as defaults.
pub(super) fn read_web<'de, D: Deserializer<'de>>(from: D) -> Result<Style, D::Error> {
    PartialStyle::deserialize(from).map(|style| style.over(web()))
}
