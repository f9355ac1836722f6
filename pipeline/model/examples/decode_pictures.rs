//! Decodes the pictures of a folder for `tests/peers/decoding.py`, which compares them with Pillow's.
//!
//! For each file that can be decoded it writes `NAME.whole.ppm`, and `NAME.clip.ppm` after the
//! resizing and cropping of CLIP at 224 pixels.
//!
//! ```text
//! cargo run --release -p capstan-model --example decode_pictures -- PICTURES OUT
//! ```

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use capstan_model::ImagePreprocess;
use capstan_model::preprocess::Resize;

const SIDE: usize = 224;

fn main() -> io::Result<()> {
    let mut folders = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(pictures), Some(out)) = (folders.next(), folders.next()) else {
        return Err(io::Error::other("usage: decode_pictures PICTURES OUT"));
    };
    let clip = ImagePreprocess {
        resize: Resize::Shortest(SIDE),
        ..ImagePreprocess::new(SIDE)
    };
    for entry in std::fs::read_dir(pictures)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let whole = match clip.decode_whole(&std::fs::read(&path)?) {
            Ok(whole) => whole,
            Err(error) => {
                println!("{name}: {error}");
                continue;
            }
        };
        let sides = [whole.width, whole.height];
        write_ppm(&out.join(format!("{name}.whole.ppm")), sides, &whole.bytes)?;
        let fitted = clip
            .fit(whole.width, whole.height, whole.bytes)
            .map_err(io::Error::other)?;
        let path = out.join(format!("{name}.clip.ppm"));
        write_ppm(&path, [SIDE, SIDE], &fitted.rgb)?;
    }
    Ok(())
}

fn write_ppm(path: &Path, [width, height]: [usize; 2], rgb: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    write!(file, "P6\n{width} {height}\n255\n")?;
    file.write_all(rgb)
}
