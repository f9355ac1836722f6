//! From the text of a pipeline file to settings, with the line of everything that is wrong.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Pipeline;
use super::named::Named;
use crate::check::{Check, Problem};
use crate::id::StageName;
use crate::stage::{Kind, Stage};

/// Keys at the top of a file, but for the named tables.
const TOP: [&str; 4] = ["name", "seed", "max_quarantined", "stage"];

/// Reads and checks a pipeline file.
///
/// # Errors
/// Every problem, in the order of the file.
pub(super) fn read(text: &str) -> Result<Pipeline, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let source = Source { text };
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| {
            Problem::new(error.message()).on_line(error.span().map(|span| source.line(&span)))
        };
        return Err(errors.iter().map(problem).collect());
    }
    let mut reader = Reader {
        source,
        problems: Vec::new(),
        unread: BTreeSet::new(),
    };
    let (pipeline, tables) = reader.document(document.into_inner());
    let mut problems = reader.problems;
    let whole = pipeline.problems(&reader.unread);
    problems.extend(whole.into_iter().map(|problem| {
        let table = tables
            .iter()
            .find(|(name, _)| Some(name) == problem.stage.as_ref());
        let line = table.map(|(_, table)| source.line(&table.place(&problem.key)));
        problem.on_line(line)
    }));
    if problems.is_empty() {
        return Ok(pipeline);
    }
    problems.sort_by_key(|problem| problem.line.unwrap_or(0));
    Err(problems)
}

/// The text that offsets refer to.
#[derive(Clone, Copy)]
struct Source<'t> {
    text: &'t str,
}

impl Source<'_> {
    /// The line of an offset, from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        let end = span.start.min(self.text.len());
        1 + self.text.as_bytes()[..end]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
    }

    /// The text of a value on one line, cut after 60 characters.
    fn excerpt(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(60) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }
}

/// A table of the file with the place where it begins.
struct Table<'t> {
    begin: Range<usize>,
    entries: DeTable<'t>,
}

impl<'t> Table<'t> {
    /// Where a key stands; the beginning of the innermost table that is there, where it does not.
    fn place(&self, key: &str) -> Range<usize> {
        let mut place = self.begin.clone();
        let mut table = Some(&self.entries);
        let mut items = None;
        for segment in key.split(['.', '[']).filter(|segment| !segment.is_empty()) {
            let found = match segment.strip_suffix(']') {
                None => table.and_then(|table| table.get_key_value(segment)),
                Some(index) => {
                    let item = index.parse().ok().and_then(|index: usize| {
                        items.and_then(|items: &toml::de::DeArray<'t>| items.get(index))
                    });
                    let Some(item) = item else { break };
                    place = item.span();
                    (table, items) = (item.get_ref().as_table(), item.get_ref().as_array());
                    continue;
                }
            };
            let Some((name, value)) = found else { break };
            place = name.span();
            (table, items) = (value.get_ref().as_table(), value.get_ref().as_array());
        }
        place
    }

    /// Whether the file writes this key, or the table that it belongs to.
    fn has(&self, key: &str) -> bool {
        let top = key.split(['.', '[']).next().unwrap_or(key);
        self.entries.contains_key(top)
    }

    /// The key at the top of this table below which a span lies, and the whole path to it.
    fn key_at(&self, span: &Range<usize>) -> Option<(String, String, Range<usize>)> {
        self.entries.iter().find_map(|(name, value)| {
            let name_text = name.get_ref().to_string();
            if contains(&name.span(), span) {
                return Some((name_text.clone(), name_text, value.span()));
            }
            let (path, at) = path_at(value, span)?;
            let path = match path.is_empty() || path.starts_with('[') {
                true => format!("{name_text}{path}"),
                false => format!("{name_text}.{path}"),
            };
            Some((name_text, path, at))
        })
    }
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The path below `value` to the innermost value that holds `span`.
fn path_at(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<(String, Range<usize>)> {
    let join = |head: String, (tail, at): (String, Range<usize>)| match tail.as_str() {
        "" => (head, at),
        tail if tail.starts_with('[') => (format!("{head}{tail}"), at),
        tail => (format!("{head}.{tail}"), at),
    };
    let inner = match value.get_ref() {
        DeValue::Table(table) => table.iter().find_map(|(name, value)| {
            let head = name.get_ref().to_string();
            match contains(&name.span(), span) {
                true => Some((head, value.span())),
                false => path_at(value, span).map(|tail| join(head, tail)),
            }
        }),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(place, item)| {
            path_at(item, span).map(|tail| join(format!("[{place}]"), tail))
        }),
        _ => None,
    };
    inner.or_else(|| contains(&value.span(), span).then(|| (String::new(), value.span())))
}

/// Reads stage after stage and collects what is wrong.
struct Reader<'t> {
    source: Source<'t>,
    problems: Vec<Problem>,
    /// Names of stages whose settings could not be read.
    unread: BTreeSet<String>,
}

impl<'t> Reader<'t> {
    fn document(&mut self, mut top: DeTable<'t>) -> (Pipeline, Vec<(String, Table<'t>)>) {
        let named = Named::take(&mut top);
        for (key, value) in &top {
            if !TOP.contains(&key.get_ref().as_ref()) {
                let known = TOP.iter().chain(Named::KEYS).copied();
                let known = known.collect::<Vec<_>>().join(", ");
                let problem = Problem::new(format!("unknown key; known are {known}"))
                    .at(key.get_ref().to_string())
                    .with_value(self.source.excerpt(&value.span()));
                self.report(problem, &key.span());
            }
        }
        let stages = top.remove("stage");
        let name: Option<String> = self.value(&mut top, "name", None);
        if name.is_none() && self.problems.is_empty() {
            self.problems.push(Problem::new("needs `name = \"...\"`"));
        }
        let mut pipeline = Pipeline {
            name: name.unwrap_or_else(|| "unnamed".to_owned()),
            seed: self.value(&mut top, "seed", None).unwrap_or(0),
            max_quarantined: self.value(&mut top, "max_quarantined", None).unwrap_or(0),
            stages: Vec::new(),
        };
        let mut tables = Vec::new();
        let stages = stages.map(|stages| (stages.span(), stages.into_inner()));
        match stages {
            None => {}
            Some((_, DeValue::Array(items))) => {
                for (place, item) in items.into_iter().enumerate() {
                    if let Some((stage, table)) = self.stage(item, place, &named) {
                        tables.push((stage.name.to_string(), table));
                        pipeline.stages.push(stage);
                    }
                }
            }
            Some((span, _)) => {
                let problem = Problem::new("stages are written as [[stage]]").at("stage");
                self.report(problem, &span);
            }
        }
        (pipeline, tables)
    }

    /// One stage; `None` where it cannot be read.
    fn stage(
        &mut self,
        item: Spanned<DeValue<'t>>,
        place: usize,
        named: &Named<'t>,
    ) -> Option<(Stage, Table<'t>)> {
        let begin = item.span();
        let DeValue::Table(mut entries) = item.into_inner() else {
            self.report(Problem::new("stages are written as [[stage]]"), &begin);
            return None;
        };
        let numbered = format!("#{}", place + 1);
        let before = self.problems.len();
        let name: Option<String> = self.value(&mut entries, "name", Some(&numbered));
        let Some(name) = name else {
            if self.problems.len() == before {
                let problem = Problem::new("needs `name = \"...\"`");
                self.report(problem.of_stage(numbered), &begin);
            }
            return None;
        };
        let before = self.problems.len();
        let kind: Option<String> = self.value(&mut entries, "kind", Some(&name));
        let max_quarantined = self.value(&mut entries, "max_quarantined", Some(&name));
        let device = self.value(&mut entries, "device", Some(&name));
        if kind.is_none() && self.problems.len() == before {
            self.report(
                Problem::new("needs `kind = \"...\"`").of_stage(&name),
                &begin,
            );
        }
        let missing = kind.as_deref().map(|kind| named.put_in(kind, &mut entries));
        let missing = missing.unwrap_or_default();
        let kind = kind.filter(|_| missing.is_empty());
        for (problem, span) in missing {
            self.report(problem.of_stage(&name), &span);
        }
        let table = Table { begin, entries };
        let before = self.problems.len();
        let kind = kind.and_then(|kind| self.kind(&kind, &name, &table));
        let is_whole = self.problems.len() == before;
        let Some(kind) = kind else {
            self.unread.insert(name);
            return None;
        };
        let mut check = Check::default();
        kind.settings().check(&mut check);
        for problem in check.into_problems() {
            // Where a key could not be read, others may only seem to be missing.
            if is_whole || table.has(&problem.key) {
                let place = table.place(&problem.key);
                self.report(problem.of_stage(&name), &place);
            }
        }
        let stage = Stage {
            name: StageName::from(name),
            max_quarantined,
            device,
            kind,
        };
        Some((stage, table))
    }

    /// The settings of a stage. Keys that cannot be read are left out one by one, so that each of
    /// them is reported.
    fn kind(&mut self, kind: &str, stage: &str, table: &Table<'t>) -> Option<Kind> {
        let mut entries = table.entries.clone();
        let mut found_any = false;
        loop {
            let value = Spanned::new(table.begin.clone(), DeValue::Table(entries.clone()));
            let Some(read) = Kind::read(kind, ValueDeserializer::from(value)) else {
                let known = Kind::NAMES.join(", ");
                let problem = Problem::new(format!("unknown kind; known are {known}"))
                    .of_stage(stage)
                    .at("kind")
                    .with_value(format!("{kind:?}"));
                self.report(problem, &table.begin);
                return None;
            };
            let error = match read {
                Ok(kind) => return Some(kind),
                Err(error) => error,
            };
            let at = error.span().and_then(|span| table.key_at(&span));
            let Some((top, path, at)) = at else {
                // A key that was left out above may be a required one.
                if !found_any {
                    self.report(Problem::new(error.message()).of_stage(stage), &table.begin);
                }
                return None;
            };
            entries.remove(top.as_str())?;
            found_any = true;
            let problem = Problem::new(error.message())
                .of_stage(stage)
                .at(path)
                .with_value(self.source.excerpt(&at));
            self.report(problem, &at);
        }
    }

    /// Takes a key out of a table and reads it; `None` where it is not there or is of another type.
    fn value<T: DeserializeOwned>(
        &mut self,
        table: &mut DeTable<'t>,
        key: &str,
        stage: Option<&str>,
    ) -> Option<T> {
        let value = table.remove(key)?;
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(value),
            Err(error) => {
                let problem = Problem::new(error.message())
                    .at(key)
                    .with_value(self.source.excerpt(&span));
                let problem = match stage {
                    Some(stage) => problem.of_stage(stage),
                    None => problem,
                };
                self.report(problem, &span);
                None
            }
        }
    }

    fn report(&mut self, problem: Problem, span: &Range<usize>) {
        let line = Some(self.source.line(span));
        self.problems.push(problem.on_line(line));
    }
}

/// The text of a value that is one.
pub(super) fn as_text<'a>(value: &'a Spanned<DeValue<'_>>) -> Option<Cow<'a, str>> {
    value.get_ref().as_str().map(Cow::Borrowed)
}
