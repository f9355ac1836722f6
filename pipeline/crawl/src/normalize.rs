//! Normalises encoded pictures: checks the header, decodes within bounds, shrinks, encodes as JPEG
//! and hashes. The same bytes always give the same picture.

mod jpeg;

use std::io::Cursor;
use std::sync::Arc;

use capstan_plan::reject::RejectCode;
use capstan_plan::stage::Storing;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use image_hasher::{HashAlg, HasherConfig};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::Error;
use crate::reject::RejectReason;

/// Formats that are decoded. Of an animation the first frame is used.
const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Gif,
];
/// Bound on decoded bytes in memory over all pictures of a task. A single picture may exceed it,
/// up to `max_pixels`.
const DECODED_MIB: u32 = 512;

/// A picture as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// JPEG.
    pub bytes: Vec<u8>,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Width before shrinking.
    pub original_width: u32,
    /// Height before shrinking.
    pub original_height: u32,
    /// Of the bytes as they came in.
    pub sha256: [u8; 32],
    /// pHash of the stored pixels.
    pub phash: u64,
}

/// Normalises pictures on the blocking pool, within a budget of threads and of memory.
#[derive(Debug, Clone)]
pub struct Normalizer {
    storing: Storing,
    threads: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

impl Normalizer {
    /// A normaliser with these settings.
    pub fn new(storing: &Storing) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        Self {
            storing: storing.clone(),
            threads: Arc::new(Semaphore::new(threads)),
            memory: Arc::new(Semaphore::new(DECODED_MIB as usize)),
        }
    }

    /// Normalises an encoded picture. The inner result says why it is rejected; a panic of the
    /// decoder rejects it as well.
    ///
    /// # Errors
    /// [`Error::Thread`] where the runtime stops.
    pub async fn normalize(&self, bytes: Vec<u8>) -> Result<Result<Picture, RejectReason>, Error> {
        let header = match probe(&bytes, &self.storing) {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        let mib = (header.decoded_bytes >> 20).min(u64::from(DECODED_MIB - 1)) as u32 + 1;
        let memory = self.memory.clone().acquire_many_owned(mib).await;
        let thread = self.threads.clone().acquire_owned().await;
        let storing = self.storing.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _held = (memory, thread);
            normalize(&bytes, header, &storing)
        });
        match work.await {
            Ok(made) => Ok(made),
            // A panic of the decoder rejects the picture and does not fail the shard.
            Err(error) if error.is_panic() => {
                let detail = "the decoder panicked";
                Ok(Err(RejectReason::new(RejectCode::Decode, detail)))
            }
            Err(error) => Err(Error::Thread(error)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    format: ImageFormat,
    decoded_bytes: u64,
}

/// Reads the header and checks it against the limits before anything is decoded.
fn probe(bytes: &[u8], storing: &Storing) -> Result<Header, RejectReason> {
    let format = image::guess_format(bytes)
        .ok()
        .filter(|format| FORMATS.contains(format));
    let format = format.ok_or_else(|| {
        RejectReason::new(
            RejectCode::NotImage,
            "neither JPEG, PNG, WebP nor GIF by its first bytes",
        )
    })?;
    let decoder = decoder(bytes, format, storing).map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > storing.max_pixels {
        let detail = format!("{width} x {height}; at most {} pixels", storing.max_pixels);
        return Err(RejectReason::new(RejectCode::Pixels, detail));
    }
    let min = storing.min_side_px;
    if width.min(height) < min {
        let detail = format!("{width} x {height}; no side under {min}");
        return Err(RejectReason::new(RejectCode::TooSmall, detail));
    }
    let decoded_bytes = decoder.total_bytes();
    Ok(Header {
        format,
        decoded_bytes,
    })
}

/// A decoder that allocates no more than the limits allow. [`probe`] checks width and height,
/// because `image` does not distinguish too large from corrupt.
fn decoder<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    storing: &Storing,
) -> image::ImageResult<impl ImageDecoder + 'a> {
    let mut limits = Limits::no_limits();
    // 16 bits in four channels, and the same again for buffers of the decoder.
    limits.max_alloc = Some(
        storing
            .max_pixels
            .saturating_mul(16)
            .saturating_add(1 << 24),
    );
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.into_decoder()
}

fn normalize(bytes: &[u8], header: Header, storing: &Storing) -> Result<Picture, RejectReason> {
    if header.format == ImageFormat::Jpeg && !jpeg::is_complete(bytes) {
        return Err(RejectReason::new(
            RejectCode::Decode,
            "the JPEG ends before its end marker",
        ));
    }
    let mut decoder = decoder(bytes, header.format, storing).map_err(undecodable)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    let original = (image.width(), image.height());
    let rgb = shrink(on_white(image), storing.max_side_px);
    let (width, height) = rgb.dimensions();
    let phash = phash(&rgb);
    let mut encoded = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut encoded, storing.jpeg_quality);
    rgb.write_with_encoder(encoder).map_err(undecodable)?;
    Ok(Picture {
        bytes: encoded,
        width,
        height,
        original_width: original.0,
        original_height: original.1,
        sha256: Sha256::digest(bytes).into(),
        phash,
    })
}

fn undecodable(error: image::ImageError) -> RejectReason {
    RejectReason::new(RejectCode::Decode, error.to_string())
}

/// Blends the picture onto a white background.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from.0[3]);
        for (to, from) in to.0.iter_mut().zip(&from.0[..3]) {
            let mixed = u32::from(*from) * alpha + 255 * (255 - alpha);
            *to = ((mixed + 127) / 255) as u8;
        }
    }
    rgb
}

/// Shrinks with Lanczos3 so that the longer side is `max_side_px`. Smaller pictures are not
/// changed.
fn shrink(rgb: RgbImage, max_side_px: u32) -> RgbImage {
    let (width, height) = rgb.dimensions();
    let long = width.max(height);
    if long <= max_side_px {
        return rgb;
    }
    let side = |side: u32| {
        let exact = u64::from(side) * u64::from(max_side_px);
        ((exact + u64::from(long) / 2) / u64::from(long)).max(1) as u32
    };
    let (source, mut target) = (
        DynamicImage::from(rgb),
        DynamicImage::from(RgbImage::new(side(width), side(height))),
    );
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    let resized = Resizer::new().resize(&source, &mut target, &options);
    resized.expect("both are rgb8 of at least one pixel");
    target.into_rgb8()
}

/// pHash: 64 low frequencies of a DCT, each compared with their median.
fn phash(rgb: &RgbImage) -> u64 {
    let config = HasherConfig::new()
        .hash_size(8, 8)
        .hash_alg(HashAlg::Median)
        .preproc_dct();
    let hash = config.to_hasher().hash_image(rgb);
    let bytes = hash.as_bytes().first_chunk().expect("8 x 8 bits");
    u64::from_be_bytes(*bytes)
}

#[cfg(test)]
mod tests;
