//! Writes a world as a TOML file that teaches: a comment on every key.

use std::fmt::Write as _;

use super::World;

const HEAD: &str = "\
# A demo web. Every key may be left out and then has the shipped value; a key that is not known
# is refused. `capstan demo --world FILE.toml` crawls the web that this file describes; the same
# file and seed give the same web, byte for byte.
";

/// What a section or key means; a key of no section of its own stands under its section's name.
const COMMENTS: &[(&str, &str)] = &[
    ("scenes", "What is drawn."),
    ("scenes.size_px", "Side of a picture in pixels, 32 to 1024."),
    ("scenes.objects", "Of: ball, crate, tent, ring, clock."),
    (
        "scenes.colours",
        "Of: red, green, blue, yellow, purple, white, black.",
    ),
    ("scenes.sizes", "Of: small, big."),
    (
        "scenes.backgrounds",
        "Of: sand, grass, water, brick, paper, wood.",
    ),
    ("scenes.relations", "Of: left_of, above."),
    (
        "scenes.pair_percent",
        "Scenes with two different things; the others have one kind of thing.",
    ),
    (
        "scenes.counts",
        "How many of it, 1 to 4; a count written twice is drawn twice as often.",
    ),
    ("counts", "How many pictures there are."),
    ("counts.pairs", "Web pictures with at least one text."),
    (
        "counts.second_text_percent",
        "Of these, with a second text (title or caption).",
    ),
    (
        "counts.human",
        "Human-annotated pictures with one text each.",
    ),
    (
        "counts.evaluation",
        "Held-out pictures, no two alike in what a text can say.",
    ),
    ("counts.references", "Texts of each of them."),
    (
        "counts.evaluation_alike_percent",
        "Of them, with one kind of thing at most.",
    ),
    (
        "counts.zero_shot",
        "Held-out pictures of one thing; the classes (colour, object) in turn.",
    ),
    (
        "words",
        "Where two kinds of thing share no word, the judge can tell them apart.\n# Right-of and below are understood, but never written: people name the left or upper thing first.",
    ),
    ("words.left_of", "How one thing may lie to another."),
    ("words.numbers", "From zero."),
    (
        "words.objects",
        "Nouns, singular. Annotators use the first of a list, the web any of them.",
    ),
    ("words.colours", "Adjectives, likewise."),
    (
        "words.sizes",
        "Adjectives; all of them are used by annotators, too.",
    ),
    (
        "words.places",
        "Phrases that say where the things are; all of them are used by annotators, too.",
    ),
    (
        "words.backgrounds",
        "Words by which the judge knows a background outside of these phrases.",
    ),
    ("human", "How annotators write."),
    (
        "human.frames_alike",
        "Sentences about one kind of thing; {things}, {be} and {place} stand for words.",
    ),
    (
        "human.frames_pair",
        "Sentences about two things. A frame written twice is used twice as often.",
    ),
    (
        "human.joins",
        "Between two things, where the sentence does not state how they lie.",
    ),
    (
        "human.place_percent",
        "Sentences that state the background.",
    ),
    (
        "human.relation_percent",
        "Sentences about two things that state how they lie.",
    ),
    ("human.size_percent", "Things whose size is stated."),
    (
        "human.synonyms",
        "Whether all words of a list are used, or only the first.",
    ),
    ("human.prefixes", "Put before the sentence; \"\" is none."),
    ("human.suffixes", "Put after the sentence."),
    (
        "web",
        "How honest people on the web write; the keys are those of [human].",
    ),
    (
        "noise",
        "Kinds of text on the web. The six shares add up to 100 and are met exactly.",
    ),
    ("noise.honest_percent", "True, and names everything."),
    ("noise.vague_percent", "True, but names little."),
    ("noise.wrong_percent", "Honest but for a colour or kind."),
    ("noise.other_percent", "Honest, but of another picture."),
    ("noise.file_percent", "A file name."),
    ("noise.boilerplate_percent", "The page's furniture."),
    ("noise.vague_places", "Vague texts: these, then a place ..."),
    (
        "noise.vague_colours",
        "... or these, then `in` and a colour ...",
    ),
    ("noise.vague_plain", "... or these alone."),
    ("noise.files", "{n} stands for a number."),
    ("noise.boilerplate", "Furniture ..."),
    (
        "noise.boilerplate_ends",
        "... and what sometimes follows it.",
    ),
    (
        "hosts",
        "Who serves it. Beside these there are quiet, closed, down and slow under the same domain.",
    ),
    ("hosts.domain", "Every host is a name under it."),
    ("hosts.pages", "Hosts with pages and pictures."),
    (
        "hosts.pictures",
        "Host with pictures alone; it has as many as each of the others.",
    ),
    ("hosts.pictures_per_page", "Pictures on a listing page."),
    ("hosts.pages_per_section", "Listing pages of a section."),
    (
        "hosts.crawler",
        "Product token of the crawler that robots rules and tags speak to.",
    ),
    (
        "planted",
        "What a crawler must refuse, merge or survive: numbers of pictures.",
    ),
    (
        "planted.robots",
        "Refused by robots.txt, or on a host whose robots.txt cannot be had.",
    ),
    (
        "planted.opt_out",
        "Opted out of (noai, noimageai, noindex, noimageindex, none) by header or page.",
    ),
    ("planted.http_status", "404, 410, 403, 500."),
    (
        "planted.redirects",
        "Redirected in a loop, too often, or to nowhere.",
    ),
    (
        "planted.address",
        "At addresses that a crawler must not contact.",
    ),
    (
        "planted.timeout",
        "Never answered: each costs the crawler its time limit times its tries.",
    ),
    ("planted.network", "Cut off in the middle."),
    (
        "planted.bytes",
        "Longer than too_many_bytes, half of them without saying so.",
    ),
    (
        "planted.not_image",
        "HTML, SVG and the like behind a picture's name.",
    ),
    ("planted.decode", "Corrupt or cut short."),
    ("planted.pixels", "A header that claims 900 million pixels."),
    ("planted.too_small", "Tracking pixels."),
    (
        "planted.text_bytes",
        "With an alt text of long_text_bytes; the first has longest_text_bytes.",
    ),
    ("planted.url", "At a URL of more than 2,000 characters."),
    (
        "planted.too_many_bytes",
        "More than the crawler's max_image_bytes.",
    ),
    ("planted.long_text_bytes", "More than its max_text_bytes."),
    (
        "planted.longest_text_bytes",
        "The same, less than its max_page_bytes.",
    ),
    (
        "planted.bad_pages",
        "Pages that are missing, disallowed, or redirected in a loop: so many of each.",
    ),
    (
        "planted.duplicates",
        "The same picture and text once more: half on another page, half under another URL.",
    ),
    ("planted.without_text", "Without any text."),
    ("planted.redirected", "Good pictures behind a redirect."),
    ("planted.flaky", "Good pictures that answer 503 at first."),
    (
        "planted.harmless_tags",
        "Good pictures with an X-Robots-Tag that refuses nothing.",
    ),
    (
        "planted.quiet",
        "Good pictures on the host with a Crawl-delay.",
    ),
];

fn comment(path: &str) -> Option<&'static str> {
    COMMENTS
        .iter()
        .find(|(key, _)| *key == path)
        .map(|(_, text)| *text)
}

/// The world as a commented TOML file, keys in the order of the types.
pub(super) fn print(world: &World) -> String {
    let plain = toml::to_string_pretty(world).expect("a world has string keys and plain values");
    let mut out = HEAD.to_owned();
    let mut section = String::new();
    for line in plain.lines() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            name.clone_into(&mut section);
            explain(&mut out, name);
        } else if let Some((key, _)) = line.split_once(" = ") {
            // Items of a list over several lines are indented, so only keys come here.
            if !line.starts_with(' ') {
                explain(&mut out, &format!("{section}.{key}"));
            }
        }
        let _ = writeln!(out, "{line}");
    }
    out
}

fn explain(out: &mut String, path: &str) {
    if let Some(text) = comment(path) {
        let _ = writeln!(out, "# {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_world_reads_as_itself() {
        let mut other = World::shipped();
        other.counts.pairs = 300;
        other.noise.boilerplate = vec!["say \"no\" \\ here".to_owned()];
        for world in [World::shipped(), other] {
            let text = world.to_toml();
            assert_eq!(World::from_toml(&text, "world.toml").unwrap(), world);
        }
    }

    #[test]
    fn every_key_has_a_comment_and_every_comment_a_key() {
        let table = toml::Table::try_from(World::shipped()).unwrap();
        for (path, _) in COMMENTS {
            let mut value = table.get(path.split('.').next().unwrap());
            for part in path.split('.').skip(1) {
                value = value.and_then(|value| value.get(part));
            }
            assert!(value.is_some(), "{path} is no key of a world");
        }
        for section in ["scenes", "counts", "human", "noise", "hosts", "planted"] {
            for key in table[section].as_table().unwrap().keys() {
                let path = format!("{section}.{key}");
                assert!(comment(&path).is_some(), "{path} has no comment");
            }
        }
    }
}
