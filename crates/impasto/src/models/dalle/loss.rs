//! What `Dalle` is trained on: drawing, captioning and, optionally, matching pairs.

use burn::tensor::{Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use super::{Dalle, Part, image_part, raster};
use crate::nn::block::AttentionMask;
use crate::nn::ops;
use crate::text::{EOS, PAD};

/// Pairs of captions and pictures, the captions padded.
#[derive(Clone, Debug)]
pub struct DalleBatch {
    /// `[batch][length]`, all of one length. Padding that all have at their end is left out where the model's texts are
    /// not padded ([`padded_text`](super::DalleConfig::padded_text)).
    pub text_ids: Vec<Vec<u32>>,
    /// `[batch][grid²]`, row-major.
    pub image_ids: Vec<Vec<u32>>,
    /// `[batch][grid²]`, the order of each picture's ids.
    pub orders: Vec<Vec<u32>>,
    /// How many of the first rows also train captioning (and the contrastive loss).
    pub captioned: usize,
}

/// How much each loss counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossWeights {
    /// Next text id before the picture; the DALL·E paper's 1/8.
    pub text: f32,
    /// Next image id; the paper's 7/8.
    pub image: f32,
    /// Next text id after the picture.
    pub caption: f32,
    /// InfoNCE between pooled text and image states.
    pub contrastive: f32,
}

impl Default for LossWeights {
    fn default() -> Self {
        LossWeights {
            text: 0.125,
            image: 0.875,
            caption: 0.25,
            contrastive: 0.0,
        }
    }
}

/// Mean losses in nats per predicted token (contrastive: per pair), each `[1]`.
pub struct Losses {
    /// The weighted sum, which is trained.
    pub total: Tensor<1>,
    /// Text before the picture.
    pub text: Tensor<1>,
    /// The picture after the text.
    pub image: Tensor<1>,
    /// Text after the picture.
    pub caption: Option<Tensor<1>>,
    /// InfoNCE, both directions.
    pub contrastive: Option<Tensor<1>>,
}

impl Dalle {
    /// The losses of a batch.
    pub fn losses(&self, batch: &DalleBatch, weights: &LossWeights) -> Losses {
        let rows = batch.text_ids.len();
        let text_length = self.length_of(&batch.text_ids);
        let text_ids: Vec<&[u32]> = batch
            .text_ids
            .iter()
            .map(|ids| &ids[..text_length])
            .collect();
        let positions = self.config.image_length();
        let text = Part::Text {
            ids: text_ids.concat(),
            start: 0,
        };
        let image = image_part(
            &batch.image_ids,
            &batch.orders,
            self.config.codebook_size,
            false,
        );
        let states = self.forward(&[text, image], rows, None, AttentionMask::Causal);
        let text_states = states.clone().narrow(1, 0, text_length);
        let image_loss = self
            .image_nll(states.narrow(1, text_length, positions), batch, rows)
            .mean();
        let text_loss = self.text_mean(text_states.clone(), &text_ids);
        let mut total = text_loss.clone().mul_scalar(weights.text)
            + image_loss.clone().mul_scalar(weights.image);
        let (mut caption, mut contrastive) = (None, None);
        if batch.captioned > 0 {
            let n = batch.captioned;
            let (image_ids, orders) = (&batch.image_ids[..n], &batch.orders[..n]);
            let states = self.caption_states(image_ids, orders, &text_ids[..n]);
            let image_states = states.clone().narrow(1, 0, positions + 1);
            let loss = self.text_mean(states.narrow(1, positions + 1, text_length), &text_ids[..n]);
            total = total + loss.clone().mul_scalar(weights.caption);
            caption = Some(loss);
            if weights.contrastive > 0.0 {
                let text_states = text_states.narrow(0, 0, n);
                if let Some(loss) = self.contrastive_loss(text_states, image_states, &text_ids[..n])
                {
                    total = total + loss.clone().mul_scalar(weights.contrastive);
                    contrastive = Some(loss);
                }
            }
        }
        Losses {
            total,
            text: text_loss,
            image: image_loss,
            caption,
            contrastive,
        }
    }

    /// How many of the text ids are read: all, or those up to the last one that is no padding in any row.
    fn length_of(&self, text_ids: &[Vec<u32>]) -> usize {
        let read = |ids: &Vec<u32>| match self.config.padded_text {
            true => ids.len(),
            false => ids.iter().rposition(|&id| id != PAD).map_or(0, |at| at + 1),
        };
        text_ids.iter().map(read).max().unwrap_or(0)
    }

    /// −log p of each image id given the text, in the batch's orders: `[batch · grid²]`.
    pub fn image_nll(&self, states: Tensor<3>, batch: &DalleBatch, rows: usize) -> Tensor<1> {
        let positions = self.config.image_length();
        let targets: Vec<i32> = batch
            .image_ids
            .iter()
            .zip(&batch.orders)
            .flat_map(|(ids, order)| order.iter().map(|&position| ids[position as usize] as i32))
            .collect();
        let logits = self.image_logits(states.reshape([rows * positions, self.config.width]));
        let targets = Tensor::<1, Int>::from_data(
            TensorData::new(targets, [rows * positions]),
            &self.device(),
        );
        ops::cross_entropy(logits, targets)
    }

    /// −log p of each following text id, zero where it is padding, and which are not padding:
    /// `[batch · (length − 1)]` each.
    pub fn text_nll(
        &self,
        states: Tensor<3>,
        text_ids: &[impl AsRef<[u32]>],
    ) -> (Tensor<1>, Vec<bool>) {
        let [rows, length, width] = states.dims();
        let states = states
            .narrow(1, 0, length - 1)
            .reshape([rows * (length - 1), width]);
        let mut targets = Vec::with_capacity(rows * (length - 1));
        let mut counted = Vec::with_capacity(rows * (length - 1));
        for ids in text_ids {
            for &id in &ids.as_ref()[1..] {
                targets.push(id as i32);
                counted.push(id != PAD);
            }
        }
        let device = self.device();
        let mask: Vec<f32> = counted
            .iter()
            .map(|&counts| f32::from(u8::from(counts)))
            .collect();
        let count = counted.len();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [count]), &device);
        let mask = Tensor::<1>::from_data(TensorData::new(mask, [count]), &device);
        (
            ops::cross_entropy(self.text_logits(states), targets) * mask,
            counted,
        )
    }

    /// −log p of each following text id after an image in raster order, zero where it is padding, and which are not
    /// padding: `[images · (length − 1)]` each.
    ///
    /// # Shapes
    /// - `text_ids`: `[images][length]`
    pub fn caption_nll(
        &self,
        image_ids: &[Vec<u32>],
        text_ids: &[&[u32]],
    ) -> (Tensor<1>, Vec<bool>) {
        let (rows, positions) = (image_ids.len(), self.config.image_length());
        let orders = vec![raster(positions); rows];
        let states = self.caption_states(image_ids, &orders, text_ids);
        let length = text_ids.first().map_or(0, |ids| ids.len());
        self.text_nll(states.narrow(1, positions + 1, length), text_ids)
    }

    /// States of images and of the texts after them: `[rows, positions + 1 + length, width]`.
    fn caption_states(
        &self,
        image_ids: &[Vec<u32>],
        orders: &[Vec<u32>],
        text_ids: &[&[u32]],
    ) -> Tensor<3> {
        let image = image_part(image_ids, orders, self.config.codebook_size, true);
        let text = Part::Text {
            ids: text_ids.concat(),
            start: 0,
        };
        self.forward(&[image, text], text_ids.len(), None, AttentionMask::Causal)
    }

    fn text_mean(&self, states: Tensor<3>, text_ids: &[&[u32]]) -> Tensor<1> {
        let (nats, counted) = self.text_nll(states, text_ids);
        let count = counted.iter().filter(|&&counts| counts).count().max(1);
        nats.sum().div_scalar(count as f32)
    }

    /// InfoNCE in both directions over mean text states and mean image states (arXiv:2103.00020, figure 3),
    /// the scale clamped at 100. Rows with equal captions count as one another's positives no more than as
    /// negatives: they are left in, as in CLIP.
    fn contrastive_loss(
        &self,
        text: Tensor<3>,
        image: Tensor<3>,
        text_ids: &[&[u32]],
    ) -> Option<Tensor<1>> {
        let contrastive = self.contrastive.as_ref()?;
        let [rows, length, _] = text.dims();
        let device = self.device();
        // The mean over the caption up to and with its end.
        let mut share = Vec::with_capacity(rows * length);
        for ids in text_ids {
            let n = ids
                .iter()
                .position(|&id| id == EOS)
                .map_or(length, |end| end + 1);
            share.extend((0..length).map(|i| if i < n { 1.0 / n as f32 } else { 0.0 }));
        }
        let share = Tensor::<3>::from_data(TensorData::new(share, [rows, length, 1]), &device);
        let unit = |x: Tensor<2>| {
            let norm = x.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
            x / norm
        };
        let text = unit(
            contrastive
                .text_projection
                .forward((text * share).sum_dim(1).squeeze_dim::<2>(1)),
        );
        let image = unit(
            contrastive
                .image_projection
                .forward(image.mean_dim(1).squeeze_dim::<2>(1)),
        );
        let scale = contrastive
            .logit_scale
            .val()
            .clamp_max(100f32.ln())
            .exp()
            .reshape([1, 1]);
        let logits = text.matmul(image.transpose()) * scale;
        let diagonal = Tensor::<1, Int>::arange(0..rows as i64, &device);
        let pick = |logits: Tensor<2>| {
            let log_probs = activation::log_softmax(logits, 1);
            log_probs
                .gather(1, diagonal.clone().reshape([rows, 1]))
                .mean()
                .neg()
        };
        Some((pick(logits.clone()) + pick(logits.transpose())).div_scalar(2.0))
    }
}
