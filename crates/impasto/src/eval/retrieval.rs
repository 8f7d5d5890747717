//! Whether a CLIP finds a scene by its caption, and a caption by its scene (Radford et al. 2021,
//! arXiv:2103.00020, section 3.1; the measure is recall at K).

use serde::Serialize;

use super::scenes::held_out_prompts;
use crate::data::scenes::{Glyphs, Language, World, render};
use crate::image::Image;
use crate::rank::{Ranker, numbers};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// The ranks up to which a pair counts as found.
pub const RANKS: [usize; 3] = [1, 5, 10];

/// What is looked for by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The picture of a caption.
    TextToImage,
    /// The caption of a picture.
    ImageToText,
}

/// How often the other half of a pair is among the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recall {
    /// Shares at [`RANKS`], 0 to 1.
    pub at: [f64; 3],
}

impl Recall {
    /// Of the cosines of n pictures with the n captions of the same order, `[pictures][captions]`. A tie is
    /// counted against the pair.
    pub fn of(cosines: &[f32], direction: Direction) -> Self {
        let n = cosines.len().isqrt();
        let at = |asked: usize, found: usize| match direction {
            Direction::TextToImage => cosines[found * n + asked],
            Direction::ImageToText => cosines[asked * n + found],
        };
        let mut found = [0usize; 3];
        for asked in 0..n {
            let own = at(asked, asked);
            let before = (0..n)
                .filter(|&other| other != asked && at(asked, other) >= own)
                .count();
            for (count, rank) in found.iter_mut().zip(RANKS) {
                *count += usize::from(before < rank);
            }
        }
        Recall {
            at: found.map(|count| count as f64 / n.max(1) as f64),
        }
    }
}

/// What was asked of a CLIP, and what it found.
#[derive(Clone, Debug, Serialize)]
pub struct RetrievalReport {
    /// The CLIP's name.
    pub clip: String,
    /// The world's name.
    pub world: String,
    /// Held-out scenes, all of them with different captions.
    pub scenes: usize,
    /// Seed of the scenes.
    pub seed: u64,
    /// Language of the captions.
    pub language: Language,
    /// The ranks of both recalls.
    pub ranks: [usize; 3],
    /// Pictures found by their captions.
    pub text_to_image: Recall,
    /// Captions found by their pictures.
    pub image_to_text: Recall,
}

/// Looks for each of `n` held-out scenes among all of them by its caption, and the other way round.
pub fn run(
    ranker: &Ranker,
    world: &World,
    glyphs: &Glyphs,
    n: usize,
    seed: u64,
    language: Language,
) -> Result<RetrievalReport> {
    if n == 0 {
        return Err(Error::invalid("scenes", "expected 1 or more, got 0"));
    }
    let mut prompts = Vec::with_capacity(n);
    let mut seen = std::collections::HashSet::new();
    // Two scenes of one caption can't be distinguished. Worlds have far more captions than this looks at.
    for prompt in held_out_prompts(world, seed, 4 * n, language) {
        if prompts.len() < n && seen.insert(prompt.caption.clone()) {
            prompts.push(prompt);
        }
    }
    if prompts.len() < n {
        let reason = format!(
            "world {} has not that many with different captions",
            world.name
        );
        return Err(Error::invalid("scenes", reason));
    }
    let pictures: Vec<Image> = prompts
        .iter()
        .map(|prompt| render(&prompt.scene, glyphs))
        .collect();
    let captions: Vec<String> = prompts.into_iter().map(|prompt| prompt.caption).collect();
    let image = ranker.model.embed_pictures(&pictures)?;
    let text = ranker.model.embed_texts(&captions, LongCaption::Refuse)?;
    let cosines = numbers(image.matmul(text.transpose()))?;
    Ok(RetrievalReport {
        clip: ranker.model.name().to_owned(),
        world: world.name.clone(),
        scenes: n,
        seed,
        language,
        ranks: RANKS,
        text_to_image: Recall::of(&cosines, Direction::TextToImage),
        image_to_text: Recall::of(&cosines, Direction::ImageToText),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_who_is_nearer() {
        // Picture 0 is nearest to its caption, caption 0 is nearer to picture 1.
        let cosines = [0.9, 0.1, 1.0, 0.5];
        let to_text = Recall::of(&cosines, Direction::ImageToText);
        let to_image = Recall::of(&cosines, Direction::TextToImage);
        assert_eq!(to_text.at, [0.5, 1.0, 1.0]);
        assert_eq!(to_image.at, [0.5, 1.0, 1.0]);
        // A model that says the same of all has found nothing.
        assert_eq!(Recall::of(&[0.5; 16], Direction::TextToImage).at[0], 0.0);
    }
}
