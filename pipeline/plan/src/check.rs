//! What is checked before a run: every value of every setting, and where it stands in the file.
//!
//! Each kind of stage states the rules of its settings in `check`, next to the settings. A rule is
//! recorded whether it holds or not, so that the reference in `docs/pipeline.md` lists what the
//! program enforces.

use std::fmt;
use std::ops::{Bound, RangeBounds};

/// One thing that is wrong with a pipeline, with the place of its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The stage by name, or by place where it has none; `None` for the file as a whole.
    pub stage: Option<String>,
    /// The key as a path, such as `decoding.choose.top_p`; empty for the stage as a whole.
    pub key: String,
    /// The value as the program read it, where there is one.
    pub value: Option<String>,
    /// What is wrong and what is allowed instead.
    pub reason: String,
    /// The line of the file, from 1, where it is known.
    pub line: Option<usize>,
}

impl Problem {
    /// A problem of the file or of a stage as a whole.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            stage: None,
            key: String::new(),
            value: None,
            reason: reason.into(),
            line: None,
        }
    }

    pub(crate) fn of_stage(self, stage: impl fmt::Display) -> Self {
        let stage = Some(stage.to_string());
        Self { stage, ..self }
    }

    pub(crate) fn at(self, key: impl Into<String>) -> Self {
        let key = key.into();
        Self { key, ..self }
    }

    pub(crate) fn with_value(self, value: impl fmt::Display) -> Self {
        let value = Some(value.to_string());
        Self { value, ..self }
    }

    pub(crate) fn on_line(self, line: Option<usize>) -> Self {
        Self { line, ..self }
    }
}

impl fmt::Display for Problem {
    /// ``stage `caption`: `decoding.choose.top_p = 9.0`: must be over 0 and at most 1``, without the
    /// file and the line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stage) = &self.stage {
            write!(f, "stage `{stage}`: ")?;
        }
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, None) => write!(f, "`{key}`: ")?,
            (key, Some(value)) => write!(f, "`{key} = {value}`: ")?,
        }
        f.write_str(&self.reason)
    }
}

/// A rule that a key is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The key as a path within the stage.
    pub key: String,
    /// The rule in words: `1 to 100`.
    pub text: String,
    /// Whether some values are refused. `false` where any value is fine and `text` says why.
    pub refuses: bool,
}

/// Collects the rules of one stage's settings and the values that break them.
#[derive(Debug, Default)]
pub struct Check {
    prefix: String,
    rules: Vec<Rule>,
    problems: Vec<Problem>,
}

impl Check {
    /// The rules in the order in which they were stated, for the reference of all keys.
    #[cfg(test)]
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The values that break a rule.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// States that any value of `key` is fine, and why.
    pub fn any(&mut self, key: &str, reason: &str) {
        self.record(key, reason, false);
    }

    /// States a rule of `key` in words.
    ///
    /// - `holds`: whether `value` keeps it.
    pub fn rule(&mut self, key: &str, value: impl fmt::Display, holds: bool, text: &str) {
        self.record(key, text, true);
        if !holds {
            let problem = Problem::new(format!("must be {text}"));
            self.problems
                .push(problem.at(self.path(key)).with_value(value));
        }
    }

    /// States that an integer lies within bounds.
    pub fn integer<T: PartialOrd + fmt::Display + Copy>(
        &mut self,
        key: &str,
        value: T,
        range: impl RangeBounds<T>,
    ) {
        let holds = range.contains(&value);
        self.rule(key, value, holds, &bounds_text(&range));
    }

    /// States that a number is finite and lies within bounds.
    pub fn number(&mut self, key: &str, value: f64, range: impl RangeBounds<f64>) {
        let holds = value.is_finite() && range.contains(&value);
        self.rule(key, format!("{value:?}"), holds, &bounds_text(&range));
    }

    /// States how many items a list has; `what` names them.
    pub fn count<T>(&mut self, key: &str, items: &[T], most: usize, what: &str) {
        let holds = (1..=most).contains(&items.len());
        let value = format!("[{} {what}]", items.len());
        self.rule(key, value, holds, &format!("1 to {most} {what}"));
    }

    /// States that a text is not empty and has at most `most` bytes.
    pub fn text(&mut self, key: &str, value: &str, most: usize) {
        let holds = (1..=most).contains(&value.len());
        let shown = format!("{:?}", value.chars().take(60).collect::<String>());
        self.rule(key, shown, holds, &format!("1 to {most} bytes"));
    }

    /// States that a text can name a dataset or a pipeline: it becomes part of object names.
    pub fn name(&mut self, key: &str, value: &str) {
        let text = "1 to 100 lower-case letters, digits, `-` and `_`";
        let holds = value.len() <= 100 && is_name(value);
        self.rule(key, format!("{value:?}"), holds, text);
    }

    /// States the rules of a table below `key`.
    pub fn table(&mut self, key: &str, rules: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.prefix);
        self.prefix = format!("{outer}{key}.");
        rules(self);
        self.prefix = outer;
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn record(&mut self, key: &str, text: &str, refuses: bool) {
        let rule = Rule {
            key: self.path(key),
            text: text.to_owned(),
            refuses,
        };
        self.rules.push(rule);
    }
}

/// Whether a text consists of lower-case letters, digits, `-` and `_`.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    !text.is_empty() && text.bytes().all(plain)
}

/// `1 to 100`, `at least 1`, `over 0 and at most 1`.
fn bounds_text<T: fmt::Display>(range: &impl RangeBounds<T>) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(low), Bound::Included(high)) => format!("{low} to {high}"),
        (Bound::Unbounded, Bound::Unbounded) => "any finite number".to_owned(),
        (low, high) => {
            let low = match low {
                Bound::Included(low) => Some(format!("at least {low}")),
                Bound::Excluded(low) => Some(format!("over {low}")),
                Bound::Unbounded => None,
            };
            let high = match high {
                Bound::Included(high) => Some(format!("at most {high}")),
                Bound::Excluded(high) => Some(format!("below {high}")),
                Bound::Unbounded => None,
            };
            let both: Vec<String> = low.into_iter().chain(high).collect();
            both.join(" and ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_stated_in_words() {
        assert_eq!(bounds_text(&(1..=100)), "1 to 100");
        assert_eq!(bounds_text(&(1..)), "at least 1");
        assert_eq!(
            bounds_text(&(Bound::Excluded(0.0), Bound::Included(1.0))),
            "over 0 and at most 1"
        );
        assert_eq!(bounds_text(&(..5)), "below 5");
        assert_eq!(bounds_text::<f64>(&(..)), "any finite number");
    }

    #[test]
    fn a_broken_rule_is_a_problem_with_its_path_and_value() {
        let mut check = Check::default();
        check.table("decoding", |check| {
            check.table("choose", |check| check.number("top_p", 9.0, 0.0..=1.0));
            check.integer("max_tokens", 20, 1..=512);
        });
        check.any("blind", "both are meant");
        assert_eq!(check.rules().len(), 3);
        let problems: Vec<String> = check
            .into_problems()
            .iter()
            .map(Problem::to_string)
            .collect();
        assert_eq!(problems, ["`decoding.choose.top_p = 9.0`: must be 0 to 1"]);
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut check = Check::default();
            check.number("x", value, ..);
            assert_eq!(check.into_problems().len(), 1, "{value}");
        }
    }
}
