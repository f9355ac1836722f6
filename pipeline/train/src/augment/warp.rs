//! Affine maps of pictures with bilinear interpolation, as OpenCV's `warpAffine`.

/// Value of the pixels outside of the picture, as BLIP has it.
const OUTSIDE: u8 = 128;

/// A map of coordinates: two rows of a 3 x 3 matrix whose third row is 0, 0, 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine(pub(super) [[f64; 3]; 2]);

impl Affine {
    /// The map back.
    pub(super) fn inverse(self) -> Self {
        let [[a, b, x], [c, d, y]] = self.0;
        let determinant = a * d - b * c;
        let [a, b, c, d] = [d, -b, -c, a].map(|value| value / determinant);
        Self([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])
    }

    fn apply(self, x: f64, y: f64) -> [f64; 2] {
        self.0.map(|[a, b, c]| a * x + b * y + c)
    }
}

/// The picture whose pixel at `(x, y)` is that of `rgb` `[side, side, 3]` at `source(x, y)`.
pub(super) fn warp(rgb: &[u8], side: usize, source: Affine) -> Vec<u8> {
    let pixels = rgb.as_chunks::<3>().0;
    let within = |place: i64| usize::try_from(place).ok().filter(|place| *place < side);
    let pixel = |x: i64, y: i64| match (within(x), within(y)) {
        (Some(x), Some(y)) => pixels[y * side + x],
        _ => [OUTSIDE; 3],
    };
    let mut out = Vec::with_capacity(rgb.len());
    for y in 0..side {
        for x in 0..side {
            let [x, y] = source.apply(x as f64, y as f64);
            let (left, top) = (x.floor(), y.floor());
            let (right, bottom) = (x - left, y - top);
            let (left, top) = (left as i64, top as i64);
            let corners = [
                (pixel(left, top), (1.0 - right) * (1.0 - bottom)),
                (pixel(left + 1, top), right * (1.0 - bottom)),
                (pixel(left, top + 1), (1.0 - right) * bottom),
                (pixel(left + 1, top + 1), right * bottom),
            ];
            out.extend([0, 1, 2].map(|colour| {
                let parts = corners
                    .iter()
                    .map(|(pixel, weight)| f64::from(pixel[colour]) * weight);
                parts.sum::<f64>().round_ties_even() as u8
            }));
        }
    }
    out
}
