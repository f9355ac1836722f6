//! Canonical URLs, which can be compared as text.

use url::Url;

/// Greatest length of a URL that is fetched, in characters.
pub(crate) const MAX_URL_CHARS: usize = 2_000;

/// Why a reference is not a URL that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// WHATWG parsing failed. The reason is part of the message, which becomes the detail of a
    /// reject.
    #[error("not a url: {0}")]
    Parse(url::ParseError),
    /// Another scheme.
    #[error("scheme `{0}` is not http or https")]
    Scheme(String),
    /// Over [`MAX_URL_CHARS`].
    #[error("url of {0} characters; at most 2000 are fetched")]
    Length(usize),
}

/// Resolves `reference` by the WHATWG rules, which normalise default ports, dot segments and
/// the case of the host, and removes fragment and credentials. The query is not changed.
///
/// # Errors
/// [`UrlError`] for a reference that is not an http(s) URL of at most 2,000 characters.
pub fn canonical(base: Option<&Url>, reference: &str) -> Result<Url, UrlError> {
    let mut url = Url::options()
        .base_url(base)
        .parse(reference)
        .map_err(UrlError::Parse)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme(url.scheme().to_owned()));
    }
    url.set_fragment(None);
    // These cannot fail: http(s) URLs have a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    // WHATWG URLs are ASCII, so bytes are characters.
    match url.as_str().len() {
        length if length > MAX_URL_CHARS => Err(UrlError::Length(length)),
        _ => Ok(url),
    }
}

/// Scheme, name and port: the host that requests go to.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}://{host}:{port}", url.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_canonical() {
        let base = Url::parse("http://a.test/dir/page.html?x=1").unwrap();
        for (reference, expected) in [
            ("b.png", "http://a.test/dir/b.png"),
            ("../b.png", "http://a.test/b.png"),
            ("//B.Test/c", "http://b.test/c"),
            ("?b=2&a=1", "http://a.test/dir/page.html?b=2&a=1"),
            ("#top", "http://a.test/dir/page.html?x=1"),
            ("http://A.test:80/x#y", "http://a.test/x"),
            ("https://a.test:443", "https://a.test/"),
            ("http://a.test:8080/", "http://a.test:8080/"),
            ("  b.png\n", "http://a.test/dir/b.png"),
            ("http:\\\\a.test\\b", "http://a.test/b"),
            ("http://u:p@a.test/", "http://a.test/"),
            ("/été x", "http://a.test/%C3%A9t%C3%A9%20x"),
            ("http://bücher.test/", "http://xn--bcher-kva.test/"),
        ] {
            assert_eq!(
                canonical(Some(&base), reference).unwrap().as_str(),
                expected
            );
        }
    }

    #[test]
    fn references_that_cannot_be_fetched_are_refused() {
        let base = Url::parse("http://a.test/").unwrap();
        for reference in [
            "mailto:a@b",
            "javascript:void(0)",
            "ftp://a/",
            "http://[",
            "http://a b/",
        ] {
            assert!(canonical(Some(&base), reference).is_err(), "{reference}");
        }
        // "http://a.test/" is 14 characters.
        assert!(canonical(Some(&base), &"x".repeat(1986)).is_ok());
        assert_eq!(
            canonical(Some(&base), &"x".repeat(1987)),
            Err(UrlError::Length(2001))
        );
    }
}
