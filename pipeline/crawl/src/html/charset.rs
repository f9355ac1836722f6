//! Decodes bytes to text. The encoding is that of the byte order mark, else of the header, else of
//! a meta tag, else UTF-8 where it is valid, else windows-1252, as in browsers.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// Bytes that are searched for a meta tag.
const PRESCAN_BYTES: usize = 1024;

pub(super) fn decode<'a>(body: &'a [u8], content_type: Option<&str>) -> Cow<'a, str> {
    let named = content_type.and_then(label).or_else(|| declared(body));
    let encoding = named.unwrap_or_else(|| match std::str::from_utf8(body) {
        Ok(_) => UTF_8,
        Err(_) => WINDOWS_1252,
    });
    // A byte order mark overrides all of these.
    encoding.decode(body).0
}

/// The encoding after `charset=`.
fn label(value: &str) -> Option<&'static Encoding> {
    let lower = value.to_ascii_lowercase();
    let (_, after) = lower.split_once("charset")?;
    let after = after.trim_start().strip_prefix('=')?.trim_start();
    let after = after.trim_start_matches(['"', '\'']);
    let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '/' | '>'));
    Encoding::for_label(&after.as_bytes()[..end.unwrap_or(after.len())])
}

/// The encoding that a meta tag among the first bytes declares. Such a tag is readable only as
/// ASCII, so UTF-16 there means UTF-8.
fn declared(body: &[u8]) -> Option<&'static Encoding> {
    let start = &body[..body.len().min(PRESCAN_BYTES)];
    let start = String::from_utf8_lossy(start);
    let found = label(&start)?;
    Some(found.output_encoding())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charset_is_found_in_every_place() {
        for (body, header, expected) in [
            (
                &b"\xe9t\xe9"[..],
                Some("text/html; charset=iso-8859-1"),
                "été",
            ),
            (b"<meta charset=latin1>\xe9", None, "<meta charset=latin1>é"),
            ("été".as_bytes(), None, "été"),
            (b"\xe9", None, "é"),
            (b"\xef\xbb\xbfa", Some("text/html; charset=utf-16"), "a"),
            (b"\x82\xa0", Some("text/html;charset=\"Shift_JIS\""), "あ"),
            (b"a\xff", Some("text/html; charset=utf-8"), "a\u{fffd}"),
            (b"x", Some("text/html; charset=nonsense"), "x"),
        ] {
            assert_eq!(decode(body, header), expected);
        }
    }
}
