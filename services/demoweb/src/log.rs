//! The log of all requests, and the violations of a crawler in it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::site::Site;

/// Most requests that are kept; later ones are dropped.
const MAX_ENTRIES: usize = 1_000_000;

/// How much closer two requests may be logged than they were sent: on a busy machine the first may
/// wait for a thread while the second does not.
const JITTER: Duration = Duration::from_millis(200);

/// One request, serialised as a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The time of the request since the site was built; serialised in microseconds.
    #[serde(rename = "at_us", with = "microseconds")]
    pub at: Duration,
    /// The Host header without the port.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// The user agent header.
    pub user_agent: String,
    /// Status of the response; 0 if there was none.
    pub status: u16,
}

mod microseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(at.as_micros() as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_micros)
    }
}

/// All requests since the start, in order of arrival.
#[derive(Debug)]
pub(crate) struct RequestLog {
    start: Instant,
    entries: Mutex<Vec<LogEntry>>,
}

impl RequestLog {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            entries: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn record(&self, host: &str, path: &str, user_agent: &str, status: u16) {
        // The lock is taken before the clock is read, so that times never decrease.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < MAX_ENTRIES {
            entries.push(LogEntry {
                at: self.start.elapsed(),
                host: host.to_owned(),
                path: path.to_owned(),
                user_agent: user_agent.to_owned(),
                status,
            });
        }
    }

    pub(crate) fn entries_from(&self, first: usize) -> Vec<LogEntry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(first..).unwrap_or_default().to_vec()
    }
}

/// The violations of a crawler; see [`Site::violations`].
pub(crate) fn violations(site: &Site, log: &[LogEntry], user_agent: &str) -> Vec<String> {
    let agent = user_agent.to_ascii_lowercase();
    let mut by_host: BTreeMap<&str, Vec<&LogEntry>> = BTreeMap::new();
    for entry in log {
        if entry.user_agent.to_ascii_lowercase().contains(&agent) {
            by_host.entry(&entry.host).or_default().push(entry);
        }
    }
    let mut found = Vec::new();
    for (host, entries) in by_host {
        robots_violations(site, host, &entries, &mut found);
        opt_out_violations(site, host, &entries, &mut found);
        delay_violations(site, host, &entries, &mut found);
    }
    found
}

fn robots_violations(site: &Site, host: &str, entries: &[&LogEntry], found: &mut Vec<String>) {
    let Some(robots) = site.robots(host) else {
        found.push(format!(
            "{host}: {} was requested from an unknown host",
            entries[0].path
        ));
        return;
    };
    if entries[0].path != "/robots.txt" {
        found.push(format!(
            "http://{host}{} was requested before robots.txt",
            entries[0].path
        ));
    }
    for entry in entries {
        if entry.path != "/robots.txt" && !robots.allows(&entry.path) {
            found.push(format!(
                "http://{host}{} is disallowed by robots.txt",
                entry.path
            ));
        }
    }
}

fn opt_out_violations(site: &Site, host: &str, entries: &[&LogEntry], found: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for entry in entries {
        let url = format!("http://{host}{}", entry.path);
        if site.page_opts_out(&url) {
            found.push(format!("{url} was fetched although its page opts out"));
        } else if site.picture_opts_out(&url) && !seen.insert(entry.path.as_str()) {
            found.push(format!("{url} was fetched again after it had opted out"));
        }
    }
}

fn delay_violations(site: &Site, host: &str, entries: &[&LogEntry], found: &mut Vec<String>) {
    let Some(delay) = site.robots(host).and_then(|robots| robots.delay) else {
        return;
    };
    // The delay does not apply to the request for robots.txt, which states it.
    let paced: Vec<&&LogEntry> = entries
        .iter()
        .filter(|entry| entry.path != "/robots.txt")
        .collect();
    for two in paced.windows(2) {
        let gap = two[1].at.saturating_sub(two[0].at);
        if gap + JITTER < delay {
            found.push(format!(
                "http://{host}{} was requested {} ms after the previous request, Crawl-delay is {} ms",
                two[1].path,
                gap.as_millis(),
                delay.as_millis()
            ));
        }
    }
}
