//! Parses a page: links, pictures with their texts, opt-out signals, licence.

mod charset;
mod depth;
mod img;
mod srcset;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use capstan_plan::row::Origin;
use scraper::{ElementRef, Html, Selector};
use url::Url;

use crate::canonical_url::canonical;
use crate::opt_out::Signals;
use crate::whitespace::collapse_whitespace;

/// Greatest number of links taken from one page.
const MAX_LINKS: usize = 10_000;

/// A parsed page.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Page {
    /// Links to other pages, canonical, sorted, each once. Empty where they may not be followed.
    pub(crate) links: Vec<String>,
    /// Pictures in document order, each URL once.
    pub(crate) images: Vec<PageImage>,
    /// Opt-out signals of headers and meta tags.
    pub(crate) signals: Signals,
    /// The author named by a meta tag.
    pub(crate) attribution: Option<String>,
}

/// A picture on a page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PageImage {
    /// The canonical URL, or why there is none.
    pub(crate) url: Result<String, UnusableUrl>,
    /// The URL as the page writes it.
    pub(crate) raw_url: String,
    /// Whitespace collapsed, none empty, none twice.
    pub(crate) texts: Vec<(Origin, String)>,
    /// Licence of the picture's figure, or of the page.
    pub(crate) licence: Option<String>,
}

/// A reference that cannot be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnusableUrl {
    /// The absolute URL where there is one, else the reference as written; cut to a bounded length.
    pub(crate) shown: String,
    pub(crate) why: String,
}

/// A page whose elements are nested too deeply to be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("elements nested deeper than {} levels", depth::MAX_DEPTH)]
pub(crate) struct TooDeep;

/// The inputs of parsing a page besides its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// The URL of the page.
    pub(crate) url: Url,
    /// `Content-Type`, for its charset.
    pub(crate) content_type: Option<String>,
    /// Opt-out signals of its headers.
    pub(crate) signals: Signals,
    /// Product token that meta tags may name.
    pub(crate) user_agent: String,
    /// The smallest sufficient side of a picture in pixels, where a page offers several sizes.
    pub(crate) wanted_px: u32,
}

macro_rules! selector {
    ($name:ident, $css:literal) => {
        static $name: LazyLock<Selector> =
            LazyLock::new(|| Selector::parse($css).expect("a constant selector"));
    };
}
use selector;

selector!(BASE, "base[href]");
selector!(META, "meta[name][content]");
selector!(LINK, "a[href], area[href]");

/// Parses a page. A pure function of its arguments. Takes time linear in the bytes, except for
/// nesting, which is bounded.
///
/// # Errors
/// [`TooDeep`]
pub(crate) fn read(reading: Reading, body: &[u8]) -> Result<Page, TooDeep> {
    let text = charset::decode(body, reading.content_type.as_deref());
    depth::check(&text)?;
    let html = Html::parse_document(&text);
    let mut signals = reading.signals;
    let mut attribution = None;
    for meta in html.select(&META) {
        let name = meta.attr("name").unwrap_or_default();
        let content = meta.attr("content").unwrap_or_default();
        signals.add_meta(name, content, &reading.user_agent);
        if name.eq_ignore_ascii_case("author") && attribution.is_none() {
            attribution = Some(collapse_whitespace([content])).filter(|text| !text.is_empty());
        }
    }
    let base = html.select(&BASE).next();
    let base = base.and_then(|base| canonical(Some(&reading.url), base.attr("href")?).ok());
    let base = base.unwrap_or_else(|| reading.url.clone());
    let links = match signals.is_nofollow() {
        true => Vec::new(),
        false => links(&html, &base, &reading.url),
    };
    let images = img::find(&html, &base, reading.wanted_px);
    Ok(Page {
        links,
        images,
        signals,
        attribution,
    })
}

fn links(html: &Html, base: &Url, own: &Url) -> Vec<String> {
    let hrefs = html.select(&LINK).filter_map(|link| link.attr("href"));
    let urls = hrefs.filter_map(|href| canonical(Some(base), href).ok());
    let urls: BTreeSet<String> = urls
        .filter(|url| url != own)
        .take(MAX_LINKS)
        .map(String::from)
        .collect();
    urls.into_iter().collect()
}

/// The visible text of an element.
fn text_of(element: ElementRef<'_>) -> String {
    let texts = element.descendants().filter_map(|node| {
        let parent = node.parent().and_then(ElementRef::wrap);
        let hidden = parent.is_some_and(|parent| {
            matches!(
                parent.value().name(),
                "script" | "style" | "noscript" | "template"
            )
        });
        node.value()
            .as_text()
            .filter(|_| !hidden)
            .map(|text| &**text)
    });
    collapse_whitespace(texts)
}

#[cfg(test)]
mod tests;
