use super::*;
use capstan_plan::id::Digest;
use safetensors::{SafeTensors, tensor::TensorView};

use super::randaugment::Operation;

/// What the reference implementations give; `reference/make.py` makes it.
const REFERENCE: &[u8] = include_bytes!("reference/reference.safetensors");
const SIDE: usize = 24;

fn reference(name: &str) -> TensorView<'static> {
    let file = SafeTensors::deserialize(REFERENCE).expect("a whole file");
    file.tensor(name).expect("a tensor of the file")
}

fn id(byte: u8) -> TextId {
    TextId(Digest([byte; 32]))
}

fn picture(side: usize) -> Rgb {
    Rgb {
        width: side,
        height: side,
        bytes: (0..3 * side * side).map(|i| (i * 7 % 251) as u8).collect(),
    }
}

/// An augmentation with these settings beside the required ones.
pub(crate) fn augment(seed: u64, preprocess: &ImagePreprocess, settings: &str) -> Augment {
    let config = serde_json::from_str(&format!(
        r#"{{"data": [], "tokenizer": "t", "objectives": ["itc"], "steps": 1, "global_batch": 1,
        "learning_rate": 1e-3 {settings}}}"#
    ));
    Augment::new(seed, &config.expect("settings"), preprocess)
}

/// Pictures of side 8 whose values are not normalised.
fn plain() -> ImagePreprocess {
    ImagePreprocess {
        mean: [0.0; 3],
        std: [1.0; 3],
        ..ImagePreprocess::new(8)
    }
}

fn planes(augment: &Augment, key: (u64, &TextId)) -> Vec<f32> {
    let mut planes = vec![0.0; 3 * 64];
    augment.apply(key, &picture(8), &mut planes);
    planes
}

#[test]
fn without_augmentation_bytes_become_normalised_planes() {
    let preprocess = ImagePreprocess {
        mean: [0.5, 0.4, 0.3],
        std: [0.27, 0.26, 0.25],
        ..plain()
    };
    let got = planes(&augment(1, &preprocess, ""), (0, &id(1)));
    for channel in 0..3 {
        for at in 0..64 {
            let x = f32::from(picture(8).bytes[3 * at + channel]) / 255.0;
            let want = (x - preprocess.mean[channel]) / preprocess.std[channel];
            assert!((got[channel * 64 + at] - want).abs() < 1e-6);
        }
    }
}

#[test]
fn another_scale_scales_the_brightness_too() {
    let settings = r#", "brightness_jitter": 0.3"#;
    let raw = ImagePreprocess {
        scale: 1.0,
        ..plain()
    };
    let whole = planes(&augment(1, &plain(), settings), (0, &id(1)));
    let got = planes(&augment(1, &raw, settings), (0, &id(1)));
    for (got, want) in got.iter().zip(&whole) {
        assert!((got - 255.0 * want).abs() < 1e-3, "{got} {want}");
    }
}

#[test]
fn a_shift_moves_the_picture_and_repeats_its_edge() {
    let augment = augment(5, &plain(), r#", "shift_px": 4"#);
    let mut seen = std::collections::BTreeSet::new();
    for byte in 0..200 {
        let drawn = augment.draw(0, &id(byte));
        seen.insert((drawn.rows, drawn.columns));
        let got = planes(&augment, (0, &id(byte)));
        for y in 0..8i64 {
            for x in 0..8i64 {
                let (sy, sx) = (
                    (y + drawn.rows).clamp(0, 7),
                    (x + drawn.columns).clamp(0, 7),
                );
                let want = f32::from(picture(8).bytes[(3 * (sy * 8 + sx)) as usize]) / 255.0;
                assert_eq!(got[(y * 8 + x) as usize], want);
            }
        }
    }
    assert!(seen.iter().all(|(r, c)| r.abs() <= 4 && c.abs() <= 4));
    assert!(seen.len() > 60, "81 places, {} seen", seen.len());
}

#[test]
fn draws_depend_on_data_epoch_text_and_seed_alone() {
    let all = r#", "shift_px": 4, "brightness_jitter": 0.15"#;
    let crop = r#", "augment": {"crop_scale": [0.2, 0.9]}"#;
    for settings in [all, crop] {
        let augment = |seed| augment(seed, &plain(), settings);
        let base = planes(&augment(5), (1, &id(3)));
        assert_eq!(base, planes(&augment(5), (1, &id(3))));
        assert_ne!(base, planes(&augment(5), (2, &id(3))));
        assert_ne!(base, planes(&augment(5), (1, &id(4))));
        assert_ne!(base, planes(&augment(6), (1, &id(3))));
    }
}

#[test]
fn jitter_stays_within_its_bounds() {
    let augment = augment(9, &plain(), r#", "brightness_jitter": 0.15"#);
    for byte in 0..=255 {
        let drawn = augment.draw(0, &id(byte));
        assert!((0.85..=1.15).contains(&drawn.factor) && drawn.offset.abs() <= 0.075);
    }
}

#[test]
fn half_of_the_pictures_are_mirrored() {
    let augment = augment(3, &plain(), r#", "augment": {"flip": true}"#);
    let mut mirrored = picture(8).bytes;
    flip(&mut mirrored, 8);
    let mut flipped = 0;
    for byte in 0..=255 {
        let picture = picture(8);
        let got = augment.varied((0, &id(byte)), &picture);
        assert!(got[..] == mirrored || got[..] == picture.bytes);
        flipped += usize::from(got[..] == mirrored);
    }
    assert!((96..160).contains(&flipped), "{flipped} of 256");
}

#[test]
fn randaugment_changes_about_as_many_pictures_as_its_probabilities_say() {
    let settings = r#", "augment": {"randaugment": {"operations": 2, "magnitude": 5}}"#;
    let augment = augment(3, &plain(), settings);
    assert!(!augment.crops());
    let changed = (0..=255)
        .filter(|byte| augment.varied((0, &id(*byte)), &picture(8))[..] != picture(8).bytes)
        .count();
    // Of ten operations two or three change nothing: 1 - (1 - 0.5 * 0.7)^2 = 0.58 to 0.64.
    assert!((120..190).contains(&changed), "{changed} of 256");
}

#[test]
fn a_flip_is_torchvisions() {
    let mut rgb = reference("image").data().to_vec();
    flip(&mut rgb, SIDE);
    assert_eq!(rgb, reference("flipped").data());
}

#[test]
fn crop_areas_are_torchvisions() {
    let numbers = |bytes: &'static [u8]| bytes.as_chunks::<8>().0.iter().copied();
    let draws: Vec<f64> = numbers(reference("crop.draws").data())
        .map(f64::from_le_bytes)
        .collect();
    let areas: Vec<usize> = numbers(reference("crop.areas").data())
        .map(|bytes| i64::from_le_bytes(bytes) as usize)
        .collect();
    let mut fallbacks = 0;
    for (row, want) in draws.chunks_exact(43).zip(areas.as_chunks::<4>().0) {
        let from = [row[0] as usize, row[1] as usize];
        let used = std::cell::Cell::new(0);
        let area = CropArea::draw(from, [row[2], 1.0], [3.0 / 4.0, 4.0 / 3.0], |draw| {
            used.set(draw);
            row[3 + draw as usize]
        });
        let [left, top, width, height] = *want;
        assert_eq!(area.first, [left, top], "{row:?}");
        assert_eq!(area.sides, [width, height], "{row:?}");
        fallbacks += usize::from(used.get() == 37);
    }
    assert!(fallbacks > 5, "{fallbacks} fallbacks to the middle");
}

#[test]
fn a_crop_is_resized_as_pillow_does() {
    let sides = [29, 22];
    let whole = Rgb {
        width: 40,
        height: 31,
        bytes: reference("whole").data().to_vec(),
    };
    let area = CropArea {
        first: [3, 5],
        sides,
    };
    let filter = ImagePreprocess::new(SIDE).filter;
    let got = resize(area.of(&whole), sides, [SIDE; 2], filter);
    assert_eq!(got, reference("resized_crop").data());
}

#[test]
fn operations_are_blips() {
    use Operation::*;
    let exact = [Identity, AutoContrast, Brightness, Sharpness, Equalize];
    let geometric = [ShearX, ShearY, TranslateX, TranslateY, Rotate];
    let file = SafeTensors::deserialize(REFERENCE).expect("a whole file");
    let mut compared = 0;
    for operation in exact.into_iter().chain(geometric) {
        let start = format!("{operation:?}.");
        // OpenCV computes in single precision.
        let limit = if geometric.contains(&operation) { 1 } else { 0 };
        for name in file
            .names()
            .into_iter()
            .filter(|name| name.starts_with(&start))
        {
            let numbers: Vec<f64> = name[start.len()..]
                .split('.')
                .map(|number| number.parse().expect("a number"))
                .collect();
            let from = if operation == Sharpness {
                "soft"
            } else {
                "image"
            };
            let image = reference(from).data().to_vec();
            let got = operation.apply(image, SIDE, numbers[0], numbers[1]);
            let want = reference(name);
            let apart = got.iter().zip(want.data()).map(|(a, b)| a.abs_diff(*b));
            assert!(apart.max() <= Some(limit), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 12 + 3);
}
