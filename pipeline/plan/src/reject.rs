//! Why a picture, page or text never became a row. Every reject has one code.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The code of a reject, as it stands in sidecars, commits and the report.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum RejectCode {
            $($(#[$doc])* $name,)*
        }

        impl RejectCode {
            /// Every code, in the order of the enum.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Reads a code as it is written.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// robots.txt disallows it (RFC 9309), or robots.txt could not be had (5xx, network).
    Robots = "robots",
    /// `X-Robots-Tag` or a meta robots tag opts out of AI use.
    OptOut = "opt_out",
    /// A status other than 2xx at the end of the redirects (404, 410, 500 ...).
    HttpStatus = "http_status",
    /// More redirects than allowed, a loop, or a redirect to nowhere.
    Redirects = "redirects",
    /// The address is not one that a crawler may contact (loopback, private, link-local ...), or not http(s).
    Address = "address",
    /// No answer within the time allowed.
    Timeout = "timeout",
    /// DNS, connection or protocol failure.
    Network = "network",
    /// More bytes than the cap, announced or streamed.
    Bytes = "bytes",
    /// The bytes are of no supported picture format (HTML behind an image name, SVG ...).
    NotImage = "not_image",
    /// What was linked to as a page is none (another content type, or nested beyond reading).
    NotHtml = "not_html",
    /// The header is a picture's, but the data is corrupt or cut short.
    Decode = "decode",
    /// The header claims more pixels, or a longer side, than the limit. Decided before decoding.
    Pixels = "pixels",
    /// A side shorter than the minimum.
    TooSmall = "too_small",
    /// A text (alt, title, caption) of more bytes than the cap.
    TextBytes = "text_bytes",
    /// The URL cannot be used: not WHATWG-valid, over 2,000 characters, no http(s).
    Url = "url",
    /// A record of an import that lacks a needed field or names a file that is not there.
    Record = "record",
    /// A row that the program which wrote the source had failed on, for a cause of its own.
    Upstream = "upstream",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_they_are_written() {
        for code in RejectCode::ALL {
            assert_eq!(RejectCode::parse(code.as_str()), Some(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
