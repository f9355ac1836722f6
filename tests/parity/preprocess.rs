//! Preprocessing of pictures.

use super::Outputs;
use super::array::Array;
use super::case::Case;
use capstan_model::ImagePreprocess;
use capstan_model::preprocess::{Filter, Picture, Resize, Rounding, Transparency};
use std::path::PathBuf;

/// The output whose shape gives a second, larger side.
const ENLARGED: &str = "upscaled_u8";

/// open_clip's transform and the Pillow operations below it.
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
    let with = |side, resize, rounding| ImagePreprocess {
        resize,
        rounding,
        transparency: Transparency::Dropped,
        mean,
        std,
        ..ImagePreprocess::new(side)
    };
    let stretched = |side| with(side, Resize::To([side; 2]), Rounding::Floor);
    let cropped = |rounding| with(side, Resize::Shortest(side), rounding);
    let fitted = |preprocess: &ImagePreprocess| -> Result<Picture, String> {
        preprocess
            .fit(width, height, rgb.clone())
            .map_err(|error| error.to_string())
    };
    let bytes = |shape: &[usize], rgb: &[u8]| {
        Array::int(shape, rgb.iter().map(|b| i64::from(*b)).collect())
    };

    let square = stretched(side);
    let squared = fitted(&square)?;
    let enlarged_side = case
        .expected
        .get(ENLARGED)
        .map_or(side, |array| array.shape[0]);
    let enlarged = fitted(&stretched(enlarged_side))?;
    let [w, h] = capstan_model::preprocess::shortest_edge([width, height], side);
    let shortest =
        capstan_model::preprocess::resize(rgb.clone(), [width, height], [w, h], Filter::Bicubic);
    // Two references crop the centre one column apart if the surplus is odd.
    let floor = fitted(&cropped(Rounding::Floor))?;
    let even = fitted(&cropped(Rounding::HalfEven))?;
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

/// Hugging Face's image processors: the case holds one folder for each configuration. Every
/// three-dimensional input is a picture `[height, width, 3]`; the output of a configuration for it is
/// `CONFIGURATION.PICTURE`.
pub fn processors(case: &Case) -> Result<Outputs, String> {
    let mut outputs = Outputs::new();
    for (configuration, folder) in configurations(case)? {
        let preprocess = ImagePreprocess::load(&folder).map_err(|error| error.to_string())?;
        let side = preprocess.side;
        for (picture, image) in &case.inputs {
            let [height, width, 3] = image.shape[..] else {
                continue;
            };
            let rgb = image.ints().iter().map(|byte| *byte as u8).collect();
            let fitted = preprocess
                .fit(width, height, rgb)
                .map_err(|error| error.to_string())?;
            let values = Array::float(&[3, side, side], preprocess.normalise(&fitted));
            outputs.push((format!("{configuration}.{picture}"), values));
        }
    }
    Ok(outputs)
}

/// The folders of a case's configurations by name.
fn configurations(case: &Case) -> Result<Vec<(String, PathBuf)>, String> {
    let entries = std::fs::read_dir(&case.path).map_err(|error| error.to_string())?;
    let folders = entries.map(|entry| entry.expect("an entry of the case").path());
    let named = folders.filter(|path| path.is_dir()).map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (name.into_owned(), path.clone())
    });
    Ok(named.collect())
}
