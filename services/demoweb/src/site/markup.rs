//! HTML of pages and of pictures on them, in the many ways in which the web writes both.

use super::Fate;

/// Where a text of a picture stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// `alt`.
    Alt,
    /// `title` of the image.
    Title,
    /// `figcaption`.
    Caption,
}

/// How the picture's URL is written.
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
    /// An attribute that a script would read, `src` a placeholder or absent.
    Lazy(&'static str),
}

impl Form {
    /// Whether there is a smaller candidate beside the picture.
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
    /// Side of the picture in pixels, as srcset states it.
    pub(super) size_px: u32,
}

impl Entry {
    /// A picture in plain form.
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

    /// The picture as HTML; `refer` writes a URL as the page would.
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
            // Empty and absent mean the same to a crawler.
            None if self.url.len().is_multiple_of(2) => " alt=\"\"".to_owned(),
            None => String::new(),
        };
        if let Some(title) = self.text(Slot::Title) {
            out.push_str(&format!(" title=\"{}\"", escape(title)));
        }
        out
    }
}

/// A page in the making.
#[derive(Debug, Default)]
pub(super) struct PageHtml {
    pub(super) title: String,
    /// Lines of the head beside title and licence.
    pub(super) head: String,
    pub(super) body: String,
    /// Where the licence stands.
    pub(super) licence: String,
    /// With a base, even `#top` leads to another page.
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

/// Text as HTML writes it, within double or single quotes too.
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
