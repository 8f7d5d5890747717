//! What nets of masked image ids have in common ([`super::Amused`], [`super::Meissonic`]): every pass sees the whole
//! picture, with a mask in the place of each id that is not known, and predicts any of them.

mod decode;
pub(super) mod layers;

use std::fmt::Debug;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::Rng;

pub use self::decode::{LIKELIHOOD_PASSES, MaskedState};
pub use self::layers::Of;
use crate::engine::{MaskSchedule, Sizes};
use crate::random::RandomStream;
use crate::{Error, Result};

/// What the engine needs to know of a [`MaskedNet`].
#[derive(Clone, Copy, Debug)]
pub struct MaskedFormat {
    /// Sizes of its images.
    pub sizes: Sizes,
    /// The row of the embedding that stands for a masked id.
    pub mask_id: u32,
    /// How many ids each pass keeps of a picture that is drawn from nothing.
    pub schedule: MaskSchedule,
    /// Passes of such a drawing, for the number of a pass that nobody counts.
    pub steps: usize,
    /// Where the net draws in one pass: the share of the unknown ids that are masked in it, the others being random codes.
    pub masked_at_start: Option<f64>,
}

/// A net that predicts masked image ids from the known ones under a caption. It has the rest of
/// [`AutoregressiveModel`](crate::engine::AutoregressiveModel) from here.
pub trait MaskedNet: Debug + Send + Sync {
    /// What it computes of a caption once.
    type Prompt: Clone + Debug + Send + Sync;

    /// What the engine needs to know of it.
    fn format(&self) -> MaskedFormat;

    /// Where the weights are.
    fn weights_device(&self) -> Device;

    /// Reads a caption, padding included.
    fn prompt_of(&self, text_ids: &[u32]) -> Result<Self::Prompt>;

    /// The states that [`Self::head`] reads.
    ///
    /// # Shapes
    /// - `ids`: `[batch, positions]`, the masked ones `mask_id`
    /// - `left`: `[batch]`, how many passes come after this one
    /// - returns: `[batch, positions, width]`
    fn states(
        &self,
        ids: Tensor<2, Int>,
        rows: &[Of<'_, Self::Prompt>],
        left: &[usize],
    ) -> Tensor<3>;

    /// Logits of states: `[batch, targets, width]` → `[batch, targets, codebook_size]`.
    fn head(&self, states: Tensor<3>) -> Tensor<3>;
}

/// A picture of which some ids are known, under a prompt.
#[derive(Debug)]
pub struct Masked<'a, P> {
    /// The caption.
    pub prompt: &'a P,
    /// Row-major; none where they are masked.
    pub image_ids: &'a [Option<u32>],
    /// The positions whose logits are computed.
    pub targets: &'a [u32],
    /// How many passes come after this one; by the share of masked ids, if nobody counts.
    pub left: Option<usize>,
    /// The seed of the random codes of [`MaskedFormat::masked_at_start`].
    pub seed: u64,
}

impl<'a, P> Masked<'a, P> {
    /// One whose passes nobody counts, of seed 0.
    pub fn new(prompt: &'a P, image_ids: &'a [Option<u32>], targets: &'a [u32]) -> Self {
        Masked {
            prompt,
            image_ids,
            targets,
            left: None,
            seed: 0,
        }
    }
}

/// Logits of the targets of pictures, of equal number each.
///
/// # Shapes
/// - returns: `[pictures, targets, codebook_size]`
pub fn logits<M: MaskedNet>(net: &M, pictures: &[Masked<'_, M::Prompt>]) -> Result<Tensor<3>> {
    let format = net.format();
    let (positions, codes) = (format.sizes.positions, format.sizes.codebook_size);
    let batch = pictures.len();
    let n_targets = pictures.first().map_or(0, |picture| picture.targets.len());
    let mut ids: Vec<i32> = Vec::with_capacity(batch * positions);
    let mut targets: Vec<i32> = Vec::with_capacity(batch * n_targets);
    let mut left = Vec::with_capacity(batch);
    for (row, picture) in pictures.iter().enumerate() {
        let (found, expected) = (picture.image_ids.len(), positions);
        if found != expected || picture.targets.len() != n_targets {
            return Err(Error::invalid(
                "image ids",
                format!("expected {expected} ids, {n_targets} of them targets, got {found}"),
            ));
        }
        if let Some(id) = picture
            .image_ids
            .iter()
            .flatten()
            .find(|&&id| id as usize >= codes)
        {
            return Err(Error::invalid(
                "image ids",
                format!("expected ids below {codes}, got {id}"),
            ));
        }
        left.push(picture.left.unwrap_or_else(|| {
            let masked = picture.image_ids.iter().filter(|id| id.is_none()).count();
            let share = masked as f64 / positions as f64;
            format.schedule.passes_left(share, format.steps)
        }));
        ids.extend(shown(picture.image_ids, picture.seed, &format));
        let start = row * positions;
        targets.extend(
            picture
                .targets
                .iter()
                .map(|&at| (start + at as usize) as i32),
        );
    }
    let mut rows: Vec<Of<'_, M::Prompt>> = Vec::new();
    for picture in pictures {
        match rows.last_mut() {
            Some(last) if std::ptr::eq(last.prompt, picture.prompt) => last.rows += 1,
            _ => rows.push(Of {
                prompt: picture.prompt,
                rows: 1,
            }),
        }
    }
    let device = net.weights_device();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, positions]), &device);
    let states = net.states(ids, &rows, &left);
    let [.., width] = states.dims();
    let targets = TensorData::new(targets, [batch * n_targets]);
    let states = states
        .reshape([batch * positions, width])
        .select(0, Tensor::<1, Int>::from_data(targets, &device))
        .reshape([batch, n_targets, width]);
    Ok(net.head(states))
}

/// The ids that the net is shown: the known ones, and masks; of a net that draws in one pass, random codes in the place of
/// some of the masks.
fn shown(image_ids: &[Option<u32>], seed: u64, format: &MaskedFormat) -> Vec<i32> {
    let mask = format.mask_id as i32;
    let known = image_ids.iter().map(|id| id.map(|id| id as i32));
    let Some(share) = format.masked_at_start else {
        return known.map(|id| id.unwrap_or(mask)).collect();
    };
    // Each position has its numbers, whatever is known.
    let mut random = RandomStream::Start.of(seed);
    let codes = format.sizes.codebook_size;
    let mut ids = Vec::with_capacity(image_ids.len());
    let mut unknown: Vec<(f64, usize)> = Vec::new();
    for (position, id) in known.enumerate() {
        let (rank, code): (f64, f64) = (random.random(), random.random());
        if id.is_none() {
            unknown.push((rank, position));
        }
        let code = ((code * codes as f64) as usize).min(codes.saturating_sub(1));
        ids.push(id.unwrap_or(code as i32));
    }
    unknown.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let masked = (unknown.len() as f64 * share).round_ties_even().max(1.0) as usize;
    for &(_, position) in unknown.iter().take(masked) {
        ids[position] = mask;
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_starts_with_random_codes_between_masks() {
        let format = MaskedFormat {
            sizes: Sizes {
                positions: 64,
                codebook_size: 10,
                text_length: 4,
            },
            mask_id: 11,
            schedule: MaskSchedule::Cosine,
            steps: 1,
            masked_at_start: Some(0.5),
        };
        let blank = vec![None; 64];
        let masks = |ids: &[i32]| ids.iter().filter(|&&id| id == 11).count();
        let ids = shown(&blank, 3, &format);
        assert_eq!((ids.len(), masks(&ids)), (64, 32));
        assert!(ids.iter().all(|&id| id == 11 || (0..10).contains(&id)));
        assert_eq!(ids, shown(&blank, 3, &format));
        assert_ne!(ids, shown(&blank, 4, &format));
        // Known ids stay, and random codes are those of their positions.
        let mut holed = blank.clone();
        holed[..44].fill(Some(7));
        let found = shown(&holed, 3, &format);
        assert_eq!((&found[..44], masks(&found)), (&[7; 44][..], 10));
        let both = ids.iter().zip(&found).skip(44);
        let both = both.filter(|&(&a, &b)| a != 11 && b != 11);
        assert!(both.clone().count() > 0 && both.clone().all(|(a, b)| a == b));
        // A net of many passes is shown masks alone; nothing is left where all is known.
        let whole = MaskedFormat {
            masked_at_start: None,
            ..format
        };
        assert_eq!(shown(&holed, 3, &whole)[44..], [11; 20]);
        assert_eq!(shown(&[Some(2); 64], 3, &format), [2; 64]);
    }
}
