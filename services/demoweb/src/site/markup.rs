//! The HTML of pages and their pictures, in the many forms that are found on the web.

use super::Fate;

/// The place of a picture's text in the HTML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// `alt`.
    Alt,
    /// `title` of the image.
    Title,
    /// `figcaption`.
    Caption,
}

/// The form in which a page refers to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `src`.
    Plain,
    /// `picture` with a `source`.
    Source,
    /// `srcset` by width.
    Widths,
    /// `srcset` by density.
    Densities,
    /// An attribute that a script would read; `src` is a placeholder or absent.
    Lazy(&'static str),
}

impl Form {
    /// Whether the form has a smaller candidate.
    pub(super) fn has_small(self) -> bool {
        matches!(self, Self::Source | Self::Widths | Self::Densities)
    }
}

/// A picture on a page.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The URL that a crawler must choose.
    pub(super) url: String,
    /// A smaller candidate, for forms that have one.
    pub(super) small: Option<String>,
    pub(super) form: Form,
    pub(super) texts: Vec<(Slot, String)>,
    pub(super) fate: Fate,
    /// Side of the picture in pixels, for `srcset`.
    pub(super) size_px: u32,
}

impl Entry {
    /// A picture in an `img` with `src`.
    pub(super) fn plain(url: String, texts: Vec<(Slot, String)>, fate: Fate) -> Self {
        Self {
            url,
            small: None,
            form: Form::Plain,
            texts,
            fate,
            size_px: 0,
        }
    }

    fn text(&self, slot: Slot) -> Option<&str> {
        self.texts
            .iter()
            .find(|(at, _)| *at == slot)
            .map(|(_, text)| text.as_str())
    }

    /// The picture as HTML. `refer` converts a URL to a reference of the page.
    pub(super) fn html(&self, refer: &dyn Fn(&str) -> String) -> String {
        let url = escape(&refer(&self.url));
        let small = self
            .small
            .as_deref()
            .map(|url| escape(&refer(url)))
            .unwrap_or_default();
        let words = self.attributes();
        let (size, half) = (self.size_px, self.size_px / 2);
        let image = match self.form {
            Form::Plain => format!("<img src=\"{url}\"{words}>"),
            Form::Source => format!(
                "<picture><source type=\"image/png\" srcset=\"{small} {half}w, {url} {size}w\">\
                 <img src=\"{small}\"{words}></picture>"
            ),
            Form::Widths => format!(
                "<img src=\"{small}\" srcset=\"{url} {size}w,\n  {small} {half}w\" sizes=\"50vw\"{words}>"
            ),
            Form::Densities => {
                format!("<img srcset=\"{small} 1x, {url} 2x\" src=\"{small}\"{words}>")
            }
            Form::Lazy("data-src") => format!("<img data-src='{url}'{words} class=lazy>"),
            Form::Lazy(attribute) => format!(
                "<img src=\"data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==\" \
                 {attribute}=\"{url}\"{words}>"
            ),
        };
        match self.text(Slot::Caption) {
            Some(caption) => format!(
                "<figure>{image}\n  <figcaption>{}</figcaption></figure>\n",
                escape(caption)
            ),
            None => format!("<p>{image}</p>\n"),
        }
    }

    fn attributes(&self) -> String {
        let mut out = match self.text(Slot::Alt) {
            Some(alt) => format!(" alt=\"{}\"", escape(alt)),
            // A crawler treats an empty attribute like an absent one.
            None if self.url.len().is_multiple_of(2) => " alt=\"\"".to_owned(),
            None => String::new(),
        };
        if let Some(title) = self.text(Slot::Title) {
            out.push_str(&format!(" title=\"{}\"", escape(title)));
        }
        out
    }
}

/// A page under construction.
#[derive(Debug, Default)]
pub(super) struct PageHtml {
    pub(super) title: String,
    /// Further lines of the head.
    pub(super) head: String,
    pub(super) body: String,
    /// The form of the licence.
    pub(super) licence: String,
    /// The `base` of the page. It also applies to `#top`, which then refers to another page.
    pub(super) has_base: bool,
}

impl PageHtml {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            licence: "/licence.html".to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn link(&mut self, target: &str, label: &str) {
        self.body.push_str(&format!(
            "<li><a href=\"{}\">{}</a>\n",
            escape(target),
            escape(label)
        ));
    }

    pub(super) fn finish(&self) -> String {
        let title = escape(&self.title);
        let top = if self.has_base {
            ""
        } else {
            "<a href=\"#top\">top</a> "
        };
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <title>{title}</title>\n{}<link rel=\"license\" href=\"{}\">\n</head>\n\
             <body>\n<h1>{title}</h1>\n{}<p>{top}<a href=\"mailto:hello@demo.test\">write to us</a> \
             <a href=\"javascript:void(0)\">menu</a></p>\n</body></html>\n",
            self.head,
            escape(&self.licence),
            self.body
        )
    }
}

/// Escapes a text for HTML, also within double or single quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
