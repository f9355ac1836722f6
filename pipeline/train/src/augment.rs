//! Augmentation of one picture: a shift with repeated edges and brightness jitter, both drawn by
//! key, then normalisation into the planes that a model takes.

use capstan_plan::draw::Draws;
use capstan_plan::id::TextId;

/// How far pictures are moved and how much brighter or darker they get.
#[derive(Debug, Clone, Copy)]
pub struct Augment {
    draws: Draws,
    shift_px: u32,
    jitter: f32,
}

/// What was drawn for one picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Drawn {
    /// Source row of target row 0, and column of column 0; may lie outside the picture.
    rows: i64,
    columns: i64,
    factor: f32,
    offset: f32,
}

impl Augment {
    /// - `shift_px`: shift in pixels at most, each way.
    /// - `jitter`: brightness factor `1 +- jitter`, offset `+- jitter / 2`.
    pub fn new(seed: u64, shift_px: u32, jitter: f32) -> Self {
        Self {
            draws: Draws::new(seed, "augment"),
            shift_px,
            jitter,
        }
    }

    fn draw(&self, data_epoch: u64, text_id: &TextId) -> Drawn {
        let unit = |position: u64| self.draws.unit(&text_id.0.0, data_epoch * 4 + position);
        let places = f64::from(2 * self.shift_px + 1);
        let shift = |position| (unit(position) * places) as i64 - i64::from(self.shift_px);
        let sway = |position| (2.0 * unit(position) - 1.0) as f32;
        Drawn {
            rows: shift(0),
            columns: shift(1),
            factor: 1.0 + self.jitter * sway(2),
            offset: 0.5 * self.jitter * sway(3),
        }
    }

    /// Writes the augmented, normalised picture.
    ///
    /// - `picture`: `[side, side, 3]` bytes, red first.
    /// - `planes`: `[3, side, side]`, `((x / 255) * factor + offset - mean) / std`.
    /// - `mean`, `std`: of each channel, as the model's image processor has them.
    ///
    /// # Panics
    /// If `picture` or `planes` has another length than `3 * side * side`.
    pub fn apply(
        &self,
        (data_epoch, text_id): (u64, &TextId),
        picture: &[u8],
        side: usize,
        (mean, std): ([f32; 3], [f32; 3]),
        planes: &mut [f32],
    ) {
        assert_eq!(picture.len(), 3 * side * side, "a picture of side {side}");
        assert_eq!(planes.len(), picture.len(), "planes of side {side}");
        let drawn = self.draw(data_epoch, text_id);
        // One table per channel instead of arithmetic per pixel: a byte has 256 values.
        let tables: [[f32; 256]; 3] = std::array::from_fn(|c| {
            std::array::from_fn(|value| {
                ((value as f32 / 255.0) * drawn.factor + drawn.offset - mean[c]) / std[c]
            })
        });
        let inside =
            |place: usize, shift: i64| (place as i64 + shift).clamp(0, side as i64 - 1) as usize;
        let (red, rest) = planes.split_at_mut(side * side);
        let (green, blue) = rest.split_at_mut(side * side);
        for y in 0..side {
            let row = &picture[3 * side * inside(y, drawn.rows)..][..3 * side];
            for x in 0..side {
                let pixel = &row[3 * inside(x, drawn.columns)..][..3];
                let target = y * side + x;
                red[target] = tables[0][usize::from(pixel[0])];
                green[target] = tables[1][usize::from(pixel[1])];
                blue[target] = tables[2][usize::from(pixel[2])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_plan::id::Digest;

    const PLAIN: ([f32; 3], [f32; 3]) = ([0.0; 3], [1.0; 3]);

    fn id(byte: u8) -> TextId {
        TextId(Digest([byte; 32]))
    }

    fn picture(side: usize) -> Vec<u8> {
        (0..3 * side * side).map(|i| (i * 7 % 251) as u8).collect()
    }

    fn planes(augment: &Augment, key: (u64, &TextId)) -> Vec<f32> {
        let mut planes = vec![0.0; 3 * 64];
        augment.apply(key, &picture(8), 8, PLAIN, &mut planes);
        planes
    }

    #[test]
    fn without_augmentation_bytes_become_normalised_planes() {
        let mut got = vec![0.0; 3 * 64];
        let norm = ([0.5, 0.4, 0.3], [0.27, 0.26, 0.25]);
        Augment::new(1, 0, 0.0).apply((0, &id(1)), &picture(8), 8, norm, &mut got);
        for channel in 0..3 {
            for at in 0..64 {
                let x = f32::from(picture(8)[3 * at + channel]) / 255.0;
                let want = (x - norm.0[channel]) / norm.1[channel];
                assert!((got[channel * 64 + at] - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_shift_moves_the_picture_and_repeats_its_edge() {
        let augment = Augment::new(5, 4, 0.0);
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
                    let want = f32::from(picture(8)[(3 * (sy * 8 + sx)) as usize]) / 255.0;
                    assert_eq!(got[(y * 8 + x) as usize], want);
                }
            }
        }
        assert!(seen.iter().all(|(r, c)| r.abs() <= 4 && c.abs() <= 4));
        assert!(seen.len() > 60, "81 places, {} seen", seen.len());
    }

    #[test]
    fn draws_depend_on_data_epoch_text_and_seed_alone() {
        let augment = Augment::new(5, 4, 0.15);
        let base = planes(&augment, (1, &id(3)));
        assert_eq!(base, planes(&Augment::new(5, 4, 0.15), (1, &id(3))));
        assert_ne!(base, planes(&augment, (2, &id(3))));
        assert_ne!(base, planes(&augment, (1, &id(4))));
        assert_ne!(base, planes(&Augment::new(6, 4, 0.15), (1, &id(3))));
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let augment = Augment::new(9, 0, 0.15);
        for byte in 0..=255 {
            let drawn = augment.draw(0, &id(byte));
            assert!((0.85..=1.15).contains(&drawn.factor) && drawn.offset.abs() <= 0.075);
        }
    }
}
