//! What a CLIP's similarity of a picture and its caption rests on.

use std::ops::Range;

use burn::tensor::Device;
use serde::Serialize;

use super::words;
use crate::checkpoint::dalle_pytorch_clip::is_dalle_pytorch_clip;
use crate::checkpoint::{ClipModel, ModelSource};
use crate::image::Image;
use crate::import::dalle_pytorch::clip as dalle_pytorch;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// A word of the caption and how much it counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipWord {
    /// The word.
    pub word: String,
    /// Its bytes in the caption.
    pub start: usize,
    /// The byte after its last one.
    pub end: usize,
    /// The sum over its ids of their relevance for the caption's embedding.
    pub relevance: f64,
}

/// How much each patch and each word counts for the similarity; see [`crate::models::Clip::relevance`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipExplanation {
    /// The CLIP's name.
    pub model: String,
    /// The cosine of picture and caption.
    pub cosine: f64,
    /// The cosine on the CLIP's own scale, whose gradient is taken.
    pub logit: f64,
    /// Its patches along a side of the picture, whose middle square it reads.
    pub grid: usize,
    /// Of each of its patches, row-major.
    pub patches: Vec<f64>,
    /// The caption's words.
    pub words: Vec<ClipWord>,
}

/// Loads a CLIP whose relevance can be computed: impasto's own, OpenAI's and open_clip's with ViT towers, and those of
/// Hugging Face.
///
/// # Errors
/// Also DALLE-pytorch's CLIP, whose towers have no class token and no end of the caption.
pub fn load_clip(source: &ModelSource, device: &Device) -> Result<ClipModel> {
    let is_published = source.folder().is_some_and(dalle_pytorch::is_published);
    if is_dalle_pytorch_clip(source) || is_published {
        let reason = "DALLE-pytorch's CLIP averages its patches and words, so that it has no relevance of this kind; \
                      expected a CLIP with ViT towers, such as impasto-clip";
        return Err(Error::invalid("clip", reason));
    }
    ClipModel::load(source, device)
}

/// How much each patch and each word counts for a CLIP's similarity of picture and caption. Of a caption
/// that is read in chunks it is the first one.
///
/// # Errors
/// A caption that the CLIP can't read.
pub fn clip_relevance(
    clip: &ClipModel,
    caption: &str,
    picture: &Image,
    long: LongCaption,
) -> Result<ClipExplanation> {
    let sizes = &clip.config.clip;
    let rows = clip.text.encode_caption(caption, sizes.text_length, long)?;
    let pixels = clip.clip.pixels(std::slice::from_ref(picture))?;
    let pair = clip.clip.relevance(pixels, &rows[0])?;
    let spans = words(caption);
    let ids_of = clip.text.ids_of(caption, &spans)?;
    let words = spans.into_iter().zip(ids_of).map(|(span, ids)| ClipWord {
        word: caption[span.clone()].to_owned(),
        start: span.start,
        end: span.end,
        // Ids after the cut count for nothing.
        relevance: ids.filter_map(|id| pair.ids.get(id)).sum(),
    });
    Ok(ClipExplanation {
        model: clip.config.name.clone(),
        cosine: pair.cosine,
        logit: pair.logit,
        grid: sizes.image_size / sizes.patch_size,
        words: words.collect(),
        patches: pair.patches,
    })
}

/// A map of another number of patches along a side: each value is the mean of what it covers, weighted by the area.
///
/// # Shapes
/// - `map`: `[from²]`, row-major
/// - returns: `[to²]`
pub fn resized_map(map: &[f64], from: usize, to: usize) -> Vec<f64> {
    // How much of a patch of one grid each patch of the other covers, along a side.
    let covered = |place: usize| -> Vec<(usize, f64)> {
        let (start, end) = (place * from, (place + 1) * from);
        let whole = start / to..end.div_ceil(to);
        whole
            .map(|i| {
                let part = end.min((i + 1) * to) - start.max(i * to);
                (i, part as f64 / from as f64)
            })
            .collect()
    };
    let covers: Vec<Vec<(usize, f64)>> = (0..to).map(covered).collect();
    let at = |place: usize| -> f64 {
        let rows = &covers[place / to];
        let columns = &covers[place % to];
        let of_row = |&(row, share): &(usize, f64)| -> f64 {
            let values = columns
                .iter()
                .map(|&(column, part)| part * map[row * from + column]);
            share * values.sum::<f64>()
        };
        rows.iter().map(of_row).sum()
    };
    (0..to * to).map(at).collect()
}

/// The ids, numbered without the start, whose bytes meet a word's.
pub(crate) fn meeting(ends: &[Range<usize>], word: &Range<usize>) -> Range<usize> {
    let first = ends.partition_point(|bytes| bytes.end <= word.start);
    let after = ends.partition_point(|bytes| bytes.start < word.end);
    first..after.max(first)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::EMBEDDED_CLIP;

    #[test]
    fn maps_of_other_sizes_are_means_by_area() {
        let map = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(resized_map(&map, 2, 2), map);
        assert_eq!(resized_map(&map, 2, 1), [2.5]);
        assert_eq!(
            resized_map(&map, 2, 4)[..8],
            [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]
        );
        // The middle one of three covers half of each.
        let thirds = resized_map(&map, 2, 3);
        assert_eq!((thirds[0], thirds[4], thirds[8]), (1.0, 2.5, 4.0));
        assert!((thirds[1] - 1.5).abs() < 1e-12);
    }

    #[test]
    fn a_word_has_the_ids_that_meet_it() {
        let ids = [0..1, 1..4, 4..5, 5..9];
        assert_eq!(meeting(&ids, &(0..1)), 0..1);
        assert_eq!(meeting(&ids, &(2..6)), 1..4);
        assert_eq!(meeting(&ids, &(9..9)), 4..4);
    }

    #[test]
    fn words_of_a_caption_have_relevance_and_what_is_cut_has_none() {
        let source = ModelSource::parse(EMBEDDED_CLIP).unwrap();
        let clip = load_clip(&source, &Device::flex()).unwrap();
        let picture = Image::filled(40, 30, [200, 30, 30]);
        let explain = |caption: &str, long| clip_relevance(&clip, caption, &picture, long);
        let found = explain("a red apple, 红色的苹果", LongCaption::Refuse).unwrap();
        let named: Vec<&str> = found.words.iter().map(|word| &word.word[..]).collect();
        assert_eq!(named, ["a", "red", "apple", "红色", "的", "苹果"]);
        assert!(
            found.words.iter().all(|word| word.relevance > 0.0),
            "{found:?}"
        );
        assert_eq!(found.patches.len(), found.grid * found.grid);
        assert!(found.patches.iter().all(|&patch| patch >= 0.0));
        assert!(found.patches.iter().any(|&patch| patch > 0.0));
        let embedded = clip.embed_texts(&["a red apple, 红色的苹果".into()], LongCaption::Refuse);
        let pictures = clip.embed_pictures(std::slice::from_ref(&picture)).unwrap();
        let cosine = pictures.matmul(embedded.unwrap().transpose());
        let cosine: f32 = cosine.into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((f64::from(cosine) - found.cosine).abs() < 1e-4);
        let long = "a red apple ".repeat(200);
        assert!(explain(&long, LongCaption::Refuse).is_err());
        for how in [LongCaption::Truncate, LongCaption::Chunks] {
            let cut = explain(&long, how).unwrap();
            assert_eq!(cut.words.last().unwrap().relevance, 0.0);
        }
    }
}
