//! Finds the pictures of a page in every form in which pages refer to them.

use std::collections::HashMap;

use capstan_plan::row::Origin;
use scraper::{ElementRef, Html, Selector};
use url::Url;

use super::srcset::{self, Candidate};
use super::{LazyLock, PageImage, UnusableUrl, selector, text_of};
use crate::canonical_url::canonical;
use crate::whitespace::collapse_whitespace;

/// Greatest number of pictures taken from one page.
const MAX_IMAGES: usize = 10_000;
/// Ancestors of a picture that are searched for its figure.
const MAX_ANCESTORS: usize = 64;
/// Nodes of a figure that are searched for caption and licence, and sources of a picture.
const MAX_WITHIN: usize = 4_096;
const MAX_SOURCES: usize = 64;
/// Texts of one picture that are kept.
const MAX_TEXTS: usize = 64;
/// Bytes of a raw URL that are kept.
const MAX_RAW_URL: usize = 4_096;

/// Attributes from which scripts later set `src`.
const LAZY: [&str; 10] = [
    "data-src",
    "data-src-fg",
    "data-scroll-image",
    "data-lateloadsrc",
    "data-img-src",
    "data-original",
    "data-gt-lazy-src",
    "data-lazy",
    "data-lazy-src",
    "src2",
];
const LAZY_SRCSET: [&str; 2] = ["data-srcset", "data-lazy-srcset"];

/// Types of a `source` that can be decoded.
const TYPES: [&str; 5] = [
    "image/jpeg",
    "image/jpg",
    "image/png",
    "image/webp",
    "image/gif",
];

selector!(IMG, "img");
selector!(IMG_OR_HIDDEN, "img, noscript");
selector!(LICENCE, "a[rel~=license][href], link[rel~=license][href]");
selector!(OG, "meta[property][content], meta[name][content]");

/// All pictures in document order; the texts of equal URLs are merged.
pub(super) fn find(html: &Html, base: &Url, wanted_px: u32) -> Vec<PageImage> {
    let mut list = List::new(base, page_licence(html, base));
    let mut figures = Figures::default();
    for element in html.select(&IMG_OR_HIDDEN) {
        if list.found.len() >= MAX_IMAGES {
            break;
        }
        if is_inert(element) {
            continue;
        }
        if element.value().name() == "img" {
            let figure = figures.around(element, base);
            list.add_img(element, &figure, wanted_px);
            continue;
        }
        // The parser returns the markup inside noscript as text, as if scripts could run.
        let inner: String = element
            .children()
            .filter_map(|c| c.value().as_text().map(|t| &**t))
            .collect();
        if inner.contains("<img") {
            let figure = figures.around(element, base);
            for img in Html::parse_fragment(&inner).select(&IMG) {
                list.add_img(img, &figure, wanted_px);
            }
        }
    }
    list.add_og_image(html);
    list.found
}

/// Whether an element is inside a template, where it has no effect until a script uses it.
fn is_inert(element: ElementRef<'_>) -> bool {
    let mut above = element
        .ancestors()
        .take(MAX_ANCESTORS)
        .filter_map(ElementRef::wrap);
    above.any(|e| e.value().name() == "template")
}

/// What a figure states about its pictures.
#[derive(Debug, Clone, Default)]
struct Figure {
    caption: Option<String>,
    licence: Option<String>,
}

/// Figures found so far, by the id of their element.
#[derive(Debug, Default)]
struct Figures {
    known: HashMap<ego_tree::NodeId, Figure>,
}

impl Figures {
    fn around(&mut self, element: ElementRef<'_>, base: &Url) -> Figure {
        let above = element
            .ancestors()
            .take(MAX_ANCESTORS)
            .filter_map(ElementRef::wrap);
        let Some(figure) = above.into_iter().find(|e| e.value().name() == "figure") else {
            return Figure::default();
        };
        let read = || Figure {
            caption: own_caption(figure),
            licence: within(figure)
                .find(|e| LICENCE.matches(e))
                .and_then(|link| target(link, base)),
        };
        self.known.entry(figure.id()).or_insert_with(read).clone()
    }
}

/// The caption of this figure itself, not of a nested one.
fn own_caption(figure: ElementRef<'_>) -> Option<String> {
    let mut captions = within(figure).filter(|e| e.value().name() == "figcaption");
    let own = captions.find(|caption| nearest_figure(*caption) == Some(figure.id()))?;
    Some(text_of(own))
}

/// The elements of a figure that are searched.
fn within(figure: ElementRef<'_>) -> impl Iterator<Item = ElementRef<'_>> {
    let nodes = figure.descendants().take(MAX_WITHIN);
    nodes.filter_map(ElementRef::wrap)
}

fn nearest_figure(element: ElementRef<'_>) -> Option<ego_tree::NodeId> {
    let mut above = element
        .ancestors()
        .take(MAX_ANCESTORS)
        .filter_map(ElementRef::wrap);
    above.find(|e| e.value().name() == "figure").map(|e| e.id())
}

/// The first licence stated outside figures.
fn page_licence(html: &Html, base: &Url) -> Option<String> {
    let mut stated = html.select(&LICENCE);
    target(stated.find(|link| nearest_figure(*link).is_none())?, base)
}

fn target(link: ElementRef<'_>, base: &Url) -> Option<String> {
    let url = canonical(Some(base), link.attr("href")?).ok()?;
    Some(url.into())
}

/// Pictures found so far.
struct List<'a> {
    base: &'a Url,
    licence: Option<String>,
    found: Vec<PageImage>,
    /// Canonical URL to index.
    index: HashMap<String, usize>,
}

impl<'a> List<'a> {
    fn new(base: &'a Url, licence: Option<String>) -> Self {
        Self {
            base,
            licence,
            found: Vec::new(),
            index: HashMap::new(),
        }
    }

    fn add_img(&mut self, img: ElementRef<'_>, figure: &Figure, wanted_px: u32) {
        let Some(raw) = reference(img, wanted_px) else {
            return;
        };
        let attribute = |name, origin| {
            img.attr(name)
                .map(|text| (origin, collapse_whitespace([text])))
        };
        let mut texts: Vec<(Origin, String)> = attribute("alt", Origin::Alt).into_iter().collect();
        texts.extend(attribute("title", Origin::Title));
        // Formerly a URL; a value with words is a description.
        let description = attribute("longdesc", Origin::Caption);
        texts.extend(description.filter(|(_, text)| text.contains(' ')));
        texts.extend(figure.caption.clone().map(|text| (Origin::Caption, text)));
        let licence = figure.licence.clone().or_else(|| self.licence.clone());
        self.add(raw, texts, licence);
    }

    /// Adds `og:image`, unless the page shows the picture elsewhere.
    fn add_og_image(&mut self, html: &Html) {
        let property = |meta: ElementRef<'_>, names: &[&str]| {
            let name = meta.attr("property").or_else(|| meta.attr("name"));
            name.is_some_and(|name| names.iter().any(|n| name.trim().eq_ignore_ascii_case(n)))
        };
        let content = |names: &[&str]| {
            let mut tags = html.select(&OG);
            let tag = tags.find(|meta| property(*meta, names))?;
            Some(tag.attr("content")?.trim().to_owned())
        };
        let names = ["og:image", "og:image:url", "og:image:secure_url"];
        let Some(raw) = content(&names).filter(|raw| !raw.is_empty()) else {
            return;
        };
        let is_shown =
            canonical(Some(self.base), &raw).is_ok_and(|url| self.index.contains_key(url.as_str()));
        if !is_shown && !is_inline(&raw) {
            let alt =
                content(&["og:image:alt"]).map(|text| (Origin::Alt, collapse_whitespace([&*text])));
            let licence = self.licence.clone();
            self.add(&raw, alt.into_iter().collect(), licence);
        }
    }

    fn add(&mut self, raw: &str, texts: Vec<(Origin, String)>, licence: Option<String>) {
        let url = canonical(Some(self.base), raw).map(String::from);
        let url = url.map_err(|error| UnusableUrl {
            shown: cut(self.base.join(raw).map_or(raw.to_owned(), String::from)),
            why: error.to_string(),
        });
        let key = match &url {
            Ok(url) => url.clone(),
            Err(unusable) => unusable.shown.clone(),
        };
        let next = self.found.len();
        let index = *self.index.entry(key).or_insert(next);
        if index == next {
            let raw_url = cut(raw.to_owned());
            self.found.push(PageImage {
                url,
                raw_url,
                texts: Vec::new(),
                licence,
            });
        }
        let known = &mut self.found[index].texts;
        for (origin, text) in texts {
            if known.len() < MAX_TEXTS
                && !text.is_empty()
                && !known.iter().any(|(_, other)| *other == text)
            {
                known.push((origin, text));
            }
        }
    }
}

fn cut(mut url: String) -> String {
    url.truncate(url.floor_char_boundary(MAX_RAW_URL));
    url
}

/// The reference to fetch: the best of all srcset candidates, else a lazy-loading attribute,
/// else `src`.
fn reference<'a>(img: ElementRef<'a>, wanted_px: u32) -> Option<&'a str> {
    let mut candidates = Vec::new();
    if let Some(picture) = img.parent().and_then(ElementRef::wrap)
        && picture.value().name() == "picture"
    {
        let sources = picture.child_elements().take(MAX_SOURCES);
        for source in sources.filter(|e| e.value().name() == "source" && is_decodable(e)) {
            add_candidates(source, &mut candidates);
        }
    }
    add_candidates(img, &mut candidates);
    let lazy = LAZY
        .iter()
        .find_map(|name| img.attr(name).filter(|v| is_reference(v)));
    let src = img.attr("src").filter(|value| is_reference(value));
    let has_widths = candidates
        .iter()
        .any(|c| matches!(c.size, srcset::Size::Width(_)));
    if let (Some(src), None, false, false) = (src, lazy, has_widths, candidates.is_empty()) {
        // `src` is the candidate of density 1 (HTML, "update the source set").
        let size = srcset::Size::Density(1.0);
        candidates.push(Candidate { url: src, size });
    }
    let chosen = srcset::choose(&candidates, wanted_px);
    chosen.or(lazy).or(src).map(str::trim)
}

fn add_candidates<'a>(element: ElementRef<'a>, candidates: &mut Vec<Candidate<'a>>) {
    let names = ["srcset"].into_iter().chain(LAZY_SRCSET);
    let attributes = names.filter_map(|name| element.attr(name));
    let parsed = attributes.flat_map(srcset::parse);
    candidates.extend(parsed.filter(|c| is_reference(c.url)));
}

fn is_decodable(source: &ElementRef<'_>) -> bool {
    let kind = source
        .attr("type")
        .map(|kind| kind.trim().to_ascii_lowercase());
    kind.is_none_or(|kind| kind.is_empty() || TYPES.contains(&kind.as_str()))
}

fn is_reference(value: &str) -> bool {
    !value.trim().is_empty() && !is_inline(value)
}

/// Whether it is a `data:` URL: a placeholder, or a picture that no request can fetch.
fn is_inline(value: &str) -> bool {
    let start = value.trim_start().as_bytes();
    start.len() >= 5 && start[..5].eq_ignore_ascii_case(b"data:")
}
