//! Writes a world as a TOML file with a comment on every key.

use std::fmt::Write as _;

use super::World;

const HEAD: &str = "\
# A demo web. A missing key has the shipped value; an unknown key is an error.
# `capstan demo --world FILE.toml` crawls the web that this file describes. The same file and seed
# give the same web, byte for byte.
";

/// The comment of each section and key.
const COMMENTS: &[(&str, &str)] = &[
    ("scenes", "The scenes."),
    ("scenes.size_px", "Side of a picture in pixels, 32 to 1024."),
    ("scenes.objects", "Any of ball, crate, tent, ring, clock."),
    (
        "scenes.colours",
        "Any of red, green, blue, yellow, purple, white, black.",
    ),
    ("scenes.sizes", "Any of small, big."),
    (
        "scenes.backgrounds",
        "Any of sand, grass, water, brick, paper, wood.",
    ),
    ("scenes.relations", "Any of left_of, above."),
    (
        "scenes.pair_percent",
        "Percentage of scenes with two different things; the others have one kind of thing.",
    ),
    (
        "scenes.counts",
        "Numbers of things of one kind, 1 to 4; a number that is listed twice is drawn twice as often.",
    ),
    ("counts", "The numbers of pictures."),
    ("counts.pairs", "Web pictures with at least one text."),
    (
        "counts.second_text_percent",
        "Percentage of them with a second text (title or caption).",
    ),
    (
        "counts.human",
        "Human-annotated pictures with one text each.",
    ),
    (
        "counts.evaluation",
        "Held-out pictures; no text can describe two of them.",
    ),
    ("counts.references", "Texts of each evaluation picture."),
    (
        "counts.evaluation_alike_percent",
        "Largest percentage of them with one kind of thing.",
    ),
    (
        "counts.zero_shot",
        "Held-out pictures of one thing; the classes (colour, object) alternate.",
    ),
    (
        "words",
        "The judge distinguishes two kinds of thing by their words, which must differ.\n# The judge knows right_of and below, but no text contains them: texts name the left or upper thing first.",
    ),
    (
        "words.left_of",
        "Positions of one thing relative to another.",
    ),
    ("words.numbers", "Number words from zero."),
    (
        "words.objects",
        "Nouns, singular. Annotators use the first of a list, the web uses all.",
    ),
    ("words.colours", "Adjectives, used likewise."),
    ("words.sizes", "Adjectives; annotators use all of them."),
    (
        "words.places",
        "Phrases for the background; annotators use all of them.",
    ),
    (
        "words.backgrounds",
        "Words by which the judge recognises a background outside of these phrases.",
    ),
    ("human", "The style of annotators."),
    (
        "human.frames_alike",
        "Sentences about one kind of thing, with placeholders {things}, {be} and {place}.",
    ),
    (
        "human.frames_pair",
        "Sentences about two things. A frame that is listed twice is used twice as often.",
    ),
    (
        "human.joins",
        "Words between two things if the sentence states no relation.",
    ),
    (
        "human.place_percent",
        "Percentage of sentences that state the background.",
    ),
    (
        "human.relation_percent",
        "Percentage of sentences about two things that state their relation.",
    ),
    (
        "human.size_percent",
        "Percentage of things whose size is stated.",
    ),
    (
        "human.synonyms",
        "Whether all words of a list are used, or only the first.",
    ),
    (
        "human.prefixes",
        "Prefixes of the sentence; \"\" means none.",
    ),
    ("human.suffixes", "Suffixes of the sentence."),
    (
        "web",
        "The style of honest authors on the web; the keys are those of [human].",
    ),
    (
        "noise",
        "Kinds of text on the web. The six shares add up to 100 and are exact.",
    ),
    ("noise.honest_percent", "True, and names everything."),
    ("noise.vague_percent", "True, but names little."),
    ("noise.wrong_percent", "Honest except for a colour or kind."),
    ("noise.other_percent", "Honest, but of another picture."),
    ("noise.file_percent", "A file name."),
    ("noise.boilerplate_percent", "Boilerplate of the page."),
    (
        "noise.vague_places",
        "Vague texts: one of these and a place ...",
    ),
    (
        "noise.vague_colours",
        "... or one of these, `in` and a colour ...",
    ),
    ("noise.vague_plain", "... or one of these alone."),
    (
        "noise.files",
        "File names, with the placeholder {n} for a number.",
    ),
    ("noise.boilerplate", "Boilerplate ..."),
    (
        "noise.boilerplate_ends",
        "... and words that sometimes follow it.",
    ),
    (
        "hosts",
        "The hosts. The domain also has the hosts quiet, closed, down and slow.",
    ),
    ("hosts.domain", "The domain of all hosts."),
    ("hosts.pages", "Hosts with pages and pictures."),
    (
        "hosts.pictures",
        "Host with pictures only, as many as on each of the others.",
    ),
    ("hosts.pictures_per_page", "Pictures on a listing page."),
    ("hosts.pages_per_section", "Listing pages of a section."),
    (
        "hosts.crawler",
        "Product token of the crawler that robots rules and tags address.",
    ),
    (
        "planted",
        "What a crawler must reject, merge or survive: numbers of pictures.",
    ),
    (
        "planted.robots",
        "Disallowed by robots.txt, or on a host whose robots.txt is unavailable.",
    ),
    (
        "planted.opt_out",
        "Opted out (noai, noimageai, noindex, noimageindex, none) by header or page.",
    ),
    ("planted.http_status", "404, 410, 403, 500."),
    (
        "planted.redirects",
        "Redirected in a loop, too often, or without a target.",
    ),
    (
        "planted.address",
        "At addresses that a crawler must not contact.",
    ),
    (
        "planted.timeout",
        "Never answered: each costs the crawler its time limit for every attempt.",
    ),
    (
        "planted.network",
        "The connection breaks during the response.",
    ),
    (
        "planted.bytes",
        "Longer than too_many_bytes, half of them without a Content-Length.",
    ),
    (
        "planted.not_image",
        "HTML, SVG and other content under the name of a picture.",
    ),
    ("planted.decode", "Corrupt or truncated."),
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
        "Bytes of the longest text, less than its max_page_bytes.",
    ),
    (
        "planted.bad_pages",
        "Number of missing pages, of disallowed pages, and of pages redirected in a loop.",
    ),
    (
        "planted.duplicates",
        "Duplicates of a picture and its text: half on another page, half under another URL.",
    ),
    ("planted.without_text", "Without any text."),
    ("planted.redirected", "Good pictures behind a redirect."),
    (
        "planted.flaky",
        "Good pictures whose first request is answered 503.",
    ),
    (
        "planted.harmless_tags",
        "Good pictures with an X-Robots-Tag that does not opt out.",
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

/// The world as a commented TOML file, with keys in the order of the types.
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
            // Items of a list over several lines are indented and are no keys.
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
    fn a_printed_world_parses_to_itself() {
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
            assert!(value.is_some(), "{path} is not a key of a world");
        }
        for section in ["scenes", "counts", "human", "noise", "hosts", "planted"] {
            for key in table[section].as_table().unwrap().keys() {
                let path = format!("{section}.{key}");
                assert!(comment(&path).is_some(), "{path} has no comment");
            }
        }
    }
}
