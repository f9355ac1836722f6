//! `docs/pipeline.md`, made from the docs of the fields, their defaults and the rules that `check`
//! states. A test holds the file to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::Kind;
use crate::Pipeline;
use crate::check::{Check, Rule};

const EXAMPLES: &str = include_str!("examples.toml");

/// The sources that hold structs of the pipeline file.
const SOURCES: &[&str] = &[
    include_str!("crawl.rs"),
    include_str!("import.rs"),
    include_str!("model.rs"),
    include_str!("curate.rs"),
    include_str!("balance.rs"),
    include_str!("tokenizer.rs"),
    include_str!("train.rs"),
    include_str!("architecture.rs"),
    include_str!("validation.rs"),
    include_str!("caption.rs"),
    include_str!("filter.rs"),
    include_str!("evaluate.rs"),
    include_str!("augmentation.rs"),
    include_str!("storing.rs"),
    include_str!("source.rs"),
    include_str!("decoding.rs"),
    include_str!("distillation.rs"),
    include_str!("towers.rs"),
    include_str!("../row.rs"),
];

/// Structs of kinds, by the name of the kind; then tables that stand within them.
const KINDS: [(&str, &str); 10] = [
    ("crawl", "Crawl"),
    ("import", "Import"),
    ("model", "GivenModel"),
    ("curate", "Curate"),
    ("balance", "Balance"),
    ("tokenizer", "Tokenizer"),
    ("train", "Train"),
    ("caption", "Caption"),
    ("filter", "Filter"),
    ("evaluate", "Evaluate"),
];

/// Tables within stages: the title, the struct, and the stage and key of an example.
const TABLES: [(&str, &str, &str, &str); 12] = [
    ("storing", "Storing", "web", "storing"),
    ("data", "Source", "words", "data[]"),
    ("architecture", "Architecture", "blip", "architecture"),
    ("towers", "Towers", "blip", "towers"),
    ("momentum", "Distillation", "blip", "momentum"),
    ("augment", "Augmentation", "blip", "augment"),
    ("randaugment", "RandAugment", "blip", "augment.randaugment"),
    ("validate", "Validation", "blip", "validate"),
    ("decoding", "Decoding", "captions", "decoding"),
    ("retrieval", "Retrieval", "figures", "retrieval"),
    ("captioning", "Captioning", "figures", "captioning"),
    ("zero_shot", "ZeroShot", "figures", "zero_shot"),
];

/// Defaults of keys that are left out of the stored settings while they have them, so that recipes
/// made before the keys existed stay valid.
const UNSTORED_DEFAULTS: [(&str, &str); 5] = [
    ("no_repeat_ngram", "`0`"),
    ("dropout", "`0`"),
    ("texts", "`\"optional\"`"),
    ("bytes_per_file", "`268435456`"),
    ("keep", "`\"last\"`"),
];

#[derive(Debug, Clone)]
struct Field {
    name: String,
    doc: String,
    type_name: String,
    has_default: bool,
}

/// The fields of a struct of the sources. They are formatted by rustfmt, so a field is its doc
/// lines, its attributes and one `pub name: Type,`.
fn fields(name: &str) -> Vec<Field> {
    let head = format!("pub struct {name} {{");
    let source = SOURCES.iter().find(|source| source.contains(&head));
    let source = source.unwrap_or_else(|| panic!("no struct {name}"));
    let at = source.find(&head).unwrap();
    let whole_default = source[..at].ends_with("default)]\n");
    let body = source[at..].split_once("{\n").unwrap().1;
    let body = body.split_once("\n}").unwrap().0;
    let (mut doc, mut has_default) = (String::new(), false);
    let mut fields = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(text.trim());
        } else if line.starts_with("#[serde(") {
            has_default |= line.contains("default");
        } else if let Some((name, type_name)) = line
            .strip_prefix("pub ")
            .and_then(|line| line.split_once(": "))
        {
            fields.push(Field {
                name: name.to_owned(),
                doc: std::mem::take(&mut doc),
                type_name: type_name.trim_end_matches(',').to_owned(),
                has_default: std::mem::take(&mut has_default) || whole_default,
            });
        }
    }
    fields
}

/// The variants of an enum of the sources, as the file writes them.
fn variants(name: &str) -> Option<Vec<String>> {
    let head = format!("pub enum {name} {{");
    let source = SOURCES.iter().find(|source| source.contains(&head))?;
    let at = source.find(&head)?;
    let body = source[at..].split_once("{\n")?.1.split_once("\n}")?.0;
    let variants = body.lines().filter(|line| {
        let text = line.trim_start();
        line.len() - text.len() == 4 && text.starts_with(|c: char| c.is_ascii_uppercase())
    });
    let written = variants.map(|line| {
        let name: String = line
            .trim()
            .chars()
            .take_while(|c| c.is_alphanumeric())
            .collect();
        let mut text = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.extend(c.to_lowercase());
        }
        text
    });
    Some(written.collect())
}

fn type_text(type_name: &str) -> String {
    let inner = |prefix: &str| {
        let rest = type_name.strip_prefix(prefix)?;
        rest.strip_suffix('>').map(str::to_owned)
    };
    if let Some(inner) = inner("Option<") {
        return type_text(&inner);
    }
    if let Some(inner) = inner("Vec<") {
        return format!("list of {}", type_text(&inner));
    }
    if let Some((_, _, _, _)) = TABLES.iter().find(|(_, name, _, _)| *name == type_name) {
        let (title, ..) = TABLES
            .iter()
            .find(|(_, name, _, _)| *name == type_name)
            .unwrap();
        return format!("[table](#table-{title})");
    }
    match type_name {
        "u8" | "u32" | "u64" | "usize" => "integer".to_owned(),
        "f32" | "f64" => "number".to_owned(),
        "[f64; 2]" => "two numbers".to_owned(),
        "String" => "text".to_owned(),
        "bool" => "`true` or `false`".to_owned(),
        "StageName" => "stage".to_owned(),
        "DatasetName" => "dataset".to_owned(),
        "ModelDigest" => "digest".to_owned(),
        "Strategy" => "`{ strategy = \"greedy\" }`, `{ strategy = \"beam\", beams = N }` or \
                       `{ strategy = \"nucleus\", top_p = P, temperature = T, top_k = K }`"
            .to_owned(),
        "ValidationMetric" => "`r_at_1`, `r_at_5`, `r_at_10`, `cider`, `accuracy`".to_owned(),
        name => {
            let variants = variants(name).unwrap_or_else(|| panic!("unknown type {name}"));
            let variants: Vec<String> = variants.iter().map(|name| format!("`{name}`")).collect();
            variants.join(", ")
        }
    }
}

/// The examples, each stage by name.
fn examples() -> Pipeline {
    Pipeline::from_toml(EXAMPLES, "examples.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn example(stage: &str) -> Kind {
    examples().stage(&stage.into()).unwrap().kind.clone()
}

fn example_of(kind: &str) -> (String, Kind) {
    let pipeline = examples();
    let stage = pipeline
        .stages
        .iter()
        .find(|stage| stage.kind.name() == kind);
    let stage = stage.unwrap_or_else(|| panic!("no example of {kind}"));
    (stage.name.to_string(), stage.kind.clone())
}

fn rules(kind: &Kind) -> Vec<Rule> {
    let mut check = Check::default();
    kind.settings().check(&mut check);
    check.rules().to_vec()
}

/// What a key may be, from the rules of the stage.
fn allowed(rules: &[Rule], key: &str, type_name: &str) -> String {
    let texts: Vec<&str> = rules
        .iter()
        .filter(|rule| rule.key == key)
        .map(|rule| rule.text.as_str())
        .collect();
    match (texts.is_empty(), type_name.contains("StageName")) {
        (true, true) => "the name of a stage that gives what is read".to_owned(),
        _ => texts.join("; "),
    }
}

/// The value that a key has where it is left out, from the settings as they are stored.
fn default_of(kind: &Kind, path: &[&str]) -> String {
    let mut value = serde_json::to_value(kind).unwrap();
    let (last, parents) = path.split_last().unwrap();
    let mut table = &mut value;
    for key in parents {
        table = match key.strip_suffix("[]") {
            Some(list) => &mut table[list][0],
            None => &mut table[*key],
        };
    }
    table.as_object_mut().unwrap().remove(*last);
    let kind: Kind = serde_json::from_value(value).unwrap();
    let mut value = serde_json::to_value(&kind).unwrap();
    for key in path {
        value = match key.strip_suffix("[]") {
            Some(list) => value[list][0].take(),
            None => value[*key].take(),
        };
    }
    match value {
        serde_json::Value::Null => {
            let unstored = UNSTORED_DEFAULTS.iter().find(|(key, _)| key == last);
            unstored.map_or("none", |(_, default)| *default).to_owned()
        }
        serde_json::Value::Object(_) => "its defaults".to_owned(),
        // Single-precision values are stored with more digits than the file has.
        serde_json::Value::Number(number) if number.is_f64() => {
            format!("`{}`", number.as_f64().unwrap() as f32)
        }
        value => format!("`{value}`"),
    }
}

fn table_of(text: &mut String, struct_name: &str, kind: &Kind, path: &[&str]) {
    let rules = rules(kind);
    text.push_str("| Key | Type | Default | Allowed | Meaning |\n|---|---|---|---|---|\n");
    for field in fields(struct_name) {
        let mut path = path.to_vec();
        path.push(&field.name);
        let default = match field.has_default {
            true => default_of(kind, &path),
            false => "required".to_owned(),
        };
        let allowed = match field.type_name.as_str() {
            "Strategy" => {
                let choose = "beams: 1 to 1000; top_p: over 0 and at most 1; temperature (1): over 0 \
                              and at most 100; top_k (0, which is all): 0 to 1000000";
                choose.to_owned()
            }
            type_name => allowed(&rules, &path.join("."), type_name),
        };
        let Field {
            name,
            doc,
            type_name,
            ..
        } = &field;
        let type_name = type_text(type_name);
        writeln!(
            text,
            "| `{name}` | {type_name} | {default} | {allowed} | {doc} |"
        )
        .unwrap();
    }
    text.push('\n');
}

/// The part of the examples that describes one stage.
fn example_text(stage: &str) -> &'static str {
    let name = format!("name = \"{stage}\"\n");
    let at = EXAMPLES.find(&name).unwrap() - "[[stage]]\n".len();
    let rest = &EXAMPLES[at..];
    let end = rest["[[stage]]".len()..].find("\n[[stage]]");
    rest[..end.map_or(rest.len(), |end| end + "[[stage]]".len())].trim_end()
}

const HEAD: &str = r#"# Pipeline files

A pipeline is a TOML file of stages that read one another's outputs by name. `capstan check FILE`
reads it and lists everything that is wrong, each with file, line, key, value and what is allowed;
`capstan run FILE` checks the same before anything is written. This page is generated from the
program: `CAPSTAN_WRITE_GOLDENS=1 cargo test --workspace reference`.

At the top of a file:

| Key | Type | Default | Meaning |
|---|---|---|---|
| `name` | text | required | Name of the pipeline; run ids begin with it. |
| `seed` | integer | `0` | Seed of every draw; `--seed` gives another. |
| `max_quarantined` | integer | `0` | Shards that a stage may lose before the run fails. |
| `architectures`, `decodings`, `templates`, `training` | tables | none | [Named tables](#named-tables). |
| `stage` | list of tables | required | The stages, each a `[[stage]]`. |

In every stage:

| Key | Type | Default | Meaning |
|---|---|---|---|
| `name` | text | required | Unique; later stages read the stage by it. |
| `kind` | text | required | One of the kinds below. |
| `max_quarantined` | integer | the file's | Shards that this stage may lose. |
| `device` | text | the most common kind among the workers | What its models compute on (`cpu-avx512`, `cpu-avx2`, `cuda-sm90` ...): part of the recipe, since results differ by it; only workers of that kind lease its tasks. For `train`, `caption`, `filter`, `evaluate`. |

"#;

const NAMED: &str = r#"## Named tables

Settings that several stages share are written once at the top and named by the stages. Recipes hold
effective settings, so naming changes no result.

- `architecture = "NAME"` stands for `[architectures.NAME]`, `decoding = "NAME"` for
  `[decodings.NAME]`, `templates = "NAME"` for the list `NAME` under `[templates]`.
- Architectures of published models need no table: `vit-b-32`, `vit-b-16`, `vit-l-14` (CLIP),
  `blip-base`, `blip-large`. `architecture = { like = "blip-base", image_size = 384 }` is a named one
  with other values for the keys that it sets.
- `training = "NAME"` in a `train` stage adds the keys of `[training.NAME]` that the stage does not
  set itself.

"#;

fn reference() -> String {
    let mut text = HEAD.to_owned();
    text.push_str(NAMED);
    let end = EXAMPLES.find("\n[[stage]]").unwrap();
    write!(text, "```toml\n{}\n```\n\n", EXAMPLES[..end].trim_end()).unwrap();
    for (kind, struct_name) in KINDS {
        let (stage, example) = example_of(kind);
        let source = SOURCES
            .iter()
            .find(|source| source.contains(&format!("pub struct {struct_name} {{")))
            .unwrap();
        let summary = source.lines().next().unwrap();
        let summary = summary.split_once("`: ").unwrap().1;
        let (first, rest) = summary.split_at(1);
        let summary = first.to_uppercase() + rest;
        writeln!(text, "## `kind = \"{kind}\"`\n\n{summary}\n").unwrap();
        table_of(&mut text, struct_name, &example, &[]);
        write!(text, "```toml\n{}\n```\n\n", example_text(&stage)).unwrap();
    }
    for (title, struct_name, stage, key) in TABLES {
        writeln!(text, "## Table `{title}`\n").unwrap();
        let path: Vec<&str> = key.split('.').collect();
        table_of(&mut text, struct_name, &example(stage), &path);
    }
    text.trim_end().to_owned() + "\n"
}

#[test]
fn reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pipeline.md");
    let expected = reference();
    if std::env::var_os("CAPSTAN_WRITE_GOLDENS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == expected,
        "docs/pipeline.md is not what the program says: write it again with \
         CAPSTAN_WRITE_GOLDENS=1 cargo test --workspace reference"
    );
}

/// Every key of every kind, with its type: the path within the stage, lists by their first item.
fn keys(struct_name: &str, prefix: &str) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    for field in fields(struct_name) {
        let path = format!("{prefix}{}", field.name);
        let type_name = field
            .type_name
            .trim_start_matches("Option<")
            .trim_end_matches('>');
        let table = type_name.trim_start_matches("Vec<");
        match TABLES.iter().find(|(_, name, _, _)| *name == table) {
            Some((_, name, _, _)) => {
                let list = if type_name.starts_with("Vec<") {
                    "[0]"
                } else {
                    ""
                };
                keys.push((path.clone(), type_name.to_owned()));
                keys.extend(self::keys(name, &format!("{path}{list}.")));
            }
            None => keys.push((path, type_name.to_owned())),
        }
    }
    keys
}

/// Values of a type that a rule may refuse, as TOML.
fn candidates(type_name: &str) -> Vec<toml::Value> {
    let texts: &[&str] = match type_name {
        "u8" | "u32" | "u64" | "usize" => &["0", "9223372036854775807", "7"],
        "f32" | "f64" => &["-1.0", "nan", "inf"],
        "[f64; 2]" => &["[2.0, 0.5]"],
        "String" | "DatasetName" | "StageName" => &["\"\"", "\"No such name\""],
        "ModelDigest" => &["\"abc\""],
        "Strategy" => &[
            "{ strategy = \"nucleus\", top_p = 9.0 }",
            "{ strategy = \"beam\", beams = 0 }",
        ],
        "bool" => &[],
        list if list.starts_with("Vec") => &["[]"],
        "Architecture" | "Augmentation" | "RandAugment" | "Decoding" | "Distillation"
        | "Storing" | "Retrieval" | "Captioning" | "ZeroShot" | "Validation" | "Towers" => {
            &["{ no_such_key = 1 }"]
        }
        _ => &["\"no such variant\""],
    };
    let parse = |text: &&str| {
        let table: toml::Table = format!("x = {text}").parse().unwrap();
        table["x"].clone()
    };
    texts.iter().map(parse).collect()
}

fn set(value: &mut toml::Value, path: &str, to: toml::Value) {
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    let slot = match head.strip_suffix("[0]") {
        Some(list) => &mut value[list][0],
        None => value
            .as_table_mut()
            .unwrap()
            .entry(head)
            .or_insert(toml::Value::Table(toml::Table::new())),
    };
    match rest {
        "" => *slot = to,
        rest => set(slot, rest, to),
    }
}

/// The examples as plain TOML, with named tables put in.
fn plain_examples() -> toml::Table {
    let value = serde_json::to_value(examples()).unwrap();
    serde_json::from_value(value).unwrap()
}

#[test]
fn every_key_refuses_a_value_or_says_why_it_takes_any() {
    let mut open = BTreeMap::new();
    for (kind, struct_name) in KINDS {
        let (stage, example) = example_of(kind);
        let rules = rules(&example);
        for (key, type_name) in keys(struct_name, "") {
            let generic = key.replace("[0]", "[]");
            let any = rules
                .iter()
                .any(|rule| rule.key == generic && !rule.refuses);
            let refused = candidates(&type_name).into_iter().any(|candidate| {
                let mut file = plain_examples();
                let stages = file["stage"].as_array_mut().unwrap();
                let table = stages
                    .iter_mut()
                    .find(|s| s["name"].as_str() == Some(&stage));
                set(table.unwrap(), &key, candidate);
                let text = toml::to_string(&file).unwrap();
                let Err(error) = Pipeline::from_toml(&text, "x.toml") else {
                    return false;
                };
                let top = key.split(['.', '[']).next().unwrap();
                error.problems.iter().any(|problem| {
                    problem.stage.as_deref() == Some(&stage) && problem.key.starts_with(top)
                })
            });
            if !refused && !any {
                open.insert(format!("{kind}.{key}"), type_name);
            }
        }
    }
    assert!(open.is_empty(), "keys without a rule: {open:#?}");
}

#[test]
fn plain_examples_mean_the_same() {
    let text = toml::to_string(&plain_examples()).unwrap();
    let plain = Pipeline::from_toml(&text, "plain.toml").unwrap();
    assert_eq!(plain, examples());
}
