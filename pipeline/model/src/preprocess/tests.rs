use super::*;
use crate::folder;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use std::path::Path;

fn png(width: u32, height: u32) -> (Vec<u8>, Vec<u8>) {
    let rgb: Vec<u8> = (0..width * height * 3)
        .map(|i| (i * 7 % 251) as u8)
        .collect();
    (encoded(&rgb, [width, height], ExtendedColorType::Rgb8), rgb)
}

fn encoded(bytes: &[u8], [width, height]: [u32; 2], colours: ExtendedColorType) -> Vec<u8> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(bytes, width, height, colours)
        .expect("encoded");
    file
}

/// What a folder of one file gives.
fn load(name: &str, text: &str) -> Result<ImagePreprocess, folder::Error> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(name), text).expect("written");
    ImagePreprocess::load(folder.path())
}

fn cropped(side: usize) -> ImagePreprocess {
    ImagePreprocess {
        resize: Resize::Shortest(side),
        ..ImagePreprocess::new(side)
    }
}

#[test]
fn a_picture_of_the_right_side_is_not_resampled() {
    let (bytes, rgb) = png(64, 64);
    let preprocess = ImagePreprocess::new(64);
    assert_eq!(preprocess.decode(&bytes).expect("decoded").rgb, rgb);
    let pixels = preprocess.pixels(&bytes).expect("pixels");
    assert_eq!(pixels[1], (f32::from(rgb[3]) / 255.0 - 0.5) / 0.27);
    assert_eq!(pixels[64 * 64], (f32::from(rgb[1]) / 255.0 - 0.5) / 0.27);
}

#[test]
fn the_usual_scale_divides_by_255() {
    let preprocess = ImagePreprocess::new(8);
    for value in 0..=255 {
        assert_eq!(preprocess.scaled(value), f32::from(value) / 255.0);
    }
}

#[test]
fn other_sides_are_fitted() {
    let (bytes, _) = png(31, 17);
    let kept = ImagePreprocess {
        resize: Resize::Off,
        ..ImagePreprocess::new(8)
    };
    for preprocess in [ImagePreprocess::new(8), cropped(8), kept] {
        assert_eq!(preprocess.pixels(&bytes).expect("pixels").len(), 3 * 64);
    }
}

#[test]
fn a_very_long_picture_costs_no_more_than_its_middle() {
    // The whole resized picture would have 3.2 gigabytes.
    let picture = cropped(256).fit(1 << 14, 1, vec![9; 3 << 14]);
    assert_eq!(picture.expect("fitted").rgb, vec![9; 3 * 256 * 256]);
}

#[test]
fn a_small_picture_is_padded_with_black() {
    let preprocess = |rounding| ImagePreprocess {
        resize: Resize::Off,
        rounding,
        ..ImagePreprocess::new(4)
    };
    for (rounding, at) in [(Rounding::Floor, 2), (Rounding::HalfEven, 1)] {
        let fitted = preprocess(rounding).fit(1, 5, vec![7; 15]).expect("fitted");
        let mut want = vec![0; 48];
        for row in 0..4 {
            want[3 * (4 * row + at)..][..3].fill(7);
        }
        assert_eq!(fitted.rgb, want, "{rounding:?}");
    }
}

#[test]
fn transparent_parts_become_white_or_lose_their_alpha() {
    let rgba = [
        200, 100, 0, 255, 200, 100, 0, 0, 200, 100, 0, 128, 9, 9, 9, 1,
    ];
    let file = encoded(&rgba, [2, 2], ExtendedColorType::Rgba8);
    let white = ImagePreprocess::new(2);
    let dropped = ImagePreprocess {
        transparency: Transparency::Dropped,
        ..ImagePreprocess::new(2)
    };
    // Of Pillow 13: `Image.alpha_composite(white, picture).convert("RGB")`.
    let want = [200, 100, 0, 255, 255, 255, 227, 177, 127, 254, 254, 254];
    assert_eq!(white.decode(&file).expect("decoded").rgb, want);
    let want = [200, 100, 0, 200, 100, 0, 200, 100, 0, 9, 9, 9];
    assert_eq!(dropped.decode(&file).expect("decoded").rgb, want);
}

#[test]
fn what_is_no_picture_is_an_error() {
    let (bytes, _) = png(64, 64);
    let preprocess = ImagePreprocess::new(64);
    for bad in [&bytes[..bytes.len() / 2], b"<html>", b""] {
        assert!(preprocess.pixels(bad).is_err());
    }
}

#[test]
fn the_file_round_trips() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = ImagePreprocess {
        resize: Resize::To([50, 60]),
        filter: Filter::Lanczos,
        rounding: Rounding::HalfEven,
        transparency: Transparency::Dropped,
        scale: 1.0,
        ..ImagePreprocess::new(48)
    };
    let kept = ImagePreprocess {
        resize: Resize::Off,
        ..ImagePreprocess::new(48)
    };
    for preprocess in [ImagePreprocess::new(48), cropped(48), other, kept] {
        preprocess.save(folder.path()).expect("saved");
        let read = ImagePreprocess::load(folder.path()).expect("loaded");
        assert_eq!(read, preprocess);
    }
}

#[test]
fn files_of_released_models_are_read() {
    // As it lies beside BLIP, written by an early release of the library.
    let text = r#"{"do_normalize": true, "do_pad": true, "do_rescale": true,
        "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "BlipImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711], "processor_class": "BlipProcessor",
        "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 384, "width": 384}, "size_divisor": 32}"#;
    let read = load(FILE, text).expect("read");
    assert_eq!((read.side, read.resize), (384, Resize::To([384, 384])));
    assert_eq!(read.mean[1], 0.457_827_5);
    // As it lies beside OpenAI's CLIP ViT-B/32.
    let text = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true,
        "do_resize": true, "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224}"#;
    let clip = load(FILE, text).expect("read");
    assert_eq!((clip.side, clip.resize), (224, Resize::Shortest(224)));
    assert_eq!(clip.rounding, Rounding::Floor);
}

#[test]
fn keys_that_are_left_out_have_the_defaults_of_the_class() {
    let clip = load(
        FILE,
        r#"{"image_processor_type": "CLIPImageProcessor", "size": null}"#,
    );
    let clip = clip.expect("read");
    assert_eq!((clip.side, clip.resize), (224, Resize::Shortest(224)));
    assert_eq!((clip.filter, clip.scale), (Filter::Bicubic, 1.0 / 255.0));
    assert_eq!((clip.mean[0], clip.std[2]), (0.481_454_66, 0.275_777_1));
    let nested = r#"{"image_processor": {"image_processor_type": "BlipImageProcessorFast"}}"#;
    let blip = load("processor_config.json", nested).expect("read");
    assert_eq!((blip.side, blip.resize), (384, Resize::To([384, 384])));
    // The model beside the file names the class.
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name, text| std::fs::write(folder.path().join(name), text).expect("written");
    write(FILE, r#"{"size": 96}"#);
    write(folder::CONFIG_FILE, r#"{"model_type": "blip"}"#);
    let blip = ImagePreprocess::load(folder.path()).expect("read");
    assert_eq!((blip.side, blip.resize), (96, Resize::To([96, 96])));
}

#[test]
fn open_clips_file_is_read() {
    let text = r#"{"model_cfg": {"vision_cfg": {"image_size": 256}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": 0.25, "interpolation": "bilinear",
        "resize_mode": "squash"}}"#;
    let read = load("open_clip_config.json", text).expect("read");
    assert_eq!((read.side, read.resize), (256, Resize::To([256, 256])));
    assert_eq!((read.filter, read.std), (Filter::Bilinear, [0.25; 3]));
    let read = load("open_clip_config.json", "{}").expect("read");
    assert_eq!((read.side, read.resize), (224, Resize::Shortest(224)));
    assert_eq!(read.rounding, Rounding::HalfEven);
    assert_eq!(read.transparency, Transparency::Dropped);
}

#[test]
fn what_is_not_supported_is_refused_with_its_file_and_key() {
    let clip = |key: &str, value: &str| {
        format!(r#"{{"image_processor_type": "CLIPImageProcessor", "{key}": {value}}}"#)
    };
    let open_clip =
        |key: &str, value: &str| format!(r#"{{"preprocess_cfg": {{"{key}": {value}}}}}"#);
    let size = "supported are an integer, {height, width} and {shortest_edge}, each of 1 to 16384 \
                pixels";
    let cases = [
        (FILE, clip("size", r#"{"longest_edge":9}"#), format!(r#"`size` is {{"longest_edge":9}}; {size}"#)),
        (FILE, clip("size", "0"), format!("`size` is 0; {size}")),
        (FILE, clip("crop_size", r#"{"height":9,"width":8}"#),
            "`crop_size` is 8 wide and 9 high; supported are square pictures".to_owned()),
        (FILE, clip("do_center_crop", "false"), "`do_center_crop` is false and no `height` and \
            `width` are resized to, so pictures differ in size; supported are square pictures".to_owned()),
        (FILE, clip("resample", "6"), "`resample` is 6, none of Pillow's 0 to 5".to_owned()),
        (FILE, clip("do_resize", "1"), "`do_resize` is 1, not true or false".to_owned()),
        (FILE, clip("image_std", "[0.1,0,0.1]"), "`image_std` holds a zero".to_owned()),
        (FILE, clip("image_mean", "[0.1]"), "`image_mean` is [0.1], not three numbers".to_owned()),
        (FILE, clip("do_flip_channel_order", "true"),
            "`do_flip_channel_order` is true, which is not supported".to_owned()),
        (FILE, r#"{"image_processor_type": "ViTImageProcessor"}"#.to_owned(),
            "`image_processor_type` is \"ViTImageProcessor\"; supported are CLIPImageProcessor and \
            BlipImageProcessor".to_owned()),
        (FILE, "{}".to_owned(), "`image_processor_type` is missing, and config.json names neither \
            `clip` nor `blip` as its `model_type`".to_owned()),
        ("processor_config.json", format!(r#"{{"image_processor": {}}}"#, clip("pad_size", "9")),
            "`image_processor.pad_size` is 9, which is not supported".to_owned()),
        ("open_clip_config.json", open_clip("resize_mode", "\"longest\""),
            "`preprocess_cfg.resize_mode` is \"longest\"; supported are \"shortest\" and \"squash\"".to_owned()),
        ("open_clip_config.json", open_clip("timm", "1"),
            "`preprocess_cfg.timm` is 1, which is not supported".to_owned()),
    ];
    for (name, text, want) in cases {
        let error = load(name, &text).expect_err(&text).to_string();
        let tail = format!("{name}: {want}");
        assert!(error.ends_with(&tail), "{error}\nexpected {tail}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let error = ImagePreprocess::load(Path::new(folder.path())).expect_err("no file");
    assert!(matches!(error, folder::Error::Read { path, .. } if path.ends_with(FILE)));
}
