//! Renders scenes: draws at four times the size, reduces, and adds light and noise.

use tiny_skia::{Color, FillRule, LineCap, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

use crate::draw::Draw;
use crate::scene::{Background, Colour, Object, Relation, Scene, Size, Thing, Things};

/// The ratio of the drawing's side to the picture's side.
const SCALE: u32 = 4;

type Rgb = [f64; 3];

/// Renders a scene.
///
/// - `size_px`: side of the picture.
/// - `seed`, `item`: the key of its draws. The same key and size give the same bytes.
///
/// Returns `size_px * size_px * 3` bytes, RGB by rows.
pub fn render(scene: &Scene, size_px: u32, seed: u64, item: u64) -> Vec<u8> {
    let draw = &mut Draw::new(seed, "picture", item);
    let mut canvas = Canvas::new(size_px * SCALE, scene.background, draw);
    for (thing, (x, y)) in placed(scene, draw) {
        let side = f64::from(canvas.side);
        let radius = side
            * match thing.size {
                Size::Small => draw.between(0.165, 0.19),
                Size::Big => draw.between(0.225, 0.245),
            };
        canvas.thing(thing, x * side, y * side, radius, draw);
    }
    let reduced = reduce(canvas.pixmap.data(), size_px as usize);
    light(&reduced, size_px as usize, draw)
}

/// The things with their centres as fractions of the side.
fn placed(scene: &Scene, draw: &mut Draw) -> Vec<(Thing, (f64, f64))> {
    match &scene.things {
        Things::Pair {
            first,
            second,
            relation,
        } => {
            let along = [draw.between(0.24, 0.28), draw.between(0.72, 0.76)];
            let across = [draw.between(0.3, 0.7), draw.between(0.3, 0.7)];
            let at = |index: usize| match relation {
                Relation::LeftOf => (along[index], across[index]),
                Relation::Above => (across[index], along[index]),
            };
            vec![(*first, at(0)), (*second, at(1))]
        }
        Things::Alike { thing, cells } if cells.len() == 1 => {
            vec![(*thing, (draw.between(0.3, 0.7), draw.between(0.3, 0.7)))]
        }
        Things::Alike { thing, cells } => cells
            .iter()
            .map(|cell| {
                let x = if cell % 2 == 0 { 0.27 } else { 0.73 };
                let y = if cell / 2 == 0 { 0.27 } else { 0.73 };
                let at = (x + draw.between(-0.05, 0.05), y + draw.between(-0.05, 0.05));
                (*thing, at)
            })
            .collect(),
    }
}

fn base_colour(colour: Colour) -> Rgb {
    match colour {
        Colour::Red => [210.0, 40.0, 40.0],
        Colour::Green => [40.0, 160.0, 60.0],
        Colour::Blue => [40.0, 80.0, 210.0],
        Colour::Yellow => [235.0, 215.0, 50.0],
        Colour::Purple => [140.0, 50.0, 170.0],
        Colour::White => [245.0, 245.0, 245.0],
        Colour::Black => [25.0, 25.0, 25.0],
    }
}

fn ground_colour(background: Background) -> Rgb {
    match background {
        Background::Sand => [222.0, 200.0, 150.0],
        Background::Grass => [110.0, 170.0, 80.0],
        Background::Water => [110.0, 170.0, 220.0],
        Background::Brick => [160.0, 90.0, 70.0],
        Background::Paper => [215.0, 210.0, 205.0],
        Background::Wood => [150.0, 110.0, 70.0],
    }
}

/// The colour with each channel changed by up to `by`.
fn varied(colour: Rgb, by: f64, draw: &mut Draw) -> Rgb {
    colour.map(|channel| (channel + draw.between(-by, by)).clamp(0.0, 255.0))
}

fn moved(colour: Rgb, by: f64) -> Rgb {
    colour.map(|channel| (channel + by).clamp(0.0, 255.0))
}

fn paint(colour: Rgb) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(colour[0] as u8, colour[1] as u8, colour[2] as u8, 255);
    // The reduction smooths edges.
    paint.anti_alias = false;
    paint
}

/// A drawing. Coordinates are in its pixels.
struct Canvas {
    pixmap: Pixmap,
    side: u32,
}

impl Canvas {
    fn new(side: u32, background: Background, draw: &mut Draw) -> Self {
        let mut pixmap = Pixmap::new(side, side).expect("a world's pictures have a side");
        let ground = varied(ground_colour(background), 14.0, draw);
        let [r, g, b] = ground.map(|channel| channel as u8);
        pixmap.fill(Color::from_rgba8(r, g, b, 255));
        let mut canvas = Self { pixmap, side };
        canvas.texture(background, ground, draw);
        canvas
    }

    /// Draws the background. Lengths are those of a drawing of 256 pixels.
    fn texture(&mut self, background: Background, ground: Rgb, draw: &mut Draw) {
        let unit = f64::from(self.side) / 256.0;
        let dark = moved(ground, -38.0);
        let bright = moved(ground, 35.0);
        let phase = draw.below(24) as f64;
        let mut path = PathBuilder::new();
        match background {
            Background::Sand => {
                for _ in 0..90 {
                    let (x, y) = (
                        draw.between(0.0, 256.0) * unit,
                        draw.between(0.0, 256.0) * unit,
                    );
                    path.push_circle(x as f32, y as f32, (2.3 * unit) as f32);
                }
                self.fill(path, dark);
            }
            Background::Grass => {
                for _ in 0..90 {
                    let (x, y) = (draw.between(0.0, 256.0), draw.between(0.0, 256.0));
                    line(&mut path, unit, x, y, x + draw.between(-5.0, 6.0), y - 14.0);
                }
                self.stroke(path, dark, 3.0 * unit);
            }
            Background::Water => {
                for row in 0..13 {
                    let y = f64::from(row) * 22.0 - phase;
                    for column in 0..43 {
                        let x = f64::from(column) * 6.0;
                        let at = (
                            (x * unit) as f32,
                            ((y + 6.0 * (x / 11.0 + phase).sin()) * unit) as f32,
                        );
                        if column == 0 {
                            path.move_to(at.0, at.1)
                        } else {
                            path.line_to(at.0, at.1)
                        }
                    }
                }
                self.stroke(path, bright, 4.0 * unit);
            }
            Background::Brick => {
                for row in 0..12 {
                    let y = f64::from(row) * 24.0 - phase;
                    line(&mut path, unit, 0.0, y, 256.0, y);
                    for column in 0..7 {
                        let x = f64::from(column) * 48.0 - phase
                            + if row % 2 == 1 { 24.0 } else { 0.0 };
                        line(&mut path, unit, x, y, x, y + 24.0);
                    }
                }
                self.stroke(path, bright, 3.0 * unit);
            }
            Background::Paper => {}
            Background::Wood => {
                for column in 0..16 {
                    let x = f64::from(column) * 18.0 - phase;
                    line(&mut path, unit, x, 0.0, x + draw.between(-8.0, 9.0), 256.0);
                }
                self.stroke(path, dark, 5.0 * unit);
            }
        }
    }

    fn thing(&mut self, thing: Thing, x: f64, y: f64, radius: f64, draw: &mut Draw) {
        let colour = varied(base_colour(thing.colour), 22.0, draw);
        let sum: f64 = colour.iter().sum();
        let light = if sum < 640.0 { [245.0; 3] } else { [150.0; 3] };
        let dark = if sum > 180.0 { [20.0; 3] } else { [120.0; 3] };
        match thing.object {
            Object::Ball => {
                self.circle(x, y, radius, colour);
                self.circle(
                    x - 0.325 * radius,
                    y - 0.425 * radius,
                    0.275 * radius,
                    light,
                );
            }
            Object::Ring => {
                let mut path = PathBuilder::new();
                path.push_circle(x as f32, y as f32, (0.8 * radius) as f32);
                self.stroke(path, colour, 0.4 * radius);
            }
            Object::Crate => self.striped_square(x, y, radius, colour, dark),
            Object::Tent => self.striped_triangle(x, y, radius, colour, light),
            Object::Clock => {
                self.circle(x, y, radius, colour);
                self.circle(x, y, 0.62 * radius, light);
                let mut hands = PathBuilder::new();
                line(&mut hands, 1.0, x, y, x, y - 0.5 * radius);
                line(&mut hands, 1.0, x, y, x + 0.4 * radius, y);
                self.stroke(hands, dark, 0.2 * radius);
            }
        }
    }

    fn striped_square(&mut self, x: f64, y: f64, radius: f64, colour: Rgb, dark: Rgb) {
        let half = 0.92 * radius;
        let square = Rect::from_ltrb(
            (x - half) as f32,
            (y - half) as f32,
            (x + half) as f32,
            (y + half) as f32,
        );
        if let Some(square) = square {
            self.pixmap
                .fill_rect(square, &paint(colour), Transform::identity(), None);
        }
        let mut bars = PathBuilder::new();
        for at in [-0.92, -0.31, 0.31, 0.92] {
            line(
                &mut bars,
                1.0,
                x - half,
                y + at * radius,
                x + half,
                y + at * radius,
            );
        }
        self.stroke(bars, dark, 0.26 * radius);
    }

    fn striped_triangle(&mut self, x: f64, y: f64, radius: f64, colour: Rgb, light: Rgb) {
        let mut triangle = |from: f64, to: f64, colour: Rgb| {
            let mut path = PathBuilder::new();
            path.move_to(x as f32, (y - 1.05 * radius) as f32);
            path.line_to(
                (x + from * 1.05 * radius) as f32,
                (y + 0.85 * radius) as f32,
            );
            path.line_to((x + to * 1.05 * radius) as f32, (y + 0.85 * radius) as f32);
            path.close();
            self.fill(path, colour);
        };
        triangle(1.0, -1.0, colour);
        for at in [-0.5, 0.0, 0.5] {
            triangle(at + 0.13, at - 0.13, light);
        }
    }

    fn circle(&mut self, x: f64, y: f64, radius: f64, colour: Rgb) {
        let mut path = PathBuilder::new();
        path.push_circle(x as f32, y as f32, radius as f32);
        self.fill(path, colour);
    }

    fn fill(&mut self, path: PathBuilder, colour: Rgb) {
        if let Some(path) = path.finish() {
            let identity = Transform::identity();
            self.pixmap
                .fill_path(&path, &paint(colour), FillRule::Winding, identity, None);
        }
    }

    fn stroke(&mut self, path: PathBuilder, colour: Rgb, width: f64) {
        if let Some(path) = path.finish() {
            let stroke = Stroke {
                width: width as f32,
                line_cap: LineCap::Butt,
                ..Stroke::default()
            };
            self.pixmap
                .stroke_path(&path, &paint(colour), &stroke, Transform::identity(), None);
        }
    }
}

fn line(path: &mut PathBuilder, unit: f64, x1: f64, y1: f64, x2: f64, y2: f64) {
    path.move_to((x1 * unit) as f32, (y1 * unit) as f32);
    path.line_to((x2 * unit) as f32, (y2 * unit) as f32);
}

/// Reduces an RGBA drawing by [`SCALE`] with a triangle filter, like Pillow's bilinear reduction.
fn reduce(rgba: &[u8], side: usize) -> Vec<f32> {
    const TAPS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 7.0, 5.0, 3.0, 1.0];
    let from = side * SCALE as usize;
    let mut rows = vec![0f32; from * side * 3];
    for y in 0..from {
        let source = &rgba[y * from * 4..(y + 1) * from * 4];
        for x in 0..side {
            let target = &mut rows[(y * side + x) * 3..][..3];
            weigh(x, from, &TAPS, |at, weight| {
                for channel in 0..3 {
                    target[channel] += weight * f32::from(source[at * 4 + channel]);
                }
            });
        }
    }
    let mut out = vec![0f32; side * side * 3];
    for y in 0..side {
        let target = &mut out[y * side * 3..(y + 1) * side * 3];
        weigh(y, from, &TAPS, |at, weight| {
            let source = &rows[at * side * 3..(at + 1) * side * 3];
            for (sum, value) in target.iter_mut().zip(source) {
                *sum += weight * value;
            }
        });
    }
    out
}

/// Calls `add(source index, weight)` for the taps around target `at`. The weights sum to 1.
fn weigh(at: usize, len: usize, taps: &[f32; 8], mut add: impl FnMut(usize, f32)) {
    let start = (at * SCALE as usize) as isize - 2;
    let inside = |tap: usize| (0..len as isize).contains(&(start + tap as isize));
    let sum: f32 = if start >= 0 && start + 8 <= len as isize {
        32.0
    } else {
        (0..8).filter(|tap| inside(*tap)).map(|tap| taps[tap]).sum()
    };
    for (tap, weight) in taps.iter().enumerate() {
        if inside(tap) {
            add((start + tap as isize) as usize, weight / sum);
        }
    }
}

/// Adds brightness, a gradient of light in a drawn direction, and noise of 5 levels.
fn light(picture: &[f32], side: usize, draw: &mut Draw) -> Vec<u8> {
    let angle = draw.between(0.0, std::f64::consts::TAU);
    let brightness = draw.between(0.8, 1.12) as f32;
    let slope = draw.between(0.0, 0.3) as f32;
    let (dx, dy) = (angle.cos() as f32 * slope, angle.sin() as f32 * slope);
    let mut noise = Noise {
        draw,
        bits: 0,
        left: 0,
    };
    let mut out = Vec::with_capacity(picture.len());
    for y in 0..side {
        let down = y as f32 / side as f32 - 0.5;
        for x in 0..side {
            let right = x as f32 / side as f32 - 0.5;
            let light = brightness * (1.0 + dx * right + dy * down);
            for channel in &picture[(y * side + x) * 3..][..3] {
                out.push((channel * light + 5.0 * noise.next()).clamp(0.0, 255.0) as u8);
            }
        }
    }
    out
}

/// Approximately normal noise: sums of four bytes, two values per 64 bits. It is ten times as fast
/// as exact noise and indistinguishable from it at 5 levels of 256.
struct Noise<'d> {
    draw: &'d mut Draw,
    bits: u64,
    left: u32,
}

impl Noise<'_> {
    fn next(&mut self) -> f32 {
        if self.left == 0 {
            self.bits = self.draw.bits();
            self.left = 2;
        }
        self.left -= 1;
        let sum: u32 = (0..4)
            .map(|byte| (self.bits >> (8 * byte)) as u32 & 255)
            .sum();
        self.bits >>= 32;
        // The mean is 510, the variance of a byte (256^2 - 1) / 12.
        (sum as f32 - 510.0) / 147.8
    }
}

/// Encodes RGB bytes of a square picture as PNG with fast compression.
pub fn encode_png(rgb: &[u8], size_px: u32) -> Vec<u8> {
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut out = Vec::with_capacity(rgb.len());
    let encoder = PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Sub);
    encode(encoder, rgb, size_px);
    out
}

/// Encodes RGB bytes of a square picture as JPEG of quality 95.
pub fn encode_jpeg(rgb: &[u8], size_px: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len());
    encode(
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 95),
        rgb,
        size_px,
    );
    out
}

fn encode(encoder: impl image::ImageEncoder, rgb: &[u8], size_px: u32) {
    encoder
        .write_image(rgb, size_px, size_px, image::ExtendedColorType::Rgb8)
        .expect("the buffer has the stated size and memory takes any length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::draw_scene;
    use crate::world::World;

    #[test]
    fn a_picture_is_a_function_of_its_key() {
        let world = World::shipped();
        let scene = draw_scene(&world, &mut Draw::new(1, "scene", 3));
        let one = render(&scene, 64, 1, 3);
        assert_eq!(one.len(), 64 * 64 * 3);
        assert_eq!(one, render(&scene, 64, 1, 3));
        assert_ne!(one, render(&scene, 64, 1, 4));
        assert_ne!(one, render(&scene, 64, 2, 3));
    }

    #[test]
    fn encoded_pictures_decode_to_the_rendered_pixels() {
        let world = World::shipped();
        let scene = draw_scene(&world, &mut Draw::new(1, "scene", 4));
        let rgb = render(&scene, 64, 1, 4);
        let png = image::load_from_memory(&encode_png(&rgb, 64))
            .unwrap()
            .to_rgb8();
        assert_eq!(png.as_raw(), &rgb);
        let jpeg = image::load_from_memory(&encode_jpeg(&rgb, 64))
            .unwrap()
            .to_rgb8();
        let error: f64 = (jpeg.as_raw().iter().zip(&rgb))
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
            .sum::<f64>()
            / rgb.len() as f64;
        assert!(error < 6.0, "mean error {error}");
    }

    #[test]
    fn a_thing_has_its_colour() {
        for (item, colour) in Colour::ALL.iter().enumerate() {
            let scene = Scene {
                things: Things::Alike {
                    thing: Thing {
                        object: Object::Crate,
                        colour: *colour,
                        size: Size::Big,
                    },
                    cells: vec![0, 1, 2, 3],
                },
                background: Background::Paper,
            };
            let rgb = render(&scene, 64, 9, item as u64);
            let near = |pixel: &[u8]| {
                let far = pixel
                    .iter()
                    .zip(base_colour(*colour))
                    .map(|(a, b)| (f64::from(*a) - b).powi(2));
                far.sum::<f64>().sqrt() < 90.0
            };
            let share = rgb.chunks(3).filter(|pixel| near(pixel)).count() as f64 / 4096.0;
            assert!(share > 0.2, "{colour:?}: {share}");
        }
    }
}
