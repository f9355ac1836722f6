//! Bounds the nesting of elements. An HTML parser searches all open elements for many tags, so
//! megabytes of `<div>` would take hours.

use super::TooDeep;

/// Greatest number of open elements. Browsers stop nesting at 512.
pub(super) const MAX_DEPTH: usize = 4_096;
/// Number of open elements that are searched for the start tag of an end tag.
const REACH: usize = 16;

/// Elements that never nest: void ones, and those that the next element of their kind closes.
const FLAT: [&[u8]; 9] = [
    b"br", b"hr", b"img", b"embed", b"meta", b"p", b"li", b"dt", b"dd",
];
/// Elements that nest only inside SVG and MathML.
const FLAT_IN_HTML: [&[u8]; 20] = [
    b"area",
    b"base",
    b"col",
    b"input",
    b"link",
    b"param",
    b"source",
    b"track",
    b"wbr",
    b"tr",
    b"td",
    b"th",
    b"thead",
    b"tbody",
    b"tfoot",
    b"option",
    b"optgroup",
    b"body",
    b"html",
    b"head",
];
/// Elements that a parser reopens after the end tag of another element closed them.
const FORMATTING: [&[u8]; 14] = [
    b"a", b"b", b"big", b"code", b"em", b"font", b"i", b"nobr", b"s", b"small", b"strike",
    b"strong", b"tt", b"u",
];

/// Estimate of the open elements: never fewer than a parser has, except for pages whose end tags
/// are far from their start tags.
#[derive(Default)]
struct Open {
    names: Vec<Vec<u8>>,
    /// Formatting elements that the end tags of others closed.
    reopened: usize,
    is_foreign: bool,
}

/// Fails where more than [`MAX_DEPTH`] elements are open.
pub(super) fn check(text: &str) -> Result<(), TooDeep> {
    let bytes = text.as_bytes();
    let mut open = Open::default();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'<') {
        match bytes.get(at + 1) {
            Some(b'/') => open.end(&name(&bytes[at + 2..])),
            Some(letter) if letter.is_ascii_alphabetic() => open.start(name(&bytes[at + 1..])),
            _ => {}
        }
        if open.names.len() + open.reopened > MAX_DEPTH {
            return Err(TooDeep);
        }
    }
    Ok(())
}

/// The name of a tag in lower case, cut at a length that no relevant name reaches.
fn name(tag: &[u8]) -> Vec<u8> {
    let name = tag.iter().take(12);
    let name = name.take_while(|byte| !byte.is_ascii_whitespace() && !b"/><".contains(byte));
    name.map(u8::to_ascii_lowercase).collect()
}

impl Open {
    fn start(&mut self, name: Vec<u8>) {
        self.is_foreign |= matches!(&*name, b"svg" | b"math");
        if self.is_flat(&name) {
            return;
        }
        // A link inside a link closes the outer one.
        if name == b"a" {
            self.end(b"a");
        }
        self.names.push(name);
    }

    fn end(&mut self, name: &[u8]) {
        let near = self.names.len().saturating_sub(REACH);
        let Some(found) = self.names[near..].iter().rposition(|open| open == name) else {
            return;
        };
        let above = &self.names[near + found + 1..];
        self.reopened += above
            .iter()
            .filter(|open| FORMATTING.contains(&open.as_slice()))
            .count();
        self.names.truncate(near + found);
    }

    fn is_flat(&self, name: &[u8]) -> bool {
        FLAT.contains(&name) || (!self.is_foreign && FLAT_IN_HTML.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nested_elements_count() {
        for fine in [
            "<p>x<br><li>",
            "<div><b></b></div>",
            "<tr><td>x<td>y",
            "<div><input><span>x</div>",
            "<a href=x>y",
            "<DIV></div >",
            "<svg><path/></svg>",
            "</x>",
        ] {
            assert!(check(&fine.repeat(100_000)).is_ok(), "{fine}");
        }
        assert!(check(&"<div>".repeat(4_096)).is_ok());
        for deep in [
            "<div>",
            "<div></x>",
            "<div></p>",
            "<svg><tr>",
            "<div><b id=1></div>",
            "<b><i></b>",
        ] {
            assert_eq!(check(&deep.repeat(8_192)), Err(TooDeep), "{deep}");
        }
    }
}
