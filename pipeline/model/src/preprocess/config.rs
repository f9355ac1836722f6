//! `preprocessor_config.json` in and out, with the defaults of Hugging Face's image processors.
//!
//! Sources: transformers 5.23, `image_processing_utils.py` (defaults and sizes),
//! `image_processing_base.py` (which file is read), `image_processing_pil_clip.py` and
//! `image_processing_pil_blip.py`.

use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

use super::{Filter, ImagePreprocess, Resize, Rounding, Transparency, open_clip};
use crate::folder;

/// File of the preparation in a model folder.
pub const FILE: &str = "preprocessor_config.json";

/// File in which transformers 5 nests the same keys under `image_processor`.
const PROCESSOR_FILE: &str = "processor_config.json";
const NESTED: &str = "image_processor";

/// Our own settings that no key of Hugging Face can express. Its library ignores the key.
const OWN: &str = "capstan";

/// Side of the largest picture that a configuration may ask for.
const MAX_SIDE: u64 = 1 << 14;

/// Mean and standard deviation of OpenAI's CLIP.
pub(super) const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub(super) const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Keys that releases of the library write and its CLIP and BLIP processors do not read.
const UNREAD: [&str; 11] = [
    "processor_class",
    "feature_extractor_type",
    "image_processor_type",
    "_valid_processor_keys",
    "auto_map",
    "size_divisor",
    "device",
    "disable_grouping",
    "input_data_format",
    "return_tensors",
    "image_seq_length",
];

/// A setting of a preprocessing file that is not supported.
#[derive(Debug, thiserror::Error)]
#[error("{}: `{key}` {problem}", path.display())]
pub struct Unsupported {
    /// The file.
    path: PathBuf,
    /// The key, with the tables that hold it.
    key: String,
    /// What it holds and what is supported.
    problem: String,
}

/// A class of the library: it decides the defaults of keys that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Clip,
    Blip,
}

/// A size as files write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Shortest(usize),
    /// Width and height.
    Sides([usize; 2]),
}

impl ImagePreprocess {
    /// Reads the preparation of a model folder: `processor_config.json` with a table
    /// `image_processor`, else `preprocessor_config.json`, else `open_clip_config.json`.
    ///
    /// # Errors
    /// [`folder::Error`]; [`Unsupported`] names the file and the key.
    pub fn load(path: &Path) -> Result<Self, folder::Error> {
        let captioner = path.join(crate::blip::CAPTIONER_FOLDER);
        for folder in [path, &captioner] {
            if let Some(found) = Self::load_from(folder)? {
                return Ok(found);
            }
        }
        Err(folder::Error::Read {
            path: path.join(FILE),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    fn load_from(folder: &Path) -> Result<Option<Self>, folder::Error> {
        let nested = folder.join(PROCESSOR_FILE);
        if nested.exists() {
            let mut file: Map<String, Value> = folder::read_json(&nested)?;
            if let Some(Value::Object(values)) = file.remove(NESTED) {
                let keys = Keys::new(nested, &format!("{NESTED}."), values);
                return Ok(Some(from_keys(keys, folder)?));
            }
        }
        let flat = folder.join(FILE);
        if flat.exists() {
            let values = folder::read_json(&flat)?;
            return Ok(Some(from_keys(Keys::new(flat, "", values), folder)?));
        }
        open_clip::load(folder)
    }

    /// Writes `preprocessor_config.json` into a model folder.
    ///
    /// # Errors
    /// [`folder::Error::Write`].
    pub fn save(&self, path: &Path) -> Result<(), folder::Error> {
        let square = json!({"height": self.side, "width": self.side});
        let size = match self.resize {
            Resize::Off => square.clone(),
            Resize::Shortest(edge) => json!({"shortest_edge": edge}),
            Resize::To([width, height]) => json!({"height": height, "width": width}),
        };
        let crop = self.resize != Resize::To([self.side; 2]);
        let file = File {
            image_processor_type: if crop {
                "CLIPImageProcessor"
            } else {
                "BlipImageProcessor"
            },
            do_convert_rgb: true,
            do_resize: self.resize != Resize::Off,
            do_center_crop: crop,
            do_rescale: true,
            do_normalize: true,
            rescale_factor: self.scale,
            resample: self.filter.number(),
            image_mean: self.mean,
            image_std: self.std,
            size,
            crop_size: crop.then_some(square),
            capstan: self.own_settings(),
        };
        folder::write_json(&path.join(FILE), &file)
    }

    fn own_settings(&self) -> Map<String, Value> {
        let mut own = Map::new();
        if self.rounding == Rounding::HalfEven {
            own.insert("center_crop".to_owned(), json!("half_even"));
        }
        if self.transparency == Transparency::Dropped {
            own.insert("transparency".to_owned(), json!("dropped"));
        }
        own
    }
}

/// What [`ImagePreprocess::save`] writes.
#[derive(Serialize)]
struct File {
    image_processor_type: &'static str,
    do_convert_rgb: bool,
    do_resize: bool,
    do_center_crop: bool,
    do_rescale: bool,
    do_normalize: bool,
    rescale_factor: f64,
    resample: u8,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    size: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    crop_size: Option<Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    capstan: Map<String, Value>,
}

fn from_keys(mut keys: Keys, folder: &Path) -> Result<ImagePreprocess, Unsupported> {
    let class = class(&keys, folder)?;
    // Padding brings the pictures of a batch to one size, which they have here already.
    keys.flag("do_pad", false)?;
    keys.only("pad_size", Value::Null)?;
    keys.only("use_square_size", json!(false))?;
    keys.only("data_format", json!("channels_first"))?;
    // Without it the library fails for pictures that are not RGB; here they are converted anyway.
    keys.flag("do_convert_rgb", true)?;
    let (resize, crop) = (resize(&mut keys, class)?, crop(&mut keys, class)?);
    let side = side(&keys, resize, crop)?;
    let scale = scale(&mut keys)?;
    let (mean, std) = normalisation(&mut keys)?;
    let number = keys.integer("resample", u64::from(Filter::Bicubic.number()))?;
    let filter = Filter::from_number(number).ok_or_else(|| {
        keys.unsupported("resample", format!("is {number}, none of Pillow's 0 to 5"))
    })?;
    let (rounding, transparency) = own_settings(&mut keys)?;
    keys.finish()?;
    Ok(ImagePreprocess {
        side,
        resize,
        filter,
        rounding,
        transparency,
        scale,
        mean,
        std,
    })
}

/// The class that a file names, else that of the model beside it.
fn class(keys: &Keys, folder: &Path) -> Result<Class, Unsupported> {
    let names = ["image_processor_type", "feature_extractor_type"];
    for key in names {
        let Some(value) = keys.values.get(key).filter(|value| !value.is_null()) else {
            continue;
        };
        let name = value.as_str().unwrap_or_default();
        let plain = ["Fast", "Pil"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        return match plain.unwrap_or(name) {
            "CLIPImageProcessor" | "CLIPFeatureExtractor" => Ok(Class::Clip),
            "BlipImageProcessor" => Ok(Class::Blip),
            _ => Err(keys.unsupported(
                key,
                format!("is {value}; supported are CLIPImageProcessor and BlipImageProcessor"),
            )),
        };
    }
    let config = folder::read_json::<Value>(&folder.join(folder::CONFIG_FILE));
    match config
        .ok()
        .as_ref()
        .and_then(|config| config["model_type"].as_str())
    {
        Some("clip") => Ok(Class::Clip),
        Some("blip") => Ok(Class::Blip),
        _ => Err(keys.unsupported(
            "image_processor_type",
            "is missing, and config.json names neither `clip` nor `blip` as its `model_type`"
                .to_owned(),
        )),
    }
}

fn resize(keys: &mut Keys, class: Class) -> Result<Resize, Unsupported> {
    let square = keys.flag("default_to_square", class == Class::Blip)?;
    let default = match class {
        Class::Clip => Size::Shortest(224),
        Class::Blip => Size::Sides([384; 2]),
    };
    let size = keys.size("size", square)?.unwrap_or(default);
    if !keys.flag("do_resize", true)? {
        return Ok(Resize::Off);
    }
    Ok(match size {
        Size::Shortest(edge) => Resize::Shortest(edge),
        Size::Sides(sides) => Resize::To(sides),
    })
}

/// The sides of the middle that is cut out.
fn crop(keys: &mut Keys, class: Class) -> Result<Option<[usize; 2]>, Unsupported> {
    let size = match keys.size("crop_size", true)? {
        Some(Size::Sides(sides)) => Some(sides),
        Some(Size::Shortest(_)) => {
            return Err(keys.unsupported(
                "crop_size",
                "has `shortest_edge`; supported are an integer, or `height` and `width`".to_owned(),
            ));
        }
        None if class == Class::Clip => Some([224; 2]),
        None => None,
    };
    match (keys.flag("do_center_crop", class == Class::Clip)?, size) {
        (false, _) => Ok(None),
        (true, Some(sides)) => Ok(Some(sides)),
        (true, None) => Err(keys.unsupported(
            "crop_size",
            "is missing: `do_center_crop` is true".to_owned(),
        )),
    }
}

/// The one side that all prepared pictures have.
fn side(keys: &Keys, resize: Resize, crop: Option<[usize; 2]>) -> Result<usize, Unsupported> {
    let (key, [width, height]) = match (crop, resize) {
        (Some(sides), _) => ("crop_size", sides),
        (None, Resize::To(sides)) => ("size", sides),
        (None, Resize::Shortest(_) | Resize::Off) => {
            let problem = "is false and no `height` and `width` are resized to, so pictures differ \
                           in size; supported are square pictures";
            return Err(keys.unsupported("do_center_crop", problem.to_owned()));
        }
    };
    if width == height {
        return Ok(width);
    }
    let problem = format!("is {width} wide and {height} high; supported are square pictures");
    Err(keys.unsupported(key, problem))
}

fn scale(keys: &mut Keys) -> Result<f64, Unsupported> {
    let scale = keys.number("rescale_factor", 1.0 / 255.0)?;
    Ok(if keys.flag("do_rescale", true)? {
        scale
    } else {
        1.0
    })
}

fn normalisation(keys: &mut Keys) -> Result<([f32; 3], [f32; 3]), Unsupported> {
    let mean = keys.colours("image_mean", CLIP_MEAN)?;
    let std = keys.colours("image_std", CLIP_STD)?;
    if !keys.flag("do_normalize", true)? {
        return Ok(([0.0; 3], [1.0; 3]));
    }
    if std.contains(&0.0) {
        return Err(keys.unsupported("image_std", "holds a zero".to_owned()));
    }
    Ok((mean, std))
}

fn own_settings(keys: &mut Keys) -> Result<(Rounding, Transparency), Unsupported> {
    let values = match keys.take(OWN) {
        Some(Value::Object(values)) => values,
        Some(value) => return Err(keys.unsupported(OWN, format!("is {value}, no table"))),
        None => Map::new(),
    };
    let mut own = Keys::new(keys.path.clone(), &format!("{}{OWN}.", keys.table), values);
    let rounding = match own.name("center_crop")?.as_deref() {
        None => Rounding::Floor,
        Some("half_even") => Rounding::HalfEven,
        Some(other) => {
            return Err(own.unsupported("center_crop", format!("is {other:?}, not \"half_even\"")));
        }
    };
    let transparency = match own.name("transparency")?.as_deref() {
        None => Transparency::White,
        Some("dropped") => Transparency::Dropped,
        Some(other) => {
            return Err(own.unsupported("transparency", format!("is {other:?}, not \"dropped\"")));
        }
    };
    own.finish()?;
    Ok((rounding, transparency))
}

/// The keys of one table, taken one by one. A null counts as left out, as in the library.
pub(super) struct Keys {
    path: PathBuf,
    /// Prefix of the keys in messages.
    table: String,
    values: Map<String, Value>,
}

impl Keys {
    pub(super) fn new(path: PathBuf, table: &str, values: Map<String, Value>) -> Self {
        Self {
            path,
            table: table.to_owned(),
            values,
        }
    }

    pub(super) fn unsupported(&self, key: &str, problem: String) -> Unsupported {
        Unsupported {
            path: self.path.clone(),
            key: format!("{}{key}", self.table),
            problem,
        }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.values.remove(key).filter(|value| !value.is_null())
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool, Unsupported> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(value) => Err(self.unsupported(key, format!("is {value}, not true or false"))),
        }
    }

    /// A key that must be left out or hold `value`.
    pub(super) fn only(&mut self, key: &str, value: Value) -> Result<(), Unsupported> {
        match self.take(key) {
            Some(found) if found != value => {
                Err(self.unsupported(key, format!("is {found}, which is not supported")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn name(&mut self, key: &str) -> Result<Option<String>, Unsupported> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name)),
            Some(value) => Err(self.unsupported(key, format!("is {value}, no text"))),
        }
    }

    fn integer(&mut self, key: &str, default: u64) -> Result<u64, Unsupported> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| self.unsupported(key, format!("is {value}, no whole number"))),
        }
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64, Unsupported> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| self.unsupported(key, format!("is {value}, no number"))),
        }
    }

    /// Three numbers, or one for all three colours.
    pub(super) fn colours(
        &mut self,
        key: &str,
        default: [f32; 3],
    ) -> Result<[f32; 3], Unsupported> {
        let Some(value) = self.take(key) else {
            return Ok(default);
        };
        if let Some(number) = value.as_f64() {
            return Ok([number as f32; 3]);
        }
        serde_json::from_value(value.clone())
            .map_err(|_| self.unsupported(key, format!("is {value}, not three numbers")))
    }

    /// An integer, `[height, width]`, `{height, width}` or `{shortest_edge}`.
    ///
    /// - `square`: whether an integer means both sides rather than the shorter one.
    fn size(&mut self, key: &str, square: bool) -> Result<Option<Size>, Unsupported> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let size = match &value {
            Value::Number(side) if square => side_of(side).map(|side| Size::Sides([side; 2])),
            Value::Number(side) => side_of(side).map(Size::Shortest),
            Value::Array(sides) => match &sides[..] {
                [Value::Number(height), Value::Number(width)] => sides_of(width, height),
                _ => None,
            },
            Value::Object(table) => size_of_table(table),
            _ => None,
        };
        let problem = || {
            format!(
                "is {value}; supported are an integer, {{height, width}} and {{shortest_edge}}, \
                 each of 1 to {MAX_SIDE} pixels"
            )
        };
        size.map(Some)
            .ok_or_else(|| self.unsupported(key, problem()))
    }

    /// Refuses a key that nothing has taken.
    pub(super) fn finish(self) -> Result<(), Unsupported> {
        let left = self
            .values
            .iter()
            .find(|(key, value)| !value.is_null() && !UNREAD.contains(&key.as_str()));
        match left {
            None => Ok(()),
            Some((key, value)) => {
                Err(self.unsupported(key, format!("is {value}, which is not supported")))
            }
        }
    }
}

fn side_of(number: &serde_json::Number) -> Option<usize> {
    let side = number.as_u64()?;
    (1..=MAX_SIDE).contains(&side).then_some(side as usize)
}

fn sides_of(width: &serde_json::Number, height: &serde_json::Number) -> Option<Size> {
    Some(Size::Sides([side_of(width)?, side_of(height)?]))
}

fn size_of_table(table: &Map<String, Value>) -> Option<Size> {
    let mut given = table.iter().filter(|(_, value)| !value.is_null());
    let number = |key: &str| match table.get(key) {
        Some(Value::Number(number)) => Some(number),
        _ => None,
    };
    match given.clone().count() {
        1 => side_of(number("shortest_edge")?).map(Size::Shortest),
        2 if given.all(|(key, _)| key == "height" || key == "width") => {
            sides_of(number("width")?, number("height")?)
        }
        _ => None,
    }
}
