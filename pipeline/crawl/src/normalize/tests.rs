//! Valid, damaged and hostile pictures.

use image::{GrayImage, Rgb, Rgba, RgbaImage};

use super::*;

fn storing() -> Storing {
    Storing {
        max_side_px: 64,
        min_side_px: 8,
        max_pixels: 1_000_000,
        ..Storing::default()
    }
}

fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([
            (x * 255 / width) as u8,
            (y * 255 / height) as u8,
            ((x ^ y) & 31) as u8 * 8,
        ])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

fn run(bytes: &[u8]) -> Result<Picture, RejectReason> {
    let header = probe(bytes, &storing())?;
    normalize(bytes, header, &storing())
}

fn code(bytes: &[u8]) -> RejectCode {
    run(bytes).unwrap_err().code
}

#[test]
fn every_format_becomes_the_same_small_jpeg() {
    for format in FORMATS {
        let bytes = encoded(&scene(100, 50).into(), format);
        let picture = run(&bytes).unwrap();
        assert_eq!((picture.width, picture.height), (64, 32), "{format:?}");
        assert_eq!((picture.original_width, picture.original_height), (100, 50));
        assert_eq!(
            image::guess_format(&picture.bytes).unwrap(),
            ImageFormat::Jpeg
        );
        assert_eq!(picture.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(picture, run(&bytes).unwrap());
        let stored = image::load_from_memory(&picture.bytes).unwrap().into_rgb8();
        let corner = stored.get_pixel(60, 2).0;
        assert!(corner[0] > 220 && corner[1] < 30, "{format:?} {corner:?}");
    }
}

#[test]
fn small_pictures_are_not_enlarged_and_long_ones_keep_a_pixel() {
    let picture = run(&encoded(&scene(20, 30).into(), ImageFormat::Png)).unwrap();
    assert_eq!((picture.width, picture.height), (20, 30));
    let picture = run(&encoded(&scene(5000, 8).into(), ImageFormat::Png)).unwrap();
    assert_eq!((picture.width, picture.height), (64, 1));
}

#[test]
fn transparency_is_white_and_grey_is_grey() {
    let clear = RgbaImage::from_pixel(16, 16, Rgba([0, 0, 0, 0]));
    let picture = run(&encoded(&clear.into(), ImageFormat::Png)).unwrap();
    let stored = image::load_from_memory(&picture.bytes).unwrap().into_rgb8();
    assert!(
        stored
            .pixels()
            .all(|pixel| pixel.0.iter().all(|c| *c > 250))
    );
    let grey = GrayImage::from_pixel(16, 16, image::Luma([99]));
    assert!(run(&encoded(&grey.into(), ImageFormat::Jpeg)).is_ok());
}

/// A ball left of the middle, the same at every size.
fn ball(side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| {
        let (x, y) = (x as f32 / side as f32 - 0.3, y as f32 / side as f32 - 0.4);
        let shade = if x * x + y * y < 0.04 {
            20.0
        } else {
            230.0 - 90.0 * y
        };
        Rgb([shade as u8; 3])
    })
}

#[test]
fn phash_stays_under_shrinking_and_tells_pictures_apart() {
    let hash = |image: RgbImage| {
        run(&encoded(&image.into(), ImageFormat::Png))
            .unwrap()
            .phash
    };
    let (small, large) = (hash(ball(100)), hash(ball(400)));
    let flipped = hash(image::imageops::flip_horizontal(&ball(100)));
    assert!((small ^ large).count_ones() <= 10, "{small:x} {large:x}");
    assert!(
        (small ^ flipped).count_ones() >= 16,
        "{small:x} {flipped:x}"
    );
}

#[test]
fn what_is_no_picture_is_refused_by_its_bytes() {
    for bytes in [
        &b""[..],
        b"<html>",
        b"<svg xmlns='x'/>",
        b"BM\0\0",
        b"{}",
        b"\xff",
        b"RIFF\0\0\0\0WAVE",
    ] {
        assert_eq!(code(bytes), RejectCode::NotImage, "{bytes:?}");
    }
}

#[test]
fn headers_are_judged_before_decoding() {
    assert_eq!(
        code(&encoded(&scene(7, 100).into(), ImageFormat::Png)),
        RejectCode::TooSmall
    );
    assert_eq!(
        code(&encoded(&scene(1001, 1000).into(), ImageFormat::Png)),
        RejectCode::Pixels
    );
    // 30,000 x 30,000 in a header, with almost no data.
    let mut bomb = encoded(&scene(16, 16).into(), ImageFormat::Jpeg);
    let frame = bomb.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    for at in [frame + 5, frame + 7] {
        bomb[at..at + 2].copy_from_slice(&30_000u16.to_be_bytes());
    }
    assert_eq!(code(&bomb), RejectCode::Pixels);
}

#[test]
fn what_is_cut_short_or_corrupt_is_refused() {
    for format in FORMATS {
        let whole = encoded(&scene(60, 60).into(), format);
        for keep in [whole.len() / 4, whole.len() / 2, whole.len() * 9 / 10] {
            let code = code(&whole[..keep]);
            assert_eq!(
                code,
                RejectCode::Decode,
                "{format:?} cut at {keep} of {}",
                whole.len()
            );
        }
    }
    let mut png = encoded(&scene(60, 60).into(), ImageFormat::Png);
    let middle = png.len() / 2;
    png[middle..middle + 32]
        .iter_mut()
        .for_each(|byte| *byte ^= 0x5a);
    assert_eq!(code(&png), RejectCode::Decode);
}

#[test]
fn bytes_after_the_end_of_a_jpeg_do_not_matter() {
    let mut bytes = encoded(&scene(60, 60).into(), ImageFormat::Jpeg);
    assert!(jpeg::is_complete(&bytes));
    bytes.extend_from_slice(b"trailing");
    assert!(run(&bytes).is_ok());
}

proptest::proptest! {
    /// Arbitrary bytes never make the decoder panic.
    #[test]
    fn damage_is_survived(at in 0usize..2000, with in proptest::num::u8::ANY, which in 0usize..4) {
        let mut bytes = encoded(&scene(24, 24).into(), FORMATS[which]);
        let at = at % bytes.len();
        bytes[at] = with;
        let _ = run(&bytes);
    }
}
