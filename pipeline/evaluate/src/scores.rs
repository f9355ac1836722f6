//! A matrix of similarities of pictures and texts.

/// Similarities of pictures (rows) and texts (columns), row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    pictures: usize,
    texts: usize,
    values: Vec<f32>,
}

impl Scores {
    /// A matrix `[pictures, texts]` from its values, row by row.
    ///
    /// # Panics
    /// If the number of values is not `pictures * texts`.
    pub fn new(pictures: usize, texts: usize, values: Vec<f32>) -> Self {
        assert_eq!(
            values.len(),
            pictures * texts,
            "a [{pictures}, {texts}] matrix has another number of values"
        );
        Self {
            pictures,
            texts,
            values,
        }
    }

    /// A matrix in which every score is `value`.
    pub fn filled(pictures: usize, texts: usize, value: f32) -> Self {
        Self::new(pictures, texts, vec![value; pictures * texts])
    }

    /// Number of rows.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Number of columns.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// The score of one picture and one text.
    pub fn at(&self, picture: usize, text: usize) -> f32 {
        self.values[picture * self.texts + text]
    }

    /// Sets the score of one picture and one text.
    pub fn set(&mut self, picture: usize, text: usize, score: f32) {
        self.values[picture * self.texts + text] = score;
    }

    /// The scores of one picture, `[texts]`.
    pub fn row(&self, picture: usize) -> &[f32] {
        &self.values[picture * self.texts..][..self.texts]
    }

    /// The scores of one text, `[pictures]`.
    pub fn column(&self, text: usize) -> impl Iterator<Item = f32> {
        (0..self.pictures).map(move |picture| self.at(picture, text))
    }

    /// The matrix whose row `i` is that of the picture `order[i]`.
    pub fn with_pictures(&self, order: &[usize]) -> Self {
        let rows = order.iter().flat_map(|&picture| self.row(picture));
        Self::new(order.len(), self.texts, rows.copied().collect())
    }
}
