//! robots.txt by RFC 9309.
//!
//! Beyond the RFC: `Crawl-delay` in seconds (a floor for pacing), and what Google's
//! parser forgives: a missing colon, spaces before it, a byte order mark, any line end.

use std::time::Duration;

use capstan_plan::reject::RejectCode;
use url::Url;

use crate::reject::RejectReason;

/// Bytes of a file that are read (RFC 9309, 2.5: at least 500 KiB).
pub(crate) const MAX_ROBOTS_BYTES: usize = 500 << 10;

/// What a host asks of our crawler.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Robots {
    /// The rules that bind us.
    Rules(Rules),
    /// The file could not be had: nothing may be fetched.
    Unreachable(RejectReason),
}

/// The rules of the groups that bind us.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    crawl_delay: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    allow: bool,
    /// Percent-encoding normalised.
    pattern: String,
}

impl Robots {
    pub(crate) fn allow_all() -> Self {
        Self::Rules(Rules::default())
    }

    /// A host at an address that we do not go to is refused as such, all else as `robots`.
    pub(crate) fn unreachable(why: RejectReason) -> Self {
        let code = match why.code {
            RejectCode::Address => RejectCode::Address,
            _ => RejectCode::Robots,
        };
        let detail = format!("robots.txt cannot be had: {}", why.detail);
        Self::Unreachable(RejectReason { code, detail })
    }

    /// Reads the rules for `user_agent`, a product token.
    pub(crate) fn parse(file: &[u8], user_agent: &str) -> Self {
        Self::Rules(parse(file, user_agent))
    }

    pub(crate) fn crawl_delay(&self) -> Option<Duration> {
        match self {
            Self::Rules(rules) => rules.crawl_delay,
            Self::Unreachable(_) => None,
        }
    }

    /// Whether `url` may be fetched; if not, why.
    pub(crate) fn check(&self, url: &Url) -> Result<(), RejectReason> {
        match self {
            Self::Unreachable(why) => Err(why.clone()),
            Self::Rules(rules) => {
                let checked = rules.check(url);
                checked.map_err(|why| RejectReason::new(RejectCode::Robots, why))
            }
        }
    }
}

impl Rules {
    fn check(&self, url: &Url) -> Result<(), String> {
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        if path == "/robots.txt" {
            return Ok(());
        }
        let path = normalise(path.as_bytes());
        let matching = self
            .rules
            .iter()
            .filter(|rule| matches(&rule.pattern, &path));
        // The longest wins, Allow among equals (2.2.2).
        match matching.max_by_key(|rule| (rule.pattern.len(), rule.allow)) {
            Some(rule) if !rule.allow => Err(format!("robots.txt: Disallow: {}", rule.pattern)),
            _ => Ok(()),
        }
    }
}

/// Which of our groups an agent line opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Bound {
    ours: bool,
    everyone: bool,
}

fn parse(file: &[u8], user_agent: &str) -> Rules {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let (mut ours, mut everyone) = (Rules::default(), Rules::default());
    let mut is_named = false;
    let mut bound = Bound::default();
    let mut rules_begun = false;
    // Crawl-delay is no rule of the RFC and ends no group of rules; but agents that
    // follow one do not share it.
    let mut delay_bound = Bound::default();
    let mut delay_begun = false;
    for line in file.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let Some((key, value)) = split_line(line) else {
            continue;
        };
        match key.as_str() {
            "user-agent" | "useragent" | "user agent" => {
                // Agent lines after a rule begin another group (2.2.1).
                if rules_begun {
                    bound = Bound::default();
                    rules_begun = false;
                }
                if delay_begun {
                    delay_bound = Bound::default();
                    delay_begun = false;
                }
                let named = product_token(value).eq_ignore_ascii_case(user_agent.as_bytes());
                for bound in [&mut bound, &mut delay_bound] {
                    bound.everyone |= is_star(value);
                    bound.ours |= named;
                }
                is_named |= named;
            }
            "allow" | "disallow" | "dissallow" | "disalow" => {
                rules_begun = true;
                delay_begun = true;
                if !value.is_empty() {
                    let (allow, pattern) = (key == "allow", normalise(value));
                    let rule = Rule { allow, pattern };
                    bound.each(&mut ours, &mut everyone, |group| {
                        group.rules.push(rule.clone())
                    });
                }
            }
            "crawl-delay" => {
                delay_begun = true;
                let delay = seconds(value);
                delay_bound.each(&mut ours, &mut everyone, |group| {
                    group.crawl_delay = group.crawl_delay.max(delay);
                });
            }
            // Sitemaps and the unknown neither bind nor end a group.
            _ => {}
        }
    }
    // `*` only where no group names us (2.2.1).
    if is_named { ours } else { everyone }
}

impl Bound {
    fn each(self, ours: &mut Rules, everyone: &mut Rules, mut change: impl FnMut(&mut Rules)) {
        if self.ours {
            change(ours);
        }
        if self.everyone {
            change(everyone);
        }
    }
}

/// Key in lower case and value of a line, without comment.
fn split_line(line: &[u8]) -> Option<(String, &[u8])> {
    let line = line.split(|byte| *byte == b'#').next()?.trim_ascii();
    let (key, value) = match line.iter().position(|byte| *byte == b':') {
        Some(colon) => (&line[..colon], &line[colon + 1..]),
        None => {
            // A forgotten colon: exactly two words.
            let space = line.iter().position(|byte| byte.is_ascii_whitespace())?;
            let value = line[space..].trim_ascii();
            if value.iter().any(u8::is_ascii_whitespace) {
                return None;
            }
            (&line[..space], value)
        }
    };
    let key = String::from_utf8_lossy(key.trim_ascii()).to_lowercase();
    Some((key, value.trim_ascii()))
}

/// `*`, alone or before something that is no part of a name.
fn is_star(value: &[u8]) -> bool {
    value.first() == Some(&b'*') && value.get(1).is_none_or(u8::is_ascii_whitespace)
}

/// The leading letters, `-` and `_`: `FooBot/1.2` is FooBot.
fn product_token(value: &[u8]) -> &[u8] {
    let is_token = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_');
    let end = value.iter().position(|byte| !is_token(byte));
    &value[..end.unwrap_or(value.len())]
}

fn seconds(value: &[u8]) -> Option<Duration> {
    let seconds: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    if seconds.is_nan() || seconds <= 0.0 {
        return None;
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Percent-encodes what is not ASCII, decodes what need not be encoded (unreserved),
/// and writes the other escapes in capitals, so that equal paths are equal bytes (2.2.2).
fn normalise(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escaped = path.get(at + 1..at + 3).and_then(hex_byte);
        match path[at] {
            b'%' if escaped.is_some() => {
                let byte = escaped.expect("just looked");
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                    out.push(char::from(byte));
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
                at += 3;
                continue;
            }
            byte if byte.is_ascii_graphic() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
        at += 1;
    }
    out
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Whether `pattern` matches a beginning of `path`: `*` stands for anything, `$` at
/// the end for the end. The parts between stars are sought from left to right, each
/// as early as can be, so the time is linear whatever the pattern.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, to_the_end) = match pattern.strip_suffix('$') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return !to_the_end || rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    if to_the_end {
        rest.ends_with(last)
    } else {
        rest.contains(last)
    }
}

#[cfg(test)]
mod tests;
