//! robots.txt by RFC 9309.
//!
//! Beyond the RFC: `Crawl-delay` in seconds (a lower bound of the pacing interval), and the errors
//! that Google's parser tolerates: a missing colon, spaces before it, a byte order mark, any line
//! end.

use std::time::Duration;

use capstan_plan::reject::RejectCode;
use url::Url;

use crate::reject::RejectReason;

/// Bytes of the file that are parsed (RFC 9309, 2.5: at least 500 KiB).
pub(crate) const MAX_ROBOTS_BYTES: usize = 500 << 10;

/// The robots.txt of a host, for our crawler.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Robots {
    /// The rules that apply to us.
    Rules(Rules),
    /// The file could not be fetched: nothing may be fetched from the host.
    Unreachable(RejectReason),
}

/// The rules of the groups that apply to us.
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

    /// A forbidden address keeps its code; every other reason becomes `robots`.
    pub(crate) fn unreachable(why: RejectReason) -> Self {
        let code = match why.code {
            RejectCode::Address => RejectCode::Address,
            _ => RejectCode::Robots,
        };
        let detail = format!("robots.txt cannot be had: {}", why.detail);
        Self::Unreachable(RejectReason { code, detail })
    }

    /// Parses the rules for `user_agent`, a product token.
    pub(crate) fn parse(file: &[u8], user_agent: &str) -> Self {
        Self::Rules(parse(file, user_agent))
    }

    pub(crate) fn crawl_delay(&self) -> Option<Duration> {
        match self {
            Self::Rules(rules) => rules.crawl_delay,
            Self::Unreachable(_) => None,
        }
    }

    /// Fails with the reason where `url` may not be fetched.
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
        // The longest rule applies; among equal lengths, Allow (2.2.2).
        match matching.max_by_key(|rule| (rule.pattern.len(), rule.allow)) {
            Some(rule) if !rule.allow => Err(format!("robots.txt: Disallow: {}", rule.pattern)),
            _ => Ok(()),
        }
    }
}

/// The groups that the agent lines so far belong to.
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
    // Crawl-delay is not a rule of the RFC and does not end a group of rules. Agent lines after it
    // do not share it.
    let mut delay_bound = Bound::default();
    let mut delay_begun = false;
    for line in file.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let Some((key, value)) = split_line(line) else {
            continue;
        };
        match key.as_str() {
            "user-agent" | "useragent" | "user agent" => {
                // An agent line after a rule begins another group (2.2.1).
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
            // Sitemaps and unknown keys neither belong to a group nor end one.
            _ => {}
        }
    }
    // `*` applies only if no group names us (2.2.1).
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

/// The key in lower case and the value of a line, without comment.
fn split_line(line: &[u8]) -> Option<(String, &[u8])> {
    let line = line.split(|byte| *byte == b'#').next()?.trim_ascii();
    let (key, value) = match line.iter().position(|byte| *byte == b':') {
        Some(colon) => (&line[..colon], &line[colon + 1..]),
        None => {
            // A missing colon: exactly two words.
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

/// Whether the value is `*`, alone or followed by whitespace.
fn is_star(value: &[u8]) -> bool {
    value.first() == Some(&b'*') && value.get(1).is_none_or(u8::is_ascii_whitespace)
}

/// The leading letters, `-` and `_`: `FooBot` of `FooBot/1.2`.
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

/// Percent-encodes bytes that are not ASCII, decodes escapes of unreserved characters, and writes
/// the other escapes in capitals, so that equal paths have equal bytes (2.2.2).
fn normalise(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escaped = path.get(at + 1..at + 3).and_then(hex_byte);
        match path[at] {
            b'%' if escaped.is_some() => {
                let byte = escaped.expect("checked by the guard");
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

/// Whether `pattern` matches a prefix of `path`: `*` matches anything, `$` at the end matches the
/// end of the path. The parts between stars are searched from left to right, each at its first
/// position, which takes linear time for every pattern.
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
