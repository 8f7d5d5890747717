//! Which of several pictures of one prompt are best, by what the model that drew them and a CLIP say.
//!
//! A model that predicts captions after images says two things of a picture: ln p(prompt | picture), whether one would
//! call it so, and ln p(picture | prompt), whether it is drawn well. Their errors differ. Both count per id, since a picture
//! has many more ids than a prompt, and what each id adds says less. A CLIP's cosine needs no common scale: the order is
//! that of the sum of ranks.

use crate::Result;
use crate::image::Image;
use crate::model::Model;
use crate::rank::{Ranker, rank_sum};
use crate::text::clip::LongCaption;

/// What was said of pictures of one prompt.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What the model that drew them says of each; the higher, the better.
    pub model: Option<Vec<f64>>,
    /// The cosine of each with the prompt in a CLIP's space.
    pub cosines: Option<Vec<f32>>,
}

/// Whether a model says of a picture how well a caption describes it.
pub fn model_judges(model: &Model) -> bool {
    let captioner = model.captioner();
    captioner.is_ok_and(|captioner| captioner.judges_captions())
}

/// −ln p(prompt | picture) per text id, in nats, of each of some pictures, by a model that predicts captions after images.
pub fn caption_nats(
    model: &Model,
    prompt: &str,
    long: LongCaption,
    pictures: &[Image],
) -> Result<Option<Vec<f64>>> {
    match model.captioner() {
        Ok(captioner) if captioner.judges_captions() => {
            captioner.caption_nats(prompt, long, pictures)
        }
        _ => Ok(None),
    }
}

/// How well a prompt and a picture go together by both of what a model says: −`caption_nats` per text id plus
/// `log_likelihood`, ln p(picture | prompt), per image id.
pub fn agreement(caption_nats: f64, log_likelihood: f64, positions: usize) -> f64 {
    log_likelihood / positions.max(1) as f64 - caption_nats
}

/// The cosine of each of some pictures with a prompt in a CLIP's space. The prompt was not written for the CLIP: where it
/// is too long, and is not to be read in chunks, the CLIP reads its start.
pub fn cosines(
    ranker: &Ranker,
    prompt: &str,
    long: LongCaption,
    pictures: &[Image],
) -> Result<Vec<f32>> {
    let long = match long {
        LongCaption::Refuse => LongCaption::Truncate,
        long => long,
    };
    let scores = ranker.score(&[prompt.to_owned()], pictures, long)?;
    Ok((0..pictures.len()).map(|at| scores.cosine(at, 0)).collect())
}

impl Judgement {
    /// The order of the pictures `of` these numbers, the best first.
    pub fn order(&self, of: &[usize]) -> Vec<usize> {
        let model = self.model.as_deref().map(|scores| {
            let scores = of.iter().map(|&at| scores[at]);
            scores.collect::<Vec<f64>>()
        });
        let cosines = self.cosines.as_deref().map(|cosines| {
            let cosines = of.iter().map(|&at| f64::from(cosines[at]));
            cosines.collect::<Vec<f64>>()
        });
        let judges: Vec<Vec<f64>> = [model, cosines].into_iter().flatten().collect();
        let order = rank_sum(&judges);
        order.into_iter().map(|place| of[place]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_the_same_and_so_do_judges() {
        // A picture of 256 ids: two nats an id of it against half a nat an id of the prompt.
        assert_eq!(agreement(0.5, -512.0, 256), -2.5);
        let judgement = Judgement {
            model: Some(vec![-2.5, -1.0, -2.0, -3.0]),
            cosines: None,
        };
        assert_eq!(judgement.order(&[0, 1, 2, 3]), [1, 2, 0, 3]);
        assert_eq!(judgement.order(&[0, 3]), [0, 3]);
        let with_clip = Judgement {
            cosines: Some(vec![0.9, 0.1, 0.2, 0.3]),
            ..judgement
        };
        // Ranks 2 0 1 3 and 0 3 2 1: sums 2 3 3 4; the model prefers number 1 to number 2.
        assert_eq!(with_clip.order(&[0, 1, 2, 3]), [0, 1, 2, 3]);
    }
}
