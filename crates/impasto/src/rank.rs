//! Pictures and captions compared in a CLIP's space: scores, order, probabilities (Radford et al. 2021,
//! arXiv:2103.00020, section 3.1).

use std::fmt::Debug;

use burn::tensor::{Device, Tensor};

use crate::checkpoint::dalle_pytorch_clip::{DallePytorchClipModel, is_dalle_pytorch_clip};
use crate::checkpoint::{ClipModel, ModelSource};
use crate::error::Reason;
use crate::image::Image;
use crate::import::dalle_pytorch::clip as published;
use crate::models::clip::unit;
use crate::observer::Observer;
use crate::text::clip::LongCaption;
use crate::work::Request;
use crate::{Error, Result};

/// A model with one space for pictures and captions, of whichever family.
pub trait EmbeddingModel: Debug + Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Whether a caption can be read.
    fn check_caption(&self, caption: &str, long: LongCaption) -> Result<()>;

    /// Embeddings of captions, of length one: `[captions, width]`.
    fn embed_texts(&self, captions: &[String], long: LongCaption) -> Result<Tensor<2>>;

    /// Embeddings of pictures, of length one: `[pictures, width]`.
    fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>>;

    /// How near they are on the model's own scale: `[pictures, captions]`.
    fn logits(&self, image: Tensor<2>, text: Tensor<2>) -> Tensor<2>;
}

impl EmbeddingModel for ClipModel {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn check_caption(&self, caption: &str, long: LongCaption) -> Result<()> {
        let length = self.config.clip.text_length;
        self.text.encode_caption(caption, length, long).map(drop)
    }

    fn embed_texts(&self, captions: &[String], long: LongCaption) -> Result<Tensor<2>> {
        ClipModel::embed_texts(self, captions, long)
    }

    fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>> {
        ClipModel::embed_pictures(self, pictures)
    }

    fn logits(&self, image: Tensor<2>, text: Tensor<2>) -> Tensor<2> {
        self.clip.logits(image, text)
    }
}

impl EmbeddingModel for DallePytorchClipModel {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn check_caption(&self, caption: &str, long: LongCaption) -> Result<()> {
        self.encode_caption(caption, long).map(drop)
    }

    fn embed_texts(&self, captions: &[String], long: LongCaption) -> Result<Tensor<2>> {
        DallePytorchClipModel::embed_texts(self, captions, long)
    }

    fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>> {
        DallePytorchClipModel::embed_pictures(self, pictures)
    }

    fn logits(&self, image: Tensor<2>, text: Tensor<2>) -> Tensor<2> {
        image.matmul(text.transpose()) * self.clip.logit_scale().reshape([1, 1])
    }
}

/// A CLIP that compares.
#[derive(Debug)]
pub struct Ranker {
    /// The model.
    pub model: Box<dyn EmbeddingModel>,
}

/// The placeholder of a template, which the label replaces.
const BLANK: &str = "{}";

impl Ranker {
    /// Loads a CLIP onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let published = source.folder().filter(|path| published::is_published(path));
        let model: Box<dyn EmbeddingModel> = if is_dalle_pytorch_clip(source) {
            Box::new(DallePytorchClipModel::load(source, device)?)
        } else if let Some(path) = published {
            Box::new(published::load(path, device)?.model)
        } else {
            Box::new(ClipModel::load(source, device)?)
        };
        Ok(Ranker { model })
    }

    /// Whether a caption can be read.
    pub fn check_caption(&self, caption: &str, long: LongCaption) -> Result<()> {
        self.model.check_caption(caption, long)
    }

    /// Validates a request ([`Score`](crate::request::Score), [`Embed`](crate::request::Embed)) and runs it.
    ///
    /// # Errors
    /// What is wrong with the request, and [`Error::Stopped`] where `observer` stops it.
    pub fn run<R>(&self, request: &R, observer: &mut dyn Observer) -> Result<R::Outcome>
    where
        R: Request<Self>,
    {
        request.validate()?;
        request.run(self, observer)
    }

    /// Compares all pictures with all captions.
    pub fn score(
        &self,
        captions: &[String],
        pictures: &[Image],
        long: LongCaption,
    ) -> Result<Scores> {
        let text = self.model.embed_texts(captions, long)?;
        self.compare(self.model.embed_pictures(pictures)?, text)
    }

    /// Embeddings of labels, each of them in every template: the mean of the templates' embeddings, of length one
    /// again, stands for the label (section 3.1.4); as they are without templates. `[labels, width]`.
    pub fn embed_labels(
        &self,
        labels: &[String],
        templates: &[String],
        long: LongCaption,
    ) -> Result<Tensor<2>> {
        check_templates(templates)?;
        if templates.is_empty() {
            return self.model.embed_texts(labels, long);
        }
        let captions: Vec<String> = labels
            .iter()
            .flat_map(|label| templates.iter().map(|text| text.replace(BLANK, label)))
            .collect();
        let text = self.model.embed_texts(&captions, long)?;
        let width = text.dims()[1];
        let mean = text
            .reshape([labels.len(), templates.len(), width])
            .mean_dim(1)
            .reshape([labels.len(), width]);
        Ok(unit(mean))
    }

    /// Compares embeddings.
    pub(crate) fn compare(&self, image: Tensor<2>, text: Tensor<2>) -> Result<Scores> {
        let n_captions = text.dims()[0];
        let logits = self.model.logits(image.clone(), text.clone());
        Ok(Scores {
            cosines: numbers(image.matmul(text.transpose()))?,
            logits: numbers(logits)?,
            n_captions,
        })
    }
}

/// Returns an error where a template has no place for the label.
pub(crate) fn check_templates(templates: &[String]) -> Result<()> {
    match templates.iter().find(|template| !template.contains(BLANK)) {
        Some(template) => Err(Error::invalid(
            "template",
            format!("expected a {BLANK} where the words go, got {template:?}"),
        )),
        None => Ok(()),
    }
}

/// A matrix's rows.
pub fn rows(x: Tensor<2>) -> Result<Vec<Vec<f32>>> {
    let [_, width] = x.dims();
    Ok(numbers(x)?.chunks(width).map(<[f32]>::to_vec).collect())
}

/// A matrix's numbers, row after row.
pub fn numbers(x: Tensor<2>) -> Result<Vec<f32>> {
    x.into_data()
        .try_to_vec()
        .map_err(|e| Error::invalid("scores", Reason::of(e)))
}

/// How near pictures and captions are.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// `[pictures][captions]`.
    cosines: Vec<f32>,
    /// `[pictures][captions]`.
    logits: Vec<f32>,
    n_captions: usize,
}

impl Scores {
    /// Adds the scores of more pictures with the same captions.
    pub(crate) fn append(&mut self, more: Scores) {
        self.cosines.extend(more.cosines);
        self.logits.extend(more.logits);
    }

    /// Pictures compared.
    pub fn n_pictures(&self) -> usize {
        self.cosines.len() / self.n_captions
    }

    /// The cosine of two embeddings, −1 to 1.
    pub fn cosine(&self, picture: usize, caption: usize) -> f32 {
        self.cosines[picture * self.n_captions + caption]
    }

    /// The cosine times the model's learned scale.
    pub fn logit(&self, picture: usize, caption: usize) -> f32 {
        self.logits[picture * self.n_captions + caption]
    }

    /// Pictures, the nearest to a caption first; equal ones in their order.
    pub fn best_pictures(&self, caption: usize) -> Vec<usize> {
        best(self.n_pictures(), |picture| self.cosine(picture, caption))
    }

    /// Captions, the nearest to a picture first; equal ones in their order.
    pub fn best_captions(&self, picture: usize) -> Vec<usize> {
        best(self.n_captions, |caption| self.cosine(picture, caption))
    }

    /// How the pictures share a caption: the softmax of its logits.
    pub fn picture_probabilities(&self, caption: usize) -> Vec<f32> {
        softmax((0..self.n_pictures()).map(|picture| self.logit(picture, caption)))
    }

    /// How the captions share a picture: the softmax of its logits.
    pub fn caption_probabilities(&self, picture: usize) -> Vec<f32> {
        softmax((0..self.n_captions).map(|caption| self.logit(picture, caption)))
    }
}

/// Indices of things that several judges have scored, the best first: by the sum of their ranks, so that the scores
/// need no common scale; of equals the one that the first judge prefers. All have scored the same things.
pub fn rank_sum(judges: &[Vec<f64>]) -> Vec<usize> {
    let Some(first) = judges.first() else {
        return Vec::new();
    };
    let mut sums = vec![0; first.len()];
    for scores in judges {
        for (rank, index) in best(scores.len(), |index| scores[index])
            .into_iter()
            .enumerate()
        {
            sums[index] += rank;
        }
    }
    let mut order = best(first.len(), |index| first[index]);
    order.sort_by_key(|&index| sums[index]);
    order
}

/// Indices in the order of their scores, the highest first; equal ones in their order.
pub(crate) fn best<T: Into<f64>>(count: usize, score: impl Fn(usize) -> T) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| score(b).into().total_cmp(&score(a).into()));
    order
}

fn softmax(logits: impl Iterator<Item = f32>) -> Vec<f32> {
    let logits: Vec<f32> = logits.collect();
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|x| (x - highest).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Scores {
        let cosines = vec![0.1, 0.9, 0.5, 0.2, 0.5, 0.3];
        Scores {
            logits: cosines.iter().map(|x| x * 10.0).collect(),
            cosines,
            n_captions: 2,
        }
    }

    #[test]
    fn the_nearest_come_first_and_equal_ones_in_order() {
        let scores = scores();
        assert_eq!(scores.n_pictures(), 3);
        assert_eq!(scores.best_pictures(0), [1, 2, 0]);
        assert_eq!(scores.best_pictures(1), [0, 2, 1]);
        assert_eq!(scores.best_captions(0), [1, 0]);
    }

    #[test]
    fn rankings_agree_by_the_sum_of_ranks() {
        let first = vec![9.0, 5.0, 2.0, 1.0];
        let second = vec![0.1, 0.9, 0.8, 0.2];
        assert_eq!(rank_sum(std::slice::from_ref(&first)), [0, 1, 2, 3]);
        // Ranks 0 1 2 3 and 3 0 1 2.
        assert_eq!(rank_sum(&[first.clone(), second.clone()]), [1, 0, 2, 3]);
        // And 3 2 1 0: sums 6 3 4 5.
        let third = vec![-3.0, -2.0, -1.0, 0.0];
        assert_eq!(rank_sum(&[first, second, third]), [1, 2, 3, 0]);
        assert_eq!(rank_sum(&[vec![1.0, 2.0], vec![0.5, 0.5]]), [1, 0]);
        assert!(rank_sum(&[]).is_empty());
    }

    #[test]
    fn probabilities_are_shared_and_follow_the_logits() {
        let scores = scores();
        let shares = scores.picture_probabilities(0);
        assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        // e⁵ / (2 e⁵ + e¹)
        assert!((shares[1] - 0.495_46).abs() < 1e-4, "{shares:?}");
        assert!((shares[1] - shares[2]).abs() < 1e-6);
    }
}
