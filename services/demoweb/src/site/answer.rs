//! The answers of the server.

use std::sync::Arc;

use crate::picture::{encode_jpeg, encode_png, render};
use crate::scene::Scene;

/// A planned answer. Pictures are rendered when they are requested.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A page, with the values of its X-Robots-Tag headers.
    Page { html: Arc<str>, tags: Vec<String> },
    /// A rendered scene, with the values of its X-Robots-Tag headers.
    Picture { picture: Picture, tags: Vec<String> },
    /// A redirect. Without a location it has no target.
    Redirect {
        status: u16,
        location: Option<String>,
    },
    /// A status without a body.
    Status(u16),
    /// A damaged picture.
    Damaged { picture: Picture, damage: Damage },
    /// Fixed bytes with a content type.
    Bytes {
        content_type: &'static str,
        bytes: Arc<[u8]>,
    },
    /// The start of a picture and then zeros up to a length, with or without a Content-Length.
    Endless { bytes: u64, announced: bool },
    /// No answer until the shutdown.
    Hang,
    /// A picture whose connection breaks halfway.
    Cut(Picture),
    /// 503 with Retry-After for the first request, then the picture.
    Flaky(Picture),
}

/// How a picture is damaged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Damage {
    /// The second half is missing.
    Truncated,
    /// Bytes in the middle are changed.
    Corrupt,
    /// A JPEG that ends before its first scan.
    HeaderOnly,
}

/// A picture that can be rendered.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) scene: Arc<Scene>,
    pub(crate) item: u64,
    pub(crate) size_px: u32,
    pub(crate) is_jpeg: bool,
}

impl Picture {
    /// The encoded bytes, which only depend on the seed.
    pub(crate) fn encode(&self, seed: u64) -> Vec<u8> {
        let rgb = render(&self.scene, self.size_px, seed, self.item);
        if self.is_jpeg {
            encode_jpeg(&rgb, self.size_px)
        } else {
            encode_png(&rgb, self.size_px)
        }
    }

    pub(crate) fn content_type(&self) -> &'static str {
        if self.is_jpeg {
            "image/jpeg"
        } else {
            "image/png"
        }
    }

    /// The encoded bytes, damaged.
    pub(crate) fn damaged(&self, damage: Damage, seed: u64) -> Vec<u8> {
        let is_jpeg = matches!(damage, Damage::HeaderOnly);
        let mut bytes = Self {
            is_jpeg,
            ..self.clone()
        }
        .encode(seed);
        let middle = bytes.len() / 2;
        match damage {
            Damage::Truncated => bytes.truncate(middle),
            Damage::Corrupt => bytes[middle..middle + 64]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x5a),
            Damage::HeaderOnly => {
                // FF DA starts the first scan.
                let scan = bytes.windows(2).position(|two| two == [0xff, 0xda]);
                bytes.truncate(scan.unwrap_or(middle));
            }
        }
        bytes
    }
}

/// A PNG of 100 bytes whose header claims 30,000 x 30,000 pixels.
pub(crate) fn png_bomb() -> Vec<u8> {
    let mut header = Vec::new();
    header.extend_from_slice(&30_000u32.to_be_bytes());
    header.extend_from_slice(&30_000u32.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut out, b"IHDR", &header);
    // An empty deflate stream.
    chunk(&mut out, b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
    chunk(&mut out, b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(kind);
    out.extend_from_slice(data);
    let crc = crc32(&out[start..]);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// CRC-32 of the PNG specification, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

/// A JPEG whose frame header claims 30,000 x 30,000 pixels.
pub(crate) fn jpeg_bomb(picture: &Picture, seed: u64) -> Vec<u8> {
    let mut bytes = Picture {
        is_jpeg: true,
        ..picture.clone()
    }
    .encode(seed);
    // FF C0, two bytes of length, one of precision, then height and width.
    if let Some(frame) = bytes.windows(2).position(|two| two == [0xff, 0xc0]) {
        for at in [frame + 5, frame + 7] {
            bytes[at..at + 2].copy_from_slice(&30_000u16.to_be_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;
    use crate::world::World;

    fn picture() -> Picture {
        let scene = crate::scene::draw_scene(&World::shipped(), &mut Draw::new(1, "t", 1));
        Picture {
            scene: Arc::new(scene),
            item: 1,
            size_px: 64,
            is_jpeg: false,
        }
    }

    #[test]
    fn bombs_claim_their_sizes() {
        for bytes in [png_bomb(), jpeg_bomb(&picture(), 1)] {
            let reader = image::ImageReader::new(std::io::Cursor::new(&bytes));
            let size = reader
                .with_guessed_format()
                .unwrap()
                .into_dimensions()
                .unwrap();
            assert_eq!(size, (30_000, 30_000));
        }
    }

    #[test]
    fn damaged_pictures_do_not_decode_but_look_like_pictures() {
        for damage in [Damage::Truncated, Damage::Corrupt, Damage::HeaderOnly] {
            let bytes = picture().damaged(damage, 1);
            assert!(image::guess_format(&bytes).is_ok());
            assert!(image::load_from_memory(&bytes).is_err(), "{damage:?}");
        }
    }
}
