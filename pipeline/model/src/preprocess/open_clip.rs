//! `open_clip_config.json`: the preparation that open_clip uses for inference.
//!
//! Source: open_clip 3.3, `transform.py` and `factory.py`.

use serde_json::{Map, Value, json};
use std::path::Path;

use super::config::{CLIP_MEAN, CLIP_STD, Keys, Unsupported};
use super::{Filter, ImagePreprocess, Resize, Rounding, Transparency};
use crate::folder;

const FILE: &str = "open_clip_config.json";

/// The preparation of a folder, if it has this file.
pub(super) fn load(folder: &Path) -> Result<Option<ImagePreprocess>, folder::Error> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let mut file: Map<String, Value> = folder::read_json(&path)?;
    let tower = file
        .get("model_cfg")
        .and_then(|model| model.get("vision_cfg"));
    let side = tower.and_then(|tower| tower.get("image_size")).cloned();
    let values = match file.remove("preprocess_cfg") {
        Some(Value::Object(values)) => values,
        _ => Map::new(),
    };
    let keys = Keys::new(path, "preprocess_cfg.", values);
    Ok(Some(from_keys(keys, side.unwrap_or(json!(224)))?))
}

/// - `side`: of the model, which open_clip uses instead of the `size` of the preparation.
fn from_keys(mut keys: Keys, side: Value) -> Result<ImagePreprocess, Unsupported> {
    keys.take("size");
    keys.only("mode", json!("RGB"))?;
    // Only the resize mode `longest` reads it.
    keys.take("fill_color");
    let side = side
        .as_u64()
        .filter(|side| (1..=1 << 14).contains(side))
        .ok_or_else(|| {
            let problem =
                format!("belongs to a model of `image_size` {side}; supported is a whole number");
            keys.unsupported("size", problem)
        })? as usize;
    let resize = match keys.name("resize_mode")?.as_deref() {
        None | Some("shortest") => Resize::Shortest(side),
        Some("squash") => Resize::To([side; 2]),
        Some(other) => {
            let problem = format!("is {other:?}; supported are \"shortest\" and \"squash\"");
            return Err(keys.unsupported("resize_mode", problem));
        }
    };
    let filter = match keys.name("interpolation")?.as_deref() {
        // For inference open_clip takes `random` as bicubic.
        None | Some("bicubic" | "random") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        Some(other) => {
            let problem = format!("is {other:?}; supported are \"bicubic\" and \"bilinear\"");
            return Err(keys.unsupported("interpolation", problem));
        }
    };
    let mean = keys.colours("mean", CLIP_MEAN)?;
    let std = keys.colours("std", CLIP_STD)?;
    keys.finish()?;
    Ok(ImagePreprocess {
        side,
        resize,
        filter,
        rounding: Rounding::HalfEven,
        transparency: Transparency::Dropped,
        scale: 1.0 / 255.0,
        mean,
        std,
    })
}
