//! Preprocessing of pictures.

use super::Outputs;
use super::array::Array;
use super::case::Case;
use capstan_model::ImagePreprocess;
use capstan_model::preprocess::{Fit, Picture};

/// The output whose shape gives a second, larger side.
const ENLARGED: &str = "upscaled_u8";

pub fn compute(case: &Case) -> Result<Outputs, String> {
    let config = case.config()?;
    let side = config["size"]
        .as_u64()
        .ok_or("config.json: `size` is no number")? as usize;
    let colours = |name: &str| -> Result<[f32; 3], String> {
        serde_json::from_value(config[name].clone())
            .map_err(|error| format!("config.json: `{name}`: {error}"))
    };
    let (mean, std) = (colours("mean")?, colours("std")?);
    let image = case.input("image_u8")?;
    let (height, width) = (image.shape[0], image.shape[1]);
    let rgb: Vec<u8> = image.ints().iter().map(|byte| *byte as u8).collect();
    let with = |side, fit| ImagePreprocess {
        side,
        fit,
        mean,
        std,
    };
    let fitted = |preprocess: &ImagePreprocess| -> Result<Picture, String> {
        preprocess
            .fit(width, height, rgb.clone())
            .map_err(|error| error.to_string())
    };
    let bytes = |shape: &[usize], rgb: &[u8]| {
        Array::int(shape, rgb.iter().map(|b| i64::from(*b)).collect())
    };

    let square = with(side, Fit::Square);
    let squared = fitted(&square)?;
    let enlarged_side = case
        .expected
        .get(ENLARGED)
        .map_or(side, |array| array.shape[0]);
    let enlarged = fitted(&with(enlarged_side, Fit::Square))?;
    let [w, h] = capstan_model::preprocess::shortest_edge([width, height], side);
    let shortest = capstan_model::preprocess::resize(rgb.clone(), [width, height], [w, h]);
    // Two references crop the centre one column apart if the surplus is odd.
    let floor = fitted(&with(side, Fit::Crop))?;
    let even = fitted(&with(side, Fit::CropHalfEven))?;
    Ok(vec![
        ("square_u8".into(), bytes(&[side, side, 3], &squared.rgb)),
        (
            ENLARGED.into(),
            bytes(&[enlarged_side, enlarged_side, 3], &enlarged.rgb),
        ),
        ("shortest_edge_u8".into(), bytes(&[h, w, 3], &shortest)),
        (
            "blip_pixel_values".into(),
            Array::float(&[3, side, side], square.normalise(&squared)),
        ),
        (
            "clip_pixel_values".into(),
            Array::float(&[3, side, side], square.normalise(&even)),
        ),
        (
            "clip_pixel_values_floor_crop".into(),
            Array::float(&[3, side, side], square.normalise(&floor)),
        ),
    ])
}
