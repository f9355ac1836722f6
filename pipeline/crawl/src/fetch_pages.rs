//! Fetches the pages of a shard.

use std::collections::BTreeMap;

use capstan_plan::reject::RejectCode;
use capstan_plan::row::{ImageLink, PageLink, Reject};
use capstan_plan::stage::Crawl;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use url::Url;

use crate::canonical_url::canonical;
use crate::html::{self, Page, PageImage, Reading};
use crate::net::{Answer, Fetcher, Want};
use crate::opt_out::Signals;
use crate::reject::RejectReason;
use crate::{Control, Error, Net};

/// Results that may wait for earlier ones, per request in flight.
pub(crate) const WINDOW: usize = 8;

/// Links, pictures and rejects of the pages of a shard.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PagesFetched {
    /// Pages linked to, one level deeper, and targets of redirects, on the same level;
    /// canonical, sorted, each once.
    pub links: Vec<PageLink>,
    /// Pictures that may be fetched, in the order of the pages.
    pub images: Vec<ImageLink>,
    /// Pages that could not be fetched, and pictures rejected without a request.
    pub rejects: Vec<Reject>,
    /// Pages that were fetched and parsed.
    pub pages_read: u64,
}

/// Fetches pages and extracts their links and pictures.
///
/// Every page is parsed under its own URL. A page that redirects yields only a link to the
/// target, which is fetched like any other link, by the shard that owns its host. A picture is
/// therefore found once per page, and a host receives requests of one task at a time. The outcome
/// does not depend on timing or concurrency, provided that servers answer equal requests equally.
/// Before it returns, the task waits until the interval of every host has passed.
///
/// # Errors
/// [`Error::Cancelled`], [`Error::Thread`]. A failure of a single page is a reject.
pub async fn fetch_pages(
    config: &Crawl,
    net: &Net,
    pages: Vec<PageLink>,
    control: &Control,
) -> Result<PagesFetched, Error> {
    let work = async {
        let fetcher = Fetcher::new(net, config);
        let total = pages.len() as u64;
        let outcomes = futures::stream::iter(pages).map(|link| fetch(config, &fetcher, link));
        let mut outcomes = outcomes.buffered(config.concurrency * WINDOW);
        let mut gathered = Gathered::new(config);
        let mut done = 0;
        while let Some((link, outcome)) = outcomes.try_next().await? {
            gathered.add(link, outcome);
            done += 1;
            control.report(done, total);
        }
        fetcher.leave().await;
        Ok(gathered.finish())
    };
    let outcome = control.cancel.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(Error::Cancelled))
}

enum Outcome {
    Read(Url, Page),
    Moved(Url),
    Refused(RejectReason),
}

async fn fetch(
    config: &Crawl,
    fetcher: &Fetcher,
    link: PageLink,
) -> Result<(PageLink, Outcome), Error> {
    let url = match canonical(None, &link.url) {
        Ok(url) => url,
        Err(error) => {
            let reason = RejectReason::new(RejectCode::Url, error.to_string());
            return Ok((link, Outcome::Refused(reason)));
        }
    };
    let (headers, body, permit) = match fetcher.get(&url, Want::Page).await {
        Ok(Answer::Full {
            headers,
            body,
            permit,
        }) => (headers, body, permit),
        Ok(Answer::Moved(to)) => return Ok((link, Outcome::Moved(to))),
        Err(reason) => return Ok((link, Outcome::Refused(reason))),
    };
    let reading = reading(config, &url, &headers);
    let read = tokio::task::spawn_blocking(move || {
        let page = html::read(reading, &body);
        drop(permit);
        page
    });
    let not_html = |why: String| Outcome::Refused(RejectReason::new(RejectCode::NotHtml, why));
    let outcome = match read.await {
        Ok(Ok(page)) => Outcome::Read(url, page),
        Ok(Err(error)) => not_html(error.to_string()),
        // A panic of the parser rejects the page and does not fail the shard.
        Err(error) if error.is_panic() => not_html("the parser panicked".to_owned()),
        Err(error) => return Err(Error::Thread(error)),
    };
    Ok((link, outcome))
}

fn reading(config: &Crawl, url: &Url, headers: &HeaderMap) -> Reading {
    let content_type = headers.get(CONTENT_TYPE);
    let content_type = content_type.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    Reading {
        url: url.clone(),
        content_type,
        signals: Signals::from_headers(headers, &config.user_agent),
        user_agent: config.user_agent.clone(),
        wanted_px: config.storing.max_side_px,
    }
}

struct Gathered<'a> {
    config: &'a Crawl,
    /// Depth by URL.
    links: BTreeMap<String, u32>,
    fetched: PagesFetched,
}

impl<'a> Gathered<'a> {
    fn new(config: &'a Crawl) -> Self {
        Self {
            config,
            links: BTreeMap::new(),
            fetched: PagesFetched::default(),
        }
    }

    fn add(&mut self, link: PageLink, outcome: Outcome) {
        match outcome {
            Outcome::Read(url, page) => {
                self.fetched.pages_read += 1;
                self.add_page(url.as_str(), link.depth, page);
            }
            Outcome::Moved(to) => self.add_link(to.into(), link.depth),
            Outcome::Refused(reason) => {
                self.fetched
                    .rejects
                    .push(reason.into_reject(&link.url, "", false));
            }
        }
    }

    fn add_link(&mut self, url: String, depth: u32) {
        let shallowest = self.links.entry(url).or_insert(depth);
        *shallowest = depth.min(*shallowest);
    }

    fn add_page(&mut self, url: &str, depth: u32, page: Page) {
        let signals = page.signals.all();
        let opt_out = page.signals.refusal().map(str::to_owned);
        for found in page.images {
            match self.reject_reason(&found, opt_out.as_deref()) {
                Some(reason) => {
                    let image = match &found.url {
                        Ok(url) => url,
                        Err(unusable) => &unusable.shown,
                    };
                    self.fetched
                        .rejects
                        .push(reason.into_reject(image, url, true));
                }
                None => self.fetched.images.push(ImageLink {
                    image_url: found
                        .url
                        .expect("`reject_reason` rejects pictures without a URL"),
                    raw_url: found.raw_url,
                    page_url: url.to_owned(),
                    texts: found.texts,
                    opt_out: signals.clone(),
                    licence: found.licence,
                    attribution: page.attribution.clone(),
                }),
            }
        }
        for link in page.links {
            self.add_link(link, depth + 1);
        }
    }

    /// Why a picture is rejected without a request.
    fn reject_reason(&self, found: &PageImage, opt_out: Option<&str>) -> Option<RejectReason> {
        if let Some(signal) = opt_out {
            let detail = format!("the page says {signal}");
            return Some(RejectReason::new(RejectCode::OptOut, detail));
        }
        if let Err(unusable) = &found.url {
            return Some(RejectReason::new(RejectCode::Url, &unusable.why));
        }
        let cap = self.config.max_text_bytes;
        let long = found.texts.iter().find(|(_, text)| text.len() > cap)?;
        let (origin, text) = (long.0.as_str(), &long.1);
        let detail = format!("{origin} of {} bytes; at most {cap}", text.len());
        Some(RejectReason::new(RejectCode::TextBytes, detail))
    }

    fn finish(mut self) -> PagesFetched {
        let links = self.links.into_iter();
        self.fetched.links = links.map(|(url, depth)| PageLink { url, depth }).collect();
        self.fetched
    }
}
