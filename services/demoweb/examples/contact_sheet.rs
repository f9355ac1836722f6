//! Draws pictures of the shipped world on one sheet and prints their texts:
//! `cargo run -p capstan-demoweb --example contact_sheet -- SHEET.png [SEED]`.

use capstan_demoweb::{Fate, Site, World, render};

const COLUMNS: u32 = 10;
const ROWS: u32 = 6;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("name the file to write, such as sheet.png")?;
    let seed = arguments.next().map_or(Ok(1), |seed| seed.parse())?;
    let site = Site::build(&World::shipped(), seed);
    let side = site.world().scenes.size_px;
    let mut sheet = image::RgbImage::new(COLUMNS * side, ROWS * side);
    let rows = site.found().iter().filter_map(|found| match &found.fate {
        Fate::Row(texts) if !texts.is_empty() => Some((found, texts)),
        _ => None,
    });
    for (index, (found, texts)) in rows.take((COLUMNS * ROWS) as usize).enumerate() {
        let scene = site.scene(&found.image_url).ok_or("a row has a scene")?;
        let rgb = render(scene, side, seed, index as u64);
        let picture = image::RgbImage::from_raw(side, side, rgb).ok_or("a picture has its size")?;
        let (x, y) = (index as u32 % COLUMNS * side, index as u32 / COLUMNS * side);
        image::imageops::replace(&mut sheet, &picture, x.into(), y.into());
        for (text, kind) in texts {
            let worth = site.judge(scene, text);
            println!(
                "{index:2} {:11} {:5} {text}",
                kind.as_str(),
                format!("{worth:?}")
            );
        }
    }
    let (width, height) = (sheet.width() * 2, sheet.height() * 2);
    let filter = image::imageops::FilterType::Nearest;
    image::imageops::resize(&sheet, width, height, filter).save(path)?;
    Ok(())
}
