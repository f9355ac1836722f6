//! Pictures within the page.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;

/// A picture as a `data:` URI. Its first bytes decide the type.
///
/// `None` for a type that the crawl does not store.
pub fn data_uri(bytes: &[u8]) -> Option<String> {
    let format = image::guess_format(bytes).ok()?;
    let known = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ];
    known.contains(&format).then(|| {
        format!(
            "data:{};base64,{}",
            format.to_mime_type(),
            STANDARD.encode(bytes)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::data_uri;

    #[test]
    fn types_are_told_by_the_first_bytes() {
        assert_eq!(
            data_uri(&[0xff, 0xd8, 0xff, 0xe0]).as_deref(),
            Some("data:image/jpeg;base64,/9j/4A==")
        );
        assert!(
            data_uri(b"\x89PNG\r\n\x1a\n")
                .unwrap()
                .starts_with("data:image/png;")
        );
        assert_eq!(data_uri(b"<svg onload=alert(1)>"), None);
        assert_eq!(data_uri(b""), None);
    }
}
