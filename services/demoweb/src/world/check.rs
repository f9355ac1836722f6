//! Reads and checks a world file: everything in it can be drawn, served and judged.

use std::collections::{BTreeMap, BTreeSet};

use super::{Style, Words, World};

/// Why a world file cannot be used, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// Not TOML, an unknown key, an unknown name or a wrong type.
    #[error("{file}, line {line}, `{key}`: {problem}")]
    Syntax {
        /// The world file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The key on that line.
        key: String,
        /// The problem; for an unknown name also the known names.
        problem: String,
    },
    /// A value out of range.
    #[error("{file}, `{key}`: {problem}")]
    Value {
        /// The world file.
        file: String,
        /// The key, with its section.
        key: String,
        /// The problem and the fix.
        problem: String,
    },
}

/// Reads and checks a world file.
pub(super) fn read(text: &str, file_name: &str) -> Result<World, WorldError> {
    let mut world: World = toml::from_str(text).map_err(|error| syntax(&error, text, file_name))?;
    fill_words(&mut world.words);
    check(&world).map_err(|(key, problem)| WorldError::Value {
        file: file_name.to_owned(),
        key: key.to_owned(),
        problem,
    })?;
    Ok(world)
}

fn syntax(error: &toml::de::Error, text: &str, file_name: &str) -> WorldError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text[..start].matches('\n').count() + 1;
    // A list may span several lines. Its key is on the last preceding line with a `=`.
    let key = (text.lines().take(line).collect::<Vec<_>>().iter().rev())
        .find_map(|line| {
            let line = line.trim_start();
            if line.starts_with('[') {
                Some(line.trim())
            } else {
                line.split_once('=').map(|(key, _)| key.trim())
            }
        })
        .unwrap_or("")
        .to_owned();
    let problem = error
        .message()
        .replace('\n', ", ")
        .replace("unknown variant", "unknown name");
    WorldError::Syntax {
        file: file_name.to_owned(),
        line,
        key,
        problem,
    }
}

/// Fills the word lists that are missing in the file with the shipped words.
fn fill_words(words: &mut Words) {
    fn fill<K: Ord>(own: &mut BTreeMap<K, Vec<String>>, shipped: BTreeMap<K, Vec<String>>) {
        for (key, list) in shipped {
            own.entry(key).or_insert(list);
        }
    }
    let shipped = Words::default();
    fill(&mut words.objects, shipped.objects);
    fill(&mut words.colours, shipped.colours);
    fill(&mut words.sizes, shipped.sizes);
    fill(&mut words.places, shipped.places);
    fill(&mut words.backgrounds, shipped.backgrounds);
}

/// A key and its problem.
type WorldProblem = (&'static str, String);

fn fail<T>(key: &'static str, problem: impl Into<String>) -> Result<T, WorldProblem> {
    Err((key, problem.into()))
}

fn check(world: &World) -> Result<(), WorldProblem> {
    check_scenes(world)?;
    check_counts(world)?;
    check_words(world)?;
    check_style(&world.human, "human")?;
    check_style(&world.web, "web")?;
    check_noise(world)?;
    check_hosts(world)?;
    check_planted(world)
}

fn check_percent(key: &'static str, value: f64) -> Result<(), WorldProblem> {
    if (0.0..=100.0).contains(&value) {
        return Ok(());
    }
    fail(key, format!("{value} is not a percentage; give 0 to 100"))
}

fn check_not_empty<T>(key: &'static str, list: &[T]) -> Result<(), WorldProblem> {
    if list.is_empty() {
        return fail(key, "is empty; give at least one");
    }
    Ok(())
}

fn check_distinct<T: Ord>(key: &'static str, list: &[T]) -> Result<(), WorldProblem> {
    check_not_empty(key, list)?;
    if list.iter().collect::<BTreeSet<_>>().len() < list.len() {
        return fail(key, "contains a name twice; list each once");
    }
    Ok(())
}

fn check_scenes(world: &World) -> Result<(), WorldProblem> {
    let scenes = &world.scenes;
    if !(32..=1024).contains(&scenes.size_px) {
        return fail(
            "scenes.size_px",
            format!("{} is out of range; give 32 to 1024", scenes.size_px),
        );
    }
    check_distinct("scenes.objects", &scenes.objects)?;
    check_distinct("scenes.colours", &scenes.colours)?;
    check_distinct("scenes.sizes", &scenes.sizes)?;
    check_distinct("scenes.backgrounds", &scenes.backgrounds)?;
    check_distinct("scenes.relations", &scenes.relations)?;
    check_not_empty("scenes.counts", &scenes.counts)?;
    if scenes.counts.iter().any(|count| !(1..=4).contains(count)) {
        return fail(
            "scenes.counts",
            "a picture contains 1 to 4 things; give counts from 1 to 4",
        );
    }
    check_percent("scenes.pair_percent", scenes.pair_percent)?;
    if world.names().len() < 2 {
        return fail(
            "scenes.colours",
            "one object in one colour is a single class; add a colour or an object",
        );
    }
    Ok(())
}

fn check_counts(world: &World) -> Result<(), WorldProblem> {
    let counts = &world.counts;
    check_percent("counts.second_text_percent", counts.second_text_percent)?;
    check_percent(
        "counts.evaluation_alike_percent",
        counts.evaluation_alike_percent,
    )?;
    for (key, value, most) in [
        ("counts.pairs", counts.pairs, 1_000_000),
        ("counts.human", counts.human, 100_000),
        ("counts.evaluation", counts.evaluation, 100_000),
        ("counts.references", counts.references, 20),
        ("counts.zero_shot", counts.zero_shot, 100_000),
    ] {
        if value == 0 || value > most {
            return fail(key, format!("{value} is out of range; give 1 to {most}"));
        }
    }
    let names = world.names().len();
    let pairs = if world.scenes.pair_percent > 0.0 {
        names * (names - 1) / 2
    } else {
        0
    };
    let per_name = world.scenes.counts.iter().collect::<BTreeSet<_>>().len();
    let all_alike = if world.scenes.pair_percent < 100.0 {
        names * per_name
    } else {
        0
    };
    let wanted = (counts.evaluation as f64 * counts.evaluation_alike_percent / 100.0) as usize;
    let most = pairs + all_alike.min(wanted);
    if counts.evaluation > most {
        return fail(
            "counts.evaluation",
            format!(
                "a text cannot distinguish {} pictures; give at most {most}, or more objects or colours",
                counts.evaluation
            ),
        );
    }
    Ok(())
}

fn check_words(world: &World) -> Result<(), WorldProblem> {
    fn lists<K>(key: &'static str, lists: &BTreeMap<K, Vec<String>>) -> Result<(), WorldProblem> {
        let mut seen = BTreeSet::new();
        for list in lists.values() {
            check_not_empty(key, list)?;
            for word in list {
                if word.trim().is_empty() || *word != word.to_lowercase() {
                    return fail(key, format!("`{word}` is not a lower-case word; write one"));
                }
                if !seen.insert(word) {
                    return fail(key, format!("`{word}` has two meanings; use it for one"));
                }
            }
        }
        Ok(())
    }
    let words = &world.words;
    lists("words.objects", &words.objects)?;
    lists("words.colours", &words.colours)?;
    lists("words.sizes", &words.sizes)?;
    lists("words.places", &words.places)?;
    lists("words.backgrounds", &words.backgrounds)?;
    for list in words
        .objects
        .values()
        .chain(words.colours.values())
        .chain(words.sizes.values())
    {
        if let Some(word) = list
            .iter()
            .find(|word| !word.chars().all(char::is_alphabetic))
        {
            return fail(
                "words",
                format!("`{word}` is not a single word; use letters only"),
            );
        }
    }
    check_not_empty("words.left_of", &words.left_of)?;
    check_not_empty("words.above", &words.above)?;
    if words.numbers.len() < 5 {
        return fail(
            "words.numbers",
            "a picture contains up to four things; give words from zero to four",
        );
    }
    Ok(())
}

fn check_style(style: &Style, name: &'static str) -> Result<(), WorldProblem> {
    for (what, list) in [
        ("frames_alike", &style.frames_alike),
        ("frames_pair", &style.frames_pair),
        ("joins", &style.joins),
        ("prefixes", &style.prefixes),
        ("suffixes", &style.suffixes),
    ] {
        if list.is_empty() {
            return fail(
                name,
                format!("{what} is empty; give at least one (\"\" means none)"),
            );
        }
    }
    for frame in style.frames_alike.iter().chain(&style.frames_pair) {
        let rest = frame
            .replace("{things}", "")
            .replace("{be}", "")
            .replace("{place}", "");
        if !frame.contains("{things}") || rest.contains(['{', '}']) {
            return fail(
                name,
                format!(
                    "the frame `{frame}` must contain {{things}}, and may contain {{be}} and {{place}}"
                ),
            );
        }
    }
    for value in [
        style.place_percent,
        style.relation_percent,
        style.size_percent,
    ] {
        check_percent(name, value)?;
    }
    Ok(())
}

fn check_noise(world: &World) -> Result<(), WorldProblem> {
    let noise = &world.noise;
    let shares = noise.shares();
    for share in shares {
        check_percent("noise", share)?;
    }
    let sum: f64 = shares.iter().sum();
    if (sum - 100.0).abs() > 1e-6 {
        return fail(
            "noise",
            format!("the six shares add up to {sum}; they must add up to 100"),
        );
    }
    check_not_empty("noise.vague_places", &noise.vague_places)?;
    check_not_empty("noise.vague_colours", &noise.vague_colours)?;
    check_not_empty("noise.vague_plain", &noise.vague_plain)?;
    check_not_empty("noise.files", &noise.files)?;
    check_not_empty("noise.boilerplate", &noise.boilerplate)?;
    check_not_empty("noise.boilerplate_ends", &noise.boilerplate_ends)
}

fn check_hosts(world: &World) -> Result<(), WorldProblem> {
    let hosts = &world.hosts;
    check_distinct("hosts.pages", &hosts.pages)?;
    let label = |name: &str| {
        !name.is_empty()
            && name.len() <= 63
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !hosts.domain.split('.').all(label) || !hosts.domain.contains('.') {
        return fail(
            "hosts.domain",
            format!(
                "`{}` is not a domain; write one such as demo.test",
                hosts.domain
            ),
        );
    }
    for name in hosts.pages.iter().chain([&hosts.pictures]) {
        if !label(name) || ["quiet", "closed", "down", "slow"].contains(&name.as_str()) {
            return fail(
                "hosts.pages",
                format!("`{name}` cannot be the name of a host; use another lower-case name"),
            );
        }
    }
    if hosts.pages.contains(&hosts.pictures) {
        return fail(
            "hosts.pictures",
            format!(
                "`{}` is also a host with pages; use another name",
                hosts.pictures
            ),
        );
    }
    if !(1..=500).contains(&hosts.pictures_per_page)
        || !(1..=500).contains(&hosts.pages_per_section)
    {
        return fail(
            "hosts.pictures_per_page",
            "this and pages_per_section must be 1 to 500",
        );
    }
    if hosts.crawler.is_empty()
        || !hosts
            .crawler
            .chars()
            .all(|c| c.is_ascii_alphabetic() || c == '-' || c == '_')
    {
        return fail(
            "hosts.crawler",
            "a product token consists of letters, - and _",
        );
    }
    Ok(())
}

fn check_planted(world: &World) -> Result<(), WorldProblem> {
    let planted = &world.planted;
    let special = planted.redirected + planted.flaky + planted.harmless_tags + planted.quiet;
    if special > world.counts.pairs {
        return fail(
            "counts.pairs",
            format!(
                "{} pairs are fewer than planted.redirected, flaky, harmless_tags and quiet ({special}); give more pairs or plant fewer",
                world.counts.pairs
            ),
        );
    }
    if planted.duplicates * 2 > world.counts.pairs {
        return fail(
            "planted.duplicates",
            "at most half of the pairs can have a duplicate; plant fewer",
        );
    }
    if planted.longest_text_bytes > 64 << 20 || planted.too_many_bytes > 1 << 30 {
        return fail(
            "planted",
            "longest_text_bytes must be at most 64 MiB, too_many_bytes at most 1 GiB",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let line = World::from_toml(text, "w.toml").unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn the_shipped_world_passes_its_own_check() {
        assert_eq!(World::from_toml("", "w.toml").unwrap(), World::shipped());
    }

    #[test]
    fn an_unknown_object_lists_the_known_ones() {
        let line = error("[scenes]\nsize_px = 64\nobjects = [\"ball\",\n \"cube\"]\n");
        assert!(
            line.starts_with("w.toml, line 4, `objects`: unknown name `cube`"),
            "{line}"
        );
        for object in crate::scene::Object::ALL {
            assert!(line.contains(object.as_str()), "{line}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let line = error("[counts]\npears = 3\n");
        assert!(
            line.contains("line 2, `pears`: unknown field `pears`"),
            "{line}"
        );
        assert!(error("[sizes]\n").contains("`[sizes]`"));
    }

    #[test]
    fn missing_words_are_the_shipped_words() {
        let world = World::from_toml("[words.objects]\nball = [\"ball\", \"orb\"]\n", "w").unwrap();
        assert_eq!(
            world.words.objects[&crate::scene::Object::Ball],
            ["ball", "orb"]
        );
        assert_eq!(
            world.words.objects[&crate::scene::Object::Ring],
            ["ring", "hoop"]
        );
    }

    #[test]
    fn values_out_of_range_name_key_and_fix() {
        for (text, key) in [
            ("[scenes]\nsize_px = 8\n", "scenes.size_px"),
            ("[scenes]\ncounts = [5]\n", "scenes.counts"),
            (
                "[scenes]\nobjects = [\"ball\", \"ball\"]\n",
                "scenes.objects",
            ),
            (
                "[scenes]\nobjects = [\"ball\"]\ncolours = [\"red\"]\n",
                "scenes.colours",
            ),
            ("[counts]\nevaluation = 2000\n", "counts.evaluation"),
            ("[counts]\npairs = 10\n", "counts.pairs"),
            ("[noise]\nhonest_percent = 50.0\n", "noise"),
            (
                "[words.colours]\nred = [\"red\", \"blue\"]\n",
                "words.colours",
            ),
            ("[hosts]\ndomain = \"Demo\"\n", "hosts.domain"),
            ("[hosts]\npictures = \"shop\"\n", "hosts.pictures"),
        ] {
            let line = error(text);
            assert!(line.starts_with(&format!("w.toml, `{key}`: ")), "{line}");
        }
    }
}
