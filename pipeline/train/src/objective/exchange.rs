//! What ranks tell each other before they can compute a loss of the global batch.

use capstan_collective::RingError;

use crate::link::Link;

/// One rank's samples: features where the objective contrasts, and always the tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Share {
    /// Image features, `[samples, width]`, or empty.
    pub(crate) images: Vec<f32>,
    /// Text features, `[samples, width]`, or empty.
    pub(crate) texts: Vec<f32>,
    /// Momentum features of pictures and of texts, `[samples, width]`; empty without a teacher.
    pub(crate) copies: [Vec<f32>; 2],
    /// Token ids of each sample, unpadded.
    pub(crate) tokens: Vec<Vec<u32>>,
    /// Picture of each sample.
    pub(crate) pictures: Vec<u32>,
}

impl Share {
    /// Size of a feature.
    pub(crate) fn width(&self) -> usize {
        self.images.len() / self.tokens.len().max(1)
    }

    /// The shares of all ranks, one after the other: the global batch.
    pub(crate) fn gather(&self, link: &mut Link<'_>) -> Result<Share, RingError> {
        let mut global = Share::default();
        for (rank, bytes) in link.all_gather_bytes(&self.encode())?.iter().enumerate() {
            let share = Share::decode(bytes).ok_or(RingError::Protocol {
                rank,
                detail: "its samples are not encoded as samples are",
            })?;
            global.images.extend(share.images);
            global.texts.extend(share.texts);
            for (all, own) in global.copies.iter_mut().zip(share.copies) {
                all.extend(own);
            }
            global.tokens.extend(share.tokens);
            global.pictures.extend(share.pictures);
        }
        Ok(global)
    }

    /// Counts, features, then picture and tokens row by row; all numbers little-endian u32 or f32.
    fn encode(&self) -> Vec<u8> {
        let [images, texts] = &self.copies;
        let sides = [&self.images, &self.texts, images, texts];
        let counts = [self.images.len(), images.len(), self.tokens.len()];
        let mut words = counts.map(|count| count as u32).to_vec();
        words.extend(sides.into_iter().flatten().map(|value| value.to_bits()));
        for (picture, row) in self.pictures.iter().zip(&self.tokens) {
            words.extend([*picture, row.len() as u32]);
            words.extend(row);
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (counts, mut left) = words.split_at_checked(3)?;
        let mut take = |len: usize| {
            let (taken, rest) = left.split_at_checked(len)?;
            left = rest;
            Some(taken)
        };
        let [values, copied, samples] = [0, 1, 2].map(|at| counts[at] as usize);
        let floats = |bits: &[u32]| bits.iter().map(|b| f32::from_bits(*b)).collect();
        let images = floats(take(values)?);
        let texts = floats(take(values)?);
        let copies = [floats(take(copied)?), floats(take(copied)?)];
        let (mut tokens, mut pictures) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            pictures.push(take(1)?[0]);
            let len = take(1)?[0] as usize;
            tokens.push(take(len)?.to_vec());
        }
        (rest.is_empty() && left.is_empty()).then_some(Self {
            images,
            texts,
            copies,
            tokens,
            pictures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_survive_the_wire_and_nonsense_does_not() {
        let share = Share {
            images: vec![1.0, -0.0, 3.5, f32::MIN_POSITIVE],
            texts: vec![0.1; 4],
            copies: [vec![0.5, -2.0], vec![0.3; 2]],
            tokens: vec![vec![1, 2, 3], vec![], vec![7]],
            pictures: vec![4, 4, 9],
        };
        let bytes = share.encode();
        assert_eq!(Share::decode(&bytes), Some(share));
        for cut in 0..bytes.len() {
            assert_eq!(Share::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Share::decode(&[bytes, vec![0; 4]].concat()), None);
    }
}
