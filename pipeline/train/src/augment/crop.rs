//! A random part of a picture, as torchvision's `RandomResizedCrop` chooses it.

use capstan_model::preprocess::Rgb;

/// Attempts at an area that fits, before the middle is taken.
const ATTEMPTS: u64 = 10;

/// A part of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CropArea {
    /// Column and row of its first pixel.
    pub(super) first: [usize; 2],
    /// Width and height.
    pub(super) sides: [usize; 2],
}

impl CropArea {
    /// An area of a drawn share of the picture and a drawn ratio of its sides, at a drawn place.
    ///
    /// - `from`: width and height of the picture.
    /// - `scale`: least and largest share of its area.
    /// - `ratio`: least and largest width over height.
    /// - `unit`: uniform draws from `[0, 1)` by their number; four for each attempt.
    pub(super) fn draw(
        from: [usize; 2],
        scale: [f64; 2],
        ratio: [f64; 2],
        unit: impl Fn(u64) -> f64,
    ) -> Self {
        let between = |[least, most]: [f64; 2], draw| least + (most - least) * draw;
        let whole = (from[0] * from[1]) as f64;
        for attempt in 0..ATTEMPTS {
            let draw = |number| unit(4 * attempt + number);
            let area = whole * between(scale, draw(0));
            let aspect = between(ratio.map(f64::ln), draw(1)).exp();
            let sides = [area * aspect, area / aspect]
                .map(|square| square.sqrt().round_ties_even() as usize);
            if (0..2).all(|axis| (1..=from[axis]).contains(&sides[axis])) {
                let place = |axis: usize, draw: f64| {
                    (draw * (from[axis] - sides[axis] + 1) as f64) as usize
                };
                // torchvision draws the row first.
                let row = place(1, draw(2));
                let column = place(0, draw(3));
                let first = [column, row];
                return Self { first, sides };
            }
        }
        Self::middle(from, ratio)
    }

    /// The largest area in the middle whose ratio is allowed.
    fn middle(from: [usize; 2], [least, most]: [f64; 2]) -> Self {
        let [width, height] = from.map(|side| side as f64);
        let round = |side: f64| (side.round_ties_even() as usize).max(1);
        let sides = if width / height < least {
            [from[0], round(width / least)]
        } else if width / height > most {
            [round(height * most), from[1]]
        } else {
            from
        };
        let first = [0, 1].map(|axis| (from[axis] - sides[axis]) / 2);
        Self { first, sides }
    }

    /// The bytes of this part of `picture`.
    pub(super) fn of(&self, picture: &Rgb) -> Vec<u8> {
        let ([column, row], [width, height]) = (self.first, self.sides);
        picture
            .bytes
            .chunks_exact(3 * picture.width)
            .skip(row)
            .take(height)
            .flat_map(|row| &row[3 * column..3 * (column + width)])
            .copied()
            .collect()
    }
}
