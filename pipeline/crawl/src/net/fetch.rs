//! Requests of one task: robots.txt first, paced per host, redirects followed by
//! hand and checked one by one, bodies capped while they stream, transient failures
//! tried again.

use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capstan_plan::reject::RejectCode;
use capstan_plan::stage::Crawl;
use futures::StreamExt;
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use url::Url;

use super::host::{Authority, Host};
use super::resolve::AddressRefused;
use crate::Net;
use crate::canonical_url::{authority, canonical};
use crate::reject::RejectReason;
use crate::robots::{MAX_ROBOTS_BYTES, Robots};

/// First wait before another try; doubled each time.
const BACKOFF: Duration = Duration::from_millis(250);
/// Longest wait before another try, Retry-After included.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A host that asks for a longer Crawl-delay is left alone.
const MAX_CRAWL_DELAY: Duration = Duration::from_secs(120);
/// RFC 9309, 2.3.1.2.
const ROBOTS_REDIRECTS: u32 = 5;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// HTML. A redirect to another host is not followed but told.
    Page,
    /// Bytes of a picture, from wherever redirects lead.
    Image,
}

impl Want {
    fn accept(self) -> &'static str {
        match self {
            Self::Page => "text/html,application/xhtml+xml",
            Self::Image => "image/jpeg,image/png,image/webp,image/gif;q=0.5",
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A 2xx answer in full.
    Full {
        headers: HeaderMap,
        body: Vec<u8>,
        /// Bounds the bodies in memory: drop it with the body.
        permit: OwnedSemaphorePermit,
    },
    /// For [`Want::Page`]: the page stands under another URL, which its own task fetches.
    Moved(Url),
}

/// The requests of one task.
#[derive(Debug)]
pub(crate) struct Fetcher {
    net: Net,
    config: Crawl,
    hosts: Mutex<HashMap<Authority, Arc<Host>>>,
    permits: Arc<Semaphore>,
}

/// One hop's outcome.
enum Hop {
    Full(HeaderMap, Vec<u8>, OwnedSemaphorePermit),
    Redirect(Option<String>),
}

/// One hop's failure: whether to try again, and after how long the host asks for it.
struct Failure {
    refusal: RejectReason,
    retry: bool,
    status: Option<StatusCode>,
}

impl Failure {
    fn last(refusal: RejectReason) -> Self {
        Self {
            refusal,
            retry: false,
            status: None,
        }
    }
}

impl Fetcher {
    pub(crate) fn new(net: &Net, config: &Crawl) -> Self {
        Self {
            net: net.clone(),
            config: config.clone(),
            hosts: Mutex::default(),
            permits: Arc::new(Semaphore::new(config.concurrency)),
        }
    }

    /// Fetches `url` with its redirects, as often as `tries` allows.
    pub(crate) async fn get(&self, url: &Url, want: Want) -> Result<Answer, RejectReason> {
        let mut attempt = 1;
        loop {
            let failure = match self.follow(url, want).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if !failure.retry || attempt >= self.config.tries {
                return Err(failure.refusal);
            }
            tracing::debug!(%url, attempt, detail = failure.refusal.detail, "trying again");
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// Waits out what the hosts asked for, so that the next task keeps it too.
    pub(crate) async fn leave(&self) {
        let hosts: Vec<Arc<Host>> = self.lock().values().cloned().collect();
        futures::future::join_all(hosts.iter().map(|host| host.leave())).await;
    }

    async fn follow(&self, start: &Url, want: Want) -> Result<Answer, Failure> {
        let mut left = Duration::from_millis(self.config.timeout_ms);
        let mut url = start.clone();
        let mut met = HashSet::from([url.clone()]);
        for _ in 0..=self.config.max_redirects {
            self.check_address(&url)?;
            self.obey_robots(&url).await.map_err(Failure::last)?;
            let location = match self.hop(&url, want, &mut left).await? {
                Hop::Full(..) if want == Want::Page && url != *start => {
                    return Ok(Answer::Moved(url));
                }
                Hop::Full(headers, body, permit) => {
                    return Ok(Answer::Full {
                        headers,
                        body,
                        permit,
                    });
                }
                Hop::Redirect(location) => location,
            };
            let next = location
                .as_deref()
                .and_then(|to| canonical(Some(&url), to).ok());
            let Some(next) = next else {
                let to = location.unwrap_or_default();
                let detail = format!("{url} redirects to `{to}`, which is no http(s) url");
                return Err(Failure::last(RejectReason::new(
                    redirect_code(&url, &to),
                    detail,
                )));
            };
            if !met.insert(next.clone()) {
                let detail = format!("redirects come back to {next}");
                return Err(Failure::last(RejectReason::new(
                    RejectCode::Redirects,
                    detail,
                )));
            }
            if want == Want::Page && authority(&next) != authority(start) {
                self.check_address(&next)?;
                return Ok(Answer::Moved(next));
            }
            url = next;
        }
        let detail = format!("more than {} redirects", self.config.max_redirects);
        Err(Failure::last(RejectReason::new(
            RejectCode::Redirects,
            detail,
        )))
    }

    /// One request for page or picture; `left` is what is left of its time.
    async fn hop(&self, url: &Url, want: Want, left: &mut Duration) -> Result<Hop, Failure> {
        let cap = match want {
            Want::Page => self.config.max_page_bytes,
            Want::Image => self.config.max_image_bytes,
        };
        let host = self.host(url);
        let _slot = host.slot().await;
        let permit = host.start(&self.permits).await;
        let begun = Instant::now();
        let exchange = async {
            let response = self.send(url, want.accept()).await?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let to = response.headers().get(LOCATION);
                let to = to.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
                return Ok(Hop::Redirect(to));
            }
            if !status.is_success() {
                return Err(self.bad_status(&host, &response));
            }
            let headers = response.headers().clone();
            if want == Want::Page {
                expect_html(&headers).map_err(Failure::last)?;
            }
            let body = read(response, cap).await?;
            Ok(Hop::Full(headers, body, permit))
        };
        let outcome = tokio::time::timeout(*left, exchange).await;
        *left = left.saturating_sub(begun.elapsed());
        outcome.unwrap_or_else(|_| {
            let limit_ms = self.config.timeout_ms;
            let detail = format!("no full answer within {limit_ms} ms");
            Err(Failure::last(RejectReason::new(
                RejectCode::Timeout,
                detail,
            )))
        })
    }

    async fn send(&self, url: &Url, accept: &str) -> Result<Response, Failure> {
        let request = self.net.client.get(url.clone()).header("accept", accept);
        request.send().await.map_err(broken)
    }

    fn bad_status(&self, host: &Host, response: &Response) -> Failure {
        let status = response.status();
        let retry = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        if let Some(after) = retry.then(|| retry_after(response.headers())).flatten() {
            host.pause(after);
        }
        Failure {
            refusal: RejectReason::new(
                RejectCode::HttpStatus,
                format!("status {}", status.as_u16()),
            ),
            retry,
            status: Some(status),
        }
    }

    async fn obey_robots(&self, url: &Url) -> Result<(), RejectReason> {
        let host = self.host(url);
        let robots = host
            .robots
            .get_or_init(|| async {
                let robots = self.fetch_robots(url).await;
                if let Some(delay) = robots.crawl_delay() {
                    host.slow_down(delay.min(MAX_CRAWL_DELAY));
                }
                robots
            })
            .await;
        if robots
            .crawl_delay()
            .is_some_and(|delay| delay > MAX_CRAWL_DELAY)
        {
            let limit = MAX_CRAWL_DELAY.as_secs();
            return Err(RejectReason::new(
                RejectCode::Robots,
                format!("Crawl-delay over {limit} s"),
            ));
        }
        robots.check(url)
    }

    /// RFC 9309, 2.3.1: 4xx and too many redirects are leave to crawl; 5xx, 429 and
    /// network failures are none. The rules are those of `url`'s own host, wherever
    /// the file was found.
    async fn fetch_robots(&self, url: &Url) -> Robots {
        let mut at = url.clone();
        at.set_path("/robots.txt");
        at.set_query(None);
        at.set_fragment(None);
        let mut attempt = 1;
        loop {
            let failure = match self.follow_robots(&at).await {
                Ok(Some(body)) => return Robots::parse(&body, &self.config.user_agent),
                Ok(None) => return Robots::allow_all(),
                Err(failure) => failure,
            };
            let status = failure.status;
            if status.is_some_and(|s| s.is_client_error() && s != StatusCode::TOO_MANY_REQUESTS) {
                return Robots::allow_all();
            }
            if !failure.retry || attempt >= self.config.tries {
                return Robots::unreachable(failure.refusal);
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    async fn follow_robots(&self, start: &Url) -> Result<Option<Vec<u8>>, Failure> {
        let mut left = Duration::from_millis(self.config.timeout_ms);
        let mut url = start.clone();
        for _ in 0..=ROBOTS_REDIRECTS {
            let elsewhere = |mut failure: Failure| {
                // Where the file is sought says nothing of the host itself.
                if url != *start {
                    failure.refusal.code = RejectCode::Robots;
                }
                failure
            };
            self.check_address(&url).map_err(elsewhere)?;
            match self.robots_hop(&url, &mut left).await.map_err(elsewhere)? {
                Hop::Full(_, body, _) => return Ok(Some(body)),
                Hop::Redirect(to) => match to.and_then(|to| canonical(Some(&url), &to).ok()) {
                    Some(next) => url = next,
                    None => return Ok(None),
                },
            }
        }
        Ok(None)
    }

    async fn robots_hop(&self, url: &Url, left: &mut Duration) -> Result<Hop, Failure> {
        let host = self.host(url);
        // No slot: whoever asks for the file may hold none, and start() paces.
        let permit = host.start(&self.permits).await;
        let begun = Instant::now();
        let exchange = async {
            let response = self.send(url, "text/plain").await?;
            let status = response.status();
            if status.is_redirection() {
                let to = response.headers().get(LOCATION);
                let to = to.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
                return Ok(Hop::Redirect(to));
            }
            if !status.is_success() {
                return Err(self.bad_status(&host, &response));
            }
            let headers = response.headers().clone();
            let body = read_start(response, MAX_ROBOTS_BYTES).await?;
            Ok(Hop::Full(headers, body, permit))
        };
        let outcome = tokio::time::timeout(*left, exchange).await;
        *left = left.saturating_sub(begun.elapsed());
        outcome.unwrap_or_else(|_| {
            let refusal = RejectReason::new(RejectCode::Timeout, "no robots.txt in time");
            Err(Failure::last(refusal))
        })
    }

    fn check_address(&self, url: &Url) -> Result<(), Failure> {
        let checked = self.net.names.check(url);
        checked.map_err(|problem| Failure::last(RejectReason::new(RejectCode::Address, problem)))
    }

    fn host(&self, url: &Url) -> Arc<Host> {
        let interval = Duration::from_millis(self.config.host_interval_ms);
        let mut hosts = self.lock();
        let host = hosts
            .entry(authority(url))
            .or_insert_with(|| Arc::new(Host::new(interval, self.config.concurrency_per_host)));
        host.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Authority, Arc<Host>>> {
        self.hosts.lock().expect("no panic while held")
    }
}

/// A redirect to another scheme is an address that we do not go to; other nonsense leads nowhere.
fn redirect_code(from: &Url, to: &str) -> RejectCode {
    match from.join(to) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => RejectCode::Address,
        _ => RejectCode::Redirects,
    }
}

fn expect_html(headers: &HeaderMap) -> Result<(), RejectReason> {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = String::from_utf8_lossy(kind.as_bytes()).to_lowercase();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if matches!(essence, "text/html" | "application/xhtml+xml") {
        return Ok(());
    }
    Err(RejectReason::new(
        RejectCode::NotHtml,
        format!("content type `{essence}`"),
    ))
}

/// Reads a body of at most `cap` bytes, counted after decompression.
async fn read(response: Response, cap: u64) -> Result<Vec<u8>, Failure> {
    let too_long = |how| {
        let detail = format!("{how} more than {cap} bytes");
        Failure::last(RejectReason::new(RejectCode::Bytes, detail))
    };
    if response.content_length().is_some_and(|length| length > cap) {
        return Err(too_long("announces"));
    }
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(broken)?;
        if (body.len() + chunk.len()) as u64 > cap {
            return Err(too_long("sends"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads the first `cap` bytes of a body.
async fn read_start(response: Response, cap: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while body.len() < cap {
        let Some(chunk) = stream.next().await else {
            break;
        };
        body.extend_from_slice(&chunk.map_err(broken)?);
    }
    body.truncate(cap);
    Ok(body)
}

/// A connection that failed, could not be made, or may not be.
fn broken(error: reqwest::Error) -> Failure {
    let mut causes = Vec::new();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<AddressRefused>() {
            return Failure::last(RejectReason::new(RejectCode::Address, refused.to_string()));
        }
        causes.push(error.to_string());
        cause = error.source();
    }
    let detail = causes.pop().unwrap_or_default();
    if error.is_timeout() {
        return Failure::last(RejectReason::new(RejectCode::Timeout, detail));
    }
    Failure {
        refusal: RejectReason::new(RejectCode::Network, detail),
        retry: true,
        status: None,
    }
}

/// Seconds of a Retry-After header, bounded. Dates are not read: the backoff applies.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(MAX_BACKOFF))
}

fn backoff(attempt: u32) -> Duration {
    (BACKOFF * 2u32.saturating_pow(attempt - 1)).min(MAX_BACKOFF)
}
